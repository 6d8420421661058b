//! How far the processor's backend is from what this machine can do: measured peaks, operations and bytes counted, and
//! where the time goes. Prints tables in Markdown; `cargo xtask bench limits` makes a page of them.
//!
//! `cargo run --release -p infer --example limits -- MODEL_FOLDER ... [--threads N] [--seconds S]`

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use infer::backend::{Ask, Backend, Feed, Row, Run, Slot, Sound};
use infer::cpu::attention::{
    Arithmetic, Heads, Job, SoundCache, TextCache, TextItem, WindowAttention, attend_all,
};
use infer::cpu::linear::{Isa, Linear, PANEL, Rows, Store, Weights, pack_int8, quantise};
use infer::cpu::team::Team;
use infer::cpu::{Cpu, CpuOptions, Precision};
use infer::features::Features;
use infer::model::{AUDIO_POSITIONS, Dims, weights};
use infer::sampling::{Rules, Sampling};
use infer::tokens::Tokens;

/// Frames of a window.
const FRAMES: usize = 3_000;
/// Position of the texts whose steps are measured.
const POSITION: usize = 30;

/// What a machine can do with so many threads.
struct Peaks {
    /// Operations a second on int8, a multiplication and an addition counted as two.
    int8: f64,
    /// The same on bf16.
    bf16: f64,
    /// The same in f32.
    f32: f64,
    /// Bytes a second read from memory.
    memory: f64,
}

/// A part of the work: operations by the form of their numbers, bytes that have to be read, seconds that it takes.
#[derive(Default)]
struct Part {
    name: &'static str,
    int8: f64,
    bf16: f64,
    f32: f64,
    bytes: f64,
    seconds: f64,
}

impl Part {
    /// The least time: of computing and of reading, whichever is longer.
    fn floor(&self, peaks: &Peaks) -> f64 {
        let computing = self.int8 / peaks.int8 + self.bf16 / peaks.bf16 + self.f32 / peaks.f32;
        computing.max(self.bytes / peaks.memory)
    }

    fn operations(&self) -> f64 {
        self.int8 + self.bf16 + self.f32
    }
}

/// What measurements share.
struct Bench {
    isa: Isa,
    team: Team,
    seconds: f64,
}

fn main() -> anyhow::Result<()> {
    let (mut folders, mut threads, mut seconds) = (Vec::new(), 2, 1.0);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().context("an option wants a value");
        match argument.as_str() {
            "--threads" => threads = value()?.parse().context("read the number of threads")?,
            "--seconds" => seconds = value()?.parse().context("read the seconds of a measurement")?,
            option if option.starts_with("--") => bail!("unknown option {option}"),
            _ => folders.push(argument),
        }
    }
    let bench = Bench { isa: Isa::detect(), team: Team::new(threads), seconds };
    let peaks = bench.peaks();
    println!("{threads} threads, {}.\n", bench.isa.name());
    println!("| what the machine can do | |\n|---|---|");
    println!("| int8 products, registers alone | {:.0} G operations/s |", peaks.int8 / 1e9);
    println!("| bf16 products, registers alone | {:.0} G operations/s |", peaks.bf16 / 1e9);
    println!("| f32 products, registers alone | {:.0} G operations/s |", peaks.f32 / 1e9);
    println!("| reading 256 MiB | {:.1} GB/s |", peaks.memory / 1e9);
    for folder in &folders {
        bench.model(Path::new(folder), &peaks)?;
    }
    Ok(())
}

