//! The op for one segment in plain Rust, in f64: the transform as it is defined.

use std::f64::consts::TAU;

use super::{BINS, HOP, SAMPLES};

/// The frames of a segment, (frames, bands).
pub fn log_mel(pcm: &[i16], bands: &[(usize, Vec<f32>)]) -> Vec<f64> {
    let frames = pcm.len() / HOP;
    let sample = |at: i64| pcm.get(at.unsigned_abs() as usize).map_or(0.0, |x| f64::from(*x) / 32_768.0);
    // One frame more counts for the loudest.
    let mut logs = Vec::new();
    for frame in 0..=frames {
        let first = (frame * HOP) as i64 - (SAMPLES / 2) as i64;
        let weighted: Vec<f64> = (0..SAMPLES)
            .map(|i| (0.5 - 0.5 * (TAU * i as f64 / SAMPLES as f64).cos()) * sample(first + i as i64))
            .collect();
        let power: Vec<f64> = (0..BINS)
            .map(|bin| {
                let (mut re, mut im) = (0.0, 0.0);
                for (i, x) in weighted.iter().enumerate() {
                    let (sin, cos) = (TAU * (bin * i % SAMPLES) as f64 / SAMPLES as f64).sin_cos();
                    re += x * cos;
                    im -= x * sin;
                }
                re * re + im * im
            })
            .collect();
        logs.extend(bands.iter().map(|(first, weights)| {
            let energy = weights.iter().zip(&power[*first..]).map(|(weight, x)| f64::from(*weight) * x);
            energy.sum::<f64>().max(1e-10).log10()
        }));
    }
    let loudest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    logs.truncate(frames * bands.len());
    logs.iter().map(|x| (x.max(loudest - 8.0) + 4.0) / 4.0).collect()
}
