//! What was offered, lost and planted, and what the streams and tables hold in the end. Plain data.

use std::collections::BTreeMap;

use events::{EventId, RecordingId};

/// What the harness did and was told.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// Recordings that clients offered.
    pub offers: Vec<Offer>,
    /// Times at which Redis forgot what it had acknowledged.
    pub losses: Vec<Loss>,
    /// Entries that no program can read, by the mark they carry.
    pub planted: Vec<Planted>,
    /// Faults done.
    pub faults: u64,
    /// Times a consumer group was removed: what it had acknowledged in a log is delivered again.
    pub groups_removed: u64,
    /// Segments that infer workers can have in hand at once, all together.
    pub in_hand: u64,
}

/// A recording that a client offered until it was accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// Its idempotency key, which is also its name.
    pub key: String,
    /// How it was offered.
    pub way: Way,
    /// What its segments must say, in order.
    pub said: Vec<Said>,
    /// What they must say in later generations, which are cut as nobody waits for them.
    pub said_again: Vec<Said>,
    /// Every try.
    pub attempts: Vec<Attempt>,
    /// Every try to delete it once it was accepted.
    pub deletions: Vec<Attempt>,
    /// Every try to have it transcribed again once it was complete.
    pub replays: Vec<Attempt>,
}

/// How a recording is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through the API, which answers when it is on disk.
    Api,
    /// Straight into `vf:ingest`, which is as durable as Redis.
    Raw,
}

/// One try to hand a recording in, or to have something done with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// When the answer came, milliseconds since the run began.
    pub at_ms: u64,
    /// The answer.
    pub reply: Reply,
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Accepted, under this id: of a drop, of what is deleted (a recording, or empty for a drop that is none yet), or of
    /// a run.
    Accepted(String),
    /// Refused in words: nothing was kept of it.
    Refused(String),
    /// No answer, or one that leaves it open.
    Unknown(String),
}

/// What a segment must say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Said {
    /// Channel.
    pub channel: u16,
    /// Place within the channel.
    pub index: u32,
    /// Start, milliseconds.
    pub start_ms: u64,
    /// End, milliseconds.
    pub end_ms: u64,
    /// The text.
    pub text: String,
}

/// A time at which Redis went back to an earlier state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// What was acknowledged from here on is gone, milliseconds since the run began.
    pub from_ms: u64,
    /// And up to here.
    pub to_ms: u64,
    /// Facts that were in the logs and are not any more.
    pub facts: u64,
}

/// An entry that must come out as one dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planted {
    /// A mark somewhere in its fields.
    pub mark: String,
    /// When, milliseconds since the run began.
    pub at_ms: u64,
}

impl Offer {
    /// One that nobody has handed in yet.
    pub fn new(key: String, way: Way, said: Vec<Said>, said_again: Vec<Said>) -> Offer {
        let (attempts, deletions, replays) = Default::default();
        Offer { key, way, said, said_again, attempts, deletions, replays }
    }

    /// What the segments of a generation must say.
    pub fn said_in(&self, generation: u32) -> &[Said] {
        if generation == 0 { &self.said } else { &self.said_again }
    }

    /// When it was accepted, milliseconds since the run began; `None` if no answer ever said so.
    pub fn accepted_ms(&self) -> Option<u64> {
        accepted(&self.attempts).map(|(at_ms, _)| at_ms)
    }

    /// The id of the drop that was accepted.
    pub fn drop_id(&self) -> Option<&str> {
        accepted(&self.attempts).map(|(_, id)| id)
    }

    /// When its deletion was accepted; `None` if no answer ever said so.
    pub fn deleted_ms(&self) -> Option<u64> {
        accepted(&self.deletions).map(|(at_ms, _)| at_ms)
    }

    /// Whether it may be gone: a deletion was accepted, or nobody knows.
    pub fn may_be_deleted(&self) -> bool {
        self.deletions.iter().any(|attempt| !matches!(attempt.reply, Reply::Refused(_)))
    }

    /// Whether a run was accepted that transcribes it again.
    pub fn was_replayed(&self) -> bool {
        accepted(&self.replays).is_some()
    }

