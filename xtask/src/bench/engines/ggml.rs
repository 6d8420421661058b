//! Whisper's weights in whisper.cpp's own file format, from CTranslate2's float16 `model.bin`.
//!
//! ```text
//! magic; 11 hyperparameters; mel filters: bands, bins, f32 each; tokens: count, (length, bytes) each; tensors to the end
//! tensor: rank, length of the name, type; extents, innermost first; the name; the elements
//! ```
//! Every number is 32 bit, little-endian. The halves of the matrices go over as they are, so both engines compute from
//! the same weights.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use half::f16;

const MAGIC: u32 = 0x6767_6d6c;
/// The version of block formats that whisper.cpp expects beside a quantised type.
const BLOCK_VERSION: u32 = 2;
/// Bins of a transform of 400 samples, and the rate of the samples.
const BINS: usize = 201;
const BIN_HZ: f64 = 40.0;

/// How the matrices are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    F16,
    /// Blocks of 32 bytes that share a scale, made as whisper.cpp's `quantize` makes them.
    Q8,
}

impl Precision {
    /// As whisper.cpp's file names have it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F16 => "f16",
            Precision::Q8 => "q8_0",
        }
    }
}

/// The file that holds the weights of a model folder.
pub fn convert(folder: &Path, precision: Precision) -> Result<Vec<u8>> {
    let bytes = std::fs::read(folder.join("model.bin"))
        .with_context(|| format!("read model.bin of {}", folder.display()))?;
    let vocabulary = std::fs::read_to_string(folder.join("vocabulary.txt")).context("read vocabulary.txt")?;
    let weights = Weights::list(&bytes)?;
    let shape = Shape::of(&weights)?;
    let mut file = header(&shape, precision);
    mel_filters(shape.mels, &mut file);
    tokens(&vocabulary, &mut file)?;
    Writer { weights: &weights, precision, file: &mut file }.tensors(&shape)?;
    Ok(file)
}

/// The sizes of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shape {
    vocabulary: usize,
    audio_positions: usize,
    width: usize,
    audio_heads: usize,
    audio_layers: usize,
    text_positions: usize,
    text_heads: usize,
    text_layers: usize,
    mels: usize,
}

impl Shape {
    fn of(weights: &Weights) -> Result<Shape> {
        let extent = |name: &str, axis: usize| -> Result<usize> {
            weights
                .get(name)?
                .shape
                .get(axis)
                .copied()
                .with_context(|| format!("find extent {axis} of {name}"))
        };
        let heads = |side: &str| -> Result<usize> {
            let bytes = weights.get(&format!("{side}/num_heads"))?.bytes;
            Ok(usize::from(*bytes.first().with_context(|| format!("read the heads of the {side}"))?))
        };
        let layers = |side: &str| {
            (0..)
                .take_while(|i| weights.0.contains_key(&format!("{side}/layer_{i}/ffn/linear_0/weight")))
                .count()
        };
        Ok(Shape {
            vocabulary: extent("decoder/embeddings/weight", 0)?,
            audio_positions: extent("encoder/position_encodings/encodings", 0)?,
            width: extent("encoder/position_encodings/encodings", 1)?,
            audio_heads: heads("encoder")?,
            audio_layers: layers("encoder"),
            text_positions: extent("decoder/position_encodings/encodings", 0)?,
            text_heads: heads("decoder")?,
            text_layers: layers("decoder"),
            mels: extent("encoder/conv1/weight", 1)?,
        })
    }
}

fn header(shape: &Shape, precision: Precision) -> Vec<u8> {
    let kind = match precision {
        Precision::F16 => 1,
        Precision::Q8 => BLOCK_VERSION * 1000 + 7,
    };
    let mut file = MAGIC.to_le_bytes().to_vec();
    for size in [
        shape.vocabulary,
        shape.audio_positions,
        shape.width,
        shape.audio_heads,
        shape.audio_layers,
        shape.text_positions,
        shape.width,
        shape.text_heads,
        shape.text_layers,
        shape.mels,
    ] {
        number(size, &mut file);
    }
    file.extend(kind.to_le_bytes());
    file
}

/// Slaney's filters over 0 to 8 kHz, each scaled to constant energy: the ones that openai published.
fn mel_filters(mels: usize, file: &mut Vec<u8>) {
    const LINEAR_END_HZ: f64 = 1000.0;
    const HZ_PER_MEL: f64 = 200.0 / 3.0;
    let linear_end = LINEAR_END_HZ / HZ_PER_MEL;
    let step = 6.4f64.ln() / 27.0;
    let hz = |mel: f64| {
        if mel < linear_end { mel * HZ_PER_MEL } else { LINEAR_END_HZ * (step * (mel - linear_end)).exp() }
    };
    let top = linear_end + 8f64.ln() / step;
    let edges: Vec<f64> = (0..mels + 2).map(|i| hz(top * i as f64 / (mels + 1) as f64)).collect();
    number(mels, file);
    number(BINS, file);
    for edge in edges.windows(3) {
        for bin in 0..BINS {
            let hz = bin as f64 * BIN_HZ;
            let rise = (hz - edge[0]) / (edge[1] - edge[0]);
            let fall = (edge[2] - hz) / (edge[2] - edge[1]);
            let weight = rise.min(fall).max(0.0) * 2.0 / (edge[2] - edge[0]);
            file.extend((weight as f32).to_le_bytes());
        }
    }
}

