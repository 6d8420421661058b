//! `voiceforge compare`: how two transcriptions differ, of one recording or of all in a run.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;
use transcript::Comparison;
use transcript::compare::text::{Style, text};

use crate::client::{self, Client, recording_path};
use crate::config::Config;
use crate::out;
use crate::replay::run_path;
use crate::wishes::Server;

/// What to compare.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Id of the recording or of its drop
    #[arg(required_unless_present = "run", conflicts_with = "run", value_parser = client::id)]
    pub id: Option<String>,
    /// The transcription to compare against, 0 for the first (default: the one readers see)
    #[arg(long, value_name = "N", conflicts_with = "run")]
    pub from: Option<u32>,
    /// The other one (default: the newest)
    #[arg(long, value_name = "N", conflicts_with = "run")]
    pub to: Option<u32>,
    /// List the recordings of this run instead, those that differ most first
    #[arg(long, value_name = "RUN", value_parser = client::id)]
    pub run: Option<String>,
    /// How many recordings of the run at most
    #[arg(long, value_name = "N", default_value_t = 20, requires = "run", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// Write JSON: all words of a recording, or a line for each recording of the run
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group documents itself")]
    pub server: Server,
}

const EXAMPLES: &str = "\
Words only in the first transcription are shown as [-so-], words only in the second as {+so+}. Case and punctuation do not count.

Examples:
  voiceforge compare 01890a5d-ac96-774b-bcce-b302099a8057
  voiceforge compare 01890a5d-ac96-774b-bcce-b302099a8057 --from 0 --to 2 --json
  voiceforge compare --run 6f1c1a52-8f0e-4f0a-9a53-0b9a4a4b8f11 --limit 10";

#[derive(Debug, Deserialize)]
struct Difference {
    recording_id: String,
    name: Option<String>,
    from: u32,
    to: u32,
    from_words: u64,
    replaced: u64,
    inserted: u64,
    deleted: u64,
    difference: f64,
}

/// Runs it.
///
/// # Errors
/// As the API says.
pub async fn run(arguments: Arguments, config: &Config) -> anyhow::Result<ExitCode> {
    let client = Client::new(&arguments.server, config)?;
    match (&arguments.run, &arguments.id) {
        (Some(run), _) => compare_run(&client, run, &arguments).await?,
        (None, Some(id)) => compare_recording(&client, id, &arguments).await?,
        (None, None) => anyhow::bail!("name a recording, or a run with --run"),
    }
    Ok(ExitCode::SUCCESS)
}

async fn compare_recording(client: &Client, id: &str, arguments: &Arguments) -> anyhow::Result<()> {
    let sides = [("from", arguments.from), ("to", arguments.to)];
    let query: Vec<_> =
        sides.into_iter().filter_map(|(name, side)| Some((name.to_owned(), side?.to_string()))).collect();
    let told = client.text(&format!("{}/compare", recording_path(id)), &query).await;
    let json = told.map_err(|error| match error.has_code("nothing_to_compare") {
        true => anyhow::anyhow!(
            "recording {id} has no two complete transcriptions to compare; `voiceforge replay --id {id} --model NAME` makes another"
        ),
        false => error.into(),
    })?;
    if arguments.json {
        return out::line(&json);
    }
    let comparison: Comparison = serde_json::from_str(&json)?;
    out::write(&text(&comparison, Style { colour: std::io::stdout().is_terminal(), ..Style::default() }))
}

async fn compare_run(client: &Client, run: &str, arguments: &Arguments) -> anyhow::Result<()> {
    let items = client.pages(&format!("{}/compare", run_path(run)), &[], arguments.limit).await?;
    if items.is_empty() && !arguments.json {
        eprintln!("nothing of this run is complete yet");
    }
    let heads = ["recording", "from", "to", "differ", "words", "replaced", "inserted", "deleted", "name"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for item in items {
        if arguments.json {
            out::line(&item.to_string())?;
            continue;
        }
        let row: Difference = serde_json::from_value(item)?;
        rows.push(vec![
            row.recording_id,
            row.from.to_string(),
            row.to.to_string(),
            format!("{:.1} %", row.difference * 100.0),
            row.from_words.to_string(),
            row.replaced.to_string(),
            row.inserted.to_string(),
            row.deleted.to_string(),
            row.name.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    if rows.len() > 1 { out::table(&rows) } else { Ok(()) }
}
