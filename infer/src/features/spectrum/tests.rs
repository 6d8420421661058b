use super::*;
use crate::search::Random;

fn samples(seed: u64) -> Box<Scratch> {
    let mut random = Random::new(seed);
    let mut scratch = Scratch::new();
    for pair in &mut scratch.samples {
        for lane in pair {
            lane.iter_mut().for_each(|x| *x = (random.unit() * 2.0 - 1.0) as f32);
        }
    }
    scratch
}

/// A transform is its sum, in each lane.
#[test]
fn power_is_that_of_the_sum() {
    let mut scratch = samples(1);
    let given = scratch.samples;
    power(&Transform::new(), &mut scratch);
    for lane in 0..LANES {
        for (bin, power) in scratch.power.iter().enumerate() {
            let term = |i: usize| {
                (f64::from(given[i / 2][i % 2][lane]), -TAU * (bin * i % SAMPLES) as f64 / SAMPLES as f64)
            };
            let (re, im) = (0..SAMPLES)
                .map(term)
                .fold((0.0, 0.0), |(re, im), (x, angle)| (re + x * angle.cos(), im + x * angle.sin()));
            let expected = re * re + im * im;
            let error = (f64::from(power[lane]) - expected).abs();
            assert!(error < 1e-3, "lane {lane}, bin {bin}: {} is not {expected}", power[lane]);
        }
    }
}

/// The plain loops are the twin of whatever this machine runs.
#[test]
fn instructions_agree() {
    let transform = Transform::new();
    let (mut plain, mut fast) = (samples(2), samples(2));
    power_of::<Lane>(&transform, &mut plain);
    power(&transform, &mut fast);
    for (plain, fast) in plain.power.as_flattened().iter().zip(fast.power.as_flattened()) {
        assert!((plain - fast).abs() < 1e-4 * plain.max(1.0), "{fast} is not {plain}");
    }
    let filters = [(0, vec![1.0; BINS]), (200, vec![0.5]), (7, vec![]), (3, vec![1e-3, 2.0, 0.1])];
    let (mut one, mut two) = ([[0.0; LANES]; 4], [[0.0; LANES]; 4]);
    bands_of::<Lane>(&filters, &plain.power, &mut one);
    bands(&filters, &plain.power, &mut two);
    for (plain, fast) in one.as_flattened().iter().zip(two.as_flattened()) {
        assert!((plain - fast).abs() < 1e-6, "{fast} is not {plain}");
    }
    assert_eq!(two[2], [-10.0; LANES], "nothing is 1e-10");
}

#[test]
fn logarithms_are_close() {
    let mut x = 1e-10f32;
    while x < 1e9 {
        let [got, ..] = log10::<Lane>([x; LANES]);
        let expected = f64::from(x).log10();
        assert!(
            (f64::from(got) - expected).abs() < 3e-7 * expected.abs().max(1.0),
            "log10({x}) is not {got}"
        );
        x *= 1.003;
    }
}
