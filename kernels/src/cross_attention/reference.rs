//! The op for one query and head in plain Rust, in f64.

/// query · key / sqrt(width) of keys (positions, width).
pub fn scores(query: &[f64], keys: &[Vec<f64>]) -> Vec<f64> {
    let scale = 1.0 / (query.len() as f64).sqrt();
    keys.iter().map(|key| query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() * scale).collect()
}

/// values (positions, width) by the softmax of their scores.
pub fn mix(scores: &[f64], values: &[Vec<f64>]) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    (0..values[0].len())
        .map(|i| weights.iter().zip(values).map(|(weight, value)| weight * value[i]).sum::<f64>() / total)
        .collect()
}
