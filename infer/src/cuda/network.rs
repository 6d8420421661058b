//! A model's weights in a device's memory, as the kernels read them.

use kernels::accelerator::Accelerator;
use kernels::layer_norm::Norm;
use kernels::memory::Memory;
use kernels::view::Half;

use crate::model::weights::Weights;
use crate::model::{AUDIO_POSITIONS, Dims, LoadError, dims};

/// Frames that one result of a convolution hears.
const TAPS: usize = 3;

/// A model's weights.
pub struct Network<T> {
    /// Its sizes.
    pub dims: Dims,
    /// (width, 3, mels)
    pub first: Linear<T>,
    /// (width, 3, width)
    pub second: Linear<T>,
    /// (1500, width)
    pub sound_positions: Memory<f32>,
    /// Layers of the encoder.
    pub encoder: Vec<EncoderLayer<T>>,
    /// Behind the encoder's last layer.
    pub encoder_norm: Scale,
    /// Token embeddings, which are the logits' weights too: ([`Network::columns`], width), zeros behind the vocabulary.
    pub embeddings: Memory<T>,
    /// (text positions, width)
    pub text_positions: Memory<f32>,
    /// Layers of the decoder.
    pub decoder: Vec<DecoderLayer<T>>,
    /// Behind the decoder's last layer.
    pub decoder_norm: Scale,
    /// Bytes of all of it.
    pub bytes: usize,
}

/// A layer of the encoder.
pub struct EncoderLayer<T> {
    /// Attention of the positions to each other.
    pub own: Attention<T>,
    /// The feed-forward part.
    pub feed: FeedForward<T>,
}

/// A layer of the decoder.
pub struct DecoderLayer<T> {
    /// Attention to the text.
    pub own: Attention<T>,
    /// Before attention to the sound.
    pub cross_norm: Scale,
    /// (width, width)
    pub cross_query: Linear<T>,
    /// Keys, values of the sound: (2 width, width).
    pub cross_kv: Linear<T>,
    /// Behind attention to the sound.
    pub cross_out: Linear<T>,
    /// The feed-forward part.
    pub feed: FeedForward<T>,
}

/// Attention of a sequence to itself.
pub struct Attention<T> {
    /// Before it.
    pub norm: Scale,
    /// Queries, keys, values: (3 width, width).
    pub qkv: Linear<T>,
    /// Behind it: (width, width).
    pub out: Linear<T>,
}

/// The feed-forward part of a layer.
pub struct FeedForward<T> {
    /// Before it.
    pub norm: Scale,
    /// (inner, width)
    pub widen: Linear<T>,
    /// (width, inner)
    pub narrow: Linear<T>,
}

/// `y = W x + b`.
pub struct Linear<T> {
    /// (outputs, inputs)
    pub weights: Memory<T>,
    /// (outputs)
    pub bias: Memory<f32>,
    /// Values of a row of x.
    pub inputs: usize,
    /// Values of a row of y.
    pub outputs: usize,
}

/// What a normalised row is multiplied by and shifted by.
pub struct Scale {
    gamma: Memory<f32>,
    beta: Memory<f32>,
}

impl Scale {
    /// As kernels read it.
    pub fn view(&self) -> Norm<'_> {
        Norm { gamma: self.gamma.view(), beta: self.beta.view() }
    }
}

impl<T: Half> Network<T> {
    /// Brings a model's weights to a device, rounded to `T`.
    pub fn load(device: &mut impl Accelerator, weights: &Weights) -> Result<Network<T>, LoadError> {
        let dims = dims(weights)?;
        let Dims { mels, width, inner, vocabulary, text_positions, .. } = dims;
        let mut loader = Loader { device, weights, bytes: 0 };
        let first = loader.conv("encoder/conv1", width, mels)?;
        let second = loader.conv("encoder/conv2", width, width)?;
        let sound_positions =
            loader.values("encoder/position_encodings/encodings", [AUDIO_POSITIONS, width])?;
        let mut encoder = Vec::new();
        for i in 0..dims.encoder_layers {
            let own = loader.attention(&format!("encoder/layer_{i}/self_attention"), width)?;
            let feed = loader.feed_forward(&format!("encoder/layer_{i}/ffn"), width, inner)?;
            encoder.push(EncoderLayer { own, feed });
        }
        let encoder_norm = loader.norm("encoder", width)?;
        let mut decoder = Vec::new();
        for i in 0..dims.decoder_layers {
            let cross = format!("decoder/layer_{i}/attention");
            decoder.push(DecoderLayer {
                own: loader.attention(&format!("decoder/layer_{i}/self_attention"), width)?,
                cross_norm: loader.norm(&cross, width)?,
                cross_query: loader.linear(&format!("{cross}/linear_0"), width, width)?,
                cross_kv: loader.linear(&format!("{cross}/linear_1"), 2 * width, width)?,
                cross_out: loader.linear(&format!("{cross}/linear_2"), width, width)?,
                feed: loader.feed_forward(&format!("decoder/layer_{i}/ffn"), width, inner)?,
            });
        }
        let decoder_norm = loader.norm("decoder", width)?;
        let embeddings = loader.embeddings(vocabulary, width)?;
        let text_positions =
            loader.values("decoder/position_encodings/encodings", [text_positions, width])?;
        Ok(Network {
            dims,
            first,
            second,
            sound_positions,
            encoder,
            encoder_norm,
            embeddings,
            text_positions,
            decoder,
            decoder_norm,
            bytes: loader.bytes,
        })
    }

