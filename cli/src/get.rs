//! `voiceforge get`: one transcript.

use std::process::ExitCode;

use clap::Args;

use crate::client::{self, Client};
use crate::config::Config;
use crate::out;
use crate::wishes::{Server, Shape};

/// Which one and how.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Id of the recording or of its drop
    #[arg(value_parser = client::id)]
    pub id: String,
    /// How to write the transcript
    #[arg(long, value_enum, default_value_t)]
    pub format: Shape,
    /// Which transcription, 0 for the first (default: the one readers see)
    #[arg(long, value_name = "N")]
    pub generation: Option<u32>,
    /// Tell where the recording stands instead, as JSON
    #[arg(long, conflicts_with_all = ["format", "generation"])]
    pub about: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group documents itself")]
    pub server: Server,
}

const EXAMPLES: &str = "\
Examples:
  voiceforge get 01890a5d-ac96-774b-bcce-b302099a8057
  voiceforge get 01890a5d-ac96-774b-bcce-b302099a8057 --format srt > talk.srt
  voiceforge get 01890a5d-ac96-774b-bcce-b302099a8057 --about";

/// Runs it.
///
/// # Errors
/// As the API says.
pub async fn run(arguments: Arguments, config: &Config) -> anyhow::Result<ExitCode> {
    let client = Client::new(&arguments.server, config)?;
    if arguments.about {
        out::line(&client.about(&arguments.id).await?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let id = &arguments.id;
    let read = client.transcript(id, arguments.format.into(), arguments.generation).await;
    let transcript = read.map_err(|error| match error.is_not_ready() {
        true => anyhow::anyhow!("{error}; `voiceforge get {id} --about` tells how far it is"),
        false => error.into(),
    })?;
    out::line(&transcript.text)?;
    // The document says it itself.
    if arguments.format != Shape::Json {
        transcript.notes().iter().for_each(|note| eprintln!("{note}"));
    }
    Ok(ExitCode::SUCCESS)
}
