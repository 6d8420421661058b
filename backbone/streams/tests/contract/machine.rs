//! Random lives of a queue: three consumers take, claim, put off, hand back, renew and finish in any order, crash and
//! repeat themselves. The log in memory is the model of the one in Redis: both must answer alike at every step.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use streams::{Backlog, Entry, Outcome};

use super::fixture::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Add,
    Take {
        who: usize,
        count: usize,
    },
    /// Takes what is anybody's: the lease is over.
    Claim {
        who: usize,
        count: usize,
    },
    /// Claims while all leases hold: gets retries that are due and what was handed back.
    ClaimFree {
        who: usize,
    },
    History {
        who: usize,
    },
    /// The rest names an entry among those the consumer believes to hold, by its place.
    Finish {
        who: usize,
        which: usize,
    },
    PutOff {
        who: usize,
        which: usize,
        due: bool,
    },
    HandBack {
        who: usize,
        which: usize,
    },
    Renew {
        who: usize,
    },
    Crash {
        who: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..3usize;
    let which = 0..8usize;
    prop_oneof![
        4 => Just(Step::Add),
        4 => (who.clone(), 1..4usize).prop_map(|(who, count)| Step::Take { who, count }),
        2 => (who.clone(), 1..4usize).prop_map(|(who, count)| Step::Claim { who, count }),
        2 => who.clone().prop_map(|who| Step::ClaimFree { who }),
        1 => who.clone().prop_map(|who| Step::History { who }),
        5 => (who.clone(), which.clone()).prop_map(|(who, which)| Step::Finish { who, which }),
        2 => (who.clone(), which.clone(), any::<bool>()).prop_map(|(who, which, due)| Step::PutOff { who, which, due }),
        2 => (who.clone(), which).prop_map(|(who, which)| Step::HandBack { who, which }),
        1 => who.clone().prop_map(|who| Step::Renew { who }),
        1 => who.prop_map(|who| Step::Crash { who }),
    ]
}

/// What one log answered to one step, in words both logs share.
type Answer = Vec<String>;

