//! Transcribes WAV files (16 kHz, mono, 16 bit, at most 30 s) and prints one JSON object a line.
//!
//! `cargo run --release -p infer --example transcribe -- MODEL_FOLDER [--language de] [--translate]
//! [--no-timestamps] [--greedy] [--beams N] [--words] [--trim] [--prompt TEXT] [--precision int8|f32] [--threads N]
//! FILE.wav ...`

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use futures::executor::block_on;
use infer::cpu::Precision;
use infer::engine::Setup;
use infer::scheduler::URGENT;
use infer::{Engine, Options, Span, Task};
use serde_json::{Value, json};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().context("name a model folder")?;
    let mut options = Options::default();
    let mut threads = 0;
    let mut precision = Precision::Int8;
    let mut files = Vec::new();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--language" => options.language = Some(value()?),
            "--prompt" => options.prompt = Some(value()?),
            "--threads" => threads = value()?.parse()?,
            "--precision" => {
                precision = match value()?.as_str() {
                    "f32" => Precision::F32,
                    "int8" => Precision::Int8,
                    other => bail!("{other:?} is no precision: int8 or f32"),
                }
            }
            "--translate" => options.task = Task::Translate,
            "--no-timestamps" => options.timestamps = false,
            "--words" => options.words = true,
            "--trim" => options.trim = true,
            "--beams" => options.beams = value()?.parse()?,
            "--greedy" => options.temperatures = vec![0.0],
            _ => files.push(argument),
        }
    }
    let started = Instant::now();
    let engine = Engine::load(Path::new(&folder), Setup { precision, threads, ..Setup::default() })?;
    let load_ms = started.elapsed().as_millis() as u64;
    for file in files {
        let pcm = read_wav(Path::new(&file))?;
        let started = Instant::now();
        let output = block_on(engine.transcribe(pcm.into(), options.clone(), URGENT))?;
        let spans: Vec<_> = output
            .spans
            .iter()
            .map(|span| {
                json!({
                    "start_ms": span.start_ms, "end_ms": span.end_ms, "text": span.text, "tokens": span.tokens,
                    "avg_logprob": span.avg_logprob, "no_speech_prob": span.no_speech_prob,
                    "compression_ratio": span.compression_ratio, "temperature": span.temperature,
                    "words": words(span),
                })
            })
            .collect();
        println!(
            "{}",
            json!({
                "file": file, "load_ms": load_ms, "took_ms": started.elapsed().as_millis() as u64,
                "language": output.language, "language_probability": output.language_probability, "spans": spans,
            })
        );
    }
    Ok(())
}

fn words(span: &Span) -> Vec<Value> {
    let words = span.words.iter();
    let words = words.map(|word| json!([word.start_ms, word.end_ms, word.text, word.probability]));
    words.collect()
}

/// Reads the samples of a plain WAV file.
fn read_wav(file: &Path) -> anyhow::Result<Vec<i16>> {
    let bytes = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    ensure!(
        bytes.len() > 12 && &bytes[..4] == b"RIFF" && &bytes[8..12] == b"WAVE",
        "{} is no WAV file",
        file.display()
    );
    let mut rest = &bytes[12..];
    while rest.len() >= 8 {
        let size = u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]) as usize;
        let body = &rest[8..(8 + size).min(rest.len())];
        match &rest[..4] {
            b"fmt " => {
                let wanted = [1, 0, 1, 0, 0x80, 0x3e, 0, 0];
                ensure!(
                    body.len() >= 16 && body[..8] == wanted && body[14] == 16,
                    "{} is not 16 kHz mono PCM",
                    file.display()
                );
            }
            b"data" => return Ok(body.as_chunks().0.iter().map(|x| i16::from_le_bytes(*x)).collect()),
            _ => {}
        }
        rest = &rest[(8 + size + size % 2).min(rest.len())..];
    }
    anyhow::bail!("{} holds no samples", file.display())
}