    /// Whether every answer was a refusal.
    pub fn was_refused(&self) -> bool {
        self.attempts.iter().all(|attempt| matches!(attempt.reply, Reply::Refused(_)))
    }
}

fn accepted(attempts: &[Attempt]) -> Option<(u64, &str)> {
    attempts.iter().find_map(|attempt| match &attempt.reply {
        Reply::Accepted(id) => Some((attempt.at_ms, id.as_str())),
        _ => None,
    })
}

impl Recorded {
    /// Whether what was acknowledged at this time may be gone.
    pub fn lost_at(&self, at_ms: u64) -> bool {
        self.losses.iter().any(|loss| (loss.from_ms..=loss.to_ms).contains(&at_ms))
    }
}

/// What streams and tables hold in the end.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Facts in the logs.
    pub log: Vec<Fact>,
    /// Facts in the archive.
    pub archive: Vec<Fact>,
    /// Declared gaps: shard, first and last seq.
    pub gaps: Vec<(u16, u64, u64)>,
    /// Places whose facts were erased with their recordings: shard, first and last seq.
    pub erased: Vec<(u16, u64, u64)>,
    /// Files of the audio store, by their keys.
    pub stored: Vec<String>,
    /// Places that the projector has seen: shard, first and last seq.
    pub seen: Vec<(u16, u64, u64)>,
    /// Places in the logs that are noted to have had two events.
    pub conflicts: Vec<(u16, u64)>,
    /// Rows of `recordings`.
    pub recordings: Vec<RecordingRow>,
    /// Rows of `transcripts`.
    pub transcripts: Vec<TranscriptRow>,
    /// Rows of `segments`.
    pub segments: Vec<SegmentRow>,
    /// What is left undone, a line each.
    pub left: Vec<String>,
    /// Dead letters.
    pub dead: Vec<Dead>,
    /// How often each segment was transcribed, by `recording:generation:channel:index`.
    pub work: BTreeMap<String, u64>,
    /// Programs that ended though nobody made them, a line each.
    pub crashes: Vec<String>,
}

/// A fact with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// The shard whose log it is in.
    pub shard: u16,
    /// Its place there.
    pub seq: u64,
    /// Who it is.
    pub event_id: EventId,
    /// The envelope.
    pub json: String,
}

/// Where a recording or a transcription stands, as columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// `complete` and so on.
    pub status: String,
    /// Why it ended, if it did not end well.
    pub reason_code: Option<String>,
    /// Length of the audio, milliseconds.
    pub audio_ms: u64,
    /// Decoded so far, milliseconds.
    pub decoded_ms: u64,
    /// Transcribed so far, milliseconds.
    pub transcribed_ms: u64,
    /// Segments cut, once that is known.
    pub segments: Option<u64>,
    /// Segments with text.
    pub transcribed_segments: u64,
    /// Segments without.
    pub failed_segments: u64,
    /// The language most of it is in.
    pub language: Option<String>,
}

/// A row of `recordings`.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordingRow {
    /// Which.
    pub id: RecordingId,
    /// The drop it came from.
    pub drop_id: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// The generation that readers see.
    pub generation: Option<u32>,
    /// Where it stands.
    pub standing: Standing,
}

/// A row of `transcripts`.
#[derive(Clone, Debug, PartialEq)]
pub struct TranscriptRow {
    /// Of which recording.
    pub recording: RecordingId,
    /// Which transcription of it.
    pub generation: u32,
    /// Where it stands.
    pub standing: Standing,
}

/// A row of `segments`.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentRow {
    /// Of which recording.
    pub recording: RecordingId,
    /// Of which transcription.
    pub generation: u32,
    /// The round of the event that counts.
    pub round: u32,
    /// The event that counts.
    pub event_id: EventId,
    /// Channel, place, times; the text is empty where there is none.
    pub said: Said,
    /// Why there is no text.
    pub cause_code: Option<String>,
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// The stage that gave up.
    pub stage: String,
    /// Why.
    pub code: String,
    /// All its fields as text.
    pub fields: String,
}
