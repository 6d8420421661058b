//! `voiceforge retention`: how long things are kept. It speaks to the database itself, as `voiceforge keys` does.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use events::Tenant;
use serde_json::json;
use service::env::Value;
use views::{Keep, Kept, Rule, Views};

use crate::config::Config;
use crate::keys;
use crate::out;

/// What to do with the rules.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
    /// Address of PostgreSQL (default: VOICEFORGE_DATABASE_URL, else that of what `voiceforge up` runs here)
    #[arg(long, value_name = "URL", global = true)]
    pub database_url: Option<String>,
    /// Tell it as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// What can be done with the rules.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// List the rules
    Ls,
    /// Set a rule
    Set {
        /// What is kept: audio, transcripts or events
        what: Kept,
        /// How long after a recording was submitted, such as 90d, or forever
        #[arg(value_parser = keep)]
        keep: Keep,
        /// For whom (default: for all without a rule of their own)
        #[arg(long)]
        tenant: Option<Tenant>,
    },
    /// Remove a rule
    Unset {
        /// What is kept: audio, transcripts or events
        what: Kept,
        /// Whose rule (default: that of all without one of their own)
        #[arg(long)]
        tenant: Option<Tenant>,
    },
}

const EXAMPLES: &str = "\
Without a rule everything is kept. The age counts from when a recording was submitted; the keeper looks every 10 minutes.
  audio        only the audio goes, once the recording has ended; it cannot be transcribed again
  transcripts  the whole recording goes, as by `voiceforge delete`
  events       the archive goes; transcripts stay, but the read side cannot be built anew from before that

Examples:
  voiceforge retention set audio 30d
  voiceforge retention set transcripts 365d --tenant acme
  voiceforge retention set audio forever --tenant museum
  voiceforge retention unset audio
  voiceforge retention ls";

/// Runs it.
///
/// # Errors
/// As the database says.
pub async fn run(arguments: Arguments, config: &Config) -> anyhow::Result<ExitCode> {
    let views = keys::open(arguments.database_url.as_deref(), config).await?;
    let done = act(&views, arguments).await;
    views.close().await;
    done
}

async fn act(views: &Views, arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.action {
        Action::Ls => {
            let rules = views.retention().await?;
            if arguments.json {
                for rule in &rules {
                    let (tenant, keep) = (rule.tenant.as_ref().map(Tenant::as_str), show(rule.keep));
                    out::line(
                        &json!({ "tenant": tenant, "what": rule.what.as_str(), "keep": keep }).to_string(),
                    )?;
                }
                return Ok(ExitCode::SUCCESS);
            }
            if rules.is_empty() {
                eprintln!("no rules: everything is kept");
                return Ok(ExitCode::SUCCESS);
            }
            let mut rows = vec![["what", "kept for", "tenant"].map(str::to_owned).to_vec()];
            rows.extend(rules.iter().map(|rule| {
                let tenant = rule.tenant.as_ref().map_or("all others".to_owned(), Tenant::to_string);
                vec![rule.what.to_string(), show(rule.keep), tenant]
            }));
            out::table(&rows)?;
        }
        Action::Set { what, keep, tenant } => {
            views.set_retention(&Rule { tenant, what, keep }).await?;
            eprintln!("{what} is kept for {}", show(keep));
        }
        Action::Unset { what, tenant } => {
            if !views.unset_retention(tenant.as_ref(), what).await? {
                bail!("there is no such rule; `voiceforge retention ls` lists all");
            }
            eprintln!("removed the rule");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn keep(text: &str) -> Result<Keep, String> {
    if text == "forever" {
        return Ok(Keep::Forever);
    }
    let time = Duration::parse(text)
        .map_err(|problem| format!("it {problem}; expected a time such as 90d, or forever"))?;
    match time.as_secs() {
        0 => Err("it is less than a second; expected a time such as 90d, or forever".to_owned()),
        _ => Ok(Keep::For(time)),
    }
}

fn show(keep: Keep) -> String {
    match keep {
        Keep::Forever => "ever".to_owned(),
        Keep::For(time) => time.show(),
    }
}
