//! What can be typed: the list of commands.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::config::Config;
use crate::{
    cancel, compare, dead, delete, down, drop, get, keys, list, models, replay, reproject, retention, search,
    status, top, transcribe, up,
};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "voiceforge", version, about = "Turns audio into searchable transcripts.", after_help = EXAMPLES)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Without any service:
  voiceforge models pull tiny.en              fetch a model, once
  voiceforge transcribe talk.mp3              print what is said

With the service:
  voiceforge up                               start it on this machine; Ctrl-C stops it
  voiceforge drop talk.mp3 --wait             hand audio in and print its transcript
  voiceforge drop ~/recordings                hand in a folder; run it again to go on
  voiceforge search \"budget OR forecast\"      find it again
  voiceforge replay --all --model base        transcribe everything again with another model

`voiceforge help COMMAND` explains each with examples. Exit codes: 0 all right, 1 it failed, \
2 the command line is wrong.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Transcribe files here and now, without any service
    Transcribe(transcribe::Arguments),
    /// Hand audio in: a file, a folder, or standard input
    Drop(drop::Arguments),
    /// Read a transcript
    Get(get::Arguments),
    /// List recordings, the newest first
    List(list::Arguments),
    /// Search what was said
    Search(search::Arguments),
    /// Transcribe recordings again, with another model or other settings
    Replay(Box<replay::Arguments>),
    /// Tell how two transcriptions differ
    Compare(compare::Arguments),
    /// Stop a transcription that is under way
    Cancel(cancel::Arguments),
    /// Delete recordings for good, with their audio and all else
    Delete(delete::Arguments),
    /// Start the whole service on this machine, private to one folder
    Up(up::Arguments),
    /// Stop what `up` started
    Down(down::Arguments),
    /// Tell how what `up` started is doing
    Status(status::Arguments),
    /// List what was given up, replay it or throw it away
    Dead(dead::Arguments),
    /// Watch queues, log and workers
    Top(top::Arguments),
    /// Say how long audio, transcripts and events are kept
    Retention(retention::Arguments),
    /// Make, list and revoke API keys
    Keys(keys::Arguments),
    /// Build the read side anew from the facts while it serves
    Reproject(reproject::Arguments),
    /// Fetch and list models
    Models(models::Arguments),
}

/// Does what was typed.
///
/// # Errors
/// What went wrong and what to do about it, in one line.
pub fn run(command: Command, config: Config) -> anyhow::Result<ExitCode> {
    service::install_tls();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    // A start that was given up stops its programs on a thread of its own. A read of standard input, which cannot be
    // cancelled, must not hold the other commands.
    let patience = if matches!(command, Command::Up(_)) { Duration::from_secs(90) } else { Duration::ZERO };
    let ended = runtime.block_on(async {
        match command {
            Command::Transcribe(arguments) => transcribe::run(arguments, &config).await,
            Command::Drop(arguments) => drop::run(arguments, &config).await,
            Command::Get(arguments) => get::run(arguments, &config).await,
            Command::List(arguments) => list::run(arguments, &config).await,
            Command::Search(arguments) => search::run(arguments, &config).await,
            Command::Replay(arguments) => replay::run(*arguments, &config).await,
            Command::Compare(arguments) => compare::run(arguments, &config).await,
            Command::Cancel(arguments) => cancel::run(arguments, &config).await,
            Command::Dead(arguments) => dead::run(arguments, &config).await,
            Command::Top(arguments) => top::run(arguments, &config).await,
            Command::Delete(arguments) => delete::run(arguments, &config).await,
            Command::Retention(arguments) => retention::run(arguments, &config).await,
            Command::Up(arguments) => up::run(arguments, &config).await,
            Command::Down(arguments) => down::run(arguments, &config).await,
            Command::Status(arguments) => status::run(arguments, &config).await,
            Command::Keys(arguments) => keys::run(arguments, &config).await,
            Command::Reproject(arguments) => reproject::run(arguments, &config).await,
            Command::Models(arguments) => models::run(arguments, &config).await,
        }
    });
    runtime.shutdown_timeout(patience);
    ended
}

#[cfg(test)]
mod tests;
