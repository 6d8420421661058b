//! `voiceforge`: the command people type.

use std::process::ExitCode;

use clap::Parser;
use cli::command::{self, Arguments};
use cli::config::Config;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = Config::of_environment().and_then(|config| command::run(arguments.command, config));
    ended.unwrap_or_else(|error| {
        eprintln!("voiceforge: {error:#}");
        ExitCode::FAILURE
    })
}
