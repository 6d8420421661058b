//! The text decoder: one step for any number of (row, position, token) at once, with cached keys and
//! values, so that nothing before a token is ever computed again.

use rayon::prelude::*;

use super::ops::{Linear, Matrix, Norm, add, gelu, mix_values, multiply, score_keys, softmax};
use super::weights::Weights;
use super::{AUDIO_POSITIONS, Dims, LoadError};

/// Queries from which attention to the sound is worth matrix products rather than loops.
const GEMM_QUERIES_MIN: usize = 9;

/// The decoder's weights.
pub struct Decoder {
    dims: Dims,
    /// Token embeddings, (vocabulary, width), which are the logits' weights too.
    embeddings: Linear,
    /// (text positions, width)
    positions: Vec<f32>,
    layers: Vec<Layer>,
    norm: Norm,
}

struct Layer {
    self_norm: Norm,
    /// Queries, keys, values: (3 width, width).
    qkv: Linear,
    self_out: Linear,
    cross_norm: Norm,
    cross_query: Linear,
    /// Keys, values of the sound: (2 width, width).
    cross_kv: Linear,
    cross_out: Linear,
    feed_norm: Norm,
    widen: Linear,
    narrow: Linear,
}

/// What the decoder needs of one window of sound: keys and values of each layer.
pub struct Heard {
    layers: Vec<HeardLayer>,
}

/// Each (heads, 1500, head width): a head's keys lie together.
struct HeardLayer {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Keys and values of the tokens so far, for a number of rows (candidate texts).
#[derive(Clone)]
pub struct Cache {
    /// Positions each row has room for.
    capacity: usize,
    width: usize,
    /// Keys and values of each layer, each (rows, capacity, width).
    layers: Vec<(Vec<f32>, Vec<f32>)>,
}

/// One token to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// The row of the cache that it belongs to.
    pub row: usize,
    /// Its position; all earlier positions of the row were run before or are in the same call.
    pub position: usize,
    /// Its number in the vocabulary.
    pub token: u32,
}

impl Cache {
    /// A copy with `rows` rows, each holding the first `positions` positions of row 0.
    pub fn spread(&self, rows: usize, positions: usize) -> Cache {
        let (row, used) = (self.capacity * self.width, positions * self.width);
        let spread = |stored: &Vec<f32>| {
            let mut copy = vec![0.0; rows * row];
            copy.chunks_exact_mut(row).for_each(|row| row[..used].copy_from_slice(&stored[..used]));
            copy
        };
        let layers = self.layers.iter().map(|(keys, values)| (spread(keys), spread(values))).collect();
        Cache { capacity: self.capacity, width: self.width, layers }
    }
}

impl Decoder {
    pub(super) fn load(weights: &Weights, dims: Dims) -> Result<Decoder, LoadError> {
        let Dims { width, inner, vocabulary, text_positions, .. } = dims;
        let layer = |i: usize| {
            let own = format!("decoder/layer_{i}/self_attention");
            let cross = format!("decoder/layer_{i}/attention");
            let feed = format!("decoder/layer_{i}/ffn");
            Ok(Layer {
                self_norm: weights.norm(&format!("{own}/layer_norm"), width)?,
                qkv: weights.linear(&format!("{own}/linear_0"), 3 * width, width)?,
                self_out: weights.linear(&format!("{own}/linear_1"), width, width)?,
                cross_norm: weights.norm(&format!("{cross}/layer_norm"), width)?,
                cross_query: weights.linear(&format!("{cross}/linear_0"), width, width)?,
                cross_kv: weights.linear(&format!("{cross}/linear_1"), 2 * width, width)?,
                cross_out: weights.linear(&format!("{cross}/linear_2"), width, width)?,
                feed_norm: weights.norm(&format!("{feed}/layer_norm"), width)?,
                widen: weights.linear(&format!("{feed}/linear_0"), inner, width)?,
                narrow: weights.linear(&format!("{feed}/linear_1"), width, inner)?,
            })
        };
        let embeddings = weights.read("decoder/embeddings/weight", &[vocabulary, width])?;
        Ok(Decoder {
            dims,
            embeddings: Linear::new(embeddings, None, vocabulary, width),
            positions: weights.read("decoder/position_encodings/encodings", &[text_positions, width])?,
            layers: (0..dims.decoder_layers).map(layer).collect::<Result<_, LoadError>>()?,
            norm: weights.norm("decoder/layer_norm", width)?,
        })
    }

    /// Prepares the encoder's states (1500, width) for any number of steps.
    pub fn hear(&self, states: &[f32]) -> Heard {
        let Dims { width, decoder_heads: heads, .. } = self.dims;
        let head_width = width / heads;
        let mut kv = vec![0.0; AUDIO_POSITIONS * 2 * width];
        let layers = self.layers.iter().map(|layer| {
            layer.cross_kv.apply(states, &mut kv);
            let gather = |part: usize| {
                let mut gathered = Vec::with_capacity(AUDIO_POSITIONS * width);
                for head in 0..heads {
                    for row in kv.chunks_exact(2 * width) {
                        gathered.extend_from_slice(&row[part * width + head * head_width..][..head_width]);
                    }
                }
                gathered
            };
            HeardLayer { keys: gather(0), values: gather(1) }
        });
        Heard { layers: layers.collect() }
    }

    /// An empty cache of one row with room for `capacity` positions.
    pub fn cache(&self, capacity: usize) -> Cache {
        let capacity = capacity.min(self.dims.text_positions);
        let layer = || vec![0.0; capacity * self.dims.width];
        Cache {
            capacity,
            width: self.dims.width,
            layers: self.layers.iter().map(|_| (layer(), layer())).collect(),
        }
    }

