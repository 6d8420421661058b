//! Many runs of faults, each on a schedule of its own, and a table of what came of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::bench::{machine, page};
use crate::{cargo, say, setup, stop};

const HELP: &str = "\
  cargo xtask faults --runs N [--seed S] [--minutes M] [--rows F5,F10] [--at-once K] [--publish]
      runs the release programs N times for M minutes (3) under faults that seed S, S+1, ... decides (by default the
      time), of all rows of docs/operations.md or of some. Ten faults a minute, and at least one of each kind. A run
      mostly waits: K of them (1) may go on at once, each with servers of its own. A report for each run, and a page
      about all, go to .voiceforge/faults/; --publish makes that page docs/benchmarks/faults.md, whose notes stay.
      Fails if anything that must hold did not, or if too few faults could be done.
";

/// What to run.
#[derive(Debug, PartialEq)]
struct Options {
    runs: u64,
    seed: u64,
    minutes: f64,
    rows: Vec<String>,
    at_once: usize,
    publish: bool,
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
    let machine = machine::describe();
    let seeds = Mutex::new((options.seed..).take(usize::try_from(options.runs).unwrap_or(usize::MAX)));
    let next = || seeds.lock().ok().and_then(|mut seeds| seeds.next()).filter(|_| !stop::asked());
    let work = || -> Result<()> {
        while let Some(seed) = next() {
            say::note(format_args!("seed {seed}"));
            let report = folder.join(format!("seed-{seed}.txt"));
            let ended = one(&options, seed, &tools.clips, &tools.postgres[0], &report)?;
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            table.add(seed, ended);
            std::fs::write(folder.join(PAGE), table.page(&options, &machine)).context("write the page")?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..options.at_once).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a run panicked")))
    })?;
    let table = table.into_inner().unwrap_or_else(PoisonError::into_inner);
    let text = table.page(&options, &machine);
    if options.publish {
        page::write(PAGE, &text)?;
    } else {
        print!("{text}");
    }
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
        .arg(clips)
        .arg(report)
        .args(&options.rows)
        .env("VOICEFORGE_POSTGRES_BIN", postgres)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let output = command.spawn().context("start voiceforge-faults")?.wait_with_output()?;
    let table = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(match output.status.code() {
        Some(0) => Ended::Good(table),
        Some(1) => Ended::Bad(table),
        _ => Ended::NotDone(output.status.to_string()),
    })
}

fn program() -> PathBuf {
    cargo::programs().join("voiceforge-faults")
}

/// How a run ended: with a table of one row, or without.
enum Ended {
    Good(String),
    Bad(String),
    NotDone(String),
}

/// The table of all runs.
#[derive(Default)]
struct Table {
    /// What the columns are, as the runs tell.
    head: String,
    /// By seed.
    rows: BTreeMap<u64, String>,
    good: usize,
}

const PAGE: &str = "faults.md";

impl Table {
    fn add(&mut self, seed: u64, ended: Ended) {
        let (table, is_good) = match ended {
            Ended::Good(table) => (table, true),
            Ended::Bad(table) => (table, false),
            Ended::NotDone(why) => (format!("| {seed} | not done: {why} |"), false),
        };
        let (head, row) = table.rsplit_once('\n').unwrap_or((&self.head, &table));
        self.rows.insert(seed, row.to_owned());
        self.good += usize::from(is_good);
        self.head = head.to_owned();
    }

    fn is_good(&self) -> bool {
        self.good == self.rows.len()
    }

    /// The sum of a column over the runs that were done.
    fn sum(&self, column: &str) -> u64 {
        let at = self.head.lines().next().and_then(|head| head.split('|').position(|c| c.trim() == column));
        let cell = |row: &String| row.split('|').nth(at?)?.trim().parse::<u64>().ok();
        self.rows.values().filter_map(cell).sum()
    }

