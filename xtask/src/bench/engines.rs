//! This engine beside faster-whisper and whisper.cpp: the same weights, threads and audio, in turns.

pub mod clips;
mod ggml;
mod plot;
pub mod process;
mod report;
mod rounds;
mod section;
pub mod statistics;
mod stream;
mod subject;
mod tuning;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use self::clips::{Clip, Clips};
use self::ggml::Precision;
use self::rounds::{Workload, read_all};
use self::section::{Kind, Section};
use self::subject::{
    Decoding, FASTER_WHISPER, FASTER_WHISPER_BATCHED, OURS, OURS_TRIMMED, Places, Subject, WHISPER_CPP,
    WHISPER_CPP_TRIMMED, is_ours,
};
use self::tuning::Tuned;
use super::{machine, page};
use crate::demo::words;
use crate::{cargo, say, setup};

const FIGURES: &str = "docs/benchmarks/engines.json";
const DRAWING: &str = "docs/benchmarks/engines.svg";
const SCRIPT: &str = "xtask/src/bench/engines/rivals.py";
const MODELS: &[&str] = &["tiny.en", "base"];
const SEED: u64 = 2;

const HELP: &str = "\
cargo xtask bench engines [options]
  --quick           a few clips, one round; writes no page
  --workload abcd   which: (a) one clip at a time, (b) long recordings, (c) many at once, (d) arriving by chance
  --model NAME      tiny.en or base; both without
  --beam 1|5        greedy or five beams; both without
  --rounds N        rounds (3)
  --clips FOLDER    more recordings, with NAME.txt beside each or a transcripts.tsv
  --many N          clips of (c) (200)
  --tune            look for the rivals' quickest settings again; else those found before are taken
  --page            measure nothing; write the page and the drawing from the figures that are kept
  --realtime        engines run before everything else (`chrt -r 5`; needs root)
A run replaces on the page what it measured and leaves the rest.
";

/// What is asked for.
struct Asked {
    quick: bool,
    kinds: Vec<Kind>,
    models: Vec<String>,
    beams: Vec<usize>,
    rounds: usize,
    many: usize,
    tune: bool,
    folders: Vec<PathBuf>,
    page: bool,
    realtime: bool,
}

/// Measures, prints, and writes the page.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    let asked = Asked::read(arguments)?;
    let needed = setup::for_engines()?;
    if asked.page {
        let sections = section::read(Path::new(FIGURES))?;
        std::fs::write(DRAWING, plot::draw(&sections)).context("write the drawing")?;
        return page::write("engines.md", &report::page(&sections, &versions(&needed.python)));
    }
    say::title("building the engine's example");
    // The whole workspace, so that no dependency is built again with other features.
    cargo::run(&["build", "--release", "--workspace", "--example", "bench_engine"])?;
    let places = Places {
        program: cargo::programs().join("examples/bench_engine"),
        python: needed.python,
        script: SCRIPT.into(),
        models: needed.models,
        ggml: crate::cache().join("ggml"),
        realtime: asked.realtime,
    };
    if asked.realtime {
        above_the_engines()?;
    }
    let folder = std::env::temp_dir().join(format!("voiceforge-engines-{}", std::process::id()));
    let folders: Vec<PathBuf> = [needed.clips].into_iter().chain(asked.folders.clone()).collect();
    let result = Clips::gather(&folders, &folder, &places.python, &places.script)
        .and_then(|clips| measure(&asked, &places, &clips));
    let _ = std::fs::remove_dir_all(&folder);
    let sections = result?;
    let text = report::page(&sections, &versions(&places.python));
    if asked.quick {
        print!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    page::write("engines.md", &text)
}

impl Asked {
    fn read(arguments: &[&str]) -> Result<Asked> {
        let mut asked = Asked {
            quick: false,
            kinds: Kind::ALL.to_vec(),
            models: MODELS.iter().map(ToString::to_string).collect(),
            beams: vec![1, 5],
            rounds: 3,
            many: 200,
            tune: false,
            folders: Vec::new(),
            page: false,
            realtime: false,
        };
        let mut rest = arguments.iter();
        while let Some(option) = rest.next() {
            let mut value =
                || rest.next().copied().with_context(|| format!("{option} needs a value\n\n{HELP}"));
            match *option {
                "--quick" => (asked.quick, asked.rounds, asked.many) = (true, 1, 16),
                "--page" => asked.page = true,
                "--tune" => asked.tune = true,
                "--many" => asked.many = value()?.parse().context("--many takes a number")?,
                "--realtime" => asked.realtime = true,
                "--workload" => {
                    let letters = value()?;
                    asked.kinds.retain(|kind| letters.contains(kind.letter()));
                }
                "--model" => {
                    let name = value()?;
                    asked.models.retain(|model| model == name);
                }
                "--beam" => {
                    let beam = value()?;
                    asked.beams.retain(|known| known.to_string() == beam);
                }
                "--rounds" => asked.rounds = value()?.parse().context("--rounds takes a number")?,
                "--clips" => asked.folders.push(value()?.into()),
                other => bail!("{other} is no option\n\n{HELP}"),
            }
        }
        if asked.kinds.is_empty()
            || asked.models.is_empty()
            || asked.beams.is_empty()
            || asked.rounds == 0
            || asked.many == 0
        {
            bail!("nothing is left to measure\n\n{HELP}");
        }
        Ok(asked)
    }
}

