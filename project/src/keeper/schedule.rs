//! When something that waits for an end is to be begun again: at growing pauses, so that what can never end costs little.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, SystemTime};

/// The longest pause between two beginnings of the same thing.
const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// When each of some things is due next, and how long to wait after that.
pub struct Schedule<Thing> {
    first_pause: Duration,
    due: HashMap<Thing, (SystemTime, Duration)>,
}

impl<Thing: Eq + Hash> Schedule<Thing> {
    /// Makes a schedule in which a thing is due `first_pause` after it began to wait.
    pub fn new(first_pause: Duration) -> Schedule<Thing> {
        Schedule { first_pause, due: HashMap::new() }
    }

    /// Tells whether a thing that waits since `since` is due now; each time the next pause is longer.
    pub fn is_due(&mut self, thing: Thing, since: SystemTime, now: SystemTime) -> bool {
        let first = (since + self.first_pause, self.first_pause);
        let (due, pause) = self.due.entry(thing).or_insert(first);
        if now < *due {
            return false;
        }
        *pause = (*pause * 2).min(PAUSE_MAX);
        *due = now + *pause;
        true
    }

    /// Forgets the others.
    pub fn keep(&mut self, waits: impl Fn(&Thing) -> bool) {
        self.due.retain(|thing, _| waits(thing));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_due_at_growing_pauses() {
        let mut schedule = Schedule::new(Duration::from_secs(60));
        let since = SystemTime::UNIX_EPOCH;
        let due: Vec<u64> = (0..=100_000)
            .step_by(30)
            .filter(|&second| schedule.is_due("d", since, since + Duration::from_secs(second)))
            .collect();
        assert_eq!(due[..6], [60, 180, 420, 900, 1860, 3780]);
        let last = &due[due.len() - 2..];
        assert_eq!(last[1] - last[0], 3600, "at least once an hour");
        schedule.keep(|_| false);
        assert!(schedule.is_due("d", since, since + Duration::from_secs(60)), "it is as if it were new");
    }
}
