//! Made-up recordings: facts like those of real ones, of made-up words that are as frequent as words are.

use std::collections::BTreeMap;

use events::*;
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

/// What the recordings are like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Segments of each.
    pub segments: u32,
    /// Words of each segment, each with its times.
    pub words: usize,
    /// Shards over which they are spread in turn.
    pub shards: u16,
}

impl Shape {
    /// Returns the number of facts of one recording: its segments, and that it was admitted and decoded.
    pub fn facts(self) -> u32 {
        self.segments + 2
    }
}

/// Makes recordings. The same shape makes the same ones.
pub struct Talk {
    shape: Shape,
    random: StdRng,
    words: Vec<String>,
    recordings: u32,
    seqs: Vec<u64>,
}

/// Words between two pauses.
const SPAN_WORDS: usize = 15;

impl Talk {
    /// Begins with the first recording.
    pub fn new(shape: Shape) -> Talk {
        let mut random = StdRng::seed_from_u64(7);
        let syllables = [
            "ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu", "na", "pe", "qui", "ro", "su", "ta",
            "ve", "wi", "zen", "ing", "ment", "tion", "ler", "den",
        ];
        let mut word = || -> String {
            (0..random.random_range(1..=4)).filter_map(|_| syllables.choose(&mut random).copied()).collect()
        };
        let words = (0..20_000).map(|_| word()).collect();
        Talk { shape, random, words, recordings: 0, seqs: vec![0; usize::from(shape.shards)] }
    }

    /// A word: the nth is chosen about 1/n as often as the first.
    fn word(&mut self) -> String {
        let share: f64 = self.random.random();
        let at = (self.words.len() as f64).powf(share) as usize - 1;
        self.words[at.min(self.words.len() - 1)].clone()
    }

    /// How many facts each shard has by now.
    pub fn seqs(&self) -> &[u64] {
        &self.seqs
    }

    /// Makes the facts of the next recording.
    pub fn recording(&mut self) -> Vec<Envelope> {
        self.recordings += 1;
        let id =
            Uuid::from_u128(self.random.random::<u128>() & !(0xf << 76) | (8 << 76) & !(3 << 62) | (2 << 62));
        let submitted_at = at(i64::from(self.recordings) * 2_000);
        let audio = Audio {
            key: format!("default/{id}"),
            bytes: 9_600_000,
            sha256: "c0de".repeat(16),
            container: "mp3".into(),
            estimated_ms: 600_000,
        };
        let settings = Settings {
            model: ModelRef { name: "base".into(), sha256: "1a5a".repeat(16) },
            task: Task::Transcribe,
            language: None,
            prompt: None,
            temperatures: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            channels: Channels::Mix,
            cutter: 1,
            decoding: Default::default(),
        };
        let mut events: Vec<Event> = vec![
            RecordingAdmitted {
                drop_id: format!("drop-{}", self.recordings),
                name: Some(format!("talk-{}.mp3", self.recordings)),
                uri: None,
                audio,
                settings,
                lane: Lane::Batch,
                metadata: BTreeMap::new(),
            }
            .into(),
        ];
        for index in 0..self.shape.segments {
            let segment = self.segment(index);
            events.push(segment.into());
        }
        let decoded = RecordingDecoded {
            segments: vec![self.shape.segments],
            audio_ms: 600_000,
            speech_ms: 560_000,
            channels: 1,
            sample_rate: 44_100,
            codec: "mp3".into(),
            truncated_at_ms: None,
            truncated_reason: None,
        };
        events.push(decoded.into());
        let shard = self.recordings as usize % self.seqs.len();
        let seq = &mut self.seqs[shard];
        let envelope = |event: Event| {
            *seq += 1;
            Envelope {
                event_id: EventId::derive(id.into(), event.kind(), &seq.to_string(), 0),
                shard: Shard(shard as u16),
                seq: Some(*seq),
                recording: id.into(),
                tenant: Tenant::default(),
                generation: 0,
                round: 0,
                submitted_at,
                occurred_at: at(*seq as i64 * 100),
                trace: None,
                causation_id: None,
                event,
            }
        };
        events.into_iter().map(envelope).collect()
    }

    fn segment(&mut self, index: u32) -> SegmentTranscribed {
        let begin_ms = u64::from(index) * 30_000;
        let mut now_ms = begin_ms;
        let mut spans: Vec<Span> = Vec::new();
        let mut left = self.shape.words;
        while left > 0 {
            let start_ms = now_ms;
            let words: Vec<Word> = (0..left.min(SPAN_WORDS))
                .map(|_| {
                    let start_ms = now_ms;
                    now_ms += self.random.random_range(120..500);
                    let probability = self.random.random_range(0.3..1.0);
                    Word { text: format!(" {}", self.word()), start_ms, end_ms: now_ms, probability }
                })
                .collect();
            left -= words.len();
            spans.push(Span {
                start_ms,
                end_ms: now_ms,
                text: words.iter().map(|word| word.text.as_str()).collect(),
                tokens: (0..22).map(|_| self.random.random_range(200..50_000)).collect(),
                avg_logprob: self.random.random_range(-0.6..-0.1),
                no_speech_prob: self.random.random_range(0.0..0.1),
                compression_ratio: self.random.random_range(1.1..1.8),
                temperature: 0.0,
                words,
            });
        }
        SegmentTranscribed {
            channel: 0,
            index,
            start_ms: begin_ms,
            end_ms: begin_ms + 29_000,
            language: "en".into(),
            text: spans.iter().map(|span| span.text.as_str()).collect::<String>().trim().to_owned(),
            spans,
            model: "base".into(),
            infer_ms: 900,
            coverage: 1.0,
            gaps: Vec::new(),
        }
    }
}

/// Milliseconds after a fixed time.
fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_767_225_600_000 + ms).expect("within this century")
}
