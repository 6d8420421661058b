//! Facts that follow from no entry in hand: a deletion, a cancellation, a new transcription.

use events::{RecordingId, Shard};

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
        let first = self.facts.first().or(self.work.as_ref().map(|(_, message)| message));
        first.map_or("", |message| &message.event_id)
    }
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
