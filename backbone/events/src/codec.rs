//! Envelope to JSON and back, for every version ever released.
//!
//! A stored event is never edited. A change that old readers cannot ignore raises the type's version and adds a
//! pure upcaster here; `golden/` keeps one file per type and version, and each must decode for ever.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::envelope::{Envelope, now};
use crate::event::*;
use crate::id::{EventId, RecordingId, Shard, Tenant};

/// The largest event, in bytes of JSON. Audio never travels in events, so a larger one is a mistake.
pub const MAX_EVENT_BYTES: usize = 64 * 1024;

/// An event that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The event is over [`MAX_EVENT_BYTES`].
    #[error("event {kind} has {bytes} bytes, more than the {MAX_EVENT_BYTES} an event may have")]
    TooLarge {
        /// The event's type.
        kind: String,
        /// Its size as JSON.
        bytes: usize,
    },
    /// The bytes are not an event.
    #[error("not an event: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// What a reader found.
#[derive(Debug, PartialEq)]
pub enum Decoded {
    /// An event this release knows, brought to its newest version.
    Known(Box<Envelope>),
    /// A type this release does not know: to be skipped and counted.
    UnknownType {
        /// The type as written.
        kind: String,
    },
    /// A known type in a version newer than this release: reading must pause until the program is upgraded.
    NewerVersion {
        /// The type as written.
        kind: String,
        /// The version as written.
        version: u32,
    },
}

#[derive(Serialize, Deserialize)]
struct Wire<P> {
    event_id: EventId,
    #[serde(rename = "type")]
    kind: String,
    version: u32,
    shard: Shard,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    recording: RecordingId,
    tenant: Tenant,
    generation: u32,
    round: u32,
    submitted_at: Timestamp,
    occurred_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    causation_id: Option<EventId>,
    payload: P,
}

impl<'a, P> Wire<&'a P> {
    fn new(envelope: &Envelope, payload: &'a P) -> Wire<&'a P> {
        Wire {
            event_id: envelope.event_id,
            kind: envelope.event.kind().to_owned(),
            version: envelope.event.version(),
            shard: envelope.shard,
            seq: envelope.seq,
            recording: envelope.recording,
            tenant: envelope.tenant.clone(),
            generation: envelope.generation,
            round: envelope.round,
            submitted_at: envelope.submitted_at,
            occurred_at: envelope.occurred_at,
            trace: envelope.trace.clone(),
            causation_id: envelope.causation_id,
            payload,
        }
    }
}

impl<P> Wire<P> {
    fn into_envelope(self, event: impl FnOnce(P) -> Event) -> Envelope {
        Envelope {
            event_id: self.event_id,
            shard: self.shard,
            seq: self.seq,
            recording: self.recording,
            tenant: self.tenant,
            generation: self.generation,
            round: self.round,
            submitted_at: self.submitted_at,
            occurred_at: self.occurred_at,
            trace: self.trace,
            causation_id: self.causation_id,
            event: event(self.payload),
        }
    }
}

/// The type and version alone, to be read before the rest is trusted.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: String,
    version: u32,
}

/// One step from a version of a type to the next.
struct Upcaster {
    kind: &'static str,
    from: u32,
    step: fn(Value) -> Value,
}

/// Every step ever needed, oldest first.
const UPCASTERS: &[Upcaster] = &[];

