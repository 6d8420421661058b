//! One entry in the hands of a stage.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use events::{Cause, Claim, Envelope, Event, Lane, RecordingFailed, SegmentFailed};
use futures::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::hand::Hand;
use super::watch::Pauses;
use super::{Options, Stage};
use crate::dead::DeadLetter;
use crate::keys::{self, Queue, Source};
use crate::log::{Commit, Emit, Emitted, Entry, Error, Message, Outcome, SharedLog};
use crate::{failpoint, metrics};

/// What deliveries of one run share.
pub struct Context {
    pub log: SharedLog,
    /// Whose deliveries they are.
    pub stage: Arc<dyn Stage>,
    pub options: Options,
    pub hand: Arc<Hand>,
    pub pauses: Arc<Pauses>,
    pub stopping: CancellationToken,
    pub runtime: tokio::runtime::Handle,
}

impl Context {
    /// Gives entries back so that other workers take them at once; this delivery of them does not count.
    pub async fn hand_back(&self, source: Source, ids: &[String]) {
        failpoint::reach("hand_back.before");
        let Context { log, options, .. } = self;
        if let Err(error) = log.hand_back(options.name, &options.worker, source, ids).await {
            tracing::error!(%error, "cannot hand work back: others take it when the lease ends");
        }
        failpoint::reach("hand_back.after");
    }
}

/// What a finished delivery leaves behind.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    /// Facts for the shard's log.
    pub facts: Vec<Envelope>,
    /// Work for a queue of the same shard: the queue, its lane, the work, and the milliseconds of audio it stands for.
    pub work: Vec<(Queue, Lane, Envelope, u64)>,
}

impl Outputs {
    /// Returns outputs that are one fact.
    pub fn fact(fact: Envelope) -> Outputs {
        Outputs { facts: vec![fact], ..Outputs::default() }
    }
}

/// One part of a streaming decode.
#[derive(Clone, Debug)]
pub struct Part {
    /// The work the part makes: an [`Event::SegmentCut`].
    pub work: Envelope,
    /// The lane it goes to.
    pub lane: Lane,
    /// Its speech: 16 kHz mono PCM, i16 little endian.
    pub speech: Bytes,
    /// Milliseconds of speech.
    pub ms: u64,
    /// The cursor before this part.
    pub expected: String,
    /// The cursor after this part.
    pub next: String,
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The commit was answered.
    Committed(Outcome),
    /// The entry waits for another try.
    PutOff,
    /// The commit failed for good; the entry is taken over by another worker when the lease ends.
    Abandoned,
}

/// An entry, ours until it ends or the lease is lost.
pub struct Delivery {
    context: Arc<Context>,
    entry: Entry,
    envelope: Option<Envelope>,
    lost: CancellationToken,
    since: Instant,
    ended: bool,
}

impl Delivery {
    pub(super) fn new(context: Arc<Context>, entry: Entry) -> Delivery {
        let lost = context.hand.start(&entry);
        Delivery { context, entry, envelope: None, lost, since: Instant::now(), ended: false }
    }

    pub(super) fn set_envelope(&mut self, mut envelope: Envelope) {
        envelope.seq = self.entry.text("seq").and_then(|seq| seq.parse().ok());
        self.envelope = Some(envelope);
    }

    /// Returns the entry as it stands in the stream.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Returns the event it carries.
    ///
    /// # Panics
    /// For a drop, which only ingest sees, and for a fact of an unknown type, which only readers of facts see: they
    /// ask [`known`](Delivery::known).
    pub fn envelope(&self) -> &Envelope {
        self.envelope.as_ref().expect("the loop hands out work only with its envelope")
    }

    /// Returns the event it carries, unless it is a drop or a fact of a type this release does not know.
    pub fn known(&self) -> Option<&Envelope> {
        self.envelope.as_ref()
    }

    /// Returns the lane it came in.
    pub fn lane(&self) -> Lane {
        self.entry.source.lane()
    }

    /// Tells whether another failure would be the last.
    pub fn is_last_attempt(&self) -> bool {
        self.entry.attempts + 1 >= self.context.options.max_attempts
    }

    /// Cancelled when another worker has the entry: whatever is done from then on is thrown away.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Cancelled when the program shuts down: long work should stop at its next resumable point and be handed back.
    pub fn stopping(&self) -> &CancellationToken {
        &self.context.stopping
    }

