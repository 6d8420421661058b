use std::path::Path;

use super::*;
use crate::container::{Block, Container, Next};
use crate::source::Handle;

/// The samples of a fixture.
fn fixture(name: &str) -> Vec<f32> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let handle = Handle::new(Box::new(std::fs::File::open(file).unwrap())).unwrap();
    let mut container = Container::open(handle, None).unwrap();
    let (mut block, mut samples) = (Block::default(), Vec::new());
    while matches!(container.next(&mut block).unwrap(), Next::Block) {
        assert_eq!((block.rate, block.channels), (16_000, 1));
        samples.extend_from_slice(&block.samples);
    }
    samples
}

fn listen(network: &mut Silero, samples: &[f32]) -> Vec<f32> {
    let mut probabilities = Vec::new();
    network.listen(samples.as_chunks().0, &mut probabilities);
    probabilities
}

/// What the published network says of the fixture, computed by ONNX Runtime.
#[test]
fn probabilities_are_those_of_the_published_network() {
    let expected = include_str!("../../../tests/fixtures/pause.silero.txt");
    let expected: Vec<f32> = expected.split_whitespace().map(|number| number.parse().unwrap()).collect();
    let heard = listen(&mut Silero::default(), &fixture("pause.flac"));
    assert_eq!((heard.len(), expected.len()), (100, 100));
    for (at, (heard, expected)) in heard.iter().zip(&expected).enumerate() {
        assert!((heard - expected).abs() < 2e-4, "window {at}: {heard} instead of {expected}");
    }
}

#[test]
fn windows_are_heard_the_same_one_by_one_and_together() {
    let samples = fixture("pause.flac");
    let together = listen(&mut Silero::default(), &samples);
    for several in [1, 3, 11] {
        let mut network = Silero::default();
        let parts = samples.chunks(several * WINDOW_SAMPLES);
        let apart: Vec<f32> = parts.flat_map(|part| listen(&mut network, part)).collect();
        assert_eq!(apart, together);
    }
}

#[test]
fn powers_of_e_are_exact_to_six_digits() {
    for x in (-8_700..8_700).map(|x| x as f32 / 100.0) {
        let (ours, exact) = (f64::from(exp(x)), f64::from(x).exp());
        assert!((ours / exact - 1.0).abs() < 1e-6, "e to the power of {x}: {ours} instead of {exact}");
    }
    assert_eq!((sigmoid(f32::MAX), sigmoid(0.0)), (1.0, 0.5));
    assert!(sigmoid(f32::MIN) < 1e-30 && (tanh(0.5) - 0.5f32.tanh()).abs() < 1e-6);
}
