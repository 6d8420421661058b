//! Everything on this machine, from nothing to a transcript.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::setup::ForDemo;
use crate::up::{Up, voiceforge};
use crate::{cargo, say, setup, stop};

pub mod words;

/// When the demo ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// When the person at the terminal says so.
    CtrlC,
    /// Once the transcript is there; the exit code says whether it is right.
    Transcript,
}

/// The smallest model hears "ill-disposed" as "old-sposed" where the sentence stands alone, twice two of 70 words. More
/// than a word beyond that is a fault of ours; a sentence that is missing is eight words or more.
const WORD_ERRORS_MAX: usize = 5;

/// Runs it.
pub fn run(until: Until) -> Result<ExitCode> {
    let begun = Instant::now();
    stop::on_signal()?;
    let record = std::fs::read(data().join("stack.json")).unwrap_or_default();
    if let Some(url) = running(&record) {
        bail!(
            "the demo runs already, at {url}; Ctrl-C where it was started ends it, and so does\n  {} down --data {}",
            voiceforge().display(),
            data().display()
        );
    }
    let needed = setup::for_demo()?;
    say::title("building the programs (the first time takes some minutes)");
    let mut build = vec!["build", "--release"];
    build.extend(cargo::PROGRAMS.iter().flat_map(|package| ["--package", package]));
    cargo::run(&build)?;

    say::title("starting Redis, PostgreSQL and the stages");
    let mut up = Up::start(&data(), &needed.models, &needed.postgres)?;
    say::note(format_args!("ready at {}", up.url));

    say::title(format_args!("transcribing {}", needed.clip.wav.display()));
    let result = transcribe(&needed, &up.url, begun);
    match (&result, until) {
        (Ok(_), Until::CtrlC) => {
            let programs = cargo::programs();
            println!("\n  try it yourself, in another terminal:\n");
            println!(
                "    export PATH=\"{}:$PATH\" VOICEFORGE_DATA=\"{}\"",
                programs.display(),
                data().display()
            );
            println!("    voiceforge drop FILE --wait      voiceforge search WORDS      voiceforge --help\n");
            say::note("running until Ctrl-C");
            while !stop::asked() && up.is_running()? {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        (Err(e), _) => eprintln!("\nerror: {e:#}"),
        _ => {}
    }
    let stopped = up.stop();
    let right = result.is_ok_and(|errors| errors <= WORD_ERRORS_MAX);
    stopped?;
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where the stack with this `stack.json` is, if it runs.
fn running(record: &[u8]) -> Option<String> {
    let record: serde_json::Value = serde_json::from_slice(record).ok()?;
    let keeper = &record["keeper"];
    let pid = keeper["pid"].as_u64()?.try_into().ok()?;
    let keeper = servers::Identity { pid, started: keeper["started"].as_u64()? };
    keeper.is_alive().then(|| record["api_url"].as_str().map(str::to_owned))?
}

/// Drops the recording, shows the transcript and returns how many of its words are wrong.
fn transcribe(needed: &ForDemo, url: &str, begun: Instant) -> Result<usize> {
    let dropped = Instant::now();
    // A key of its own: audio that is known already would be answered at once, and this is to show the whole way.
    let key = format!(
        "demo-{}",
        SystemTime::now().duration_since(UNIX_EPOCH).context("tell the time")?.as_millis()
    );
    let mut drop = Command::new(voiceforge());
    drop.arg("drop")
        .arg(&needed.clip.wav)
        .args(["--wait", "--format", "json", "--server", url, "--key", &key]);
    // Its progress goes to the terminal, its result is read here.
    let output =
        drop.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("run voiceforge drop")?;
    if !output.status.success() {
        bail!("`voiceforge drop` failed; the logs are in {}", data().join("logs").display());
    }
    let transcript = words::Transcript::read(&output.stdout).context("read the transcript")?;
    let errors = words::errors(&needed.clip.text, &transcript.text());
    println!();
    for span in &transcript.spans {
        println!("  [{} - {}]  {}", clock(span.start_ms), clock(span.end_ms), span.text);
    }
    println!("\n  read it again from   {url}/v1/recordings/{}/transcript?format=text", transcript.recording);
    println!("  as subtitles         {url}/v1/recordings/{}/transcript?format=srt", transcript.recording);
    say::note(format_args!(
        "{} of {} words wrong; {:.1} s after the drop, {:.0} s after `cargo xtask demo`",
        errors,
        words::normalized(&needed.clip.text).len(),
        dropped.elapsed().as_secs_f64(),
        begun.elapsed().as_secs_f64()
    ));
    if errors > WORD_ERRORS_MAX {
        say::note(format_args!(
            "more than {WORD_ERRORS_MAX} are not to be expected; what is said is:\n{}",
            needed.clip.text
        ));
    }
    Ok(errors)
}

fn data() -> std::path::PathBuf {
    let folder: &Path = &crate::cache();
    folder.join("demo")
}

/// Milliseconds as `0:07.5`.
fn clock(ms: u64) -> String {
    format!("{}:{:04.1}", ms / 60_000, (ms % 60_000) as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::running;

    #[test]
    fn a_demo_runs_while_the_process_that_keeps_it_does() {
        let me = servers::Identity::of(std::process::id());
        let record = |started: u64| {
            let url = "http://127.0.0.1:4001";
            format!(r#"{{"keeper": {{"pid": {}, "started": {started}}}, "api_url": "{url}"}}"#, me.pid)
        };
        assert_eq!(running(record(me.started).as_bytes()).as_deref(), Some("http://127.0.0.1:4001"));
        assert_eq!(running(record(me.started + 1).as_bytes()), None, "a later process has the same number");
        assert_eq!(running(b""), None);
    }
}
