//! Events to apply.

use std::collections::BTreeMap;

use events::*;
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use uuid::Uuid;
use views::Entry;

/// Milliseconds after a fixed time.
pub fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_767_323_045_678 + ms).unwrap()
}

/// The recording with the number `n`.
pub fn recording(n: u32) -> RecordingId {
    Uuid::from_u128((u128::from(n) << 112) | 0x8000_0000_8000_0000_0000_0000 | u128::from(n)).into()
}

/// Makes the events of a shard's log, each with the next seq.
pub struct Log {
    pub shard: Shard,
    pub seq: u64,
}

impl Log {
    pub fn new(shard: u16) -> Log {
        Log { shard: Shard(shard), seq: 0 }
    }

    /// The next event: of recording `n`, in `generation` and `round`.
    pub fn envelope(&mut self, n: u32, generation: u32, round: u32, event: impl Into<Event>) -> Envelope {
        let event = event.into();
        self.seq += 1;
        let cause = Uuid::from_u128((u128::from(self.shard.0) << 64) | u128::from(self.seq));
        Envelope {
            event_id: EventId::derive(cause.into(), event.kind(), "", round),
            shard: self.shard,
            seq: Some(self.seq),
            recording: recording(n),
            tenant: if n.is_multiple_of(2) { Tenant::default() } else { "acme".parse().unwrap() },
            generation,
            round,
            submitted_at: at(i64::from(n) * 60_000),
            occurred_at: at(i64::from(n) * 60_000 + self.seq as i64),
            trace: None,
            causation_id: None,
            event,
        }
    }

    /// The next entry, of generation 0 in round 0.
    pub fn entry(&mut self, n: u32, event: impl Into<Event>) -> Entry {
        Entry::of(&self.envelope(n, 0, 0, event)).unwrap()
    }

    /// A whole recording: admitted, `texts` as its segments, decoded.
    pub fn whole(&mut self, n: u32, texts: &[&str]) -> Vec<Entry> {
        let mut entries = vec![self.entry(n, admitted(&format!("drop-{n}"), &format!("Talk {n}.mp3")))];
        for (index, text) in (0..).zip(texts) {
            entries.push(self.entry(n, said(0, index, text)));
        }
        entries.push(self.entry(n, decoded(&[texts.len() as u32])));
        entries
    }
}

pub fn settings() -> Settings {
    Settings {
        model: ModelRef { name: "tiny.en".into(), sha256: "1a5a".into() },
        task: Task::Transcribe,
        language: None,
        prompt: None,
        temperatures: vec![0.0, 0.2],
        channels: Channels::Mix,
        cutter: 1,
        decoding: Default::default(),
    }
}

pub fn audio() -> Audio {
    Audio {
        key: "default/3fa1".into(),
        bytes: 320_044,
        sha256: "c0de".into(),
        container: "mp3".into(),
        estimated_ms: 30_000,
    }
}

pub fn admitted(drop_id: &str, name: &str) -> RecordingAdmitted {
    RecordingAdmitted {
        drop_id: drop_id.into(),
        name: Some(name.into()),
        uri: None,
        audio: audio(),
        settings: settings(),
        lane: Lane::Batch,
        metadata: BTreeMap::from([("call".into(), "17".into())]),
    }
}

pub fn requested(activation: Activation) -> TranscriptionRequested {
    TranscriptionRequested {
        name: None,
        audio: audio(),
        settings: settings(),
        lane: Lane::Replay,
        activation,
    }
}

pub fn decoded(segments: &[u32]) -> RecordingDecoded {
    RecordingDecoded {
        segments: segments.to_vec(),
        audio_ms: 40_000,
        speech_ms: 30_000,
        channels: segments.len() as u16,
        sample_rate: 44_100,
        codec: "mp3".into(),
        truncated_at_ms: Some(39_000),
        truncated_reason: Some("unexpected end of file".into()),
    }
}

pub fn said(channel: u16, index: u32, text: &str) -> SegmentTranscribed {
    said_in("en", channel, index, text)
}

