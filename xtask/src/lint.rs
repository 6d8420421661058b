//! Formatting, clippy, and a few rules on the text of the tree that neither knows.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::{cargo, say};

/// Checks everything; the first kind of mistake found ends it.
pub fn run() -> Result<ExitCode> {
    say::title("formatting");
    cargo::run(&["fmt", "--all", "--check"]).context("run `cargo fmt --all` to repair it")?;
    say::title("clippy");
    cargo::run(&["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    say::title("text of the tree");
    let mistakes = mistakes()?;
    for mistake in &mistakes {
        eprintln!("  {mistake}");
    }
    if !mistakes.is_empty() {
        bail!("{} mistakes in the text of the tree", mistakes.len());
    }
    say::note("nothing to complain about");
    Ok(ExitCode::SUCCESS)
}

fn mistakes() -> Result<Vec<String>> {
    let listed = Command::new("git").args(["ls-files", "-z"]).output().context("list the files with git")?;
    let here = crate::root().display().to_string();
    let mut mistakes = Vec::new();
    for name in String::from_utf8_lossy(&listed.stdout).split('\0').filter(|name| !name.is_empty()) {
        // A file that is deleted but not yet committed, or one that is not text, has nothing to say.
        let Ok(text) = std::fs::read_to_string(crate::root().join(name)) else { continue };
        for (number, line) in text.lines().enumerate() {
            if let Some(why) = complaint(line, &here) {
                mistakes.push(format!("{name}:{}: {why}", number + 1));
            }
        }
    }
    Ok(mistakes)
}

/// What is wrong with a line, if anything. `here` is the absolute path of this checkout.
fn complaint(line: &str, here: &str) -> Option<&'static str> {
    // Written in two parts so that this file passes its own rules.
    let unfinished = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let conflict = [concat!("<<<<", "<<< "), concat!(">>>>", ">>> ")];
    if line.contains(here) {
        return Some("names the folder of one machine's checkout");
    }
    if conflict.iter().any(|mark| line.starts_with(mark)) {
        return Some("a merge conflict is left in it");
    }
    let words = |word: &&str| line.split(|c: char| !c.is_alphanumeric()).any(|w| w == *word);
    if unfinished.iter().any(words) {
        return Some("says that something is unfinished; finish it or write an issue");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::complaint;

    #[test]
    fn lines_are_judged() {
        let here = "/home/someone/voiceforge";
        assert_eq!(complaint("a plain line about /home/someone", here), None);
        assert!(complaint("see /home/someone/voiceforge/docs", here).is_some());
        assert!(complaint(concat!("// TO", "DO: later"), here).is_some());
        assert_eq!(complaint(concat!("TO", "DOWN"), here), None);
        assert!(complaint(concat!("<<<<", "<<< ours"), here).is_some());
    }
}
