//! `voiceforge status`: how what `up` started is doing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::config::Config;
use crate::out;
use crate::progress::clock;
use crate::stack::{Program, Record, Stack};
use crate::wishes::Server;

/// Which one.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Folder it was started with (default: VOICEFORGE_DATA, else ~/.local/share/voiceforge)
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
Each program is shown with the address where it is used, if it has one, and with its admin port, \
which tells its health and metrics. The exit code is 0 when every program is ready, else 1.

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
    /// Where it is used.
    address: Option<String>,
    /// Where it tells its health and metrics.
    admin: Option<SocketAddr>,
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
    let programs = programs(&record, &not_ready);
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
        false => out::line(&text(&report))?,
    }
    Ok(if report.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn programs(record: &Record, not_ready: &[(Program, String)]) -> Vec<ProgramReport> {
    let all = Program::SERVERS.into_iter().chain(Program::STAGES);
    all.map(|program| {
        let process = record.programs.get(&program);
        ProgramReport {
            program,
            pid: process.map(|process| process.pid),
            address: address(record, program),
            admin: process.and_then(|process| process.admin),
            problem: not_ready.iter().find(|(other, _)| *other == program).map(|(_, why)| why.clone()),
        }
    })
    .collect()
}

fn address(record: &Record, program: Program) -> Option<String> {
    match program {
        Program::Redis => Some(record.redis_url.clone()),
        Program::Api => Some(record.api_url.clone()),
        // The URL of PostgreSQL holds its password.
        program => record.port(program).map(|port| format!("127.0.0.1:{port}")),
    }
}

async fn backlog(api: &str, arguments: &Arguments, config: &Config) -> anyhow::Result<Backlog> {
    let key = Server { server: None, api_key: arguments.api_key.clone() }.key(config);
    let client = Client::at(api.parse().context("read the API's address")?, key)?;
    Ok(client.get("/v1/backlog", &[]).await?)
}

fn text(report: &Report) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let mut rows = vec![["program", "pid", "address", "admin", "state"].map(str::to_owned).to_vec()];
    for program in &report.programs {
        rows.push(vec![
            program.program.to_string(),
            or_dash(program.pid.map(|pid| pid.to_string())),
            or_dash(program.address.clone()),
            or_dash(program.admin.map(|admin| admin.to_string())),
            program.problem.clone().unwrap_or_else(|| "ready".to_owned()),
        ]);
    }
    let table = out::columns(&rows);
    if !report.running {
        return format!("{table}\nnothing runs; `voiceforge up` starts it again with its data");
    }
    let backlog = match (&report.backlog, &report.backlog_problem) {
        (Some(Backlog { total, .. }), _) => {
            format!("{} entries, {} of audio", total.entries, clock(total.audio_ms as f64 / 1000.0))
        }
        (None, problem) => format!("not known: {}", problem.as_deref().unwrap_or("the API does not tell")),
    };
    format!("{table}\nbacklog  {backlog}\nlogs     {}", report.logs.display())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::stack::Process;

    #[test]
    fn each_program_stands_beside_the_address_where_it_is_used() {
        let process = |pid, admin: Option<u16>| Process {
            pid,
            started: 0,
            admin: admin.map(|port| ([127, 0, 0, 1], port).into()),
        };
        let record = Record {
            keeper: process(1, None),
            api_url: "http://127.0.0.1:8080".to_owned(),
            redis_url: "redis://127.0.0.1:4002".to_owned(),
            database_url: "postgres://voiceforge:secret@127.0.0.1:4003/voiceforge".to_owned(),
            logs: PathBuf::from("/data/logs"),
            models: None,
            programs: [
                (Program::Redis, process(11, None)),
                (Program::Postgres, process(12, None)),
                (Program::Ingest, process(13, Some(5001))),
                (Program::Api, process(14, Some(5002))),
            ]
            .into(),
        };
        let not_ready = [(Program::Decode, "not started".to_owned())];
        let mut report = Report {
            running: true,
            ready: false,
            programs: programs(&record, &not_ready),
            api_url: record.api_url,
            redis_url: record.redis_url,
            logs: record.logs,
            backlog: None,
            backlog_problem: None,
        };
        report.programs.retain(|row| row.pid.is_some() || row.problem.is_some());
        expect![[r#"
            program   pid  address                 admin           state
            redis     11   redis://127.0.0.1:4002  -               ready
            postgres  12   127.0.0.1:4003          -               ready
            ingest    13   -                       127.0.0.1:5001  ready
            decode    -    -                       -               not started
            api       14   http://127.0.0.1:8080   127.0.0.1:5002  ready

            backlog  not known: the API does not tell
            logs     /data/logs"#]]
        .assert_eq(&text(&report));
        report.running = false;
        assert!(text(&report).ends_with("`voiceforge up` starts it again with its data"));
    }
}
