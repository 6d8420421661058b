//! Formatting, clippy, and a few rules on the text of the tree that neither knows.

use std::collections::HashSet;
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
    let (mut pages, mut words) = (Vec::new(), HashSet::new());
    for name in String::from_utf8_lossy(&listed.stdout).split('\0').filter(|name| !name.is_empty()) {
        // A file that is deleted but not yet committed, or one that is not text, has nothing to say.
        let Ok(text) = std::fs::read_to_string(crate::root().join(name)) else { continue };
        for (number, line) in text.lines().enumerate() {
            if let Some(why) = complaint(line, &here) {
                mistakes.push(format!("{name}:{}: {why}", number + 1));
            }
        }
        if name.ends_with(".md") {
            pages.push((name.to_owned(), text));
        } else {
            words
                .extend(text.split(|c: char| !is_of_name(c)).filter(|word| is_long(word)).map(str::to_owned));
        }
    }
    for (name, text) in &pages {
        let unknown = long_names(text).filter(|word| !words.contains(*word));
        mistakes.extend(unknown.map(|word| format!("{name}: `{word}` stands nowhere in the sources")));
    }
    Ok(mistakes)
}

/// Names of a page that are those of a test, a metric or an option by their length, in backticks, without their paths.
fn long_names(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.split('`').skip(1).step_by(2);
    let last = quoted.filter_map(|path| path.rsplit("::").next());
    last.filter(|name| is_long(name) && name.chars().all(is_of_name))
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

fn is_long(name: &str) -> bool {
    name.matches('_').count() >= 3
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
    use super::{complaint, long_names};

    #[test]
    fn lines_are_judged() {
        let here = "/home/someone/voiceforge";
        assert_eq!(complaint("a plain line about /home/someone", here), None);
        assert!(complaint("see /home/someone/voiceforge/docs", here).is_some());
        assert!(complaint(concat!("// TO", "DO: later"), here).is_some());
        assert_eq!(complaint(concat!("TO", "DOWN"), here), None);
        assert!(complaint(concat!("<<<<", "<<< ours"), here).is_some());
    }

    #[test]
    fn long_names_of_a_page_are_found() {
        let page = "`a_b`, `stage::points::what_a_worker_does`, `not a_name_of_this`\n```\ncargo a_b_c_d\n```\n`keeper_lost_facts_total`";
        assert_eq!(long_names(page).collect::<Vec<_>>(), ["what_a_worker_does", "keeper_lost_facts_total"]);
    }
}