    /// Runs tokens and writes the logits (wanted, vocabulary) that follow those items whose indices are `wanted`.
    pub fn run(
        &self,
        heard: &Heard,
        cache: &mut Cache,
        items: &[Item],
        wanted: &[usize],
        logits: &mut Vec<f32>,
    ) {
        let Dims { width, inner, vocabulary, .. } = self.dims;
        let mut x = vec![0.0; items.len() * width];
        for (item, x) in items.iter().zip(x.chunks_exact_mut(width)) {
            assert!(item.position < cache.capacity, "the cache has room for each position");
            x.copy_from_slice(self.embeddings.row(item.token as usize));
            add(x, &self.positions[item.position * width..][..width]);
        }
        let mut normed = vec![0.0; x.len()];
        let mut qkv = vec![0.0; 3 * x.len()];
        let mut mixed = vec![0.0; x.len()];
        let mut wide = vec![0.0; items.len() * inner];
        for ((layer, heard), (keys, values)) in self.layers.iter().zip(&heard.layers).zip(&mut cache.layers) {
            layer.self_norm.apply(&x, &mut normed);
            layer.qkv.apply(&normed, &mut qkv);
            for (item, qkv) in items.iter().zip(qkv.chunks_exact(3 * width)) {
                let place = (item.row * cache.capacity + item.position) * width;
                keys[place..][..width].copy_from_slice(&qkv[width..2 * width]);
                values[place..][..width].copy_from_slice(&qkv[2 * width..]);
            }
            self.attend_text(items, &qkv, keys, values, cache.capacity, &mut mixed);
            layer.self_out.add_to(&mixed, &mut x);
            layer.cross_norm.apply(&x, &mut normed);
            let query = &mut qkv[..x.len()];
            layer.cross_query.apply(&normed, query);
            self.attend_sound(query, heard, &mut mixed);
            layer.cross_out.add_to(&mixed, &mut x);
            layer.feed_norm.apply(&x, &mut normed);
            layer.widen.apply(&normed, &mut wide);
            gelu(&mut wide);
            layer.narrow.add_to(&wide, &mut x);
        }
        logits.resize(wanted.len() * vocabulary, 0.0);
        let mut last = vec![0.0; wanted.len() * width];
        for (item, last) in wanted.iter().zip(last.chunks_exact_mut(width)) {
            self.norm.apply(&x[item * width..][..width], last);
        }
        self.embeddings.apply(&last, logits);
    }

    /// Attention of each item to its row's tokens up to itself: mixed (items, width).
    fn attend_text(
        &self,
        items: &[Item],
        qkv: &[f32],
        keys: &[f32],
        values: &[f32],
        capacity: usize,
        mixed: &mut [f32],
    ) {
        let Dims { width, decoder_heads: heads, .. } = self.dims;
        let head_width = width / heads;
        let scale = 1.0 / (head_width as f32).sqrt();
        let mut scores = vec![0.0; capacity];
        for (i, mixed) in mixed.chunks_exact_mut(head_width).enumerate() {
            let (item, head) = (&items[i / heads], i % heads);
            let scores = &mut scores[..=item.position];
            let start = item.row * capacity * width + head * head_width;
            let query = &qkv[i / heads * 3 * width + head * head_width..][..head_width];
            score_keys(query, &keys[start..], width, scale, scores);
            softmax(scores);
            mix_values(scores, &values[start..], width, mixed);
        }
    }

    /// Attention of each item to the sound: queries and mixed (items, width).
    fn attend_sound(&self, queries: &[f32], heard: &HeardLayer, mixed: &mut [f32]) {
        let Dims { width, decoder_heads: heads, .. } = self.dims;
        let head_width = width / heads;
        let scale = 1.0 / (head_width as f32).sqrt();
        let head_size = AUDIO_POSITIONS * head_width;
        let items = queries.len() / width;
        if items < GEMM_QUERIES_MIN {
            // (heads, items, head width): all items of a head in turn, while its keys and values are in the cache.
            let mut by_head = vec![0.0; mixed.len()];
            by_head.par_chunks_mut(items * head_width).enumerate().for_each(|(head, by_head)| {
                let keys = &heard.keys[head * head_size..][..head_size];
                let values = &heard.values[head * head_size..][..head_size];
                let mut scores = [0.0; AUDIO_POSITIONS];
                for (item, mixed) in by_head.chunks_exact_mut(head_width).enumerate() {
                    let query = &queries[item * width + head * head_width..][..head_width];
                    score_keys(query, keys, head_width, scale, &mut scores);
                    softmax(&mut scores);
                    mix_values(&scores, values, head_width, mixed);
                }
            });
            for (i, part) in by_head.chunks_exact(head_width).enumerate() {
                mixed[i % items * width + i / items * head_width..][..head_width].copy_from_slice(part);
            }
            return;
        }
        let mut scores = vec![0.0; items * AUDIO_POSITIONS];
        for head in 0..heads {
            let keys = Matrix::rows(&heard.keys[head * head_size..][..head_size], head_width);
            let values = Matrix::rows(&heard.values[head * head_size..][..head_size], head_width);
            let queries = Matrix::rows(&queries[head * head_width..], width);
            multiply(
                [items, AUDIO_POSITIONS, head_width],
                queries,
                keys.transposed(),
                &mut scores,
                AUDIO_POSITIONS,
                true,
            );
            for row in scores.chunks_exact_mut(AUDIO_POSITIONS) {
                row.iter_mut().for_each(|score| *score *= scale);
                softmax(row);
            }
            let scores = Matrix::rows(&scores, AUDIO_POSITIONS);
            multiply(
                [items, head_width, AUDIO_POSITIONS],
                scores,
                values,
                &mut mixed[head * head_width..],
                width,
                true,
            );
        }
    }
}
