//! The tests of the engine and of the kernels under AddressSanitizer.

use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result, ensure};

use crate::{cargo, say};

/// Runs both; the kernels only where there is a compiler that has the sanitizer.
pub fn run() -> Result<ExitCode> {
    let whole = [engine()?, kernels()?].iter().all(ExitStatus::success);
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the engine's tests with the sanitizer into a folder of their own and runs them. Any access outside of what was
/// allocated ends them with a report. Real weights are left out: they would show the kernels no other sizes.
fn engine() -> Result<ExitStatus> {
    say::title("building the engine's tests with AddressSanitizer (minutes) and running them");
    let mut tests = cargo::command();
    tests.args(["test", "--release", "-p", "infer", "--lib", "--target", &host()?]);
    tests.arg("--target-dir").arg(crate::cache().join("sanitize"));
    // The stable compiler carries the sanitizer's runtime and hides only the flag.
    tests.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=address");
    tests.env_remove("VOICEFORGE_TEST_MODELS").env_remove("VOICEFORGE_TEST_CLIPS");
    cargo::status(&mut tests)
}

/// Runs the kernels' tests with the emulated kernels sanitized: their arrays are the tests', so the sanitizer's allocator
/// is loaded in front of the test program.
fn kernels() -> Result<ExitStatus> {
    say::title("running the kernels under AddressSanitizer");
    let found = Command::new("g++").arg("-print-file-name=libasan.so").output().context("run g++")?;
    let library = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    ensure!(Path::new(&library).is_absolute(), "g++ has no libasan.so; install the one of its version");
    let mut tests = cargo::command();
    tests.args(["test", "--release", "-p", "kernels", "--lib"]);
    tests.env("VOICEFORGE_TEST_SANITIZE", "1").env("CXX", "g++");
    let runner = format!("CARGO_TARGET_{}_RUNNER", host()?.to_uppercase().replace('-', "_"));
    // Fibers that a found mistake leaves where they are look like leaks.
    tests.env(runner, format!("env LD_PRELOAD={library} ASAN_OPTIONS=detect_leaks=0"));
    cargo::status(&mut tests)
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
