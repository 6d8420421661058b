//! A log in memory with facts in it, and the project stage over it.

use std::sync::Arc;

use events::{Envelope, Event, Shard};
use project::project::Project;
use streams::memory::MemoryLog;
use streams::stage::{Inlet, Options};
use streams::{Append, Appended, Message, SharedLog};
use tokio_util::sync::CancellationToken;
use views::{Entry, Views};

use crate::given::Log;

/// Writes facts as stages do: each shard numbers its own.
pub struct Writer {
    pub log: SharedLog,
    shards: Vec<Log>,
}

impl Writer {
    pub fn new(shards: u16) -> Writer {
        let log: SharedLog = Arc::new(MemoryLog::new(shards));
        Writer { log, shards: (0..shards).map(Log::new).collect() }
    }

    fn shard(&mut self, n: u32) -> &mut Log {
        let at = n as usize % self.shards.len();
        &mut self.shards[at]
    }

    /// Appends a fact of recording `n`.
    pub async fn write(&mut self, n: u32, generation: u32, round: u32, event: impl Into<Event>) -> Envelope {
        let envelope = self.shard(n).envelope(n, generation, round, event);
        self.append(&envelope).await;
        envelope
    }

    /// Appends all facts of a whole recording.
    pub async fn whole(&mut self, n: u32, texts: &[&str]) {
        for entry in self.shard(n).whole(n, texts) {
            self.append(&entry.envelope().expect("the type is known")).await;
        }
    }

    /// Appends a fact as it is.
    pub async fn append(&self, envelope: &Envelope) {
        let append = Append {
            shard: envelope.shard,
            recording: envelope.recording,
            facts: vec![Message::fact(envelope).expect("it is small")],
            work: None,
        };
        assert_eq!(self.log.append(&append).await.expect("the memory log takes it"), Appended::Done);
    }

    /// Everything in the log of a shard.
    pub async fn entries(&self, shard: Shard) -> Vec<Entry> {
        let facts = self.log.facts(shard, 0, 100_000).await.expect("the memory log answers");
        facts
            .iter()
            .map(|fact| {
                let seq = fact.text("seq").and_then(|seq| seq.parse().ok()).expect("facts are numbered");
                Entry::read(shard, seq, fact.field("event").expect("facts hold events"))
                    .expect("it is readable")
            })
            .collect()
    }

    /// Waits until the archive has every fact.
    pub async fn archived(&self, views: &Views) {
        for shard in (0..self.log.shards()).map(Shard) {
            let last = self.entries(shard).await.last().map_or(0, Entry::seq);
            while views.archived_through(shard).await.expect("the database answers") < last {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    }
}

/// Runs the project stage until it is told to stop.
pub fn run_project(log: SharedLog, views: Views, stop: CancellationToken) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let stage = Arc::new(Project::start(views, 100));
        streams::stage::run(log, stage, Options::new("project", Inlet::Facts), stop).await.expect("it runs");
    })
}
