//! What came of a run.

use std::fmt;

use super::checker::Verdict;
use super::fault::Kind;
use super::inject::Injected;

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What decided the faults and the recordings.
    pub seed: u64,
    /// How long faults were done, seconds.
    pub seconds: u64,
    /// Each fault that was begun.
    pub faults: Vec<Line>,
    /// Kinds of faults that were to be among them.
    pub kinds: Vec<Kind>,
    /// Recordings offered.
    pub offered: usize,
    /// Of these, accepted.
    pub accepted: usize,
    /// Of these, deleted by their clients.
    pub deleted: usize,
    /// And transcribed again because their clients asked for it.
    pub replayed: usize,
    /// Facts in archive and logs.
    pub facts: usize,
    /// Times Redis went back to an earlier state, and the facts that were gone with it.
    pub losses: Vec<u64>,
    /// How long after the last fault everything was done, milliseconds.
    pub settled_ms: u64,
    /// The checker's verdict.
    pub verdict: Verdict,
}

/// A fault that was begun.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it began, milliseconds since the run did.
    pub from_ms: u64,
    /// When it was over.
    pub to_ms: u64,
    /// Its kind.
    pub kind: Kind,
    /// What it was.
    pub what: String,
    /// What came of it.
    pub came: Injected,
}

/// Of the faults that were begun, so many in four must have been done: a run in which little went wrong shows nothing.
const DONE_MIN_IN_4: usize = 3;

impl Report {
    /// Whether nothing was found that must not be, though enough went wrong.
    pub fn is_good(&self) -> bool {
        self.verdict.violations.is_empty() && self.is_hard()
    }

    /// Whether enough of the faults were done.
    fn is_hard(&self) -> bool {
        !self.faults.is_empty() && self.done() * 4 >= self.faults.len() * DONE_MIN_IN_4
    }

    fn done(&self) -> usize {
        self.faults.iter().filter(|line| line.came == Injected::Done).count()
    }

    /// Kinds that were to be among the faults, and of which none was done.
    pub fn missing(&self) -> Vec<Kind> {
        let is_done =
            |kind: &Kind| self.faults.iter().any(|line| line.kind == *kind && line.came == Injected::Done);
        self.kinds.iter().copied().filter(|kind| !is_done(kind)).collect()
    }

    /// One line of a table: see [`HEAD`](Report::HEAD).
    pub fn row(&self) -> String {
        let Verdict { violations, lost_drops, conflicts, done_twice } = &self.verdict;
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {lost_drops} | {conflicts} | {done_twice} | {:.1} | {} |",
            self.seed,
            self.seconds,
            self.done(),
            self.faults.len() - self.done(),
            self.accepted,
            self.deleted,
            self.replayed,
            self.facts,
            self.losses.len(),
            self.settled_ms as f64 / 1000.0,
            match violations.len() {
                0 if self.is_hard() => "good".to_owned(),
                0 => "too few faults done".to_owned(),
                violations => format!("{violations} violations"),
            }
        )
    }

    /// The head of the table.
    pub const HEAD: &str = "| seed | seconds | faults | skipped | accepted | deleted | replayed | facts | rollbacks \
                            | raw drops lost | conflicts | segments done again | settled after, s | verdict |\n\
                            |--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|";
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n", Report::HEAD, self.row())?;
        for line in &self.faults {
            let (from, to) = (line.from_ms as f64 / 1000.0, line.to_ms as f64 / 1000.0);
            let came = match &line.came {
                Injected::Done => "done",
                Injected::Skipped(why) => &format!("not done: {why}"),
            };
            writeln!(f, "{from:7.1} to {to:7.1} s  {:4} {}: {came}", line.kind.row().to_string(), line.what)?;
        }
        let missing: Vec<String> =
            self.missing().iter().map(|kind| format!("{kind:?} ({})", kind.row())).collect();
        if !missing.is_empty() {
            writeln!(f, "\nKinds of which none was done: {}", missing.join(", "))?;
        }
        if !self.losses.is_empty() {
            writeln!(f, "\nRedis went back in time; facts gone each time: {:?}", self.losses)?;
        }
        if !self.is_hard() {
            writeln!(f, "\n{} of {} faults were done: too few.", self.done(), self.faults.len())?;
        }
        if self.verdict.violations.is_empty() {
            return writeln!(f, "\nEverything that must hold holds.");
        }
        writeln!(f, "\n{} violations:", self.verdict.violations.len())?;
        for violation in &self.verdict.violations {
            writeln!(f, "{}: {}", violation.invariant, violation.what)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::checker::Violation;

    fn report(done: usize, skipped: usize) -> Report {
        let line = |kind, came| Line { from_ms: 0, to_ms: 1, kind, what: format!("{kind:?}"), came };
        let mut faults = vec![line(Kind::Kill, Injected::Done); done];
        faults.extend(vec![line(Kind::Trim, Injected::Skipped("nothing to trim".to_owned())); skipped]);
        Report { faults, kinds: vec![Kind::Kill, Kind::Trim], ..Report::default() }
    }

    #[test]
    fn a_run_without_violations_is_good_when_enough_went_wrong() {
        assert!(report(4, 0).is_good() && report(3, 1).is_good());
        for few in [report(2, 1), report(0, 0)] {
            assert!(!few.is_good() && few.row().ends_with("| too few faults done |"), "{few}");
        }
        let mut broken = report(4, 0);
        broken.verdict.violations = vec![Violation { invariant: "I1", what: "gone".to_owned() }];
        assert!(!broken.is_good() && broken.row().ends_with("| 1 violations |"));
    }

    #[test]
    fn what_was_not_done_is_told() {
        let report = report(3, 1);
        assert_eq!(report.missing(), [Kind::Trim]);
        let told = report.to_string();
        assert!(
            told.contains("not done: nothing to trim") && told.contains("none was done: Trim (F18)"),
            "{told}"
        );
        assert!(report.row().starts_with("| 0 | 0 | 3 | 1 |"), "{}", report.row());
    }
}
