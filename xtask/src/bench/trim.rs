//! Whether models hear as well when windows are not padded to 30 s: the gate that `--infer-trim auto` goes by.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::engines::clips::{Clip, Clips};
use super::engines::process::Process;
use super::engines::statistics::bootstrap;
use super::{machine, page};
use crate::demo::words;
use crate::{cargo, say, setup};

/// What the engine is built with.
const KEPT: &str = "infer/src/trim.json";
const SCRIPT: &str = "xtask/src/bench/engines/rivals.py";
const MODELS: &[&str] = &["tiny.en", "base"];
const PRECISIONS: &[&str] = &["int8", "f32"];
const LANGUAGE: &str = "en";
const THREADS: usize = 2;
const SEED: u64 = 2;
/// A model passes where the upper end of the interval of its additional word errors is at most this share of the words.
const TOLERANCE: f64 = 0.01;

const HELP: &str = "\
cargo xtask bench trim [options]
  --model NAME      tiny.en or base; both without
  --precision NAME  int8 or f32; both without
  --clips FOLDER    more recordings in English, with NAME.txt beside each or a transcripts.tsv
  --joined N        clips of 1 to 30 s joined from sentences, beside each recording by itself (60)
A run replaces what it measured and leaves the rest.
";

struct Asked {
    models: Vec<&'static str>,
    precisions: Vec<&'static str>,
    folders: Vec<PathBuf>,
    joined: usize,
}

/// What is known of all models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Measured {
    /// Positions of 20 ms behind the sound, and the fewest of all.
    margin: u64,
    positions_min: u64,
    models: Vec<Trial>,
}

/// What one model did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Trial {
    model: String,
    /// Of its weights.
    sha256: String,
    precision: String,
    language: String,
    clips: usize,
    words: usize,
    /// Word errors with whole windows and with trimmed ones.
    whole: usize,
    trimmed: usize,
    /// Where 95 % of the additional errors lie when clips are drawn again.
    interval: (i64, i64),
    /// Windows that were trimmed and believed, and those read again whole.
    kept: u64,
    reread: u64,
    /// Processor time trimmed over processor time whole.
    time: f64,
    passed: bool,
}

/// What came of one way to read all clips.
struct Pass {
    errors: Vec<usize>,
    /// Windows that were trimmed and believed, and those read again whole.
    kept: u64,
    reread: u64,
    /// Seconds of processor time.
    seconds: f64,
}

/// Measures, prints, writes the page and what the engine goes by.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    let asked = Asked::read(arguments)?;
    let needed = setup::for_engines()?;
    say::title("building the engine's example");
    // The whole workspace, so that no dependency is built again with other features.
    cargo::run(&["build", "--release", "--workspace", "--example", "bench_engine"])?;
    let folder = std::env::temp_dir().join(format!("voiceforge-trim-{}", std::process::id()));
    let folders: Vec<PathBuf> = [needed.clips].into_iter().chain(asked.folders.clone()).collect();
    let measured = Clips::gather(&folders, &folder, &needed.python, Path::new(SCRIPT)).and_then(|clips| {
        let mut all = clips.all().to_vec();
        all.extend(clips.mixed(asked.joined, SEED)?);
        measure(&asked, &needed.models, &all)
    });
    let _ = std::fs::remove_dir_all(&folder);
    page::write("trim.md", &text(&measured?))
}

impl Asked {
    fn read(arguments: &[&str]) -> Result<Asked> {
        let (models, precisions) = (MODELS.to_vec(), PRECISIONS.to_vec());
        let mut asked = Asked { models, precisions, folders: Vec::new(), joined: 60 };
        let mut rest = arguments.iter();
        while let Some(option) = rest.next() {
            let value = *rest.next().with_context(|| format!("{option} needs a value\n\n{HELP}"))?;
            match *option {
                "--model" => asked.models.retain(|model| *model == value),
                "--precision" => asked.precisions.retain(|precision| *precision == value),
                "--clips" => asked.folders.push(value.into()),
                "--joined" => asked.joined = value.parse().context("--joined takes a number")?,
                other => bail!("{other} is no option\n\n{HELP}"),
            }
        }
        if asked.models.is_empty() || asked.precisions.is_empty() {
            bail!("nothing is left to measure\n\n{HELP}");
        }
        Ok(asked)
    }
}

