//! `voiceforge up`: the whole service on this machine.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use crate::config::Config;
use crate::progress::Progress;
use crate::stack::{Options, Stack};
use crate::{models, out};

/// Where and with what.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Folder for everything it keeps: streams, database, audio, logs (default: VOICEFORGE_DATA, else
    /// ~/.local/share/voiceforge)
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Folder of models (default: VOICEFORGE_MODELS, else where `models pull` puts them, else the one it had before)
    #[arg(long, value_name = "DIR")]
    pub models: Option<PathBuf>,
    /// Model of audio that names none (default: tiny.en, else the first there is)
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Port of the API on this machine (default: the one it had before, else a free one)
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Decode what is not built in through ffmpeg: off, auto (if it is there), or its path (default: VOICEFORGE_FFMPEG,
    /// else off)
    #[arg(long, value_name = "WHICH")]
    pub ffmpeg: Option<String>,
    /// Return once it is ready; `voiceforge down` stops it
    #[arg(long)]
    pub detach: bool,
}

const EXAMPLES: &str = "\
It starts Redis, PostgreSQL and the stages as separate programs, with their data in one folder \
and on free ports of this machine; nothing of yours is touched. Once it is ready it prints one \
line, `ready http://127.0.0.1:PORT`.

Examples:
  voiceforge up                               until Ctrl-C
  voiceforge up --detach                      in the background, until `voiceforge down`
  voiceforge up --port 8080 --model base
  voiceforge up --ffmpeg auto                 with AMR, WMA, HE-AAC and others
  voiceforge up --data ./try --models ./models

Variables reach the stages: VOICEFORGE_MAX_DURATION=4h voiceforge up";

/// Runs it.
///
/// # Errors
/// When a program is missing or does not become ready; the message says which and why.
pub async fn run(arguments: Arguments, config: &Config) -> anyhow::Result<ExitCode> {
    let data = arguments.data.clone().unwrap_or_else(|| config.data.clone());
    let folders = models::folders(arguments.models.as_deref(), config, &data);
    let model = models::choose(&folders, arguments.model.as_deref().or(config.model.as_deref()))?;
    if arguments.detach {
        return detach(&arguments, &data).await;
    }
    let folder = model.folder;
    let folder = folder.canonicalize().with_context(|| format!("find {}", folder.display()))?;
    let progress = Progress::new();
    let shutdown = service::shutdown::on_signal(Duration::from_secs(90)).context("listen for signals")?;
    let meter = progress.begin("up");
    meter.activity(&format!("starting Redis, PostgreSQL and the stages in {}", data.display()));
    let notice = progress.clone();
    let mut variables = vec![("VOICEFORGE_MODEL".to_owned(), model.name)];
    variables.extend(arguments.ffmpeg.map(|which| ("VOICEFORGE_FFMPEG".to_owned(), which)));
    let options = Options {
        port: arguments.port,
        variables,
        notice: std::sync::Arc::new(move |line| notice.say(line)),
        ..Options::new(&data, folder)
    };
    let stack = tokio::select! {
        // Its dropped future ends what it had started.
        started = Stack::start(options) => started?,
        () = shutdown.wait() => bail!("stopped before it was ready"),
    };
    std::mem::drop(meter);
    out::line(&format!("ready {}", stack.api_url()))?;
    progress.say("Ctrl-C stops it; `voiceforge help drop` says how to hand audio in");
    shutdown.wait().await;
    progress.say("stopping");
    stack.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Starts this very command again without `--detach`, and waits until it is ready.
async fn detach(arguments: &Arguments, data: &Path) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(data.join("logs"))
        .with_context(|| format!("make {}", data.join("logs").display()))?;
    let log_file = data.join("logs/up.log");
    let log = std::fs::File::create(&log_file).with_context(|| format!("open {}", log_file.display()))?;
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command.arg("up").arg("--data").arg(data);
    if let Some(models) = &arguments.models {
        command.arg("--models").arg(models);
    }
    if let Some(model) = &arguments.model {
        command.arg("--model").arg(model);
    }
    if let Some(which) = &arguments.ffmpeg {
        command.arg("--ffmpeg").arg(which);
    }
    if let Some(port) = arguments.port {
        command.arg("--port").arg(port.to_string());
    }
    // Its own group: what is typed at this terminal does not reach it.
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("start the service")?;
    let stdout = child.stdout.take().context("read what the service says")?;
    let progress = Progress::new();
    let meter = progress.begin("up");
    meter.activity(&format!("starting Redis, PostgreSQL and the stages in {}", data.display()));
    let line = tokio::task::spawn_blocking(move || {
        BufReader::new(stdout).lines().map_while(Result::ok).find(|line| line.starts_with("ready "))
    });
    match line.await.context("read what the service says")? {
        Some(line) => out::line(&line).map(|()| ExitCode::SUCCESS),
        None => {
            let told = std::fs::read_to_string(&log_file).unwrap_or_default();
            bail!("the service did not become ready:\n{}", told.trim())
        }
    }
}
