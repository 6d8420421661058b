//! CUDA's kernels, run by the emulator, against the processor's backend in f32: on a small network of random weights, and
//! on real weights and speech where they are there.

use half::{bf16, f16};
use kernels::emulator::Emulator;
use tempfile::TempDir;

use super::*;
use crate::backend::{Ask, Feed};
use crate::cpu::{Cpu, CpuOptions, Precision};
use crate::engine::tests::{write_ctranslate2, write_random};
use crate::features::WINDOW_FRAMES;
use crate::sampling::Sampling;
use crate::tokens::Tokens;

mod real;

const VOCABULARY: usize = 51_865;
/// Two heads, as wide as all of Whisper's.
const WIDTH: usize = 128;

struct Given {
    _folder: TempDir,
    weights: Weights,
    tokens: Tokens,
}

impl Given {
    fn random() -> Given {
        let folder = tempfile::tempdir().unwrap();
        write_random(folder.path(), VOCABULARY, WIDTH);
        let weights = Weights::open(folder.path()).unwrap();
        let tokens = Tokens::load(folder.path(), weights.format(), VOCABULARY).unwrap();
        Given { _folder: folder, weights, tokens }
    }

    /// None where there is no compiler for the emulator, which it says.
    fn cuda<T: Half>(&self, sound: Form) -> Option<Cuda<Emulator, T>> {
        // Graphs are repeated as a GPU repeats them: nothing of a step may be computed by the host.
        let device = Emulator::open(0)?.with_replays();
        let options = CudaOptions { slots: 3, rows: 4, windows: 2, sound };
        let rules = Rules::new(&self.tokens);
        Some(Cuda::load(device, "emulator".to_owned(), &self.weights, &rules, &HEADS, options).unwrap())
    }

    fn cpu(&self) -> Cpu {
        let options = CpuOptions { precision: Precision::F32, threads: 2, slots: 3, rows: 4 };
        Cpu::load(&self.weights, Rules::new(&self.tokens), HEADS.to_vec(), options).unwrap()
    }

    fn prompt(&self) -> Vec<u32> {
        let special = self.tokens.special;
        vec![special.start, self.tokens.language("en").unwrap(), special.transcribe]
    }
}

/// Not in the order in which they stand in the model.
const HEADS: [(usize, usize); 2] = [(0, 1), (0, 0)];

fn hum(samples: usize, pitch: usize) -> Vec<i16> {
    (0..samples).map(|i| ((i * i / pitch) % 16_001) as i16 - 8_000).collect()
}

fn window(slot: usize, pcm: &[i16], positions: usize) -> Sound<'_> {
    Sound { slot: Slot(slot), pcm, from: 0, frames: WINDOW_FRAMES, positions }
}

fn start(row: usize, slot: usize, prompt: &[u32]) -> Run<'_> {
    let sampling = Sampling::default();
    Run { row: Row(row), feed: Feed::Start { slot: Slot(slot), prompt, start: 0, sampling }, ask: Ask::Token }
}

fn on(row: usize) -> Run<'static> {
    Run { row: Row(row), feed: Feed::Sampled, ask: Ask::Token }
}

