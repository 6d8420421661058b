//! The processor's backend against the [plain network](crate::plain), on small networks of random weights, and on
//! real weights and speech where they are there.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::engine::tests::{speech, write_ctranslate2};
use crate::features::WINDOW_FRAMES;
use crate::plain::network::{Cache, Heard, Network};
use crate::tokens::Tokens;

mod allocations;

const VOCABULARY: usize = 51_865;

struct Given {
    _folder: Option<TempDir>,
    weights: Weights,
    tokens: Tokens,
    network: Network,
}

impl Given {
    fn random() -> Given {
        let folder = tempfile::tempdir().unwrap();
        write_ctranslate2(folder.path(), VOCABULARY);
        Given { ..Given::open(folder.path()) }.keeping(folder)
    }

    fn open(folder: &Path) -> Given {
        let weights = Weights::open(folder).unwrap();
        let network = Network::load(&weights).unwrap();
        let tokens = Tokens::load(folder, weights.format(), network.dims.vocabulary).unwrap();
        Given { _folder: None, weights, tokens, network }
    }

    fn keeping(self, folder: TempDir) -> Given {
        Given { _folder: Some(folder), ..self }
    }

    fn cpu(&self, precision: Precision, threads: usize) -> Cpu {
        let options = CpuOptions { precision, threads, slots: 3, rows: 8 };
        let heads = (0..self.network.dims.decoder_heads).map(|head| (0, head)).collect();
        Cpu::load(&self.weights, Rules::new(&self.tokens), heads, options).unwrap()
    }

    fn hear(&self, pcm: &[i16]) -> (Vec<f32>, Heard) {
        let mel = Features::new(self.network.dims.mels).compute(pcm);
        let states = self.network.encode(&mel.window(0, WINDOW_FRAMES));
        let heard = self.network.hear(&states);
        (states, heard)
    }

    fn prompt(&self) -> Vec<u32> {
        let special = self.tokens.special;
        let mut prompt = vec![special.start];
        if let Some(language) = self.tokens.language("en") {
            prompt.extend([language, special.transcribe]);
        }
        prompt
    }
}

fn hum(seconds: usize, pitch: usize) -> Vec<i16> {
    (0..seconds * 16_000).map(|i| ((i * i / pitch) % 16_001) as i16 - 8_000).collect()
}

fn whole(slot: usize, pcm: &[i16]) -> Sound<'_> {
    Sound { slot: Slot(slot), pcm, from: 0, frames: WINDOW_FRAMES, positions: AUDIO_POSITIONS }
}

fn start(row: usize, slot: usize, prompt: &[u32]) -> Run<'_> {
    let sampling = Sampling::default();
    Run { row: Row(row), feed: Feed::Start { slot: Slot(slot), prompt, start: 0, sampling }, ask: Ask::Token }
}

fn on(row: usize) -> Run<'static> {
    Run { row: Row(row), feed: Feed::Sampled, ask: Ask::Token }
}

/// The largest distance of two arrays.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |largest, (a, b)| largest.max((a - b).abs()))
}

#[test]
fn states_are_those_of_the_plain_network() {
    let given = Given::random();
    let pcm = hum(9, 50);
    let (states, _) = given.hear(&pcm);
    let size = states.iter().fold(0.0f32, |size, x| size.max(x.abs()));
    for threads in [1, 2] {
        let exact = given.cpu(Precision::F32, threads).encode_one(&whole(1, &pcm)).to_vec();
        assert!(distance(&exact, &states) < 1e-4 * size.max(1.0), "{}", distance(&exact, &states));
        // The mean error counts: single values may be off by a few steps of a byte.
        let mean = |given: &[f32]| {
            given.iter().zip(&states).map(|(a, b)| (a - b).abs()).sum::<f32>() / states.len() as f32
        };
        let halved = given.cpu(Precision::Bf16, threads).encode_one(&whole(1, &pcm)).to_vec();
        assert!(mean(&halved) < 0.002 * size, "{} of {size}", mean(&halved));
        let fast = given.cpu(Precision::Int8, threads).encode_one(&whole(1, &pcm)).to_vec();
        assert!(mean(&fast) < 0.02 * size, "{} of {size}", mean(&fast));
    }
}

