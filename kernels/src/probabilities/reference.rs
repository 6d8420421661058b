//! The op in plain Rust, in f64.

/// The logarithmic probability of a token among the first of a row.
pub fn score(row: &[f32], among: usize, token: u32) -> f64 {
    let max = row[..among].iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row[..among].iter().map(|x| f64::from(*x - max).exp()).sum();
    f64::from(row[token as usize]) - f64::from(max) - sum.ln()
}