impl Bench {
    /// Median seconds of a piece of work.
    fn median(&self, mut work: impl FnMut()) -> f64 {
        work();
        let (begin, mut times) = (Instant::now(), Vec::new());
        while times.len() < 5 || begin.elapsed().as_secs_f64() < self.seconds {
            let start = Instant::now();
            work();
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }

    /// Runs tasks on the team.
    fn split(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        self.team.run(tasks, &|_, i| task(i));
    }

    fn peaks(&self) -> Peaks {
        let threads = self.team.threads();
        let rate = |work: fn() -> f64| {
            let operations = work() * threads as f64;
            operations / self.median(|| self.split(threads, &|_| _ = black_box(work())))
        };
        let memory = vec![1u64; 32 << 20];
        let part = memory.len() / threads;
        let read = self.median(|| {
            self.split(threads, &|i| {
                let sum = memory[i * part..][..part].iter().fold(0u64, |sum, x| sum.wrapping_add(*x));
                black_box(sum);
            });
        });
        Peaks {
            int8: rate(peak::int8),
            bf16: rate(peak::bf16),
            f32: rate(peak::f32),
            memory: (part * threads * size_of::<u64>()) as f64 / read,
        }
    }

    fn model(&self, folder: &Path, peaks: &Peaks) -> anyhow::Result<()> {
        let weights = weights::Weights::open(folder).context("open the weights")?;
        let dims = infer::model::dims(&weights).context("read the sizes")?;
        let tokens =
            Tokens::load(folder, weights.format(), dims.vocabulary).context("read the vocabulary")?;
        let threads = self.team.threads();
        let options = CpuOptions { precision: Precision::Int8, threads, slots: 8, rows: 8 };
        let mut cpu =
            Cpu::load(&weights, Rules::new(&tokens), Vec::new(), options).context("load the model")?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let (parts, total) = self.window(&mut cpu, dims);
        tell(&format!("{name}: a window of 30 s"), &parts, total, peaks);
        for rows in [1, 8] {
            let (parts, total) = self.step(&mut cpu, dims, tokens.special.start, rows);
            let plural = if rows == 1 { "text" } else { "texts" };
            tell(&format!("{name}: a step of {rows} {plural}"), &parts, total, peaks);
        }
        Ok(())
    }

    /// The parts of encoding a window, and seconds of all of it.
    fn window(&self, cpu: &mut Cpu, dims: Dims) -> (Vec<Part>, f64) {
        let Dims { mels, width, inner, encoder_layers, decoder_layers, .. } = dims;
        let pcm: Vec<i16> = (0..480_000).map(|i| ((i * i / 50) % 16_001) as i16 - 8_000).collect();
        let sound = Sound { slot: Slot(0), pcm: &pcm, from: 0, frames: FRAMES, positions: AUDIO_POSITIONS };
        let total = self.median(|| cpu.encode(&[sound]).expect("a processor does not fail"));
        let features = Features::new(mels);
        let mut parts = vec![Part {
            name: "spectrogram",
            // 400 samples through a real transform of (2.5 N log2 N), then the bands of 201 bins.
            f32: FRAMES as f64 * (2.5 * 400.0 * 400f64.log2() + 2.0 * 201.0 * 3.0),
            bytes: (pcm.len() * size_of::<i16>()) as f64,
            seconds: self.median(|| drop(features.compute(&pcm))),
            ..Part::default()
        }];
        let layer = [(width, 3 * width), (width, width), (width, inner), (inner, width)];
        let products = layer.map(|(inputs, outputs)| (AUDIO_POSITIONS, inputs, outputs, encoder_layers));
        parts.push(self.products("products of the layers", &products));
        let stem = [(FRAMES, 3 * mels, width, 1), (AUDIO_POSITIONS, 3 * width, width, 1)];
        parts.push(self.products("convolutions", &stem));
        let heard = [(AUDIO_POSITIONS, width, 2 * width, decoder_layers)];
        parts.push(self.products("keys and values for the decoder", &heard));
        let heads = Heads { count: dims.encoder_heads, width: width / dims.encoder_heads };
        let mut attention = WindowAttention::new(heads, AUDIO_POSITIONS, Arithmetic::Fast);
        let qkv = numbers(AUDIO_POSITIONS * 3 * width);
        let mut mixed = vec![0.0; AUDIO_POSITIONS * width];
        let once = self.median(|| attention.attend(&qkv, &mut mixed, &|tasks, task| self.split(tasks, task)));
        let scores = (2 * AUDIO_POSITIONS * AUDIO_POSITIONS * width * encoder_layers) as f64;
        parts.push(Part {
            name: "attention",
            // Scores are products of int8, sums of values of bf16.
            int8: scores,
            bf16: scores,
            seconds: once * encoder_layers as f64,
            ..Part::default()
        });
        let heads = Heads { count: dims.decoder_heads, width: width / dims.decoder_heads };
        let mut cache = SoundCache::new(heads, AUDIO_POSITIONS, Arithmetic::Fast);
        let kv = numbers(AUDIO_POSITIONS * 2 * width);
        let once = self.median(|| cache.store(&kv, &|tasks, task| self.split(tasks, task)));
        let count = decoder_layers as f64;
        parts.push(Part {
            name: "packing keys and values",
            bytes: (kv.len() * size_of::<f32>()) as f64 * count,
            seconds: once * count,
            ..Part::default()
        });
        (parts, total)
    }

    /// The parts of a step of so many texts, each of a window of its own, and seconds of all of it.
    fn step(&self, cpu: &mut Cpu, dims: Dims, start: u32, rows: usize) -> (Vec<Part>, f64) {
        let Dims { width, inner, decoder_layers, vocabulary, .. } = dims;
        let pcm: Vec<i16> = (0..480_000).map(|i| ((i * i / 50) % 16_001) as i16 - 8_000).collect();
        let sounds: Vec<Sound> = (0..rows)
            .map(|slot| Sound {
                slot: Slot(slot),
                pcm: &pcm,
                from: 0,
                frames: FRAMES,
                positions: AUDIO_POSITIONS,
            })
            .collect();
        cpu.encode(&sounds).expect("a processor does not fail");
        let prompt = [start];
        let run = |row: usize, feed| Run { row: Row(row), feed, ask: Ask::Token };
        let begin: Vec<Run> = (0..rows)
            .map(|row| {
                let sampling = Sampling::default();
                run(row, Feed::Start { slot: Slot(row), prompt: &prompt, start: 0, sampling })
            })
            .collect();
        let on: Vec<Run> = (0..rows).map(|row| run(row, Feed::Sampled)).collect();
        let mut count = 0;
        let total = self.median(|| {
            // Texts of twice the position that the parts are measured at.
            let step = if count % (2 * POSITION) == 0 { &begin } else { &on };
            cpu.submit(step).expect("a processor does not fail");
            count += 1;
        });
        let layer = [
            (width, 3 * width),
            (width, width),
            (width, width),
            (width, width),
            (width, inner),
            (inner, width),
        ];
        let products = layer.map(|(inputs, outputs)| (rows, inputs, outputs, decoder_layers));
        let mut parts = vec![
            self.products("products of the layers", &products),
            self.products("logits", &[(rows, width, vocabulary, 1)]),
        ];
        let heads = Heads { count: dims.decoder_heads, width: width / dims.decoder_heads };
        let kv = numbers(AUDIO_POSITIONS * 2 * width);
        // Every layer of every slot has its own memory, as in a step of the model.
        let mut caches: Vec<SoundCache> = (0..rows * decoder_layers)
            .map(|_| SoundCache::new(heads, AUDIO_POSITIONS, Arithmetic::Fast))
            .collect();
        caches.iter_mut().for_each(|cache| cache.store(&kv, &|tasks, task| self.split(tasks, task)));
        let queries = numbers(rows * width);
        let mut out = vec![0.0; queries.len()];
        let seconds = self.median(|| {
            for layer in caches.chunks_exact(rows) {
                let jobs: Vec<Job> =
                    layer.iter().enumerate().map(|(i, cache)| Job { cache, rows: i..i + 1 }).collect();
                attend_all(&jobs, &queries, &mut out, &|tasks, task| self.split(tasks, task));
            }
        });
        parts.push(Part {
            name: "attention to the sound",
            int8: (4 * AUDIO_POSITIONS * width * decoder_layers * rows) as f64,
            bytes: caches.iter().map(SoundCache::bytes_read).sum::<usize>() as f64,
            seconds,
            ..Part::default()
        });
        let mut texts = vec![TextCache::new(heads, rows, dims.text_positions); decoder_layers];
        let items: Vec<TextItem> = (0..rows).map(|row| TextItem { row, position: POSITION }).collect();
        let (qkv, mut mixed) = (numbers(rows * 3 * width), vec![0.0; rows * width]);
        let seconds = self.median(|| {
            let attend = |text: &mut TextCache| {
                text.attend(&items, &qkv, &mut mixed, &|tasks, task| self.split(tasks, task));
            };
            texts.iter_mut().for_each(attend);
        });
        parts.push(Part {
            name: "attention to the text",
            f32: (4 * POSITION * width * decoder_layers * rows) as f64,
            bytes: (2 * POSITION * width * size_of::<f32>() * decoder_layers * rows) as f64,
            seconds,
            ..Part::default()
        });
        (parts, total)
    }

    /// Products with int8 weights: of (rows, inputs) with (outputs, inputs), so many times each, with weights of their
    /// own each time.
    fn products(&self, name: &'static str, shapes: &[(usize, usize, usize, usize)]) -> Part {
        let mut part = Part { name, ..Part::default() };
        for &(rows, inputs, outputs, count) in shapes {
            let padded = outputs.next_multiple_of(PANEL);
            let quads = inputs.next_multiple_of(4);
            let bias = vec![0.0; padded];
            let packed: Vec<_> = (0..count)
                .map(|_| {
                    let stored = numbers(outputs * inputs);
                    let mut panels = vec![0; padded * quads];
                    let (mut scales, mut offsets) = (vec![0.0; padded], vec![0; padded]);
                    pack_int8(&stored, [outputs, inputs], &mut panels, &mut scales, &mut offsets);
                    (panels, scales, offsets)
                })
                .collect();
            let x = numbers(rows * inputs);
            let (mut bytes, mut scales) = (vec![0; rows * quads], vec![0.0; rows]);
            for ((x, bytes), scale) in x.chunks(inputs).zip(bytes.chunks_mut(quads)).zip(&mut scales) {
                *scale = quantise(self.isa, x, bytes);
            }
            let mut y = vec![0.0; rows * outputs];
            part.seconds += self.median(|| {
                for (panels, own_scales, offsets) in &packed {
                    let weights = Weights::Int8 { panels, scales: own_scales, offsets };
                    let layer = Linear { inputs, outputs, weights, bias: &bias };
                    let x = Rows::Int8 { bytes: &bytes, stride: quads, scales: &scales };
                    layer.apply(self.isa, &self.team, x, rows, &mut y, Store::Set);
                }
            });
            part.int8 += 2.0 * (rows * inputs * outputs * count) as f64;
            part.bytes += (padded * quads * count) as f64;
        }
        part
    }
}

fn tell(title: &str, parts: &[Part], total: f64, peaks: &Peaks) {
    println!("\n## {title}\n");
    println!(
        "| part | G operations | MB read | ms alone | ms at least | of what the machine can do | of the whole |"
    );
    println!("|---|---|---|---|---|---|---|");
    let row = |name: &str, operations: f64, bytes: f64, seconds: f64, floor: f64| {
        println!(
            "| {name} | {:.3} | {:.1} | {:.3} | {:.3} | {:.0} % | {:.0} % |",
            operations / 1e9,
            bytes / 1e6,
            seconds * 1e3,
            floor * 1e3,
            100.0 * floor / seconds,
            100.0 * seconds / total
        );
    };
    let sum = |of: &dyn Fn(&Part) -> f64| parts.iter().map(of).sum::<f64>();
    for part in parts {
        row(part.name, part.operations(), part.bytes, part.seconds, part.floor(peaks));
    }
    let rest = total - sum(&|part| part.seconds);
    println!("| all the rest | | | {:.3} | | | {:.0} % |", rest * 1e3, 100.0 * rest / total);
    let floor = sum(&|part| part.floor(peaks));
    row("**the whole**", sum(&Part::operations), sum(&|part| part.bytes), total, floor);
}

/// Numbers that are neither all alike nor far apart.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7_919) % 255) as f32 / 127.0 - 1.0).collect()
}

