//! How everything stands: what a live view and an autoscaler ask.

use std::collections::BTreeMap;
use std::time::Duration;

use events::{Lane, Shard};
use jiff::Timestamp;

use crate::dead::DeadPlace;
use crate::keys::{Queue, Source};
use crate::log::Backlog;

/// How all streams of a deployment stand at about one moment.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Every queue: drops, then the work of each shard and lane.
    pub queues: Vec<QueueState>,
    /// Every shard's log.
    pub logs: Vec<LogState>,
    /// Number of dead letters in each place.
    pub dead: Vec<(DeadPlace, u64)>,
    /// Bytes of memory Redis uses.
    pub memory_bytes: u64,
    /// Its limit in bytes; `None` without one.
    pub memory_limit_bytes: Option<u64>,
}

/// A queue and who reads it.
#[derive(Clone, Debug)]
pub struct QueueState {
    /// The queue.
    pub source: Source,
    /// Work that is not done, delivered or not.
    pub backlog: Backlog,
    /// Entries ever done.
    pub done: u64,
    /// When the oldest entry came that is not done; of drops only while somebody has one in hand.
    pub oldest_at: Option<Timestamp>,
    /// Its readers.
    pub groups: Vec<GroupState>,
}

/// A shard's log and who reads it.
#[derive(Clone, Debug)]
pub struct LogState {
    /// The shard.
    pub shard: Shard,
    /// Facts it holds.
    pub length: u64,
    /// The lowest `seq` it holds, `None` when it is empty.
    pub first_seq: Option<u64>,
    /// The highest `seq` ever given, 0 before the first fact.
    pub last_seq: u64,
    /// Its readers.
    pub groups: Vec<GroupState>,
}

/// A consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    /// The stage's name.
    pub name: String,
    /// Entries delivered and not done.
    pub pending: u64,
    /// Entries never delivered: counted by us, because the server's own `lag` may be wrong.
    pub unread: u64,
    /// Who reads for the group.
    pub consumers: Vec<ConsumerState>,
}

/// A worker as its group knows it. `retry` and `handoff` are no workers: under these names entries wait to be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerState {
    /// `host:pid:uuid`.
    pub name: String,
    /// Entries delivered to it and not done.
    pub pending: u64,
    /// How long ago it last gave a sign of life in this stream.
    pub idle: Duration,
}

/// A queue over all shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueTotal {
    /// The kind of queue.
    pub queue: Queue,
    /// Its lane.
    pub lane: Lane,
    /// Work that is not done, delivered or not.
    pub backlog: Backlog,
    /// Entries of it that are delivered.
    pub in_progress: u64,
    /// Entries ever done.
    pub done: u64,
    /// When the oldest entry came that is not done.
    pub oldest_at: Option<Timestamp>,
}

/// A worker over everything it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its stage.
    pub stage: String,
    /// `host:pid:uuid`.
    pub name: String,
    /// Entries delivered to it and not done.
    pub in_progress: u64,
    /// How long ago it last gave a sign of life.
    pub idle: Duration,
}

/// A worker gives a sign of life every few seconds. One that was silent for so long and holds nothing is gone: who is
/// killed leaves a name behind.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Names under which entries wait to be claimed, and which are no workers.
const NOBODY: [&str; 2] = ["retry", "handoff"];

impl Survey {
    /// Adds each kind of queue and lane up over all shards, in the order audio passes them.
    pub fn totals(&self) -> Vec<QueueTotal> {
        let mut totals: Vec<QueueTotal> = Vec::new();
        for state in &self.queues {
            let (queue, lane) = match state.source {
                Source::Ingest(lane) => (Queue::Ingest, lane),
                Source::Queue(_, queue, lane) => (queue, lane),
                Source::Log(_) => continue,
            };
            let at = totals.iter().position(|total| (total.queue, total.lane) == (queue, lane));
            let at = at.unwrap_or_else(|| {
                let backlog = Backlog::default();
                totals.push(QueueTotal { queue, lane, backlog, in_progress: 0, done: 0, oldest_at: None });
                totals.len() - 1
            });
            let total = &mut totals[at];
            total.backlog += state.backlog;
            total.in_progress += state.groups.iter().map(|group| group.pending).sum::<u64>();
            total.done += state.done;
            total.oldest_at = [total.oldest_at, state.oldest_at].into_iter().flatten().min();
        }
        totals
    }

