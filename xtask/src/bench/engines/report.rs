//! The page of figures.

use std::fmt::Write as _;

use super::section::{Compared, Kind, Section};
use super::statistics::{bootstrap, median};
use super::stream::{LOAD, WAIT_S_MAX};
use super::subject::{FASTER_WHISPER, is_ours};

const HOW: &str = "\
Every engine runs as a process of its own and gets requests as lines of text; it computes with two threads, from the \
same weights (float16, which each brings to its own form), with temperature 0 and no fallback, and reads the same \
WAV files. A clip of at most 30 s is one window; a longer recording each engine cuts in its own way. Clips that come \
one by one are single sentences and read without timestamps; all others are read with them, since without them the \
models leave out sentences. The engines take turns, round by round, in fresh processes that have read one clip \
before; figures are medians over the rounds with the lowest and the highest. Rivals have the settings that were \
quickest here when tried (listed below). *Trimmed* encodes the clip and a margin instead of 30 s: 3 s, and no less \
than 15 s in all, for whisper.cpp, and is a bar to clear only where it costs no more than 3 word errors. Loading and \
Python's start are left out of the seconds and told apart: *start-up* is from the start of the process to a loaded \
model, *load* the loading alone. Memory is the highest resident size of the process, for the rivals with the Python \
they run in.

*Waited* tells how long an engine's threads, all together, stood ready in a round and got no processor: where that \
is not small, something else ran, and the figure is too high.

Word errors are counted after lower-casing and dropping punctuation, for all engines alike. Beside a rival stands \
how many more (or fewer) this engine makes, with the interval that holds 95 % of the sums when clips are drawn again \
(paired bootstrap).
";

/// The whole page.
pub fn page(sections: &[Section], versions: &str) -> String {
    let mut page = String::from(
        "# Engines\n\nWritten by `cargo xtask bench engines`; every figure is in `engines.json`.\n\n",
    );
    let _ = writeln!(page, "{versions}.\n\n{HOW}");
    page += &summary(sections);
    for section in sections {
        page += &tables(section);
    }
    page
}

fn summary(sections: &[Section]) -> String {
    let mut text = String::from(
        "## Beside the better rival\n\n![how many times as fast](engines.svg)\n\n\
         | workload | model | beam | engine | times as fast | as | target | word errors more | memory, of faster-whisper's |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for section in sections {
        for compared in section.compared() {
            let Compared { ours, rival, ratio, target, more_errors, interval } = compared;
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {ratio:.2} | {} | {target}: {} | {} | {} |",
                section.kind.title(),
                section.model,
                section.beam,
                ours.name,
                rival.name,
                if ratio >= target { "met" } else { "missed" },
                more(more_errors, interval, section.clips),
                memory_share(section, ours.memory),
            );
        }
        for beside in &section.beside {
            let wait = |ours: bool| beside.waits.iter().find(|(name, ..)| is_ours(name) == ours);
            let (Some(ours), Some(rival)) = (wait(true), wait(false)) else { continue };
            let ratio = rival.2 / ours.2;
            let _ = writeln!(
                text,
                "| p95 at {:.0} % of the capacity of {} | {} | {} | {} | {ratio:.2} | {} | 2: {} | | |",
                LOAD * 100.0,
                beside.rival,
                section.model,
                section.beam,
                ours.0,
                rival.0,
                if ratio >= 2.0 { "met" } else { "missed" },
            );
        }
    }
    text
}

/// Word errors more, with their interval where there are several clips to draw from.
fn more(errors: i64, (low, high): (i64, i64), clips: usize) -> String {
    if clips > 1 { format!("{errors:+} ({low:+} to {high:+})") } else { format!("{errors:+}") }
}

fn memory_share(section: &Section, ours: f64) -> String {
    let theirs = section.outcomes.iter().find(|outcome| outcome.name.starts_with(FASTER_WHISPER));
    theirs.map_or(String::new(), |theirs| format!("{:.0} %", 100.0 * ours / theirs.memory))
}

