//! Every test, against real servers, models and recordings.

use std::io::{BufRead, BufReader};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::services::Services;
use crate::{cargo, say, setup, stop};

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
    let mut report = Report::default();
    for line in BufReader::new(stdout).lines() {
        if let Some(line) = report.read(line.context("read what cargo test says")?) {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    drop(services);
    if filter.is_none() {
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
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Report {
    /// Takes a line; gives it back when it is for the reader. The output of tests that passed is not, except where
    /// it says that the test skipped.
    fn read(&mut self, line: String) -> Option<String> {
        if line == "successes:" {
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

    fn closing(mut self) -> Vec<String> {
        self.skipped.sort();
        self.skipped.dedup_by_key(|line| line.split(": ").next().unwrap_or_default().to_owned());
        let (passed, failed, skipped) = (self.passed, self.failed, self.skipped.len() as u64 + self.ignored);
        let mut lines = self.skipped;
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
    fn a_test_that_skipped_is_not_counted_as_passed() {
        check(
            "test a ... ok\n\nsuccesses:\n\n---- a stdout ----\nchatter\nskipped: no Redis\n\n\nsuccesses:\n    a\n    b\n\n\
             test result: ok. 2 passed; 0 failed; 0 ignored;",
            "test a ... ok\n\ntest result: ok. 2 passed; 0 failed; 0 ignored;",
            &["a: skipped: no Redis", "1 passed, 0 failed, 1 skipped"],
        );
    }
}
