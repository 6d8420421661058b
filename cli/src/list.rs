//! `voiceforge list`: recordings, the newest first.

use std::process::ExitCode;

use clap::Args;

use crate::client::{Client, Recording};
use crate::config::Config;
use crate::out;
use crate::progress::clock;
use crate::wishes::{Listing, Server};

/// Which ones.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Only those that stand there: queued, decoding, transcribing, complete, failed, cancelled, rejected, deleted
    #[arg(long, value_name = "STATUS")]
    pub status: Option<transcript::Status>,
    /// Only those with this text in their name
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
    /// Only this tenant's; it must be the key's own
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group documents itself")]
    pub listing: Listing,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group documents itself")]
    pub server: Server,
}

const EXAMPLES: &str = "\
Examples:
  voiceforge list
  voiceforge list --status failed --since 2026-01-01
  voiceforge list --name interview --limit 1000 --json";

/// Runs it.
///
/// # Errors
/// As the API says.
pub async fn run(arguments: Arguments, config: &Config) -> anyhow::Result<ExitCode> {
    let client = Client::new(&arguments.server, config)?;
    let query = arguments.listing.query([
        ("status", arguments.status.map(|status| status.to_string())),
        ("name", arguments.name),
        ("tenant", arguments.tenant),
    ]);
    let items = client.pages("/v1/recordings", &query, arguments.limit).await?;
    if arguments.listing.json {
        for item in &items {
            out::line(&item.to_string())?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if items.is_empty() {
        eprintln!("nothing was found");
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows =
        vec![["id", "submitted", "status", "audio", "language", "name"].map(str::to_owned).to_vec()];
    for item in items {
        rows.push(row(&serde_json::from_value(item)?));
    }
    out::table(&rows)?;
    Ok(ExitCode::SUCCESS)
}

fn row(recording: &Recording) -> Vec<String> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let reason = recording.reason.as_ref().map_or(String::new(), |reason| format!("  ({})", reason.message));
    let submitted = recording.submitted_at.as_deref().unwrap_or("-");
    vec![
        recording.address().to_owned(),
        out::second(submitted),
        recording.status.to_string(),
        clock(recording.progress.audio_s),
        or_dash(&recording.language),
        format!("{}{reason}", or_dash(&recording.name)),
    ]
}
