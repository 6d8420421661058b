use super::*;

fn convert(rate: u32, samples: &[f32], piece: usize) -> Vec<f32> {
    let mut resampler = Resampler::new(rate).expect("a usual rate");
    let mut out = Vec::new();
    for piece in samples.chunks(piece) {
        resampler.push(piece, &mut out);
    }
    resampler.finish(&mut out);
    out
}

fn sine(rate: u32, hz: f64, seconds: f64) -> Vec<f32> {
    let len = (f64::from(rate) * seconds) as usize;
    (0..len).map(|n| (n as f64 / f64::from(rate) * hz * std::f64::consts::TAU).sin() as f32).collect()
}

#[test]
fn sound_keeps_its_pitch_place_and_length() {
    for rate in
        [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000]
    {
        let out = convert(rate, &sine(rate, 440.0, 2.0), 777);
        assert_eq!(out.len(), 32_000, "{rate}");
        let expected = sine(SAMPLE_RATE, 440.0, 2.0);
        // The filter rings where the tone begins and ends.
        let inside = 2_000..30_000;
        let worst = inside.map(|n| (out[n] - expected[n]).abs()).fold(0.0, f32::max);
        assert!(worst < 0.003, "{rate}: {worst}");
    }
}

#[test]
fn what_16_khz_cannot_hold_is_taken_away() {
    let out = convert(48_000, &sine(48_000, 10_000.0, 1.0), 4_800);
    let loudest = out[1_000..15_000].iter().fold(0f32, |max, s| max.max(s.abs()));
    assert!(loudest < 0.001, "{loudest}");
}

#[test]
fn pieces_make_no_difference_and_reset_is_a_new_start() {
    let tone = sine(44_100, 300.0, 1.0);
    let whole = convert(44_100, &tone, usize::MAX);
    assert_eq!(convert(44_100, &tone, 1), whole);
    let mut resampler = Resampler::new(44_100).expect("a usual rate");
    let mut out = Vec::new();
    resampler.push(&tone[..12_345], &mut out);
    resampler.reset();
    out.clear();
    resampler.push(&tone, &mut out);
    resampler.finish(&mut out);
    assert_eq!(out, whole);
}

#[test]
fn short_and_empty() {
    assert!(convert(44_100, &[], 1).is_empty());
    assert_eq!(convert(44_100, &[0.5], 1).len(), 1);
    assert_eq!(convert(8_000, &[0.5; 3], 1).len(), 6);
}

#[test]
fn impossible_rates() {
    for rate in [0, 1, 999, 768_001, u32::MAX] {
        assert!(matches!(Resampler::new(rate), Err(DecodeError::Unsupported { .. })), "{rate}");
    }
}
