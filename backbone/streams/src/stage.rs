//! The loop that all stages share.
//!
//! [`run`] hands a [`Stage`] its [`Delivery`]s, never more than it has slots for. Each delivery ends by
//! [`finish`](Delivery::finish), [`fail`](Delivery::fail), [`retry_after`](Delivery::retry_after) or
//! [`hand_back`](Delivery::hand_back), in any order, so that a continuous batcher, a streaming decoder and a
//! one-transaction projector all use the same loop. A delivery that is dropped without an end (a panic) is retried.
//!
//! The loop renews the leases of everything in hand from a thread of its own, claims what silent workers left,
//! reads its own history after every read error, pauses lanes under pressure, and on shutdown returns once the work
//! in hand is committed or handed back.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use events::{Cause, Lane, Shard};
use tokio_util::sync::CancellationToken;

use crate::keys::{Queue, Source};
use crate::log::{Error, SharedLog};
use crate::pressure;

mod delivery;
mod hand;
mod heart;
mod intake;
mod watch;

pub use delivery::{Delivery, Ended, Outputs, Part};

use delivery::Context;
use hand::Hand;
use intake::Intake;
use watch::Pauses;

/// What a program does with its deliveries.
#[async_trait]
pub trait Stage: Send + Sync + 'static {
    /// How many deliveries it can have in hand at once, now.
    fn slots(&self) -> usize;

    /// Works on deliveries and ends each of them. Called on a task of its own.
    async fn process(&self, deliveries: Vec<Delivery>);

    /// Ends a delivery that killed its workers or made them panic again and again: by default it goes to the dead
    /// letters.
    async fn give_up(&self, delivery: Delivery, cause: Cause) {
        delivery.fail(cause).await;
    }
}

/// What a stage reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inlet {
    /// Drops, in the lanes `rt` and `batch`.
    Drops,
    /// Work, in all lanes of all shards.
    Queue(Queue),
    /// The facts of all shards.
    Facts,
}

impl Inlet {
    /// Returns the sources of one blocking reader each: one per shard, or one for drops.
    fn sources(self, shards: u16) -> Vec<Vec<Source>> {
        let all = (0..shards).map(Shard);
        match self {
            Inlet::Drops => vec![vec![Source::Ingest(Lane::Rt), Source::Ingest(Lane::Batch)]],
            Inlet::Queue(queue) => all
                .map(|shard| Lane::ALL.iter().map(|&lane| Source::Queue(shard, queue, lane)).collect())
                .collect(),
            Inlet::Facts => all.map(|shard| vec![Source::Log(shard)]).collect(),
        }
    }
}

/// How a stage reads and how patient it is.
#[derive(Clone, Debug)]
pub struct Options {
    /// The stage's name: its consumer group, and the word in logs and metrics.
    pub name: &'static str,
    /// What it reads.
    pub inlet: Inlet,
    /// The queue it feeds, watched for pressure.
    pub outlet: Option<Queue>,
    /// When it pauses.
    pub limits: pressure::Limits,
    /// This worker's name, unique for each start: `host:pid:uuid`.
    pub worker: String,
    /// A worker silent for so long loses its work to others.
    pub lease: Duration,
    /// How often leases are renewed.
    pub beat: Duration,
    /// How often an entry may fail before it is given up.
    pub max_attempts: u32,
    /// How long an idle reader waits in one go.
    pub block: Duration,
    /// How often work of silent workers and due retries are looked for.
    pub claim_every: Duration,
    /// How long work in hand may take to end after shutdown was asked for.
    pub grace: Duration,
}

impl Options {
    /// Returns the defaults: lease 15 s, heartbeat 5 s, 5 attempts, grace 20 s.
    pub fn new(name: &'static str, inlet: Inlet) -> Options {
        Options {
            name,
            inlet,
            outlet: None,
            limits: pressure::Limits::default(),
            worker: worker_name(),
            lease: Duration::from_secs(15),
            beat: Duration::from_secs(5),
            max_attempts: 5,
            block: Duration::from_secs(1),
            claim_every: Duration::from_millis(500),
            grace: Duration::from_secs(20),
        }
    }

    /// Sets the lease, and the heartbeat to a third of it.
    pub fn with_lease(self, lease: Duration) -> Options {
        Options { lease, beat: lease / 3, ..self }
    }

