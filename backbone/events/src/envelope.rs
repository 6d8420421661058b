//! What every event carries besides its payload.

use jiff::Timestamp;
use uuid::Uuid;

use crate::event::Event;
use crate::id::{EventId, RecordingId, SegmentId, Shard, Tenant};

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
    /// Makes the event that somebody's act brings about a recording rather than another event: `act` is the identity
    /// of the act, the same each time the act is repeated. An act tells a recording each kind of thing once.
    pub fn of_act(act: Uuid, about: &About, generation: u32, event: Event) -> Envelope {
        let cause = EventId::from(act);
        Envelope {
            event_id: EventId::derive(cause, event.kind(), &about.recording.to_string(), 0),
            shard: about.shard,
            seq: None,
            recording: about.recording,
            tenant: about.tenant.clone(),
            generation,
            round: 0,
            submitted_at: about.submitted_at,
            occurred_at: now(),
            trace: None,
            causation_id: Some(cause),
            event,
        }
    }

    /// Makes the event that follows from this one: same recording, generation, round and trace, derived identity.
    /// One cause has many segments, so what is about a segment has its channel and index in its identity.
    pub fn follow(&self, event: Event, occurred_at: Timestamp) -> Envelope {
        let mut next =
            Envelope { seq: None, causation_id: Some(self.event_id), occurred_at, event, ..self.clone() };
        let part = next.segment().map(|segment| segment.part()).unwrap_or_default();
        next.event_id = EventId::derive(self.event_id, next.event.kind(), &part, self.round);
        next
    }

    /// Makes the event that begins this one's transcription again, or ends it, in the next round. However often it is
    /// made, and from whichever event of this round, it has one identity.
    pub fn in_next_round(&self, event: Event) -> Envelope {
        let round = self.round.saturating_add(1);
        let transcription = EventId::from(self.recording.as_uuid());
        Envelope {
            event_id: EventId::derive(transcription, event.kind(), &self.generation.to_string(), round),
            seq: None,
            round,
            occurred_at: now(),
            causation_id: Some(self.event_id),
            event,
            ..self.clone()
        }
    }

    /// Returns the segment that the event is about, if it is about one.
    pub fn segment(&self) -> Option<SegmentId> {
        let (channel, index) = match &self.event {
            Event::SegmentCut(e) => (e.channel, e.index),
            Event::SegmentTranscribed(e) => (e.channel, e.index),
            Event::SegmentFailed(e) => (e.channel, e.index),
            _ => return None,
        };
        Some(SegmentId { recording: self.recording, generation: self.generation, channel, index })
    }
}

/// What every event of a recording says alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The recording.
    pub recording: RecordingId,
    /// The shard it lives in.
    pub shard: Shard,
    /// Who owns it.
    pub tenant: Tenant,
    /// When it was submitted.
    pub submitted_at: Timestamp,
}

/// Returns the time now to the microsecond, the precision that SQL keeps.
pub fn now() -> Timestamp {
    Timestamp::from_microsecond(Timestamp::now().as_microsecond()).expect("a timestamp of now is in range")
}
