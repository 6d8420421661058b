//! The stage: one drop in, its audio in the store, one admission or one rejection.
//!
//! Every step may be repeated: a worker may die after each, and the next one begins the drop again. Audio moves to
//! where its recording's id says, so a second move finds the same place; the admission is refused to a repeat by the
//! log; what is cleaned up is cleaned up last, when what became of the drop can already be read.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use events::{
    Activation, Audio, Cause, Claim, Deletion, DropIdentity, Envelope, Event, EventId, Lane, Manifest,
    RecordingAdmitted, RecordingId, RecordingRejected, Settings, Shard, Tenant, TranscriptionRequested,
};
use futures::FutureExt;
use service::Readiness;
use service::chain;
use service::store::{AudioStore, Key, StoreError};
use sha2::{Digest, Sha256};
use streams::{
    Admission, Admit, Delivery, DropOutcome, Entry, Error, Message, Outputs, Queue, SharedLog, Source, Stage,
};
use tracing::Instrument;

use crate::drop::{self, Head, Order, Origin, Read};
use crate::gather::{Gathered, Place};
use crate::length::{self, Length};
use crate::metrics;
use crate::settings;
use crate::source::Sources;

/// The folder of the audio store where audio lies while it is being fetched.
pub(crate) const FETCHING: &str = "fetching";
/// How long a drop waits for what is not its fault: a model, the store, Redis.
const WAIT: Duration = Duration::from_secs(5);

/// What a drop may be.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The model of drops that name none.
    pub model: String,
    /// The largest `audio` field, in bytes.
    pub inline_bytes_max: u64,
    /// The largest file behind a uri, in bytes.
    pub bytes_max: u64,
    /// The longest recording.
    pub duration_max: Duration,
    /// Drops in hand at once.
    pub slots: usize,
}

/// The ingest stage.
pub struct Ingest {
    pub(crate) log: SharedLog,
    pub(crate) store: AudioStore,
    pub(crate) sources: Sources,
    pub(crate) rules: Rules,
    pub(crate) readiness: Readiness,
}

/// Why a drop is not taken in now.
#[derive(Debug)]
pub(crate) enum Setback {
    /// It never will be. What it left in the store goes once the refusal can be read.
    Refused { cause: Cause, leftover: Option<Key> },
    /// It may be the drop: after its last attempt it is refused.
    Failed(Cause),
    /// It is not the drop: it waits, however long.
    Waiting(Cause),
    /// The program ends, or another worker has the drop.
    Stopped,
}

/// What became of a drop that ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Admitted,
    /// This very drop was taken in before.
    Repeated,
    /// Another drop brought the same before.
    Duplicate,
    /// It was deleted before.
    Deleted,
}

impl Ingest {
    /// Makes the stage. What it cannot do for want of the store or of models shows in `readiness`.
    pub fn new(
        log: SharedLog,
        store: AudioStore,
        sources: Sources,
        rules: Rules,
        readiness: Readiness,
    ) -> Ingest {
        Ingest { log, store, sources, rules, readiness }
    }
}

#[async_trait]
impl Stage for Ingest {
    fn slots(&self) -> usize {
        self.rules.slots
    }

    async fn process(&self, deliveries: Vec<Delivery>) {
        let drops = deliveries.into_iter().map(|delivery| {
            let span = delivery.span();
            self.handle(delivery).instrument(span)
        });
        futures::future::join_all(drops).await;
    }

    /// Ends a drop that killed its workers: rejected for its sender, and a dead letter for the operator.
    async fn give_up(&self, delivery: Delivery, cause: Cause) {
        let head = drop::read(delivery.entry()).head;
        if let Ok(true) = self.log.is_drop_deleted(&head.id, &head.tenant).await {
            return self.forget(delivery, &head).await;
        }
        match self.reject(delivery.entry(), &head, &cause).await {
            Ok(()) => drop(delivery.fail(cause).await),
            Err(error) => self.put_off(delivery, Cause::new("redis", error.to_string())).await,
        }
    }
}