    /// Opens a span with the ids that logs are searched by.
    pub fn span(&self) -> Span {
        let stage = self.context.options.name;
        match &self.envelope {
            Some(envelope) => {
                let segment = envelope.segment().map(|segment| segment.to_string());
                tracing::info_span!("delivery", stage, recording = %envelope.recording, segment, trace = envelope.trace)
            }
            None => tracing::info_span!("delivery", stage, entry = self.entry.id),
        }
    }

    /// Emits a part of a streaming decode. Waits while the lane is under pressure or Redis is full.
    ///
    /// # Errors
    /// What cannot heal; [`Emitted::Stale`] and [`Emitted::Ended`] mean to stop, as values.
    pub async fn emit(&self, part: Part) -> Result<Emitted, Error> {
        let envelope = self.envelope();
        let shard = envelope.shard;
        let segment = part.work.segment().ok_or_else(|| {
            Error::Misconfigured(format!("a part must be a segment, not {}", part.work.event.kind()))
        })?;
        let message = Message::work(&part.work, part.ms, part.speech.len() as u64)
            .map_err(|e| Error::Misconfigured(e.to_string()))?;
        let emit = Emit {
            source: self.entry.source,
            group: self.context.options.name.to_owned(),
            id: self.entry.id.clone(),
            identity: self.entry.identity().to_owned(),
            recording: envelope.recording,
            generation: envelope.generation,
            cursor: keys::cursor(shard, envelope.recording, envelope.generation, envelope.round),
            expected: part.expected,
            next: part.next,
            queue: Source::Queue(shard, Queue::Segments, part.lane),
            message,
            speech_key: keys::speech(shard, &segment, part.work.round),
            speech: part.speech,
        };
        loop {
            if self.lost.is_cancelled() || self.stopping().is_cancelled() {
                return Ok(Emitted::Ended(Outcome::Lost));
            }
            if !self.context.pauses.is_paused(part.lane) {
                failpoint::reach("emit.before");
                match self.context.log.emit(&emit).await {
                    Err(Error::Full { .. }) => {}
                    other => {
                        failpoint::reach("emit.after");
                        return other;
                    }
                }
            }
            tokio::time::sleep(PRESSURE_PAUSE).await;
        }
    }

    /// Ends the delivery: its outputs are appended and it is acknowledged, at once.
    pub async fn finish(self, outputs: Outputs) -> Ended {
        let Outputs { facts, work } = outputs;
        let shard = self.entry.source.shard();
        let lapse = self.envelope.as_ref().and_then(|envelope| lapsed(envelope, &facts));
        let facts: Result<Vec<_>, _> = facts.iter().map(Message::fact).collect();
        let work = work.iter().map(|(queue, lane, envelope, ms)| {
            let queue = Source::Queue(shard.unwrap_or(envelope.shard), *queue, *lane);
            Ok((queue, Message::work(envelope, *ms, 0)?))
        });
        let work: Result<Vec<_>, events::CodecError> = work.collect();
        match (facts, work) {
            (Ok(facts), Ok(work)) => self.end(facts, work, None, lapse).await,
            (Err(error), _) | (_, Err(error)) => {
                self.fail(Cause::new("result_too_large", error.to_string())).await
            }
        }
    }

    /// Ends many deliveries that leave nothing behind, as a projector does after its transaction.
    pub async fn finish_all(deliveries: Vec<Delivery>) {
        let (counted, deliveries): (Vec<_>, Vec<_>) =
            deliveries.into_iter().partition(|delivery| delivery.entry.attempts > 0);
        for delivery in counted {
            // Only a commit forgets the attempts.
            delivery.finish(Outputs::default()).await;
        }
        let Some(first) = deliveries.first() else { return };
        let context = Arc::clone(&first.context);
        let mut sources: std::collections::HashMap<Source, Vec<String>> = std::collections::HashMap::new();
        for delivery in &deliveries {
            sources.entry(delivery.entry.source).or_default().push(delivery.entry.id.clone());
        }
        failpoint::reach("ack.before");
        for (source, ids) in sources {
            if let Err(error) = context.log.acknowledge(context.options.name, source, &ids).await {
                tracing::error!(%error, "cannot acknowledge: the facts come again and change nothing");
            }
        }
        failpoint::reach("ack.after");
        for delivery in deliveries {
            delivery.close(Ended::Committed(Outcome::Done));
        }
    }

