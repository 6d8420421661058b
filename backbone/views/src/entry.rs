//! One entry of a shard's log, as it is folded and archived.

use std::ops::Range;
use std::sync::Arc;

use events::{CodecError, Decoded, Envelope, Event, EventId, RecordingId, Shard};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use transcript::spans;

use crate::fold::to_json;

/// An entry that was read: its place, its bytes, and the event it holds, if this release knows the type. Cheap to clone.
///
/// Of a segment, the words are most of the bytes, and tables hold them as they are written: they are not made into values.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub(crate) head: Arc<Head>,
    pub(crate) json: Arc<str>,
    /// The event, without the spans of a segment.
    lean: Option<Arc<Envelope>>,
    spans: Text,
}

/// The JSON of a segment's spans.
#[derive(Clone, Debug, PartialEq)]
enum Text {
    /// Part of the entry's own.
    Within(Range<usize>),
    /// Written anew.
    Own(Arc<str>),
}

/// What every event says of itself, whatever its type.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Head {
    #[serde(skip)]
    pub shard: u16,
    #[serde(skip)]
    pub seq: i64,
    pub event_id: EventId,
    #[serde(rename = "type")]
    pub kind: String,
    pub version: u32,
    pub recording: RecordingId,
    pub tenant: String,
    #[serde(default)]
    pub generation: u32,
    #[serde(default)]
    pub round: u32,
    pub submitted_at: Timestamp,
    pub occurred_at: Timestamp,
}

impl Head {
    fn of(envelope: &Envelope, version: u32) -> Head {
        Head {
            shard: 0,
            seq: 0,
            event_id: envelope.event_id,
            kind: envelope.event.kind().to_owned(),
            version,
            recording: envelope.recording,
            tenant: envelope.tenant.as_str().to_owned(),
            generation: envelope.generation,
            round: envelope.round,
            submitted_at: envelope.submitted_at,
            occurred_at: envelope.occurred_at,
        }
    }
}

/// An entry that cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// The event is in a version newer than this release: reading must pause until the program is upgraded.
    #[error("event {kind} has version {version}, newer than this program knows; use the newer release")]
    Newer {
        /// The type as written.
        kind: String,
        /// The version as written.
        version: u32,
    },
    /// The bytes are not an event.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A number that no recording can have.
    #[error("event {kind} has a number out of range: {number}")]
    Range {
        /// The type as written.
        kind: String,
        /// The number.
        number: u64,
    },
}

/// The largest length or size that is believed: 4,400 years in milliseconds, 140 terabytes.
const NUMBER_MAX: u64 = 1 << 47;

impl Entry {
    /// Reads the entry of `shard` at `seq`. A type that this release does not know is an entry too: it is archived,
    /// so that a later release can fold it, and changes nothing else.
    ///
    /// # Errors
    /// [`EntryError::Newer`] must be waited out; the others never get better.
    pub fn read(shard: Shard, seq: u64, json: &[u8]) -> Result<Entry, EntryError> {
        let text = std::str::from_utf8(json).map_err(|_| malformed("the bytes are not UTF-8"))?;
        let lean = events::decode_lean(text)?;
        let (mut head, envelope) = match lean.decoded {
            Decoded::Known(envelope) => (Head::of(&envelope, lean.version), Some(envelope)),
            Decoded::UnknownType { .. } => (serde_json::from_str(text).map_err(CodecError::from)?, None),
            Decoded::NewerVersion { kind, version } => return Err(EntryError::Newer { kind, version }),
        };
        let has_nul = text.contains("\\u0000");
        let mut envelope = match envelope {
            Some(_) if has_nul => Some(without_nul(text)?),
            envelope => envelope,
        };
        let spans = match (lean.spans.filter(|_| !has_nul), envelope.as_mut().map(|of| &mut of.event)) {
            (Some(written), _) => {
                spans::check(written).map_err(CodecError::from)?;
                let from = written.as_ptr().addr() - text.as_ptr().addr();
                Text::Within(from..from + written.len())
            }
            (None, Some(Event::SegmentTranscribed(segment))) => {
                Text::Own(to_json(&std::mem::take(&mut segment.spans)).into())
            }
            (None, _) => Text::Within(0..0),
        };
        let lean = envelope.map(|mut envelope| {
            (envelope.shard, envelope.seq) = (shard, Some(seq));
            Arc::new(*envelope)
        });
        let largest = lean.as_ref().map_or(0, |envelope| largest(&envelope.event));
        if largest > NUMBER_MAX || i64::try_from(seq).is_err() {
            return Err(EntryError::Range { kind: head.kind, number: largest.max(seq) });
        }
        head.tenant = head.tenant.replace('\0', "\u{fffd}");
        head.kind = head.kind.replace('\0', "\u{fffd}");
        (head.shard, head.seq) = (shard.0, seq as i64);
        Ok(Entry { head: Arc::new(head), json: text.into(), lean, spans })
    }

