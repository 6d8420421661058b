//! Dead letters: what was given up, why, and the original beside it.

use bytes::Bytes;
use events::{Cause, Decoded, Envelope, Shard};
use jiff::Timestamp;

use crate::keys::{self, Source};

/// What is known about an entry that could not be processed. The original fields are kept beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// The stage that gave up.
    pub stage: String,
    /// Why.
    pub cause: Cause,
    /// How often it was tried.
    pub attempts: u32,
    /// The worker that tried last.
    pub worker: String,
}

/// The names of what stands before the original fields, in this order. Whoever wrote the original may have used the
/// same names, so only the place tells.
pub(crate) const LETTER: [&str; 7] =
    ["dead_stage", "dead_code", "dead_message", "dead_attempts", "dead_worker", "dead_queue", "dead_id"];

/// Longer values are left out of a list of dead letters: audio, above all.
pub const LISTED_VALUE_BYTES: usize = 64 * 1024;

impl DeadLetter {
    /// Returns what stands in the dead letters before the original fields of entry `id` of `source`.
    pub fn fields(&self, source: Source, id: &str) -> [(&'static str, String); 7] {
        let values = [
            self.stage.clone(),
            self.cause.code.clone(),
            self.cause.message.clone(),
            self.attempts.to_string(),
            self.worker.clone(),
            source.key(),
            id.to_owned(),
        ];
        let mut values = values.into_iter();
        LETTER.map(|name| (name, values.next().expect("as many values as names")))
    }
}

/// Where dead letters lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadPlace {
    /// Those of drops.
    Drops,
    /// Those of a shard's work and facts.
    Shard(Shard),
}

impl DeadPlace {
    /// Returns every place of a deployment with `shards` shards.
    pub fn all(shards: u16) -> impl Iterator<Item = DeadPlace> {
        std::iter::once(DeadPlace::Drops).chain((0..shards).map(|shard| DeadPlace::Shard(Shard(shard))))
    }

    /// Returns the key of the stream.
    pub fn key(self) -> String {
        match self {
            DeadPlace::Drops => Source::Ingest(events::Lane::Batch).dead(),
            DeadPlace::Shard(shard) => Source::Log(shard).dead(),
        }
    }
}

/// One dead letter.
#[derive(Clone, Debug, PartialEq)]
pub struct Dead {
    /// Where it lies.
    pub place: DeadPlace,
    /// Its id there.
    pub id: String,
    /// When it was given up, to the millisecond, by the clock of Redis.
    pub at: Timestamp,
    /// Where the entry was read; `None` for one that no stage of this release wrote.
    pub source: Option<Source>,
    /// The entry's id there, empty when it is not known.
    pub original_id: String,
    /// Why it is here.
    pub letter: DeadLetter,
    /// The original fields in order.
    pub fields: Vec<(String, Bytes)>,
    /// How many fields of ours stand before the original ones.
    pub(crate) ours: usize,
    /// Fields that are left out, of drops always and of others in a list, because they are over [`LISTED_VALUE_BYTES`]: name
    /// and size in bytes.
    pub large: Vec<(String, u64)>,
}

impl Dead {
    /// Reads a dead letter from its fields as they stand.
    pub(crate) fn read(
        place: DeadPlace,
        id: &str,
        mut fields: Vec<(String, Bytes)>,
        large: Vec<(String, u64)>,
    ) -> Dead {
        let ours = fields.iter().zip(LETTER).take_while(|((name, _), ours)| name == ours).count();
        let said: Vec<String> =
            fields.drain(..ours).map(|(_, value)| String::from_utf8_lossy(&value).into_owned()).collect();
        let say = |at: usize| said.get(at).cloned().unwrap_or_default();
        let at = id.split('-').next().and_then(|ms| ms.parse().ok()).unwrap_or(0);
        Dead {
            place,
            id: id.to_owned(),
            at: Timestamp::from_millisecond(at).unwrap_or_default(),
            source: Source::of_key(&say(5)),
            original_id: say(6),
            letter: DeadLetter {
                stage: say(0),
                cause: Cause::new(say(1), say(2)),
                attempts: say(3).parse().unwrap_or(0),
                worker: say(4),
            },
            fields,
            ours,
            large,
        }
    }

    /// Tells whether it is the drop of this id: its own, or else that of its entry.
    pub fn is_of_drop(&self, drop_id: &str) -> bool {
        self.drop_id() == drop_id
    }

    /// The id that a drop is known by: its own, or else that of its entry; empty where neither is known.
    pub fn drop_id(&self) -> String {
        self.own_drop_id().map_or_else(|| self.entry_drop_id(), str::to_owned)
    }

    /// The id to give to a drop that goes back to its queue, whose entry there will be another one; empty for a drop that
    /// brings its own.
    pub(crate) fn lacking_drop_id(&self) -> String {
        self.own_drop_id().map_or_else(|| self.entry_drop_id(), |_| String::new())
    }

    /// The id that a drop brings, if it can be one.
    fn own_drop_id(&self) -> Option<&str> {
        let own = self.field("drop").filter(|own| keys::is_drop_id(own))?;
        std::str::from_utf8(own).ok()
    }

    /// The id that a drop has from its entry: see [`keys::drop_id`].
    fn entry_drop_id(&self) -> String {
        self.source.map_or_else(|| self.original_id.clone(), |queue| keys::drop_id(queue, &self.original_id))
    }

    /// Returns the first original field of that name.
    pub fn field(&self, name: &str) -> Option<&Bytes> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    /// Returns the event it carries, unless it is a drop or an event this release cannot read.
    pub fn envelope(&self) -> Option<Envelope> {
        match events::decode(self.field("event")?) {
            Ok(Decoded::Known(envelope)) => Some(*envelope),
            _ => None,
        }
    }
}
