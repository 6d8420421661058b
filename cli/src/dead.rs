//! `voiceforge dead`: what was given up, and what is done about it.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::client::{self, Client, Error, part};
use crate::config::Config;
use crate::delete::confirm;
use crate::out;
use crate::wishes::Server;

/// What to do with dead letters.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group documents itself")]
    pub server: Server,
}

/// What can be done with dead letters.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// List them, the oldest first
    Ls {
        #[command(flatten)]
        #[allow(missing_docs, reason = "the group documents itself")]
        which: Which,
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
        /// Write a line of JSON for each
        #[arg(long)]
        json: bool,
    },
    /// Show one with its original, as JSON
    Show {
        /// Its id, as `ls` tells
        #[arg(value_parser = client::id)]
        id: String,
    },
    /// Put them to work again
    Replay {
        /// Their ids, as `ls` tells
        #[arg(value_name = "ID", value_parser = client::id, conflicts_with_all = ["stage", "code", "all"])]
        ids: Vec<String>,
        #[command(flatten)]
        #[allow(missing_docs, reason = "the group documents itself")]
        which: Which,
        /// All of them
        #[arg(long)]
        all: bool,
    },
    /// Throw them away
    Drop {
        /// Their ids, as `ls` tells
        #[arg(value_name = "ID", value_parser = client::id, conflicts_with_all = ["stage", "code", "all"])]
        ids: Vec<String>,
        #[command(flatten)]
        #[allow(missing_docs, reason = "the group documents itself")]
        which: Which,
        /// All of them
        #[arg(long)]
        all: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// Which ones.
#[derive(Clone, Debug, Default, Args)]
pub struct Which {
    /// Only those that this stage gave up: ingest, decode, infer or project
    #[arg(long, value_name = "STAGE")]
    pub stage: Option<String>,
    /// Only those with this code of their cause
    #[arg(long, value_name = "CODE")]
    pub code: Option<String>,
}

const EXAMPLES: &str = "\
What was tried in vain as often as it may be is put aside here, and its recording or segment has ended as failed. A \
replay asks for the whole transcription again from the audio in the store, in a higher round, and puts a drop back \
into its queue. With API keys in force, this takes an operator's: `voiceforge keys create ops --operator`.

Examples:
  voiceforge dead ls
  voiceforge dead ls --stage infer --code crash_loop
  voiceforge dead show 00:1767323045678-0
  voiceforge dead replay 00:1767323045678-0
  voiceforge dead replay --stage infer
  voiceforge dead drop --all --yes";

/// Runs it.
///
/// # Errors
/// As the API says.
pub async fn run(arguments: Arguments, config: &Config) -> anyhow::Result<ExitCode> {
    let client = Client::new(&arguments.server, config)?;
    match arguments.action {
        Action::Ls { which, limit, json } => list(&client, &which, limit, json).await,
        Action::Show { id } => {
            let letter: Value = client.get(&path(&id), &[]).await?;
            out::line(&serde_json::to_string_pretty(&letter)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Action::Replay { ids, which, all } => {
            let ids = choose(&client, ids, &which, all).await?;
            each(&ids, async |id| {
                let replayed: Value = client.act(&format!("{}/replay", path(id))).await?;
                Ok(told(&replayed))
            })
            .await
        }
        Action::Drop { ids, which, all, yes } => {
            let ids = choose(&client, ids, &which, all).await?;
            if !yes && !ids.is_empty() {
                confirm(&format!("throw {} dead letters away?", ids.len()))?;
            }
            each(&ids, async |id| client.remove(&path(id)).await.map(|()| "dropped".to_owned())).await
        }
    }
}

async fn list(client: &Client, which: &Which, limit: u32, json: bool) -> anyhow::Result<ExitCode> {
    let items = client.pages("/v1/dead", &query(which), limit).await?;
    if json {
        for item in &items {
            out::line(&item.to_string())?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if items.is_empty() {
        let which = if query(which).is_empty() { "there are no dead letters" } else { "no dead letter fits" };
        eprintln!("{which}; recordings that failed: `voiceforge list --status failed`");
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows =
        vec![["id", "at", "stage", "code", "tries", "about", "worker"].map(str::to_owned).to_vec()];
    rows.extend(items.iter().map(row));
    out::table(&rows)?;
    Ok(ExitCode::SUCCESS)
}

/// A letter in a line: what it was about by its ids, never by its words.
fn row(letter: &Value) -> Vec<String> {
    let text = |name: &str| letter[name].as_str().map(str::to_owned);
    let at = text("at").unwrap_or_default();
    let recording = text("recording").map(|recording| {
        let part = text("segment").map_or(String::new(), |segment| format!(" segment {segment}"));
        format!("{recording}{part}")
    });
    let about = recording.or_else(|| text("drop_id").map(|drop| format!("drop {drop}")));
    vec![
        text("id").unwrap_or_default(),
        at.split('.').next().unwrap_or(&at).trim_end_matches('Z').replace('T', " "),
        text("stage").unwrap_or_default(),
        text("code").unwrap_or_default(),
        letter["attempts"].to_string(),
        about.unwrap_or_else(|| "-".to_owned()),
        text("worker").unwrap_or_default(),
    ]
}

fn told(replayed: &Value) -> String {
    let done = replayed["done"].as_str().unwrap_or("replayed");
    let round = replayed["round"].as_u64().filter(|_| done == "requested");
    let round = round.map_or(String::new(), |round| format!(" in round {round}"));
    let also = match replayed["also"].as_u64().unwrap_or(0) {
        0 => String::new(),
        also => format!(", which covers {also} more"),
    };
    format!("{done}{round}{also}")
}

/// The letters that are meant: by their ids, or by a filter.
async fn choose(client: &Client, ids: Vec<String>, which: &Which, all: bool) -> anyhow::Result<Vec<String>> {
    if !ids.is_empty() {
        return Ok(ids);
    }
    if !all && which.stage.is_none() && which.code.is_none() {
        bail!("which ones? give ids as `voiceforge dead ls` tells, or --stage, --code, or --all");
    }
    let items = client.pages("/v1/dead", &query(which), u32::MAX).await?;
    Ok(items.iter().filter_map(|item| item["id"].as_str().map(str::to_owned)).collect())
}

fn query(which: &Which) -> Vec<(String, String)> {
    let query = [("stage", which.stage.clone()), ("code", which.code.clone())];
    query.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// Does something with each letter and tells what came of it. One that is gone meanwhile was covered by another.
async fn each(
    ids: &[String],
    mut act: impl AsyncFnMut(&str) -> Result<String, Error>,
) -> anyhow::Result<ExitCode> {
    let mut failed = false;
    for id in ids {
        match act(id).await {
            Ok(done) => out::line(&format!("{id}  {done}"))?,
            Err(error) if error.is_not_found() && ids.len() > 1 => out::line(&format!("{id}  gone already"))?,
            Err(error) => {
                failed = true;
                eprintln!("voiceforge: {id}: {error}");
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn path(id: &str) -> String {
    format!("/v1/dead/{}", part(id))
}
