//! The op for one window in plain Rust, in f64.

use crate::product::reference::gelu;

/// GELU of frames (frames, channels) convolved with w (width, 3, channels), every `stride` frames.
pub fn convolve(frames: &[f64], channels: usize, w: &[f64], bias: &[f32], stride: usize) -> Vec<f64> {
    let count = frames.len() / channels;
    let mut out = Vec::new();
    for middle in (0..count).step_by(stride) {
        for (w, bias) in w.chunks_exact(3 * channels).zip(bias) {
            let mut sum = f64::from(*bias);
            for (tap, w) in w.chunks_exact(channels).enumerate() {
                // One frame before the window and one behind it are zero.
                let Some(frame) = (middle + tap).checked_sub(1).filter(|frame| *frame < count) else {
                    continue;
                };
                sum += w.iter().zip(&frames[frame * channels..]).map(|(w, x)| w * x).sum::<f64>();
            }
            out.push(gelu(sum));
        }
    }
    out
}
