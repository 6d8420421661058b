//! `voiceforge delete`: recordings that are to be gone.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use crate::client::{self, Client};
use crate::config::Config;
use crate::out;
use crate::wishes::Server;

/// Which ones.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Ids of recordings or of their drops
    #[arg(required = true, value_name = "ID", value_parser = client::id)]
    pub ids: Vec<String>,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group documents itself")]
    pub server: Server,
}

const EXAMPLES: &str = "\
Audio, transcripts and events are erased, in whatever stage a recording is, and nothing brings them back. It takes \
effect at once; `erasing` says that something is still to be removed, and running the same again tells when it is done.
The exit code is 1 when one of them could not be deleted.

Examples:
  voiceforge delete 01890a5d-ac96-774b-bcce-b302099a8057
  voiceforge delete --yes ID1 ID2 ID3";

/// Runs it.
///
/// # Errors
/// When nobody says yes.
pub async fn run(arguments: Arguments, config: &Config) -> anyhow::Result<ExitCode> {
    let client = Client::new(&arguments.server, config)?;
    let count = arguments.ids.len();
    if !arguments.yes {
        confirm(&match count {
            1 => format!("delete {} for good?", arguments.ids[0]),
            count => format!("delete {count} recordings for good?"),
        })?;
    }
    let mut failed = false;
    for id in &arguments.ids {
        match client.delete(id).await {
            Ok(true) => out::line(&format!("{id}  erased"))?,
            Ok(false) => out::line(&format!("{id}  deleted, erasing"))?,
            Err(error) => {
                failed = true;
                eprintln!("voiceforge: {id}: {error}");
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Asks at the terminal.
///
/// # Errors
/// When the answer is no, or there is nobody to ask.
pub fn confirm(question: &str) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!("there is nobody to ask; say --yes");
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush().context("ask")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("read the answer")?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was done"),
    }
}
