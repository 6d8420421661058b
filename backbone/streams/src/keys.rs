//! The name of every key. All keys of a shard share the hash tag `{NN}`, so one script may touch them together.

use events::{Lane, RecordingId, SegmentId, Shard};

use crate::dead::DeadPlace;

/// The queue that anyone may write drops to.
pub const INGEST: &str = "vf:ingest";
/// The queue of drops that somebody waits for; the same slot as [`INGEST`].
pub const INGEST_RT: &str = "{vf:ingest}:rt";
/// The number of shards of the deployment, fixed by the first program that starts.
pub const SHARDS: &str = "vf:shards";
/// Hash of model name to what a worker announced about it.
pub const MODELS: &str = "vf:models";

/// Returns the key that is there while a worker announces a model with these weights.
pub fn model(name: &str, sha256: &str) -> String {
    // The braces bring it to the node of the hash.
    format!("{{{MODELS}}}:{sha256}:{name}")
}

/// A kind of queue between two stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queue {
    /// Drops, waiting for ingest.
    Ingest,
    /// Recordings, waiting for decode.
    Decode,
    /// Segments, waiting for infer.
    Segments,
}

impl Queue {
    /// Returns the word that stands for the queue in keys, metrics and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Queue::Ingest => "ingest",
            Queue::Decode => "decode",
            Queue::Segments => "segments",
        }
    }
}

/// One stream that a consumer group reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The drops of a lane; outside all shards. The batch lane is [`INGEST`], `replay` is not used.
    Ingest(Lane),
    /// Work of a shard and lane.
    Queue(Shard, Queue, Lane),
    /// The facts of a shard.
    Log(Shard),
}

impl Source {
    /// Returns the key of the stream.
    pub fn key(self) -> String {
        match self {
            Source::Ingest(Lane::Rt) => INGEST_RT.to_owned(),
            Source::Ingest(_) => INGEST.to_owned(),
            Source::Queue(shard, queue, lane) => format!("vf:{{{shard}}}:{}:{lane}", queue.as_str()),
            Source::Log(shard) => format!("vf:{{{shard}}}:log"),
        }
    }

    /// Returns the source whose stream has this key.
    pub fn of_key(key: &str) -> Option<Source> {
        if key == INGEST {
            return Some(Source::Ingest(Lane::Batch));
        }
        if key == INGEST_RT {
            return Some(Source::Ingest(Lane::Rt));
        }
        let (shard, rest) = key.strip_prefix("vf:{")?.split_once("}:")?;
        let shard = Shard(shard.parse().ok()?);
        if rest == "log" {
            return Some(Source::Log(shard));
        }
        let (queue, lane) = rest.split_once(':')?;
        let queue = [Queue::Decode, Queue::Segments].into_iter().find(|known| known.as_str() == queue)?;
        let lane = Lane::ALL.iter().copied().find(|known| known.as_str() == lane)?;
        Some(Source::Queue(shard, queue, lane))
    }

    /// Returns every queue of work of a shard.
    pub fn work_of(shard: Shard) -> impl Iterator<Item = Source> {
        let queues = [Queue::Decode, Queue::Segments].into_iter();
        queues.flat_map(move |queue| Lane::ALL.iter().map(move |&lane| Source::Queue(shard, queue, lane)))
    }

    /// Returns the hash of exact counters (`ms`, `bytes`) beside a queue.
    pub fn counter(self) -> String {
        match self {
            Source::Ingest(lane) => format!("{{vf:ingest}}:count:{lane}"),
            Source::Queue(shard, queue, lane) => format!("vf:{{{shard}}}:count:{}:{lane}", queue.as_str()),
            Source::Log(shard) => format!("vf:{{{shard}}}:count:log"),
        }
    }

    /// Returns the hash of attempts and due times of `group`, in the stream's slot.
    pub fn attempts(self, group: &str) -> String {
        format!("{}attempts:{group}", self.prefix())
    }

    /// Returns the stream of dead letters, in the stream's slot.
    pub fn dead(self) -> String {
        format!("{}dead", self.prefix())
    }

    /// Returns the shard, or `None` for drops.
    pub fn shard(self) -> Option<Shard> {
        match self {
            Source::Ingest(_) => None,
            Source::Queue(shard, ..) | Source::Log(shard) => Some(shard),
        }
    }

