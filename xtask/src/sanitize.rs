//! The engine's tests under AddressSanitizer.

use std::process::ExitCode;

use anyhow::Result;

use crate::{cargo, say};

/// Builds the engine's tests with the sanitizer into a folder of their own and runs them. Any access outside of what was
/// allocated ends them with a report. Real weights are left out: they would show the kernels no other sizes.
pub fn run() -> Result<ExitCode> {
    say::title("building the engine's tests with AddressSanitizer (minutes) and running them");
    let mut tests = cargo::command();
    tests.args(["test", "--release", "-p", "infer", "--lib", "--target", &host()?]);
    tests.arg("--target-dir").arg(crate::cache().join("sanitize"));
    // The stable compiler carries the sanitizer's runtime and hides only the flag.
    tests.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=address");
    tests.env_remove("VOICEFORGE_TEST_MODELS").env_remove("VOICEFORGE_TEST_CLIPS");
    let status = cargo::status(&mut tests)?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The target that this machine is; named, so that build scripts are built without the sanitizer.
fn host() -> Result<String> {
    let target = match (std::env::consts::ARCH, std::env::consts::OS) {
        (arch @ ("x86_64" | "aarch64"), "linux") => format!("{arch}-unknown-linux-gnu"),
        (arch, os) => anyhow::bail!(
            "AddressSanitizer is set up here for Linux on x86_64 and aarch64, not {os} on {arch}"
        ),
    };
    Ok(target)
}
