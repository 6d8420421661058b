//! Transcribes WAV files (16 kHz, mono, 16 bit, at most 30 s) and prints one JSON object a line.
//!
//! `cargo run --release -p infer --example transcribe -- MODEL_FOLDER [--language de] [--translate]
//! [--no-timestamps] [--greedy] [--beams N] [--words] [--trim] [--prompt TEXT] [--precision int8|bf16|f32] [--threads N]
//! [--margins] FILE.wav ...`
//!
//! With `--margins` (and `--greedy`, without beams) each object also tells the tokens that were chosen, in order over all
//! windows, and how far each one's logit was above the second of what may be said.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, ensure};
use futures::FutureExt;
use futures::channel::oneshot;
use futures::executor::block_on;
use infer::backend::{
    Alignment, Answer, Ask, Backend, Capacity, DeviceError, Feed, Report, Row, Run, Slot, Sound,
};
use infer::cpu::{Cpu, CpuOptions, Precision};
use infer::engine::Setup;
use infer::model::{self, Dims, weights::Weights};
use infer::reading::Voice;
use infer::sampling::Rules;
use infer::scheduler::{Scheduler, URGENT};
use infer::tokens::{Tokens, language_code};
use infer::{Engine, Options, Output, Span, Task};
use serde_json::{Value, json};

/// A token that was chosen, and how far its logit was above the second; infinite where nothing else may be said.
type Chosen = (u32, f32);

/// Transcribes a segment.
type Reader = Box<dyn Fn(Arc<[i16]>) -> anyhow::Result<(Output, Vec<Chosen>)>>;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().context("name a model folder")?;
    let mut options = Options::default();
    let mut threads = 0;
    let mut precision = Precision::Int8;
    let mut margins = false;
    let mut files = Vec::new();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--language" => options.language = Some(value()?),
            "--prompt" => options.prompt = Some(value()?),
            "--threads" => threads = value()?.parse()?,
            "--precision" => {
                let name = value()?;
                precision = Precision::of(&name)
                    .with_context(|| format!("{name:?} is no precision: int8, bf16 or f32"))?;
            }
            "--translate" => options.task = Task::Translate,
            "--no-timestamps" => options.timestamps = false,
            "--words" => options.words = true,
            "--trim" => options.trim = true,
            "--beams" => options.beams = value()?.parse()?,
            "--greedy" => options.temperatures = vec![0.0],
            "--margins" => margins = true,
            _ => files.push(argument),
        }
    }
    let started = Instant::now();
    let folder = Path::new(&folder);
    let setup = Setup { precision, threads, ..Setup::default() };
    let read = if margins { watched(folder, setup, options)? } else { plain(folder, setup, options)? };
    let load_ms = started.elapsed().as_millis() as u64;
    for file in files {
        let pcm = read_wav(Path::new(&file))?;
        let started = Instant::now();
        let (output, chosen) = read(pcm.into())?;
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
        let mut told = json!({
            "file": file, "load_ms": load_ms, "took_ms": started.elapsed().as_millis() as u64,
            "language": output.language, "language_probability": output.language_probability, "spans": spans,
        });
        if margins {
            // JSON has no infinity.
            let finite = |(token, margin): &Chosen| json!([token, margin.min(1e9)]);
            told["chosen"] = chosen.iter().map(finite).collect();
        }
        println!("{told}");
    }
    Ok(())
}

/// Transcribes as the worker does.
fn plain(folder: &Path, setup: Setup, options: Options) -> anyhow::Result<Reader> {
    let engine = Engine::load(folder, setup)?;
    Ok(Box::new(move |pcm| {
        let output = block_on(engine.transcribe(pcm, options.clone(), URGENT))?;
        Ok((output, Vec::new()))
    }))
}

/// Transcribes with an eye on what is chosen.
fn watched(folder: &Path, setup: Setup, options: Options) -> anyhow::Result<Reader> {
    ensure!(
        options.temperatures == [0.0] && options.beams == 1,
        "--margins needs --greedy and one beam: only then is the likeliest token the one that is taken"
    );
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if setup.threads == 0 { processors } else { setup.threads };
    let weights = Weights::open(folder)?;
    let dims = model::dims(&weights)?;
    let tokens = Tokens::load(folder, weights.format(), dims.vocabulary)?;
    let (rules, heads) = (Rules::new(&tokens), model::alignment_heads(folder, dims)?);
    let cpu = CpuOptions { precision: setup.precision, threads, ..CpuOptions::default() };
    let inner = Cpu::load(&weights, rules, heads, cpu)?;
    let end = tokens.special.end;
    let chosen = Arc::new(Mutex::new(Vec::new()));
    let watch = Watch { inner, end, last: HashMap::new(), chosen: Arc::clone(&chosen), answers: Vec::new() };
    let scheduler = Scheduler::start(Box::new(watch))?;
    let language = match &options.language {
        _ if !dims.multilingual() => Some("en"),
        None => None,
        Some(name) => Some(language_code(name).with_context(|| format!("{name:?} is no language"))?),
    };
    let voice = Arc::new(Voice { dims, tokens });
    Ok(Box::new(move |pcm| {
        let (reply, answer) = oneshot::channel();
        let (voice, options) = (Arc::clone(&voice), options.clone());
        scheduler.submit(URGENT, move |desk, slot| {
            let reading = async move {
                let _ = reply.send(voice.read(&desk, &slot, &pcm, &options, language).await);
            };
            reading.boxed_local()
        });
        let output = block_on(answer)??;
        let chosen = std::mem::take(&mut *chosen.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((output, chosen))
    }))
}

/// The processor's backend, asked for the two likeliest tokens where it is to choose one.
struct Watch {
    inner: Cpu,
    end: u32,
    /// The token that each row was answered last.
    last: HashMap<Row, u32>,
    chosen: Arc<Mutex<Vec<Chosen>>>,
    answers: Vec<Answer>,
}

impl Backend for Watch {
    fn dims(&self) -> Dims {
        self.inner.dims()
    }

    fn capacity(&self) -> Capacity {
        self.inner.capacity()
    }

    fn encode(&mut self, sounds: &[Sound<'_>]) -> Result<(), DeviceError> {
        self.inner.encode(sounds)
    }

    fn submit(&mut self, step: &[Run<'_>]) -> Result<&[Answer], DeviceError> {
        let asked = step.iter().map(|run| Run {
            feed: match run.feed {
                Feed::Sampled => Feed::Chosen(self.last[&run.row]),
                feed => feed,
            },
            ask: if run.ask == Ask::Token { Ask::Top(2) } else { run.ask },
            ..*run
        });
        let asked: Vec<Run<'_>> = asked.collect();
        self.answers = self.inner.submit(&asked)?.to_vec();
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        for (run, answer) in step.iter().zip(&mut self.answers) {
            if run.ask == Ask::Token {
                // Both are told as logarithms of probabilities, whose common part falls out.
                let token = answer.tokens.first().map_or(self.end, |(token, _)| *token);
                let margin = match answer.tokens[..] {
                    [(_, first), (_, second)] => first - second,
                    _ => f32::INFINITY,
                };
                chosen.push((token, margin));
                self.last.insert(run.row, token);
                answer.tokens.truncate(1);
            }
        }
        Ok(&self.answers)
    }

    fn copy_rows(&mut self, copies: &[(Row, Row)]) -> Result<(), DeviceError> {
        self.inner.copy_rows(copies)
    }

    fn align(&mut self, slot: Slot, tokens: &[u32]) -> Result<Alignment, DeviceError> {
        self.inner.align(slot, tokens)
    }

    fn report(&self) -> Report {
        self.inner.report()
    }
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
