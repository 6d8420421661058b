//! `voiceforge down`: stops what `up` started.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::config::Config;
use crate::progress::Progress;
use crate::stack::Stack;

/// Which one.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Folder it was started with (default: VOICEFORGE_DATA, else ~/.local/share/voiceforge)
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Work in hand is finished or handed back; all data stays, and the next `voiceforge up` goes on with it.

Examples:
  voiceforge down
  voiceforge down --data ./try";

/// Runs it.
///
/// # Errors
/// When there is none, or it does not end.
pub async fn run(arguments: Arguments, config: &Config) -> anyhow::Result<ExitCode> {
    let data = arguments.data.unwrap_or_else(|| config.data.clone());
    let stack = Stack::attach(&data)?;
    let progress = Progress::new();
    if !stack.is_kept() && stack.record().programs.is_empty() {
        progress.say(&format!("nothing runs in {}", data.display()));
        return Ok(ExitCode::SUCCESS);
    }
    let meter = progress.begin("down");
    meter.activity(&format!("stopping what runs in {}", data.display()));
    stack.stop().await?;
    drop(meter);
    progress.say(&format!("stopped; the data stays in {}", data.display()));
    Ok(ExitCode::SUCCESS)
}