    /// Logits of a row: as many as there are tokens, rounded up to what products of many rows take.
    pub fn columns(&self) -> usize {
        columns(self.dims.vocabulary)
    }
}

/// Logits of a row for so many tokens.
fn columns(vocabulary: usize) -> usize {
    vocabulary.next_multiple_of(8)
}

struct Loader<'a, A> {
    device: &'a mut A,
    weights: &'a Weights,
    bytes: usize,
}

impl<A: Accelerator> Loader<'_, A> {
    fn halves<T: Half>(&mut self, values: &[f32]) -> Result<Memory<T>, LoadError> {
        let rounded: Vec<T> = values.iter().map(|x| T::nearest(*x)).collect();
        self.bytes += size_of_val(&rounded[..]);
        Ok(self.device.stored(&rounded)?)
    }

    fn floats(&mut self, values: &[f32]) -> Result<Memory<f32>, LoadError> {
        self.bytes += size_of_val(values);
        Ok(self.device.stored(values)?)
    }

    fn linear<T: Half>(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Linear<T>, LoadError> {
        let weights = self.weights.read(&format!("{name}/weight"), &[outputs, inputs])?;
        let bias = self.weights.read(&format!("{name}/bias"), &[outputs])?;
        Ok(Linear { weights: self.halves(&weights)?, bias: self.floats(&bias)?, inputs, outputs })
    }

    /// Weights (outputs, inputs, 3) become (outputs, 3, inputs).
    fn conv<T: Half>(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Linear<T>, LoadError> {
        let stored = self.weights.read(&format!("{name}/weight"), &[outputs, inputs, TAPS])?;
        let at = |i: usize| (i / (TAPS * inputs) * inputs + i % inputs) * TAPS + i / inputs % TAPS;
        let ordered: Vec<f32> = (0..stored.len()).map(|i| stored[at(i)]).collect();
        let bias = self.weights.read(&format!("{name}/bias"), &[outputs])?;
        let (weights, bias) = (self.halves(&ordered)?, self.floats(&bias)?);
        Ok(Linear { weights, bias, inputs: TAPS * inputs, outputs })
    }

    fn embeddings<T: Half>(&mut self, vocabulary: usize, width: usize) -> Result<Memory<T>, LoadError> {
        let mut values = self.weights.read("decoder/embeddings/weight", &[vocabulary, width])?;
        values.resize(columns(vocabulary) * width, 0.0);
        self.halves(&values)
    }

    fn values(&mut self, name: &str, shape: [usize; 2]) -> Result<Memory<f32>, LoadError> {
        let values = self.weights.read(name, &shape)?;
        self.floats(&values)
    }

    /// `name` is the part's; the tensors are those of its `layer_norm`.
    fn norm(&mut self, name: &str, width: usize) -> Result<Scale, LoadError> {
        let (gamma, beta) = self.weights.norm(&format!("{name}/layer_norm"), width)?;
        Ok(Scale { gamma: self.floats(&gamma)?, beta: self.floats(&beta)? })
    }

    fn attention<T: Half>(&mut self, name: &str, width: usize) -> Result<Attention<T>, LoadError> {
        Ok(Attention {
            norm: self.norm(name, width)?,
            qkv: self.linear(&format!("{name}/linear_0"), 3 * width, width)?,
            out: self.linear(&format!("{name}/linear_1"), width, width)?,
        })
    }

    fn feed_forward<T: Half>(
        &mut self,
        name: &str,
        width: usize,
        inner: usize,
    ) -> Result<FeedForward<T>, LoadError> {
        Ok(FeedForward {
            norm: self.norm(name, width)?,
            widen: self.linear(&format!("{name}/linear_0"), inner, width)?,
            narrow: self.linear(&format!("{name}/linear_1"), width, inner)?,
        })
    }
}