/// Measures what is asked for and keeps it after each model, so that a run that is stopped loses little.
fn measure(asked: &Asked, models: &Path, clips: &[Clip]) -> Result<Measured> {
    let kept = std::fs::read(KEPT).with_context(|| format!("read {KEPT}"))?;
    let mut measured: Measured = serde_json::from_slice(&kept).with_context(|| format!("read {KEPT}"))?;
    for model in &asked.models {
        for precision in &asked.precisions {
            say::title(format_args!("{model}, {precision}: {} clips, whole and trimmed", clips.len()));
            let (constants, trial) = try_model(&models.join(model), model, precision, clips)?;
            measured.add(constants, trial);
            let mut json = serde_json::to_string_pretty(&measured).context("write what was measured")?;
            json.push('\n');
            std::fs::write(KEPT, json).with_context(|| format!("write {KEPT}"))?;
        }
    }
    Ok(measured)
}

/// Reads all clips both ways. Returns the margin and the least length that the engine trims with, and the trial.
fn try_model(folder: &Path, model: &str, precision: &str, clips: &[Clip]) -> Result<((u64, u64), Trial)> {
    let start = |trim: bool| {
        let mut command = Command::new(cargo::programs().join("examples/bench_engine"));
        command.arg(folder).arg(json!({"threads": THREADS, "precision": precision}).to_string());
        let options = json!({"beam": 1, "timestamps": true, "language": LANGUAGE, "trim": trim, "ladder": true, "speech": true});
        Process::start(&mut command, options)
    };
    let mut process = start(false)?;
    let number = |name: &str| process.ready[name].as_u64().with_context(|| format!("find `{name}`"));
    let constants = (number("margin")?, number("positions_min")?);
    let sha256 = process.ready["sha256"].as_str().context("find `sha256`")?.to_owned();
    let whole = read(&mut process, clips)?;
    drop(process);
    let trimmed = read(&mut start(true)?, clips)?;
    let words = clips.iter().map(|clip| words::normalized(&clip.text).len()).sum();
    let trial = judge((model, &sha256, precision), words, &whole, &trimmed);
    say::note(format_args!(
        "word errors of {words}: whole {}, trimmed {} ({:+} to {:+}); read again {}; time {:.2}",
        trial.whole, trial.trimmed, trial.interval.0, trial.interval.1, trial.reread, trial.time
    ));
    Ok((constants, trial))
}

/// Hands in one clip after the other.
fn read(process: &mut Process, clips: &[Clip]) -> Result<Pass> {
    let before = process.ran();
    let mut pass = Pass { errors: Vec::new(), kept: 0, reread: 0, seconds: 0.0 };
    for (id, clip) in clips.iter().enumerate() {
        process.submit(id, clip)?;
        let answer = process.wait().with_context(|| format!("read {}", clip.wav.display()))?;
        pass.errors.push(words::errors(&clip.text, &answer.text));
        pass.kept += answer.said["trimmed"].as_u64().unwrap_or(0);
        pass.reread += answer.said["reread"].as_u64().unwrap_or(0);
    }
    pass.seconds = process.ran() - before;
    Ok(pass)
}

fn judge(
    (model, sha256, precision): (&str, &str, &str),
    words: usize,
    whole: &Pass,
    trimmed: &Pass,
) -> Trial {
    let pairs = whole.errors.iter().zip(&trimmed.errors);
    let more: Vec<i64> = pairs.map(|(whole, trimmed)| *trimmed as i64 - *whole as i64).collect();
    let interval = bootstrap(&more, SEED);
    Trial {
        model: model.to_owned(),
        sha256: sha256.to_owned(),
        precision: precision.to_owned(),
        language: LANGUAGE.to_owned(),
        clips: more.len(),
        words,
        whole: whole.errors.iter().sum(),
        trimmed: trimmed.errors.iter().sum(),
        interval,
        kept: trimmed.kept,
        reread: trimmed.reread,
        // Hundredths: no run repeats more of it.
        time: (trimmed.seconds / whole.seconds * 100.0).round() / 100.0,
        passed: interval.1 as f64 <= words as f64 * TOLERANCE,
    }
}

impl Measured {
    /// Takes a trial in, in place of one of the same weights. Trials with another margin say nothing of this one.
    fn add(&mut self, (margin, positions_min): (u64, u64), trial: Trial) {
        if (self.margin, self.positions_min) != (margin, positions_min) {
            *self = Measured { margin, positions_min, models: Vec::new() };
        }
        let is_same = |known: &Trial| {
            (&known.sha256, &known.precision, &known.language)
                == (&trial.sha256, &trial.precision, &trial.language)
        };
        match self.models.iter().position(is_same) {
            Some(at) => self.models[at] = trial,
            None => self.models.push(trial),
        }
    }
}

