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

/// Whether by dot products or by matrix multiplication, on one thread or several.
#[test]
fn a_layer_is_its_sum() {
    for (rows, inputs, outputs) in
        [(1, 7, 3), (3, 65, 17), (8, 64, 33), (9, 100, 31), (40, 384, 5), (2, 384, 1_000)]
    {
        let (x, weights, bias) =
            (numbers(rows * inputs, 1), numbers(outputs * inputs, 2), numbers(outputs, 3));
        let expected: Vec<f64> = (0..rows * outputs)
            .map(|i| {
                let (row, output) = (&x[i / outputs * inputs..][..inputs], i % outputs);
                let terms =
                    row.iter().zip(&weights[output * inputs..]).map(|(x, w)| f64::from(*x) * f64::from(*w));
                terms.sum::<f64>() + f64::from(bias[output])
            })
            .collect();
        let layer = Linear::new(weights, Some(bias), outputs, inputs);
        let mut y = vec![f32::NAN; rows * outputs];
        layer.apply(&x, &mut y);
        check(&y, &expected, 1e-5);
        let mut residual = vec![0.5; rows * outputs];
        layer.add_to(&x, &mut residual);
        check(&residual, &expected.iter().map(|x| x + 0.5).collect::<Vec<_>>(), 1e-5);
    }
}

/// Each instruction set that this machine has gives the same product, whatever remains behind the blocks.
#[test]
fn scalar_products_agree_between_instruction_sets() {
    for length in [0, 1, 7, 31, 32, 64, 65, 127, 384, 1_000] {
        let (a, b) = (numbers(length, 8), numbers(length, 9));
        let expected: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        check(&[Baseline::dot(&a, &b)], &[expected], 1e-5);
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                check(&[x86::Avx2::dot(&a, &b)], &[expected], 1e-5);
            }
            if is_x86_feature_detected!("avx512f") {
                check(&[x86::Avx512::dot(&a, &b)], &[expected], 1e-5);
            }
        }
    }
}

#[test]
fn normalisation_has_no_mean_and_unit_variance() {
    let x = numbers(50, 4);
    let norm = Norm { gamma: vec![2.0; 50], beta: vec![1.0; 50] };
    let mut y = vec![0.0; 50];
    norm.apply(&x, &mut y);
    let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / 50.0;
    let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / 50.0;
    let expected: Vec<f64> =
        x.iter().map(|x| (f64::from(*x) - mean) / (variance + 1e-5).sqrt() * 2.0 + 1.0).collect();
    check(&y, &expected, 1e-5);
}

#[test]
fn softmax_and_its_logarithm_agree_with_the_definition() {
    let mut row: Vec<f32> = numbers(1_501, 5).iter().map(|x| x * 20.0).collect();
    row[3] = f32::NEG_INFINITY;
    let max = row.iter().copied().fold(f32::MIN, f32::max);
    let total: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
    assert!((f64::from(log_sum_exp(&row, max)) - total.ln()).abs() < 1e-4);
    let expected: Vec<f64> = row.iter().map(|x| f64::from(*x).exp() / total).collect();
    softmax(&mut row);
    check(&row, &expected, 1e-6);
    assert_eq!(row[3], 0.0);
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

#[test]
fn attention_takes_strided_keys_and_values() {
    let (query, keys) = (numbers(20, 6), numbers(5 * 50, 7));
    let mut scores = [0.0; 5];
    score_keys(&query, &keys[10..], 50, 0.5, &mut scores);
    let mut mixed = [0.0; 20];
    mix_values(&[0.1, 0.2, 0.3, 0.4, 0.5], &keys[10..], 50, &mut mixed);
    let key = |row: usize, i: usize| f64::from(keys[10 + row * 50 + i]);
    let expected: Vec<f64> =
        (0..5).map(|row| (0..20).map(|i| f64::from(query[i]) * key(row, i)).sum::<f64>() * 0.5).collect();
    check(&scores, &expected, 1e-5);
    let expected: Vec<f64> =
        (0..20).map(|i| (0..5).map(|row| (row + 1) as f64 * 0.1 * key(row, i)).sum()).collect();
    check(&mixed, &expected, 1e-5);
}

#[test]
#[should_panic(expected = "b is (k, n)")]
fn a_view_that_is_too_small_is_refused() {
    multiply([2, 3, 4], Matrix::rows(&[0.0; 8], 4), Matrix::rows(&[0.0; 11], 3), &mut [0.0; 6], 3, false);
}
