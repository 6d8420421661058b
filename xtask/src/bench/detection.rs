//! The speech detector: misses, false alarms, words after cutting, and its share of a transcription.
//! `voiceforge-figures` measures.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::{figures, machine, page};
use crate::{cargo, say, setup};

const HELP: &str = "\
cargo xtask bench detection [options]
  --clips FOLDER    more recordings, with NAME.txt beside each or a transcripts.tsv
  --seconds N       seconds of each mixture (240)
  --no-words        leave out the word errors, which take most of the time; writes no page
";

/// Measures, prints, and writes the page.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    let mut folders = Vec::new();
    let (mut seconds, mut words) = ("240".to_owned(), true);
    let mut rest = arguments.iter();
    while let Some(option) = rest.next() {
        let mut value = || rest.next().copied().with_context(|| format!("{option} needs a value\n\n{HELP}"));
        match *option {
            "--clips" => folders.push(value()?.to_owned()),
            "--seconds" => seconds = value()?.to_owned(),
            "--no-words" => words = false,
            other => bail!("{other} is no option\n\n{HELP}"),
        }
    }
    let tools = setup::for_tests()?;
    if servers::find::on_path("sox").is_none() {
        bail!("the mixtures are made with sox; install it");
    }
    say::title("building the programs");
    cargo::run(&["build", "--release", "--workspace", "--bins"])?;
    say::title("measuring detection");
    let machine = machine::describe();
    let mut more = vec![tools.models.display().to_string(), seconds];
    if !words {
        more.push("--no-words".to_owned());
    }
    more.push(tools.clips.display().to_string());
    let count = folders.len();
    more.extend(folders);
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let body = figures::body(&tools, "detection", &more)?;
    let with = if count == 0 { "" } else { " --clips FOLDER" };
    let text = format!(
        "# Speech detection\n\nWritten by `cargo xtask bench detection{with}`.\n\nMachine: {machine}.\n\n{body}"
    );
    if !words {
        print!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    page::write("detection.md", &text)
}
