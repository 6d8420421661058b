//! Measures the processor's backend: products with weights at the shapes of Whisper's layers, encoding, and steps of
//! decoding. Prints medians.
//!
//! `cargo run --release -p infer --example kernels -- [MODEL_FOLDER ...] [--threads N] [--seconds S]
//! [--precision int8|bf16|f32]`; without a folder it measures the products alone.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use half::bf16;
use infer::backend::{Ask, Backend, Feed, Row, Run, Slot, Sound};
use infer::cpu::linear::{
    Isa, Linear, PANEL, Rows, Store, Weights, pack_bf16, pack_f32, pack_int8, quantise,
};
use infer::cpu::team::Team;
use infer::cpu::{Cpu, CpuOptions, Precision};
use infer::model::weights;
use infer::sampling::{Rules, Sampling};
use infer::tokens::Tokens;

/// Texts at once.
const BATCHES: [usize; 4] = [1, 4, 8, 32];

fn main() -> anyhow::Result<()> {
    let (mut folders, mut threads, mut seconds) = (Vec::new(), vec![1, 2], 1.0);
    let mut precisions = Precision::ALL.to_vec();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().context("an option wants a value");
        match argument.as_str() {
            "--threads" => threads = vec![value()?.parse().context("read the number of threads")?],
            "--seconds" => seconds = value()?.parse().context("read the seconds of a measurement")?,
            "--precision" => {
                let name = value()?;
                precisions.retain(|precision| precision.name() == name);
            }
            option if option.starts_with("--") => bail!("unknown option {option}"),
            _ => folders.push(argument),
        }
    }
    if folders.is_empty() {
        threads.iter().for_each(|threads| products(*threads, seconds));
    }
    for folder in &folders {
        for threads in &threads {
            for precision in &precisions {
                network(Path::new(folder), *precision, *threads, seconds)?;
            }
        }
    }
    Ok(())
}

