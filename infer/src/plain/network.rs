//! Whisper as it is written down: loops over rows, no state shared between calls but the cache.

use crate::features::WINDOW_FRAMES;
use crate::math::{gelu, normalise};
use crate::model::weights::Weights;
use crate::model::{AUDIO_POSITIONS, Dims, LoadError, dims};

/// A network.
pub struct Network {
    /// Its sizes.
    pub dims: Dims,
    conv: [Linear; 2],
    sound_positions: Vec<f32>,
    encoder: Vec<Layer>,
    encoder_norm: Norm,
    embeddings: Linear,
    text_positions: Vec<f32>,
    decoder: Vec<Layer>,
    decoder_norm: Norm,
}

struct Layer {
    own: Attention,
    cross: Option<Cross>,
    feed_norm: Norm,
    widen: Linear,
    narrow: Linear,
}

struct Attention {
    norm: Norm,
    qkv: Linear,
    out: Linear,
}

struct Cross {
    norm: Norm,
    query: Linear,
    kv: Linear,
    out: Linear,
}

/// `y = W x + b`: weights (outputs, inputs).
struct Linear {
    weights: Vec<f32>,
    bias: Vec<f32>,
    inputs: usize,
}

struct Norm {
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

/// Keys and values (1500, 2 width) of each layer of the decoder.
#[derive(Clone)]
pub struct Heard(Vec<Vec<f32>>);

/// Queries, keys and values (positions, 3 width) so far of each layer of the decoder.
#[derive(Clone, Default)]
pub struct Cache(Vec<Vec<f32>>);

impl Network {
    /// Reads a network.
    pub fn load(weights: &Weights) -> Result<Network, LoadError> {
        let dims = dims(weights)?;
        let Dims { mels, width, inner, vocabulary, text_positions, .. } = dims;
        let norm = |prefix: &str| -> Result<Norm, LoadError> {
            let (gamma, beta) = weights.norm(prefix, width)?;
            Ok(Norm { gamma, beta })
        };
        let linear = |prefix: &str, outputs: usize, inputs: usize| -> Result<Linear, LoadError> {
            let values = weights.read(&format!("{prefix}/weight"), &[outputs, inputs])?;
            Ok(Linear { weights: values, bias: weights.read(&format!("{prefix}/bias"), &[outputs])?, inputs })
        };
        let layer = |side: &str, i: usize| -> Result<Layer, LoadError> {
            let at = |part: &str| format!("{side}/layer_{i}/{part}");
            let (own, across, feed) = (at("self_attention"), at("attention"), at("ffn"));
            let inside = |of: &str, part: &str| format!("{of}/{part}");
            let cross = || -> Result<Cross, LoadError> {
                Ok(Cross {
                    norm: norm(&inside(&across, "layer_norm"))?,
                    query: linear(&inside(&across, "linear_0"), width, width)?,
                    kv: linear(&inside(&across, "linear_1"), 2 * width, width)?,
                    out: linear(&inside(&across, "linear_2"), width, width)?,
                })
            };
            Ok(Layer {
                own: Attention {
                    norm: norm(&inside(&own, "layer_norm"))?,
                    qkv: linear(&inside(&own, "linear_0"), 3 * width, width)?,
                    out: linear(&inside(&own, "linear_1"), width, width)?,
                },
                cross: if side == "decoder" { Some(cross()?) } else { None },
                feed_norm: norm(&inside(&feed, "layer_norm"))?,
                widen: linear(&inside(&feed, "linear_0"), inner, width)?,
                narrow: linear(&inside(&feed, "linear_1"), width, inner)?,
            })
        };
        let conv = |prefix: &str, inputs: usize| -> Result<Linear, LoadError> {
            let stored = weights.read(&format!("{prefix}/weight"), &[width, inputs, 3])?;
            // (outputs, taps, inputs): three neighbouring frames are one row.
            let at = |i: usize| (i / (3 * inputs) * inputs + i % inputs) * 3 + i / inputs % 3;
            let values = (0..stored.len()).map(|i| stored[at(i)]).collect();
            let bias = weights.read(&format!("{prefix}/bias"), &[width])?;
            Ok(Linear { weights: values, bias, inputs: 3 * inputs })
        };
        let embeddings = weights.read("decoder/embeddings/weight", &[vocabulary, width])?;
        Ok(Network {
            dims,
            conv: [conv("encoder/conv1", mels)?, conv("encoder/conv2", width)?],
            sound_positions: weights
                .read("encoder/position_encodings/encodings", &[AUDIO_POSITIONS, width])?,
            encoder: (0..dims.encoder_layers).map(|i| layer("encoder", i)).collect::<Result<_, _>>()?,
            encoder_norm: norm("encoder/layer_norm")?,
            embeddings: Linear { weights: embeddings, bias: vec![0.0; vocabulary], inputs: width },
            text_positions: weights.read("decoder/position_encodings/encodings", &[text_positions, width])?,
            decoder: (0..dims.decoder_layers).map(|i| layer("decoder", i)).collect::<Result<_, _>>()?,
            decoder_norm: norm("decoder/layer_norm")?,
        })
    }

