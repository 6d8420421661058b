//! The named tensors of a model folder, whatever format they are stored in.
//!
//! Tensors are asked for by CTranslate2's names (`encoder/layer_0/self_attention/linear_0/weight`, where
//! queries, keys and values are one matrix); a Hugging Face folder translates them.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;

use super::{LoadError, ctranslate2, hugging_face};

/// An opened model folder: its files mapped, its tensors listed, nothing copied yet.
pub struct Weights {
    format: Format,
    /// The file that messages name: the weights, or the index over several.
    file: PathBuf,
    /// All files that hold weights, in a fixed order.
    files: Vec<PathBuf>,
    maps: Vec<Mmap>,
    tensors: HashMap<String, Tensor>,
    heads: (usize, usize),
}

/// How a model folder stores its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `model.bin`, as faster-whisper uses it.
    Ctranslate2,
    /// `model.safetensors`, as the Hugging Face hub has it.
    HuggingFace,
}

/// Where a tensor lies and what it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    pub map: usize,
    pub start: usize,
    pub end: usize,
    pub shape: Vec<usize>,
    pub kind: Kind,
}

/// The stored type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    F16,
    Bf16,
    I8,
    I16,
    I32,
}

impl Kind {
    pub fn bytes(self) -> usize {
        match self {
            Kind::F32 | Kind::I32 => 4,
            Kind::F16 | Kind::Bf16 | Kind::I16 => 2,
            Kind::I8 => 1,
        }
    }
}

/// What a format's reader finds in a folder.
pub(super) struct Found {
    pub format: Format,
    pub file: PathBuf,
    pub files: Vec<PathBuf>,
    pub maps: Vec<Mmap>,
    pub tensors: HashMap<String, Tensor>,
    pub heads: (usize, usize),
}

impl Weights {
    /// Opens a folder in either format and checks that every tensor lies inside its file.
    pub fn open(folder: &Path) -> Result<Weights, LoadError> {
        let found = if folder.join("model.bin").is_file() {
            ctranslate2::open(folder)?
        } else if hugging_face::is_present(folder) {
            hugging_face::open(folder)?
        } else {
            return Err(LoadError::Missing {
                folder: folder.to_owned(),
                missing: "model.bin or model.safetensors".into(),
                remedy: "name a folder of faster-whisper (CTranslate2) or Hugging Face safetensors weights"
                    .into(),
            });
        };
        let Found { format, file, files, maps, tensors, heads } = found;
        Ok(Weights { format, file, files, maps, tensors, heads })
    }

    /// The file that messages should name.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Every file that holds weights, in the order in which they are hashed.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// How the weights are stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Attention heads of encoder and decoder.
    pub(super) fn heads(&self) -> (usize, usize) {
        self.heads
    }

