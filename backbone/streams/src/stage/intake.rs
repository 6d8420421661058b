//! The reading half of the loop: what is brought in, from where, and what happens when that fails.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use events::{Cause, Decoded, Lane};
use futures::FutureExt;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::delivery::{Context, Delivery, Outputs};
use super::{Inlet, Stage};
use crate::keys::Source;
use crate::lanes::Turns;
use crate::log::{Entry, Error, Reader};
use crate::{failpoint, metrics};

/// How long a reader rests after an error, so that a server that refuses at once is not asked in a spin.
const READ_PAUSE: Duration = Duration::from_millis(200);

/// How often a stage without a free slot is asked for its slots.
const SLOTS_PAUSE: Duration = Duration::from_millis(500);

/// From this delivery on an entry is worked on alone: workers died with it so often that it may be what kills them, and
/// what is in hand beside it would count one more death each time.
const ALONE_FROM: u64 = 4;

/// How long what is in hand may take to end before an entry that is to be alone begins all the same. Nothing new is taken
/// until then, and a decode of hours must not stop a worker.
const ALONE_PATIENCE: Duration = Duration::from_secs(30);

/// How long nothing is taken beside an entry that is alone: what kills a worker does so before.
const ALONE_MAX: Duration = Duration::from_secs(600);

/// A blocked read that ended: the number of its reader, the reader, and what it read.
type Blocked = (usize, Box<dyn Reader>, Result<Vec<Entry>, Error>);

/// The reading half of the loop.
pub struct Intake {
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
    /// An entry of ours that waits until nothing else is in hand, and since when.
    suspect: Option<(Entry, Instant)>,
    turns: Turns,
    rotation: usize,
    next_claim: Instant,
    /// After a start or a lost reply there may be entries of ours that we never saw.
    history_due: bool,
    /// Whether something may stand in the streams that no blocked reader would bring. While all is quiet nothing
    /// does, and an idle worker asks for nothing.
    look: bool,
    /// Whether the replay lane is left alone because it has all the slots it may have.
    held_back: bool,
}

impl Intake {
    /// Makes one that reads `sources`, with a blocking reader for each of `readers`.
    pub fn new(readers: Vec<Vec<Source>>, sources: Vec<Source>, context: Arc<Context>) -> Intake {
        Intake {
            waiting: JoinSet::new(),
            readers: readers.iter().map(|_| None).collect(),
            idle: vec![true; readers.len()],
            shard_sources: readers,
            sources,
            surplus: VecDeque::new(),
            suspect: None,
            turns: Turns::default(),
            rotation: 0,
            next_claim: Instant::now(),
            history_due: true,
            look: true,
            held_back: false,
            context,
        }
    }

    pub async fn read_until_shutdown<S: Stage>(&mut self, stage: &Arc<S>, shutdown: &CancellationToken) {
        while !shutdown.is_cancelled() {
            while let Some(read) = self.waiting.try_join_next() {
                self.absorb(read);
            }
            self.set_suspect_aside().await;
            let free = stage.slots().saturating_sub(self.context.hand.working());
            if free == 0 {
                // Several blocked readers brought more than fits, or a stage has fewer slots by now: others may have room.
                self.surplus.extend(self.suspect.take().map(|(suspect, _)| suspect));
                self.give_back_surplus().await;
                tokio::select! {
                    () = self.context.hand.freed() => {}
                    // A stage may have more slots by now.
                    () = tokio::time::sleep(SLOTS_PAUSE) => {}
                    () = shutdown.cancelled() => {}
                }
            } else if !self.surplus.is_empty() {
                let batch = self.surplus.drain(..free.min(self.surplus.len())).collect();
                self.deliver(stage, batch).await;
                self.look = true;
            } else if let Some((suspect, _)) = self
                .suspect
                .take_if(|(_, since)| self.context.hand.working() == 0 || since.elapsed() > ALONE_PATIENCE)
            {
                self.deliver_alone(stage, suspect, shutdown).await;
            } else if self.suspect.is_some() {
                tokio::select! {
                    () = self.context.hand.freed() => {}
                    () = shutdown.cancelled() => {}
                }
            } else if let Err(error) = self.fetch(stage.slots(), free).await {
                self.recover(error).await;
            } else if self.surplus.is_empty() {
                self.wait(shutdown).await;
            }
        }
    }

