//! What every event carries besides its payload.

use jiff::Timestamp;

use crate::event::Event;
use crate::id::{EventId, RecordingId, Shard, Tenant};

/// An event with its identity, its place and its cause.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// Who it is: derived from its cause, the same each time the step is repeated.
    pub event_id: EventId,
    /// The shard its recording lives in.
    pub shard: Shard,
    /// Its place in the shard's log: contiguous, given by the script that appends it; `None` before and in queues.
    pub seq: Option<u64>,
    /// The recording it is about.
    pub recording: RecordingId,
    /// Who owns the recording.
    pub tenant: Tenant,
    /// The transcription it belongs to; 0 for the live one and for facts about the recording itself.
    pub generation: u32,
    /// Grows with each replay from `dead` or re-admission; the higher round wins in the read side.
    pub round: u32,
    /// When the recording was submitted: fixed by its first event, so that the read side can partition by it.
    pub submitted_at: Timestamp,
    /// When this happened.
    pub occurred_at: Timestamp,
    /// W3C `traceparent` of the drop, carried through all that follows from it.
    pub trace: Option<String>,
    /// The event that led to this one.
    pub causation_id: Option<EventId>,
    /// What happened.
    pub event: Event,
}

impl Envelope {
    /// Makes the event that follows from this one: same recording, generation, round and trace, derived identity.
    ///
    /// `part` tells several events of one type and cause apart; see [`EventId::derive`].
    pub fn follow(&self, event: Event, part: &str, occurred_at: Timestamp) -> Envelope {
        Envelope {
            event_id: EventId::derive(self.event_id, event.kind(), part, self.round),
            seq: None,
            causation_id: Some(self.event_id),
            occurred_at,
            event,
            ..self.clone()
        }
    }
}

/// Returns the time now to the microsecond, the precision that SQL keeps.
pub fn now() -> Timestamp {
    Timestamp::from_microsecond(Timestamp::now().as_microsecond()).expect("a timestamp of now is in range")
}