/// Median seconds of a piece of work, repeated for about `seconds`.
fn median(seconds: f64, mut work: impl FnMut()) -> f64 {
    work();
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || begin.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        work();
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn products(threads: usize, seconds: f64) {
    let (isa, team) = (Isa::detect(), Team::new(threads));
    println!("products, {}, {threads} threads: rows x inputs x outputs", isa.name());
    for [rows, inputs, outputs] in [
        [1_500usize, 384usize, 1_152usize],
        [1_500, 384, 1_536],
        [1_500, 1_536, 384],
        [1_500, 512, 2_048],
        [1_500, 2_048, 512],
        [1, 384, 1_536],
        [8, 384, 1_536],
        [1, 384, 51_864],
        [8, 384, 51_864],
        [32, 512, 51_865],
    ] {
        let padded = usize::next_multiple_of(outputs, PANEL);
        let number = |i: usize| ((i * 7_919) % 255) as f32 / 127.0 - 1.0;
        let stored: Vec<f32> = (0..outputs * inputs).map(number).collect();
        let x: Vec<f32> = (0..rows * inputs).map(number).collect();
        let (bias, mut y) = (vec![0.0; padded], vec![0.0; rows * outputs]);
        let billions = 2e-9 * (rows * inputs * outputs) as f64;
        let mut report = |name: &str, weights: Weights<'_>, x: Rows<'_>| {
            let layer = Linear { inputs, outputs, weights, bias: &bias };
            let time = median(seconds / 4.0, || layer.apply(isa, &team, x, rows, &mut y, Store::Set));
            println!(
                "  {rows} x {inputs} x {outputs} {name}: {:.3} ms, {:.0} G operations/s",
                time * 1e3,
                billions / time
            );
        };
        let mut panels = vec![0; padded * inputs];
        let (mut scales, mut offsets) = (vec![0.0; padded], vec![0; padded]);
        pack_int8(&stored, [outputs, inputs], &mut panels, &mut scales, &mut offsets);
        let (mut bytes, mut x_scales) = (vec![0; rows * inputs], vec![0.0; rows]);
        for ((x, bytes), scale) in x.chunks(inputs).zip(bytes.chunks_mut(inputs)).zip(&mut x_scales) {
            *scale = quantise(isa, x, bytes);
        }
        report(
            "int8",
            Weights::Int8 { panels: &panels, scales: &scales, offsets: &offsets },
            Rows::Int8 { bytes: &bytes, stride: inputs, scales: &x_scales },
        );
        let mut panels = vec![0.0; padded * inputs];
        pack_f32(&stored, [outputs, inputs], &mut panels);
        report("f32", Weights::F32 { panels: &panels }, Rows::F32 { values: &x, stride: inputs });
        let mut panels = vec![bf16::ZERO; padded * inputs];
        pack_bf16(&stored, [outputs, inputs], &mut panels);
        report("bf16", Weights::Bf16 { panels: &panels }, Rows::F32 { values: &x, stride: inputs });
    }
}

fn network(folder: &Path, precision: Precision, threads: usize, seconds: f64) -> anyhow::Result<()> {
    let begin = Instant::now();
    let weights = weights::Weights::open(folder).context("open the weights")?;
    let vocabulary = infer::model::dims(&weights).context("read the sizes")?.vocabulary;
    let tokens = Tokens::load(folder, weights.format(), vocabulary).context("read the vocabulary")?;
    let rules = Rules::new(&tokens);
    let options = CpuOptions { precision, threads, slots: 8, rows: 32 };
    let read = begin.elapsed();
    let mut cpu = Cpu::load(&weights, rules, Vec::new(), options).context("load the model")?;
    let report = cpu.report();
    println!(
        "{}, {}: {:.1} MB of weights, {:.1} MB of state, loaded in {:.0} ms (and {:.0} ms for the vocabulary)",
        folder.file_name().unwrap_or_default().to_string_lossy(),
        report.device,
        report.weight_bytes as f64 / 1e6,
        report.state_bytes as f64 / 1e6,
        (begin.elapsed() - read).as_secs_f64() * 1e3,
        read.as_secs_f64() * 1e3,
    );
    let pcm: Vec<i16> = (0..480_000).map(|i| ((i * i / 50) % 16_001) as i16 - 8_000).collect();
    for positions in [1_500, 500, 250] {
        let time = median(seconds, || {
            let sound =
                Sound { slot: Slot(0), pcm: &pcm[..positions * 320], from: 0, frames: 3_000, positions };
            cpu.encode(&[sound]).expect("a processor does not fail");
        });
        println!("  encode {positions} positions: {:.1} ms", time * 1e3);
    }
    let features = infer::features::Features::new(cpu.dims().mels);
    let time = median(seconds / 4.0, || drop(features.compute(&pcm)));
    println!("  of which the spectrogram of 30 s: {:.1} ms", time * 1e3);
    let sounds: Vec<Sound> = (0..8)
        .map(|slot| Sound { slot: Slot(slot), pcm: &pcm, from: 0, frames: 3_000, positions: 1_500 })
        .collect();
    cpu.encode(&sounds).expect("a processor does not fail");
    let prompt = [tokens.special.start];
    for batch in BATCHES {
        let sampling = Sampling::default();
        let run = |row: usize, first: bool| {
            let feed = Feed::Start { slot: Slot(row % 8), prompt: &prompt, start: 0, sampling };
            let feed = if first { feed } else { Feed::Sampled };
            Run { row: Row(row), feed, ask: Ask::Token }
        };
        let steps = [true, false].map(|first| (0..batch).map(|row| run(row, first)).collect::<Vec<_>>());
        let mut count = 0;
        let time = median(seconds, || {
            // Texts of 30 tokens.
            let step = &steps[usize::from(count % 30 != 0)];
            cpu.submit(step).expect("a processor does not fail");
            count += 1;
        });
        println!("  step of {batch}: {:.3} ms, {:.0} tokens/s", time * 1e3, batch as f64 / time);
    }
    Ok(())
}
