//! Measurements, each by name.

mod accuracy;
mod detection;
mod engines;
mod figures;
mod first_transcript;
mod hop;
mod limits;
pub mod machine;
pub mod page;
mod read_side;
mod replay_latency;
mod trim;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
measurements:
  cargo xtask bench accuracy           word errors beside faster-whisper's, same weights, options and windows
  cargo xtask bench detection [options]
                                       misses, false alarms, words after cutting and speed of the speech detector
  cargo xtask bench engines [options]  this engine beside faster-whisper and whisper.cpp: speed, memory, word errors
  cargo xtask bench limits             this engine beside what the machine can do, part by part
  cargo xtask bench trim [options]     word errors with trimmed windows beside whole ones, for each model
  cargo xtask bench projection [--events N]
                                       segments a second into the read side, on PostgreSQL and on TimescaleDB
  cargo xtask bench rebuild [--events N]
                                       facts a second of a rebuild of the read side, and where the time goes
  cargo xtask bench first-transcript   time from a fresh clone to the demo's transcript, and of a second run
  cargo xtask bench hop                events a second through one stage, beside Celery; segments of speech
  cargo xtask bench latency [N]        drop to readable transcript, less decoding and the model, over N drops each way
  cargo xtask bench reads [N]          transcripts a second over HTTP, and the wait at half of that, in N rounds
  cargo xtask bench memory [N]         memory of each program at rest, under load, and over N facts (a million)
  cargo xtask bench replay-latency     drop to transcript, alone and while recordings are transcribed again
";

/// Runs the one that is named; without a name, says which there are.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    match arguments {
        [] => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        ["accuracy"] => accuracy::run(),
        ["detection", options @ ..] => detection::run(options),
        ["engines", options @ ..] => engines::run(options),
        ["trim", options @ ..] => trim::run(options),
        ["projection", options @ ..] => read_side::projection(options),
        ["rebuild", options @ ..] => read_side::rebuild(options),
        ["first-transcript"] => first_transcript::run(),
        ["hop"] => hop::run(),
        ["limits"] => limits::run(),
        ["latency", more @ ..] => figures::latency(more),
        ["reads", more @ ..] => figures::reads(more),
        ["memory", more @ ..] => figures::memory(more),
        ["replay-latency"] => replay_latency::run(),
        [other, ..] => bail!("there is no measurement `{other}`\n\n{HELP}"),
    }
}
