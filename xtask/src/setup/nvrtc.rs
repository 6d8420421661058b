//! NVIDIA's run-time compiler and disassembler, from the wheels that they publish for Python.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{place, python};
use crate::say;

/// 13.0 is what drivers of the 580 series read; the disassembler has no release that old and reads older files.
const WHEELS: &[&str] = &["nvidia-cuda-nvrtc==13.0.88", "nvidia-cuda-nvdisasm==13.2.51"];
const FOLDER: &str = "nvrtc-13.0.88";

/// Where they are.
pub struct Nvrtc {
    /// `libnvrtc.so.13`
    pub compiler: PathBuf,
    /// The library that it loads.
    pub builtins: PathBuf,
    /// `nvdisasm`
    pub disassembler: PathBuf,
}

/// Finds or fetches them: 95 MB, once.
pub fn nvrtc() -> Result<Nvrtc> {
    let folder = place::folder(FOLDER, |new| {
        for wheel in WHEELS {
            say::step(format_args!("downloading {wheel}"), || python::unpack_wheel(wheel, new))?;
        }
        // A second copy of the compiler for old systems, half of all bytes.
        let lib = new.join("nvidia/cu13/lib");
        for entry in std::fs::read_dir(&lib).context("list the compiler's libraries")?.flatten() {
            if entry.file_name().to_string_lossy().contains(".alt.") {
                std::fs::remove_file(entry.path())?;
            }
        }
        // Unpacking leaves out who may run a file.
        let disassembler = new.join("nvidia/cu13/bin/nvdisasm");
        std::fs::set_permissions(&disassembler, std::fs::Permissions::from_mode(0o755))
            .context("make the disassembler a program")
    })?;
    let cuda = folder.join("nvidia/cu13");
    Ok(Nvrtc {
        compiler: cuda.join("lib/libnvrtc.so.13"),
        builtins: cuda.join("lib/libnvrtc-builtins.so.13.0"),
        disassembler: cuda.join("bin/nvdisasm"),
    })
}