/// The answers of a step, and of no other.
fn answers(backend: &mut impl Backend, step: &[Run<'_>]) -> Vec<Answer> {
    let told = backend.submit(step).unwrap().to_vec();
    if backend.capacity().lag == 0 { told } else { backend.submit(&[]).unwrap().to_vec() }
}

/// Both backends with three windows of different lengths in their slots, more than are encoded at once.
fn both<T: Half>(given: &Given, sound: Form) -> Option<(Cuda<Emulator, T>, Cpu)> {
    let (mut cuda, mut cpu) = (given.cuda::<T>(sound)?, given.cpu());
    let sounds = [hum(9_000, 50), hum(25_000, 90), hum(3_000, 31)];
    let windows = [window(2, &sounds[0], 31), window(0, &sounds[1], 70), window(1, &sounds[2], 1)];
    cuda.encode(&windows).unwrap();
    cpu.encode(&windows).unwrap();
    Some((cuda, cpu))
}

/// Scores within `step` of each other where the lists have the same tokens; the lists may part where scores are as near.
fn assert_near(got: &Answer, expected: &Answer, step: f32) {
    assert_eq!(got.tokens.len(), expected.tokens.len(), "{got:?} {expected:?}");
    for ((token, score), (other, wanted)) in got.tokens.iter().zip(&expected.tokens) {
        assert!((score - wanted).abs() < step, "{token} {score}, {other} {wanted}");
        let same = expected.tokens.iter().find(|(expected, _)| expected == token);
        let near = same.is_none_or(|(_, wanted)| (score - wanted).abs() < step);
        assert!(near, "{token} {score} in {expected:?}");
    }
    match (got.no_speech_prob, expected.no_speech_prob) {
        (Some(got), Some(expected)) => assert!((got - expected).abs() < step, "{got} {expected}"),
        (got, expected) => assert_eq!(got.is_some(), expected.is_some()),
    }
}

fn steps_are_those_of_the_processor<T: Half>(sound: Form, step: f32) {
    let given = Given::random();
    let Some((mut cuda, mut cpu)) = both::<T>(&given, sound) else { return };
    let prompt = given.prompt();
    let long = [&[given.tokens.special.previous][..], &(300..331).collect::<Vec<_>>(), &prompt].concat();
    let begin = |row, slot, prompt, start| {
        let sampling = Sampling::default();
        let feed = Feed::Start { slot: Slot(slot), prompt, start, sampling };
        Run { row: Row(row), feed, ask: Ask::Top(6) }
    };
    // Rows join one after the other: the second with a prompt of many tokens, the third hears what the first does.
    let mut rows: Vec<(usize, u32)> = Vec::new();
    for round in 0..6 {
        let mut batch: Vec<Run<'_>> = rows
            .iter()
            .map(|(row, token)| Run { row: Row(*row), feed: Feed::Chosen(*token), ask: Ask::Top(6) })
            .collect();
        match round {
            0 => batch.push(begin(0, 2, &prompt, 0)),
            1 => batch.push(begin(3, 0, &long, 32)),
            2 => batch.push(begin(1, 2, &prompt, 0)),
            _ => {}
        }
        let (got, expected) = (answers(&mut cuda, &batch), answers(&mut cpu, &batch));
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(&expected) {
            assert_eq!(got.row, expected.row);
            assert_near(got, expected, step);
        }
        rows = expected.iter().map(|answer| (answer.row.0, answer.tokens[0].0)).collect();
    }
}

#[test]
fn steps_in_f16_are_those_of_the_processor() {
    steps_are_those_of_the_processor::<f16>(Form::Whole, 0.02);
}

#[test]
fn steps_in_bf16_are_those_of_the_processor() {
    steps_are_those_of_the_processor::<bf16>(Form::Whole, 0.15);
}

#[test]
fn steps_with_the_sound_in_bytes_are_near_those_of_the_processor() {
    steps_are_those_of_the_processor::<f16>(Form::E4m3, 0.25);
}

#[test]
fn a_row_goes_on_without_the_host_knowing_its_token() {
    let given = Given::random();
    let Some((mut cuda, _)) = both::<f16>(&given, Form::Whole) else { return };
    let prompt = given.prompt();
    // Answers come a step late, the first with the second step.
    assert!(cuda.submit(&[start(1, 0, &prompt)]).unwrap().is_empty());
    let mut told = Vec::new();
    for _ in 0..4 {
        told.extend(cuda.submit(&[on(1)]).unwrap().to_vec());
    }
    told.extend(cuda.submit(&[]).unwrap().to_vec());
    assert!(cuda.submit(&[]).unwrap().is_empty());
    let tokens: Vec<u32> = told.iter().map(|answer| answer.tokens[0].0).collect();
    assert_eq!(tokens.len(), 5);
    assert_eq!(told.iter().filter(|answer| answer.no_speech_prob.is_some()).count(), 1);
    // The same text, told token by token.
    let run = |feed| Run { row: Row(0), feed, ask: Ask::Top(1) };
    let mut feed = start(0, 0, &prompt).feed;
    for (i, token) in tokens.iter().enumerate() {
        let answer = answers(&mut cuda, &[run(feed)]).remove(0);
        assert_eq!((answer.tokens[0].0, answer.tokens[0].1), (*token, told[i].tokens[0].1), "token {i}");
        feed = Feed::Chosen(*token);
    }
}

#[test]
fn rows_are_copied_all_at_once() {
    let given = Given::random();
    let Some((mut cuda, _)) = both::<bf16>(&given, Form::Whole) else { return };
    let prompts: Vec<Vec<u32>> = (0..3).map(|i| (100 + 50 * i..104 + 51 * i).collect()).collect();
    let begin: Vec<Run<'_>> =
        prompts.iter().enumerate().map(|(row, prompt)| start(row, row, prompt)).collect();
    answers(&mut cuda, &begin);
    let expected = answers(&mut cuda, &[on(0), on(1), on(2)]);
    answers(&mut cuda, &begin);
    // Two change places, the third is copied and keeps its own.
    cuda.copy_rows(&[(Row(0), Row(1)), (Row(1), Row(0)), (Row(2), Row(2)), (Row(2), Row(3))]).unwrap();
    let got = answers(&mut cuda, &[on(0), on(1), on(2), on(3)]);
    let tokens = |answers: &[Answer], order: &[usize]| -> Vec<u32> {
        order.iter().map(|i| answers[*i].tokens[0].0).collect()
    };
    assert_eq!(tokens(&got, &[0, 1, 2, 3]), tokens(&expected, &[1, 0, 2, 2]));
}

#[test]
fn languages_are_weighed_among_themselves() {
    let given = Given::random();
    let Some((mut cuda, mut cpu)) = both::<f16>(&given, Form::Whole) else { return };
    let among: Vec<u32> = given.tokens.languages.iter().map(|(_, token)| *token).collect();
    let (lone, prompt) = ([given.tokens.special.start], given.prompt());
    // Beside a row that is sampled.
    let step = [Run { ask: Ask::Among(&among), ..start(0, 0, &lone) }, start(1, 2, &prompt)];
    let (got, expected) = (answers(&mut cuda, &step), answers(&mut cpu, &step));
    assert_eq!(got[0].tokens.len(), among.len());
    for ((token, got), (other, expected)) in got[0].tokens.iter().zip(&expected[0].tokens) {
        assert_eq!(token, other);
        assert!((got - expected).abs() < 0.002, "{token}: {got} {expected}");
    }
    assert_near(&got[1], &expected[1], 0.02);
}

#[test]
fn an_alignment_is_that_of_the_processor() {
    let given = Given::random();
    let Some((mut cuda, mut cpu)) = both::<f16>(&given, Form::Whole) else { return };
    let tokens = [given.prompt(), (400..418).collect(), vec![given.tokens.special.end]].concat();
    let prompt = given.prompt();
    // A text under way is not disturbed.
    answers(&mut cuda, &[start(0, 0, &prompt)]);
    let got = cuda.align(Slot(0), &tokens).unwrap();
    let after = answers(&mut cuda, &[on(0)]);
    let expected = cpu.align(Slot(0), &tokens).unwrap();
    assert_eq!((got.heads, got.positions), (expected.heads, expected.positions));
    assert_eq!(got.scores.len(), expected.scores.len());
    let largest = expected.scores.iter().fold(1.0f32, |largest, x| largest.max(x.abs()));
    for (i, (got, expected)) in got.scores.iter().zip(&expected.scores).enumerate() {
        assert!((got - expected).abs() < 0.01 * largest, "{i}: {got} {expected}");
    }
    for (i, (got, expected)) in got.probabilities.iter().zip(&expected.probabilities).enumerate() {
        assert!((got - expected).abs() < 0.01, "{i}: {got} {expected}");
    }
    answers(&mut cuda, &[start(0, 0, &prompt)]);
    assert_eq!(answers(&mut cuda, &[on(0)]), after);
}

#[test]
fn a_model_that_there_are_no_kernels_for_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_ctranslate2(folder.path(), VOCABULARY);
    let weights = Weights::open(folder.path()).unwrap();
    let tokens = Tokens::load(folder.path(), weights.format(), VOCABULARY).unwrap();
    let Some(device) = Emulator::open(0) else { return };
    let options = CudaOptions { slots: 1, rows: 1, windows: 1, sound: Form::Whole };
    let rules = Rules::new(&tokens);
    let refused = Cuda::<_, f16>::load(device, String::new(), &weights, &rules, &[], options).err().unwrap();
    let said = refused.to_string();
    assert!(said.contains("heads are 32 wide") && said.contains("--infer-backend cpu"), "{said}");
}

