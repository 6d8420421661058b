//! What can be read from the streams and committed to them, whichever log holds them.
//!
//! Every writing call may be repeated after a lost reply: the second one finds the first done and says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use events::{Cause, Claim, Envelope, Lane, RecordingId, SegmentId, Shard, Tenant};
use serde::{Deserialize, Serialize};

use crate::append::{Append, Appended, Erased};
use crate::dead::{Dead, DeadLetter, DeadPlace};
use crate::keys::Source;
use crate::survey::Survey;

/// A log that programs share.
pub type SharedLog = Arc<dyn Log>;

/// What can go wrong below a stage. The caller's question is only: try again, or give up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection, the server or its state is at fault: the same call may succeed later.
    #[error("{action}: {source}")]
    Unavailable {
        /// What was being done, as a verb phrase.
        action: &'static str,
        /// What the server or connection said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server is at its memory limit and refuses what would add to it: wait for consumers to free some.
    #[error("{action}: redis is at its memory limit (maxmemory); consumers must catch up first")]
    Full {
        /// What was being done, as a verb phrase.
        action: &'static str,
    },
    /// A consumer group or stream vanished (FLUSHALL, DEL, a failover): it must be made again.
    #[error("{action}: the consumer group is gone")]
    NoGroup {
        /// What was being done, as a verb phrase.
        action: &'static str,
    },
    /// The deployment is set up in a way that would lose data; the message says what to change.
    #[error("{0}")]
    Misconfigured(String),
    /// The reply made no sense: a bug here or in the server.
    #[error("{action}: unexpected reply: {reply}")]
    Reply {
        /// What was being done, as a verb phrase.
        action: &'static str,
        /// The reply, shortened.
        reply: String,
    },
}

impl Error {
    /// Tells whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Unavailable { .. } | Error::Full { .. })
    }
}

/// How the writing anew of the server's append-only file stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendOnlyFile {
    /// Names this start of the server: a restart forgets what was asked of it.
    pub server: String,
    /// Whether it is being written anew, or is about to be.
    pub is_rewriting: bool,
    /// Whether the last time ended well; also where there was none.
    pub is_good: bool,
}

/// One entry of a stream as it was delivered.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Where it was read.
    pub source: Source,
    /// Its id in the stream: a place, never an identity.
    pub id: String,
    /// Its fields in order.
    pub fields: Vec<(String, Bytes)>,
    /// How often it was delivered; 1 the first time. Workers that died, or went silent, with it.
    pub deliveries: u64,
    /// How often processing it failed: the count that decides.
    pub attempts: u32,
}

impl Entry {
    /// Returns the first field of that name.
    pub fn field(&self, name: &str) -> Option<&Bytes> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    /// Returns a field as text, if it is there and is UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.field(name)?).ok()
    }

    /// Returns the identity that commits check: the event's, or the drop's own, or nothing.
    ///
    /// Anyone may write drops, so what is not ASCII is no identity: scripts and programs must read it alike.
    pub fn identity(&self) -> &str {
        let identity = |name| self.text(name).filter(|text| !text.is_empty() && text.is_ascii());
        identity("event_id").or_else(|| identity("drop")).unwrap_or("")
    }

    /// Returns the field of the attempts hash that counts for this entry: its identity, or its place for want of one.
    pub fn attempts_field(&self) -> &str {
        match self.identity() {
            "" => &self.id,
            identity => identity,
        }
    }
}

/// An event ready to be appended: identity, JSON, and what it weighs in a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The event's identity.
    pub event_id: String,
    /// The envelope as JSON.
    pub json: String,
    /// Milliseconds of audio it stands for, for the backlog.
    pub ms: u64,
    /// Bytes it holds in Redis beside itself (its speech).
    pub bytes: u64,
}

impl Message {
    /// Encodes a fact.
    ///
    /// # Errors
    /// [`events::CodecError::TooLarge`].
    pub fn fact(envelope: &Envelope) -> Result<Message, events::CodecError> {
        Message::work(envelope, 0, 0)
    }

    /// Encodes work that stands for `ms` of audio and holds `bytes` of speech.
    ///
    /// # Errors
    /// [`events::CodecError::TooLarge`].
    pub fn work(envelope: &Envelope, ms: u64, bytes: u64) -> Result<Message, events::CodecError> {
        let json = events::encode(envelope)?;
        Ok(Message { event_id: envelope.event_id.to_string(), json, ms, bytes })
    }
}

