//! Every test, against real servers, models and recordings.

use std::io::{BufRead, BufReader};
use std::process::{ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use servers::process::children;

use crate::services::Services;
use crate::{cargo, say, setup, stop};

/// A test program that says nothing for so long hangs. The longest test takes half of it.
const SILENCE_MAX: Duration = Duration::from_secs(600);

/// What to do with the expectations written in the tests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Expectations {
    /// A difference fails the test.
    Check,
    /// A difference is written into the source.
    Update,
}

/// Runs them all, or those whose name contains the filter.
pub fn run(filter: Option<&str>, expectations: Expectations) -> Result<ExitCode> {
    stop::on_signal()?;
    let tools = setup::for_tests()?;
    let services = Services::start(&tools)?;
    say::title("building programs and tests");
    // One call, so that both come from one choice of features and every dependency is compiled once.
    cargo::run(&["build", "--release", "--workspace", "--bins", "--tests"])?;

    say::title("running the tests");
    let mut command = cargo::command();
    // Examples are compiled by the lint; here they would cost minutes.
    command.args(["test", "--release", "--workspace", "--no-fail-fast", "--tests"]);
    command.args(filter);
    // Shown so that a test which skipped can be told from one that passed.
    command.args(["--", "--show-output"]);
    command.envs(services.variables(&tools));
    if filter.is_some() {
        // Whoever names tests has the time for those that are long.
        command.env("VOICEFORGE_TEST_ROWS", "1");
    }
    if expectations == Expectations::Update {
        command.env("UPDATE_EXPECT", "1");
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("run cargo test")?;
    let stdout = child.stdout.take().context("read what cargo test says")?;
    let (tell, lines) = mpsc::channel();
    let reading = thread::spawn(move || BufReader::new(stdout).lines().try_for_each(|line| tell.send(line)));
    let mut report = Report::default();
    loop {
        match lines.recv_timeout(SILENCE_MAX) {
            Ok(line) => {
                if let Some(line) = report.read(line.context("read what cargo test says")?) {
                    println!("{line}");
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                // Cargo goes on with the next program.
                for program in children(child.id()) {
                    program.end(Signal::SIGKILL, Duration::ZERO);
                }
                report.hung();
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    // It ends with the lines, and a reader that is gone is this one.
    let _ = reading.join();
    let status = child.wait()?;
    drop(services);
    if filter.is_none() && !stop::asked() {
        say::title("running the examples in the documentation");
        cargo::run(&["test", "--release", "--workspace", "--doc", "--quiet"])?;
    }
    for line in report.closing() {
        println!("{line}");
    }
    Ok(if status.success() && !stop::asked() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Follows what `cargo test -- --show-output` prints.
#[derive(Default)]
struct Report {
    in_output_of_passed: bool,
    test: String,
    skipped: Vec<String>,
    /// Tests of the present program that have been running for over a minute.
    long: Vec<String>,
    hung: Vec<String>,
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Report {
    /// Takes a line; gives it back when it is for the reader. The output of tests that passed is not, except where
    /// it says that the test skipped.
    fn read(&mut self, line: String) -> Option<String> {
        if let Some((name, _)) =
            line.strip_prefix("test ").and_then(|line| line.split_once(" has been running for"))
        {
            self.long.push(name.to_owned());
        } else if let Some((name, _)) = line.strip_prefix("test ").and_then(|line| line.split_once(" ... ")) {
            self.long.retain(|long| long != name);
        } else if line == "successes:" {
            self.in_output_of_passed = true;
        } else if line == "failures:" {
            self.in_output_of_passed = false;
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.in_output_of_passed = false;
            self.passed += count(result, " passed");
            self.failed += count(result, " failed");
            self.ignored += count(result, " ignored");
        } else if self.in_output_of_passed {
            if let Some(name) = line.strip_prefix("---- ").and_then(|l| l.strip_suffix(" stdout ----")) {
                self.test = name.to_owned();
            } else if line.starts_with("skipped: ") {
                self.skipped.push(format!("{}: {line}", self.test));
                self.passed = self.passed.wrapping_sub(1);
            }
        }
        (!self.in_output_of_passed).then_some(line)
    }

    /// The present program was killed because it said nothing any more.
    fn hung(&mut self) {
        let minutes = SILENCE_MAX.as_secs() / 60;
        let tests = std::mem::take(&mut self.long);
        self.failed += tests.len().max(1) as u64;
        let tests = if tests.is_empty() { "some test".to_owned() } else { tests.join(", ") };
        self.hung.push(format!("killed after {minutes} minutes without a word: {tests}"));
        self.in_output_of_passed = false;
    }

    fn closing(mut self) -> Vec<String> {
        self.skipped.sort();
        self.skipped.dedup_by_key(|line| line.split(": ").next().unwrap_or_default().to_owned());
        let (passed, failed, skipped) = (self.passed, self.failed, self.skipped.len() as u64 + self.ignored);
        let mut lines = self.skipped;
        lines.append(&mut self.hung);
        lines.push(format!("{passed} passed, {failed} failed, {skipped} skipped"));
        lines
    }
}

/// The number before `what` in `ok. 3 passed; 0 failed; 1 ignored; ...`.
fn count(result: &str, what: &str) -> u64 {
    let before = result.split(what).next().unwrap_or_default();
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Report;

    fn check(given: &str, shown: &str, closing: &[&str]) {
        let mut report = Report::default();
        let lines: Vec<String> = given.lines().filter_map(|line| report.read(line.to_owned())).collect();
        assert_eq!(lines.join("\n"), shown);
        assert_eq!(report.closing(), closing);
    }

    #[test]
    fn results_of_all_packages_are_added_up() {
        check(
            "test a ... ok\ntest result: ok. 2 passed; 0 failed; 1 ignored; 0 measured\n\
             test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured",
            "test a ... ok\ntest result: ok. 2 passed; 0 failed; 1 ignored; 0 measured\n\
             test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured",
            &["5 passed, 1 failed, 1 skipped"],
        );
    }

    #[test]
    fn a_test_that_hangs_is_named_and_counts_as_failed() {
        let mut report = Report::default();
        for line in [
            "test a has been running for over 60 seconds",
            "test b has been running for over 60 seconds",
            "test a ... ok",
        ] {
            assert_eq!(report.read(line.to_owned()).as_deref(), Some(line));
        }
        report.hung();
        assert_eq!(
            report.closing(),
            ["killed after 10 minutes without a word: b", "0 passed, 1 failed, 0 skipped"]
        );
    }

    #[test]
    fn a_test_that_skipped_is_not_counted_as_passed() {
        check(
            "test a ... ok\n\nsuccesses:\n\n---- a stdout ----\nchatter\nskipped: no Redis\n\n\nsuccesses:\n    a\n    b\n\n\
             test result: ok. 2 passed; 0 failed; 0 ignored;",
            "test a ... ok\n\ntest result: ok. 2 passed; 0 failed; 0 ignored;",
            &["a: skipped: no Redis", "1 passed, 0 failed, 1 skipped"],
        );
    }
}