    /// Returns everybody who reads anything, by stage and name; who is gone and left nothing in progress is left out.
    pub fn workers(&self) -> Vec<Worker> {
        let groups = self.queues.iter().flat_map(|queue| &queue.groups);
        let groups = groups.chain(self.logs.iter().flat_map(|log| &log.groups));
        let mut workers: BTreeMap<(&str, &str), (u64, Duration)> = BTreeMap::new();
        for group in groups {
            for consumer in
                group.consumers.iter().filter(|consumer| !NOBODY.contains(&consumer.name.as_str()))
            {
                let nothing = (0, Duration::MAX);
                let known = workers.entry((&group.name, &consumer.name)).or_insert(nothing);
                *known = (known.0 + consumer.pending, known.1.min(consumer.idle));
            }
        }
        let worker = |((stage, name), (in_progress, idle)): ((&str, &str), (u64, Duration))| Worker {
            stage: stage.to_owned(),
            name: name.to_owned(),
            in_progress,
            idle,
        };
        let is_there = |worker: &Worker| worker.in_progress > 0 || worker.idle <= SILENCE_MAX;
        workers.into_iter().map(worker).filter(is_there).collect()
    }

    /// Adds up what each group has to read of the logs: name, unread, delivered and not done.
    pub fn readers(&self) -> Vec<(String, u64, u64)> {
        let mut readers: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for group in self.logs.iter().flat_map(|log| &log.groups) {
            let known = readers.entry(&group.name).or_default();
            *known = (known.0 + group.unread, known.1 + group.pending);
        }
        readers.into_iter().map(|(name, (unread, pending))| (name.to_owned(), unread, pending)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_and_workers_are_added_up_over_shards() {
        let consumer = |name: &str, pending, idle| ConsumerState {
            name: name.to_owned(),
            pending,
            idle: Duration::from_secs(idle),
        };
        let state = |shard, entries, oldest: i64, consumers: Vec<ConsumerState>| QueueState {
            source: Source::Queue(Shard(shard), Queue::Decode, Lane::Batch),
            backlog: Backlog { entries, audio_ms: entries * 1000, bytes: 0 },
            done: 5,
            oldest_at: Timestamp::from_second(oldest).ok(),
            groups: vec![GroupState {
                name: "decode".to_owned(),
                pending: consumers.iter().map(|consumer| consumer.pending).sum(),
                unread: 0,
                consumers,
            }],
        };
        let survey = Survey {
            queues: vec![
                state(
                    0,
                    3,
                    20,
                    vec![consumer("a", 1, 9), consumer("retry", 1, 99), consumer("killed", 0, 61)],
                ),
                state(1, 4, 10, vec![consumer("a", 0, 70), consumer("b", 2, 1), consumer("stuck", 1, 61)]),
            ],
            ..Survey::default()
        };
        let [total] = survey.totals().try_into().unwrap();
        assert_eq!((total.backlog.entries, total.backlog.audio_ms), (7, 7000));
        assert_eq!((total.in_progress, total.done), (5, 10), "what waits to be claimed is in progress, too");
        assert_eq!(total.oldest_at, Timestamp::from_second(10).ok());
        let workers = survey.workers();
        let told: Vec<_> =
            workers.iter().map(|w| (w.name.as_str(), w.in_progress, w.idle.as_secs())).collect();
        assert_eq!(told, [("a", 1, 9), ("b", 2, 1), ("stuck", 1, 61)], "who holds something is told of");
    }
}
