//! Products and the activation in plain Rust, in f64.

/// A row of x (depth) times w (width, depth) transposed, and a bias.
pub fn multiply(x: &[f64], w: &[f64], bias: Option<&[f32]>) -> Vec<f64> {
    w.chunks_exact(x.len())
        .enumerate()
        .map(|(column, w)| {
            let bias = bias.map_or(0.0, |bias| f64::from(bias[column]));
            x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>() + bias
        })
        .collect()
}

/// x Φ(x), with the normal distribution Φ from its series and, far out, its continued fraction.
pub fn gelu(x: f64) -> f64 {
    x * if x > 0.0 { 1.0 - tail(x) } else { tail(-x) }
}

/// 1 - Φ(x) for x >= 0.
fn tail(x: f64) -> f64 {
    let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if x > 3.0 {
        return density / (1..100).rev().fold(x, |below, i| x + f64::from(i) / below);
    }
    let (mut term, mut sum) = (x, x);
    for i in 1..100 {
        term *= x * x / (2.0 * f64::from(i) + 1.0);
        sum += term;
    }
    0.5 - density * sum
}
