//! The op for one window in plain Rust, in f64.

use super::HEAD_WIDTH;

/// Mixes (length, heads · 64) from qkv (length, 3 · heads · 64).
pub fn attention(qkv: &[f64], heads: usize) -> Vec<f64> {
    let width = heads * HEAD_WIDTH;
    let rows: Vec<&[f64]> = qkv.chunks_exact(3 * width).collect();
    let mut mixed = Vec::new();
    for row in &rows {
        for head in 0..heads {
            let part =
                |row: &[f64], which: usize| row[which * width + head * HEAD_WIDTH..][..HEAD_WIDTH].to_vec();
            let query = part(row, 0);
            let scores: Vec<f64> = rows
                .iter()
                .map(|row| part(row, 1).iter().zip(&query).map(|(k, q)| k * q).sum::<f64>() / 8.0)
                .collect();
            let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let (mut mix, mut sum) = (vec![0.0; HEAD_WIDTH], 0.0);
            for (row, score) in rows.iter().zip(scores) {
                let weight = (score - highest).exp();
                sum += weight;
                mix.iter_mut().zip(part(row, 2)).for_each(|(mix, value)| *mix += weight * value);
            }
            mixed.extend(mix.iter().map(|mix| mix / sum));
        }
    }
    mixed
}