    /// Returns the lane; facts have none and count as batch.
    pub fn lane(self) -> Lane {
        match self {
            Source::Ingest(lane) | Source::Queue(_, _, lane) => lane,
            Source::Log(_) => Lane::Batch,
        }
    }

    /// Tells whether an entry is deleted once it is done. Facts stay until they are archived and trimmed.
    pub fn deletes_done(self) -> bool {
        !matches!(self, Source::Log(_))
    }

    fn prefix(self) -> String {
        match self.shard() {
            Some(shard) => format!("vf:{{{shard}}}:"),
            None => "{vf:ingest}:".to_owned(),
        }
    }
}

/// The counter that gives each fact of a shard its `seq`.
pub fn seq(shard: Shard) -> String {
    format!("vf:{{{shard}}}:seq")
}

/// The mark that a recording was admitted. It holds the claim it was admitted under, or nothing.
pub fn admitted(shard: Shard, recording: RecordingId) -> String {
    format!("vf:{{{shard}}}:admitted:{recording}")
}

/// Where a de-duplication claim, in hexadecimal, is held; its value names the recording that won it.
pub fn claim(shard: Shard, claim: &str) -> String {
    format!("vf:{{{shard}}}:claim:{claim}")
}

/// The mark that makes commit scripts drop the output of a deleted recording.
pub fn deleted(shard: Shard, recording: RecordingId) -> String {
    format!("vf:{{{shard}}}:deleted:{recording}")
}

/// The mark that makes commit scripts drop the output of a cancelled generation.
pub fn cancelled(shard: Shard, recording: RecordingId, generation: u32) -> String {
    format!("vf:{{{shard}}}:cancelled:{recording}:{generation}")
}

/// The mark that an act was appended, by the event id of its first fact.
pub fn appended(shard: Shard, event_id: &str) -> String {
    format!("vf:{{{shard}}}:appended:{event_id}")
}

/// The mark that a dead letter was put back to life, in the letter's slot.
pub fn revived(place: DeadPlace, letter: &str) -> String {
    match place {
        DeadPlace::Drops => format!("{{vf:ingest}}:revived:{letter}"),
        DeadPlace::Shard(shard) => format!("vf:{{{shard}}}:revived:{letter}"),
    }
}

/// The `seq` of the facts that were erased of a recording.
pub fn erased(shard: Shard, recording: RecordingId) -> String {
    format!("vf:{{{shard}}}:erased:{recording}")
}

/// How far decode got in a generation. A replay has a place of its own: the round before may still be at work.
pub fn cursor(shard: Shard, recording: RecordingId, generation: u32, round: u32) -> String {
    format!("vf:{{{shard}}}:cursor:{recording}:{generation}{}", of_round(round))
}

/// The speech of a segment: 16 kHz mono PCM, i16 little endian. A replay has its own, because the commit of one round
/// deletes what it worked on.
pub fn speech(shard: Shard, segment: &SegmentId, round: u32) -> String {
    format!("vf:{{{shard}}}:pcm:{segment}{}", of_round(round))
}

fn of_round(round: u32) -> String {
    if round == 0 { String::new() } else { format!(":{round}") }
}

/// The language found in a recording's first speech, kept until the recording ends.
pub fn language(shard: Shard, recording: RecordingId, generation: u32) -> String {
    format!("vf:{{{shard}}}:language:{recording}:{generation}")
}

/// What segments of a recording heard that were not sure of its language, kept as long as the language.
pub fn heard(shard: Shard, recording: RecordingId, generation: u32) -> String {
    format!("vf:{{{shard}}}:heard:{recording}:{generation}")
}

/// What segments of a recording left as context for the next ones: the end of their text. Kept for a day.
pub fn tail(shard: Shard, recording: RecordingId, generation: u32) -> String {
    format!("vf:{{{shard}}}:tail:{recording}:{generation}")
}

/// The id of a drop that brings none: its entry's in the queue. Each queue counts for itself, so what waits in the queue of
/// those in a hurry is told apart by `rt-`; a deletion must never mean the drop of another queue.
pub fn drop_id(queue: Source, entry: &str) -> String {
    match queue {
        Source::Ingest(Lane::Rt) => format!("rt-{entry}"),
        _ => entry.to_owned(),
    }
}