#[test]
fn a_window_may_be_short_and_begin_anywhere() {
    let given = Given::random();
    let pcm = hum(9, 50);
    let mut cpu = given.cpu(Precision::F32, 2);
    for (from, positions) in [(0, 1), (0, 7), (300, 301), (890, 64), (900, 5), (2_000, 3)] {
        let sound = Sound { slot: Slot(0), pcm: &pcm, from, frames: WINDOW_FRAMES, positions };
        let states = cpu.encode_one(&sound).to_vec();
        assert_eq!(states.len(), positions * 64);
        assert!(states.iter().all(|x| x.is_finite()));
        cpu.submit(&[start(0, 0, &given.prompt())]).unwrap();
        // A window that ends where another goes on hears the same but near its end.
        if positions == 301 {
            let longer = cpu.encode_one(&Sound { positions: 302, ..sound }).to_vec();
            assert_ne!(longer[..states.len()], states);
        }
    }
}

#[test]
fn steps_are_those_of_the_plain_network() {
    let given = Given::random();
    let pcm = hum(5, 70);
    let (_, heard) = given.hear(&pcm);
    let prompt = given.prompt();
    let rules = Rules::new(&given.tokens);
    let mut exact = given.cpu(Precision::F32, 2);
    let mut fast = given.cpu(Precision::Int8, 2);
    for cpu in [&mut exact, &mut fast] {
        cpu.encode(&[whole(2, &pcm)]).unwrap();
    }
    let mut cache = Cache::default();
    let (mut fed, mut state) = (prompt.clone(), State::new());
    let sampling = Sampling::default();
    for step in 0..12 {
        let mut logits = Vec::new();
        fed.iter().for_each(|token| logits = given.network.read(&heard, &mut cache, *token));
        rules.apply(state, &sampling, &mut logits);
        let expected = sampling::top(&logits, 5);
        let feed = match step {
            0 => Feed::Start { slot: Slot(2), prompt: &prompt, start: 0, sampling },
            _ => Feed::Chosen(fed[0]),
        };
        let run = Run { row: Row(3), feed, ask: Ask::Top(5) };
        let got = exact.submit(&[run]).unwrap()[0].clone();
        assert_eq!(got.no_speech_prob.is_some(), step == 0);
        for ((token, logprob), (other, expected)) in got.tokens.iter().zip(&expected) {
            assert!((logprob - expected).abs() < 1e-4, "step {step}: {token} {logprob}, {other} {expected}");
        }
        assert_eq!(got.tokens[0].0, expected[0].0);
        // Rounded to bytes, the likeliest token of before is nearly as likely.
        let run = Run { ask: Ask::Top(200), ..run };
        let rounded = fast.submit(&[run]).unwrap()[0].tokens.clone();
        let near = rounded.iter().find(|(token, _)| *token == expected[0].0).map(|(_, logprob)| *logprob);
        assert!(
            near.is_some_and(|near| (near - expected[0].1).abs() < 0.5),
            "step {step}: {near:?} {expected:?}"
        );
        fed = vec![expected[0].0];
        state.push(expected[0].0, &given.tokens.special);
    }
}