pub fn said_in(language: &str, channel: u16, index: u32, text: &str) -> SegmentTranscribed {
    let start_ms = u64::from(index) * 10_000;
    let words = text.split_whitespace().enumerate().map(|(at, word)| Word {
        text: format!(" {word}"),
        start_ms: start_ms + 100 * at as u64,
        end_ms: start_ms + 100 * at as u64 + 80,
        probability: 0.9,
    });
    SegmentTranscribed {
        channel,
        index,
        start_ms,
        end_ms: start_ms + 9_500,
        language: language.into(),
        text: text.into(),
        spans: vec![Span {
            start_ms,
            end_ms: start_ms + 9_500,
            text: format!(" {text}"),
            tokens: vec![50363, 18435, 13, 50620],
            avg_logprob: -0.1,
            no_speech_prob: 1e-7,
            compression_ratio: 1.3,
            temperature: 0.2,
            words: words.collect(),
        }],
        model: "tiny.en".into(),
        infer_ms: 120,
        // Every other segment lacks something.
        coverage: if index.is_multiple_of(2) { 1.0 } else { 0.75 },
        gaps: (0..index % 2).map(|_| (start_ms + 8_000, start_ms + 9_500).into()).collect(),
    }
}

pub fn unsaid(channel: u16, index: u32) -> SegmentFailed {
    let start_ms = u64::from(index) * 10_000;
    let cause = Cause::new("out_of_memory", format!("segment {channel}:{index} is too much"));
    SegmentFailed { channel, index, start_ms, end_ms: start_ms + 9_500, cause, attempts: 3 }
}

pub fn failed() -> RecordingFailed {
    let cause = Cause::new("unsupported_codec", "the codec is AMR; convert it to FLAC");
    RecordingFailed { stage: "decode".into(), cause, attempts: 1 }
}

/// Random histories of a few recordings in two shards: generations, rounds, competing outcomes, failures, deletions.
pub fn history(seed: u64) -> Vec<Envelope> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut logs = [Log::new(0), Log::new(1)];
    let mut events = Vec::new();
    for n in 0..4 {
        let log = &mut logs[n as usize % 2];
        let fate: f64 = random.random();
        if fate < 0.1 {
            let cause = Cause::new("unknown_model", "there is no model big");
            let drop_id = format!("drop-{n}");
            events.push(log.envelope(n, 0, 0, RecordingRejected { drop_id, name: None, cause }));
            continue;
        }
        events.push(log.envelope(n, 0, 0, admitted(&format!("drop-{n}"), &format!("Talk {n}.mp3"))));
        for generation in 0..random.random_range(1..=3) {
            for round in 0..random.random_range(1..=2) {
                if generation > 0 || round > 0 {
                    let activation = *[Activation::Auto, Activation::Manual].choose_in(&mut random);
                    events.push(log.envelope(n, generation, round, requested(activation)));
                }
                if random.random_bool(0.15) {
                    events.push(log.envelope(n, generation, round, failed()));
                    continue;
                }
                let counts: Vec<u32> =
                    (0..random.random_range(0..=2)).map(|_| random.random_range(0..4)).collect();
                for (channel, &count) in (0..).zip(&counts) {
                    for index in 0..count {
                        if random.random_bool(0.9) {
                            let language = *["en", "de", "zh"].choose_in(&mut random);
                            let text = format!("words of {generation} {round} {channel} {index}");
                            events.push(log.envelope(
                                n,
                                generation,
                                round,
                                said_in(language, channel, index, &text),
                            ));
                        }
                        if random.random_bool(0.2) {
                            events.push(log.envelope(n, generation, round, unsaid(channel, index)));
                        }
                    }
                }
                if random.random_bool(0.9) {
                    events.push(log.envelope(n, generation, round, decoded(&counts)));
                }
            }
            if random.random_bool(0.1) {
                events.push(log.envelope(n, generation, 0, GenerationCancelled { by: "api".into() }));
            }
            if random.random_bool(0.1) {
                events.push(log.envelope(n, generation, 0, GenerationActivated { by: "api".into() }));
            }
        }
        if fate > 0.9 {
            events.push(log.envelope(
                n,
                0,
                0,
                RecordingDeleted { by: "api".into(), drop_id: Some(format!("drop-{n}")) },
            ));
        }
    }
    events
}

trait ChooseIn<T> {
    fn choose_in(&self, random: &mut StdRng) -> &T;
}

impl<T> ChooseIn<T> for [T] {
    fn choose_in(&self, random: &mut StdRng) -> &T {
        &self[random.random_range(0..self.len())]
    }
}

/// The events in another order, some of them twice, cut into batches.
pub fn shuffled(events: &[Envelope], seed: u64) -> Vec<Vec<Entry>> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut entries: Vec<Entry> = events.iter().map(|event| Entry::of(event).unwrap()).collect();
    for _ in 0..entries.len() / 4 {
        entries.push(entries[random.random_range(0..entries.len())].clone());
    }
    entries.shuffle(&mut random);
    let mut batches = Vec::new();
    while !entries.is_empty() {
        let size = random.random_range(1..=12).min(entries.len());
        batches.push(entries.split_off(entries.len() - size));
    }
    batches
}
