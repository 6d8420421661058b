//! Readings of a network whose every answer is written down here.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
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

/// A text as it was begun.
#[derive(Debug, Clone, PartialEq)]
struct Begun {
    /// First frame and positions of the window that it hears.
    window: (usize, usize),
    prompt: Vec<u32>,
    /// Where `<|startoftranscript|>` stands in it.
    start: usize,
    temperature: f32,
    seed: u64,
    timestamp_max: u32,
    /// Ways on that are asked for; 0 where the device is to choose.
    ways: usize,
}

/// What the device was asked.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// Windows: first frame and positions.
    encoded: Vec<(usize, usize)>,
    begun: Vec<Begun>,
    /// Tokens that were told of all texts.
    tokens: usize,
}

impl Seen {
    fn temperatures(&self) -> Vec<f32> {
        self.begun.iter().map(|begun| begun.temperature).collect()
    }
}

/// A device that says of each text what is written down for it.
struct Script {
    inner: Box<dyn Backend>,
    says: Box<dyn Fn(&Begun) -> Says + Send>,
    seen: Arc<Mutex<Seen>>,
    /// The window in each slot, and what was said of it last.
    slots: HashMap<Slot, ((usize, usize), Option<Says>)>,
    /// What each row says, and how many tokens it was answered.
    rows: HashMap<Row, (Says, usize)>,
    end: u32,
    answers: Vec<Answer>,
}

impl Script {
    fn run(&mut self, run: &Run<'_>) -> Answer {
        let ways = match run.ask {
            Ask::Token => 0,
            Ask::Top(ways) => ways,
            Ask::Among(_) => panic!("the language is given here"),
        };
        let mut seen = self.seen.lock().unwrap();
        let mut no_speech_prob = None;
        if let Feed::Start { slot, prompt, start, sampling } = run.feed {
            let (window, said) = self.slots.get_mut(&slot).unwrap();
            let (window, prompt) = (*window, prompt.to_vec());
            let Sampling { temperature, seed, timestamp_max, .. } = sampling;
            let begun = Begun { window, prompt, start, temperature, seed, timestamp_max, ways };
            let says = (self.says)(&begun);
            seen.begun.push(begun);
            no_speech_prob = Some(says.no_speech);
            *said = Some(says.clone());
            self.rows.insert(run.row, (says, 0));
        }
        let (says, answered) = self.rows.get_mut(&run.row).unwrap();
        let token = says.tokens.get(*answered).copied().unwrap_or(self.end);
        *answered += 1;
        seen.tokens += 1;
        Answer { row: run.row, tokens: smallvec![(token, says.logprob)], no_speech_prob }
    }
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
            let window = (sound.from, sound.positions);
            self.slots.insert(sound.slot, (window, None));
            self.seen.lock().unwrap().encoded.push(window);
        }
        Ok(())
    }

    fn submit(&mut self, step: &[Run<'_>]) -> Result<&[Answer], DeviceError> {
        self.answers = step.iter().map(|run| self.run(run)).collect();
        Ok(&self.answers)
    }

    fn copy_rows(&mut self, _copies: &[(Row, Row)]) -> Result<(), DeviceError> {
        Err(DeviceError::new("nothing is copied here"))
    }

    fn align(&mut self, slot: Slot, tokens: &[u32]) -> Result<Alignment, DeviceError> {
        let ((_, positions), said) = &self.slots[&slot];
        let (positions, probability) = (*positions, said.as_ref().unwrap().probability);
        // Each token looks at a fifth of a second behind the one before, the end at all that is left.
        let mut scores = vec![-10.0; tokens.len() * positions];
        for (token, row) in scores.chunks_mut(positions).enumerate() {
            let end = if token + 1 == tokens.len() { positions } else { token * 10 + 10 };
            row[token * 10..end].fill(10.0);
        }
        Ok(Alignment { scores, heads: 1, positions, probabilities: vec![probability; tokens.len()] })
    }

    fn report(&self) -> Report {
        self.inner.report()
    }
}

/// Special tokens of an English-only vocabulary.
const START: u32 = 50_257;
const PREVIOUS: u32 = 50_360;
const FIRST_TIMESTAMP: u32 = 50_363;
const WORD: u32 = 1_000;

/// A text of words between two times in seconds.
fn text(words: &[u32], start: u32, end: u32) -> Says {
    let mut tokens = vec![FIRST_TIMESTAMP + start * 50];
    tokens.extend(words);
    tokens.push(FIRST_TIMESTAMP + end * 50);
    Says { tokens, logprob: -0.1, no_speech: 0.0, probability: 0.9 }
}