impl Ingest {
    async fn handle(&self, delivery: Delivery) {
        let started = Instant::now();
        let read = drop::read(delivery.entry());
        if !read.unknown.is_empty() {
            tracing::warn!(
                drop = read.head.id,
                fields = read.unknown.join(", "),
                "the drop has fields that mean nothing here"
            );
        }
        // Nobody has worked on a drop that is delivered for the first time. Any other may be admitted already: it is
        // taken in once more, which finds out, and deleted then.
        if delivery.entry().deliveries <= 1 {
            match self.log.is_drop_deleted(&read.head.id, &read.head.tenant).await {
                Ok(false) => {}
                Ok(true) => return self.forget(delivery, &read.head).await,
                Err(error) => {
                    return self.put_off(delivery, Cause::new("redis", error.to_string())).await;
                }
            }
        }
        // A panic over one drop's bytes is that drop's failure and nobody else's.
        let taken = AssertUnwindSafe(self.take_in(&delivery, &read)).catch_unwind().await;
        let taken = taken.unwrap_or_else(|_| {
            let message = "ingest stopped in the middle of it (a panic: see its log)";
            Err(Setback::Failed(Cause::new("worker_panicked", message)))
        });
        match taken {
            Ok(taken) => {
                metrics::took_in(taken.as_str(), started.elapsed().as_secs_f64());
                delivery.finish(Outputs::default()).await;
            }
            Err(Setback::Refused { cause, leftover }) => self.refuse(delivery, &read, cause, leftover).await,
            Err(Setback::Failed(cause)) if delivery.is_last_attempt() => {
                self.refuse(delivery, &read, cause, None).await;
            }
            Err(Setback::Failed(cause)) => drop(delivery.retry(cause).await),
            Err(Setback::Waiting(cause)) => self.put_off(delivery, cause).await,
            Err(Setback::Stopped) => drop(delivery.hand_back().await),
        }
    }

    /// Does everything with a drop up to the moment where only its acknowledgement is left.
    async fn take_in(&self, delivery: &Delivery, read: &Read) -> Result<Taken, Setback> {
        let (order, settings) = self.understand(read).await?;
        let gathered = tokio::select! {
            gathered = self.gather(&read.head, order, &settings) => gathered?,
            () = delivery.lost().cancelled() => return Err(Setback::Stopped),
            () = delivery.stopping().cancelled() => return Err(Setback::Stopped),
        };
        let Some(gathered) = gathered else { return Ok(Taken::Repeated) };
        let place = gathered.place.clone();
        let admitted = self.admit(delivery.lane(), &read.head, order, settings, gathered).await;
        if let (Err(_), Place::Fetched(key)) = (&admitted, place) {
            self.remove(&key).await;
        }
        admitted
    }