fn tables(section: &Section) -> String {
    let Section { kind, model, beam, machine, clips, audio, words, .. } = section;
    let mut text =
        format!("\n## ({}) {}, {model}, beam {beam}\n\nMachine: {machine}.\n", kind.letter(), kind.title());
    let _ = writeln!(text, "{clips} clips, {audio:.0} s, {words} words.\n");
    match kind {
        Kind::Stream => text += &stream_tables(section),
        _ => text += &outcome_table(section),
    }
    if !section.tried.is_empty() {
        text += "\nTried before, for the settings of the rivals:\n\n";
        section.tried.iter().for_each(|(what, seconds)| {
            let _ = writeln!(text, "- {what}: {seconds:.2} s");
        });
    }
    text
}

fn outcome_table(section: &Section) -> String {
    let mut text = String::from(
        "| engine | settings | s | lowest | highest | waited, s | times real time | word errors | ours beside it | start-up, s | load, s | peak memory, MiB |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let ours = section.outcomes.iter().find(|outcome| is_ours(&outcome.name) && !outcome.errors.is_empty());
    for outcome in &section.outcomes {
        let _ = write!(text, "| {} | {} | ", outcome.name, outcome.settings);
        if let Some(why) = &outcome.failure {
            let _ = writeln!(text, "{why} | | | | | | | {:.2} | {:.2} | |", outcome.start_up, outcome.load);
            continue;
        }
        let least = outcome.seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let most = outcome.seconds.iter().copied().fold(0.0, f64::max);
        let errors: usize = outcome.errors.iter().sum();
        let beside = match ours {
            Some(ours) if !is_ours(&outcome.name) => {
                let pairs = ours.errors.iter().zip(&outcome.errors);
                let differences: Vec<i64> = pairs.map(|(a, b)| *a as i64 - *b as i64).collect();
                more(differences.iter().sum(), bootstrap(&differences, 1), section.clips)
            }
            _ => String::new(),
        };
        let _ = writeln!(
            text,
            "{:.3} | {least:.3} | {most:.3} | {:.2} | {:.1} | {errors} ({:.1} %) | {beside} | {:.2} | {:.2} | {:.0} |",
            median(&outcome.seconds),
            median(&outcome.waited),
            section.audio / median(&outcome.busy),
            100.0 * errors as f64 / section.words.max(1) as f64,
            outcome.start_up,
            outcome.load,
            outcome.memory,
        );
    }
    text
}

fn stream_tables(section: &Section) -> String {
    let mut text =
        String::from("| rate | clips a second | engine | p50, s | p95, s |\n|---|---|---|---|---|\n");
    for beside in &section.beside {
        for (name, half, most) in &beside.waits {
            let (load, rival, rate) = (LOAD * 100.0, &beside.rival, beside.rate);
            let _ = writeln!(
                text,
                "| {load:.0} % of the capacity of {rival} | {rate:.2} | {name} | {half:.2} | {most:.2} |"
            );
        }
    }
    let _ =
        writeln!(text, "\n| engine | clips a second up to which p95 is under {WAIT_S_MAX} s |\n|---|---|");
    for (name, rate) in &section.highest {
        let _ = writeln!(text, "| {name} | {rate:.2} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::section::tests::example;
    use super::*;

    #[test]
    fn the_page_tells_ratios_targets_and_failures() {
        let mut section = example();
        section.outcomes[1].seconds.clear();
        section.outcomes[1].errors.clear();
        section.outcomes[1].failure = Some("cannot trim".into());
        let page = page(&[section], "Versions");
        assert!(page.contains(
            "| one clip of 3 to 10 s at a time | tiny.en | 1 | this engine | 2.50 | faster-whisper | 2.5: met | +1 (+0 to +2) | 100 % |"
        ));
        assert!(page.contains("| this engine, trimmed | 2 threads | cannot trim |"));
        assert!(page.contains(
            "| this engine | 2 threads | 0.200 | 0.100 | 0.300 | 0.25 | 25.0 | 3 (15.0 %) |  | 1.00 | 0.50 | 100 |"
        ));
    }
}