macro_rules! event_types {
    ($($name:ident = $version:literal),+ $(,)?) => {
        impl Event {
            /// Every type with its newest version.
            pub const TYPES: &'static [(&'static str, u32)] = &[$((stringify!($name), $version)),+];

            /// Returns the type's name, as written in the envelope.
            pub fn kind(&self) -> &'static str {
                match self { $(Event::$name(_) => stringify!($name)),+ }
            }

            /// Returns the version this release writes.
            pub fn version(&self) -> u32 {
                match self { $(Event::$name(_) => $version),+ }
            }

            fn to_json(&self, envelope: &Envelope) -> Result<String, serde_json::Error> {
                match self { $(Event::$name(payload) => serde_json::to_string(&Wire::new(envelope, payload))),+ }
            }

            fn from_newest(kind: &str, payload: &RawValue) -> Result<Event, serde_json::Error> {
                match kind {
                    $(stringify!($name) => Ok(Event::$name(serde_json::from_str(payload.get())?)),)+
                    _ => unreachable!("decode() looks the type up in TYPES first"),
                }
            }

            fn from_payload(kind: &str, payload: Value) -> Result<Event, serde_json::Error> {
                match kind {
                    $(stringify!($name) => Ok(Event::$name(serde_json::from_value(payload)?)),)+
                    _ => unreachable!("decode() looks the type up in TYPES first"),
                }
            }
        }

        $(impl From<$name> for Event {
            fn from(payload: $name) -> Event {
                Event::$name(payload)
            }
        })+
    };
}

event_types! {
    RecordingAdmitted = 1,
    RecordingRejected = 1,
    RecordingDeleted = 1,
    TranscriptionRequested = 1,
    RecordingDecoded = 1,
    RecordingFailed = 1,
    SegmentCut = 1,
    SegmentTranscribed = 1,
    SegmentFailed = 1,
    GenerationActivated = 1,
    GenerationCancelled = 1,
}

/// Writes an event as JSON.
///
/// # Errors
/// [`CodecError::TooLarge`] over [`MAX_EVENT_BYTES`].
pub fn encode(envelope: &Envelope) -> Result<String, CodecError> {
    let event = &envelope.event;
    let json = event.to_json(envelope)?;
    if json.len() > MAX_EVENT_BYTES {
        return Err(CodecError::TooLarge { kind: event.kind().to_owned(), bytes: json.len() });
    }
    Ok(json)
}

/// Reads an event of any version this release knows.
///
/// # Errors
/// [`CodecError::Malformed`] for anything that is not an envelope. Unknown types and newer versions are values.
pub fn decode(json: &[u8]) -> Result<Decoded, CodecError> {
    Ok(decode_with(json, UPCASTERS)?.0)
}

/// An event whose spans may still be as they are written: a value for each word takes most of the time of reading.
#[derive(Debug, PartialEq)]
pub struct Lean<'a> {
    /// What [`decode`] finds, apart from `spans`.
    pub decoded: Decoded,
    /// The version in which it is written.
    pub version: u32,
    /// JSON in the place of the spans of a [`SegmentTranscribed`], whose own list is then empty. It may be that of
    /// anything.
    pub spans: Option<&'a str>,
}

/// Reads an event as [`decode`] does, and leaves the spans of a segment as they are written, if this release writes them
/// like that.
///
/// # Errors
/// As [`decode`].
pub fn decode_lean(json: &str) -> Result<Lean<'_>, CodecError> {
    // Most facts are segments: to look for the type first would take as long as to read all of it.
    let wire: Wire<LeanSegment> = match serde_json::from_str(json) {
        Ok(wire) if is_newest(&wire, "SegmentTranscribed") => wire,
        _ => {
            let (decoded, version) = decode_with(json.as_bytes(), UPCASTERS)?;
            return Ok(Lean { decoded, version, spans: None });
        }
    };
    let (version, spans) = (wire.version, wire.payload.spans.get());
    let decoded = Decoded::Known(Box::new(wire.into_envelope(Event::from)));
    Ok(Lean { decoded, version, spans: Some(spans) })
}

/// A [`SegmentTranscribed`] with its spans as they are written.
#[derive(Deserialize)]
struct LeanSegment<'a> {
    channel: u16,
    index: u32,
    start_ms: u64,
    end_ms: u64,
    language: String,
    text: String,
    #[serde(borrow)]
    spans: &'a RawValue,
    model: String,
    infer_ms: u64,
    #[serde(default = "crate::event::whole")]
    coverage: f32,
    #[serde(default)]
    gaps: Vec<Stretch>,
}