/// The end of an entry: everything that happens with it happens at once, or not at all.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The stream it was read from.
    pub source: Source,
    /// The consumer group.
    pub group: String,
    /// The entry's id.
    pub id: String,
    /// The entry's identity; another one under the same id is left alone.
    pub identity: String,
    /// Whose mark of deletion to look for. `None` for drops, and for the fact of the deletion itself.
    pub recording: Option<RecordingId>,
    /// Which generation's mark of cancellation to look for. `None` for drops and facts: a fact is told either way.
    pub generation: Option<u32>,
    /// Facts for the shard's log.
    pub facts: Vec<Message>,
    /// Work for queues of the same shard.
    pub outputs: Vec<(Source, Message)>,
    /// Why the entry goes to the dead letters, if it does.
    pub dead: Option<DeadLetter>,
    /// Keys of the shard to delete: speech, cursor.
    pub delete: Vec<String>,
    /// The de-duplication claim that lapses, if `recording` still holds it: a claim of another is never touched.
    pub lapse: Option<Claim>,
}

/// What a commit found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Done,
    /// Somebody finished the entry before, perhaps this caller with a lost reply. Nothing was written.
    Lost,
    /// The entry's data is gone from the stream. Nothing was written; the entry is acknowledged.
    Gone,
    /// Another entry stands under this id (a failover rewound the stream). Nothing was written.
    Mismatch,
    /// The recording is deleted: the entry is done and its output was dropped.
    Deleted,
    /// The generation is cancelled: the entry is done and its output was dropped.
    Cancelled,
}

/// One part of a streaming decode: moves the cursor, stores the speech and appends the work at once.
#[derive(Clone, Debug)]
pub struct Emit {
    /// The stream the recording's work was read from.
    pub source: Source,
    /// The consumer group.
    pub group: String,
    /// The entry's id.
    pub id: String,
    /// The entry's identity.
    pub identity: String,
    /// The recording.
    pub recording: RecordingId,
    /// The transcription the part belongs to.
    pub generation: u32,
    /// The cursor's key.
    pub cursor: String,
    /// The cursor as the caller last saw it; empty at the start.
    pub expected: String,
    /// The cursor after this part.
    pub next: String,
    /// The queue the part goes to.
    pub queue: Source,
    /// The part.
    pub message: Message,
    /// The key of its speech.
    pub speech_key: String,
    /// Its speech: 16 kHz mono PCM, i16 little endian.
    pub speech: Bytes,
}

/// What an emit found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emitted {
    /// Done.
    Done,
    /// This very part was emitted before (a lost reply). Nothing was written again.
    Repeated,
    /// Another worker moved the cursor: stop, it has the work now.
    Stale,
    /// The entry is not ours to work on any more, for one of the reasons of [`Outcome`].
    Ended(Outcome),
}

/// The admission of a recording in its own shard.
#[derive(Clone, Debug)]
pub struct Admit {
    /// The shard.
    pub shard: Shard,
    /// The recording.
    pub recording: RecordingId,
    /// The de-duplication claim it must win, or `None` for a rejection.
    pub claim: Option<Claim>,
    /// What must match when the claim is already held by another recording: a digest of content and settings.
    pub fingerprint: String,
    /// Facts for the log.
    pub facts: Vec<Message>,
    /// Work for a queue of the shard.
    pub work: Option<(Source, Message)>,
}

/// What an admission found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The facts and the work are appended.
    Admitted,
    /// This recording was admitted before: nothing was written again.
    Repeated,
    /// This recording is deleted: nothing was written.
    Deleted,
    /// Another recording holds the claim.
    Duplicate {
        /// That recording.
        recording: RecordingId,
        /// Its digest of content and settings.
        fingerprint: String,
    },
}

/// What the segments of a transcription heard of its language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Whether this segment told before.
    pub again: bool,
    /// What each segment told first, by the segment, this one included.
    pub all: BTreeMap<String, String>,
}

/// What the segment before another one in its channel left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Before {
    /// It ended; with what it [left](Log::leave_tail), or nothing where it failed or left nothing.
    Ended(Option<String>),
    /// It has not ended.
    Waits {
        /// How many up to it have not, as far as is known; 1 where it is the next to end.
        behind: u32,
        /// For how long others have had to wait since the last of the channel left a text.
        since: Duration,
    },
}

