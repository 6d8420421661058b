use super::*;

/// A rising sweep behind 0.2 s of silence; whole-number arithmetic gives the same samples everywhere.
fn sweep() -> Vec<i16> {
    (0i64..16_000).map(|i| if i > 3_200 { ((i * i / 50) % 16_001 - 8_000) as i16 } else { 0 }).collect()
}

/// Compares every eighth part of some frames with what faster-whisper 1.2.1's `FeatureExtractor` computes.
#[track_caller]
fn check(mels: usize, golden: &[(usize, [f32; 8])]) {
    let mel = Features::new(mels).compute(&sweep());
    assert_eq!(mel.frames(), 100);
    for (frame, expected) in golden {
        for (i, expected) in expected.iter().enumerate() {
            let got = mel.values()[(i * mels / 8) * mel.frames() + frame];
            assert!(
                (got - expected).abs() < 2e-4,
                "frame {frame}, band {}: {got} is not {expected}",
                i * mels / 8
            );
        }
    }
}

#[test]
#[expect(clippy::approx_constant, reason = "a measured value that happens to be near pi / 8")]
fn eighty_bands_match_the_reference() {
    check(
        80,
        &[
            (0, [-0.8017; 8]),
            (19, [0.2509, 0.1538, -0.1083, -0.1645, -0.1784, -0.4087, -0.3902, -0.3864]),
            (20, [0.6664, 0.9070, 0.7010, 0.6055, 0.5778, 0.3926, 0.3703, 0.3621]),
            (50, [0.3971, 0.4238, 0.2581, 0.3588, 0.3388, 0.6433, 0.4275, 0.4559]),
            (99, [0.3388, 0.4675, 0.3807, 0.5071, 0.4252, 0.8181, 0.6232, 0.3765]),
        ],
    );
}

#[test]
fn one_hundred_and_twenty_eight_bands_match_the_reference() {
    check(
        128,
        &[
            (0, [-0.7494; 8]),
            (19, [0.1752, 0.2054, -0.1463, -0.1186, -0.1786, -0.3994, -0.3818, -0.3752]),
            (20, [0.5906, 0.9651, 0.6436, 0.6429, 0.5837, 0.4142, 0.3804, 0.3718]),
            (50, [0.3214, 0.4901, 0.2341, 0.2754, 0.3404, 0.6322, 0.3372, 0.4817]),
            (99, [0.2630, 0.5148, 0.3394, 0.0117, 0.4430, 0.8458, 0.5020, 0.3749]),
        ],
    );
}

#[test]
fn silence_is_flat() {
    let mel = Features::new(80).compute(&[0; 1_600]);
    assert_eq!(mel.frames(), 10);
    assert!(mel.values().iter().all(|x| (x + 1.5).abs() < 1e-6), "log10(1e-10) is -10, which gives -1.5");
}

#[test]
fn less_than_a_frame_is_nothing() {
    for samples in [0, 1, 159] {
        let mel = Features::new(80).compute(&vec![1_000; samples]);
        assert_eq!((mel.frames(), mel.values().len(), mel.window(0, WINDOW_FRAMES).len()), (0, 0, 0));
    }
}

#[test]
fn a_window_continues_with_zeros() {
    let mel = Features::new(80).compute(&sweep());
    let window = mel.window(40, WINDOW_FRAMES);
    assert_eq!(window.len(), 80 * WINDOW_FRAMES);
    assert_eq!(window[7 * WINDOW_FRAMES..][..60], mel.values()[7 * 100 + 40..][..60]);
    assert!(window[7 * WINDOW_FRAMES + 60..8 * WINDOW_FRAMES].iter().all(|x| *x == 0.0));
    assert!(mel.window(500, WINDOW_FRAMES).iter().all(|x| *x == 0.0));
    let part = mel.window(40, 10);
    assert_eq!(part[7 * WINDOW_FRAMES..][..10], mel.values()[7 * 100 + 40..][..10]);
    assert_eq!(part[7 * WINDOW_FRAMES + 10], 0.0);
}