    /// Makes the entry of an event that has its seq.
    ///
    /// # Errors
    /// As [`read`](Entry::read); an event without seq is out of range.
    pub fn of(envelope: &Envelope) -> Result<Entry, EntryError> {
        Entry::read(envelope.shard, envelope.seq.unwrap_or(u64::MAX), events::encode(envelope)?.as_bytes())
    }

    /// Returns the event, read anew with all its spans; `None` for a type that this release does not know.
    pub fn envelope(&self) -> Option<Envelope> {
        let mut envelope = self.lean()?.clone();
        if let Event::SegmentTranscribed(segment) = &mut envelope.event {
            segment.spans = serde_json::from_str(self.spans()).expect("they were checked when this was made");
        }
        Some(envelope)
    }

    /// The event without the spans of a segment; `None` for a type that this release does not know.
    pub(crate) fn lean(&self) -> Option<&Envelope> {
        self.lean.as_deref()
    }

    /// The spans of a segment as JSON; nothing for other events.
    pub(crate) fn spans(&self) -> &str {
        match &self.spans {
            Text::Within(range) => &self.json[range.clone()],
            Text::Own(json) => json,
        }
    }

    /// The event's identity.
    pub fn event_id(&self) -> EventId {
        self.head.event_id
    }

    /// The type as written.
    pub fn kind(&self) -> &str {
        &self.head.kind
    }

    /// The shard it stands in.
    pub fn shard(&self) -> Shard {
        Shard(self.head.shard)
    }

    /// Its place in the shard's log.
    pub fn seq(&self) -> u64 {
        self.head.seq.unsigned_abs()
    }

    /// The recording it is about.
    pub fn recording(&self) -> RecordingId {
        self.head.recording
    }

    /// When that was submitted.
    pub fn submitted_at(&self) -> Timestamp {
        self.head.submitted_at
    }
}

fn malformed(what: &str) -> CodecError {
    CodecError::Malformed(serde::de::Error::custom(what))
}

/// Reads an event of a known type without the character NUL, which JSON can carry and PostgreSQL cannot store. The archive
/// keeps the bytes as they came.
fn without_nul(json: &str) -> Result<Box<Envelope>, CodecError> {
    fn clean(value: &mut Value) {
        match value {
            Value::String(text) => *text = text.replace('\0', "\u{fffd}"),
            Value::Array(values) => values.iter_mut().for_each(clean),
            Value::Object(fields) => {
                *fields = std::mem::take(fields)
                    .into_iter()
                    .map(|(name, mut value)| {
                        clean(&mut value);
                        (name.replace('\0', "\u{fffd}"), value)
                    })
                    .collect();
            }
            _ => {}
        }
    }
    let mut value: Value = serde_json::from_str(json)?;
    clean(&mut value);
    match events::decode(value.to_string().as_bytes())? {
        Decoded::Known(envelope) => Ok(envelope),
        _ => Err(malformed("its type is known only with the character NUL in it")),
    }
}

/// The largest number in an event that ends up in a column.
fn largest(event: &Event) -> u64 {
    match event {
        Event::RecordingAdmitted(e) => e.audio.bytes.max(e.audio.estimated_ms),
        Event::TranscriptionRequested(e) => e.audio.bytes.max(e.audio.estimated_ms),
        Event::RecordingDecoded(e) => e.audio_ms.max(e.speech_ms).max(e.truncated_at_ms.unwrap_or(0)),
        Event::SegmentTranscribed(e) => e.start_ms.max(e.end_ms).max(e.infer_ms),
        Event::SegmentFailed(e) => e.start_ms.max(e.end_ms),
        _ => 0,
    }
}
