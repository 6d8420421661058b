//! How far the engine is from what this machine can do.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use super::{machine, page};
use crate::{cargo, say, setup, stop};

/// Measures with each model that the tests use.
pub fn run() -> Result<ExitCode> {
    stop::on_signal()?;
    let tools = setup::for_tests()?;
    say::title("building the engine's example");
    // The whole workspace, so that no dependency is built again with other features.
    cargo::run(&["build", "--release", "--workspace", "--example", "limits"])?;
    let machine = machine::describe();
    say::title("peaks, then each part of the work alone");
    let mut limits = Command::new(cargo::programs().join("examples/limits"));
    limits.args(["tiny.en", "base"].map(|model| tools.models.join(model)));
    let output = limits.output().context("run the example")?;
    ensure!(output.status.success(), "it failed: {}", String::from_utf8_lossy(&output.stderr));
    let tables = String::from_utf8(output.stdout).context("read its tables")?;
    let text = format!(
        "# The engine and the machine\n\nWritten by `cargo xtask bench limits`.\n\nMachine: {machine}.\n\n\
         What a window and a step of decoding (int8) cost, part by part. Operations are counted from the shapes, a \
         multiplication\nand an addition as two; bytes are weights, keys and values, which have to be read at least once. \
         *At least* is the time\nthat the measured peaks allow, of computing or of reading, whichever is longer. Each part is \
         measured alone, over and over,\nso what fits a cache is found there, and it may be quicker than memory allows; the whole \
         is measured as it is.\nMedians.\n\n{tables}"
    );
    page::write("limits.md", &text)
}
