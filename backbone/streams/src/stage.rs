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

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use events::{Cause, Decoded, Lane, Shard};
use futures::FutureExt;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::keys::{Queue, Source};
use crate::lanes::Turns;
use crate::log::{Entry, Error, Reader, SharedLog};
use crate::{failpoint, metrics, pressure};

mod delivery;
mod hand;
mod heart;
mod watch;

pub use delivery::{Delivery, Ended, Outputs, Part};

use delivery::Context;
use hand::Hand;
use watch::Pauses;

/// What a program does with its deliveries.
#[async_trait]
pub trait Stage: Send + Sync + 'static {
    /// How many deliveries it can have in hand at once.
    fn slots(&self) -> usize;

    /// Works on deliveries and ends each of them. Called on a task of its own.
    async fn process(&self, deliveries: Vec<Delivery>);

    /// Ends a delivery that killed its workers again and again: by default it goes to the dead letters.
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
    let heart = heart::start(Arc::clone(&log), options.clone(), Arc::clone(&hand), over.clone());
    let watcher =
        tokio::spawn(watch::pressure(Arc::clone(&log), options.clone(), Arc::clone(&pauses), over.clone()));
    let context = Arc::new(Context {
        log: Arc::clone(&log),
        options: options.clone(),
        hand: Arc::clone(&hand),
        pauses: Arc::clone(&pauses),
        stopping: shutdown.clone(),
        runtime: tokio::runtime::Handle::current(),
    });
    tracing::info!(stage = options.name, worker = options.worker, shards = log.shards(), "reading");
    let mut intake = Intake {
        waiting: JoinSet::new(),
        readers: readers.iter().map(|_| None).collect(),
        idle: vec![true; readers.len()],
        shard_sources: readers,
        sources: sources.clone(),
        surplus: VecDeque::new(),
        turns: Turns::default(),
        rotation: 0,
        next_claim: Instant::now(),
        history_due: true,
        look: true,
        context: Arc::clone(&context),
    };
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
    let farewell = async {
        for (source, ids) in hand.by_source() {
            if let Err(error) = log.hand_back(options.name, &options.worker, source, &ids).await {
                tracing::error!(%error, "cannot hand work back: others take it when the lease ends");
            }
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
    over.cancel();
    watcher.abort();
    tokio::task::spawn_blocking(move || heart.join()).await.ok();
    tracing::info!(stage = options.name, "stopped");
    Ok(())
}

/// How long a program that stops waits for a Redis that does not answer, each time it needs one.
const GIVE_UP_ON_REDIS: Duration = Duration::from_secs(2);

/// How long a reader rests after an error, so that a server that refuses at once is not asked in a spin.
const READ_PAUSE: Duration = Duration::from_millis(200);

/// A blocked read that ended: the number of its reader, the reader, and what it read.
type Blocked = (usize, Box<dyn Reader>, Result<Vec<Entry>, Error>);

/// The reading half of the loop.
struct Intake {
    context: Arc<Context>,
    /// The sources of each blocking reader.
    shard_sources: Vec<Vec<Source>>,
    sources: Vec<Source>,
    readers: Vec<Option<Box<dyn Reader>>>,
    /// Readers that are not blocked in a read now.
    idle: Vec<bool>,
    /// Blocked reads. They are never dropped half way, because an entry assigned to a dropped read is seen by nobody.
    waiting: JoinSet<Blocked>,
    /// Entries that are ours and wait for a free slot.
    surplus: VecDeque<Entry>,
    turns: Turns,
    rotation: usize,
    next_claim: Instant,
    /// After a start or a lost reply there may be entries of ours that we never saw.
    history_due: bool,
    /// Whether something may stand in the streams that no blocked reader would bring. While all is quiet nothing
    /// does, and an idle worker asks for nothing.
    look: bool,
}

impl Intake {
    async fn read_until_shutdown<S: Stage>(&mut self, stage: &Arc<S>, shutdown: &CancellationToken) {
        while !shutdown.is_cancelled() {
            while let Some(read) = self.waiting.try_join_next() {
                self.absorb(read);
            }
            let free = stage.slots().saturating_sub(self.context.hand.working());
            if free == 0 {
                if !self.surplus.is_empty() {
                    // Several blocked readers brought more than fits: others may have room for it.
                    self.give_back_surplus().await;
                }
                tokio::select! {
                    () = self.context.hand.freed() => {}
                    () = shutdown.cancelled() => {}
                }
            } else if !self.surplus.is_empty() {
                let batch = self.surplus.drain(..free.min(self.surplus.len())).collect();
                self.deliver(stage, batch).await;
                self.look = true;
            } else if let Err(error) = self.fetch(free).await {
                self.recover(error).await;
            } else if self.surplus.is_empty() {
                self.wait(shutdown).await;
            }
        }
    }

    /// Brings what can be had without waiting into the surplus.
    async fn fetch(&mut self, free: usize) -> Result<(), Error> {
        let Context { log, options, .. } = &*self.context;
        if self.history_due {
            for &source in &self.sources {
                let entries = log.own_pending(options.name, &options.worker, source).await?;
                failpoint::reach("history.after");
                let known: Vec<Entry> = entries.into_iter().filter(|e| !self.context.hand.holds(e)).collect();
                metrics::delivered(options.name, "history", known.len());
                self.context.hand.reserve(&known);
                self.surplus.extend(known);
            }
            self.history_due = false;
        }
        if self.next_claim <= Instant::now() {
            let open: Vec<Source> = (0..self.sources.len())
                .map(|at| self.sources[(at + self.rotation) % self.sources.len()])
                .filter(|source| !self.context.pauses.is_paused(source.lane()))
                .collect();
            for source in log.unsettled(options.name, &options.worker, &open).await? {
                let room = free.saturating_sub(self.surplus.len());
                if room == 0 {
                    break;
                }
                let count = count_of(options.inlet, room);
                let claimed = log.claim(options.name, &options.worker, source, options.lease, count).await?;
                if !claimed.lost.is_empty() {
                    metrics::data_gone(options.name, claimed.lost.len());
                    tracing::error!(stage = options.name, source = source.key(), ids = ?claimed.lost,
                        "pending entries have no data any more: they were removed by somebody else");
                }
                if !claimed.entries.is_empty() {
                    failpoint::reach("claim.after");
                }
                metrics::delivered(options.name, "claimed", claimed.entries.len());
                self.context.hand.reserve(&claimed.entries);
                self.surplus.extend(claimed.entries);
            }
            self.next_claim =
                Instant::now() + options.claim_every.mul_f64(0.75 + rand::random::<f64>() / 2.0);
        }
        if !self.surplus.is_empty() || !self.look {
            return Ok(());
        }
        let order = self.turns.next_order();
        self.rotation = self.rotation.wrapping_add(1);
        let mut wanted = free;
        for lane in order {
            if self.context.pauses.is_paused(lane) {
                continue;
            }
            let in_lane: Vec<Source> = self.sources.iter().copied().filter(|s| s.lane() == lane).collect();
            for at in 0..in_lane.len() {
                if wanted == 0 {
                    return Ok(());
                }
                let source = in_lane[(at + self.rotation) % in_lane.len()];
                let count = count_of(options.inlet, wanted);
                let entries = log.take(options.name, &options.worker, source, count).await?;
                if !entries.is_empty() {
                    failpoint::reach("read.after");
                }
                wanted = wanted.saturating_sub(entries.len());
                metrics::delivered(options.name, "taken", entries.len());
                self.context.hand.reserve(&entries);
                self.surplus.extend(entries);
            }
        }
        self.look = !self.surplus.is_empty();
        Ok(())
    }

    /// Blocks on every shard until something arrives, a claim is due, or shutdown.
    async fn wait(&mut self, shutdown: &CancellationToken) {
        let Context { log, options, .. } = &*self.context;
        for at in 0..self.shard_sources.len() {
            let sources: Vec<Source> = self.shard_sources[at]
                .iter()
                .copied()
                .filter(|source| !self.context.pauses.is_paused(source.lane()))
                .collect();
            if !self.idle[at] || sources.is_empty() {
                continue;
            }
            let reader = match self.readers[at].take() {
                Some(reader) => Ok(reader),
                None => log.reader(options.name, &options.worker).await,
            };
            let mut reader = match reader {
                Ok(reader) => reader,
                Err(error) => {
                    tracing::warn!(%error, "cannot open a reader");
                    continue;
                }
            };
            self.idle[at] = false;
            let block = options.block;
            self.waiting.spawn(async move {
                let read = AssertUnwindSafe(reader.read(&sources, 1, block)).catch_unwind().await;
                let read = read.unwrap_or_else(|_| {
                    Err(Error::Reply {
                        action: "read stream entries",
                        reply: "the reader panicked".to_owned(),
                    })
                });
                if read.is_err() {
                    tokio::time::sleep(READ_PAUSE).await;
                }
                (at, reader, read)
            });
        }
        let pause = tokio::time::sleep_until(self.next_claim.max(Instant::now() + Duration::from_millis(20)));
        tokio::select! {
            Some(read) = self.waiting.join_next(), if !self.waiting.is_empty() => self.absorb(read),
            () = pause => {}
            () = shutdown.cancelled() => {}
        }
    }

    fn absorb(&mut self, read: Result<Blocked, tokio::task::JoinError>) {
        let Ok((at, reader, read)) = read else {
            // Cancelled with the runtime: there is nothing left to read for.
            self.history_due = true;
            return;
        };
        self.readers[at] = Some(reader);
        self.idle[at] = true;
        match read {
            Ok(entries) => {
                if !entries.is_empty() {
                    failpoint::reach("read.after");
                }
                metrics::delivered(self.context.options.name, "taken", entries.len());
                self.context.hand.reserve(&entries);
                self.surplus.extend(entries);
            }
            Err(error) => {
                tracing::warn!(%error, stage = self.context.options.name, "read failed, reading own history next");
                self.history_due = true;
            }
        }
    }

    async fn recover(&mut self, error: Error) {
        self.history_due = true;
        self.look = true;
        let Context { log, options, .. } = &*self.context;
        if matches!(error, Error::NoGroup { .. }) {
            tracing::error!(
                stage = options.name,
                "the consumer group is gone (FLUSHALL, DEL or a failover): making it again from the first entry"
            );
            if let Err(error) = log.ensure_groups(options.name, &self.sources).await {
                tracing::error!(%error, "cannot make the consumer group");
            }
        } else {
            tracing::warn!(%error, stage = options.name, "read failed");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    /// Gives entries to the stage; what cannot be read as an event is answered here.
    async fn deliver<S: Stage>(&self, stage: &Arc<S>, entries: Vec<Entry>) {
        let options = &self.context.options;
        let mut batch = Vec::new();
        for entry in entries {
            let deliveries = entry.deliveries;
            let decoded = match options.inlet {
                Inlet::Drops => None,
                _ if entry.fields.is_empty() => None,
                _ => Some(events::decode(entry.field("event").map_or(&[][..], |json| json))),
            };
            let mut delivery = Delivery::new(Arc::clone(&self.context), entry);
            if delivery.entry().fields.is_empty() {
                // Its data is gone: the commit says so and acknowledges it.
                tokio::spawn(delivery.finish(Outputs::default()));
                continue;
            }
            match decoded {
                None => {}
                Some(Ok(Decoded::Known(envelope))) => delivery.set_envelope(*envelope),
                // A fact of a later release is still a fact: the stage archives it without understanding it.
                Some(Ok(Decoded::UnknownType { kind })) if options.inlet == Inlet::Facts => {
                    metrics::not_understood(options.name, "unknown_type");
                    tracing::warn!(kind, "a fact of a type this release does not know");
                }
                Some(Ok(Decoded::UnknownType { kind })) => {
                    metrics::not_understood(options.name, "unknown_type");
                    let message = format!("work of type {kind:?} is not known to this release");
                    tokio::spawn(delivery.fail(Cause::new("unknown_event_type", message)));
                    continue;
                }
                Some(Ok(Decoded::NewerVersion { kind, version })) => {
                    metrics::not_understood(options.name, "newer_version");
                    tracing::error!(kind, version, "an event of a newer version waits: upgrade this program");
                    tokio::spawn(delivery.put_off(NEWER_VERSION_PAUSE));
                    continue;
                }
                // Readers of facts must know of every place in the log, also of one that holds nothing.
                Some(Err(error)) if options.inlet == Inlet::Facts => {
                    metrics::not_understood(options.name, "malformed");
                    tracing::error!(%error, "an entry of the log is no event");
                }
                Some(Err(error)) => {
                    metrics::not_understood(options.name, "malformed");
                    tokio::spawn(delivery.fail(Cause::new("malformed_event", error.to_string())));
                    continue;
                }
            }
            if deliveries > 2 * u64::from(options.max_attempts) {
                let message = format!(
                    "its workers died or went silent {} times while working on it; see their logs",
                    deliveries - 1
                );
                let stage = Arc::clone(stage);
                tokio::spawn(async move { stage.give_up(delivery, Cause::new("crash_loop", message)).await });
                continue;
            }
            batch.push(delivery);
        }
        if !batch.is_empty() {
            failpoint::reach("work.before");
            let stage = Arc::clone(stage);
            tokio::spawn(async move { stage.process(batch).await });
        }
    }

    /// Waits for the blocked reads to end and gives everything undelivered back.
    async fn stop(&mut self) {
        while let Some(read) = self.waiting.join_next().await {
            self.absorb(read);
        }
        self.give_back_surplus().await;
    }

    async fn give_back_surplus(&mut self) {
        // Should nobody else take it, we look for it as soon as there is room.
        self.next_claim = Instant::now();
        let Context { log, options, hand, .. } = &*self.context;
        for entry in self.surplus.drain(..) {
            let id = std::slice::from_ref(&entry.id);
            if let Err(error) = log.hand_back(options.name, &options.worker, entry.source, id).await {
                tracing::error!(%error, "cannot hand work back: others take it when the lease ends");
            }
            hand.release(&entry);
        }
    }
}

/// Returns how many entries to ask for at once: drops may be large, so one at a time.
fn count_of(inlet: Inlet, room: usize) -> usize {
    if inlet == Inlet::Drops { 1 } else { room }
}

/// How long an event of a newer version waits before it is looked at again.
const NEWER_VERSION_PAUSE: Duration = Duration::from_secs(30);