/// Loops that keep every unit for products busy and read no memory. Each returns the operations that it does.
mod peak {
    use std::hint::black_box;

    const ROUNDS: usize = 2_000_000;
    /// Sums that do not wait for each other.
    const SUMS: usize = 12;

    pub fn int8() -> f64 {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
            // SAFETY: the processor has the instructions.
            unsafe { vnni() };
            return (ROUNDS * SUMS * 64 * 2) as f64;
        }
        f32()
    }

    pub fn bf16() -> f64 {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16") {
            // SAFETY: the processor has the instructions.
            unsafe { brain() };
            return (ROUNDS * SUMS * 32 * 2) as f64;
        }
        f32()
    }

    pub fn f32() -> f64 {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: the processor has the instructions.
                unsafe { avx512() };
                return (ROUNDS * SUMS * 16 * 2) as f64;
            }
            if is_x86_feature_detected!("fma") {
                // SAFETY: the processor has the instructions.
                unsafe { fma() };
                return (ROUNDS * SUMS * 8 * 2) as f64;
            }
        }
        let mut sums = [0.0f32; 4 * SUMS];
        let factor = black_box(0.5);
        for _ in 0..ROUNDS {
            sums.iter_mut().for_each(|sum| *sum = *sum * factor + 1.0);
        }
        black_box(sums);
        (ROUNDS * 4 * SUMS * 2) as f64
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn vnni() {
        use std::arch::x86_64::*;
        let (a, b) = (black_box(_mm512_set1_epi8(1)), black_box(_mm512_set1_epi8(1)));
        let mut sums = [_mm512_setzero_si512(); SUMS];
        for _ in 0..ROUNDS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbusd_epi32(*sum, a, b));
        }
        black_box(sums);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn brain() {
        use std::arch::x86_64::*;
        let ones = _mm512_set1_ps(1.0);
        let a = black_box(_mm512_cvtne2ps_pbh(ones, ones));
        let mut sums = [_mm512_setzero_ps(); SUMS];
        for _ in 0..ROUNDS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, a, a));
        }
        black_box(sums);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn avx512() {
        use std::arch::x86_64::*;
        let (a, b) = (black_box(_mm512_set1_ps(0.5)), black_box(_mm512_set1_ps(1.0)));
        let mut sums = [_mm512_setzero_ps(); SUMS];
        for _ in 0..ROUNDS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(*sum, a, b));
        }
        black_box(sums);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx,fma")]
    fn fma() {
        use std::arch::x86_64::*;
        let (a, b) = (black_box(_mm256_set1_ps(0.5)), black_box(_mm256_set1_ps(1.0)));
        let mut sums = [_mm256_setzero_ps(); SUMS];
        for _ in 0..ROUNDS {
            sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(*sum, a, b));
        }
        black_box(sums);
    }
}