fn text(measured: &Measured) -> String {
    let Measured { margin, positions_min, models } = measured;
    let mut text = format!(
        "# Trimmed windows

`cargo xtask bench trim` on {}.

A trimmed window holds the sound and {:.0} s more, {:.0} s at least, instead of 30 s. Each recording is read by itself, and so
are clips of 1 to 30 s joined from them; with timestamps, greedily, climbing temperatures, once with whole windows and once
with trimmed ones, where a window whose text is doubtful is read again whole. All of a recording counts as speech, as the
detector has it of such recordings: what gets no text is read again. Of the additional word errors the interval
holds 95 % when clips are drawn again (paired bootstrap). A model passes where its upper end is at most {:.0} % of the words;
`--infer-trim auto` trims windows of those that passed, by the hash of their weights, in this language.

| model | weights | clips | words | errors, whole | errors, trimmed | more errors, 95 % | windows trimmed | read again whole | processor time | passed |
|---|---|---|---|---|---|---|---|---|---|---|
",
        machine::describe(),
        *margin as f64 / 50.0,
        *positions_min as f64 / 50.0,
        TOLERANCE * 100.0
    );
    for trial in models {
        let Trial { model, precision, language, clips, words, whole, trimmed, kept, reread, .. } = trial;
        let (low, high) = trial.interval;
        let passed = if trial.passed { "yes" } else { "no" };
        text += &format!(
            "| {model} ({language}) | {precision} | {clips} | {words} | {whole} | {trimmed} | {low:+} to {high:+} | {kept} | \
             {reread} | {:.2} of whole | {passed} |\n",
            trial.time
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(errors: &[usize], seconds: f64) -> Pass {
        Pass { errors: errors.to_vec(), kept: 9, reread: 1, seconds }
    }

    fn trial(sha256: &str, precision: &str, more: usize) -> Trial {
        let whole = pass(&[1; 20], 8.0);
        let trimmed = pass(&[1 + more; 20], 2.0);
        judge(("tiny.en", sha256, precision), 2_000, &whole, &trimmed)
    }

    #[test]
    fn a_model_passes_where_the_interval_stays_in_bounds() {
        let same = trial("a", "int8", 0);
        assert_eq!((same.whole, same.trimmed, same.interval, same.time), (20, 20, (0, 0), 0.25));
        assert!(same.passed);
        let at_the_bound = trial("a", "int8", 1);
        assert_eq!(at_the_bound.interval, (20, 20));
        assert!(at_the_bound.passed, "20 of 2000");
        assert!(!trial("a", "int8", 2).passed);
        // One clip that went wrong by 30 words is enough: drawn again, it comes twice and more.
        let mut errors = [1; 20];
        errors[3] = 31;
        let loose = judge(("b", "b", "f32"), 2_000, &pass(&[1; 20], 1.0), &pass(&errors, 1.0));
        assert!(loose.interval.1 > 60 && !loose.passed, "{loose:?}");
    }

    #[test]
    fn a_trial_replaces_the_one_of_the_same_weights() {
        let mut measured = Measured { margin: 100, positions_min: 250, models: Vec::new() };
        for (sha256, precision, more) in
            [("a", "int8", 0), ("a", "f32", 0), ("b", "int8", 0), ("a", "int8", 1)]
        {
            measured.add((100, 250), trial(sha256, precision, more));
        }
        let trimmed: Vec<usize> = measured.models.iter().map(|trial| trial.trimmed).collect();
        assert_eq!(trimmed, [40, 20, 20]);
        measured.add((150, 250), trial("c", "int8", 0));
        assert_eq!((measured.margin, measured.models.len()), (150, 1), "another margin begins anew");
    }

    #[test]
    fn options_choose_what_is_measured() {
        let asked = Asked::read(&["--model", "base", "--clips", "more", "--joined", "5"]).unwrap();
        assert_eq!((asked.models, asked.precisions.len(), asked.joined), (vec!["base"], 2, 5));
        for wrong in [&["--model", "large"][..], &["--quick", "1"], &["--joined"], &["--joined", "x"]] {
            assert!(Asked::read(wrong).is_err(), "{wrong:?}");
        }
    }
}
