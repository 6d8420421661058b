use super::*;

/// Noise of a given amplitude from a fixed generator.
fn noise(amplitude: f32, frames: usize) -> Vec<i16> {
    let mut seed = 11u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        ((seed >> 40) as f32 / (1 << 23) as f32 - 1.0) * amplitude * 32767.0
    };
    (0..frames * FRAME_SAMPLES).map(|_| next() as i16).collect()
}

fn listen(sound: &[i16]) -> Vec<Frame> {
    let mut frames = Vec::new();
    Detector::default().listen(sound, &mut frames);
    frames
}

fn sure_frames(sound: &[i16]) -> usize {
    listen(sound).iter().filter(|frame| frame.speech >= 0.7).count()
}

#[test]
fn silence_and_noise_are_not_speech() {
    assert_eq!(sure_frames(&[0; 500 * FRAME_SAMPLES]), 0);
    for amplitude in [0.001, 0.01, 0.1, 0.3] {
        assert_eq!(sure_frames(&noise(amplitude, 2000)), 0, "noise of {amplitude}");
    }
}

#[test]
fn levels_are_those_of_the_sound() {
    assert_eq!(listen(&[0; HEARD_SAMPLES])[0].level_db, -100.0);
    let tone = |n: usize| ((n as f32 * std::f32::consts::TAU / 16.0).sin() * 3276.7) as i16;
    let sound: Vec<i16> = (0..50 * FRAME_SAMPLES).map(tone).collect();
    let level = listen(&sound)[49].level_db;
    assert!((level + 23.0).abs() < 0.2, "a tenth of full scale as a sine is -23 dB, not {level}");
}

#[test]
fn sound_may_come_in_any_pieces() {
    let mut sound = noise(0.05, 80);
    sound[20 * FRAME_SAMPLES..40 * FRAME_SAMPLES].fill(0);
    let whole = listen(&sound);
    assert_eq!(whole.len(), 80);
    let (mut detector, mut frames) = (Detector::default(), Vec::new());
    for piece in sound.chunks(3 * HEARD_SAMPLES) {
        detector.listen(piece, &mut frames);
    }
    assert_eq!(frames, whole);
}

#[test]
fn extremes_do_no_harm() {
    let mut sound = vec![0; 202 * FRAME_SAMPLES];
    for (at, frame) in sound[..200 * FRAME_SAMPLES].chunks_mut(FRAME_SAMPLES).enumerate() {
        frame.fill(if at % 2 == 0 { i16::MAX } else { i16::MIN });
    }
    for frame in listen(&sound) {
        assert!((0.0..=1.0).contains(&frame.speech) && frame.level_db <= 3.0, "{frame:?}");
    }
}
