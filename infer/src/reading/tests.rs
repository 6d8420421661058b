//! Readings of a network whose every answer is written down here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::channel::oneshot;
use futures::executor::block_on;
use smallvec::smallvec;

use super::*;
use crate::backend::{Alignment, Answer, Ask, Backend, Capacity, Feed, Report, Row, Run, Slot, Sound};
use crate::engine::tests::{hum, random_network};
use crate::quality::Thresholds;
use crate::scheduler::Scheduler;

/// What a window says: tokens, each with the same probability, then the end.
#[derive(Clone)]
struct Says {
    tokens: Vec<u32>,
    logprob: f32,
    no_speech: f32,
    /// Of each token when it is aligned.
    probability: f32,
}

/// Windows as they were encoded: first frame and positions.
type Encoded = Arc<Mutex<Vec<(usize, usize)>>>;

/// A device that says one thing of a trimmed window and another of a whole one.
struct Script {
    inner: Box<dyn Backend>,
    trimmed: Says,
    whole: Says,
    encoded: Encoded,
    /// Positions in each slot.
    slots: HashMap<Slot, usize>,
    /// The slot of each row, and how many tokens it was answered.
    rows: HashMap<Row, (Slot, usize)>,
    end: u32,
    answers: Vec<Answer>,
}

impl Backend for Script {
    fn dims(&self) -> Dims {
        self.inner.dims()
    }

    fn capacity(&self) -> Capacity {
        self.inner.capacity()
    }

