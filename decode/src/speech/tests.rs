use super::*;

/// Noise of a given amplitude from a fixed generator.
fn noise(amplitude: f32, frames: usize) -> Vec<[i16; FRAME_SAMPLES]> {
    let mut seed = 11u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        ((seed >> 40) as f32 / (1 << 23) as f32 - 1.0) * amplitude * 32767.0
    };
    (0..frames).map(|_| std::array::from_fn(|_| next() as i16)).collect()
}

fn sure_frames(frames: &[[i16; FRAME_SAMPLES]]) -> usize {
    let mut detector = Detector::default();
    frames.iter().filter(|frame| detector.listen(frame).speech >= 0.7).count()
}

#[test]
fn silence_and_noise_are_not_speech() {
    assert_eq!(sure_frames(&[[0; FRAME_SAMPLES]; 500]), 0);
    for amplitude in [0.001, 0.01, 0.1, 0.3] {
        assert_eq!(sure_frames(&noise(amplitude, 2000)), 0, "noise of {amplitude}");
    }
}

#[test]
fn levels_are_those_of_the_sound() {
    let mut detector = Detector::default();
    assert_eq!(detector.listen(&[0; FRAME_SAMPLES]).level_db, -100.0);
    let mut level = 0.0;
    for n in 0..50 {
        let tone = |i| ((n * FRAME_SAMPLES + i) as f32 * std::f32::consts::TAU / 16.0).sin() * 3276.7;
        level = detector.listen(&std::array::from_fn(|i| tone(i) as i16)).level_db;
    }
    assert!((level + 23.0).abs() < 0.2, "a tenth of full scale as a sine is -23 dB, not {level}");
}

#[test]
fn extremes_do_no_harm() {
    let mut detector = Detector::default();
    for n in 0..200 {
        let sample = if n % 2 == 0 { i16::MAX } else { i16::MIN };
        let frame = detector.listen(&[sample; FRAME_SAMPLES]);
        assert!((0.0..=1.0).contains(&frame.speech) && frame.level_db <= 3.0, "{frame:?}");
    }
    assert!(detector.listen(&[0; FRAME_SAMPLES]).speech.is_finite());
}