    /// Ends the delivery in the dead letters, and its recording or segment with the cause.
    pub async fn fail(self, mut cause: Cause) -> Ended {
        // The fact that ends the recording must fit into an event, whatever somebody put into the message.
        cause.message.truncate(cause.message.floor_char_boundary(MAX_CAUSE_BYTES));
        let options = &self.context.options;
        let attempts = self.entry.attempts + 1;
        tracing::error!(
            stage = options.name,
            code = cause.code,
            cause = cause.message,
            attempts,
            recording = self.envelope.as_ref().map(|e| e.recording.to_string()),
            "giving an entry up"
        );
        metrics::died(options.name, &cause.code);
        let fact = match &self.envelope {
            Some(envelope) => failure(envelope, options.name, &cause, attempts),
            None if matches!(self.entry.source, Source::Queue(..)) => {
                let json = self.entry.field("event").map_or(&[][..], |json| json);
                events::end_unreadable(json, options.name, cause.clone(), attempts)
            }
            None => None,
        };
        let lapse = self.envelope.as_ref().and_then(|envelope| lapsed(envelope, fact.as_slice()));
        let facts: Vec<Message> = fact.iter().filter_map(|fact| Message::fact(fact).ok()).collect();
        let letter =
            DeadLetter { stage: options.name.to_owned(), cause, attempts, worker: options.worker.clone() };
        self.end(facts, Vec::new(), Some(letter), lapse).await
    }

    /// Puts the entry off and counts a failure; the last attempt fails it.
    pub async fn retry_after(mut self, delay: Duration, cause: Cause) -> Ended {
        if self.is_last_attempt() {
            return self.fail(cause).await;
        }
        tracing::warn!(
            stage = self.context.options.name,
            code = cause.code,
            cause = cause.message,
            attempt = self.entry.attempts + 1,
            ?delay,
            "trying again later"
        );
        self.entry.attempts += 1;
        self.put_off(delay).await
    }

    /// Puts the entry off for a time that grows with its failures, and counts one.
    pub async fn retry(self, cause: Cause) -> Ended {
        let delay = Duration::from_secs(1 << self.entry.attempts.min(5));
        self.retry_after(delay, cause).await
    }

    /// Puts the entry off without counting a failure: what it waits for is not its fault.
    pub async fn put_off(self, delay: Duration) -> Ended {
        let Context { log, options, .. } = &*self.context;
        metrics::put_off(options.name);
        let attempts = self.entry.attempts;
        failpoint::reach("retry.before");
        let ended = match log.retry(options.name, &options.worker, &self.entry, attempts, delay).await {
            Ok(true) => Ended::PutOff,
            // Another worker has it by now, or ended it.
            Ok(false) => Ended::Committed(Outcome::Lost),
            Err(error) => {
                tracing::error!(%error, "cannot put an entry off: it is claimed when the lease ends");
                Ended::Abandoned
            }
        };
        failpoint::reach("retry.after");
        self.close(ended)
    }

    /// Gives the entry back so that another worker takes it at once.
    pub async fn hand_back(self) -> Ended {
        self.context.hand_back(self.entry.source, std::slice::from_ref(&self.entry.id)).await;
        self.close(Ended::PutOff)
    }

    async fn end(
        self,
        facts: Vec<Message>,
        outputs: Vec<(Source, Message)>,
        dead: Option<DeadLetter>,
        lapse: Option<Claim>,
    ) -> Ended {
        let Context { log, options, .. } = &*self.context;
        // A fact is only told of: what it tells of goes on, or was ended by the work itself.
        let is_work = self.entry.source.deletes_done();
        let wanted = self.envelope.as_ref().filter(|e| !matches!(e.event, Event::RecordingDeleted(_)));
        let commit = Commit {
            source: self.entry.source,
            group: options.name.to_owned(),
            id: self.entry.id.clone(),
            identity: self.entry.identity().to_owned(),
            // The fact of a deletion is kept though its recording is marked deleted.
            recording: wanted.map(|envelope| envelope.recording),
            generation: wanted.filter(|_| is_work).map(|envelope| envelope.generation),
            facts,
            outputs,
            dead,
            delete: self.envelope.as_ref().filter(|_| is_work).map(leftovers).unwrap_or_default(),
            lapse: lapse.filter(|_| is_work),
        };
        if commit.dead.is_some() {
            failpoint::reach("dead.before");
        }
        failpoint::reach("commit.before");
        loop {
            match log.commit(&commit).await {
                Ok(outcome) => {
                    failpoint::reach("commit.after");
                    metrics::committed(options.name, outcome, self.since.elapsed().as_secs_f64());
                    if outcome == Outcome::Gone {
                        metrics::data_gone(options.name, 1);
                    }
                    return self.close(Ended::Committed(outcome));
                }
                Err(Error::NoGroup { .. }) => {
                    // The group is made again from the first entry, so the work is delivered again.
                    let made = log.ensure_groups(options.name, &[self.entry.source]).await;
                    tracing::error!(?made, "the consumer group was gone while committing");
                    return self.close(Ended::Abandoned);
                }
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, "commit failed, trying again");
                    tokio::time::sleep(PRESSURE_PAUSE).await;
                }
                Err(error) => {
                    tracing::error!(%error, "commit failed: the work is done again when the lease ends");
                    return self.close(Ended::Abandoned);
                }
            }
        }
    }

    /// The same entry once more, to be ended in place of a delivery that panicked.
    fn twin(&self) -> Delivery {
        Delivery {
            context: Arc::clone(&self.context),
            entry: self.entry.clone(),
            envelope: self.envelope.clone(),
            lost: self.lost.clone(),
            since: self.since,
            // Dropped by a runtime that is shutting down it does not come here again: the lease ends it.
            ended: true,
        }
    }

    fn close(mut self, ended: Ended) -> Ended {
        self.ended = true;
        self.context.hand.release(&self.entry);
        ended
    }
}

