//! `voiceforge-faults`: one run of faults on a seeded schedule. `cargo xtask faults` runs it many times.
//!
//! Usage: `voiceforge-faults SEED SECONDS CLIPS REPORT [ROW...]`. Exit code 0: everything held. 1: something did
//! not, and REPORT says what. 2: the run could not be done.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::faults::Report;
use e2e::faults::run::{Options, run};
use service::shutdown::on_signal;

fn main() -> ExitCode {
    match start() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn start() -> Result<bool> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &'static str| args.next().with_context(|| format!("{what} is missing"));
    let options = Options {
        seed: next("SEED")?.parse().context("read SEED")?,
        length: Duration::from_secs(next("SECONDS")?.parse().context("read SECONDS")?),
        clips: PathBuf::from(next("CLIPS")?),
        rows: Vec::new(),
    };
    let file = PathBuf::from(next("REPORT")?);
    let rows = args.map(|row| row.parse()).collect::<Result<Vec<_>>>()?;
    let options = Options { rows, ..options };
    let shutdown = on_signal(Duration::ZERO).context("take signals")?;
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = run(&options) => report,
            // Dropping the run kills what it started.
            () = shutdown.wait() => anyhow::bail!("interrupted"),
        }
    })?;
    std::fs::write(&file, report.to_string()).with_context(|| format!("write {}", file.display()))?;
    println!("{}\n{}", Report::HEAD, report.row());
    Ok(report.is_good())
}
