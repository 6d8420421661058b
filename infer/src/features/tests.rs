use super::*;

/// A rising sweep behind 0.2 s of silence; whole-number arithmetic gives the same samples everywhere.
fn sweep() -> Vec<i16> {
    (0i64..16_000).map(|i| if i > 3_200 { ((i * i / 50) % 16_001 - 8_000) as i16 } else { 0 }).collect()
}

/// Sounds that are hard on a front end: clipped, far off zero, nearly silent, noisy; 0.25 s of each.
fn ordeal() -> Vec<i16> {
    let mut state = 1u32;
    (0i64..16_000)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = i64::from(state >> 16) - 32_768;
            let x = match i / 4_000 {
                0 => {
                    if i / 40 % 2 == 0 {
                        32_767
                    } else {
                        -32_768
                    }
                }
                1 => 20_000 + noise / 64,
                2 => noise / 16_384,
                _ => noise / 2,
            };
            x as i16
        })
        .collect()
}

/// Compares every seventh frame with what faster-whisper 1.2.1's `FeatureExtractor` computes: frames of `mels` f32.
#[track_caller]
fn check(pcm: &[i16], mels: usize, golden: &[u8]) {
    let mel = Features::new(mels).compute(pcm);
    assert_eq!(mel.frames(), 100);
    assert_eq!(golden.len(), 15 * mels * 4, "the file holds every seventh frame of 100");
    for (i, expected) in golden.as_chunks::<4>().0.iter().enumerate() {
        let (frame, band, expected) = (i / mels * 7, i % mels, f32::from_le_bytes(*expected));
        let got = mel.values()[band * mel.frames() + frame];
        assert!((got - expected).abs() < 1e-4, "frame {frame}, band {band}: {got} is not {expected}");
    }
}

#[test]
fn eighty_bands_match_the_reference() {
    check(&sweep(), 80, include_bytes!("golden/sweep-80.f32"));
    check(&ordeal(), 80, include_bytes!("golden/ordeal-80.f32"));
}

#[test]
fn one_hundred_and_twenty_eight_bands_match_the_reference() {
    check(&sweep(), 128, include_bytes!("golden/sweep-128.f32"));
    check(&ordeal(), 128, include_bytes!("golden/ordeal-128.f32"));
}

/// No sound gives a value that is no number, and the loudest decides the range.
#[test]
fn every_sound_has_finite_values() {
    let clipped: Vec<i16> = (0..4_000).map(|i| if i / 3 % 2 == 0 { i16::MAX } else { i16::MIN }).collect();
    let mut click = vec![0; 4_000];
    click[2_000] = i16::MIN;
    for pcm in [vec![i16::MIN; 4_000], vec![20_000; 4_000], clipped, click, vec![1; 160], vec![-1; 161]] {
        let mel = Features::new(80).compute(&pcm);
        let (low, high) =
            mel.values().iter().fold((f32::MAX, f32::MIN), |(low, high), x| (low.min(*x), high.max(*x)));
        assert!(mel.values().iter().all(|x| x.is_finite()));
        assert!(high - low <= 2.0 + 1e-6, "8 decades are 2: {low} to {high}");
    }
}

/// Frames are computed eight at a time; a frame is the same whatever its neighbours.
#[test]
fn frames_do_not_know_of_each_other() {
    let pcm = sweep();
    let whole = Features::new(80).compute(&pcm);
    // The loudest frame of all is in each part, so the range is the same.
    for frames in [93, 94, 97, 99] {
        let part = Features::new(80).compute(&pcm[..frames * HOP]);
        for mel in 0..80 {
            let (part, whole) =
                (&part.values()[mel * frames..][..frames - 2], &whole.values()[mel * 100..][..frames - 2]);
            let far = part.iter().zip(whole).any(|(a, b)| (a - b).abs() > 0.0);
            assert!(!far, "band {mel} of {frames} frames");
        }
    }
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
        assert_eq!((mel.frames(), mel.values().len(), mel.window(0).len()), (0, 0, 0));
    }
}

#[test]
fn a_window_continues_with_zeros() {
    let mel = Features::new(80).compute(&sweep());
    let window = mel.window(40);
    assert_eq!(window.len(), 80 * WINDOW_FRAMES);
    assert_eq!(window[7 * WINDOW_FRAMES..][..60], mel.values()[7 * 100 + 40..][..60]);
    assert!(window[7 * WINDOW_FRAMES + 60..8 * WINDOW_FRAMES].iter().all(|x| *x == 0.0));
    assert!(mel.window(500).iter().all(|x| *x == 0.0));
}