#[test]
fn a_device_without_the_memory_says_what_helps() {
    let given = Given::random();
    let Some(device) = Emulator::open(0) else { return };
    let options = CudaOptions { slots: 3, rows: 4, windows: 2, sound: Form::Whole };
    let (rules, device) = (Rules::new(&given.tokens), device.with_room(16 << 20));
    let refused =
        Cuda::<_, f16>::load(device, String::new(), &given.weights, &rules, &HEADS, options).err().unwrap();
    let said = refused.to_string();
    assert!(
        said.contains("bytes of the device's memory are needed") && said.contains("--infer-slots"),
        "{said}"
    );
}

#[test]
fn a_report_tells_what_is_held() {
    let given = Given::random();
    for (form, device) in [(Form::Whole, "emulator f16"), (Form::E4m3, "emulator f16, sound in e4m3")] {
        let Some(mut cuda) = given.cuda::<f16>(form) else { return };
        let report = cuda.report();
        assert_eq!(report.device, device);
        let free = cuda.device.room().unwrap();
        let held = Emulator::open(0).unwrap().room().unwrap() - free;
        let told = report.weight_bytes + report.state_bytes;
        // Arrays are rounded up.
        assert!(told <= held && held < told + told / 100 + (64 << 10), "{told} told, {held} held");
    }
}
