//! One hop: events a second through read, handle and commit, beside Celery on the same Redis; and segments of speech.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use servers::{Redis, redis};

use super::{machine, page};
use crate::{cargo, say, setup};

const ROUNDS: usize = 5;
const EVENTS: u32 = 100_000;
const TASKS: u32 = 10_000;
const SEGMENTS: u32 = 1_200;

/// One measured round.
struct Round {
    per_second: f64,
    /// Microseconds of processor time for each event, in the worker and in Redis.
    worker: f64,
    redis: f64,
}

/// Measures, prints, and writes the page.
pub fn run() -> Result<ExitCode> {
    let machine = machine::describe();
    let server = setup::redis()?;
    let python = setup::celery()?;
    say::title("building the example");
    // The whole workspace, so that no dependency is built again with other features.
    cargo::run(&["build", "--release", "--workspace", "--example", "hop"])?;
    let mut rows: Vec<(&str, Vec<Round>)> = Vec::new();
    let ours = |flow: &'static str, count: u32| {
        measure(flow, &server, |url| {
            let mut hop = Command::new(cargo::programs().join("examples/hop"));
            hop.args([url, flow, &count.to_string()]);
            hop
        })
    };
    let theirs = |flow: &'static str, pool: &str| {
        measure(flow, &server, |url| {
            let mut noop = Command::new(&python);
            noop.arg("backbone/streams/compare/celery_noop.py").args([url, pool, &TASKS.to_string()]);
            noop
        })
    };
    rows.push(("ack", ours("ack", EVENTS)?));
    rows.push(("pass", ours("pass", EVENTS)?));
    rows.push(("celery solo", theirs("celery solo", "solo")?));
    rows.push(("celery prefork", theirs("celery prefork", "prefork")?));
    rows.push(("speech", ours("speech", SEGMENTS)?));
    let versions = format!(
        "{}; Celery {}",
        machine::version_of(Command::new(&server).arg("--version")),
        machine::version_of(Command::new(&python).args(["-m", "celery", "--version"]))
    );
    let page = text(&machine, &versions, &rows);
    page::write("hop.md", &page)
}

/// Runs a program some rounds, each on a fresh server with the settings of `voiceforge up`.
fn measure(flow: &str, server: &Path, program: impl Fn(&str) -> Command) -> Result<Vec<Round>> {
    let mut rounds = Vec::new();
    for number in 1..=ROUNDS {
        let folder = std::env::temp_dir().join(format!("voiceforge-hop-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let redis = Redis::start(&redis::Options {
            program: server.to_owned(),
            folder: folder.clone(),
            log: folder.with_extension("log"),
            port: None,
            durable: true,
            settings: Vec::new(),
        })?;
        let url = format!("redis://127.0.0.1:{}/0", redis.port());
        let output =
            program(&url).stderr(Stdio::inherit()).output().with_context(|| format!("run {flow}"))?;
        drop(redis);
        let _ = std::fs::remove_dir_all(&folder);
        let _ = std::fs::remove_file(folder.with_extension("log"));
        if !output.status.success() {
            bail!("{flow} failed");
        }
        let said: Value =
            serde_json::from_slice(&output.stdout).with_context(|| format!("read what {flow} says"))?;
        let number_of = |name: &str| said[name].as_f64().unwrap_or(0.0);
        let count = number_of("count");
        let round = Round {
            per_second: count / number_of("seconds"),
            worker: number_of("worker_cpu") / count * 1e6,
            redis: number_of("redis_cpu") / count * 1e6,
        };
        say::note(format_args!("{flow}, round {number}: {:.0} a second", round.per_second));
        rounds.push(round);
    }
    Ok(rounds)
}

fn text(machine: &str, versions: &str, rows: &[(&str, Vec<Round>)]) -> String {
    let rate = |flow: &str| {
        rows.iter()
            .find(|(name, _)| *name == flow)
            .map_or(0.0, |(_, rounds)| median(rounds, |r| r.per_second))
    };
    let mut page = String::from("# One hop\n\nWritten by `cargo xtask bench hop`.\n\n");
    let _ = writeln!(page, "Machine: {machine}.\n{versions}.\n");
    page += "One worker process, one shard, one Redis with the settings of `voiceforge up` (every write in an \
             append-only file, synced each second). Each figure is the median of the rounds, with the lowest and the \
             highest.\n\n";
    page += "| flow | a second | lowest | highest | worker, µs of CPU each | Redis, µs of CPU each |\n|---|---|---|---|---|---|\n";
    for (flow, rounds) in rows {
        let rates: Vec<f64> = rounds.iter().map(|round| round.per_second).collect();
        let _ = writeln!(
            page,
            "| {} | {:.0} | {:.0} | {:.0} | {} | {} |",
            what(flow),
            median(rounds, |r| r.per_second),
            rates.iter().copied().fold(f64::INFINITY, f64::min),
            rates.iter().copied().fold(0.0, f64::max),
            shown(median(rounds, |r| r.worker)),
            shown(median(rounds, |r| r.redis)),
        );
    }
    let celery = rate("celery solo").max(rate("celery prefork"));
    let _ = writeln!(
        page,
        "\nAn event that passes nothing on is through {:.1} times as fast as Celery's task (its faster pool), one that \
         passes a fact and work on {:.1} times.",
        rate("ack") / celery,
        rate("pass") / celery
    );
    page
}

fn what(flow: &str) -> &str {
    match flow {
        "ack" => "event read, handled, committed; nothing passed on",
        "pass" => "event read, handled, committed with one fact and one piece of work",
        "celery solo" => "Celery task that does nothing, acks_late, pool solo",
        "celery prefork" => "Celery task that does nothing, acks_late, pool prefork of one",
        "speech" => "segment with 960 KB of speech: emitted, read, committed with a fact",
        other => other,
    }
}

fn shown(number: f64) -> String {
    if number > 0.0 { format!("{number:.1}") } else { "–".to_owned() }
}

fn median(rounds: &[Round], of: impl Fn(&Round) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