/// What became of a drop, for those who know only its drop id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropOutcome {
    /// The recording it became or was found to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<RecordingId>,
    /// Whether an earlier drop had brought the same.
    #[serde(default)]
    pub duplicate: bool,
    /// Why it was refused, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
}

/// What a worker announced about a model it can run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelNote {
    /// The name people use.
    pub name: String,
    /// SHA-256 of the weights.
    pub sha256: String,
    /// Whether it knows more than English.
    pub multilingual: bool,
    /// ISO 639-1 codes it knows.
    pub languages: Vec<String>,
}

/// Work of a queue that is not done, delivered or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    /// Entries.
    pub entries: u64,
    /// Milliseconds of audio; for undecoded audio an estimate.
    pub audio_ms: u64,
    /// Bytes of speech held in Redis.
    pub bytes: u64,
}

impl std::ops::AddAssign for Backlog {
    fn add_assign(&mut self, other: Backlog) {
        self.entries += other.entries;
        self.audio_ms += other.audio_ms;
        self.bytes += other.bytes;
    }
}

/// Entries taken over from workers that went silent, and from the retries that are due.
#[derive(Clone, Debug, Default)]
pub struct Claimed {
    /// The entries, now ours.
    pub entries: Vec<Entry>,
    /// Ids whose data is gone: lost work, to be counted and shouted about.
    pub lost: Vec<String>,
}

/// What a trim did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Facts removed.
    pub facts: u64,
    /// The group that has not acknowledged what the archive holds, if that is why the trim stopped.
    pub held_by: Option<String>,
}

/// How the server is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Health {
    /// Memory in use as a share of its limit, 0 without a limit.
    pub memory_share: f64,
}

/// A reader with a connection of its own, because a blocked read holds up whatever follows it on the line.
#[async_trait]
pub trait Reader: Send + Sync {
    /// Waits up to `block` for entries nobody was given yet; at most `count` of each source.
    ///
    /// The future must be driven to its end: dropping it leaves entries assigned that nobody sees
    /// (they come back with [`Log::own_pending`]).
    async fn read(&mut self, sources: &[Source], count: usize, block: Duration) -> Result<Vec<Entry>, Error>;
}