/// The bytes of each token before the end of text. whisper.cpp names the rest, which mean no text, by itself.
fn tokens(vocabulary: &str, file: &mut Vec<u8>) -> Result<()> {
    let bytes = bytes_of_letters();
    let words: Vec<&str> = vocabulary.lines().take_while(|word| *word != "<|endoftext|>").collect();
    number(words.len(), file);
    for word in words {
        let letters: Option<Vec<u8>> = word.chars().map(|letter| bytes.get(&letter).copied()).collect();
        let letters = letters.with_context(|| format!("read the token {word:?}"))?;
        number(letters.len(), file);
        file.extend(letters);
    }
    Ok(())
}

/// The byte that each letter of GPT-2's vocabulary stands for: printable ones for themselves, the others, in order, for
/// letters from U+0100 on.
fn bytes_of_letters() -> HashMap<char, u8> {
    let mut next = 0x100;
    (0..=u8::MAX)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => (char::from(byte), byte),
            _ => {
                let letter = char::from_u32(next).expect("no surrogate lies so low");
                next += 1;
                (letter, byte)
            }
        })
        .collect()
}

struct Writer<'a> {
    weights: &'a Weights<'a>,
    precision: Precision,
    file: &'a mut Vec<u8>,
}

impl Writer<'_> {
    fn tensors(&mut self, shape: &Shape) -> Result<()> {
        for conv in ["conv1", "conv2"] {
            self.copy(&format!("encoder/{conv}/weight"), &format!("encoder.{conv}.weight"))?;
            self.column(&format!("encoder/{conv}/bias"), &format!("encoder.{conv}.bias"))?;
        }
        self.plain("encoder/position_encodings/encodings", "encoder.positional_embedding")?;
        self.norm("encoder/layer_norm", "encoder.ln_post")?;
        self.copy("decoder/embeddings/weight", "decoder.token_embedding.weight")?;
        self.plain("decoder/position_encodings/encodings", "decoder.positional_embedding")?;
        self.norm("decoder/layer_norm", "decoder.ln")?;
        for (side, layers) in [("encoder", shape.audio_layers), ("decoder", shape.text_layers)] {
            for layer in 0..layers {
                let (from, to) = (format!("{side}/layer_{layer}"), format!("{side}.blocks.{layer}"));
                self.norm(&format!("{from}/self_attention/layer_norm"), &format!("{to}.attn_ln"))?;
                self.split(
                    &format!("{from}/self_attention/linear_0"),
                    &to,
                    &["attn.query", "attn.key", "attn.value"],
                )?;
                self.linear(&format!("{from}/self_attention/linear_1"), &format!("{to}.attn.out"))?;
                if side == "decoder" {
                    self.norm(&format!("{from}/attention/layer_norm"), &format!("{to}.cross_attn_ln"))?;
                    self.linear(&format!("{from}/attention/linear_0"), &format!("{to}.cross_attn.query"))?;
                    self.split(
                        &format!("{from}/attention/linear_1"),
                        &to,
                        &["cross_attn.key", "cross_attn.value"],
                    )?;
                    self.linear(&format!("{from}/attention/linear_2"), &format!("{to}.cross_attn.out"))?;
                }
                self.norm(&format!("{from}/ffn/layer_norm"), &format!("{to}.mlp_ln"))?;
                self.linear(&format!("{from}/ffn/linear_0"), &format!("{to}.mlp.0"))?;
                self.linear(&format!("{from}/ffn/linear_1"), &format!("{to}.mlp.2"))?;
            }
        }
        Ok(())
    }

    fn norm(&mut self, from: &str, to: &str) -> Result<()> {
        self.plain(&format!("{from}/gamma"), &format!("{to}.weight"))?;
        self.plain(&format!("{from}/beta"), &format!("{to}.bias"))
    }

    fn linear(&mut self, from: &str, to: &str) -> Result<()> {
        self.copy(&format!("{from}/weight"), &format!("{to}.weight"))?;
        self.plain(&format!("{from}/bias"), &format!("{to}.bias"))
    }

    /// A matrix that CTranslate2 stacked. Keys have no bias in Whisper, and whisper.cpp wants none.
    fn split(&mut self, from: &str, to: &str, parts: &[&str]) -> Result<()> {
        let (weight, bias) =
            (self.weights.get(&format!("{from}/weight"))?, self.weights.get(&format!("{from}/bias"))?);
        ensure!(
            weight.shape[0].is_multiple_of(parts.len()),
            "{from} has {} rows, not {} parts",
            weight.shape[0],
            parts.len()
        );
        for (index, part) in parts.iter().enumerate() {
            self.matrix(&weight.part(index, parts.len()), &format!("{to}.{part}.weight"))?;
            if !part.ends_with("key") {
                self.floats(&bias.part(index, parts.len()), &format!("{to}.{part}.bias"))?;
            }
        }
        Ok(())
    }

    fn copy(&mut self, from: &str, to: &str) -> Result<()> {
        self.matrix(&self.weights.get(from)?, to)
    }

    fn plain(&mut self, from: &str, to: &str) -> Result<()> {
        self.floats(&self.weights.get(from)?, to)
    }

    /// A vector that whisper.cpp adds to each column.
    fn column(&mut self, from: &str, to: &str) -> Result<()> {
        let mut tensor = self.weights.get(from)?;
        tensor.shape.push(1);
        self.floats(&tensor, to)
    }

    /// In the file's precision; convolutions, of rank 3, stay halves.
    fn matrix(&mut self, tensor: &Tensor, name: &str) -> Result<()> {
        tensor.check_half(name)?;
        if self.precision == Precision::Q8 && tensor.shape.len() == 2 {
            self.begin(tensor, name, 8);
            let values: Vec<f32> = tensor.values().collect();
            ensure!(
                tensor.shape[1].is_multiple_of(32),
                "{name} has rows of {}, not of blocks of 32",
                tensor.shape[1]
            );
            values.as_chunks().0.iter().for_each(|block| self.file.extend(q8_block(block)));
        } else {
            self.begin(tensor, name, 1);
            self.file.extend_from_slice(tensor.bytes);
        }
        Ok(())
    }

    fn floats(&mut self, tensor: &Tensor, name: &str) -> Result<()> {
        tensor.check_half(name)?;
        self.begin(tensor, name, 0);
        self.file.extend(tensor.values().flat_map(f32::to_le_bytes));
        Ok(())
    }

    fn begin(&mut self, tensor: &Tensor, name: &str, kind: usize) {
        number(tensor.shape.len(), self.file);
        number(name.len(), self.file);
        number(kind, self.file);
        tensor.shape.iter().rev().for_each(|extent| number(*extent, self.file));
        self.file.extend_from_slice(name.as_bytes());
    }
}

