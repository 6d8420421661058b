//! Word errors beside faster-whisper's: the same weights, options and windows.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::{cargo, say, setup};

/// Compares on all recordings, with each model that is here.
pub fn run() -> Result<ExitCode> {
    let tools = setup::for_tests()?;
    say::title("building the engine's example");
    // The whole workspace, so that no dependency is built again with other features.
    cargo::run(&["build", "--release", "--workspace", "--example", "transcribe"])?;
    for model in ["tiny.en", "base"] {
        say::title(format_args!("{model}: this engine and faster-whisper on {}", tools.clips.display()));
        let mut compare = Command::new(&tools.python);
        compare.arg("infer/compare/compare.py").arg(tools.models.join(model)).arg(&tools.clips);
        compare
            .arg("--program")
            .arg(cargo::programs().join("examples/transcribe"))
            .args(["--language", "en"]);
        if !cargo::status(&mut compare)?.success() {
            bail!("the comparison with {model} failed");
        }
    }
    Ok(ExitCode::SUCCESS)
}
