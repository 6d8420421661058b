//! Whether a GPU computes what the processor does: each step of real recordings, and their words.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use infer::backend::{Ask, Backend, Feed, Row, Run, Slot, Sound};
use infer::cpu::Precision;
use infer::cuda::Form;
use infer::devices::{self, Place};
use infer::engine::{SEGMENT_SAMPLES_MAX, Setup};
use infer::features::WINDOW_FRAMES;
use infer::model::{self, AUDIO_POSITIONS, weights::Weights};
use infer::sampling::{Rules, Sampling};
use infer::scheduler::URGENT;
use infer::tokens::Tokens;
use infer::{Engine, Options};

use crate::clips::{self, Clip, word_errors};

/// Rows that are read side by side.
const ROWS: usize = 8;

/// Tokens of a recording that are compared at most.
const TOKENS: usize = 100;

/// Where the processor's two likeliest tokens are nearer than this, either may be taken.
const NEAR: f32 = 0.1;

/// What a GPU computes in and how it keeps the sound, and how far its logarithmic probability of the likeliest token may then be
/// from the processor's.
const FORMS: [(&str, Precision, Form, f32); 3] = [
    ("f16", Precision::Int8, Form::Whole, 0.1),
    ("bf16", Precision::Bf16, Form::Whole, 0.6),
    ("f16, sound in e4m3", Precision::Int8, Form::E4m3, 1.0),
];

/// More word errors than the processor in f32 makes, over all recordings of a model.
const MORE_ERRORS: usize = 3;

