//! Cargo, called as a chore calls it.

use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, bail};

/// The packages of the programs, as the root manifest's default members.
pub const PROGRAMS: &[&str] = &["ingest", "decode", "infer", "project", "api", "cli"];

/// The cargo that runs this chore.
pub fn command() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What `cargo run` sets for this program says nothing about the programs it builds.
    for (name, _) in std::env::vars_os() {
        let owned = name.to_string_lossy();
        if owned.starts_with("CARGO_PKG_") || owned == "CARGO_MANIFEST_DIR" || owned == "CARGO_MANIFEST_PATH"
        {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Runs it with its own progress on the terminal.
pub fn run(arguments: &[&str]) -> Result<()> {
    let status = status(command().args(arguments))?;
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(())
}

/// Runs a command to its end, its output on the terminal.
pub fn status(command: &mut Command) -> Result<ExitStatus> {
    command.status().with_context(|| format!("run {}", command.get_program().to_string_lossy()))
}

/// Where release programs are built.
pub fn programs() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    crate::root().join(target).join("release")
}
