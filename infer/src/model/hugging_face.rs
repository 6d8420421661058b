//! Hugging Face folders: `config.json` and `model.safetensors`, alone or in several pieces under
//! `model.safetensors.index.json`.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::LoadError;
use super::weights::{Format, Found, Kind, Tensor, map};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Whether a folder holds weights of this kind.
pub(super) fn is_present(folder: &Path) -> bool {
    folder.join(SINGLE).is_file() || folder.join(INDEX).is_file()
}

/// Opens all pieces of a folder and lists their tensors.
pub(super) fn open(folder: &Path) -> Result<Found, LoadError> {
    let config_file = folder.join("config.json");
    let config: Config = read_json(&config_file)?;
    if config.model_type != "whisper" {
        return Err(LoadError::unsupported(
            &config_file,
            format!("it describes a {:?} model, not whisper", config.model_type),
        ));
    }
    if config.activation_function != "gelu" {
        return Err(LoadError::unsupported(
            &config_file,
            format!("its activation {:?} is not the exact GELU", config.activation_function),
        ));
    }
    let (file, names) = if folder.join(INDEX).is_file() {
        let index: Index = read_json(&folder.join(INDEX))?;
        let names: BTreeSet<String> = index.weight_map.into_values().collect();
        if let Some(name) =
            names.iter().find(|name| Path::new(name).file_name().is_none_or(|file| file != name.as_str()))
        {
            return Err(LoadError::damaged(
                &folder.join(INDEX),
                format!("it points outside its folder, to {name:?}"),
            ));
        }
        (folder.join(INDEX), names.into_iter().collect())
    } else {
        (folder.join(SINGLE), vec![SINGLE.to_owned()])
    };
    let mut maps = Vec::new();
    let mut files = Vec::new();
    let mut tensors = HashMap::new();
    for (piece, name) in names.iter().enumerate() {
        let file = folder.join(name);
        let bytes = map(&file)?;
        list(&bytes, &file, piece, &mut tensors)?;
        maps.push(bytes);
        files.push(file);
    }
    let heads = (config.encoder_attention_heads, config.decoder_attention_heads);
    Ok(Found { format: Format::HuggingFace, file, files, maps, tensors, heads })
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    model_type: String,
    encoder_attention_heads: usize,
    decoder_attention_heads: usize,
    #[serde(default = "gelu")]
    activation_function: String,
}

fn gelu() -> String {
    "gelu".into()
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

fn read_json<T: serde::de::DeserializeOwned>(file: &Path) -> Result<T, LoadError> {
    let text = std::fs::read(file).map_err(|source| LoadError::io(file, source))?;
    serde_json::from_slice(&text).map_err(|error| LoadError::damaged(file, error))
}

fn list(
    bytes: &[u8],
    file: &Path,
    piece: usize,
    tensors: &mut HashMap<String, Tensor>,
) -> Result<(), LoadError> {
    let stored = SafeTensors::deserialize(bytes).map_err(|error| LoadError::damaged(file, error))?;
    for (name, view) in stored.iter() {
        let kind = match view.dtype() {
            Dtype::F32 => Kind::F32,
            Dtype::F16 => Kind::F16,
            Dtype::BF16 => Kind::Bf16,
            other => {
                return Err(LoadError::unsupported(file, format!("{name} has elements of type {other:?}")));
            }
        };
        let start = view.data().as_ptr().addr() - bytes.as_ptr().addr();
        let tensor =
            Tensor { map: piece, start, end: start + view.data().len(), shape: view.shape().to_vec(), kind };
        // Some exports drop the outer "model.".
        let name = name.strip_prefix("model.").unwrap_or(name);
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(())
}

/// The stored tensors that make up one of CTranslate2's names, in order.
pub(super) fn parts(name: &str) -> Vec<String> {
    let steps: Vec<&str> = name.split('/').collect();
    let (head, leaf) = steps.split_at(steps.len() - 1);
    let leaf = match leaf[0] {
        "gamma" => "weight",
        "beta" => "bias",
        "encodings" => "weight",
        other => other,
    };
    let prefixes: &[&str] = match &head[1..] {
        ["position_encodings"] => &["embed_positions"],
        ["embeddings"] => &["embed_tokens"],
        [_, "self_attention", "layer_norm"] => &["self_attn_layer_norm"],
        [_, "self_attention", "linear_0"] => &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        [_, "self_attention", "linear_1"] => &["self_attn.out_proj"],
        [_, "attention", "layer_norm"] => &["encoder_attn_layer_norm"],
        [_, "attention", "linear_0"] => &["encoder_attn.q_proj"],
        [_, "attention", "linear_1"] => &["encoder_attn.k_proj", "encoder_attn.v_proj"],
        [_, "attention", "linear_2"] => &["encoder_attn.out_proj"],
        [_, "ffn", "layer_norm"] => &["final_layer_norm"],
        [_, "ffn", "linear_0"] => &["fc1"],
        [_, "ffn", "linear_1"] => &["fc2"],
        // conv1, conv2 and the final layer_norm have the same name in both.
        [other] => return vec![format!("{}.{other}.{leaf}", head[0])],
        _ => return vec![name.to_owned()],
    };
    let layer = head[1].strip_prefix("layer_").map(|layer| format!("layers.{layer}.")).unwrap_or_default();
    prefixes.iter().map(|prefix| format!("{}.{layer}{prefix}.{leaf}", head[0])).collect()
}

#[cfg(test)]
mod tests;
