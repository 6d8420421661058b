//! `voiceforge-figures`: measures a whole deployment. `cargo xtask bench` runs it and writes the pages.
//!
//! Usage: `voiceforge-figures latency|memory CLIPS [N]`, `voiceforge-figures reads [N]`,
//! `voiceforge-figures detection MODELS SECONDS [--no-words] CLIPS...`. N: recordings of each kind, facts, rounds. The body of the page goes to standard output, progress to standard error.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use e2e::figures::{detection, latency, memory, reads};
use service::shutdown::on_signal;

fn main() -> ExitCode {
    match start() {
        Ok(body) => {
            print!("{body}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |given: &[&str], default: u64| match given {
        [] => Ok(default),
        [number] => number.parse().with_context(|| format!("{number:?} is not a number")),
        _ => bail!("too many arguments"),
    };
    // Starts nothing, so that a signal may simply end it.
    if let ["detection", models, seconds, ref rest @ ..] = arguments[..] {
        let (words, clips) = match rest {
            ["--no-words", clips @ ..] => (false, clips),
            clips => (true, clips),
        };
        return detection::run(&detection::Options {
            clips: clips.iter().map(PathBuf::from).collect(),
            models: PathBuf::from(models),
            seconds: number(&[seconds], 0)? as usize,
            words,
        });
    }
    let shutdown = on_signal(Duration::ZERO).context("take signals")?;
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    runtime.block_on(async {
        let measure = async {
            match arguments[..] {
                ["latency", clips, ref more @ ..] => {
                    let drops = number(more, 300)? as usize;
                    latency::run(&latency::Options { drops, warm_up: 40, clips: PathBuf::from(clips) }).await
                }
                ["reads", ref more @ ..] => {
                    let rounds = number(more, 5)? as usize;
                    let length = Duration::from_secs(8);
                    reads::run(&reads::Options { recordings: 1_000, lines: 16, rounds, length }).await
                }
                ["memory", clips, ref more @ ..] => {
                    let facts = number(more, 1_000_000)?;
                    let length = Duration::from_secs(30);
                    memory::run(&memory::Options { facts, length, clips: PathBuf::from(clips) }).await
                }
                _ => bail!("usage: voiceforge-figures latency|memory CLIPS [N], reads [N] or detection MODELS SECONDS CLIPS..."),
            }
        };
        tokio::select! {
            measured = measure => measured,
            // Dropping the measurement ends what it started.
            () = shutdown.wait() => bail!("interrupted"),
        }
    })
}
