//! Two transcriptions of one recording, word by word.
//!
//! Each was cut into segments elsewhere, so segments cannot be laid side by side. [`words`] lays the words of both out
//! in time, [`align`] finds the fewest changes that turn one into the other among words said at about the same time,
//! and [`text`](mod@text) shows them to people.

use std::collections::BTreeMap;

use events::RecordingId;
use serde::{Deserialize, Serialize};

use crate::generation::Status;
use crate::segment::Outcome;
use crate::transcript::Transcript;

mod align;
pub mod text;
mod words;

use align::Step;
use words::Word;

/// How two transcriptions of a recording differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The recording.
    pub recording: RecordingId,
    /// The name the sender gave it, or null.
    pub name: Option<String>,
    /// The transcription that is compared against.
    pub from: Side,
    /// The other one.
    pub to: Side,
    /// How many words differ.
    pub counts: Counts,
    /// All words of both in order; with channels apart, one channel after the other.
    pub passages: Vec<Passage>,
}

/// One of the two transcriptions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// Its number.
    pub generation: u32,
    /// Where it stands; one that is not complete lacks words.
    pub status: Status,
    /// The model's name.
    pub model: String,
    /// ISO 639-1 code of the language of most of the text, or null.
    pub language: Option<String>,
    /// Words; in languages without spaces, characters.
    pub words: u64,
    /// Segments that ended, with or without text.
    pub segments: u64,
    /// Segments that ended without text.
    pub failed_segments: u64,
    /// Length of the audio in milliseconds.
    pub audio_ms: u64,
    /// Milliseconds that segments were with the model, waiting for others in its batch included.
    pub infer_ms: u64,
    /// Seconds of audio per second of model time; null while there was none.
    pub speed: Option<f64>,
}

/// Words by what became of them, by the fewest changes that turn one text into the other. Case and punctuation do not
/// count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// The same in both.
    pub equal: u64,
    /// Another word in its place.
    pub replaced: u64,
    /// Only in the second.
    pub inserted: u64,
    /// Only in the first.
    pub deleted: u64,
    /// Replaced, inserted and deleted over the words of the first, as a word error rate is counted; 1 where the first
    /// has no word and the second has some.
    pub rate: f64,
}

/// Words next to each other that are equal in both texts, or differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Passage {
    /// What became of them.
    pub change: Change,
    /// Channel, 0 for a mix.
    pub channel: u16,
    /// Start within the recording, milliseconds.
    pub start_ms: u64,
    /// End within the recording, milliseconds.
    pub end_ms: u64,
    /// The words of the first; empty where it has none.
    pub from: String,
    /// The words of the second; empty where it has none.
    pub to: String,
}

/// What became of the words of a passage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// The same but for case and punctuation.
    Equal,
    /// Others in their place.
    Replaced,
    /// Only in the second.
    Inserted,
    /// Only in the first.
    Deleted,
}

/// Compares two transcriptions of one recording. Where both hear each channel apart, so does this.
pub fn compare(from: &Transcript, to: &Transcript) -> Comparison {
    let apart = from.names_channels() && to.names_channels();
    let [from_words, to_words] = [from, to].map(|transcript| words::in_time(transcript, apart));
    let mut channels: Vec<u16> = from_words.keys().chain(to_words.keys()).copied().collect();
    channels.sort_unstable();
    channels.dedup();

    let mut counts = Counts::default();
    let mut passages = Vec::new();
    for channel in channels {
        let [from, to] =
            [&from_words, &to_words].map(|words| words.get(&channel).map_or(&[][..], Vec::as_slice));
        let steps = align::align(from, to);
        counts.add(&steps);
        passages.extend(join(channel, from, to, &steps));
    }
    counts.settle();
    let total = |words: BTreeMap<u16, Vec<Word>>| words.values().map(|words| words.len() as u64).sum();
    Comparison {
        recording: to.recording,
        name: to.name.clone(),
        from: Side::of(from, total(from_words)),
        to: Side::of(to, total(to_words)),
        counts,
        passages,
    }
}

impl Side {
    fn of(transcript: &Transcript, words: u64) -> Side {
        let spent = transcript.segments.iter().map(|segment| match &segment.outcome {
            Outcome::Transcribed { infer_ms, .. } => *infer_ms,
            Outcome::Failed { .. } => 0,
        });
        let infer_ms: u64 = spent.sum();
        Side {
            generation: transcript.generation,
            status: transcript.status,
            model: transcript.model.clone(),
            language: transcript.language.clone(),
            words,
            segments: transcript.segments.len() as u64,
            failed_segments: transcript.failed_segments() as u64,
            audio_ms: transcript.audio_ms,
            infer_ms,
            speed: (infer_ms > 0).then(|| transcript.audio_ms as f64 / infer_ms as f64),
        }
    }
}

impl Counts {
    fn add(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Equal => self.equal += 1,
                Step::Replaced => self.replaced += 1,
                Step::Inserted => self.inserted += 1,
                Step::Deleted => self.deleted += 1,
            }
        }
    }

    fn settle(&mut self) {
        let words = self.equal + self.replaced + self.deleted;
        self.rate = match (self.changes(), words) {
            (0, _) => 0.0,
            (_, 0) => 1.0,
            (changes, words) => changes as f64 / words as f64,
        };
    }

    /// Words that differ.
    pub fn changes(&self) -> u64 {
        self.replaced + self.inserted + self.deleted
    }
}

/// Joins steps next to each other into passages.
fn join(channel: u16, from: &[Word], to: &[Word], steps: &[Step]) -> Vec<Passage> {
    let (mut from, mut to) = (from.iter(), to.iter());
    let mut passages = Vec::new();
    for same in steps.chunk_by(|a, b| (*a == Step::Equal) == (*b == Step::Equal)) {
        let count = |without: Step| same.iter().filter(|&&step| step != without).count();
        let a: Vec<&Word> = from.by_ref().take(count(Step::Inserted)).collect();
        let b: Vec<&Word> = to.by_ref().take(count(Step::Deleted)).collect();
        let change = match (same[0], a.is_empty(), b.is_empty()) {
            (Step::Equal, ..) => Change::Equal,
            (_, true, _) => Change::Inserted,
            (_, _, true) => Change::Deleted,
            _ => Change::Replaced,
        };
        let both = || a.iter().chain(&b);
        passages.push(Passage {
            change,
            channel,
            start_ms: both().map(|word| word.start_ms).min().unwrap_or_default(),
            end_ms: both().map(|word| word.end_ms).max().unwrap_or_default(),
            from: words::text(&a),
            to: words::text(&b),
        });
    }
    passages
}

#[cfg(test)]
mod tests;