/// Reads 9 s of sound on a device that says of a trimmed window one thing and of a whole one another; what came of it,
/// and the windows that were encoded.
fn read(trimmed: Says, whole: Says, options: Options) -> (Output, Vec<(usize, usize)>) {
    let says = move |begun: &Begun| {
        if begun.window.1 < AUDIO_POSITIONS { trimmed.clone() } else { whole.clone() }
    };
    let (output, seen) = read_by(says, options);
    (output, seen.encoded)
}

/// Reads 9 s of sound; what came of it, and what the device was asked.
fn read_by(says: impl Fn(&Begun) -> Says + Send + 'static, options: Options) -> (Output, Seen) {
    let (inner, voice) = random_network(1, 16);
    let special = voice.tokens.special;
    assert_eq!(
        (special.start, special.previous, special.first_timestamp),
        (START, PREVIOUS, FIRST_TIMESTAMP)
    );
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (slots, rows, answers) = (HashMap::new(), HashMap::new(), Vec::new());
    let (says, seen_by, end) = (Box::new(says), Arc::clone(&seen), special.end);
    let script = Script { inner, says, seen: seen_by, slots, rows, end, answers };
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
    let seen = seen.lock().unwrap().clone();
    (output, seen)
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
    let speech = std::iter::once(0..8_500).collect();
    trips(text(&[WORD], 0, 2), Options { speech, ..trimming() });
}

#[test]
fn a_trimmed_window_has_no_times_behind_its_sound() {
    let latest = |options| read_by(|_| text(&[WORD], 0, 9), options).1.begun[0].timestamp_max;
    assert_eq!(latest(trimming()), 450);
    assert_eq!(latest(Options::default()), 1_500);
}

