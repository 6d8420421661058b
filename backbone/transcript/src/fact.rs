//! A fact together with what decides between two of its kind.

use events::{Envelope, EventId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A fact that was seen. Of two facts of one kind the higher round counts; the event id settles the rest, so that
/// the order of arrival never matters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Known<T> {
    /// The round of its event.
    pub round: u32,
    /// Its event.
    pub event_id: EventId,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// What it says.
    pub fact: T,
}

impl<T> Known<T> {
    /// Makes a fact that `envelope` brought.
    pub fn new(envelope: &Envelope, fact: T) -> Known<T> {
        let Envelope { round, event_id, occurred_at, .. } = *envelope;
        Known { round, event_id, occurred_at, fact }
    }

    /// Puts this fact into `slot` if it counts more than what is there.
    pub fn settle(self, slot: &mut Option<Known<T>>) {
        if slot.as_ref().is_none_or(|there| (there.round, there.event_id) < (self.round, self.event_id)) {
            *slot = Some(self);
        }
    }
}