    /// Keeps one entry that is to be worked on alone until it can be. All else goes back meanwhile: what is in hand is to end.
    async fn set_suspect_aside(&mut self) {
        if self.suspect.is_none() {
            let Some(at) = self.surplus.iter().position(is_suspect) else { return };
            self.suspect = self.surplus.remove(at).map(|suspect| (suspect, Instant::now()));
        }
        self.give_back_surplus().await;
    }

    /// Gives an entry to the stage, and what blocked readers bring meanwhile back to the log.
    async fn deliver_alone<S: Stage>(
        &mut self,
        stage: &Arc<S>,
        suspect: Entry,
        shutdown: &CancellationToken,
    ) {
        tracing::warn!(
            stage = self.context.options.name,
            source = suspect.source.key(),
            id = suspect.id,
            deliveries = suspect.deliveries,
            "workers died with this entry: nothing else is taken beside it"
        );
        let began = Instant::now();
        self.deliver(stage, vec![suspect.clone()]).await;
        while self.context.hand.holds(&suspect) && began.elapsed() < ALONE_MAX && !shutdown.is_cancelled() {
            while let Some(read) = self.waiting.try_join_next() {
                self.absorb(read);
            }
            self.give_back_surplus().await;
            tokio::select! {
                () = self.context.hand.freed() => {}
                () = shutdown.cancelled() => {}
            }
        }
        self.look = true;
    }

    /// How many more entries of a lane fit in. Replay leaves the last slot of a worker that has several to the other
    /// lanes: whatever was begun is finished first, and live work should not have to wait for that.
    fn room_in(&self, lane: Lane, slots: usize, free: usize) -> usize {
        let most = if lane == Lane::Replay { slots.saturating_sub(1).max(1) } else { slots };
        most.saturating_sub(self.context.hand.in_lane(lane)).min(free)
    }

    /// Brings what can be had without waiting into the surplus.
    async fn fetch(&mut self, slots: usize, free: usize) -> Result<(), Error> {
        let held_back = self.room_in(Lane::Replay, slots, free) == 0;
        self.look |= self.held_back && !held_back;
        self.held_back = held_back;
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
                let room = self.room_in(source.lane(), slots, room);
                if room == 0 {
                    continue;
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
                let room = self.room_in(lane, slots, wanted);
                if room == 0 {
                    break;
                }
                let source = in_lane[(at + self.rotation) % in_lane.len()];
                let count = count_of(options.inlet, room);
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
                .filter(|source| !(self.held_back && source.lane() == Lane::Replay))
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
            // Room for what was held back is no event of Redis.
            () = self.context.hand.freed(), if self.held_back => {}
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
    pub async fn stop(&mut self) {
        while let Some(read) = self.waiting.join_next().await {
            self.absorb(read);
        }
        self.surplus.extend(self.suspect.take().map(|(suspect, _)| suspect));
        self.give_back_surplus().await;
    }

    async fn give_back_surplus(&mut self) {
        let surplus = std::mem::take(&mut self.surplus);
        self.give_back(surplus).await;
    }

    async fn give_back(&mut self, entries: VecDeque<Entry>) {
        if entries.is_empty() {
            return;
        }
        // Should nobody else take them, we look for them as soon as there is room.
        self.next_claim = Instant::now();
        for entry in entries {
            self.context.hand_back(entry.source, std::slice::from_ref(&entry.id)).await;
            self.context.hand.release(&entry);
        }
    }
}

/// Whether an entry may be what its workers died of.
fn is_suspect(entry: &Entry) -> bool {
    entry.deliveries >= ALONE_FROM
}

/// Returns how many entries to ask for at once: drops may be large, so one at a time.
fn count_of(inlet: Inlet, room: usize) -> usize {
    if inlet == Inlet::Drops { 1 } else { room }
}

/// How long an event of a newer version waits before it is looked at again.
const NEWER_VERSION_PAUSE: Duration = Duration::from_secs(30);