/// Texts of 12 tokens for each (slot, prompt), all in one batch, together with what was said of silence.
fn texts(cpu: &mut Cpu, runs: &[(usize, Vec<u32>)], first_row: usize) -> Vec<Vec<Answer>> {
    let mut answers: Vec<Vec<Answer>> = runs.iter().map(|_| Vec::new()).collect();
    for step in 0..12 {
        let batch: Vec<Run> = runs
            .iter()
            .enumerate()
            // Rows join one after the other.
            .filter(|(i, _)| *i <= step)
            .map(|(i, (slot, prompt))| {
                let sampling =
                    Sampling { temperature: 0.4 * i as f32, seed: i as u64, ..Sampling::default() };
                let feed = Feed::Start { slot: Slot(*slot), prompt, start: 0, sampling };
                let row = Row(first_row + i);
                Run { row, feed: if step == i { feed } else { Feed::Sampled }, ask: Ask::Token }
            })
            .collect();
        for (i, answer) in cpu.submit(&batch).unwrap().iter().enumerate() {
            answers[i].push(answer.clone());
        }
    }
    answers
}

#[test]
fn a_text_is_bitwise_the_same_alone_and_in_any_batch() {
    let given = Given::random();
    let sounds = [hum(3, 50), hum(7, 90), hum(2, 31)];
    let runs: Vec<(usize, Vec<u32>)> = [(2, 0), (0, 5), (0, 40), (1, 1), (2, 9)]
        .into_iter()
        .map(|(slot, extra)| (slot, [given.prompt(), (300..300 + extra).collect()].concat()))
        .collect();
    for precision in Precision::ALL {
        let mut together = given.cpu(precision, 2);
        let all: Vec<Sound> = sounds.iter().enumerate().map(|(slot, pcm)| whole(slot, pcm)).collect();
        together.encode(&all).unwrap();
        let batch = texts(&mut together, &runs, 1);
        for (i, (slot, prompt)) in runs.iter().enumerate() {
            let mut alone = given.cpu(precision, 1);
            alone.encode(&[whole(*slot, &sounds[*slot])]).unwrap();
            let sampling = Sampling { temperature: 0.4 * i as f32, seed: i as u64, ..Sampling::default() };
            let feed = Feed::Start { slot: Slot(*slot), prompt, start: 0, sampling };
            for (step, expected) in batch[i].iter().enumerate() {
                let feed = if step == 0 { feed } else { Feed::Sampled };
                let got = alone.submit(&[Run { row: Row(1 + i), feed, ask: Ask::Token }]).unwrap()[0].clone();
                assert_eq!(&got, expected, "{precision:?} row {i} step {step}");
            }
        }
    }
}

#[test]
fn rows_are_copied_all_at_once() {
    let given = Given::random();
    let pcm = hum(3, 50);
    let mut cpu = given.cpu(Precision::Int8, 2);
    cpu.encode(&[whole(0, &pcm)]).unwrap();
    let prompts: Vec<Vec<u32>> = (0..3).map(|i| (100 + 50 * i..110 + 57 * i).collect()).collect();
    let begin = |cpu: &mut Cpu| {
        let step: Vec<Run> = prompts.iter().enumerate().map(|(row, prompt)| start(row, 0, prompt)).collect();
        cpu.submit(&step).unwrap();
    };
    begin(&mut cpu);
    let expected = cpu.submit(&[on(0), on(1), on(2)]).unwrap().to_vec();
    begin(&mut cpu);
    // Two change places, the third is copied and keeps its own.
    cpu.copy_rows(&[(Row(0), Row(1)), (Row(1), Row(0)), (Row(2), Row(2)), (Row(2), Row(5))]).unwrap();
    let got = cpu.submit(&[on(0), on(1), on(2), on(5)]).unwrap().to_vec();
    let tokens = |answers: &[Answer], order: &[usize]| -> Vec<_> {
        order.iter().map(|i| answers[*i].tokens.clone()).collect()
    };
    assert_eq!(tokens(&got, &[0, 1, 2, 3]), tokens(&expected, &[1, 0, 2, 2]));
}