/// The streams of a deployment.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// The number of shards.
    fn shards(&self) -> u16;

    /// Returns a handle whose connections live on the calling runtime, for a thread of its own.
    async fn fork(&self) -> Result<SharedLog, Error>;

    /// Makes the group on each source, from the first entry on, where it is missing.
    async fn ensure_groups(&self, group: &str, sources: &[Source]) -> Result<(), Error>;

    /// Opens a reader for a consumer of a group.
    async fn reader(&self, group: &str, consumer: &str) -> Result<Box<dyn Reader>, Error>;

    /// Takes new entries without waiting. After an error some may be ours unseen: see [`own_pending`](Log::own_pending).
    async fn take(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        count: usize,
    ) -> Result<Vec<Entry>, Error>;

    /// Returns what was delivered to this consumer and is not done. To look is no delivery, and renews no lease.
    async fn own_pending(&self, group: &str, consumer: &str, source: Source) -> Result<Vec<Entry>, Error>;

    /// Returns those of the sources where entries are pending under other names than `consumer`: only there may be
    /// something to [`claim`](Log::claim). Cheap, so that an idle worker may ask often.
    async fn unsettled(&self, group: &str, consumer: &str, sources: &[Source]) -> Result<Vec<Source>, Error>;

    /// Takes over up to `count` entries whose worker was silent for `lease`, and retries that are due. After an error
    /// some may be ours unseen: see [`own_pending`](Log::own_pending).
    async fn claim(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        lease: Duration,
        count: usize,
    ) -> Result<Claimed, Error>;

    /// Renews the lease on entries; tells for each whether it is still this consumer's. Without entries it is a sign of
    /// life alone.
    async fn heartbeat(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        ids: &[String],
    ) -> Result<Vec<bool>, Error>;

    /// Gives entries back so that another worker may take them at once, at no cost to their attempts.
    async fn hand_back(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        ids: &[String],
    ) -> Result<(), Error>;

    /// Puts an entry of this consumer off: it stays pending and is claimed again when `delay` is over, with
    /// `attempts` counted and its deliveries forgotten. Tells whether it still was this consumer's.
    async fn retry(
        &self,
        group: &str,
        consumer: &str,
        entry: &Entry,
        attempts: u32,
        delay: Duration,
    ) -> Result<bool, Error>;

    /// Removes a consumer that holds nothing.
    async fn leave(&self, group: &str, consumer: &str, sources: &[Source]) -> Result<(), Error>;

    /// Ends an entry.
    async fn commit(&self, commit: &Commit) -> Result<Outcome, Error>;

    /// Acknowledges facts that need nothing else.
    async fn acknowledge(&self, group: &str, source: Source, ids: &[String]) -> Result<(), Error>;

    /// Emits a part of a streaming decode.
    async fn emit(&self, emit: &Emit) -> Result<Emitted, Error>;

    /// Appends facts and work that follow from no entry in hand, once for each act.
    ///
    /// With work it adds more than it frees, and is [`Error::Full`] at the memory limit; facts alone are taken there.
    async fn append(&self, append: &Append) -> Result<Appended, Error>;

    /// Marks a recording deleted and appends the fact that says so: from then on, whatever ends, is emitted or is
    /// appended for it leaves nothing behind.
    async fn delete(&self, shard: Shard, recording: RecordingId, fact: &Message) -> Result<Appended, Error>;

    /// Marks a generation cancelled and appends the fact that says so: from then on, whatever ends or is emitted for
    /// it leaves nothing behind.
    async fn cancel(
        &self,
        shard: Shard,
        recording: RecordingId,
        generation: u32,
        fact: &Message,
    ) -> Result<Appended, Error>;

    /// Removes everything of a recording from its shard: work, speech, cursors, languages, tails, dead letters, and
    /// facts other than that of its deletion. To be called after [`delete`](Log::delete), as often as it takes to succeed.
    async fn erase(&self, shard: Shard, recording: RecordingId) -> Result<Erased, Error>;

    /// Returns a recording's decode cursor, empty before the first part.
    async fn cursor(&self, key: &str) -> Result<String, Error>;

    /// Admits a recording, or records its rejection.
    async fn admit(&self, admit: &Admit) -> Result<Admission, Error>;

    /// Hands in a drop and returns its id in the queue. After a lost reply the drop may stand there twice: the
    /// de-duplication claim makes them one recording.
    async fn submit(&self, lane: Lane, fields: &[(String, Bytes)]) -> Result<String, Error>;

    /// Keeps what became of a drop for a week.
    async fn set_drop_outcome(&self, drop_id: &str, outcome: &DropOutcome) -> Result<(), Error>;

    /// Returns what became of a drop, if it was handled within the last week.
    async fn drop_outcome(&self, drop_id: &str) -> Result<Option<DropOutcome>, Error>;

    /// Marks a drop deleted that is no recording yet: whoever takes it in ends it instead. The mark counts for a drop of
    /// this tenant only.
    async fn mark_drop_deleted(&self, drop_id: &str, tenant: &Tenant) -> Result<(), Error>;

    /// Tells whether a drop of this tenant is marked deleted.
    async fn is_drop_deleted(&self, drop_id: &str, tenant: &Tenant) -> Result<bool, Error>;

    /// Returns the tenant that a waiting drop names which is known by its entry's id ([`drop_id`](crate::keys::drop_id)): empty when it
    /// names none, `None` for no such drop. One that brings an id of its own is not found.
    async fn waiting_drop(&self, drop_id: &str) -> Result<Option<String>, Error>;

    /// Removes the dead letters of a drop; returns how many there were.
    async fn erase_drop(&self, drop_id: &str) -> Result<u64, Error>;

    /// Asks the server to write its append-only file anew, so that what was removed leaves the disk. The server does so
    /// in the background: [`file`](Log::file) tells when it is done.
    async fn rewrite_file(&self) -> Result<(), Error>;

    /// Tells how the writing anew of the server's append-only file stands.
    async fn file(&self) -> Result<AppendOnlyFile, Error>;

    /// Returns the speech of a segment as `round` cut it: 16 kHz mono PCM, i16 little endian.
    async fn speech(&self, shard: Shard, segment: &SegmentId, round: u32) -> Result<Option<Bytes>, Error>;

    /// Settles the language of a transcription: the first to say wins, and all get the winner's answer.
    async fn settle_language(
        &self,
        shard: Shard,
        recording: RecordingId,
        generation: u32,
        language: &str,
    ) -> Result<String, Error>;

    /// Keeps what one segment of a transcription heard of its language, in the words of whoever infers; what it said first
    /// counts. Tells what all have heard.
    async fn hear_language(
        &self,
        shard: Shard,
        recording: RecordingId,
        generation: u32,
        segment: &str,
        heard: &str,
    ) -> Result<Heard, Error>;

    /// Returns the settled language, if there is one.
    async fn language(
        &self,
        shard: Shard,
        recording: RecordingId,
        generation: u32,
    ) -> Result<Option<String>, Error>;

    /// Returns what the segment before this one in its channel left, in the round `round`. A segment has ended once its
    /// speech is gone, whatever became of it.
    async fn before(&self, shard: Shard, segment: &SegmentId, round: u32) -> Result<Before, Error>;

    /// Keeps for the next segment of the channel what this one leaves, for a day; not of a recording that is deleted or a
    /// generation that is cancelled. To be called before the segment is ended, as often as it is read.
    async fn leave_tail(
        &self,
        shard: Shard,
        segment: &SegmentId,
        round: u32,
        tail: &str,
    ) -> Result<(), Error>;

    /// Tells whether a segment waits or is being read: its speech is there.
    async fn is_unread(&self, shard: Shard, segment: &SegmentId, round: u32) -> Result<bool, Error>;

    /// Announces a model that this deployment can run; for `lasts` it [is there](Log::has_model).
    async fn announce_model(&self, note: &ModelNote, lasts: Duration) -> Result<(), Error>;

    /// Tells whether a worker announced a model of this name with these weights, and did so a short while ago.
    async fn has_model(&self, name: &str, sha256: &str) -> Result<bool, Error>;

    /// Returns every model ever announced, by name.
    async fn models(&self) -> Result<BTreeMap<String, ModelNote>, Error>;

    /// Returns the work of each queue that is not done.
    async fn backlogs(&self, sources: &[Source]) -> Result<Vec<Backlog>, Error>;

    /// Returns the work of a queue that is not done.
    async fn backlog(&self, source: Source) -> Result<Backlog, Error> {
        Ok(self.backlogs(&[source]).await?.pop().unwrap_or_default())
    }

    /// Returns the number of facts of a shard that `group` has not acknowledged.
    async fn unread_facts(&self, group: &str, shard: Shard) -> Result<u64, Error>;

    /// Returns facts of a shard whose `seq` is above `after`, oldest first, at most `count`, for a reader without a
    /// group.
    async fn facts(&self, shard: Shard, after: u64, count: usize) -> Result<Vec<Entry>, Error>;

    /// Returns how the server is.
    async fn health(&self) -> Result<Health, Error>;

    /// Returns the `seq` of the newest fact of a shard, trimmed or not; 0 before the first one.
    async fn last_seq(&self, shard: Shard) -> Result<u64, Error>;

    /// Removes facts up to seq `archived` that every group has acknowledged. A log that nobody reads is not trimmed.
    async fn trim(&self, shard: Shard, archived: u64) -> Result<Trimmed, Error>;

    /// Returns the number of dead letters of a source's slot.
    async fn dead_letters(&self, source: Source) -> Result<u64, Error>;

    /// Lists dead letters that came after letter `after` (from the first one without it), oldest first, at most `count`.
    /// Large values are left out; see [`Dead::large`].
    async fn dead(&self, place: DeadPlace, after: Option<&str>, count: usize) -> Result<Vec<Dead>, Error>;

    /// Returns a dead letter; of a drop large values are left out, as in a list.
    async fn dead_letter(&self, place: DeadPlace, id: &str) -> Result<Option<Dead>, Error>;

    /// Throws a dead letter away; tells whether it was there.
    async fn drop_dead(&self, place: DeadPlace, id: &str) -> Result<bool, Error>;

    /// Puts a dead letter back to life: appends the facts and the work, or for a drop its original fields to its
    /// queue, and removes the letter, at once. `true` also where that was done before, and where the same work was
    /// asked for by another letter: nothing is appended then. `false`: it was thrown away, or nobody wants it any more
    /// (the recording is deleted, its generation cancelled), in which case it is gone now.
    async fn revive(
        &self,
        dead: &Dead,
        facts: Vec<Message>,
        work: Option<(Source, Message)>,
    ) -> Result<bool, Error>;

    /// Returns how all streams stand.
    async fn survey(&self) -> Result<Survey, Error>;

    /// Takes or renews the lease on a chore that one program at a time may do; tells whether `holder` has it now.
    async fn lease(&self, chore: &str, holder: &str, length: Duration) -> Result<bool, Error>;
}
