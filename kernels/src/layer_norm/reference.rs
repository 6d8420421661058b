//! The op in plain Rust, in f64.

/// Normalises a row.
pub fn normalise(x: &[f64], gamma: &[f32], beta: &[f32]) -> Vec<f64> {
    let width = x.len() as f64;
    let mean = x.iter().sum::<f64>() / width;
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / width;
    let scale = 1.0 / (variance + 1e-5).sqrt();
    x.iter()
        .zip(gamma.iter().zip(beta))
        .map(|(x, (gamma, beta))| (x - mean) * scale * f64::from(*gamma) + f64::from(*beta))
        .collect()
}