#[test]
fn silence_is_read_behind_the_start_wherever_it_stands() {
    let given = Given::random();
    let pcm = hum(3, 50);
    let (_, heard) = given.hear(&pcm);
    let special = given.tokens.special;
    let prompt = [&[special.previous, 400, 401, 402][..], &given.prompt()].concat();
    let (mut cache, mut expected) = (Cache::default(), 0.0);
    for token in &prompt[..5] {
        let logits = given.network.read(&heard, &mut cache, *token);
        let total: f32 = logits.iter().map(|x| x.exp()).sum();
        expected = logits[special.no_speech as usize].exp() / total;
    }
    let mut cpu = given.cpu(Precision::F32, 2);
    cpu.encode(&[whole(0, &pcm)]).unwrap();
    let sampling = Sampling::default();
    let feed = Feed::Start { slot: Slot(0), prompt: &prompt, start: 4, sampling };
    let told = cpu.submit(&[Run { feed, ..start(0, 0, &prompt) }]).unwrap()[0].no_speech_prob.unwrap();
    assert!((told - expected).abs() < 1e-6, "{told} {expected}");
}

#[test]
fn a_step_asks_for_no_memory() {
    let given = Given::random();
    for precision in Precision::ALL {
        // The calling thread does all the work, and only its allocations are counted.
        let mut cpu = given.cpu(precision, 1);
        let pcm = hum(3, 50);
        cpu.encode(&[whole(0, &pcm), whole(1, &pcm)]).unwrap();
        let prompt = given.prompt();
        let begin = [start(0, 0, &prompt), start(1, 1, &prompt), start(2, 0, &prompt)];
        let likeliest = |token| Run { row: Row(2), feed: Feed::Chosen(token), ask: Ask::Top(6) };
        cpu.submit(&begin).unwrap();
        cpu.submit(&[on(0), on(1), likeliest(300)]).unwrap();
        let before = allocations::of_this_thread();
        for token in 301..310 {
            cpu.submit(&[on(0), on(1), likeliest(token)]).unwrap();
        }
        assert_eq!(allocations::of_this_thread() - before, 0, "{precision:?}");
    }
}

#[test]
fn languages_are_weighed_among_themselves() {
    let given = Given::random();
    let pcm = hum(3, 50);
    let (_, heard) = given.hear(&pcm);
    let mut cpu = given.cpu(Precision::F32, 2);
    cpu.encode(&[whole(0, &pcm)]).unwrap();
    let among: Vec<u32> = given.tokens.languages.iter().map(|(_, token)| *token).collect();
    let prompt = [given.tokens.special.start];
    let got = cpu.submit(&[Run { ask: Ask::Among(&among), ..start(0, 0, &prompt) }]).unwrap()[0].clone();
    let logits = given.network.read(&heard, &mut Cache::default(), prompt[0]);
    let total: f32 = among.iter().map(|token| logits[*token as usize].exp()).sum();
    for ((token, probability), expected) in got.tokens.iter().zip(&among) {
        assert_eq!(token, expected);
        assert!((probability - logits[*token as usize].exp() / total).abs() < 1e-5);
    }
    let silent = got.no_speech_prob.unwrap();
    let total: f32 = logits.iter().map(|x| x.exp()).sum();
    let expected = logits[given.tokens.special.no_speech as usize].exp() / total;
    assert!((silent - expected).abs() < 1e-6, "{silent} {expected}");
}

