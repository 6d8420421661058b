//! What came of a run.

use std::fmt;

use super::checker::Verdict;

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What decided the faults and the recordings.
    pub seed: u64,
    /// How long faults were done, seconds.
    pub seconds: u64,
    /// Each fault: when it began and ended in milliseconds, what it was, what came of it.
    pub faults: Vec<Line>,
    /// Recordings offered.
    pub offered: usize,
    /// Of these, accepted.
    pub accepted: usize,
    /// Facts in archive and logs.
    pub facts: usize,
    /// Times Redis went back to an earlier state, and the facts that were gone with it.
    pub losses: Vec<u64>,
    /// How long after the last fault everything was done, milliseconds.
    pub settled_ms: u64,
    /// The checker's verdict.
    pub verdict: Verdict,
}

/// A fault that was done.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it began, milliseconds since the run did.
    pub from_ms: u64,
    /// When it was over.
    pub to_ms: u64,
    /// The row it is of.
    pub row: String,
    /// What it was.
    pub what: String,
    /// What came of it.
    pub came: String,
}

impl Report {
    /// Whether nothing was found that must not be.
    pub fn is_good(&self) -> bool {
        self.verdict.violations.is_empty()
    }

    /// One line of a table: see [`HEAD`](Report::HEAD).
    pub fn row(&self) -> String {
        let Verdict { violations, lost_drops, conflicts, done_twice } = &self.verdict;
        format!(
            "| {} | {} | {} | {} | {} | {} | {lost_drops} | {conflicts} | {done_twice} | {:.1} | {} |",
            self.seed,
            self.seconds,
            self.faults.iter().filter(|line| line.came == "done").count(),
            self.accepted,
            self.facts,
            self.losses.len(),
            self.settled_ms as f64 / 1000.0,
            if violations.is_empty() {
                "good".to_owned()
            } else {
                format!("{} violations", violations.len())
            }
        )
    }

    /// The head of the table.
    pub const HEAD: &str = "| seed | seconds | faults | accepted | facts | rollbacks | raw drops lost | conflicts \
                            | segments done again | settled after, s | verdict |\n\
                            |--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|";
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n", Report::HEAD, self.row())?;
        for line in &self.faults {
            let (from, to) = (line.from_ms as f64 / 1000.0, line.to_ms as f64 / 1000.0);
            writeln!(f, "{from:7.1} to {to:7.1} s  {:4} {}: {}", line.row, line.what, line.came)?;
        }
        if !self.losses.is_empty() {
            writeln!(f, "\nRedis went back in time; facts gone each time: {:?}", self.losses)?;
        }
        if self.is_good() {
            return writeln!(f, "\nEverything that must hold holds.");
        }
        writeln!(f, "\n{} violations:", self.verdict.violations.len())?;
        for violation in &self.verdict.violations {
            writeln!(f, "{}: {}", violation.invariant, violation.what)?;
        }
        Ok(())
    }
}