    /// Returns what is to be done, once every mistake in it is known.
    async fn understand<'a>(&self, read: &'a Read) -> Result<(&'a Order, Settings), Setback> {
        let models = self.log.models().await.map_err(setback)?;
        if models.is_empty() && read.mistakes.is_empty() {
            let message = "no worker has announced a model yet: start voiceforge-infer, or look at its log";
            self.readiness.failed("models", message);
            return Err(Setback::Waiting(Cause::new("no_models", message)));
        }
        if !models.is_empty() {
            self.readiness.ok("models", format!("{} announced", models.len()));
        }
        let mut mistakes = read.mistakes.clone();
        match (&read.order, settings::resolve(&read.wishes, &models, &self.rules.model)) {
            (Some(order), Ok(settings)) if mistakes.is_empty() => return Ok((order, settings)),
            // Without any model, what is said about models would be no help.
            (_, Err(more)) if !models.is_empty() => mistakes.extend(more),
            _ => {}
        }
        Err(Setback::Refused { cause: invalid(&mistakes), leftover: None })
    }

    async fn admit(
        &self,
        lane: Lane,
        head: &Head,
        order: &Order,
        settings: Settings,
        gathered: Gathered,
    ) -> Result<Taken, Setback> {
        let sha256 = hex::encode(gathered.sha256);
        let length = length::estimate(gathered.container, &gathered.head, gathered.bytes);
        self.check(order, &sha256, length)?;
        let named = self.name_recording(head, order, &settings, &gathered.sha256);
        self.settle(&gathered.place, &named.audio).await?;
        let audio = Audio {
            key: named.audio.to_string(),
            bytes: gathered.bytes,
            sha256: sha256.clone(),
            container: gathered.container.to_owned(),
            estimated_ms: length.ms,
        };
        let fingerprint = fingerprint(&sha256, &settings);
        let envelope = |event| envelope(head, named.shard, named.recording, &named.identity, event);
        let fact = envelope(Event::from(RecordingAdmitted {
            drop_id: head.id.clone(),
            name: head.name.clone(),
            uri: gathered.uri,
            audio: audio.clone(),
            settings: settings.clone(),
            lane,
            metadata: order.metadata.clone(),
        }));
        let name = head.name.clone();
        let request = TranscriptionRequested { name, audio, settings, lane, activation: Activation::Auto };
        let request = envelope(Event::from(request));
        let work = Message::work(&request, length.ms, 0).map_err(too_wordy)?;
        let facts = [&fact, &request].map(Message::fact).into_iter().collect::<Result<_, _>>();
        let admit = Admit {
            shard: named.shard,
            recording: named.recording,
            claim: Some(named.claim),
            fingerprint: fingerprint.clone(),
            facts: facts.map_err(too_wordy)?,
            work: Some((Source::Queue(named.shard, Queue::Decode, lane), work)),
        };
        let admission = self.log.admit(&admit).await.map_err(setback)?;
        if admission == Admission::Admitted {
            metrics::admitted(gathered.bytes, length.ms);
            let (bytes, audio_ms) = (gathered.bytes, length.ms);
            tracing::info!(drop = head.id, recording = %named.recording, bytes, audio_ms, "admitted");
        }
        self.conclude(head, order, &named, admission, &fingerprint).await
    }

    /// Refuses audio that is not what the drop says, or too long by its own header. Where the header tells nothing,
    /// decode finds out.
    fn check(&self, order: &Order, sha256: &str, length: Length) -> Result<(), Setback> {
        if let Some(expected) = order.sha256.map(hex::encode).filter(|expected| expected != sha256) {
            let message = format!(
                "the audio's SHA-256 is {sha256}, the drop says {expected}: it changed on its way; send it again"
            );
            return Err(refused("sha256_mismatch", message));
        }
        let (max, long) = (self.rules.duration_max, Duration::from_millis(length.ms));
        if length.believable && long > max {
            let message = format!(
                "the audio lasts {} minutes, more than the {} accepted here; cut it, or raise VOICEFORGE_MAX_DURATION",
                long.as_secs() / 60,
                max.as_secs() / 60
            );
            return Err(refused("too_long", message));
        }
        Ok(())
    }

    /// Keeps what became of the drop, and only then removes audio that nothing refers to, and deletes a recording that
    /// nobody wants any more.
    async fn conclude(
        &self,
        head: &Head,
        order: &Order,
        named: &Named,
        admission: Admission,
        fingerprint: &str,
    ) -> Result<Taken, Setback> {
        let (recording, taken) = match admission {
            Admission::Admitted => (named.recording, Taken::Admitted),
            Admission::Repeated => (named.recording, Taken::Repeated),
            Admission::Deleted => (named.recording, Taken::Deleted),
            Admission::Duplicate { recording, fingerprint: theirs } => {
                if let Some(key) = order.key.as_deref().filter(|_| theirs != fingerprint) {
                    let message = format!(
                        "the key {} was used for recording {recording} with other audio or options; give every \
                         recording a key of its own",
                        drop::shown(key)
                    );
                    let leftover = Some(named.audio.clone());
                    return Err(Setback::Refused { cause: Cause::new("key_reused", message), leftover });
                }
                tracing::info!(drop = head.id, %recording, "the same as an earlier drop");
                (recording, Taken::Duplicate)
            }
        };
        let duplicate = taken == Taken::Duplicate;
        let outcome = DropOutcome { recording: Some(recording), duplicate, cause: None };
        self.log.set_drop_outcome(&head.id, &outcome).await.map_err(setback)?;
        if matches!(taken, Taken::Duplicate | Taken::Deleted) {
            self.remove(&named.audio).await;
        } else if self.log.is_drop_deleted(&head.id, &head.tenant).await.map_err(setback)? {
            // Whoever deletes a drop sets the mark and then looks what became of it: one of us two sees the other.
            self.delete(recording, head).await.map_err(setback)?;
        }
        Ok(taken)
    }

    /// Derives everything a recording is called from what it is.
    pub(crate) fn name_recording(
        &self,
        head: &Head,
        order: &Order,
        settings: &Settings,
        sha256: &[u8; 32],
    ) -> Named {
        let sha256 = hex::encode(sha256);
        let identity = DropIdentity::derive(&head.id, &sha256);
        let claim = match &order.key {
            Some(key) => Claim::by_key(&head.tenant, key),
            None => Claim::by_content(&head.tenant, &sha256, &settings.canonical()),
        };
        let recording = RecordingId::derive(&claim, &identity);
        let audio = audio_key(&head.tenant, recording);
        Named { identity, claim, recording, shard: recording.shard(self.log.shards()), audio }
    }

    /// Brings gathered audio to its recording's own key.
    async fn settle(&self, place: &Place, own: &Key) -> Result<(), Setback> {
        let settled = match place {
            Place::Memory(bytes) => self.store.put_bytes(own, bytes.clone()).await.map(|_| ()),
            Place::Fetched(key) | Place::Incoming(key) => self.store.rename(key, own).await,
            Place::Settled => Ok(()),
        };
        match settled {
            // Another worker on the same drop was faster: what it moved is the same audio.
            Err(StoreError::NotFound { .. }) if self.store.head(own).await.is_ok() => Ok(()),
            Err(error) => Err(self.store_setback(error).await),
            Ok(()) => Ok(()),
        }
    }

    /// Tells a store that is down or full from one that only this drop has trouble with.
    pub(crate) async fn store_setback(&self, error: StoreError) -> Setback {
        let cause = Cause::new("store", format!("the audio store failed: {}", chain(&error)));
        let ours = match &error {
            StoreError::Full { .. } => true,
            StoreError::Failed { .. } => crate::health::probe_store(&self.store).await.is_err(),
            _ => false,
        };
        if ours {
            self.readiness.failed("store", cause.message.clone());
            return Setback::Waiting(cause);
        }
        Setback::Failed(cause)
    }

    /// Removes audio that nothing refers to. If that fails, it only takes up room.
    pub(crate) async fn remove(&self, key: &Key) {
        if let Err(error) = self.store.delete(key).await {
            tracing::warn!(%key, %error, "cannot remove audio that is not needed any more");
        }
    }

    async fn put_off(&self, delivery: Delivery, cause: Cause) {
        tracing::warn!(code = cause.code, cause = cause.message, "the drop waits");
        metrics::put_off(&cause.code);
        delivery.put_off(WAIT).await;
    }

    /// Ends a drop that was deleted before it was a recording.
    async fn forget(&self, delivery: Delivery, head: &Head) {
        match self.end_unwanted(delivery.entry(), head).await {
            Ok(()) => {
                for key in [Manifest::audio_key(&head.id), Manifest::key(&head.id)] {
                    if let Ok(key) = Key::parse(&key) {
                        self.remove(&key).await;
                    }
                }
                delivery.finish(Outputs::default()).await;
            }
            Err(error) => self.put_off(delivery, Cause::new("redis", error.to_string())).await,
        }
    }

    /// Records that a drop is deleted, where its sender finds it, under the id that its refusal would have.
    async fn end_unwanted(&self, entry: &Entry, head: &Head) -> Result<(), Error> {
        let (_, recording) = name_refused(entry, head);
        self.delete(recording, head).await?;
        tracing::info!(drop = head.id, %recording, "the drop was deleted before it was taken in");
        let outcome = DropOutcome { recording: Some(recording), duplicate: false, cause: None };
        self.log.set_drop_outcome(&head.id, &outcome).await
    }

    async fn delete(&self, recording: RecordingId, head: &Head) -> Result<(), Error> {
        let deletion = Deletion {
            recording,
            tenant: head.tenant.clone(),
            submitted_at: head.at,
            drop_id: Some(head.id.clone()),
            by: "api".to_owned(),
        };
        let fact = deletion.envelope(self.log.shards());
        let message = Message::fact(&fact).map_err(|error| Error::Misconfigured(error.to_string()))?;
        self.log.delete(fact.shard, recording, &message).await.map(|_| ())
    }

    async fn refuse(&self, delivery: Delivery, read: &Read, cause: Cause, leftover: Option<Key>) {
        if let Ok(true) = self.log.is_drop_deleted(&read.head.id, &read.head.tenant).await {
            return self.forget(delivery, &read.head).await;
        }
        let rejected = self.reject(delivery.entry(), &read.head, &cause).await;
        match rejected {
            Ok(()) => {
                let incoming = match &read.order {
                    Some(Order { origin: Origin::Store(key), .. }) => Some(key),
                    _ => None,
                };
                for key in incoming.into_iter().chain(&leftover) {
                    self.remove(key).await;
                }
                delivery.finish(Outputs::default()).await;
            }
            Err(error) if error.is_transient() => {
                self.put_off(delivery, Cause::new("redis", error.to_string())).await;
            }
            // Redis makes no sense: the drop and its cause are kept where people look.
            Err(error) => {
                tracing::error!(%error, "cannot record a rejection");
                delivery.fail(cause).await;
            }
        }
    }

    /// Records that a drop is refused, where its sender finds it: in the log and under its drop id.
    async fn reject(&self, entry: &Entry, head: &Head, cause: &Cause) -> Result<(), Error> {
        let (identity, recording) = name_refused(entry, head);
        let shard = recording.shard(self.log.shards());
        let rejected =
            RecordingRejected { drop_id: head.id.clone(), name: head.name.clone(), cause: cause.clone() };
        let fact = envelope(head, shard, recording, &identity, rejected.into());
        let fact = Message::fact(&fact).map_err(|error| Error::Misconfigured(error.to_string()))?;
        let admit = Admit {
            shard,
            recording,
            claim: None,
            fingerprint: String::new(),
            facts: vec![fact],
            work: None,
        };
        if self.log.admit(&admit).await? == Admission::Admitted {
            metrics::rejected(&cause.code);
            tracing::warn!(drop = head.id, %recording, code = cause.code, cause = cause.message, "rejected");
        }
        let outcome =
            DropOutcome { recording: Some(recording), duplicate: false, cause: Some(cause.clone()) };
        self.log.set_drop_outcome(&head.id, &outcome).await
    }
}