#[test]
fn an_alignment_tells_what_the_tokens_look_at() {
    let given = Given::random();
    let pcm = hum(4, 50);
    let (_, heard) = given.hear(&pcm);
    let prompt = given.prompt();
    let tokens = [prompt.clone(), (400..450).collect(), vec![given.tokens.special.end]].concat();
    let mut cpu = given.cpu(Precision::F32, 2);
    cpu.encode(&[whole(1, &pcm)]).unwrap();
    // A text under way is not disturbed.
    cpu.submit(&[start(0, 1, &prompt)]).unwrap();
    let alignment = cpu.align(Slot(1), &tokens).unwrap();
    let after = cpu.submit(&[on(0)]).unwrap().to_vec();
    let count = tokens.len();
    assert_eq!((alignment.heads, alignment.positions), (2, AUDIO_POSITIONS));
    assert_eq!(alignment.scores.len(), 2 * count * AUDIO_POSITIONS);
    assert!(alignment.scores.iter().all(|x| x.is_finite()));
    assert!(alignment.scores.chunks(AUDIO_POSITIONS).all(|row| row.iter().any(|x| *x != row[0])));
    let mut cache = Cache::default();
    let logits: Vec<f32> =
        tokens.iter().flat_map(|token| given.network.read(&heard, &mut cache, *token)).collect();
    for (i, probability) in alignment.probabilities.iter().enumerate() {
        let expected = if i == 0 || tokens[i] >= given.tokens.special.end {
            1.0
        } else {
            let text = &logits[(i - 1) * VOCABULARY..][..given.tokens.special.end as usize];
            let total: f32 = text.iter().map(|x| x.exp()).sum();
            text[tokens[i] as usize].exp() / total
        };
        assert!((probability - expected).abs() < 1e-5, "{i}: {probability} {expected}");
    }
    let mut undisturbed = given.cpu(Precision::F32, 1);
    undisturbed.encode(&[whole(1, &pcm)]).unwrap();
    undisturbed.submit(&[start(0, 1, &prompt)]).unwrap();
    assert_eq!(undisturbed.submit(&[on(0)]).unwrap(), after);
}

#[test]
fn a_report_tells_what_is_held() {
    let given = Given::random();
    let (int8, f32) = (given.cpu(Precision::Int8, 2).report(), given.cpu(Precision::F32, 1).report());
    // Products and attention need different instructions, and a processor may have those of one alone.
    let (products, attention) = (Isa::detect().name(), attention::Isa::best(32).name());
    assert_eq!(int8.device, format!("cpu {products} int8, attention {attention}, 2 threads"));
    assert_eq!(f32.device, format!("cpu {products} f32, attention {attention}, 1 thread"));
    assert!(int8.weight_bytes * 3 < f32.weight_bytes, "{} {}", int8.weight_bytes, f32.weight_bytes);
    let bf16 = given.cpu(Precision::Bf16, 1).report();
    let share = bf16.weight_bytes as f64 / f32.weight_bytes as f64;
    assert!((0.5..0.53).contains(&share), "the weights are halved, positions and biases are not: {share}");
    assert!(int8.state_bytes > 0);
}

/// A folder that the repository's chores fill, or a plain line saying that the test does not run.
fn present(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.voiceforge").join(path);
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
    }
    path.exists().then_some(path)
}

#[test]
fn real_speech_says_the_same_in_bytes() {
    let (Some(folder), Some(clips)) = (present("models/tiny.en"), present("clips-2")) else { return };
    let given = Given::open(&folder);
    let prompt = given.prompt();
    let (mut exact, mut fast) = (given.cpu(Precision::F32, 2), given.cpu(Precision::Int8, 2));
    let (mut words, mut other) = (0, 0);
    for clip in ["beckett.wav", "librivox-0870.wav", "librivox-0890.wav", "librivox-0930.wav"] {
        let pcm = speech(clips.join(clip));
        let read = |cpu: &mut Cpu| -> Vec<String> {
            cpu.encode(&[whole(0, &pcm)]).unwrap();
            let mut text = Vec::new();
            let mut step = start(0, 0, &prompt);
            while text.last() != Some(&given.tokens.special.end) && text.len() < 150 {
                text.push(cpu.submit(&[step]).unwrap()[0].tokens[0].0);
                step = on(0);
            }
            let text = given.tokens.decode(&text).to_lowercase();
            let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
            words.map(String::from).collect()
        };
        let (bytes, exact) = (read(&mut fast), read(&mut exact));
        words += exact.len();
        other += exact.iter().filter(|word| !bytes.contains(word)).count();
    }
    // The smallest model, whose weights bear rounding worst: a word in twenty may sound like another one.
    assert!(words > 50 && other * 20 <= words, "{other} of {words} words are others");
}
