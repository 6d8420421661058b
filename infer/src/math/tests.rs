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
