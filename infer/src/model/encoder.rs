//! The audio encoder: two convolutions over the spectrogram, fixed positions, then layers of
//! self-attention over all 1500 positions.

use rayon::prelude::*;

use super::ops::{Linear, Matrix, Norm, add, gelu, multiply, multiply_add, softmax};
use super::weights::Weights;
use super::{AUDIO_POSITIONS, Dims, LoadError};
use crate::features::WINDOW_FRAMES;

/// Queries that share one block of scores: (block, 1500) of f32 stays in a core's second-level cache.
const QUERY_BLOCK: usize = 64;

/// Inputs of one result of a convolution along time.
const TAPS: usize = 3;

/// The encoder's weights.
pub struct Encoder {
    dims: Dims,
    conv1: Conv,
    conv2: Conv,
    /// (1500, width)
    positions: Vec<f32>,
    layers: Vec<Layer>,
    norm: Norm,
}

/// A convolution over three frames: weights (outputs, 3, inputs), so that three neighbouring frames are
/// one row of the product.
struct Conv {
    weights: Vec<f32>,
    bias: Vec<f32>,
    inputs: usize,
}

struct Layer {
    attention_norm: Norm,
    /// Queries, keys, values: (3 width, width).
    qkv: Linear,
    out: Linear,
    feed_norm: Norm,
    widen: Linear,
    narrow: Linear,
}

impl Encoder {
    pub(super) fn load(weights: &Weights, dims: Dims) -> Result<Encoder, LoadError> {
        let Dims { mels, width, inner, .. } = dims;
        let layer = |i: usize| {
            let attention = format!("encoder/layer_{i}/self_attention");
            let feed = format!("encoder/layer_{i}/ffn");
            Ok(Layer {
                attention_norm: weights.norm(&format!("{attention}/layer_norm"), width)?,
                qkv: weights.linear(&format!("{attention}/linear_0"), 3 * width, width)?,
                out: weights.linear(&format!("{attention}/linear_1"), width, width)?,
                feed_norm: weights.norm(&format!("{feed}/layer_norm"), width)?,
                widen: weights.linear(&format!("{feed}/linear_0"), inner, width)?,
                narrow: weights.linear(&format!("{feed}/linear_1"), width, inner)?,
            })
        };
        Ok(Encoder {
            dims,
            conv1: Conv::load(weights, "encoder/conv1", width, mels)?,
            conv2: Conv::load(weights, "encoder/conv2", width, width)?,
            positions: weights.read("encoder/position_encodings/encodings", &[AUDIO_POSITIONS, width])?,
            layers: (0..dims.encoder_layers).map(layer).collect::<Result<_, LoadError>>()?,
            norm: weights.norm("encoder/layer_norm", width)?,
        })
    }

    /// Turns a spectrogram window (mels, 3000) into states (1500, width).
    pub fn encode(&self, window: &[f32]) -> Vec<f32> {
        let Dims { mels, width, inner, .. } = self.dims;
        assert_eq!(window.len(), mels * WINDOW_FRAMES, "a window is (mels, 3000)");
        let mut x = self.stem(window);
        let mut normed = vec![0.0; x.len()];
        let mut qkv = vec![0.0; 3 * x.len()];
        let mut mixed = vec![0.0; x.len()];
        let mut wide = vec![0.0; AUDIO_POSITIONS * inner];
        for layer in &self.layers {
            layer.attention_norm.apply(&x, &mut normed);
            layer.qkv.apply(&normed, &mut qkv);
            self.attend(&qkv, &mut mixed);
            layer.out.add_to(&mixed, &mut x);
            layer.feed_norm.apply(&x, &mut normed);
            layer.widen.apply(&normed, &mut wide);
            wide.par_chunks_mut(inner * QUERY_BLOCK).for_each(gelu);
            layer.narrow.add_to(&wide, &mut x);
        }
        self.norm.apply(&x, &mut normed);
        debug_assert_eq!(normed.len(), AUDIO_POSITIONS * width);
        normed
    }

