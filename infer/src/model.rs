//! What a model folder holds: weights by name, sizes, the heads that follow the sound.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub mod weights;

mod ctranslate2;
mod hugging_face;

use weights::Weights;

/// Positions of the encoder's result for one 30 s window: one each 20 ms.
pub const AUDIO_POSITIONS: usize = 1_500;

/// Tokens that a decoder holds at once: at most, and at least, so that half of them hold a text behind its beginning.
pub const TEXT_POSITIONS_MAX: usize = 448;
const TEXT_POSITIONS_MIN: usize = 128;

/// Widest attention head.
pub const HEAD_WIDTH_MAX: usize = 128;

/// What the width of a head is a multiple of.
pub const HEAD_WIDTH_STEP: usize = 16;

/// Why a model folder cannot be used. Each message names the file and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The folder is not a model: something it must hold is absent.
    #[error("{} is not a model folder: {missing} is missing; {remedy}", folder.display())]
    Missing {
        /// The folder that was asked for.
        folder: PathBuf,
        /// What was looked for.
        missing: String,
        /// What to do.
        remedy: String,
    },
    /// A file is cut short or damaged.
    #[error("{} is damaged: {reason}; download the model again", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A file is sound but holds something else than a Whisper model that this engine runs.
    #[error("{} cannot be used: {reason}", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// What it holds instead.
        reason: String,
    },
    /// The device refused, or has not the memory.
    #[error("the GPU does not take the model: {source}{}", remedy(source))]
    Device {
        /// What it said.
        #[from]
        source: kernels::device::Error,
    },
    /// There is no GPU to use.
    #[error("the model cannot run on a GPU: {0}")]
    NoDevice(#[from] kernels::gpu::OpenError),
    /// The operating system refused.
    #[error("read {}: {source}; check that the file exists and may be read", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

fn remedy(error: &kernels::device::Error) -> &'static str {
    match error {
        kernels::device::Error::Room { .. } => {
            "; lower --infer-slots, unload other programs from the GPU, or take a smaller model"
        }
        _ => "",
    }
}

impl LoadError {
    /// Whether the device has not the memory, which others may give back.
    pub fn is_full(&self) -> bool {
        matches!(self, LoadError::Device { source: kernels::device::Error::Room { .. } })
    }

    /// Whether this process can use the device no more.
    pub fn is_lost(&self) -> bool {
        matches!(self, LoadError::Device { source } if source.is_lost())
    }