impl Taken {
    fn as_str(self) -> &'static str {
        match self {
            Taken::Admitted => "admitted",
            Taken::Repeated => "repeated",
            Taken::Duplicate => "duplicate",
            Taken::Deleted => "deleted",
        }
    }
}

/// What a recording is called.
pub(crate) struct Named {
    identity: DropIdentity,
    claim: Claim,
    recording: RecordingId,
    shard: Shard,
    pub(crate) audio: Key,
}

/// Names the recording that a drop stands for which never becomes one.
fn name_refused(entry: &Entry, head: &Head) -> (DropIdentity, RecordingId) {
    let brought = digest_fields(entry);
    let identity = DropIdentity::derive(&head.id, &brought);
    let claim = Claim::by_content(&head.tenant, &brought, b"rejected");
    let recording = RecordingId::derive(&claim, &identity);
    (identity, recording)
}

fn audio_key(tenant: &Tenant, recording: RecordingId) -> Key {
    Key::new([tenant.as_str(), &recording.to_string()])
        .expect("a tenant and a UUID are letters, digits, - and _")
}

fn envelope(
    head: &Head,
    shard: Shard,
    recording: RecordingId,
    identity: &DropIdentity,
    event: Event,
) -> Envelope {
    let cause = identity.event_id();
    let now = events::now();
    Envelope {
        event_id: EventId::derive(cause, event.kind(), "", 0),
        shard,
        seq: None,
        recording,
        tenant: head.tenant.clone(),
        generation: 0,
        round: 0,
        submitted_at: head.at,
        occurred_at: now,
        trace: Some(head.trace.clone()),
        causation_id: Some(cause),
        event,
    }
}

