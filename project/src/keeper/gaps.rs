//! Finds facts that are gone from a log although the archive never got them: an operator's XTRIM or XDEL, a database
//! restored from an older backup, a Redis that lost what it had acknowledged.
//!
//! Nothing can bring them back, so they are told, once and loudly, and noted as a gap: whoever waits for the archive to
//! be without holes goes on. Sequence numbers alone tell of them; clocks and stream ids do not matter.

use std::collections::{HashMap, HashSet};

use anyhow::Context;
use events::Shard;
use streams::SharedLog;
use views::Views;

use crate::metrics;

/// Looks for gaps in every log, and remembers what it saw last time.
#[derive(Default)]
pub struct Gaps {
    suspected: HashMap<Shard, (u64, u64)>,
    /// Logs that gave numbers again when they were last looked at: each time that begins is told once.
    back: HashSet<Shard>,
    /// Places that had two events when this was last looked at. More of them tell of a log that gave numbers again and has
    /// caught up between two looks.
    conflicts: HashMap<Shard, u64>,
}

/// What a look at one log found.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// Nothing is missing, or it may still be on its way.
    Fine,
    /// Facts `first..=last` are neither in the archive nor in the log.
    Lost { first: u64, last: u64 },
    /// The log gives, or gave since the last look, numbers again that the archive has.
    WentBack,
}

impl Gaps {
    /// Looks into every log; notes what is lost.
    ///
    /// # Errors
    /// When the database or Redis does not answer.
    pub async fn look(&mut self, log: &SharedLog, views: &Views) -> anyhow::Result<()> {
        let conflicts = views.count_conflicts().await.context("count the places with two facts")?;
        for shard in (0..log.shards()).map(Shard) {
            let archived = views.archived_through(shard).await.context("read how far the archive reaches")?;
            let next = log.facts(shard, archived, 1).await.context("read the log")?;
            let next = next.first().and_then(|fact| fact.text("seq")?.parse().ok());
            let last = log.last_seq(shard).await.context("read the log's last number")?;
            let conflicts = conflicts.get(&shard).copied().unwrap_or_default();
            match self.judge(shard, archived, next, last, conflicts) {
                Finding::Fine => {}
                Finding::Lost { first, last } => {
                    tracing::error!(
                        %shard, first, last,
                        "facts are gone from the log that were never archived: somebody removed them from Redis, or \
                         the database is older than the log. They are lost, and noted in control.gaps. Transcriptions \
                         that miss their end are begun again by themselves; hand in again what came through Redis in \
                         that time and is not in `voiceforge list`. Let nobody but the keeper trim these streams"
                    );
                    let reason = "gone from the log before they were archived";
                    views.declare_gap(shard, first, last, reason).await.context("note a gap")?;
                    metrics::lost_facts(last - first + 1);
                }
                Finding::WentBack => {
                    metrics::went_back();
                    tracing::error!(
                        %shard, archived, last,
                        "the log gives numbers again that are archived: Redis lost writes that it had acknowledged. \
                         Drops that came through the API are handed in again; hand those in again yourself that came \
                         through Redis in that time. See that Redis keeps what it acknowledges: appendfsync always, and \
                         min-replicas-to-write where it has replicas"
                    );
                }
            }
        }
        Ok(())
    }

    /// Judges one log by the seq that the archive reaches, that of the first fact above it, the last one given, and how
    /// many places had two events. A fact may be in a projector's hands though it is gone from the log, so it takes two
    /// looks to call it lost.
    fn judge(
        &mut self,
        shard: Shard,
        archived: u64,
        next: Option<u64>,
        last: u64,
        conflicts: u64,
    ) -> Finding {
        let before = self.suspected.remove(&shard);
        let conflicted = self.conflicts.insert(shard, conflicts).is_some_and(|before| before < conflicts);
        if last < archived || conflicted {
            return if self.back.insert(shard) { Finding::WentBack } else { Finding::Fine };
        }
        self.back.remove(&shard);
        let until = next.map_or(last, |next| next - 1);
        if until <= archived {
            return Finding::Fine;
        }
        let missing = (archived + 1, until);
        match before {
            Some((first, last)) if first == missing.0 => Finding::Lost { first, last: last.min(until) },
            _ => {
                self.suspected.insert(shard, missing);
                Finding::Fine
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_twice_is_lost() {
        let mut gaps = Gaps::default();
        let mut look = |archived, next, last| gaps.judge(Shard(3), archived, next, last, 0);
        assert_eq!(look(0, None, 0), Finding::Fine, "nothing was ever told");
        assert_eq!(look(0, Some(1), 9), Finding::Fine, "it waits to be read");
        assert_eq!(look(5, Some(8), 9), Finding::Fine, "6 and 7 may be in somebody's hands");
        assert_eq!(look(7, Some(8), 9), Finding::Fine, "as they were");
        assert_eq!(look(7, Some(12), 20), Finding::Fine);
        assert_eq!(look(7, Some(14), 20), Finding::Lost { first: 8, last: 11 }, "12 and 13 went only now");
        assert_eq!(look(11, Some(14), 20), Finding::Fine);
        assert_eq!(look(11, Some(14), 20), Finding::Lost { first: 12, last: 13 });
        assert_eq!(look(13, None, 20), Finding::Fine, "the whole rest is gone");
        assert_eq!(look(13, None, 22), Finding::Lost { first: 14, last: 20 });
        assert_eq!(look(20, None, 20), Finding::Fine);
    }

    #[test]
    fn a_log_that_goes_back_is_told_of_once_each_time() {
        let mut gaps = Gaps::default();
        let mut look = |archived, last, conflicts| gaps.judge(Shard(0), archived, None, last, conflicts);
        assert_eq!(look(100, 4, 7), Finding::WentBack);
        assert_eq!(look(100, 30, 7), Finding::Fine, "it is known");
        assert_eq!(look(100, 90, 8), Finding::Fine, "these are the places that it gives again");
        assert_eq!(look(100, 101, 9), Finding::Fine, "it catches up");
        assert_eq!(look(101, 101, 9), Finding::Fine);
        assert_eq!(look(101, 12, 9), Finding::WentBack, "another time");
        assert_eq!(look(101, 101, 9), Finding::Fine);
    }

    #[test]
    fn a_log_that_went_back_and_caught_up_between_two_looks_is_told_of() {
        let mut gaps = Gaps::default();
        let mut look = |shard, conflicts| gaps.judge(Shard(shard), 100, None, 100, conflicts);
        assert_eq!(look(0, 3), Finding::Fine, "from before this keeper looked");
        assert_eq!(look(0, 3), Finding::Fine);
        assert_eq!(look(0, 4), Finding::WentBack);
        assert_eq!(look(0, 5), Finding::Fine, "the same time");
        assert_eq!(look(1, 0), Finding::Fine);
        assert_eq!(look(1, 1), Finding::WentBack, "each log for itself");
        assert_eq!(look(0, 5), Finding::Fine);
        assert_eq!(look(0, 6), Finding::WentBack, "another time");
    }
}
