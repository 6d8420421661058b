//! The layers of a model: where each stands in the image, and how it gets there from a model folder.

use super::image::{Image, Layout, LinearPlace, NormPlace, Place, Precision, WeightsPlace};
use super::linear::{pack_bf16, pack_f32, pack_int8};
use crate::model::weights::Weights;
use crate::model::{AUDIO_POSITIONS, Dims, LoadError};

/// Frames that one result of a convolution hears.
pub const TAPS: usize = 3;

/// Where everything stands.
#[derive(Debug)]
pub struct Places {
    /// Sizes of the model.
    pub dims: Dims,
    /// Precision of the layers.
    pub precision: Precision,
    /// First convolution: rows of three frames of mels.
    pub conv1: LinearPlace,
    /// Second convolution: rows of three states, every second one.
    pub conv2: LinearPlace,
    /// (1500, width)
    pub sound_positions: Place<f32>,
    /// Layers of the encoder.
    pub encoder: Vec<EncoderLayer>,
    /// Behind the encoder's last layer.
    pub encoder_norm: NormPlace,
    /// Token embeddings, which are the logits' weights too: (vocabulary, width).
    pub embeddings: LinearPlace,
    /// (text positions, width)
    pub text_positions: Place<f32>,
    /// Layers of the decoder.
    pub decoder: Vec<DecoderLayer>,
    /// Behind the decoder's last layer.
    pub decoder_norm: NormPlace,
    layout: Layout,
    sources: Vec<Source>,
}

/// A layer of the encoder.
#[derive(Debug)]
pub struct EncoderLayer {
    /// Before attention.
    pub attention_norm: NormPlace,
    /// Queries, keys, values: (3 width, width).
    pub qkv: LinearPlace,
    /// Behind attention.
    pub out: LinearPlace,
    /// Before the feed-forward part.
    pub feed_norm: NormPlace,
    /// (inner, width)
    pub widen: LinearPlace,
    /// (width, inner)
    pub narrow: LinearPlace,
}

/// A layer of the decoder.
#[derive(Debug)]
pub struct DecoderLayer {
    /// Before attention to the text.
    pub self_norm: NormPlace,
    /// Queries, keys, values of the text: (3 width, width).
    pub qkv: LinearPlace,
    /// Behind attention to the text.
    pub self_out: LinearPlace,
    /// Before attention to the sound.
    pub cross_norm: NormPlace,
    /// (width, width)
    pub cross_query: LinearPlace,
    /// Keys, values of the sound: (2 width, width).
    pub cross_kv: LinearPlace,
    /// Behind attention to the sound.
    pub cross_out: LinearPlace,
    /// Before the feed-forward part.
    pub feed_norm: NormPlace,
    /// (inner, width)
    pub widen: LinearPlace,
    /// (width, inner)
    pub narrow: LinearPlace,
}

/// What of a model folder goes to a place.
#[derive(Debug)]
enum Source {
    /// `<name>/weight` and `<name>/bias`
    Linear(String, LinearPlace),
    /// As a layer, with weights (outputs, inputs, 3) that become (outputs, 3, inputs).
    Conv(String, LinearPlace),
    /// A tensor as weights without bias.
    Table(String, LinearPlace),
    /// `<name>/gamma` and `<name>/beta`
    Norm(String, NormPlace),
    /// A tensor (rows, columns) as it is.
    Values(String, [usize; 2], Place<f32>),
}

impl Places {
    /// The places of a model of these sizes.
    pub fn new(dims: Dims, precision: Precision) -> Places {
        let Dims { mels, width, inner, vocabulary, text_positions, .. } = dims;
        let mut plan = Plan { precision, layout: Layout::default(), sources: Vec::new() };
        let conv1 = plan.conv("encoder/conv1", width, mels);
        let conv2 = plan.conv("encoder/conv2", width, width);
        let sound_positions = plan.values("encoder/position_encodings/encodings", [AUDIO_POSITIONS, width]);
        let encoder = (0..dims.encoder_layers)
            .map(|i| {
                let (own, feed) =
                    (format!("encoder/layer_{i}/self_attention"), format!("encoder/layer_{i}/ffn"));
                EncoderLayer {
                    attention_norm: plan.norm(&own, width),
                    qkv: plan.linear(&format!("{own}/linear_0"), 3 * width, width),
                    out: plan.linear(&format!("{own}/linear_1"), width, width),
                    feed_norm: plan.norm(&feed, width),
                    widen: plan.linear(&format!("{feed}/linear_0"), inner, width),
                    narrow: plan.linear(&format!("{feed}/linear_1"), width, inner),
                }
            })
            .collect();
        let encoder_norm = plan.norm("encoder", width);
        let decoder = (0..dims.decoder_layers)
            .map(|i| {
                let own = format!("decoder/layer_{i}/self_attention");
                let cross = format!("decoder/layer_{i}/attention");
                let feed = format!("decoder/layer_{i}/ffn");
                DecoderLayer {
                    self_norm: plan.norm(&own, width),
                    qkv: plan.linear(&format!("{own}/linear_0"), 3 * width, width),
                    self_out: plan.linear(&format!("{own}/linear_1"), width, width),
                    cross_norm: plan.norm(&cross, width),
                    cross_query: plan.linear(&format!("{cross}/linear_0"), width, width),
                    cross_kv: plan.linear(&format!("{cross}/linear_1"), 2 * width, width),
                    cross_out: plan.linear(&format!("{cross}/linear_2"), width, width),
                    feed_norm: plan.norm(&feed, width),
                    widen: plan.linear(&format!("{feed}/linear_0"), inner, width),
                    narrow: plan.linear(&format!("{feed}/linear_1"), width, inner),
                }
            })
            .collect();
        let decoder_norm = plan.norm("decoder", width);
        let embeddings = plan.layout.linear(precision, vocabulary, width);
        plan.sources.push(Source::Table("decoder/embeddings/weight".into(), embeddings));
        let text_positions = plan.values("decoder/position_encodings/encodings", [text_positions, width]);
        let Plan { layout, sources, .. } = plan;
        Places {
            dims,
            precision,
            conv1,
            conv2,
            sound_positions,
            encoder,
            encoder_norm,
            embeddings,
            text_positions,
            decoder,
            decoder_norm,
            layout,
            sources,
        }
    }