    /// Turns a spectrogram window (mels, 3000) into states (1500, width).
    pub fn encode(&self, window: &[f32]) -> Vec<f32> {
        let Dims { mels, width, encoder_heads, .. } = self.dims;
        let by_frame = |i: usize| window[i % mels * WINDOW_FRAMES + i / mels];
        let frames: Vec<f32> = (0..window.len()).map(by_frame).collect();
        let first = self.conv[0].convolve(&frames, 1);
        let mut x = self.conv[1].convolve(&first, 2);
        add(&mut x, &self.sound_positions);
        for layer in &self.encoder {
            let qkv = layer.own.qkv.apply(&layer.own.norm.apply(&x));
            let rows = qkv.chunks_exact(3 * width);
            let mixed: Vec<f32> =
                rows.flat_map(|row| attend(&row[..width], &qkv, 3, encoder_heads)).collect();
            add(&mut x, &layer.own.out.apply(&mixed));
            layer.feed(&mut x);
        }
        self.encoder_norm.apply(&x)
    }

    /// Keys and values of the encoder's states for the decoder.
    pub fn hear(&self, states: &[f32]) -> Heard {
        Heard(
            self.decoder.iter().flat_map(|layer| &layer.cross).map(|cross| cross.kv.apply(states)).collect(),
        )
    }

    /// Reads a token at the end of a text and returns the logits (vocabulary) behind it.
    pub fn read(&self, heard: &Heard, cache: &mut Cache, token: u32) -> Vec<f32> {
        let Dims { width, decoder_heads: heads, .. } = self.dims;
        cache.0.resize(self.decoder.len(), Vec::new());
        let position = cache.0[0].len() / (3 * width);
        let mut x = self.embeddings.weights[token as usize * width..][..width].to_vec();
        add(&mut x, &self.text_positions[position * width..][..width]);
        for ((layer, heard), cache) in self.decoder.iter().zip(&heard.0).zip(&mut cache.0) {
            let qkv = layer.own.qkv.apply(&layer.own.norm.apply(&x));
            cache.extend(&qkv);
            add(&mut x, &layer.own.out.apply(&attend(&qkv[..width], cache, 3, heads)));
            if let Some(cross) = &layer.cross {
                let query = cross.query.apply(&cross.norm.apply(&x));
                add(&mut x, &cross.out.apply(&attend(&query, heard, 2, heads)));
            }
            layer.feed(&mut x);
        }
        self.embeddings.apply(&self.decoder_norm.apply(&x))
    }
}

impl Layer {
    fn feed(&self, x: &mut [f32]) {
        let mut wide = self.widen.apply(&self.feed_norm.apply(x));
        gelu(&mut wide);
        add(x, &self.narrow.apply(&wide));
    }
}

impl Linear {
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let row = |x: &[f32]| -> Vec<f32> {
            let weights = self.weights.chunks_exact(self.inputs);
            weights.zip(&self.bias).map(|(weights, bias)| dot(weights, x) + bias).collect()
        };
        x.chunks_exact(self.inputs).flat_map(row).collect()
    }

    /// Convolves frames over three of them, `step` apart, with zeros around, and applies the activation.
    fn convolve(&self, frames: &[f32], step: usize) -> Vec<f32> {
        let width = self.inputs / 3;
        let padded = [vec![0.0; width], frames.to_vec(), vec![0.0; width]].concat();
        let rows = padded.windows(self.inputs).step_by(width).step_by(step);
        let mut y: Vec<f32> = rows.flat_map(|row| self.apply(row)).collect();
        gelu(&mut y);
        y
    }
}

impl Norm {
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        let width = self.gamma.len();
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            normalise(x, &self.gamma, &self.beta, y);
        }
        y
    }
}

/// Attention of a query (width) to rows of `parts` times the width, whose last two are keys and values.
fn attend(query: &[f32], rows: &[f32], parts: usize, heads: usize) -> Vec<f32> {
    let (width, head) = (query.len(), query.len() / heads);
    let mut mixed = vec![0.0; width];
    for (i, (query, mixed)) in query.chunks_exact(head).zip(mixed.chunks_exact_mut(head)).enumerate() {
        let part = |row: &[f32], part: usize| row[part * width + i * head..][..head].to_vec();
        let keys = rows.chunks_exact(parts * width).map(|row| dot(query, &part(row, parts - 2)));
        let mut scores: Vec<f32> = keys.map(|score| score / (head as f32).sqrt()).collect();
        softmax(&mut scores);
        for (score, row) in scores.iter().zip(rows.chunks_exact(parts * width)) {
            mixed.iter_mut().zip(part(row, parts - 1)).for_each(|(mixed, value)| *mixed += score * value);
        }
    }
    mixed
}

/// Turns scores into probabilities.
pub fn softmax(scores: &mut [f32]) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|score| *score = (*score - max).exp());
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= sum);
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