/// What must be equal for two drops under one key to be the same: all that the sender chose, and not the weights or
/// cutting rules, which change behind the sender's back.
fn fingerprint(sha256: &str, settings: &Settings) -> String {
    let mut chosen = settings.clone();
    chosen.model.sha256.clear();
    chosen.cutter = 0;
    hex::encode(Sha256::new().chain_update(sha256).chain_update(chosen.canonical()).finalize())
}

/// SHA-256 over everything a drop brought: tells two drops apart that have the same id after a failover.
fn digest_fields(entry: &Entry) -> String {
    let mut hash = Sha256::new();
    for (name, value) in &entry.fields {
        for part in [name.as_bytes(), value] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    hex::encode(hash.finalize())
}

fn invalid(mistakes: &[String]) -> Cause {
    // A rejection is an event, and events are small.
    const MESSAGE_BYTES_MAX: usize = 8 * 1024;
    let mut message = mistakes.join("; ");
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        message.push_str(" ... and more");
    }
    Cause::new("invalid_drop", message)
}

pub(crate) fn refused(code: &str, message: impl Into<String>) -> Setback {
    Setback::Refused { cause: Cause::new(code, message), leftover: None }
}

fn too_wordy(error: events::CodecError) -> Setback {
    let message = format!("name, prompt and metadata together are too much ({error}); make them shorter");
    refused("invalid_drop", message)
}

pub(crate) fn setback(error: Error) -> Setback {
    let cause = Cause::new("redis", error.to_string());
    if error.is_transient() { Setback::Waiting(cause) } else { Setback::Failed(cause) }
}

#[cfg(test)]
mod tests;
