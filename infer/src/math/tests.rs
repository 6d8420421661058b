use super::*;
use crate::sampling::unit;

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    (0..count as u32).map(|i| (unit(seed, i) * 4.0 - 2.0) as f32).collect()
}

#[track_caller]
fn check(got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let allowed = tolerance * (1.0 + expected.abs());
        assert!((f64::from(*got) - expected).abs() <= allowed, "element {i}: {got} is not {expected}");
    }
}

#[test]
fn normalisation_has_no_mean_and_unit_variance() {
    let x = numbers(50, 4);
    let mut y = vec![0.0; 50];
    normalise(&x, &[2.0; 50], &[1.0; 50], &mut y);
    let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / 50.0;
    let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / 50.0;
    let expected: Vec<f64> =
        x.iter().map(|x| (f64::from(*x) - mean) / (variance + 1e-5).sqrt() * 2.0 + 1.0).collect();
    check(&y, &expected, 1e-5);
}

#[test]
fn the_logarithm_of_a_sum_agrees_with_its_definition() {
    let mut row: Vec<f32> = numbers(1_501, 5).iter().map(|x| x * 20.0).collect();
    row[3] = f32::NEG_INFINITY;
    let max = row.iter().copied().fold(f32::MIN, f32::max);
    let total: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
    assert!((f64::from(log_sum_exp(&row, max)) - total.ln()).abs() < 1e-4);
}

/// Values of x Φ(x) from a table of the normal distribution.
#[test]
fn gelu_is_the_exact_form() {
    let mut x = [-4.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 10.0];
    gelu(&mut x);
    let expected =
        [-1.266_85e-4, -0.158_655_25, -0.154_268_77, 0.0, 0.345_731_23, 0.841_344_75, 2.995_950_3, 10.0];
    check(&x, &expected, 5e-7);
}

/// Lengths around those of registers and blocks, and of a layer.
const SIZES: [usize; 15] = [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 100, 384, 1_501];

/// The levels that this processor has beside the baseline.
fn levels() -> Vec<Level> {
    match Level::best() {
        Level::Baseline => vec![],
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => vec![Level::Avx2],
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => vec![Level::Avx2, Level::Avx512],
    }
}

/// Runs a loop at each level, in place, on rows of every size: near the baseline's numbers, and of the two vector sets
/// the same bits.
#[track_caller]
fn agree(scale: f32, run: impl Fn(Level, &mut [f32])) {
    for (case, size) in SIZES.into_iter().enumerate() {
        for seed in 0..8 {
            let given: Vec<f32> =
                numbers(size, 10 * case as u64 + seed).into_iter().map(|x| x * scale).collect();
            let at = |level| {
                let mut row = given.clone();
                run(level, &mut row);
                row
            };
            let baseline = at(Level::Baseline);
            let expected: Vec<f64> = baseline.iter().copied().map(f64::from).collect();
            let vectors: Vec<Vec<f32>> = levels().into_iter().map(at).collect();
            vectors.iter().for_each(|row| check(row, &expected, 2e-6));
            vectors.windows(2).for_each(|pair| assert_eq!(pair[0], pair[1], "{size} numbers"));
        }
    }
}

#[test]
fn every_level_gives_what_the_baseline_gives() {
    // Scores of a few units, and logits far apart, of which some are forbidden.
    for scale in [1.0, 20.0] {
        agree(scale, |level, row| {
            if let [.., forbidden, _] = row {
                *forbidden = f32::NEG_INFINITY;
            }
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row[0] = log_sum_exp_at(level, row, max);
            row[1..].fill(0.0);
        });
        agree(scale, gelu_at);
        agree(scale, |level, row| {
            let x: Vec<f32> = row.iter().map(|x| 0.3 - x).collect();
            add_at(level, row, &x);
        });
        agree(scale, |level, row| {
            let x = row.to_vec();
            let (gamma, beta) = (numbers(x.len(), 77), numbers(x.len(), 78));
            normalise_at(level, &x, &gamma, &beta, row);
        });
    }
    for level in levels().into_iter().chain([Level::Baseline]) {
        let far = [-1e30, 88.0, -88.0, f32::NEG_INFINITY, 88.0];
        assert!((log_sum_exp_at(level, &far, 88.0) - (88.0 + std::f32::consts::LN_2)).abs() < 2e-5);
        let mut ends = [-1e30, 1e30, -0.0];
        gelu_at(level, &mut ends);
        assert_eq!(ends, [0.0, 1e30, 0.0], "{level:?}");
    }
}
