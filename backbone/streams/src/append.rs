//! Facts that follow from no entry in hand: a deletion, a cancellation, a new transcription.

use events::{Decoded, Event, RecordingId, Shard};
use serde_json::Value;

use crate::keys::Source;
use crate::log::Message;

/// Facts and work that somebody's act brings, rather than an entry's end.
#[derive(Clone, Debug)]
pub struct Append {
    /// The shard.
    pub shard: Shard,
    /// Whose mark of deletion to look for.
    pub recording: RecordingId,
    /// Facts for the log. The act is known by the first one's event id, or the work's where there is no fact.
    pub facts: Vec<Message>,
    /// Work for a queue of the shard.
    pub work: Option<(Source, Message)>,
}

impl Append {
    /// Returns what the act is known by: appending under it again changes nothing.
    pub fn identity(&self) -> &str {
        identity(&self.facts, self.work.as_ref())
    }
}

/// What an act that brings these is known by.
pub(crate) fn identity<'a>(facts: &'a [Message], work: Option<&'a (Source, Message)>) -> &'a str {
    let first = facts.first().or(work.map(|(_, message)| message));
    first.map_or("", |message| &message.event_id)
}

/// What an act found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Everything is appended.
    Done,
    /// It was done before, perhaps by this caller with a lost reply. Nothing was written.
    Repeated,
    /// The recording is deleted: nothing was written.
    Deleted,
}

/// What [`erase`](crate::Log::erase) removed, now and whenever it ran before for the recording within a week.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// The `seq` of every fact removed from the shard's log, in order: gaps that are no loss.
    pub seqs: Vec<u64>,
    /// Entries removed from queues by this call.
    pub work: u64,
    /// Dead letters removed by this call.
    pub dead: u64,
}

/// Tells whether an event goes when `recording` is erased: everything but the fact of its deletion. What this release
/// cannot read goes as well, where it names the recording as its own, or is no JSON and names it at all.
pub(crate) fn is_erased_with(recording: RecordingId, event: &[u8]) -> bool {
    let id = recording.to_string();
    match events::decode(event) {
        Ok(Decoded::Known(envelope)) => {
            envelope.recording == recording && !matches!(envelope.event, Event::RecordingDeleted(_))
        }
        _ => match serde_json::from_slice::<Value>(event) {
            Ok(event) => event["recording"] == id && event["type"] != "RecordingDeleted",
            Err(_) => String::from_utf8_lossy(event).contains(&id),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_goes_with_the_recording_it_names() {
        let recording: RecordingId = "3fa1c0de-0000-8000-8000-000000000000".parse().unwrap();
        let other = "3fa1c0de-0000-8000-8000-000000000001";
        let unknown = |kind: &str, id: &str| format!(r#"{{"type":"{kind}","version":1,"recording":"{id}"}}"#);
        assert!(is_erased_with(recording, unknown("Dreamt", &recording.to_string()).as_bytes()));
        assert!(!is_erased_with(recording, unknown("RecordingDeleted", &recording.to_string()).as_bytes()));
        assert!(!is_erased_with(recording, unknown("Dreamt", other).as_bytes()));
        assert!(is_erased_with(recording, format!(r#"{{"recording":"{recording}", torn"#).as_bytes()));
        assert!(!is_erased_with(recording, b"torn"));
    }
}
