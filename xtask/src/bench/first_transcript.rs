//! How long a newcomer waits: from `git clone` to the demo's transcript, with nothing fetched and nothing built.

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{cargo, say};

/// Clones what is committed into a temporary folder and runs the demo there twice.
pub fn run() -> Result<ExitCode> {
    let folder = std::env::temp_dir().join(format!("voiceforge-newcomer-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let result = measure(&folder);
    std::fs::remove_dir_all(&folder).context("remove the clone")?;
    let (first, second) = result?;
    println!(
        "from clone to transcript: {:.0} s; second run: {:.1} s",
        first.as_secs_f64(),
        second.as_secs_f64()
    );
    Ok(ExitCode::SUCCESS)
}

fn measure(folder: &std::path::Path) -> Result<(Duration, Duration)> {
    say::title("a newcomer's first and second run of the demo");
    let begun = Instant::now();
    let mut clone = Command::new("git");
    clone.args(["clone", "--quiet"]).arg(crate::root()).arg(folder);
    if !cargo::status(&mut clone)?.success() {
        bail!("git clone failed");
    }
    let demo = || -> Result<()> {
        let mut demo = cargo::command();
        demo.args(["xtask", "demo", "--once"]).current_dir(folder).stdin(Stdio::null());
        demo.env_remove("VOICEFORGE_CACHE").env_remove("CARGO_TARGET_DIR");
        if !cargo::status(&mut demo)?.success() {
            bail!("the demo failed");
        }
        Ok(())
    };
    demo()?;
    let first = begun.elapsed();
    let begun = Instant::now();
    demo()?;
    Ok((first, begun.elapsed()))
}
