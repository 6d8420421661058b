//! CTranslate2's `model.bin`, binary versions 4 to 6, little-endian throughout:
//!
//! ```text
//! version u32; spec name; spec revision u32; count u32; count x variable; aliases u32; aliases x (alias, name)
//! variable: name; rank u8; rank x extent u32; type u8; bytes u32; the elements
//! a string: length u16 with its final NUL, the bytes
//! ```
//! Types: 0 f32, 1 i8, 2 i16, 3 i32, 4 f16, 5 bf16.

use std::collections::HashMap;
use std::path::Path;

use super::LoadError;
use super::weights::{Format, Found, Kind, Tensor, map};

/// Opens `model.bin` of a folder and lists its tensors.
pub(super) fn open(folder: &Path) -> Result<Found, LoadError> {
    let file = folder.join("model.bin");
    let bytes = map(&file)?;
    let tensors = list(&bytes, &file)?;
    let number = |name: &str| number(&tensors, &bytes, name);
    for (name, expected, meaning) in [
        ("decoder/activation", 3, "its activation is not the exact GELU"),
        ("decoder/pre_norm", 1, "it normalises after each part, not before"),
        ("decoder/alibi", 0, "it uses ALiBi positions"),
        ("decoder/scale_embeddings", 0, "it scales its embeddings"),
    ] {
        if number(name).is_some_and(|value| value != expected) {
            return Err(LoadError::unsupported(&file, format!("{meaning}: not an openai Whisper model")));
        }
    }
    let heads = |side: &str| {
        number(&format!("{side}/num_heads"))
            .and_then(|heads| usize::try_from(heads).ok())
            .ok_or_else(|| LoadError::damaged(&file, format!("{side}/num_heads is missing")))
    };
    let heads = (heads("encoder")?, heads("decoder")?);
    Ok(Found {
        format: Format::Ctranslate2,
        files: vec![file.clone()],
        file,
        maps: vec![bytes],
        tensors,
        heads,
    })
}

/// Walks the file without touching the elements.
fn list(bytes: &[u8], file: &Path) -> Result<HashMap<String, Tensor>, LoadError> {
    let mut reader = Reader { bytes, at: 0, file };
    let version = reader.u32()?;
    if !(4..=6).contains(&version) {
        return Err(LoadError::unsupported(
            file,
            format!(
                "it begins with binary version {version}; CTranslate2 versions 4 to 6 are read: convert the model again"
            ),
        ));
    }
    let spec = reader.string()?;
    if spec != "WhisperSpec" {
        return Err(LoadError::unsupported(
            file,
            format!("it is a CTranslate2 model of kind {spec:?}, not Whisper"),
        ));
    }
    let _revision = reader.u32()?;
    let count = reader.u32()?;
    let mut tensors = HashMap::new();
    for _ in 0..count {
        let (name, tensor) = reader.variable()?;
        tensors.insert(name, tensor);
    }
    for _ in 0..reader.u32()? {
        let (alias, name) = (reader.string()?, reader.string()?);
        let tensor = tensors.get(&name).cloned();
        let tensor = tensor.ok_or_else(|| {
            LoadError::damaged(file, format!("{alias} stands for {name}, which is missing"))
        })?;
        tensors.insert(alias, tensor);
    }
    Ok(tensors)
}

/// A scalar whole number, where there is one.
fn number(tensors: &HashMap<String, Tensor>, bytes: &[u8], name: &str) -> Option<i64> {
    let tensor = tensors.get(name)?;
    let bytes = &bytes[tensor.start..tensor.end];
    match tensor.kind {
        Kind::I8 => Some(i64::from(bytes.first()?.cast_signed())),
        Kind::I16 => Some(i64::from(i16::from_le_bytes(*bytes.first_chunk()?))),
        Kind::I32 => Some(i64::from(i32::from_le_bytes(*bytes.first_chunk()?))),
        Kind::F32 | Kind::F16 | Kind::Bf16 => None,
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    file: &'a Path,
}

impl Reader<'_> {
    fn variable(&mut self) -> Result<(String, Tensor), LoadError> {
        let name = self.string()?;
        let rank = self.u8()?;
        if rank > 8 {
            return Err(self.damaged(format!("{name} claims {rank} dimensions")));
        }
        let mut shape = Vec::new();
        for _ in 0..rank {
            shape.push(self.u32()? as usize);
        }
        let kind = match self.u8()? {
            0 => Kind::F32,
            1 => Kind::I8,
            2 => Kind::I16,
            3 => Kind::I32,
            4 => Kind::F16,
            5 => Kind::Bf16,
            other => return Err(self.damaged(format!("{name} claims element type {other}"))),
        };
        let size = self.u32()? as usize;
        let expected = shape.iter().try_fold(kind.bytes(), |size, extent| size.checked_mul(*extent));
        if expected != Some(size) {
            return Err(self.damaged(format!("{name} of shape {shape:?} claims {size} bytes")));
        }
        let start = self.at;
        self.take(size, &name)?;
        Ok((name, Tensor { map: 0, start, end: self.at, shape, kind }))
    }

    fn u8(&mut self) -> Result<u8, LoadError> {
        Ok(self.take(1, "the header")?[0])
    }

    fn u32(&mut self) -> Result<u32, LoadError> {
        let bytes = self.take(4, "the header")?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn string(&mut self) -> Result<String, LoadError> {
        let bytes = self.take(2, "a name")?;
        let length = usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
        let bytes = self.take(length, "a name")?;
        let text = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        match std::str::from_utf8(text) {
            Ok(text) if length <= 512 => Ok(text.to_owned()),
            _ => Err(self.damaged("a name is not text".into())),
        }
    }

    fn take(&mut self, count: usize, what: &str) -> Result<&[u8], LoadError> {
        let rest = &self.bytes[self.at..];
        let Some(taken) = rest.get(..count) else {
            return Err(self.damaged(format!("it ends after {} bytes, inside {what}", self.bytes.len())));
        };
        self.at += count;
        Ok(taken)
    }

    fn damaged(&self, reason: String) -> LoadError {
        LoadError::damaged(self.file, reason)
    }
}

#[cfg(test)]
mod tests;
