//! How long live audio waits while recordings are transcribed again, beside how long it waits on a quiet machine.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{machine, page};
use crate::up::{Up, voiceforge};
use crate::{cargo, say, setup, stop};

/// How often the clips are dropped to make what is transcribed again.
const LIBRARY: usize = 3;

/// Measures with the clips that the tests use, live with tiny.en, again with base.
pub fn run() -> Result<ExitCode> {
    stop::on_signal()?;
    let tools = setup::for_tests()?;
    say::title("building the programs");
    cargo::run(&["build", "--release", "--workspace", "--bins"])?;
    let machine = machine::describe();
    let data = std::env::temp_dir().join(format!("voiceforge-replay-latency-{}", std::process::id()));
    let mut up = Up::start(&data, &tools.models, &tools.postgres[0])?;
    let clips = clips(&tools.clips)?;
    let measured = measure(&up.url, &clips);
    up.stop()?;
    std::fs::remove_dir_all(&data).context("remove the deployment")?;
    let text = format!(
        "# Live traffic beside a replay\n\nWritten by `cargo xtask bench replay-latency`.\n\nMachine: {machine}.\n\n\
         Seconds from `voiceforge drop --wait` to the transcript, the command's own start included. {} recordings of speech \
         are\ndropped one after the other and transcribed with tiny.en, first on a quiet deployment, then while one\n\
         replay transcribes {} recordings again with base. One infer worker does both.\n\n\
         | lane | alone: best, middle, worst | beside the replay: best, middle, worst | added in the middle |\n\
         |---|---|---|---|\n{}",
        clips.len(),
        clips.len() * LIBRARY,
        measured?,
    );
    page::write("replay-latency.md", &text)
}

/// Returns the rows of the page's table.
fn measure(url: &str, clips: &[PathBuf]) -> Result<String> {
    say::title("making a library");
    for round in 0..LIBRARY {
        for (at, clip) in clips.iter().enumerate() {
            drop_one(url, clip, "batch", &format!("library-{round}-{at}"))?;
        }
    }
    let mut table = String::new();
    for lane in ["rt", "batch"] {
        say::title(format_args!("{lane} lane, quiet"));
        let quiet = Times::of(url, clips, lane, "quiet")?;
        say::note(&quiet);
        say::title(format_args!("{lane} lane, while everything is transcribed again with base"));
        let run = ask(url, &["replay", "--all", "--model", "base"])?;
        let run = run.trim();
        let busy = Times::of(url, clips, lane, "busy")?;
        let stand = ask(url, &["replay", "show", run, "--json"])?;
        ensure!(
            stand.contains("\"status\":\"running\""),
            "the run ended too early to measure beside it: {stand}"
        );
        ask(url, &["replay", "cancel", run])?;
        say::note(&busy);
        let added = busy.median() - quiet.median();
        table += &format!("| {lane} | {quiet} | {busy} | {added:+.2} s |\n");
        // What was cancelled leaves the workers before the next lane is measured.
        ask(url, &["replay", "--run", run]).ok();
    }
    Ok(table)
}

/// Seconds from drop to transcript, sorted.
struct Times(Vec<f64>);

impl Times {
    fn of(url: &str, clips: &[PathBuf], lane: &str, round: &str) -> Result<Times> {
        let drop = |(at, clip): (usize, &PathBuf)| {
            Ok(drop_one(url, clip, lane, &format!("{lane}-{round}-{at}"))?.as_secs_f64())
        };
        let mut times = clips.iter().enumerate().map(drop).collect::<Result<Vec<f64>>>()?;
        times.sort_by(f64::total_cmp);
        ensure!(!times.is_empty(), "there are no clips");
        Ok(Times(times))
    }

    fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (best, worst) = (self.0[0], self.0[self.0.len() - 1]);
        write!(f, "{best:.2}, **{:.2}**, {worst:.2}", self.median())
    }
}

fn drop_one(url: &str, clip: &Path, lane: &str, key: &str) -> Result<Duration> {
    let path = clip.to_str().context("a clip's path is text")?;
    let begun = Instant::now();
    ask(url, &["drop", path, "--wait", "--lane", lane, "--key", key, "--model", "tiny.en"])?;
    Ok(begun.elapsed())
}

fn ask(url: &str, arguments: &[&str]) -> Result<String> {
    if stop::asked() {
        bail!("stopped");
    }
    let mut command = Command::new(voiceforge());
    command.args(arguments).args(["--server", url]).stdin(Stdio::null());
    let output = command.output().context("run voiceforge")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "voiceforge {}: {told}", arguments.join(" "));
    String::from_utf8(output.stdout).context("read what voiceforge says")
}

fn clips(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut clips = Vec::new();
    for entry in std::fs::read_dir(folder).context("list the clips")? {
        clips.push(entry?.path());
    }
    clips.retain(|path| path.extension().is_some_and(|extension| extension == "wav"));
    clips.sort();
    Ok(clips)
}