    /// Whether a tensor is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.parts(name).iter().all(|part| self.tensors.contains_key(part))
    }

    /// The shape of a tensor that is stored as one piece.
    pub(super) fn shape<const RANK: usize>(&self, name: &str) -> Result<[usize; RANK], LoadError> {
        let part = self.parts(name).remove(0);
        let tensor = self.tensors.get(&part).ok_or_else(|| self.lacks(&part))?;
        tensor.shape.as_slice().try_into().map_err(|_| {
            LoadError::unsupported(
                &self.file,
                format!("{part} has shape {:?}, which is not of rank {RANK}", tensor.shape),
            )
        })
    }

    /// Copies a tensor of the expected shape as f32.
    pub(crate) fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        self.join(&self.parts(name), shape)
    }

    /// Reads `<prefix>/gamma` and `<prefix>/beta`, each (width): scale and shift of a normalisation.
    pub(crate) fn norm(&self, prefix: &str, width: usize) -> Result<(Vec<f32>, Vec<f32>), LoadError> {
        let read = |part: &str| self.read(&format!("{prefix}/{part}"), &[width]);
        Ok((read("gamma")?, read("beta")?))
    }

    /// The stored tensors that make up the named one, stacked along the first axis.
    fn parts(&self, name: &str) -> Vec<String> {
        match self.format {
            Format::Ctranslate2 => vec![name.to_owned()],
            Format::HuggingFace => hugging_face::parts(name),
        }
    }

    /// Stacks parts along the first axis; the rows are shared out evenly.
    fn join(&self, parts: &[String], shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        let mut part_shape = shape.to_owned();
        part_shape[0] /= parts.len();
        let size = part_shape.iter().product::<usize>();
        let mut values = Vec::with_capacity(size * parts.len());
        for part in parts {
            match self.tensors.get(part) {
                Some(tensor) if tensor.shape == part_shape => self.append(part, tensor, &mut values)?,
                Some(tensor) => {
                    return Err(LoadError::unsupported(
                        &self.file,
                        format!("{part} has shape {:?} where {part_shape:?} was expected", tensor.shape),
                    ));
                }
                // Whisper's keys have no bias; openai's and CTranslate2's formats differ in whether they say so.
                None if part.ends_with("k_proj.bias") => values.resize(values.len() + size, 0.0),
                None => return Err(self.lacks(part)),
            }
        }
        Ok(values)
    }

    fn append(&self, name: &str, tensor: &Tensor, values: &mut Vec<f32>) -> Result<(), LoadError> {
        let bytes = &self.maps[tensor.map][tensor.start..tensor.end];
        match tensor.kind {
            Kind::F32 => values.extend(bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x))),
            Kind::F16 => values.extend(bytes.as_chunks().0.iter().map(|x| f16::from_le_bytes(*x).to_f32())),
            Kind::Bf16 => values.extend(bytes.as_chunks().0.iter().map(|x| bf16::from_le_bytes(*x).to_f32())),
            Kind::I8 | Kind::I16 => return self.append_quantised(name, tensor, values),
            Kind::I32 => {
                return Err(LoadError::unsupported(&self.file, format!("{name} holds whole numbers")));
            }
        }
        if values.iter().any(|x| !x.is_finite()) {
            return Err(LoadError::damaged(&self.file, format!("{name} holds values that are not numbers")));
        }
        Ok(())
    }

    /// CTranslate2's int8 and int16 weights: each row was multiplied by its scale and rounded.
    fn append_quantised(&self, name: &str, tensor: &Tensor, values: &mut Vec<f32>) -> Result<(), LoadError> {
        let rows = tensor.shape[0].max(1);
        let width = tensor.shape.iter().product::<usize>() / rows;
        let scale_name = format!("{name}_scale");
        let scale = self.tensors.get(&scale_name).ok_or_else(|| self.lacks(&scale_name))?;
        let count = scale.shape.iter().product::<usize>();
        if scale.kind != Kind::F32 || (count != 1 && count != rows) {
            return Err(LoadError::unsupported(&self.file, format!("{scale_name} does not fit {name}")));
        }
        let scales: Vec<f32> = self.maps[scale.map][scale.start..scale.end]
            .as_chunks()
            .0
            .iter()
            .map(|x| f32::from_le_bytes(*x))
            .collect();
        let bytes = &self.maps[tensor.map][tensor.start..tensor.end];
        for (row, bytes) in bytes.chunks_exact((width * tensor.kind.bytes()).max(1)).enumerate() {
            let scale = scales[if count == 1 { 0 } else { row }];
            match tensor.kind {
                Kind::I8 => values.extend(bytes.iter().map(|x| f32::from(x.cast_signed()) / scale)),
                _ => values
                    .extend(bytes.as_chunks().0.iter().map(|x| f32::from(i16::from_le_bytes(*x)) / scale)),
            }
        }
        if values.iter().any(|x| !x.is_finite()) {
            return Err(LoadError::damaged(&self.file, format!("{scale_name} holds a scale of zero")));
        }
        Ok(())
    }

    fn lacks(&self, name: &str) -> LoadError {
        LoadError::unsupported(&self.file, format!("it has no tensor {name}: not a Whisper model"))
    }
}

/// Maps a file into memory, read-only.
pub(super) fn map(file: &Path) -> Result<Mmap, LoadError> {
    let opened = File::open(file).map_err(|source| LoadError::io(file, source))?;
    // SAFETY: the map is only read. Model files are written once and then replaced, not changed in place;
    // a file that is cut while it is mapped would stop the process, which no reader could survive either.
    unsafe { Mmap::map(&opened) }.map_err(|source| LoadError::io(file, source))
}
