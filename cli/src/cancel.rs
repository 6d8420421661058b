//! `voiceforge cancel`: transcriptions that are not wanted any more.

use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;

use crate::client::{self, Client, recording_path};
use crate::config::Config;
use crate::out;
use crate::wishes::Server;

/// Which one.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Id of the recording or of its drop
    #[arg(value_parser = client::id)]
    pub id: String,
    /// Only this transcription of it, 0 for the first (default: all that are under way)
    #[arg(long, value_name = "N")]
    pub generation: Option<u32>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group documents itself")]
    pub server: Server,
}

const EXAMPLES: &str = "\
What has ended stays as it is. A whole run is stopped with `voiceforge replay cancel RUN`.

Examples:
  voiceforge cancel 01890a5d-ac96-774b-bcce-b302099a8057
  voiceforge cancel 01890a5d-ac96-774b-bcce-b302099a8057 --generation 2";

#[derive(Debug, Deserialize)]
struct Act {
    recording_id: String,
    generations: Vec<u32>,
}

/// Runs it.
///
/// # Errors
/// As the API says.
pub async fn run(arguments: Arguments, config: &Config) -> anyhow::Result<ExitCode> {
    let client = Client::new(&arguments.server, config)?;
    let path = recording_path(&arguments.id);
    let path = match arguments.generation {
        Some(number) => format!("{path}/generations/{number}/cancel"),
        None => format!("{path}/cancel"),
    };
    let act: Act = client.act(&path).await?;
    let numbers: Vec<String> = act.generations.iter().map(ToString::to_string).collect();
    out::line(&format!("cancelled generation {} of {}", numbers.join(", "), act.recording_id))?;
    Ok(ExitCode::SUCCESS)
}