/// Measures what is asked for. Returns all that is known by then: of this run alone when it is a quick one, else with
/// what earlier runs kept, and kept again after each workload, so that a run that is stopped loses little.
fn measure(asked: &Asked, places: &Places, clips: &Clips) -> Result<Vec<Section>> {
    let mut sections = if asked.quick { Vec::new() } else { section::read(Path::new(FIGURES))? };
    let few = |clips: Vec<Clip>, count: usize| -> Vec<Clip> {
        clips.into_iter().take(if asked.quick { count } else { usize::MAX }).collect()
    };
    let short = few(clips.short(), 5);
    let mixed = clips.mixed(asked.many, SEED)?;
    for model in &asked.models {
        say::title(format_args!("{model}: weights for whisper.cpp"));
        write_weights(places, model)?;
        check_weights(places, model, &short[..short.len().min(3)])?;
        say::title(format_args!("{model}: the quickest settings of the rivals"));
        let kept = places.ggml.join(format!("{model}-settings.json"));
        if asked.tune {
            let _ = std::fs::remove_file(&kept);
        }
        let tuned = tuning::tune_once(&kept, || {
            tuning::tune(places, model, &short[..short.len().min(3)], &mixed[..mixed.len().min(16)])
        })?;
        for beam in &asked.beams {
            for kind in &asked.kinds {
                // Arrivals are compared greedily only: what beams cost shows in (c).
                if (*kind == Kind::Stream && *beam != 1) || (*kind == Kind::TenMinutes && asked.quick) {
                    continue;
                }
                say::title(format_args!("{model}, beam {beam}: {}", kind.title()));
                let workload = Workload {
                    clips: match kind {
                        Kind::Alone => short.clone(),
                        Kind::Minute => vec![clips.continuous(60.0)?],
                        Kind::TenMinutes => vec![clips.continuous(600.0)?],
                        Kind::Burst => mixed.clone(),
                        Kind::Stream => mixed[..mixed.len().min(100)].to_vec(),
                    },
                    at_once: *kind != Kind::Alone,
                };
                let mut section = Section {
                    kind: *kind,
                    model: model.clone(),
                    beam: *beam,
                    machine: machine::describe(),
                    clips: workload.clips.len(),
                    audio: workload.clips.iter().map(|clip| clip.seconds).sum(),
                    words: workload.clips.iter().map(|clip| words::normalized(&clip.text).len()).sum(),
                    tried: tuned.tried.clone(),
                    outcomes: Vec::new(),
                    beside: Vec::new(),
                    highest: Vec::new(),
                };
                let subjects = subjects(*kind, &tuned);
                if *kind == Kind::Stream {
                    let burst = sections
                        .iter()
                        .find(|s| s.kind == Kind::Burst && s.model == *model && s.beam == *beam);
                    let burst = burst.context("measure workload c first: d needs each engine's capacity")?;
                    fill_stream(&mut section, &subjects, burst, places, &workload.clips)?;
                } else {
                    section.outcomes = {
                        let decoding = Decoding { beam: *beam, timestamps: *kind != Kind::Alone };
                        rounds::measure(&subjects, places, model, decoding, &workload, asked.rounds)?
                    };
                }
                section::put(&mut sections, section);
                if !asked.quick {
                    section::write(Path::new(FIGURES), &sections)?;
                    std::fs::write(DRAWING, plot::draw(&sections)).context("write the drawing")?;
                }
            }
        }
    }
    Ok(sections)
}

/// The engines of a workload, with the settings that suit it.
fn subjects(kind: Kind, tuned: &Tuned) -> Vec<Subject> {
    let Tuned { whisper_cpp_alone, whisper_cpp_many, faster_whisper_many, batch, .. } = tuned;
    match kind {
        Kind::Alone => vec![
            Subject::plain(OURS),
            Subject::plain(OURS_TRIMMED),
            Subject::plain(FASTER_WHISPER),
            whisper_cpp_alone.clone(),
            whisper_cpp_alone.clone().named(WHISPER_CPP_TRIMMED),
        ],
        // The windows of a long recording are full, so that there is nothing to trim.
        Kind::Minute | Kind::TenMinutes => vec![
            Subject::plain(OURS),
            Subject::plain(FASTER_WHISPER),
            Subject::plain(FASTER_WHISPER_BATCHED).with("batch", *batch),
            whisper_cpp_alone.clone(),
        ],
        Kind::Burst | Kind::Stream => vec![
            Subject::plain(OURS),
            Subject::plain(OURS_TRIMMED),
            faster_whisper_many.clone(),
            whisper_cpp_many.clone(),
            whisper_cpp_many.clone().named(WHISPER_CPP_TRIMMED),
        ],
    }
}