impl From<LeanSegment<'_>> for Event {
    fn from(lean: LeanSegment) -> Event {
        SegmentTranscribed {
            channel: lean.channel,
            index: lean.index,
            start_ms: lean.start_ms,
            end_ms: lean.end_ms,
            language: lean.language,
            text: lean.text,
            spans: Vec::new(),
            model: lean.model,
            infer_ms: lean.infer_ms,
            coverage: lean.coverage,
            gaps: lean.gaps,
        }
        .into()
    }
}

fn is_newest<P>(wire: &Wire<P>, kind: &str) -> bool {
    wire.kind == kind && Event::TYPES.contains(&(wire.kind.as_str(), wire.version))
}

/// Makes the failure that follows from work that cannot be read, as far as its head can: so that what it was about ends.
/// `None` when not even that is told.
pub fn end_unreadable(json: &[u8], stage: &str, cause: Cause, attempts: u32) -> Option<Envelope> {
    let wire: Wire<Value> = serde_json::from_slice(json).ok()?;
    let number = |name: &str| wire.payload.get(name).and_then(Value::as_u64);
    let segment = number("channel")
        .and_then(|channel| u16::try_from(channel).ok())
        .zip(number("index").and_then(|index| u32::try_from(index).ok()));
    let event: Event = match segment.filter(|_| wire.kind == "SegmentCut") {
        Some((channel, index)) => {
            let start_ms = number("start_ms").unwrap_or(0);
            let end_ms = number("end_ms").unwrap_or(start_ms);
            SegmentFailed { channel, index, start_ms, end_ms, cause, attempts }.into()
        }
        None => RecordingFailed { stage: stage.to_owned(), cause, attempts }.into(),
    };
    let unread = wire.into_envelope(|_| event.clone());
    Some(unread.follow(event, now()))
}

fn decode_with(json: &[u8], upcasters: &[Upcaster]) -> Result<(Decoded, u32), CodecError> {
    let wire: Wire<&RawValue> = match serde_json::from_slice(json) {
        Ok(wire) => wire,
        // Of a type that is not known only the type and the version are trusted.
        Err(error) => return decode_head(json).and_then(|head| head.ok_or(error.into())),
    };
    let known = match known(&wire.kind, wire.version) {
        Ok(kind) => kind,
        Err(decoded) => return Ok((decoded, wire.version)),
    };
    let mut steps =
        upcasters.iter().filter(|step| step.kind == known && step.from >= wire.version).peekable();
    let event = match steps.peek() {
        // A value of its own for each word of a segment would take most of the time.
        None => Event::from_newest(known, wire.payload)?,
        Some(_) => {
            let payload = serde_json::from_str(wire.payload.get())?;
            Event::from_payload(known, steps.fold(payload, |payload, step| (step.step)(payload)))?
        }
    };
    let version = wire.version;
    Ok((Decoded::Known(Box::new(wire.into_envelope(|_| event))), version))
}

/// The type as this release names it, unless it does not know it in this version.
fn known(kind: &str, version: u32) -> Result<&'static str, Decoded> {
    match Event::TYPES.iter().find(|(known, _)| *known == kind) {
        None => Err(Decoded::UnknownType { kind: kind.to_owned() }),
        Some((_, newest)) if version > *newest => {
            Err(Decoded::NewerVersion { kind: kind.to_owned(), version })
        }
        Some((known, _)) => Ok(known),
    }
}

/// Reads what is not an envelope as this release knows it; `None` when it should be one.
fn decode_head(json: &[u8]) -> Result<Option<(Decoded, u32)>, CodecError> {
    let head: Head = serde_json::from_slice(json)?;
    Ok(known(&head.kind, head.version).err().map(|decoded| (decoded, head.version)))
}

#[cfg(test)]
mod tests;