    pub(crate) fn damaged(file: &Path, reason: impl fmt::Display) -> LoadError {
        LoadError::Damaged { file: file.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn unsupported(file: &Path, reason: impl fmt::Display) -> LoadError {
        LoadError::Unsupported { file: file.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn io(file: &Path, source: io::Error) -> LoadError {
        LoadError::Io { file: file.to_owned(), source }
    }
}

/// The sizes of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dims {
    /// Mel bands of the input: 80, or 128 from large-v3 on.
    pub mels: usize,
    /// Width of a state.
    pub width: usize,
    /// Attention heads of an encoder layer.
    pub encoder_heads: usize,
    /// Attention heads of a decoder layer.
    pub decoder_heads: usize,
    /// Layers of the encoder.
    pub encoder_layers: usize,
    /// Layers of the decoder.
    pub decoder_layers: usize,
    /// Width inside the feed-forward parts.
    pub inner: usize,
    /// Tokens the decoder knows.
    pub vocabulary: usize,
    /// Tokens the decoder can hold at once, prompt included.
    pub text_positions: usize,
}

impl Dims {
    /// Whether the vocabulary has languages and tasks.
    pub fn multilingual(&self) -> bool {
        self.vocabulary >= 51_865
    }

    /// Reads the sizes off the tensors themselves and checks that they agree with each other.
    fn of(weights: &Weights) -> Result<Dims, LoadError> {
        let unsupported = |reason: String| LoadError::unsupported(weights.file(), reason);
        let [width, mels, 3] = weights.shape("encoder/conv1/weight")? else {
            return Err(unsupported(
                "encoder/conv1/weight is not (width, mels, 3): not a Whisper model".into(),
            ));
        };
        let [inner, _] = weights.shape("encoder/layer_0/ffn/linear_0/weight")?;
        let [vocabulary, _] = weights.shape("decoder/embeddings/weight")?;
        let [text_positions, _] = weights.shape("decoder/position_encodings/encodings")?;
        let layers = |side: &str| {
            (0..)
                .take_while(|i| weights.has(&format!("{side}/layer_{i}/self_attention/linear_0/weight")))
                .count()
        };
        let (encoder_heads, decoder_heads) = weights.heads();
        let dims = Dims {
            mels,
            width,
            encoder_heads,
            decoder_heads,
            encoder_layers: layers("encoder"),
            decoder_layers: layers("decoder"),
            inner,
            vocabulary,
            text_positions,
        };
        dims.check().map_err(unsupported)?;
        Ok(dims)
    }

    /// Checks that the sizes agree with each other and are of a network that this engine runs.
    fn check(&self) -> Result<(), String> {
        let Dims { mels, width, vocabulary, text_positions, .. } = *self;
        for (name, heads) in [("encoder", self.encoder_heads), ("decoder", self.decoder_heads)] {
            if heads == 0 || width % heads != 0 {
                return Err(format!("{heads} {name} heads do not divide a width of {width}"));
            }
            let each = width / heads;
            if each == 0 || each > HEAD_WIDTH_MAX || !each.is_multiple_of(HEAD_WIDTH_STEP) {
                return Err(format!(
                    "its {heads} {name} heads are {each} wide; Whisper's are 64, and this engine runs multiples of \
                     {HEAD_WIDTH_STEP} up to {HEAD_WIDTH_MAX}"
                ));
            }
        }
        if self.encoder_layers == 0 || self.decoder_layers == 0 {
            return Err("it has no layers".to_owned());
        }
        if !matches!(mels, 80 | 128) {
            return Err(format!("it hears {mels} mel bands; Whisper models hear 80 or 128"));
        }
        if !(51_864..=52_000).contains(&vocabulary) {
            return Err(format!("its vocabulary of {vocabulary} tokens is not Whisper's"));
        }
        if !(TEXT_POSITIONS_MIN..=TEXT_POSITIONS_MAX).contains(&text_positions) {
            return Err(format!(
                "its decoder has {text_positions} positions; Whisper's has {TEXT_POSITIONS_MAX}, and this engine runs \
                 {TEXT_POSITIONS_MIN} to {TEXT_POSITIONS_MAX}"
            ));
        }
        Ok(())
    }
}

/// The decoder's heads (layer, head) that follow the sound, from the folder's `config.json` or `generation_config.json`;
/// without a list all heads of the later half of the layers, as openai's `model.py` has it.
pub fn alignment_heads(folder: &Path, dims: Dims) -> Result<Vec<(usize, usize)>, LoadError> {
    #[derive(serde::Deserialize)]
    struct Config {
        alignment_heads: Option<Vec<(usize, usize)>>,
    }
    for name in ["generation_config.json", "config.json"] {
        let file = folder.join(name);
        if !file.is_file() {
            continue;
        }
        let text = std::fs::read(&file).map_err(|source| LoadError::io(&file, source))?;
        let config: Config =
            serde_json::from_slice(&text).map_err(|error| LoadError::damaged(&file, error))?;
        let Some(heads) = config.alignment_heads.filter(|heads| !heads.is_empty()) else { continue };
        let is_there =
            |(layer, head): &(usize, usize)| *layer < dims.decoder_layers && *head < dims.decoder_heads;
        return match heads.iter().find(|head| !is_there(head)) {
            None => Ok(heads),
            Some((layer, head)) => Err(LoadError::unsupported(
                &file,
                format!(
                    "alignment_heads names head {head} of layer {layer}; the decoder has {} layers of {} heads",
                    dims.decoder_layers, dims.decoder_heads
                ),
            )),
        };
    }
    let later = dims.decoder_layers / 2..dims.decoder_layers;
    Ok(later.flat_map(|layer| (0..dims.decoder_heads).map(move |head| (layer, head))).collect())
}

/// Reads the sizes of a model without copying its weights.
pub fn dims(weights: &Weights) -> Result<Dims, LoadError> {
    Dims::of(weights)
}

#[cfg(test)]
mod tests;