/// Waits under arrivals, for the engines that read workload (c), whose speed there is their capacity.
fn fill_stream(
    section: &mut Section,
    subjects: &[Subject],
    burst: &Section,
    places: &Places,
    clips: &[Clip],
) -> Result<()> {
    let capacity = |subject: &&Subject| -> Option<(Subject, f64)> {
        let outcome = burst
            .outcomes
            .iter()
            .find(|outcome| outcome.name == subject.name && !outcome.seconds.is_empty())?;
        Some(((*subject).clone(), burst.clips as f64 / statistics::median(&outcome.seconds)))
    };
    let (ours, rivals): (Vec<_>, Vec<_>) = subjects.iter().partition(|subject| is_ours(subject.name));
    let ours: Vec<(Subject, f64)> = ours.iter().copied().filter_map(|subject| capacity(&subject)).collect();
    let rivals: Vec<(Subject, f64)> =
        rivals.iter().copied().filter_map(|subject| capacity(&subject)).collect();
    let subjects: Vec<Subject> = ours.iter().map(|(subject, _)| subject.clone()).collect();
    section.beside = stream::beside(&subjects, &rivals, places, &section.model, clips)?;
    for (subject, capacity) in ours.iter().chain(&rivals) {
        let rate = stream::highest_rate(subject, *capacity, places, &section.model, clips)?;
        section.highest.push((subject.name.to_owned(), rate));
    }
    Ok(())
}

/// Writes whisper.cpp's files of a model where they are not there yet.
fn write_weights(places: &Places, model: &str) -> Result<()> {
    std::fs::create_dir_all(&places.ggml).context("make the folder of whisper.cpp's weights")?;
    for precision in [Precision::F16, Precision::Q8] {
        let file = places.ggml(model, precision.name());
        if !file.exists() {
            // Under another name until it is whole.
            let part = file.with_extension(format!("part-{}", std::process::id()));
            std::fs::write(&part, ggml::convert(&places.models.join(model), precision)?)
                .and_then(|()| std::fs::rename(&part, &file))
                .with_context(|| format!("write {}", file.display()))?;
        }
    }
    Ok(())
}

/// Refuses weights with which whisper.cpp hears other words than faster-whisper: then they were written wrongly.
fn check_weights(places: &Places, model: &str, clips: &[Clip]) -> Result<()> {
    let decoding = Decoding { beam: 1, timestamps: false };
    let texts = |subject: Subject| -> Result<Vec<String>> {
        Ok(read_all(&mut subject.start(places, model, decoding)?, clips)?.1)
    };
    let theirs = texts(Subject::plain(FASTER_WHISPER))?;
    let count: usize = theirs.iter().map(|text| words::normalized(text).len()).sum();
    for precision in [Precision::F16, Precision::Q8] {
        let said = texts(Subject::plain(WHISPER_CPP).with("precision", precision.name()))?;
        let differences: usize = theirs.iter().zip(&said).map(|(a, b)| words::errors(a, b)).sum();
        say::note(format_args!(
            "{}: {differences} of {count} words differ from faster-whisper's",
            precision.name()
        ));
        if count == 0 || differences * 10 > count {
            bail!(
                "whisper.cpp with our {} of {model} says {said:?}, faster-whisper {theirs:?}",
                precision.name()
            );
        }
    }
    Ok(())
}

/// Puts the measurement itself above the engines, so that times are taken when things happen.
fn above_the_engines() -> Result<()> {
    let process = std::process::id().to_string();
    if !cargo::status(Command::new("chrt").args(["-a", "-f", "-p", "6", &process]))?.success() {
        bail!("real-time priority was refused; run as root or without --realtime");
    }
    Ok(())
}

fn versions(python: &Path) -> String {
    let script = "import ctranslate2, faster_whisper, _pywhispercpp, importlib.metadata as m\n\
                  features = _pywhispercpp.whisper_print_system_info().split('CPU :')[-1]\n\
                  features = ' '.join(f.split('=')[0].strip() for f in features.split('|') if '= 1' in f)\n\
                  print(f\"faster-whisper {faster_whisper.__version__} on CTranslate2 {ctranslate2.__version__}; \"\n\
                  f\"whisper.cpp of pywhispercpp {m.version('pywhispercpp')}, compiled with {features}\")";
    machine::version_of(Command::new(python).args(["-c", script]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let asked =
            Asked::read(&["--workload", "bc", "--model", "base", "--beam", "5", "--clips", "more"]).unwrap();
        assert_eq!(asked.kinds, [Kind::Minute, Kind::TenMinutes, Kind::Burst]);
        assert_eq!((asked.models, asked.beams, asked.rounds), (vec!["base".to_owned()], vec![5], 3));
        assert_eq!(asked.folders, [PathBuf::from("more")]);
        assert!(Asked::read(&["--quick"]).is_ok_and(|asked| asked.quick && asked.rounds == 1));
        for wrong in [&["--model", "huge"][..], &["--rounds"], &["--rounds", "0"], &["--fast"]] {
            assert!(Asked::read(wrong).is_err(), "{wrong:?}");
        }
    }
}
