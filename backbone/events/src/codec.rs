//! Envelope to JSON and back, for every version ever released.
//!
//! A stored event is never edited. A change that old readers cannot ignore raises the type's version and adds a
//! pure upcaster here; `golden/` keeps one file per type and version, and each must decode for ever.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    decode_with(json, UPCASTERS)
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
    let unread = Envelope {
        event_id: wire.event_id,
        shard: wire.shard,
        seq: None,
        recording: wire.recording,
        tenant: wire.tenant,
        generation: wire.generation,
        round: wire.round,
        submitted_at: wire.submitted_at,
        occurred_at: wire.occurred_at,
        trace: wire.trace,
        causation_id: wire.causation_id,
        event: event.clone(),
    };
    Some(unread.follow(event, now()))
}

fn decode_with(json: &[u8], upcasters: &[Upcaster]) -> Result<Decoded, CodecError> {
    let head: Head = serde_json::from_slice(json)?;
    let Some(&(kind, newest)) = Event::TYPES.iter().find(|(kind, _)| *kind == head.kind) else {
        return Ok(Decoded::UnknownType { kind: head.kind });
    };
    if head.version > newest {
        return Ok(Decoded::NewerVersion { kind: head.kind, version: head.version });
    }
    let wire: Wire<Value> = serde_json::from_slice(json)?;
    let payload = upcasters
        .iter()
        .filter(|step| step.kind == kind && step.from >= wire.version)
        .fold(wire.payload, |payload, step| (step.step)(payload));
    Ok(Decoded::Known(Box::new(Envelope {
        event_id: wire.event_id,
        shard: wire.shard,
        seq: wire.seq,
        recording: wire.recording,
        tenant: wire.tenant,
        generation: wire.generation,
        round: wire.round,
        submitted_at: wire.submitted_at,
        occurred_at: wire.occurred_at,
        trace: wire.trace,
        causation_id: wire.causation_id,
        event: Event::from_payload(kind, payload)?,
    })))
}

#[cfg(test)]
mod tests;
