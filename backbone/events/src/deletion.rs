//! What a deletion is: who is gone, and all that may still be known of them.

use jiff::Timestamp;

use crate::envelope::{Envelope, now};
use crate::event::RecordingDeleted;
use crate::id::{EventId, RecordingId, Tenant};

/// A recording that is to be gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// The recording.
    pub recording: RecordingId,
    /// Who owned it.
    pub tenant: Tenant,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// The drop it came from.
    pub drop_id: Option<String>,
    /// Who or what asked: `api`, `retention`.
    pub by: String,
}

impl Deletion {
    /// Returns the fact that says so, in a deployment of `shards`. Whoever deletes the recording, and however often, it
    /// is the same event.
    pub fn envelope(&self, shards: u16) -> Envelope {
        let cause = EventId::from(self.recording.as_uuid());
        let event = RecordingDeleted { by: self.by.clone(), drop_id: self.drop_id.clone() }.into();
        Envelope {
            event_id: EventId::derive(cause, "RecordingDeleted", "", 0),
            shard: self.recording.shard(shards),
            seq: None,
            recording: self.recording,
            tenant: self.tenant.clone(),
            generation: 0,
            round: 0,
            submitted_at: self.submitted_at,
            occurred_at: now(),
            trace: None,
            causation_id: None,
            event,
        }
    }
}
