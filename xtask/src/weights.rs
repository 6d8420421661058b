//! The weights of the speech detector, from the network that its authors publish.

mod onnx;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::say;
use crate::setup::{check_sha256, unpack_wheel, within_temporary};

const WHEEL: &str = "silero-vad==6.2.3";
const NETWORK: &str = "silero_vad/data/silero_vad_16k_op15.onnx";
const NETWORK_SHA256: &str = "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49";
const LICENCE: &str = "silero_vad-6.2.3.dist-info/licenses/LICENSE";
const FOLDER: &str = "decode/weights";

/// The tensors in the order of the file, with their shapes.
const TENSORS: &[(&str, &[u64])] = &[
    ("model.encoder.0.reparam_conv.weight", &[128, 129, 3]),
    ("model.encoder.0.reparam_conv.bias", &[128]),
    ("model.encoder.1.reparam_conv.weight", &[64, 128, 3]),
    ("model.encoder.1.reparam_conv.bias", &[64]),
    ("model.encoder.2.reparam_conv.weight", &[64, 64, 3]),
    ("model.encoder.2.reparam_conv.bias", &[64]),
    ("model.encoder.3.reparam_conv.weight", &[128, 64, 3]),
    ("model.encoder.3.reparam_conv.bias", &[128]),
    ("model.decoder.rnn.weight_ih", &[512, 128]),
    ("model.decoder.rnn.weight_hh", &[512, 128]),
    ("model.decoder.rnn.bias_ih", &[512]),
    ("model.decoder.rnn.bias_hh", &[512]),
    ("model.decoder.decoder.2.weight", &[1, 128, 1]),
    ("model.decoder.decoder.2.bias", &[1]),
];

/// Fetches the wheel and writes the weights in the tree anew.
pub fn run() -> Result<ExitCode> {
    say::title("weights of the speech detector");
    within_temporary(|work| {
        say::step(format_args!("downloading {WHEEL}"), || unpack_wheel(WHEEL, work))?;
        let network = work.join(NETWORK);
        check_sha256(&network, NETWORK_SHA256)?;
        let network = std::fs::read(&network).context("read the network")?;
        let mut bytes = Vec::new();
        for (name, shape) in TENSORS {
            let tensor = onnx::tensor(&network, name)?;
            ensure!(tensor.shape == *shape, "{name} has the shape {:?}", tensor.shape);
            bytes.extend_from_slice(tensor.floats);
        }
        let written = format!("{FOLDER}/silero-vad-16k.f32");
        std::fs::write(&written, bytes).with_context(|| format!("write {written}"))?;
        std::fs::copy(work.join(LICENCE), format!("{FOLDER}/LICENSE")).context("copy the licence")?;
        say::note(format_args!("{written} is written"));
        Ok(ExitCode::SUCCESS)
    })
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_weights_in_the_tree_are_those_that_their_page_names() {
        let folder = crate::root().join(FOLDER);
        let weights = std::fs::read(folder.join("silero-vad-16k.f32")).unwrap();
        let numbers: u64 = TENSORS.iter().map(|(_, shape)| shape.iter().product::<u64>()).sum();
        assert_eq!(weights.len() as u64, numbers * 4);
        let digest: String = Sha256::digest(&weights).iter().map(|byte| format!("{byte:02x}")).collect();
        let page = std::fs::read_to_string(folder.join("README.md")).unwrap();
        assert!(page.contains(&digest), "{digest}");
    }
}
