//! `voiceforge keys`: who may use the API. It speaks to the database itself: the first key cannot come through the API.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use events::Tenant;
use serde_json::json;
use uuid::Uuid;
use views::{ApiKey, Views};

use crate::config::Config;
use crate::out;

/// What to do with keys.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
    /// Address of PostgreSQL (default: VOICEFORGE_DATABASE_URL, else that of what `voiceforge up` runs in the folder
    /// VOICEFORGE_DATA)
    #[arg(long, value_name = "URL", global = true)]
    pub database_url: Option<String>,
    /// Tell it as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Make a key; its secret is shown once
    Create {
        /// What to call it, such as who will use it
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        name: String,
        /// Whose recordings it opens
        #[arg(long, default_value_t)]
        tenant: Tenant,
        /// Whether it opens what is of the whole deployment too: dead letters and `top`
        #[arg(long)]
        operator: bool,
    },
    /// List all keys, revoked ones too
    List,
    /// Put a key out of force; within 10 seconds it opens nothing
    Revoke {
        /// Its id, as `list` tells
        id: Uuid,
    },
}

const EXAMPLES: &str = "\
Without any key the API answers this machine alone. With the first one, everybody needs one.

Examples:
  voiceforge keys create \"the web shop\" --tenant shop
  voiceforge keys list
  voiceforge keys revoke 0b6c8b0a-6c55-4f5e-9a56-0d0f5b3c2a11";

/// Runs it.
///
/// # Errors
/// As the database says.
pub async fn run(arguments: Arguments, config: &Config) -> anyhow::Result<ExitCode> {
    let views = open(arguments.database_url.as_deref(), config).await?;
    let done = act(&views, arguments).await;
    views.close().await;
    done
}

/// Opens the database that `flag` names, else the environment, else what runs here.
///
/// # Errors
/// When there is none, or nobody has prepared it.
pub async fn open(flag: Option<&str>, config: &Config) -> anyhow::Result<Views> {
    let url = config.database(flag)?;
    let views = Views::connect(&url, &views::Options { max_connections: 1, ..views::Options::default() })
        .await
        .context("connect to the database (VOICEFORGE_DATABASE_URL)")?;
    views.check().await.map_err(|error| match error {
        views::Error::NotInstalled => {
            anyhow::anyhow!("the database is empty: start voiceforge-project once, which prepares it")
        }
        error => error.into(),
    })?;
    Ok(views)
}

async fn act(views: &Views, arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.action {
        Action::Create { name, tenant, operator } => {
            let new = views.create_key(&tenant, &name, operator).await?;
            if arguments.json {
                let mut value = as_json(&new.key);
                value["secret"] = new.secret.into();
                out::line(&value.to_string())?;
            } else {
                eprintln!(
                    "made key {} for {tenant}; this is its secret, and it is shown this once:",
                    new.key.id
                );
                out::line(&new.secret)?;
            }
        }
        Action::List => {
            let keys = views.keys().await?;
            if arguments.json {
                for key in &keys {
                    out::line(&as_json(key).to_string())?;
                }
            } else {
                let mut rows = vec![
                    ["id", "begins with", "tenant", "may", "made", "revoked", "name"]
                        .map(str::to_owned)
                        .to_vec(),
                ];
                rows.extend(keys.iter().map(row));
                out::table(&rows)?;
            }
        }
        Action::Revoke { id } => {
            if !views.revoke_key(id).await? {
                bail!("there is no key {id} in force; `voiceforge keys list` shows all");
            }
            eprintln!("revoked {id}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(key: &ApiKey) -> serde_json::Value {
    json!({
        "id": key.id,
        "prefix": key.prefix,
        "tenant": key.tenant.as_str(),
        "name": key.name,
        "operator": key.is_operator,
        "created_at": key.created_at.to_string(),
        "revoked_at": key.revoked_at.map(|at| at.to_string()),
    })
}

fn row(key: &ApiKey) -> Vec<String> {
    vec![
        key.id.to_string(),
        format!("{}...", key.prefix),
        key.tenant.to_string(),
        if key.is_operator { "operate" } else { "use" }.to_owned(),
        out::second(&key.created_at.to_string()),
        key.revoked_at.map_or("-".to_owned(), |at| out::second(&at.to_string())),
        key.name.clone(),
    ]
}
