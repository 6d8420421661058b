//! The op for one query in plain Rust, in f64.

/// Mixes values (keys, width) by the softmax of query · key / sqrt(width).
pub fn attend(query: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>]) -> Vec<f64> {
    let scale = 1.0 / (query.len() as f64).sqrt();
    let scores: Vec<f64> =
        keys.iter().map(|key| query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() * scale).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    (0..query.len())
        .map(|i| weights.iter().zip(values).map(|(weight, value)| weight * value[i]).sum::<f64>() / total)
        .collect()
}