    fn encode(&mut self, sounds: &[Sound<'_>]) -> Result<(), DeviceError> {
        for sound in sounds {
            self.slots.insert(sound.slot, sound.positions);
            self.encoded.lock().unwrap().push((sound.from, sound.positions));
        }
        Ok(())
    }

    fn submit(&mut self, step: &[Run<'_>]) -> Result<&[Answer], DeviceError> {
        let answers = step.iter().map(|run| {
            let is_start = if let Feed::Start { slot, .. } = run.feed {
                self.rows.insert(run.row, (slot, 0));
                true
            } else {
                false
            };
            let (slot, answered) = self.rows.get_mut(&run.row).unwrap();
            let says = if self.slots[slot] < AUDIO_POSITIONS { &self.trimmed } else { &self.whole };
            assert_eq!(run.ask, Ask::Token, "nothing else is asked here");
            let token = says.tokens.get(*answered).copied().unwrap_or(self.end);
            *answered += 1;
            Answer {
                row: run.row,
                tokens: smallvec![(token, says.logprob)],
                no_speech_prob: is_start.then_some(says.no_speech),
            }
        });
        self.answers = answers.collect();
        Ok(&self.answers)
    }

    fn copy_rows(&mut self, _copies: &[(Row, Row)]) -> Result<(), DeviceError> {
        Err(DeviceError("nothing is copied here".to_owned()))
    }

    fn align(&mut self, slot: Slot, tokens: &[u32]) -> Result<Alignment, DeviceError> {
        let positions = self.slots[&slot];
        let says = if positions < AUDIO_POSITIONS { &self.trimmed } else { &self.whole };
        // Each token looks at a fifth of a second behind the one before, the end at all that is left.
        let mut scores = vec![-10.0; tokens.len() * positions];
        for (token, row) in scores.chunks_mut(positions).enumerate() {
            let end = if token + 1 == tokens.len() { positions } else { token * 10 + 10 };
            row[token * 10..end].fill(10.0);
        }
        Ok(Alignment { scores, heads: 1, positions, probabilities: vec![says.probability; tokens.len()] })
    }

    fn report(&self) -> Report {
        self.inner.report()
    }
}

const FIRST_TIMESTAMP: u32 = 50_363;
const WORD: u32 = 1_000;

/// A text of words between two times in seconds.
fn text(words: &[u32], start: u32, end: u32) -> Says {
    let mut tokens = vec![FIRST_TIMESTAMP + start * 50];
    tokens.extend(words);
    tokens.push(FIRST_TIMESTAMP + end * 50);
    Says { tokens, logprob: -0.1, no_speech: 0.0, probability: 0.9 }
}

/// Reads 9 s of sound; what came of it, and the windows that were encoded.
fn read(trimmed: Says, whole: Says, options: Options) -> (Output, Vec<(usize, usize)>) {
    let (inner, voice) = random_network(1, 16);
    let special = voice.tokens.special;
    assert_eq!(special.first_timestamp, FIRST_TIMESTAMP);
    let encoded = Encoded::default();
    let (slots, rows, end) = (HashMap::new(), HashMap::new(), special.end);
    let (encoded_by, answers) = (Arc::clone(&encoded), Vec::new());
    let script = Script { inner, trimmed, whole, encoded: encoded_by, slots, rows, end, answers };
    let scheduler = Scheduler::start(Box::new(script)).unwrap();
    let (reply, answer) = oneshot::channel();
    scheduler.submit(1, move |desk, slot| {
        let reading = async move {
            let _ = reply.send(voice.read(&desk, &slot, &hum(9).into(), &options, Some("en")).await);
        };
        reading.boxed_local()
    });
    let output = block_on(answer).unwrap().unwrap();
    drop(scheduler);
    let encoded = encoded.lock().unwrap().clone();
    (output, encoded)
}

fn trimming() -> Options {
    Options { trim: true, ..Options::default() }
}

#[test]
fn a_trimmed_window_is_believed_where_no_guard_trips() {
    let (output, encoded) = read(text(&[WORD], 0, 9), text(&[WORD + 1], 0, 9), trimming());
    assert_eq!(encoded, [(0, 550)]);
    assert_eq!((output.trimmed, output.reread), (1, 0));
    assert_eq!(output.spans[0].tokens[1], WORD);
    let (output, encoded) = read(text(&[WORD], 0, 9), text(&[WORD + 1], 0, 9), Options::default());
    assert_eq!(encoded, [(0, AUDIO_POSITIONS)]);
    assert_eq!((output.trimmed, output.reread), (0, 0));
    assert_eq!(output.spans[0].tokens[1], WORD + 1);
}

/// A guard that trips in a trimmed window has it read once more, whole; what is said then counts.
#[track_caller]
fn trips(trimmed: Says, options: Options) {
    let whole = text(&[WORD + 1], 0, 9);
    let (output, encoded) = read(trimmed, whole.clone(), options.clone());
    assert_eq!(encoded, [(0, 550), (0, AUDIO_POSITIONS)]);
    assert_eq!((output.trimmed, output.reread), (0, 1));
    let (expected, _) = read(whole.clone(), whole, Options { trim: false, ..options });
    assert_eq!(output, Output { reread: 1, ..expected });
}

#[test]
fn every_guard_has_a_trimmed_window_read_whole() {
    let fine = text(&[WORD], 0, 9);
    trips(Says { logprob: -1.5, ..fine.clone() }, trimming());
    trips(Says { logprob: -1.5, no_speech: 0.9, ..fine.clone() }, trimming());
    trips(text(&[WORD; 25], 0, 9), trimming());
    let thresholds = Thresholds { compression_ratio: None, ..Thresholds::default() };
    trips(text(&[WORD; 40], 0, 9), Options { thresholds, ..trimming() });
    let many: Vec<u32> = (WORD..WORD + 10).collect();
    trips(text(&many, 0, 9), Options { tokens_max: 8, ..trimming() });
    trips(text(&[WORD], 0, 10), trimming());
    let speech = std::iter::once(0..8_500).collect();
    trips(text(&[WORD], 0, 2), Options { speech, ..trimming() });
}

#[test]
fn what_was_skipped_is_read_whole() {
    let speech: Vec<Range<u64>> = std::iter::once(0..8_500).collect();
    let short = text(&[WORD], 0, 2);
    let (output, encoded) = read(short.clone(), short, Options { speech, ..trimming() });
    // The window trimmed, the window whole, and the speech that has no text even then.
    assert_eq!(encoded, [(0, 550), (0, AUDIO_POSITIONS), (200, AUDIO_POSITIONS)]);
    assert_eq!((output.trimmed, output.reread), (0, 1));
    assert_eq!(output.gaps, std::slice::from_ref(&(4_000..8_500)));
}

#[test]
fn text_invented_in_silence_is_left_out() {
    let said = text(&[WORD, WORD + 1], 0, 9);
    let read = |probability: f32, options: Options| {
        let says = Says { probability, ..said.clone() };
        let (output, encoded) = read(says.clone(), says, options);
        (output.spans.len(), encoded.into_iter().map(|(from, _)| from).collect::<Vec<_>>())
    };
    let skipping = Options { hallucination_silence_ms: Some(2_000), ..Options::default() };
    assert_eq!(read(0.9, skipping.clone()), (1, vec![0]));
    assert_eq!(read(0.1, Options { hallucination_silence_ms: None, ..skipping.clone() }), (1, vec![0]));
    // Odd words with nothing around them: reading goes on a second later each time, until less than the threshold is left.
    let (spans, windows) = read(0.1, skipping.clone());
    assert_eq!((spans, &windows[..3]), (0, &[0, 100, 200][..]));
    assert!(windows.len() < 9, "{windows:?}");
    // Words are timed for it, and told only where they were asked for.
    let words = |options: Options| {
        let (output, _) = self::read(said.clone(), said.clone(), options);
        output.spans[0].words.iter().map(|word| (word.start_ms, word.end_ms)).collect::<Vec<_>>()
    };
    assert_eq!(words(skipping.clone()), []);
    assert_eq!(words(Options { words: true, ..skipping }).len(), 2);
}
