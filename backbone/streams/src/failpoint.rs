//! Places where a test has a program die: an aid for fault tests, in release builds too, because those are tested.
//!
//! `VOICEFORGE_FAIL_AT=commit.before` aborts the process, as a crash would, when it gets there for the first time;
//! `commit.before:7` the seventh time. `heartbeat.skip` does not abort: from that beat on the worker renews no lease
//! and lives on, as a program that is stopped or cut off does. Several points are separated by commas. Unset, a point
//! costs one look at a static.
//!
//! [`POINTS`] lists every point; a name that is not among them is refused when the program starts.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The variable that names the points.
pub const VARIABLE: &str = "VOICEFORGE_FAIL_AT";

/// Every point, with the moment it stands for.
pub const POINTS: &[(&str, &str)] = &[
    ("read.after", "new entries are assigned to this worker, and it knows of them"),
    ("claim.after", "entries of silent workers, or due retries, are assigned to this worker"),
    ("history.after", "own history was read"),
    ("work.before", "the stage is about to get its deliveries"),
    ("emit.before", "a part of a decode is about to be emitted"),
    ("emit.after", "the part is emitted and its reply is here"),
    ("commit.before", "a delivery is about to end, in its outputs or in the dead letters"),
    ("commit.after", "it ended and the reply is here"),
    ("dead.before", "an entry is about to go to the dead letters"),
    ("retry.before", "a delivery is about to be put off"),
    ("retry.after", "it is put off"),
    ("hand_back.before", "a delivery is about to be handed back"),
    ("hand_back.after", "it is handed back"),
    ("ack.before", "facts are committed in SQL and about to be acknowledged"),
    ("ack.after", "they are acknowledged"),
    ("heartbeat.before", "leases are about to be renewed"),
    ("heartbeat.skip", "leases are renewed no more, and the worker lives on"),
    ("submit.before", "a drop is about to be handed in"),
    ("submit.after", "it is handed in"),
    ("admit.before", "a recording is about to be admitted or rejected"),
    ("admit.after", "it is admitted or rejected, and its drop not yet acknowledged"),
    ("outcome.after", "what became of a drop can be read, and it is not yet acknowledged"),
    ("append.before", "an act's facts and work are about to be appended"),
    ("append.after", "they are appended"),
    ("unwant.before", "a deletion or cancellation is about to be marked and told"),
    ("unwant.after", "it is marked and told"),
    ("erase.before", "the erasure of a recording begins in Redis"),
    ("erase.page", "one page of an erasure is done"),
    ("erase.after", "a recording is erased from Redis, and nobody noted it"),
    ("revive.before", "a dead letter is about to be revived"),
    ("revive.after", "it is revived"),
    ("trim.before", "a log is about to be trimmed"),
    ("trim.after", "it is trimmed"),
    ("apply.before", "a batch of facts is about to be applied in SQL"),
    ("apply.after", "it is committed in SQL and not acknowledged"),
    ("reproject.archive", "the first facts of a rebuild's archive are folded"),
    ("reproject.log", "a rebuild caught up with the log"),
    ("reproject.verify", "a rebuild compared all rows"),
    ("reproject.switch", "a rebuild is about to switch to its version"),
    ("reproject.switched", "it switched"),
    ("reproject.drop", "a version of the read side is about to be dropped"),
];

/// Dies here if the test said so.
pub fn reach(point: &'static str) {
    if let Some(plan) = PLAN.as_ref()
        && plan.is_due(point)
    {
        eprintln!("{VARIABLE}: aborting at {point}");
        std::process::abort();
    }
}

/// Tells whether what follows is to be left out, from now on, because the test said so.
pub fn skips(point: &'static str) -> bool {
    PLAN.as_ref().is_some_and(|plan| plan.is_over(point))
}

/// Refuses a plan that names what is not a point; says so loudly where one is set.
///
/// # Errors
/// A message for people.
pub fn check() -> Result<(), String> {
    let Ok(text) = std::env::var(VARIABLE) else { return Ok(()) };
    Plan::read(&text)?;
    tracing::warn!(points = text, "{VARIABLE} is set: this program will die on purpose");
    Ok(())
}

static PLAN: LazyLock<Option<Plan>> = LazyLock::new(|| {
    let plan = Plan::read(&std::env::var(VARIABLE).ok()?).ok()?;
    (!plan.faults.is_empty()).then_some(plan)
});

struct Plan {
    faults: Vec<Fault>,
}

struct Fault {
    point: &'static str,
    /// The time it takes effect, from 1.
    nth: u64,
    reached: AtomicU64,
}

impl Plan {
    fn read(text: &str) -> Result<Plan, String> {
        let faults = text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(Fault::read);
        Ok(Plan { faults: faults.collect::<Result<_, _>>()? })
    }

    fn is_due(&self, point: &str) -> bool {
        self.faults.iter().filter(|fault| fault.point == point).any(|fault| fault.count() == fault.nth)
    }

    fn is_over(&self, point: &str) -> bool {
        self.faults.iter().filter(|fault| fault.point == point).any(|fault| fault.count() >= fault.nth)
    }
}

impl Fault {
    fn read(item: &str) -> Result<Fault, String> {
        let (name, nth) = item.split_once(':').unwrap_or((item, "1"));
        let known = POINTS.iter().find(|(point, _)| *point == name);
        let nth = nth.parse().ok().filter(|&nth: &u64| nth > 0);
        match (known, nth) {
            (Some((point, _)), Some(nth)) => Ok(Fault { point, nth, reached: AtomicU64::new(0) }),
            (None, _) => {
                let names: Vec<&str> = POINTS.iter().map(|(point, _)| *point).collect();
                Err(format!("{VARIABLE}: {name:?} is not a point; the points are {}", names.join(", ")))
            }
            _ => Err(format!("{VARIABLE}: {item:?} must be <point> or <point>:<n> with n from 1")),
        }
    }

    /// Counts a visit and returns its number, from 1.
    fn count(&self) -> u64 {
        self.reached.fetch_add(1, Ordering::Relaxed) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_due_once_at_its_time() {
        let plan = Plan::read("commit.before:3, emit.after").unwrap();
        let visits = |point| (0..5).map(|_| plan.is_due(point)).collect::<Vec<_>>();
        assert_eq!(visits("commit.before"), [false, false, true, false, false]);
        assert_eq!(visits("emit.after"), [true, false, false, false, false]);
        assert_eq!(visits("commit.after"), [false; 5]);
        let plan = Plan::read("heartbeat.skip:2").unwrap();
        let skipped: Vec<bool> = (0..4).map(|_| plan.is_over("heartbeat.skip")).collect();
        assert_eq!(skipped, [false, true, true, true]);
    }

    #[test]
    fn a_plan_that_makes_no_sense_is_refused() {
        for bad in ["commit", "commit.before:0", "commit.before:x", "emit.after,nothing"] {
            assert!(Plan::read(bad).is_err(), "{bad}");
        }
        assert!(Plan::read(" , ").unwrap().faults.is_empty());
    }

    #[test]
    fn points_have_one_meaning_each() {
        let names: std::collections::BTreeSet<_> = POINTS.iter().map(|(point, _)| point).collect();
        assert_eq!(names.len(), POINTS.len());
    }
}