/// The queue and the entry that a drop id names if it is one that [`drop_id`] gave: its inverse.
pub fn entry_of_drop(drop_id: &str) -> Option<(Source, &str)> {
    let (lane, entry) = match drop_id.strip_prefix("rt-") {
        Some(entry) => (Lane::Rt, entry),
        None => (Lane::Batch, drop_id),
    };
    let (ms, n) = entry.split_once('-')?;
    let is_number = |part: &str| part.parse::<u64>().is_ok_and(|number| number.to_string() == part);
    (is_number(ms) && is_number(n)).then_some((Source::Ingest(lane), entry))
}

/// Longest id that a drop may bring, in bytes: it is a part of keys here and in the audio store.
pub const DROP_ID_BYTES_MAX: usize = 128;

/// Tells whether a drop may be known by what it brings as its id.
pub fn is_drop_id(id: &[u8]) -> bool {
    let fits = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    (1..=DROP_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(fits)
}

/// What became of a drop, readable for a week.
pub fn drop_outcome(drop_id: &str) -> String {
    format!("vf:drop:{drop_id}")
}

/// The mark that a drop is deleted that is no recording yet; its value is the tenant who may say so.
pub fn drop_deleted(drop_id: &str) -> String {
    format!("vf:drop:{drop_id}:deleted")
}

/// The lease on a chore that one program at a time may do.
pub fn lease(chore: &str) -> String {
    format!("vf:lease:{chore}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_contract() {
        let shard = Shard(7);
        assert_eq!(Source::Ingest(Lane::Batch).key(), "vf:ingest");
        assert_eq!(Source::Ingest(Lane::Rt).key(), "{vf:ingest}:rt");
        assert_eq!(Source::Queue(shard, Queue::Decode, Lane::Rt).key(), "vf:{07}:decode:rt");
        assert_eq!(Source::Queue(shard, Queue::Segments, Lane::Replay).key(), "vf:{07}:segments:replay");
        assert_eq!(Source::Log(shard).key(), "vf:{07}:log");
        assert_eq!(Source::Log(shard).dead(), "vf:{07}:dead");
        assert_eq!(Source::Ingest(Lane::Rt).dead(), "{vf:ingest}:dead");
        assert_eq!(Source::Log(shard).attempts("project"), "vf:{07}:attempts:project");
        let recording = RecordingId::from(uuid::Uuid::nil());
        let segment = SegmentId { recording, generation: 2, channel: 1, index: 9 };
        assert_eq!(speech(shard, &segment, 0), format!("vf:{{07}}:pcm:{recording}:2:1:9"));
        assert_eq!(speech(shard, &segment, 3), format!("vf:{{07}}:pcm:{recording}:2:1:9:3"));
        assert_eq!(cursor(shard, recording, 2, 0), format!("vf:{{07}}:cursor:{recording}:2"));
        assert_eq!(cursor(shard, recording, 2, 3), format!("vf:{{07}}:cursor:{recording}:2:3"));
    }

    #[test]
    fn a_drop_id_tells_its_entry() {
        for lane in [Lane::Rt, Lane::Batch] {
            let queue = Source::Ingest(lane);
            let id = drop_id(queue, "1795417200000-12");
            assert_eq!(entry_of_drop(&id), Some((queue, "1795417200000-12")), "{id}");
        }
        for own in ["", "rt", "rt-", "rt-7", "7", "-", "7-", "+7-0", "07-0", "rt-rt-7-0", "call-17", "7-0-0"]
        {
            assert_eq!(entry_of_drop(own), None, "{own}");
        }
        assert!(is_drop_id(b"call-17_A") && is_drop_id(&[b'x'; DROP_ID_BYTES_MAX]));
        for bad in [&b""[..], b"a b", b"\xff", b"a/b", &[b'x'; DROP_ID_BYTES_MAX + 1]] {
            assert!(!is_drop_id(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_key_tells_its_source() {
        let others = [Source::Ingest(Lane::Rt), Source::Ingest(Lane::Batch), Source::Log(Shard(123))];
        for source in Source::work_of(Shard(7)).chain(others) {
            assert_eq!(Source::of_key(&source.key()), Some(source));
        }
        for other in ["", "vf:{07}:dead", "vf:{07}:seq", "vf:{x}:log", "vf:{07}:decode:fast"] {
            assert_eq!(Source::of_key(other), None, "{other}");
        }
    }
}