/// A scale as a half, then 32 signed bytes.
fn q8_block(values: &[f32; 32]) -> [u8; 34] {
    let scale = values.iter().fold(0f32, |most, x| most.max(x.abs())) / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let mut block = [0; 34];
    block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    for (byte, value) in block[2..].iter_mut().zip(values) {
        *byte = ((value * inverse).round() as i8).cast_unsigned();
    }
    block
}

fn number(value: usize, file: &mut Vec<u8>) {
    file.extend((value as u32).to_le_bytes());
}

/// The tensors of CTranslate2's `model.bin`, by name.
struct Weights<'a>(HashMap<String, Tensor<'a>>);

#[derive(Clone)]
struct Tensor<'a> {
    shape: Vec<usize>,
    /// CTranslate2's number of the element type; 4 is float16.
    kind: u8,
    bytes: &'a [u8],
}

impl<'a> Weights<'a> {
    fn list(file: &'a [u8]) -> Result<Weights<'a>> {
        let mut rest = file;
        let version = u32_of(&mut rest)?;
        let spec = text_of(&mut rest)?;
        if version != 6 || spec != "WhisperSpec" {
            bail!("model.bin is {spec} in version {version}; WhisperSpec in version 6 is read");
        }
        let _revision = u32_of(&mut rest)?;
        let mut tensors = HashMap::new();
        for _ in 0..u32_of(&mut rest)? {
            let name = text_of(&mut rest)?;
            let rank = take(&mut rest, 1)?[0];
            let shape: Vec<usize> =
                (0..rank).map(|_| u32_of(&mut rest).map(|extent| extent as usize)).collect::<Result<_>>()?;
            let kind = take(&mut rest, 1)?[0];
            let size = u32_of(&mut rest)? as usize;
            tensors.insert(name, Tensor { shape, kind, bytes: take(&mut rest, size)? });
        }
        Ok(Weights(tensors))
    }

    fn get(&self, name: &str) -> Result<Tensor<'a>> {
        self.0.get(name).cloned().with_context(|| format!("find the tensor {name}"))
    }
}