    /// A page with what was run, on what machine, and what came of it.
    fn page(&self, options: &Options, machine: &str) -> String {
        let Options { runs, seed, minutes, rows, at_once, .. } = options;
        let of_rows = if rows.is_empty() { String::new() } else { format!(" --rows {}", rows.join(",")) };
        let command = format!(
            "cargo xtask faults --runs {runs} --seed {seed} --minutes {minutes} --at-once {at_once}{of_rows}"
        );
        let [done, skipped, accepted, deleted, replayed, facts, rollbacks, lost] =
            ["faults", "skipped", "accepted", "deleted", "replayed", "facts", "rollbacks", "raw drops lost"]
                .map(|column| self.sum(column));
        let rows = self.rows.values().map(String::as_str).collect::<Vec<_>>().join("\n");
        format!(
            "# Faults\n\n\
             Release programs, several of each stage, two Redis servers, PostgreSQL, and a line to each that can be made bad,\n\
             while clients drop recordings, delete some and have some transcribed again. Each run does the faults of its seed:\n\
             ten a minute, and one of every kind at least. What must hold is in\n\
             [operations](../operations.md#the-fault-table). A seed gives the same faults at the same times, and not the same\n\
             run: what they hit depends on the machine. A fault that found nothing to harm counts as skipped.\n\n\
             Machine: {machine}.\n\n\
             `{command}`\n\n\
             **{} of {} runs good**: {done} faults done and {skipped} skipped, {accepted} recordings accepted, of which {deleted}\n\
             were deleted and {replayed} transcribed again, {facts} facts in the end. Redis went back in time {rollbacks} times;\n\
             {lost} raw drops went with it before anything was projected of them, which is the loss that is declared.\n\n\
             {}\n{rows}\n",
            self.good,
            self.rows.len(),
            self.head,
        )
    }
}

/// `None`: the words are wanted, or needed.
fn parse(arguments: &[&str], now: u64) -> Result<Option<Options>> {
    let mut options =
        Options { runs: 0, seed: now, minutes: 3.0, rows: Vec::new(), at_once: 1, publish: false };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        let mut value = || rest.next().with_context(|| format!("{name} needs a value\n\n{HELP}"));
        match *name {
            "--runs" => options.runs = value()?.parse().context("--runs is a number")?,
            "--seed" => options.seed = value()?.parse().context("--seed is a number")?,
            "--minutes" => options.minutes = value()?.parse().context("--minutes is a number")?,
            "--rows" => options.rows = value()?.split(',').map(str::to_owned).collect(),
            "--publish" => options.publish = true,
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
        let given = ["--runs", "2", "--rows", "F5,F10", "--minutes", "0.5", "--at-once", "4", "--publish"];
        let options = parse(&given, 7).unwrap().unwrap();
        let rows = vec!["F5".to_owned(), "F10".to_owned()];
        assert_eq!(options, Options { runs: 2, seed: 7, minutes: 0.5, rows, at_once: 4, publish: true });
        assert!(parse(&["--runs"], 7).is_err());
        assert!(parse(&["--runs", "2", "--minutes", "-1"], 7).is_err());
        assert!(parse(&["--runs", "2", "--at-once", "0"], 7).is_err());
        assert!(parse(&["--loud"], 7).is_err());
    }

    #[test]
    fn a_page_tells_of_every_run() {
        let head = "| seed | faults | skipped | verdict |\n|--:|--:|--:|---|";
        let options = parse(&["--runs", "3", "--seed", "1"], 7).unwrap().unwrap();
        let mut table = Table::default();
        table.add(2, Ended::Good(format!("{head}\n| 2 | 31 | 1 | good |")));
        table.add(1, Ended::Good(format!("{head}\n| 1 | 32 | 0 | good |")));
        assert!(table.is_good());
        let page = table.page(&options, "a machine");
        assert!(page.contains("**2 of 2 runs good**: 63 faults done and 1 skipped"), "{page}");
        assert!(page.ends_with(&format!("{head}\n| 1 | 32 | 0 | good |\n| 2 | 31 | 1 | good |\n")), "{page}");
        assert!(page.contains("`cargo xtask faults --runs 3 --seed 1 --minutes 3 --at-once 1`"), "{page}");
        table.add(3, Ended::NotDone("exit status: 2".to_owned()));
        let page = table.page(&options, "a machine");
        assert!(!table.is_good() && page.contains("| 3 | not done: exit status: 2 |"), "{page}");
        assert!(page.contains(head), "{page}");
    }
}