    /// Bytes of the image.
    pub fn image_bytes(&self) -> usize {
        self.layout.bytes()
    }

    /// Packs the weights of a model folder.
    pub fn pack(&self, weights: &Weights) -> Result<Image, LoadError> {
        let mut image = Image::new(&self.layout);
        for source in &self.sources {
            match source {
                Source::Linear(name, place) => {
                    let shape = [place.outputs, place.inputs];
                    pack(&mut image, place, &weights.read(&format!("{name}/weight"), &shape)?);
                    let bias = weights.read(&format!("{name}/bias"), &[place.outputs])?;
                    image.get_mut(place.bias)[..place.outputs].copy_from_slice(&bias);
                }
                Source::Conv(name, place) => {
                    let (outputs, inputs) = (place.outputs, place.inputs / TAPS);
                    let stored = weights.read(&format!("{name}/weight"), &[outputs, inputs, TAPS])?;
                    let mut ordered = vec![0.0; stored.len()];
                    for (ordered, stored) in
                        ordered.chunks_exact_mut(place.inputs).zip(stored.chunks_exact(place.inputs))
                    {
                        for (i, x) in ordered.iter_mut().enumerate() {
                            *x = stored[i % inputs * TAPS + i / inputs];
                        }
                    }
                    pack(&mut image, place, &ordered);
                    let bias = weights.read(&format!("{name}/bias"), &[outputs])?;
                    image.get_mut(place.bias)[..outputs].copy_from_slice(&bias);
                }
                Source::Table(name, place) => {
                    pack(&mut image, place, &weights.read(name, &[place.outputs, place.inputs])?);
                }
                Source::Norm(name, place) => {
                    let width = image.get(place.gamma).len();
                    let (gamma, beta) = weights.norm(name, width)?;
                    image.get_mut(place.gamma).copy_from_slice(&gamma);
                    image.get_mut(place.beta).copy_from_slice(&beta);
                }
                Source::Values(name, shape, place) => {
                    image.get_mut(*place).copy_from_slice(&weights.read(name, shape)?);
                }
            }
        }
        Ok(image)
    }
}

/// Packs weights (outputs, inputs) into a layer's place.
fn pack(image: &mut Image, place: &LinearPlace, weights: &[f32]) {
    let size = [place.outputs, place.inputs];
    match place.weights {
        WeightsPlace::Int8 { panels, scales, offsets } => {
            // The three places are apart, but only one can be borrowed at a time.
            let mut own_scales = vec![0.0; image.get(scales).len()];
            let mut own_offsets = vec![0; image.get(offsets).len()];
            pack_int8(weights, size, image.get_mut(panels), &mut own_scales, &mut own_offsets);
            image.get_mut(scales).copy_from_slice(&own_scales);
            image.get_mut(offsets).copy_from_slice(&own_offsets);
        }
        WeightsPlace::F32 { panels } => pack_f32(weights, size, image.get_mut(panels)),
        WeightsPlace::Bf16 { panels } => pack_bf16(weights, size, image.get_mut(panels)),
    }
}

struct Plan {
    precision: Precision,
    layout: Layout,
    sources: Vec<Source>,
}

impl Plan {
    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) -> LinearPlace {
        let place = self.layout.linear(self.precision, outputs, inputs);
        self.sources.push(Source::Linear(name.to_owned(), place));
        place
    }

    fn conv(&mut self, name: &str, outputs: usize, inputs: usize) -> LinearPlace {
        let place = self.layout.linear(self.precision, outputs, TAPS * inputs);
        self.sources.push(Source::Conv(name.to_owned(), place));
        place
    }

    /// `name` is the part's; the tensors are those of its `layer_norm`.
    fn norm(&mut self, name: &str, width: usize) -> NormPlace {
        let place = self.layout.norm(width);
        self.sources.push(Source::Norm(format!("{name}/layer_norm"), place));
        place
    }

    fn values(&mut self, name: &str, shape: [usize; 2]) -> Place<f32> {
        let place = self.layout.place(shape[0] * shape[1]);
        self.sources.push(Source::Values(name.to_owned(), shape, place));
        place
    }
}