/// Compares each model of a folder on each recording of another. Returns a report, and whether all is well.
pub fn run(models: &Path, recordings: &Path, ordinal: usize) -> Result<(String, bool)> {
    let clips = clips::in_folder(recordings);
    ensure!(!clips.is_empty(), "{} holds no recording NAME.wav with a NAME.txt", recordings.display());
    let sounds = clips.iter().map(sound).collect::<Result<Vec<_>>>()?;
    let mut report = String::new();
    let mut is_well = true;
    let mut names: Vec<_> = std::fs::read_dir(models)
        .with_context(|| format!("list {}", models.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| Weights::open(path).is_ok())
        .collect();
    names.sort();
    ensure!(!names.is_empty(), "{} holds no model", models.display());
    for folder in names {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let cpu_errors =
            errors(&folder, Setup { precision: Precision::F32, ..Setup::default() }, &clips, &sounds)?;
        for (what, precision, sound, far) in FORMS {
            let setup = Setup { place: Place::Cuda(ordinal), precision, sound, ..Setup::default() };
            let steps = steps(&folder, setup, &sounds, far)?;
            let gpu_errors = errors(&folder, setup, &clips, &sounds)?;
            let is_good = steps.wrong.is_empty() && gpu_errors <= cpu_errors + MORE_ERRORS;
            is_well &= is_good;
            let verdict = if is_good { "good" } else { "BAD" };
            let _ = writeln!(
                report,
                "{name} {what}: {verdict}; {} steps, likeliest token's logprob at most {:.4} apart (mean {:.5}), {} taken \
                 otherwise where the processor's two are within {NEAR}; word errors {gpu_errors}, processor {cpu_errors}",
                steps.count,
                steps.farthest,
                steps.sum / steps.count.max(1) as f64,
                steps.near.len(),
            );
            for line in steps.near.iter().map(|line| format!("  near: {line}")) {
                let _ = writeln!(report, "{line}");
            }
            for line in steps.wrong.iter().map(|line| format!("  WRONG: {line}")) {
                let _ = writeln!(report, "{line}");
            }
        }
    }
    Ok((report, is_well))
}

/// What came of comparing steps.
#[derive(Default)]
struct Steps {
    count: usize,
    farthest: f32,
    sum: f64,
    /// Other tokens, where the processor's two likeliest were near.
    near: Vec<String>,
    /// Other tokens or probabilities than may be.
    wrong: Vec<String>,
}

/// Both backends read the processor's text; what they hold for likeliest behind each token is compared.
fn steps(folder: &Path, setup: Setup, sounds: &[Arc<[i16]>], far: f32) -> Result<Steps> {
    let weights = Weights::open(folder)?;
    let dims = model::dims(&weights)?;
    let tokens = Tokens::load(folder, weights.format(), dims.vocabulary)?;
    let load = |setup: Setup| -> Result<Box<dyn Backend>> {
        let heads = model::alignment_heads(folder, dims)?;
        Ok(devices::load(&weights, Rules::new(&tokens), heads, Setup { segments: ROWS, ..setup })?)
    };
    let mut gpu = load(setup)?;
    let mut cpu = load(Setup { precision: Precision::F32, ..Setup::default() })?;
    let special = tokens.special;
    let mut prompt = vec![special.start];
    if let Some(language) = tokens.language("en") {
        prompt.extend([language, special.transcribe]);
    }
    let mut found = Steps::default();
    for (batch, some) in sounds.chunks(ROWS).enumerate() {
        let windows: Vec<Sound<'_>> = some
            .iter()
            .enumerate()
            // Each other window is trimmed to its sound and two seconds.
            .map(|(slot, pcm)| Sound {
                slot: Slot(slot),
                pcm,
                from: 0,
                frames: WINDOW_FRAMES,
                positions: if slot % 2 == 0 {
                    AUDIO_POSITIONS
                } else {
                    (pcm.len() / 320 + 100).min(AUDIO_POSITIONS)
                },
            })
            .collect();
        gpu.encode(&windows)?;
        cpu.encode(&windows)?;
        let sampling = Sampling::default();
        let mut feeds: Vec<Option<Feed<'_>>> = (0..some.len())
            .map(|slot| Some(Feed::Start { slot: Slot(slot), prompt: &prompt, start: 0, sampling }))
            .collect();
        for at in 0..TOKENS {
            let step: Vec<Run<'_>> = feeds
                .iter()
                .enumerate()
                .filter_map(|(row, feed)| Some(Run { row: Row(row), feed: (*feed)?, ask: Ask::Top(5) }))
                .collect();
            if step.is_empty() {
                break;
            }
            let (got, expected) = (answers(&mut *gpu, &step)?, answers(&mut *cpu, &step)?);
            for (got, expected) in got.iter().zip(&expected) {
                let row = expected.row.0;
                let (Some((best, score)), Some((taken, own))) = (expected.tokens.first(), got.tokens.first())
                else {
                    feeds[row] = None;
                    continue;
                };
                let margin = expected.tokens.get(1).map_or(f32::INFINITY, |(_, second)| score - second);
                let apart = (score - own).abs();
                found.count += 1;
                found.farthest = found.farthest.max(apart);
                found.sum += f64::from(apart);
                let line = || {
                    format!(
                        "recording {}, token {at}: {taken} ({own:.3}) and not {best} ({score:.3}, {margin:.3} before the next)",
                        batch * ROWS + row
                    )
                };
                if taken != best && margin < NEAR {
                    found.near.push(line());
                } else if taken != best || apart > far {
                    found.wrong.push(line());
                }
                feeds[row] = (*best != special.end).then_some(Feed::Chosen(*best));
            }
        }
    }
    Ok(found)
}

fn answers(backend: &mut dyn Backend, step: &[Run<'_>]) -> Result<Vec<infer::backend::Answer>> {
    let told = backend.submit(step)?.to_vec();
    Ok(if backend.capacity().lag == 0 { told } else { backend.submit(&[])?.to_vec() })
}

/// Word errors of all recordings, transcribed at once.
fn errors(folder: &Path, setup: Setup, clips: &[Clip], sounds: &[Arc<[i16]>]) -> Result<usize> {
    let engine = Engine::load(folder, setup)?;
    let options = Options { language: Some("en".to_owned()), words: true, ..Options::default() };
    let texts = sounds.iter().map(|pcm| engine.transcribe(Arc::clone(pcm), options.clone(), URGENT));
    let texts = futures::executor::block_on(join_all(texts));
    let mut errors = 0;
    for (clip, output) in clips.iter().zip(texts) {
        let output = output.with_context(|| format!("transcribe {}", clip.name()))?;
        let text: Vec<&str> = output.spans.iter().map(|span| span.text.as_str()).collect();
        errors += word_errors(&clip.text, &text.concat());
    }
    Ok(errors)
}

/// A recording's samples: 16 kHz, one channel, as many as a segment holds.
fn sound(clip: &Clip) -> Result<Arc<[i16]>> {
    let bytes = clip.bytes();
    let start = bytes.windows(4).position(|four| four == b"data").map(|at| at + 8);
    let start = start.with_context(|| format!("{} is no WAV file", clip.path.display()))?;
    let samples = bytes[start..].as_chunks().0.iter().map(|pair| i16::from_le_bytes(*pair));
    Ok(samples.take(SEGMENT_SAMPLES_MAX).collect())
}