#[test]
fn a_rest_without_room_for_a_word_is_not_read() {
    let windows = |end: u32| {
        let end = FIRST_TIMESTAMP + end;
        let says = Says { tokens: vec![FIRST_TIMESTAMP, WORD, end, end], ..text(&[], 0, 0) };
        let (_, seen) = read_by(move |_| says.clone(), Options::default());
        seen.encoded.iter().map(|(from, _)| *from).collect::<Vec<_>>()
    };
    assert_eq!(windows(446), [0], "80 ms are left");
    assert_eq!(windows(445), [0, 890], "100 ms are left");
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

/// openai's ladder: six temperatures, from the second on five texts each.
#[test]
fn temperatures_are_tried_in_turn_until_a_text_is_believed() {
    let fine = text(&[WORD], 0, 9);
    let guessed = Says { logprob: -1.01, ..fine.clone() };
    let ladder = |rungs: &[f32]| -> Vec<f32> {
        rungs.iter().flat_map(|t| vec![*t; if *t == 0.0 { 1 } else { 5 }]).collect()
    };
    let (output, seen) = read_by(move |_| guessed.clone(), Options::default());
    assert_eq!(seen.temperatures(), ladder(&[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]));
    assert_eq!(output.spans[0].temperature, 1.0, "the last text is kept, whatever it is");
    assert_eq!(seen.encoded.len(), 1, "all of them hear what was encoded once");
    // Whichever threshold fails: the text is guessed, or repeats itself.
    for bad in [Says { logprob: -1.01, ..fine.clone() }, text(&[WORD; 25], 0, 9)] {
        let fine = fine.clone();
        let says = move |begun: &Begun| if begun.temperature < 0.4 { bad.clone() } else { fine.clone() };
        let (output, seen) = read_by(says, Options::default());
        assert_eq!(seen.temperatures(), ladder(&[0.0, 0.2, 0.4]));
        assert_eq!(output.spans[0].temperature, 0.4);
    }
    // A mean of just -1, the end counted as a token, is believed.
    let (_, seen) = read_by(move |_| Says { logprob: -1.0, ..fine.clone() }, Options::default());
    assert_eq!(seen.temperatures(), [0.0]);
}

#[test]
fn a_guess_over_silence_is_silence_and_not_drawn_again() {
    let read = |logprob: f32, no_speech: f32| {
        let says = Says { logprob, no_speech, ..text(&[WORD], 0, 9) };
        let (output, seen) = read_by(move |_| says.clone(), Options::default());
        (output.spans.len(), seen.begun.len())
    };
    assert_eq!(read(-1.01, 0.61), (0, 1));
    assert_eq!(read(-1.01, 0.6), (1, 26), "not sure enough that nobody speaks");
    assert_eq!(read(-0.9, 0.61), (1, 1), "the text is sure");
}

#[test]
fn beams_are_for_temperature_0_and_best_of_for_those_above() {
    let fine = text(&[WORD], 0, 9);
    let drawn = AtomicU32::new(0);
    let says = move |begun: &Begun| {
        if begun.temperature == 0.0 {
            return Says { logprob: -1.5, ..fine.clone() };
        }
        let number = drawn.fetch_add(1, Ordering::SeqCst);
        Says { logprob: if number == 2 { -0.2 } else { -0.4 }, ..text(&[WORD + number], 0, 9) }
    };
    let options = Options { beams: 3, best_of: 4, temperatures: vec![0.0, 0.4], ..Options::default() };
    let (output, seen) = read_by(says, options);
    let asked: Vec<(f32, usize)> = seen.begun.iter().map(|begun| (begun.temperature, begun.ways)).collect();
    assert_eq!(asked, [(0.0, 4), (0.4, 0), (0.4, 0), (0.4, 0), (0.4, 0)], "one way more than beams");
    let seeds: BTreeSet<u64> = seen.begun[1..].iter().map(|begun| begun.seed).collect();
    assert_eq!(seeds.len(), 4, "each is drawn by itself");
    assert_eq!(output.spans[0].tokens[1], WORD + 2, "the likeliest of those drawn is kept");
    // With one beam the likeliest token is taken, once.
    let options = Options { beams: 1, best_of: 4, temperatures: vec![0.0], ..Options::default() };
    let (_, seen) = read_by(|_| text(&[WORD], 0, 9), options);
    assert_eq!(seen.begun.iter().map(|begun| begun.ways).collect::<Vec<_>>(), [0]);
}

/// What the second window of a segment has before `<|startoftranscript|>` when the first was read so.
fn context(options: Options) -> Vec<u32> {
    let says = |begun: &Begun| {
        let pair = FIRST_TIMESTAMP + 200;
        let first = [FIRST_TIMESTAMP, WORD, pair, pair].to_vec();
        if begun.window.0 == 0 { Says { tokens: first, ..text(&[], 0, 4) } } else { text(&[WORD + 1], 0, 5) }
    };
    let (output, seen) = read_by(says, Options { best_of: 1, ..options });
    assert_eq!(seen.encoded, [(0, AUDIO_POSITIONS), (400, AUDIO_POSITIONS)]);
    assert_eq!(output.spans.len(), 2);
    let second = &seen.begun[1];
    assert_eq!(second.prompt[second.start], START);
    second.prompt[..second.start].to_vec()
}

#[test]
fn a_text_is_the_context_of_the_next_up_to_temperature_a_half() {
    let at = |temperature| Options { temperatures: vec![temperature], ..Options::default() };
    let said = [PREVIOUS, FIRST_TIMESTAMP, WORD, FIRST_TIMESTAMP + 200];
    let nothing: [u32; 0] = [];
    assert_eq!(context(at(0.0)), said);
    assert_eq!(context(at(0.5)), said);
    assert_eq!(context(at(0.51)), nothing);
    assert_eq!(context(Options { condition_on_previous_text: false, ..at(0.0) }), nothing);
    // What was given as prompt goes with it.
    let prompt = Some("ab".to_owned());
    assert_eq!(context(Options { prompt: prompt.clone(), ..at(0.0) }).len(), said.len() + 3);
    assert_eq!(context(Options { prompt, ..at(0.6) }), nothing);
}

/// A prompt of so many numbers, and its tokens.
fn long_prompt(numbers: u32) -> (String, Vec<u32>) {
    let prompt = (100..100 + numbers).map(|i| i.to_string()).collect::<Vec<_>>().join(" ");
    let (_, voice) = random_network(1, 16);
    let tokens = voice.spoken(&prompt);
    (prompt, tokens)
}

#[test]
fn the_last_223_tokens_of_a_prompt_are_the_context() {
    for numbers in [2, 200] {
        let (prompt, tokens) = long_prompt(numbers);
        assert!(numbers == 2 || tokens.len() > 400, "{} tokens", tokens.len());
        let (_, seen) =
            read_by(|_| text(&[WORD], 0, 9), Options { prompt: Some(prompt), ..Options::default() });
        let Begun { prompt, start, .. } = &seen.begun[0];
        let kept = &tokens[tokens.len().saturating_sub(223)..];
        assert_eq!(prompt[..], [&[PREVIOUS], kept, &[START]].concat());
        assert_eq!(*start, prompt.len() - 1);
    }
}

#[test]
fn a_text_has_224_tokens_at_most() {
    let endless: Vec<u32> = (WORD..WORD + 400).collect();
    let (prompt, _) = long_prompt(200);
    // Behind the longest prompt too: 1 and 223 tokens of it and the start leave the positions for as many.
    for (beams, prompt) in [(1, None), (1, Some(prompt.clone())), (2, None), (2, Some(prompt))] {
        let says = text(&endless, 0, 9);
        let options = Options { temperatures: vec![0.0], beams, prompt, ..Options::default() };
        let (output, seen) = read_by(move |_| says.clone(), options);
        assert_eq!((output.spans[0].tokens.len(), seen.tokens), (224, 224), "{beams} beams");
    }
}

/// Says something after what was said before; the prompt it continued, and what it leaves for the next segment.
fn after(previous: Option<Vec<u32>>, says: Says, options: Options) -> (Vec<u32>, Vec<u32>) {
    let (output, seen) = read_by(move |_| says.clone(), Options { previous, ..options });
    (seen.begun[0].prompt.clone(), output.context)
}

fn plain() -> Options {
    Options { temperatures: vec![0.0], best_of: 1, ..Options::default() }
}

#[test]
fn a_segment_continues_what_was_said_before() {
    let (_, voice) = random_network(1, 1);
    let special = voice.tokens.special;
    let (said, before) = (text(&[WORD], 0, 9), vec![WORD + 1, WORD + 2]);
    let (prompt, context) = after(Some(before.clone()), said.clone(), plain());
    assert_eq!(prompt, [special.previous, WORD + 1, WORD + 2, special.start]);
    assert_eq!(context, [before.clone(), said.tokens.clone()].concat());

    let names = Options { prompt: Some("Ana".into()), ..plain() };
    let (prompt, context) = after(None, said.clone(), names.clone());
    assert_eq!((prompt[0], prompt.last()), (special.previous, Some(&special.start)));
    let given = prompt[1..prompt.len() - 1].to_vec();
    assert_eq!(voice.tokens.decode(&given), " Ana");
    assert_eq!(context, [given, said.tokens.clone()].concat(), "the prompt goes on with the text");
    let (prompt, _) = after(Some(before.clone()), said.clone(), names.clone());
    assert_eq!(
        prompt,
        [special.previous, WORD + 1, WORD + 2, special.start],
        "it stood before the first segment"
    );
    let (prompt, context) = after(Some(Vec::new()), said.clone(), names);
    assert_eq!((prompt, context), (vec![special.start], said.tokens.clone()), "what is reset stays reset");

    let forgetting = Options { condition_on_previous_text: false, ..plain() };
    assert_eq!(after(Some(before), said, forgetting).1, [0; 0]);
}

#[test]
fn what_was_said_before_has_half_the_room() {
    let before: Vec<u32> = (0..500).collect();
    let said = text(&[WORD], 0, 9);
    let (prompt, context) = after(Some(before.clone()), said.clone(), plain());
    assert_eq!(prompt.len(), 1 + 223 + 1);
    assert_eq!(prompt[1..224], before[500 - 223..], "its end");
    let all = [before, said.tokens].concat();
    assert_eq!(context, all[all.len() - 223..]);
}

#[test]
fn a_text_that_is_drawn_freely_is_no_context() {
    let (said, before) = (text(&[WORD], 0, 9), vec![WORD + 1]);
    let at = |temperature| {
        let options = Options { temperatures: vec![temperature], ..plain() };
        after(Some(before.clone()), said.clone(), options).1
    };
    let all = [before.clone(), said.tokens.clone()].concat();
    assert_eq!((at(0.0), at(0.5), at(0.6)), (all.clone(), all, Vec::new()));
}

#[test]
fn silence_leaves_what_was_said_before() {
    let silence = Says { logprob: -1.5, no_speech: 0.9, ..text(&[WORD], 0, 9) };
    let before = vec![WORD + 1, WORD + 2];
    assert_eq!(after(Some(before.clone()), silence, plain()).1, before);
    // Speech that is read again by itself is not the end of the text.
    let speech = std::iter::once(0..8_500).collect();
    let short = text(&[WORD], 0, 2);
    let tokens = short.tokens.clone();
    let (output, seen) =
        read_by(move |_| short.clone(), Options { previous: Some(before.clone()), speech, ..plain() });
    assert_eq!(seen.begun.len(), 2);
    assert_eq!(output.context, [before, tokens].concat());
}
