//! tiny.en on real speech, composed of the kernels, by the emulator.

use super::*;
use crate::engine::tests::{given, speech};
use crate::model::alignment_heads;

/// The first seconds of a clip: the whole encoder and a text of some tokens, against the processor in f32.
#[test]
fn tiny_en_says_what_the_processor_says() {
    let (Some(folder), Some(clip)) =
        (given("VOICEFORGE_TEST_MODELS", "tiny.en"), given("VOICEFORGE_TEST_CLIPS", "beckett.wav"))
    else {
        return;
    };
    let weights = Weights::open(&folder).unwrap();
    let dims = crate::model::dims(&weights).unwrap();
    let tokens = Tokens::load(&folder, weights.format(), dims.vocabulary).unwrap();
    let rules = Rules::new(&tokens);
    let heads = alignment_heads(&folder, dims).unwrap();
    let Some(device) = Emulator::open(0) else { return };
    let options = CudaOptions { slots: 1, rows: 1, windows: 1, sound: Form::Whole };
    let mut cuda =
        Cuda::<_, f16>::load(device.with_replays(), String::new(), &weights, &rules, &heads, options)
            .unwrap();
    let options = CpuOptions { precision: Precision::F32, threads: 2, slots: 1, rows: 1 };
    let mut cpu = Cpu::load(&weights, rules, heads, options).unwrap();

    let pcm = speech(clip);
    let pcm = &pcm[..pcm.len().min(3 * 16_000)];
    let sound = window(0, pcm, 200);
    cuda.encode(&[sound]).unwrap();
    cpu.encode(&[sound]).unwrap();
    let prompt = [tokens.special.start];
    let begin = start(0, 0, &prompt).feed;
    let mut feed = begin;
    let mut text = Vec::new();
    for step in 0..12 {
        let run = [Run { row: Row(0), feed, ask: Ask::Top(5) }];
        let (got, expected) = (answers(&mut cuda, &run).remove(0), answers(&mut cpu, &run).remove(0));
        let [(best, first), (_, second), ..] = expected.tokens[..] else { panic!("five tokens are told") };
        // Where the processor's two likeliest are as near, the other may be taken.
        assert!(got.tokens[0].0 == best || first - second < 0.1, "step {step}: {got:?} {expected:?}");
        assert!((got.tokens[0].1 - first).abs() < 0.1, "step {step}: {got:?} {expected:?}");
        text.push(best);
        feed = Feed::Chosen(best);
    }
    let said = tokens.decode(&text);
    assert!(said.split_whitespace().count() >= 5, "{said:?} is speech");
}
