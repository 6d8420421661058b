//! `voiceforge list`: recordings, the newest first.

use std::process::ExitCode;

use clap::Args;

use crate::client::{Client, Page, Recording};
use crate::config::Config;
use crate::out;
use crate::progress::clock;
use crate::wishes::Server;

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
    /// Only those handed in at this time or later, such as 2026-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only those handed in before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only this tenant's; it must be the key's own
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: usize,
    /// Write a line of JSON for each
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group documents itself")]
    pub server: Server,
}

const EXAMPLES: &str = "\
Examples:
  voiceforge list
  voiceforge list --status failed --since 2026-01-01T00:00:00Z
  voiceforge list --name interview --limit 1000 --json";

/// The most the API gives at once.
const PAGE_MAX: usize = 200;

/// Runs it.
///
/// # Errors
/// As the API says.
pub async fn run(arguments: Arguments, config: &Config) -> anyhow::Result<ExitCode> {
    let client = Client::new(&arguments.server, config)?;
    let query = [
        ("status", arguments.status.map(|status| status.to_string())),
        ("name", arguments.name),
        ("from", arguments.since),
        ("until", arguments.until),
        ("tenant", arguments.tenant),
    ];
    let query: Vec<_> =
        query.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    let items = pages(&client, "/v1/recordings", &query, arguments.limit).await?;
    if arguments.json {
        for item in &items {
            out::line(&item.to_string())?;
        }
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

/// Reads page after page until there are `limit` items or no more.
///
/// # Errors
/// As the API says.
pub async fn pages(
    client: &Client,
    path: &str,
    query: &[(String, String)],
    limit: usize,
) -> anyhow::Result<Vec<serde_json::Value>> {
    let mut items = Vec::new();
    let mut cursor: Option<String> = None;
    while items.len() < limit {
        let mut query = query.to_vec();
        query.push(("limit".to_owned(), (limit - items.len()).min(PAGE_MAX).to_string()));
        query.extend(cursor.take().map(|cursor| ("cursor".to_owned(), cursor)));
        let page: Page<serde_json::Value> = client.get(path, &query).await?;
        items.extend(page.items);
        match page.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    Ok(items)
}

fn row(recording: &Recording) -> Vec<String> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let reason = recording.reason.as_ref().map_or(String::new(), |reason| format!("  ({})", reason.message));
    let submitted = recording.submitted_at.as_deref().unwrap_or("-");
    vec![
        recording.address().to_owned(),
        // To the second: what follows is of no use to people.
        submitted.split('.').next().unwrap_or(submitted).trim_end_matches('Z').replace('T', " "),
        recording.status.to_string(),
        clock(recording.progress.audio_s),
        or_dash(&recording.language),
        format!("{}{reason}", or_dash(&recording.name)),
    ]
}
