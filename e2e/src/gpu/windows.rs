//! How many windows a second a GPU encodes and reads, with models of Whisper's sizes.

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::Result;
use infer::backend::{Ask, Backend, Feed, Row, Run, Slot, Sound};
use infer::cpu::Precision;
use infer::devices::{self, Place};
use infer::engine::Setup;
use infer::features::WINDOW_FRAMES;
use infer::model::{AUDIO_POSITIONS, weights::Weights};
use infer::sampling::Sampling;

use super::geometry::{ALL, Geometry};
use super::median;

/// Tokens that a window of 30 s takes, as speech of the usual speed has them, and one of 5 s.
pub const TOKENS: usize = 110;
const SHORT_TOKENS: usize = 25;

/// Positions of a window of 5 s and a margin of 2 s.
const SHORT_POSITIONS: usize = 350;

/// Windows at once.
const BATCHES: [usize; 3] = [1, 16, 64];

/// Times that each is measured, behind one that is not.
const ROUNDS: usize = 5;

/// Measures the models of these names, all where there is none; returns a section of the page.
pub fn measure(names: &[&str], ordinal: usize) -> Result<String> {
    let mut page = format!(
        "## Windows\n\nRandom weights of Whisper's sizes in bf16; 30 s of sound and {TOKENS} tokens a window, encoding included, no text ends \
         early. *Short* is the time from the samples of 5 s to its last of {SHORT_TOKENS} tokens, *long* the same of 30 s, one window \
         alone. Medians of {ROUNDS}.\n\n\
         | model | windows/s at 1 | at 16 | at 64 | tokens/s at 64 | short, ms | long, ms | memory, MiB |\n|---|--:|--:|--:|--:|--:|--:|--:|\n"
    );
    for geometry in ALL.iter().filter(|geometry| names.is_empty() || names.contains(&geometry.name)) {
        eprintln!("  {}", geometry.name);
        match model(geometry, ordinal) {
            Ok(line) => page += &line,
            Err(error) => {
                let _ = writeln!(page, "| {} | not measured: {error:#} | | | | | | |", geometry.name);
            }
        }
    }
    Ok(page)
}

fn model(geometry: &Geometry, ordinal: usize) -> Result<String> {
    let folder = tempfile::tempdir()?;
    geometry.write(folder.path())?;
    let weights = Weights::open(folder.path())?;
    let pcm: Vec<i16> =
        (0..30 * 16_000).map(|i: i32| ((i.wrapping_mul(i) / 50) % 16_001 - 8_000) as i16).collect();
    let mut rates = Vec::new();
    let (mut tokens, mut memory) = (0.0, 0);
    let (mut short, mut long) = (0.0, 0.0);
    for batch in BATCHES {
        let (place, precision) = (Place::Cuda(ordinal), Precision::Bf16);
        let setup = Setup { place, precision, segments: batch, ..Setup::default() };
        let mut backend = devices::load(&weights, geometry.rules(), Vec::new(), setup)?;
        let whole = timed(&mut *backend, &pcm, (batch, AUDIO_POSITIONS, TOKENS))?;
        rates.push(batch as f64 / whole);
        if batch == 1 {
            long = whole * 1e3;
            short = timed(&mut *backend, &pcm[..5 * 16_000], (1, SHORT_POSITIONS, SHORT_TOKENS))? * 1e3;
        }
        let without = timed(&mut *backend, &pcm, (batch, AUDIO_POSITIONS, 1))?;
        tokens = (batch * (TOKENS - 1)) as f64 / (whole - without).max(1e-9);
        memory = backend.report().bytes() >> 20;
    }
    Ok(format!(
        "| {} | {:.1} | {:.1} | {:.1} | {tokens:.0} | {short:.1} | {long:.1} | {memory} |\n",
        geometry.name, rates[0], rates[1], rates[2]
    ))
}

/// Seconds that so many windows of so many positions take, each with so many tokens.
fn timed(
    backend: &mut dyn Backend,
    pcm: &[i16],
    (batch, positions, tokens): (usize, usize, usize),
) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..=ROUNDS {
        let begun = Instant::now();
        let windows: Vec<Sound<'_>> = (0..batch)
            .map(|slot| Sound { slot: Slot(slot), pcm, from: 0, frames: WINDOW_FRAMES, positions })
            .collect();
        for some in windows.chunks(backend.capacity().windows) {
            backend.encode(some)?;
        }
        let prompt = [50_258, 50_259, 50_359];
        for at in 0..tokens {
            let step: Vec<Run<'_>> = (0..batch)
                .map(|row| {
                    let sampling = Sampling { timestamps: false, ..Sampling::default() };
                    let start = Feed::Start { slot: Slot(row), prompt: &prompt, start: 0, sampling };
                    let feed = if at == 0 { start } else { Feed::Sampled };
                    Run { row: Row(row), feed, ask: Ask::Token }
                })
                .collect();
            backend.submit(&step)?;
        }
        backend.submit(&[])?;
        times.push(begun.elapsed().as_secs_f64());
    }
    Ok(median(&mut times[1..]))
}