/// A queue in one log, with what its consumers believe to hold.
struct Life {
    bench: Bench,
    added: u32,
    held: [Vec<Entry>; 3],
    /// Work to how often it ended.
    ended: BTreeMap<String, u32>,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Life {
    fn of(bench: Bench) -> Life {
        Life { bench, added: 0, held: Default::default(), ended: BTreeMap::new() }
    }

    async fn take_step(&mut self, step: Step) -> Answer {
        let log = std::sync::Arc::clone(&self.bench.log);
        match step {
            Step::Add => {
                let work = requested(self.added);
                self.bench.add(DECODE, &work, u64::from(self.added % 5), u64::from(self.added % 3)).await;
                self.added += 1;
                Vec::new()
            }
            Step::Take { who, count } => {
                let taken = log.take(GROUP, NAMES[who], DECODE, count).await.unwrap();
                self.receive(who, taken)
            }
            Step::Claim { who, count } => {
                let claimed = log.claim(GROUP, NAMES[who], DECODE, Duration::ZERO, count).await.unwrap();
                assert!(claimed.lost.is_empty());
                self.receive(who, claimed.entries)
            }
            Step::ClaimFree { who } => {
                let claimed = log.claim(GROUP, NAMES[who], DECODE, LONG, 9).await.unwrap();
                self.receive(who, claimed.entries)
            }
            Step::History { who } => {
                let own = log.own_pending(GROUP, NAMES[who], DECODE).await.unwrap();
                self.held[who].clear();
                self.receive(who, own)
            }
            Step::Finish { who, which } => {
                let Some(entry) = self.pick(who, which) else { return Vec::new() };
                let work = Life::work_of(&entry);
                let outcome = self.bench.commit(&entry, &[fact(&work, 0)]).await;
                if outcome == Outcome::Done {
                    *self.ended.entry(entry.identity().to_owned()).or_default() += 1;
                }
                vec![format!("{outcome:?}")]
            }
            Step::PutOff { who, which, due } => {
                let Some(entry) = self.pick(who, which) else { return Vec::new() };
                let delay = if due { Duration::ZERO } else { LONG };
                let attempts = entry.attempts + 1;
                vec![log.retry(GROUP, NAMES[who], &entry, attempts, delay).await.unwrap().to_string()]
            }
            Step::HandBack { who, which } => {
                let Some(entry) = self.pick(who, which) else { return Vec::new() };
                log.hand_back(GROUP, NAMES[who], DECODE, &[entry.id]).await.unwrap();
                Vec::new()
            }
            Step::Renew { who } => {
                let ids: Vec<String> = self.held[who].iter().map(|entry| entry.id.clone()).collect();
                let mine = if ids.is_empty() {
                    Vec::new()
                } else {
                    log.heartbeat(GROUP, NAMES[who], DECODE, &ids).await.unwrap()
                };
                mine.into_iter().map(|mine| mine.to_string()).collect()
            }
            Step::Crash { who } => {
                self.held[who].clear();
                Vec::new()
            }
        }
    }

    fn receive(&mut self, who: usize, entries: Vec<Entry>) -> Answer {
        let answer = entries
            .iter()
            .map(|entry| format!("{} {} {}", entry.identity(), entry.deliveries, entry.attempts))
            .collect();
        self.held[who].extend(entries);
        answer
    }

    /// Every other pick leaves the entry in the hand, so that steps are repeated after a lost reply.
    fn pick(&mut self, who: usize, which: usize) -> Option<Entry> {
        let held = &mut self.held[who];
        if held.is_empty() {
            return None;
        }
        let at = which % held.len();
        Some(if which.is_multiple_of(2) { held[at].clone() } else { held.remove(at) })
    }

    fn work_of(entry: &Entry) -> events::Envelope {
        match events::decode(entry.field("event").unwrap()) {
            Ok(events::Decoded::Known(envelope)) => *envelope,
            other => panic!("{other:?}"),
        }
    }

    /// Lets one consumer finish whatever is left, due or not, and looks at the accounts.
    async fn end(mut self) {
        // What is put off for long is taken from its waiting place by moving its time.
        while self.bench.backlog(DECODE).await.entries > 0 {
            let log = &self.bench.log;
            let mut left = log.take(GROUP, "last", DECODE, 99).await.unwrap();
            left.extend(log.claim(GROUP, "last", DECODE, Duration::ZERO, 99).await.unwrap().entries);
            if left.is_empty() {
                self.bench.forget_due_times().await;
            }
            for entry in left {
                let work = Life::work_of(&entry);
                assert_eq!(self.bench.commit(&entry, &[fact(&work, 0)]).await, Outcome::Done);
                *self.ended.entry(entry.identity().to_owned()).or_default() += 1;
            }
        }
        let once: BTreeMap<String, u32> =
            (0..self.added).map(|number| (requested(number).event_id.to_string(), 1)).collect();
        assert_eq!(self.ended, once, "each piece of work ends exactly once");
        assert_eq!(self.bench.seqs(), (1..=u64::from(self.added)).collect::<Vec<_>>());
        assert_eq!(self.bench.backlog(DECODE).await, Backlog::default());
        assert!(self.bench.claim("last", Duration::ZERO).await.is_empty(), "nothing is pending");
    }
}

impl Bench {
    /// Lets every retry be due.
    async fn forget_due_times(&self) {
        match &self.server {
            Some(server) => server.ask::<()>(&["DEL", &DECODE.attempts(GROUP)]),
            None => tokio::time::advance(LONG).await,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_logs_live_alike(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Time in memory stands still, and in Redis too little passes for a long lease to end.
        runtime.block_on(async {
            let Some(redis) = Bench::redis().await else { return };
            let mut redis = Life::of(redis);
            tokio::time::pause();
            let mut memory = Life::of(Bench::memory().await);
            for (at, step) in steps.iter().enumerate() {
                let expected = memory.take_step(*step).await;
                tokio::time::resume();
                let found = redis.take_step(*step).await;
                tokio::time::pause();
                assert_eq!(found, expected, "step {at}: {step:?}");
            }
            memory.end().await;
            tokio::time::resume();
            redis.end().await;
        });
    }
}
