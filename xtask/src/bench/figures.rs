//! Figures of a whole deployment: the pipeline's own latency, reads over HTTP, memory. `voiceforge-figures` measures.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use super::{machine, page};
use crate::setup::{self, ForTests};
use crate::{cargo, say};

/// The pipeline's own latency.
pub fn latency(more: &[&str]) -> Result<ExitCode> {
    measure("latency", "The pipeline's own latency", more)
}

/// Transcripts read over HTTP.
pub fn reads(more: &[&str]) -> Result<ExitCode> {
    measure("reads", "Reads over HTTP", more)
}

/// What the programs keep in memory.
pub fn memory(more: &[&str]) -> Result<ExitCode> {
    measure("memory", "Memory", more)
}

fn measure(name: &str, title: &str, more: &[&str]) -> Result<ExitCode> {
    let tools = setup::for_tests()?;
    say::title("building the programs");
    cargo::run(&["build", "--release", "--workspace", "--bins"])?;
    say::title(format_args!("measuring {name}"));
    let machine = machine::describe();
    let clips = tools.clips.display().to_string();
    let mut all = more.to_vec();
    if name != "reads" {
        all.insert(0, &clips);
    }
    let body = body(&tools, name, &all)?;
    let command = ["cargo xtask bench", name].into_iter().chain(more.iter().copied()).collect::<Vec<_>>();
    let text = format!("# {title}\n\nWritten by `{}`.\n\nMachine: {machine}.\n\n{body}", command.join(" "));
    page::write(&format!("{name}.md"), &text)
}

/// Runs the program that measures; returns the body of its page.
pub fn body(tools: &ForTests, name: &str, more: &[&str]) -> Result<String> {
    let mut command = Command::new(cargo::programs().join("voiceforge-figures"));
    command.arg(name);
    // Ctrl-C reaches it as well, and it stops what it has started.
    command.args(more).env("VOICEFORGE_POSTGRES_BIN", &tools.postgres[0]).stdin(Stdio::null());
    let output = command.stderr(Stdio::inherit()).output().context("run voiceforge-figures")?;
    if !output.status.success() {
        bail!("{name} could not be measured");
    }
    String::from_utf8(output.stdout).context("read what was measured")
}