/// The longest message of a cause.
const MAX_CAUSE_BYTES: usize = 8 * 1024;

/// How long to wait between looks at whether the pressure is gone.
const PRESSURE_PAUSE: Duration = Duration::from_millis(100);

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // The stage panicked or forgot it. Here nothing can be awaited, so a fresh delivery of the same entry ends it.
        self.ended = true;
        let again = self.twin();
        self.context.runtime.clone().spawn(async move {
            let message = "the worker stopped in the middle of it (a panic: see its log)";
            let cause = Cause::new("worker_panicked", message);
            if again.is_last_attempt() {
                // What made the stage panic may do so here too: then it ends without the stage.
                let (stage, last) = (Arc::clone(&again.context.stage), again.twin());
                let given_up = AssertUnwindSafe(stage.give_up(again, cause.clone())).catch_unwind();
                if given_up.await.is_err() {
                    last.fail(cause).await;
                }
            } else {
                again.retry(cause).await;
            }
        });
    }
}

/// Returns the keys that live only as long as the work: a segment's speech, a recording's cursor.
fn leftovers(envelope: &Envelope) -> Vec<String> {
    match &envelope.event {
        Event::SegmentCut(_) => {
            let speech = |segment| keys::speech(envelope.shard, &segment, envelope.round);
            envelope.segment().map(speech).into_iter().collect()
        }
        Event::TranscriptionRequested(_) => {
            vec![keys::cursor(envelope.shard, envelope.recording, envelope.generation, envelope.round)]
        }
        _ => Vec::new(),
    }
}

/// Returns the claim that lapses because the recording failed: nothing came of this content, so whoever brings it
/// again gets a new try. A claim by key stays: whoever repeats a key wants the same answer.
fn lapsed(envelope: &Envelope, facts: &[Envelope]) -> Option<Claim> {
    let Event::TranscriptionRequested(request) = &envelope.event else { return None };
    let failed = facts.iter().any(|fact| matches!(fact.event, Event::RecordingFailed(_)));
    // Only generation 0 was admitted under a claim; what becomes of later ones takes nothing from it.
    (failed && envelope.generation == 0)
        .then(|| Claim::by_content(&envelope.tenant, &request.audio.sha256, &request.settings.canonical()))
}

/// Returns the fact that ends the recording or segment that work was about.
fn failure(envelope: &Envelope, stage: &str, cause: &Cause, attempts: u32) -> Option<Envelope> {
    let cause = cause.clone();
    let event = match &envelope.event {
        Event::TranscriptionRequested(_) => {
            RecordingFailed { stage: stage.to_owned(), cause, attempts }.into()
        }
        Event::SegmentCut(cut) => {
            let (channel, index) = (cut.channel, cut.index);
            let (start_ms, end_ms) = (cut.start_ms, cut.end_ms);
            SegmentFailed { channel, index, start_ms, end_ms, cause, attempts }.into()
        }
        // A fact that the read side refuses: what waits for it must not wait for ever.
        Event::SegmentTranscribed(said) => {
            let (channel, index) = (said.channel, said.index);
            let (start_ms, end_ms) = (said.start_ms, said.end_ms);
            SegmentFailed { channel, index, start_ms, end_ms, cause, attempts }.into()
        }
        Event::RecordingAdmitted(_) | Event::RecordingDecoded(_) => {
            RecordingFailed { stage: stage.to_owned(), cause, attempts }.into()
        }
        _ => return None,
    };
    Some(envelope.follow(event, events::now()))
}
