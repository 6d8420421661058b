//! Models of Whisper's sizes with random weights: what a GPU does with them takes as long as with real ones.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use half::f16;
use infer::model::AUDIO_POSITIONS;
use infer::sampling::Rules;
use infer::tokens::{Special, TIMESTAMPS};

/// Sizes of a model.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    /// As openai names it.
    pub name: &'static str,
    /// Mel bands.
    pub mels: usize,
    /// Width of a state.
    pub width: usize,
    /// Layers of the encoder.
    pub encoder_layers: usize,
    /// Layers of the decoder.
    pub decoder_layers: usize,
    /// Tokens.
    pub vocabulary: usize,
}

const fn geometry(
    name: &'static str,
    width: usize,
    encoder_layers: usize,
    decoder_layers: usize,
) -> Geometry {
    Geometry { name, mels: 80, width, encoder_layers, decoder_layers, vocabulary: 51_865 }
}

/// openai's models.
pub const ALL: [Geometry; 6] = [
    geometry("tiny", 384, 4, 4),
    geometry("base", 512, 6, 6),
    geometry("small", 768, 12, 12),
    geometry("medium", 1_024, 24, 24),
    Geometry { mels: 128, vocabulary: 51_866, ..geometry("large-v3", 1_280, 32, 32) },
    Geometry { mels: 128, vocabulary: 51_866, ..geometry("turbo", 1_280, 32, 4) },
];

impl Geometry {
    /// Attention heads of a layer.
    pub fn heads(&self) -> usize {
        self.width / 64
    }

    /// Rules that forbid nothing, so that texts go on for as long as they are asked to.
    pub fn rules(&self) -> Rules {
        let first_timestamp = self.vocabulary as u32 - TIMESTAMPS;
        let special = Special {
            end: 50_257,
            start: 50_258,
            translate: first_timestamp - 7,
            transcribe: first_timestamp - 6,
            language_model: first_timestamp - 4,
            previous: first_timestamp - 3,
            no_speech: first_timestamp - 2,
            no_timestamps: first_timestamp - 1,
            first_timestamp,
        };
        Rules { special, suppressed: Vec::new(), suppressed_first: Vec::new() }
    }

    /// Writes the weights as CTranslate2 does, in f16.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let file = File::create(folder.join("model.bin")).context("make a file of weights")?;
        let mut out = Writer { out: BufWriter::with_capacity(1 << 20, file), noise: noise() };
        let tensors = self.tensors();
        out.bytes(&6u32.to_le_bytes())?;
        out.text("WhisperSpec")?;
        out.bytes(&3u32.to_le_bytes())?;
        out.bytes(&(tensors.len() as u32 + 2).to_le_bytes())?;
        for side in ["encoder", "decoder"] {
            out.text(&format!("{side}/num_heads"))?;
            // A number of two bytes.
            out.bytes(&[0, 2, 2, 0, 0, 0])?;
            out.bytes(&(self.heads() as i16).to_le_bytes())?;
        }
        for (name, shape) in tensors {
            out.tensor(&name, &shape)?;
        }
        out.bytes(&0u32.to_le_bytes())?;
        out.out.flush().context("write weights")
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let Geometry { mels, width, vocabulary, .. } = *self;
        let mut tensors = vec![
            ("decoder/embeddings/weight".to_owned(), vec![vocabulary, width]),
            ("decoder/position_encodings/encodings".to_owned(), vec![448, width]),
            ("encoder/position_encodings/encodings".to_owned(), vec![AUDIO_POSITIONS, width]),
            ("encoder/conv1/weight".to_owned(), vec![width, mels, 3]),
            ("encoder/conv1/bias".to_owned(), vec![width]),
            ("encoder/conv2/weight".to_owned(), vec![width, width, 3]),
            ("encoder/conv2/bias".to_owned(), vec![width]),
        ];
        let mut part = |prefix: String, layers: &[(usize, usize)]| {
            tensors.push((format!("{prefix}/layer_norm/gamma"), vec![width]));
            tensors.push((format!("{prefix}/layer_norm/beta"), vec![width]));
            for (i, (outputs, inputs)) in layers.iter().enumerate() {
                tensors.push((format!("{prefix}/linear_{i}/weight"), vec![*outputs, *inputs]));
                tensors.push((format!("{prefix}/linear_{i}/bias"), vec![*outputs]));
            }
        };
        for (side, layers) in [("encoder", self.encoder_layers), ("decoder", self.decoder_layers)] {
            part(side.to_owned(), &[]);
            for i in 0..layers {
                part(format!("{side}/layer_{i}/self_attention"), &[(3 * width, width), (width, width)]);
                part(format!("{side}/layer_{i}/ffn"), &[(4 * width, width), (width, 4 * width)]);
                if side == "decoder" {
                    let cross = [(width, width), (2 * width, width), (width, width)];
                    part(format!("{side}/layer_{i}/attention"), &cross);
                }
            }
        }
        tensors
    }
}

/// A megabyte of small numbers, which all tensors are filled with.
fn noise() -> Vec<u8> {
    (0..1usize << 19)
        .flat_map(|i| {
            let unit = (i.wrapping_mul(0x9e37_79b9) >> 7 & 0xffff) as f32 / 65_536.0;
            f16::from_f32((unit - 0.5) * 0.06).to_le_bytes()
        })
        .collect()
}

struct Writer {
    out: BufWriter<File>,
    noise: Vec<u8>,
}

impl Writer {
    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).context("write weights")
    }

    fn text(&mut self, text: &str) -> Result<()> {
        self.bytes(&(text.len() as u16 + 1).to_le_bytes())?;
        self.bytes(text.as_bytes())?;
        self.bytes(&[0])
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<()> {
        self.text(name)?;
        self.bytes(&[shape.len() as u8])?;
        for extent in shape {
            self.bytes(&(*extent as u32).to_le_bytes())?;
        }
        let mut bytes = shape.iter().product::<usize>() * 2;
        self.bytes(&[4])?;
        self.bytes(&(bytes as u32).to_le_bytes())?;
        while bytes > 0 {
            let some = bytes.min(self.noise.len());
            self.out.write_all(&self.noise[..some]).context("write weights")?;
            bytes -= some;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use infer::model::{dims, weights::Weights};

    use super::*;

    #[test]
    fn a_written_model_has_its_sizes() {
        let folder = tempfile::tempdir().unwrap();
        let tiny = ALL[0];
        tiny.write(folder.path()).unwrap();
        let found = dims(&Weights::open(folder.path()).unwrap()).unwrap();
        assert_eq!((found.mels, found.width, found.encoder_heads, found.inner), (80, 384, 6, 1_536));
        assert_eq!((found.encoder_layers, found.decoder_layers, found.vocabulary), (4, 4, 51_865));
        // openai's own numbers: <|notimestamps|> of multilingual models.
        assert_eq!(tiny.rules().special.no_timestamps, 50_363);
        assert_eq!(ALL[4].rules().special.no_timestamps, 50_364);
    }
}
