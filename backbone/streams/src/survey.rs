//! How everything stands: what a live view and an autoscaler ask.

use std::time::Duration;

use events::Shard;

use crate::dead::DeadPlace;
use crate::keys::Source;
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
    /// How long ago it last asked for anything.
    pub idle: Duration,
}