    /// Fits the end into `total`, the time the whole program has for it: work in hand gets most, and enough is left to
    /// come back from a blocked read before and to hand back what is unfinished after.
    pub fn ending_within(self, total: Duration) -> Options {
        Options {
            grace: total.saturating_sub(GIVE_UP_ON_REDIS * 2 + self.block).max(total / 2),
            block: self.block.min(total / 4),
            ..self
        }
    }
}

/// Returns `host:pid:uuid`: readable, and never used twice.
fn worker_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "host" } else { host.trim() };
    format!("{host}:{}:{}", std::process::id(), uuid::Uuid::new_v4().simple())
}

/// Runs a stage until `shutdown` is cancelled and the work in hand is committed or handed back.
///
/// # Errors
/// Only what cannot heal: [`Error::Misconfigured`] and replies that make no sense while starting.
pub async fn run<S: Stage>(
    log: SharedLog,
    stage: Arc<S>,
    options: Options,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let readers = options.inlet.sources(log.shards());
    let sources: Vec<Source> = readers.iter().flatten().copied().collect();
    log.ensure_groups(options.name, &sources).await?;
    let hand = Arc::new(Hand::new(options.name));
    let pauses = Arc::new(Pauses::default());
    let over = CancellationToken::new();
    let heart = heart::start(Arc::clone(&log), options.clone(), Arc::clone(&hand), sources[0], over.clone());
    let watcher =
        tokio::spawn(watch::pressure(Arc::clone(&log), options.clone(), Arc::clone(&pauses), over.clone()));
    let context = Arc::new(Context {
        log: Arc::clone(&log),
        stage: Arc::clone(&stage) as Arc<dyn Stage>,
        options: options.clone(),
        hand: Arc::clone(&hand),
        pauses: Arc::clone(&pauses),
        stopping: shutdown.clone(),
        runtime: tokio::runtime::Handle::current(),
    });
    tracing::info!(stage = options.name, worker = options.worker, shards = log.shards(), "reading");
    let mut intake = Intake::new(readers, sources.clone(), Arc::clone(&context));
    let out_of_patience = async {
        shutdown.cancelled().await;
        tokio::time::sleep(options.block + GIVE_UP_ON_REDIS).await;
    };
    tokio::select! {
        () = async {
            intake.read_until_shutdown(&stage, &shutdown).await;
            intake.stop().await;
        } => {}
        // Calls wait for a Redis that is away, but nobody waits for a program that was asked to stop.
        () = out_of_patience => tracing::warn!(stage = options.name, "stopping without an answer from redis"),
    }

    if tokio::time::timeout(options.grace, hand.rest()).await.is_err() {
        tracing::warn!(
            stage = options.name,
            in_hand = hand.len(),
            "grace is over: handing back what is unfinished"
        );
    }
    // Before the farewell: a sign of life after it would bring the consumer back.
    over.cancel();
    watcher.abort();
    tokio::task::spawn_blocking(move || heart.join()).await.ok();
    let farewell = async {
        for (source, ids) in hand.by_source() {
            context.hand_back(source, &ids).await;
        }
        if let Err(error) = log.leave(options.name, &options.worker, &sources).await {
            tracing::debug!(%error, "could not remove the consumer");
        }
    };
    if tokio::time::timeout(GIVE_UP_ON_REDIS, farewell).await.is_err() {
        tracing::warn!(
            stage = options.name,
            "redis does not answer: others take the work when the lease ends"
        );
    }
    tracing::info!(stage = options.name, "stopped");
    Ok(())
}

/// How long a program that stops waits for a Redis that does not answer, each time it needs one.
const GIVE_UP_ON_REDIS: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_fits_into_the_time_there_is_for_it() {
        let end = |total: f64| {
            let options = Options::new("infer", Inlet::Facts).ending_within(Duration::from_secs_f64(total));
            (options.block.as_secs_f64(), options.grace.as_secs_f64())
        };
        assert_eq!(end(25.0), (1.0, 20.0), "the usual time");
        assert_eq!(end(60.0), (1.0, 55.0));
        assert_eq!(end(1.0), (0.25, 0.5), "a quarter each for what comes before and after");
    }
}