impl<'a> Tensor<'a> {
    /// One of `count` equal parts along the first axis.
    fn part(&self, index: usize, count: usize) -> Tensor<'a> {
        let size = self.bytes.len() / count;
        let mut shape = self.shape.clone();
        shape[0] /= count;
        Tensor { shape, kind: self.kind, bytes: &self.bytes[index * size..(index + 1) * size] }
    }

    fn values(&self) -> impl Iterator<Item = f32> {
        self.bytes.as_chunks().0.iter().map(|half| f16::from_le_bytes(*half).to_f32())
    }

    fn check_half(&self, name: &str) -> Result<()> {
        let size = self.shape.iter().product::<usize>() * 2;
        ensure!(
            self.kind == 4 && self.bytes.len() == size,
            "{name} is not float16 of shape {:?}: only such weights are written",
            self.shape
        );
        Ok(())
    }
}

fn text_of(rest: &mut &[u8]) -> Result<String> {
    let length = take(rest, 2)?;
    let bytes = take(rest, usize::from(u16::from_le_bytes([length[0], length[1]])))?;
    Ok(String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned())
}

fn u32_of(rest: &mut &[u8]) -> Result<u32> {
    let bytes = take(rest, 4)?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count).context("read model.bin: it ends too early")?;
    *rest = left;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_whispers() {
        let tiny = Shape {
            vocabulary: 51_864,
            audio_positions: 1500,
            width: 384,
            audio_heads: 6,
            audio_layers: 4,
            text_positions: 448,
            text_heads: 6,
            text_layers: 4,
            mels: 80,
        };
        let numbers = |precision| -> Vec<u32> {
            header(&tiny, precision).as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
        };
        assert_eq!(numbers(Precision::F16), [0x6767_6d6c, 51_864, 1500, 384, 6, 4, 448, 384, 6, 4, 80, 1]);
        assert_eq!(numbers(Precision::Q8)[11], 2007);
    }

    #[test]
    fn filters_are_openais() {
        let mut file = Vec::new();
        mel_filters(80, &mut file);
        assert_eq!(file[..8], [80, 0, 0, 0, 201, 0, 0, 0]);
        let values: Vec<f32> =
            file[8..].as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert_eq!(values.len(), 80 * 201);
        // The first filter's only weight, as in mel_filters.npz.
        assert!((values[1] - 0.024_862_6).abs() < 1e-6, "{}", values[1]);
        assert_eq!(values[0], 0.0);
    }

    #[test]
    fn tokens_become_their_bytes() {
        let mut file = Vec::new();
        tokens("!\nĠa\nÃ©\n\n<|endoftext|>\n<|en|>\n", &mut file).unwrap();
        let expected: &[&[u8]] = &[
            &[4, 0, 0, 0],
            &[1, 0, 0, 0],
            b"!",
            &[2, 0, 0, 0],
            b" a",
            &[2, 0, 0, 0],
            "é".as_bytes(),
            &[0; 4],
        ];
        assert_eq!(file, expected.concat());
        assert!(tokens("中\n", &mut file).is_err());
    }

    #[test]
    fn blocks_share_a_scale() {
        let mut values = [0.0; 32];
        values[0] = -1.27;
        values[1] = 0.635;
        let block = q8_block(&values);
        assert_eq!(f16::from_le_bytes([block[0], block[1]]), f16::from_f32(0.01));
        assert_eq!(block[2..5], [(-127i8).cast_unsigned(), 64, 0]);
        assert_eq!(q8_block(&[0.0; 32]), [0; 34]);
    }

    #[test]
    fn stacked_matrices_are_parted_and_tensors_named() {
        let half = |values: &[f32]| -> Vec<u8> {
            values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect()
        };
        let (weight, bias) = (half(&[1.0, 2.0, 3.0, 4.0]), half(&[5.0, 6.0]));
        let mut weights = Weights(HashMap::new());
        weights.0.insert("x/weight".into(), Tensor { shape: vec![2, 2], kind: 4, bytes: &weight });
        weights.0.insert("x/bias".into(), Tensor { shape: vec![2], kind: 4, bytes: &bias });
        let mut file = Vec::new();
        let mut writer = Writer { weights: &weights, precision: Precision::F16, file: &mut file };
        writer.split("x", "b", &["key", "value"]).unwrap();
        let expected: &[&[u8]] = &[
            &[2, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0],
            b"b.key.weight",
            &weight[..4],
            &[2, 0, 0, 0, 14, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0],
            b"b.value.weight",
            &weight[4..],
            &[1, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
            b"b.value.bias",
            &6f32.to_le_bytes(),
        ];
        assert_eq!(file, expected.concat());
    }

    #[test]
    fn what_is_no_model_is_refused() {
        assert!(Weights::list(b"").is_err());
        assert!(Weights::list(b"\x06\0\0\0\x06\0Other\0\0\0\0\0").is_err());
        assert!(Weights::list(b"\x06\0\0\0\x0c\0WhisperSpec\0\x03\0\0\0\x09\0\0\0").is_err());
    }
}
