//! Many runs of faults, each on a schedule of its own, and a table of what came of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::{cargo, say, setup, stop};

const HELP: &str = "\
  cargo xtask faults --runs N [--seed S] [--minutes M] [--rows F5,F10] [--at-once K]
      runs the release programs N times for M minutes (3) under faults that seed S, S+1, ... decides (by default the
      time), of all rows of docs/operations.md or of some. Ten faults a minute. A run mostly waits: K of them (1) may go
      on at once, each with servers of its own. A report for each run, and the table of all, go to .voiceforge/faults/.
      Fails if anything that must hold did not.
";

/// What to run.
#[derive(Debug, PartialEq)]
struct Options {
    runs: u64,
    seed: u64,
    minutes: f64,
    rows: Vec<String>,
    at_once: usize,
}

/// The chore.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let Some(options) = parse(arguments, now)? else {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    stop::on_signal()?;
    let tools = setup::for_tests()?;
    say::title("building the programs");
    cargo::run(&["build", "--release", "--workspace", "--bins"])?;
    let folder = crate::cache().join("faults");
    std::fs::create_dir_all(&folder).with_context(|| format!("make folder {}", folder.display()))?;
    let table = Mutex::new(Table::default());
    let seeds = Mutex::new((options.seed..).take(usize::try_from(options.runs).unwrap_or(usize::MAX)));
    let next = || seeds.lock().ok().and_then(|mut seeds| seeds.next()).filter(|_| !stop::asked());
    let work = || -> Result<()> {
        while let Some(seed) = next() {
            say::note(format_args!("seed {seed}"));
            let report = folder.join(format!("seed-{seed}.txt"));
            let ended = one(&options, seed, &tools.clips, &tools.postgres[0], &report)?;
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            table.add(seed, ended);
            std::fs::write(folder.join("table.md"), table.text()).context("write the table")?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..options.at_once).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a run panicked")))
    })?;
    let table = table.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{}", table.text());
    say::note(format_args!("reports are in {}", folder.display()));
    Ok(if table.is_good() && !stop::asked() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the program of one run said: its row of the table, or why there is none.
fn one(options: &Options, seed: u64, clips: &Path, postgres: &Path, report: &Path) -> Result<Ended> {
    let seconds = (options.minutes * 60.0).round();
    let mut command = Command::new(program());
    command
        .arg(seed.to_string())
        .arg(seconds.to_string())
        .arg((options.minutes * 10.0).ceil().to_string())
        .arg(clips)
        .arg(report)
        .args(&options.rows)
        .env("VOICEFORGE_POSTGRES_BIN", postgres)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let output = command.spawn().context("start voiceforge-faults")?.wait_with_output()?;
    let row = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(match output.status.code() {
        Some(0) => Ended::Good(row),
        Some(1) => Ended::Bad(row),
        _ => Ended::NotDone(output.status.to_string()),
    })
}

fn program() -> PathBuf {
    cargo::programs().join("voiceforge-faults")
}

/// How a run ended.
enum Ended {
    Good(String),
    Bad(String),
    NotDone(String),
}

/// The table of all runs.
#[derive(Default)]
struct Table {
    /// By seed.
    rows: BTreeMap<u64, String>,
    good: usize,
}

impl Table {
    fn add(&mut self, seed: u64, ended: Ended) {
        let row = match ended {
            Ended::Good(row) => {
                self.good += 1;
                row
            }
            Ended::Bad(row) => row,
            Ended::NotDone(why) => format!("| {seed} | | | | | | | | | | not done: {why} |"),
        };
        self.rows.insert(seed, row);
    }

    fn is_good(&self) -> bool {
        self.good == self.rows.len()
    }

    fn text(&self) -> String {
        const HEAD: &str = "| seed | seconds | faults | accepted | facts | rollbacks | raw drops lost | conflicts \
                            | segments done again | settled after, s | verdict |\n\
                            |--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|";
        let rows = self.rows.values().map(String::as_str).collect::<Vec<_>>().join("\n");
        format!("{HEAD}\n{rows}\n\n{} of {} runs good\n", self.good, self.rows.len())
    }
}

/// `None`: the words are wanted, or needed.
fn parse(arguments: &[&str], now: u64) -> Result<Option<Options>> {
    let mut options = Options { runs: 0, seed: now, minutes: 3.0, rows: Vec::new(), at_once: 1 };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        let mut value = || rest.next().with_context(|| format!("{name} needs a value\n\n{HELP}"));
        match *name {
            "--runs" => options.runs = value()?.parse().context("--runs is a number")?,
            "--seed" => options.seed = value()?.parse().context("--seed is a number")?,
            "--minutes" => options.minutes = value()?.parse().context("--minutes is a number")?,
            "--rows" => options.rows = value()?.split(',').map(str::to_owned).collect(),
            "--at-once" => options.at_once = value()?.parse().context("--at-once is a number")?,
            other => bail!("`{other}` is not understood\n\n{HELP}"),
        }
    }
    let length = Duration::try_from_secs_f64(options.minutes * 60.0).unwrap_or_default();
    if options.runs > 0 && length < Duration::from_secs(1) {
        bail!("--minutes must be more than {}", options.minutes);
    }
    if options.at_once == 0 {
        bail!("--at-once must be at least 1");
    }
    Ok((options.runs > 0).then_some(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        assert_eq!(parse(&[], 7).unwrap(), None);
        let options = parse(&["--runs", "2", "--rows", "F5,F10", "--minutes", "0.5", "--at-once", "4"], 7)
            .unwrap()
            .unwrap();
        let rows = vec!["F5".to_owned(), "F10".to_owned()];
        assert_eq!(options, Options { runs: 2, seed: 7, minutes: 0.5, rows, at_once: 4 });
        assert!(parse(&["--runs"], 7).is_err());
        assert!(parse(&["--runs", "2", "--minutes", "-1"], 7).is_err());
        assert!(parse(&["--runs", "2", "--at-once", "0"], 7).is_err());
        assert!(parse(&["--loud"], 7).is_err());
    }

    #[test]
    fn a_table_is_good_when_every_run_is() {
        let mut table = Table::default();
        table.add(1, Ended::Good("| 1 |".to_owned()));
        assert!(table.is_good() && table.text().ends_with("1 of 1 runs good\n"));
        table.add(2, Ended::NotDone("exit status: 2".to_owned()));
        assert!(!table.is_good() && table.text().contains("not done: exit status: 2"));
    }
}
