//! The read side: how fast facts are folded live, and how fast all of them are folded again.

use std::fmt::Write;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{machine, page};
use crate::services::Services;
use crate::{cargo, say, setup, stop};

/// Segments a second that live traffic must reach.
const PROJECTION_TARGET: f64 = 5_000.0;
/// Facts a second that a rebuild must reach.
const REBUILD_TARGET: f64 = 10_000.0;

/// Measures the project stage.
pub fn projection(options: &[&str]) -> Result<ExitCode> {
    let events = events(options, 100_000)?;
    let machine = machine::describe();
    let services = prepare()?;
    let mut table = String::from(
        "| server | facts | seconds | facts a second | of the target | processor time per fact: project, server |\n\
         |---|---|---|---|---|---|\n",
    );
    // The WebAssembly build of TimescaleDB is slow, and keeps everything in memory.
    let few = events.min(10_000);
    for (url, pid, shared, events) in [
        (services.postgres_url(), services.postgres_pid(), false, events),
        (services.timescale_url(), services.timescale_pid(), true, few),
    ] {
        let report = measure("projection", &url, pid, shared, events)?;
        table += &row(&report, PROJECTION_TARGET)?;
    }
    let text = format!(
        "# Projection\n\nThe project stage over a log in memory that is full (what Redis adds: latency.md, memory.md), until every fact is folded and archived: segments of 75 words \
         with times (20 to a\nrecording, with the recording's own two facts), full-text index, inbox, archive, durable \
         commits.\nTarget: {PROJECTION_TARGET:.0} a second. `cargo xtask bench projection --events {events}` wrote this.\n\n\
         Machine: {}.\n\n{table}\nTimescaleDB runs here in a WebAssembly build of PostgreSQL with one session: what it shows is that the \
         same code\nworks there, and how much slower that build is, not how fast a TimescaleDB server is.\n",
        machine,
    );
    page::write("projection.md", &text)
}

/// Measures a rebuild.
pub fn rebuild(options: &[&str]) -> Result<ExitCode> {
    let events = events(options, 1_000_000)?;
    let machine = machine::describe();
    let services = prepare()?;
    let report = measure("rebuild", &services.postgres_url(), services.postgres_pid(), false, events)?;
    let mut text = format!(
        "# Rebuild\n\n`voiceforge reproject` over an archive of segments of 75 words with times (20 to a recording), \
         nothing else going on.\nTarget: {REBUILD_TARGET:.0} facts a second, folded and indexed. `cargo xtask bench rebuild \
         --events {events}` wrote this.\n\nMachine: {}.\n\n| step | seconds | facts a second | processor time per fact: reproject, server |\n|---|---|---|---|\n",
        machine,
    );
    let count = report["events"].as_f64().context("it counts facts")?;
    let (mut folded, mut all) = (0.0, 0.0);
    for step in report["steps"].as_array().context("it tells the steps")? {
        let (name, seconds) = (step[0].as_str().unwrap_or_default(), step[1].as_f64().unwrap_or_default());
        all += seconds;
        if matches!(name, "folding the archive" | "making indexes") {
            folded += seconds;
        }
        let rate = count / seconds.max(0.001);
        writeln!(text, "| {name} | {seconds:.1} | {rate:.0} | {} |", processor(&step[2], count))?;
    }
    writeln!(text, "| **folded and indexed** | {folded:.1} | **{:.0}** | |", count / folded.max(0.001))?;
    writeln!(text, "| all, compared and switched | {all:.1} | {:.0} | |", count / all.max(0.001))?;
    writeln!(text, "\nServer: {}. {count:.0} facts.", report["server"].as_str().unwrap_or_default())?;
    page::write("rebuild.md", &text)
}

fn events(options: &[&str], default: u32) -> Result<u32> {
    match options {
        [] => Ok(default),
        ["--events", count] => {
            count.parse().with_context(|| format!("--events takes a number, not {count:?}"))
        }
        _ => bail!("only `--events N` can be given"),
    }
}

fn prepare() -> Result<Services> {
    stop::on_signal()?;
    let tools = setup::for_tests()?;
    say::title("building what measures");
    cargo::run(&["build", "--release", "--workspace", "--example", "measure"])?;
    Services::start_durable(&tools)
}

fn measure(what: &str, database: &str, server: u32, shared: bool, events: u32) -> Result<Value> {
    say::title(format_args!("{what}: {events} facts"));
    let mut command = std::process::Command::new(cargo::programs().join("examples/measure"));
    command.args([what, "--database", database, "--events", &events.to_string()]);
    command.args(["--server", &server.to_string()]);
    if shared {
        command.arg("--shared");
    }
    let output = command.stderr(Stdio::inherit()).output().context("run what measures")?;
    if !output.status.success() {
        bail!("the measurement failed");
    }
    serde_json::from_slice(&output.stdout).context("understand what was measured")
}

fn row(report: &Value, target: f64) -> Result<String> {
    let [events, seconds] = ["events", "seconds"].map(|name| report[name].as_f64());
    let (events, seconds) = events.zip(seconds).context("it tells facts and seconds")?;
    let rate = events / seconds;
    let server = report["server"].as_str().unwrap_or_default();
    let server = server.split(';').next().unwrap_or_default();
    let (share, processor) = (100.0 * rate / target, processor(&report["processor_s"], events));
    Ok(format!("| {server} | {events:.0} | {seconds:.1} | **{rate:.0}** | {share:.0} % | {processor} |\n"))
}

/// Seconds of client and server as microseconds per fact.
fn processor(seconds: &Value, events: f64) -> String {
    let us = |at: usize| seconds[at].as_f64().unwrap_or_default() * 1e6 / events;
    format!("{:.0} us, {:.0} us", us(0), us(1))
}
