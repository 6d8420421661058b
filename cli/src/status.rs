//! `voiceforge status`: how what `up` started is doing.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::config::Config;
use crate::out;
use crate::progress::clock;
use crate::stack::{Program, Stack};
use crate::wishes::Server;

/// Which one.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Folder it was started with
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Key for the API, which tells the backlog (default: VOICEFORGE_API_KEY)
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
    /// Tell it as JSON
    #[arg(long)]
    pub json: bool,
}

const EXAMPLES: &str = "\
The exit code is 0 when every program is ready, else 1.

Examples:
  voiceforge status
  voiceforge status --data ./try --json";

#[derive(Debug, Serialize)]
struct Report {
    running: bool,
    ready: bool,
    api_url: String,
    redis_url: String,
    logs: PathBuf,
    programs: Vec<ProgramReport>,
    /// Undone work; none when the API does not tell.
    backlog: Option<Backlog>,
    backlog_problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct ProgramReport {
    program: Program,
    pid: Option<u32>,
    address: Option<String>,
    problem: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Backlog {
    queues: serde_json::Value,
    total: Total,
}

#[derive(Debug, Deserialize, Serialize)]
struct Total {
    entries: u64,
    audio_ms: u64,
    bytes: u64,
}

/// Runs it.
///
/// # Errors
/// When nothing was ever started there.
pub async fn run(arguments: Arguments, config: &Config) -> anyhow::Result<ExitCode> {
    let data = arguments.data.clone().unwrap_or_else(|| config.data.clone());
    let stack = Stack::attach(&data)?;
    let record = stack.record().clone();
    let (running, not_ready) = tokio::task::spawn_blocking(move || (stack.is_kept(), stack.not_ready()))
        .await
        .context("ask the programs")?;
    let programs = Program::SERVERS.into_iter().chain(Program::STAGES).map(|program| {
        let process = record.programs.get(&program);
        let admin = process.and_then(|process| process.admin).map(|admin| admin.to_string());
        ProgramReport {
            program,
            pid: process.map(|process| process.pid),
            address: admin.or_else(|| record.port(program).map(|port| format!("127.0.0.1:{port}"))),
            problem: not_ready.iter().find(|(other, _)| *other == program).map(|(_, why)| why.clone()),
        }
    });
    let programs: Vec<_> = programs.collect();
    let (backlog, backlog_problem) = match backlog(&record.api_url, &arguments, config).await {
        Ok(backlog) => (Some(backlog), None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    let report = Report {
        running,
        ready: running && not_ready.is_empty(),
        api_url: record.api_url,
        redis_url: record.redis_url,
        logs: record.logs,
        programs,
        backlog,
        backlog_problem,
    };
    match arguments.json {
        true => out::line(&serde_json::to_string(&report).context("write the report")?)?,
        false => tell(&report)?,
    }
    Ok(if report.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn backlog(api: &str, arguments: &Arguments, config: &Config) -> anyhow::Result<Backlog> {
    let key = Server { server: None, api_key: arguments.api_key.clone() }.key(config);
    let client = Client::at(api.parse().context("read the API's address")?, key)?;
    Ok(client.get("/v1/backlog", &[]).await?)
}

fn tell(report: &Report) -> anyhow::Result<()> {
    let mut rows = vec![["program", "pid", "address", "state"].map(str::to_owned).to_vec()];
    for program in &report.programs {
        rows.push(vec![
            program.program.to_string(),
            program.pid.map_or("-".to_owned(), |pid| pid.to_string()),
            program.address.clone().unwrap_or_else(|| "-".to_owned()),
            program.problem.clone().unwrap_or_else(|| "ready".to_owned()),
        ]);
    }
    out::table(&rows)?;
    if !report.running {
        return out::line("\nnothing runs; `voiceforge up` starts it again with its data");
    }
    let backlog = match (&report.backlog, &report.backlog_problem) {
        (Some(Backlog { total, .. }), _) => {
            format!("{} entries, {} of audio", total.entries, clock(total.audio_ms as f64 / 1000.0))
        }
        (None, problem) => format!("not known: {}", problem.as_deref().unwrap_or("the API does not tell")),
    };
    out::line(&format!(
        "\nbacklog  {backlog}\nAPI      {}\nlogs     {}",
        report.api_url,
        report.logs.display()
    ))
}