    /// Convolutions and positions: (mels, 3000) to (1500, width).
    fn stem(&self, window: &[f32]) -> Vec<f32> {
        let Dims { mels, width, .. } = self.dims;
        // Frame-major, with a frame of zeros before and behind: what a convolution sees beyond the ends.
        let mut frames = vec![0.0; (WINDOW_FRAMES + 2) * mels];
        for (mel, row) in window.chunks_exact(WINDOW_FRAMES).enumerate() {
            for (frame, value) in row.iter().enumerate() {
                frames[(frame + 1) * mels + mel] = *value;
            }
        }
        let mut first = vec![0.0; (WINDOW_FRAMES + 2) * width];
        self.conv1.apply(&frames, 1, &mut first[width..][..WINDOW_FRAMES * width]);
        let mut second = vec![0.0; AUDIO_POSITIONS * width];
        self.conv2.apply(&first, 2, &mut second);
        add(&mut second, &self.positions);
        second
    }

    /// Attention of every position to every other: qkv (1500, 3 width) to mixed values (1500, width).
    fn attend(&self, qkv: &[f32], mixed: &mut [f32]) {
        let Dims { width, encoder_heads: heads, .. } = self.dims;
        let head_width = width / heads;
        let scale = 1.0 / (head_width as f32).sqrt();
        mixed.par_chunks_mut(QUERY_BLOCK * width).enumerate().for_each(|(block, mixed)| {
            let queries = mixed.len() / width;
            let mut scores = vec![0.0; queries * AUDIO_POSITIONS];
            let rows = &qkv[block * QUERY_BLOCK * 3 * width..];
            for head in 0..heads {
                let at = |part: usize| part * width + head * head_width;
                let query = Matrix::rows(&rows[at(0)..], 3 * width);
                let key = Matrix::rows(&qkv[at(1)..], 3 * width);
                let value = Matrix::rows(&qkv[at(2)..], 3 * width);
                multiply(
                    [queries, AUDIO_POSITIONS, head_width],
                    query,
                    key.transposed(),
                    &mut scores,
                    AUDIO_POSITIONS,
                    false,
                );
                for row in scores.chunks_exact_mut(AUDIO_POSITIONS) {
                    row.iter_mut().for_each(|score| *score *= scale);
                    softmax(row);
                }
                let scores = Matrix::rows(&scores, AUDIO_POSITIONS);
                multiply(
                    [queries, head_width, AUDIO_POSITIONS],
                    scores,
                    value,
                    &mut mixed[head * head_width..],
                    width,
                    false,
                );
            }
        });
    }
}

impl Conv {
    fn load(weights: &Weights, prefix: &str, outputs: usize, inputs: usize) -> Result<Conv, LoadError> {
        let stored = weights.read(&format!("{prefix}/weight"), &[outputs, inputs, TAPS])?;
        let mut ordered = vec![0.0; stored.len()];
        for output in 0..outputs {
            for input in 0..inputs {
                for tap in 0..TAPS {
                    ordered[(output * TAPS + tap) * inputs + input] =
                        stored[(output * inputs + input) * TAPS + tap];
                }
            }
        }
        Ok(Conv { weights: ordered, bias: weights.read(&format!("{prefix}/bias"), &[outputs])?, inputs })
    }

    /// Convolves frames (frames + 2, inputs), whose first and last are padding, and applies the activation;
    /// `step` frames lie between neighbouring results.
    fn apply(&self, frames: &[f32], step: usize, y: &mut [f32]) {
        let outputs = self.bias.len();
        y.chunks_exact_mut(outputs).for_each(|row| row.copy_from_slice(&self.bias));
        let taps = TAPS * self.inputs;
        let size = [y.len() / outputs, outputs, taps];
        let weights = Matrix::rows(&self.weights, taps).transposed();
        multiply_add(size, Matrix::rows(frames, step * self.inputs), weights, y, outputs, true);
        y.par_chunks_mut(outputs * QUERY_BLOCK).for_each(gelu);
    }
}
