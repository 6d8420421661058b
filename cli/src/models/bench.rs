//! `voiceforge models bench`: how fast a model is on this machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use decode::{DecodeOptions, Decoder, Part, Step};
use futures::future::join_all;
use infer::cpu::Precision;
use infer::cuda::Form;
use infer::devices::{self, Wish};
use infer::engine::Setup;
use infer::scheduler::URGENT;
use infer::{Engine, Options};

use crate::local::Backend;
use crate::out;
use crate::progress::Progress;

/// Times that one segment is transcribed alone.
const ALONE: usize = 5;

/// Segments that are transcribed at once, at least for as many turns of the slots.
const TURNS: usize = 3;

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The model's name
    pub name: String,
    /// A recording of speech, in any format: its segments are transcribed again and again
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where to run it
    #[arg(long, value_enum, default_value_t)]
    pub backend: Backend,
    /// Which GPU, counted from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub device: usize,
    /// Segments at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub slots: u16,
    /// Threads on the processor (default: one for each)
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
    /// Form of the weights: int8, bf16 or f32; on a GPU f16, or bf16 where that is asked for
    #[arg(long, value_name = "FORM", default_value = "int8")]
    pub precision: String,
    /// Keep the sound in e4m3 on a GPU
    #[arg(long)]
    pub e4m3: bool,
}

/// What the help ends with.
pub const EXAMPLES: &str = "\
Examples:
  voiceforge models bench tiny.en talk.mp3
  voiceforge models bench large-v3 talk.mp3 --backend cuda --slots 64
  voiceforge models bench base talk.mp3 --threads 4 --precision f32

Nothing else should run meanwhile. `alone` is one segment by itself, the median of 5; `together`
how many seconds of sound a second takes with all slots in use.";

/// Measures, and prints what came of it.
///
/// # Errors
/// What is missing: the file's speech, the model, the GPU.
pub fn run(arguments: &Arguments, folder: &Path, progress: &Progress) -> anyhow::Result<()> {
    let Arguments { precision, threads, device, .. } = arguments;
    let precision = Precision::of(precision)
        .with_context(|| format!("--precision {precision:?} is none of int8, bf16 and f32"))?;
    let wish = match arguments.backend {
        Backend::Cpu => Wish::Cpu,
        Backend::Cuda => Wish::Cuda,
        Backend::Auto => Wish::Auto,
    };
    let place = devices::choose(wish, *device).context("use a GPU")?;
    let meter = progress.begin(&arguments.name);
    meter.activity("decoding");
    let parts = parts(&arguments.file)?;
    let longest = parts.iter().max_by_key(|part| part.pcm.len()).context("a recording has parts")?;

    meter.activity("loading the model");
    let sound = if arguments.e4m3 { Form::E4m3 } else { Form::Whole };
    let (slots, threads) = (usize::from(arguments.slots), *threads);
    let begun = Instant::now();
    let engine = Engine::load(folder, Setup { place, precision, threads, segments: slots, sound })?;
    let loaded = begun.elapsed();

    meter.activity("one segment alone");
    // The first time much is done that is not done again.
    transcribe(&engine, &[longest])?;
    let mut alone = Vec::new();
    for _ in 0..ALONE {
        alone.push(transcribe(&engine, &[longest])?);
    }
    alone.sort_unstable();

    meter.activity("all slots in use");
    let wanted = (slots * TURNS).max(parts.len());
    let many: Vec<&Part> = parts.iter().cycle().take(wanted).collect();
    let together = transcribe(&engine, &many)?;
    let seconds: f64 = many.iter().map(|part| seconds(part)).sum();
    drop(meter);

    let report = engine.report();
    let rows = [
        ["model", "device", "loaded in", "alone", "together", "memory"].map(str::to_owned).to_vec(),
        vec![
            arguments.name.clone(),
            report.device.clone(),
            format!("{:.2} s", loaded.as_secs_f64()),
            format!("{:.3} s for {:.1} s of sound", alone[ALONE / 2].as_secs_f64(), self::seconds(longest)),
            format!("{:.1} s of sound a second", seconds / together.as_secs_f64()),
            format!("{} MiB", report.bytes() >> 20),
        ],
    ];
    out::table(&rows)
}

/// How long it takes to transcribe segments that come at once.
fn transcribe(engine: &Engine, parts: &[&Part]) -> anyhow::Result<Duration> {
    let given: Vec<(Arc<[i16]>, Options)> = parts
        .iter()
        .map(|part| {
            // A text that is read as it is: what a ladder or gaps would add hangs on the recording.
            let options = Options {
                language: Some("en".to_owned()),
                temperatures: vec![0.0],
                reread_gaps: false,
                ..Options::default()
            };
            (part.pcm.as_slice().into(), options)
        })
        .collect();
    let begun = Instant::now();
    let texts = given.into_iter().map(|(pcm, options)| engine.transcribe(pcm, options, URGENT));
    for text in futures::executor::block_on(join_all(texts)) {
        text.context("transcribe a segment")?;
    }
    Ok(begun.elapsed())
}

fn seconds(part: &Part) -> f64 {
    part.pcm.len() as f64 / f64::from(decode::SAMPLE_RATE)
}

/// The segments of a recording, as the service cuts them.
fn parts(file: &Path) -> anyhow::Result<Vec<Part>> {
    let source = std::fs::File::open(file).with_context(|| format!("open {}", file.display()))?;
    let decoded = || format!("decode {}", file.display());
    let mut decoder = Decoder::open(source, DecodeOptions::default()).with_context(decoded)?;
    let mut parts = Vec::new();
    loop {
        match decoder.step().with_context(decoded)? {
            Step::Part(part) => parts.push(part),
            Step::Working => {}
            Step::End(_) => break,
        }
    }
    ensure!(!parts.is_empty(), "{} holds no speech", file.display());
    Ok(parts)
}
