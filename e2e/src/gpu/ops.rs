//! What each op takes on a GPU, and how near that is to what the memory or the tensor cores allow.

use std::fmt::Write as _;

use anyhow::Result;
use half::bf16;
use kernels::accelerator::Accelerator;
use kernels::cross_attention::{self, Workspace, cross_attention};
use kernels::cross_cache::{Cache as SoundCache, Kept};
use kernels::device::Error;
use kernels::encoder_attention::{self, encoder_attention};
use kernels::gpu::Gpu;
use kernels::layer_norm::{Norm, layer_norm};
use kernels::matmul::matmul;
use kernels::memory::Memory;
use kernels::product::{Output, Shape};
use kernels::sample::{self, Answers, NONE, RowState, TOP_MAX, Vocabulary, sample};
use kernels::self_attention::{self, Cache, self_attention};
use kernels::skinny::{self, skinny};

use super::geometry::Geometry;
use super::median;

/// Launches between two marks, and pairs of marks.
const LAUNCHES: usize = 20;
const ROUNDS: usize = 7;

/// Windows that are encoded, and texts that are read.
const WINDOWS: usize = 16;
const TEXTS: usize = 64;
const POSITIONS: usize = 1_500;

/// Measures the ops at a model's sizes; returns a section of the page.
pub fn measure(gpu: &mut Gpu, geometry: &Geometry) -> Result<String> {
    let mut bench = Bench { gpu, rows: Vec::new(), copied: 0.0 };
    bench.copied = bench.copy()?;
    bench.encoder(geometry)?;
    bench.decoder(geometry)?;
    let Bench { rows, copied, .. } = bench;
    let mut page = format!(
        "## Ops of {}\n\n{WINDOWS} windows of 30 s are encoded, {TEXTS} texts read; bf16. Copying on the device, bytes read and written: \
         {:.2} TB/s; *of copying* is the rate of the bytes that the op must move over that. By the device's clock, medians of \
         {ROUNDS} times {LAUNCHES} launches.\n\n\
         | op | µs | TFLOP/s | TB/s | of copying |\n|---|--:|--:|--:|--:|\n",
        geometry.name,
        copied / 1e12
    );
    for Row { op, seconds, operations, bytes } in rows {
        let rate = |amount: f64| {
            if amount > 0.0 { format!("{:.2}", amount / seconds / 1e12) } else { String::new() }
        };
        let share =
            if bytes > 0.0 { format!("{:.0} %", 100.0 * bytes / seconds / copied) } else { String::new() };
        let _ = writeln!(
            page,
            "| {op} | {:.1} | {} | {} | {share} |",
            seconds * 1e6,
            rate(operations),
            rate(bytes)
        );
    }
    Ok(page)
}

struct Row {
    op: String,
    seconds: f64,
    operations: f64,
    bytes: f64,
}

struct Bench<'a> {
    gpu: &'a mut Gpu,
    rows: Vec<Row>,
    /// Bytes a second.
    copied: f64,
}

impl Bench<'_> {
    /// Seconds of one launch. `work` is told its number, so that it can take turns with its inputs.
    fn time(&mut self, mut work: impl FnMut(&mut Gpu, usize) -> Result<(), Error>) -> Result<f64> {
        let mut times = Vec::new();
        for round in 0..=ROUNDS {
            let begun = self.gpu.mark()?;
            for launch in 0..LAUNCHES {
                work(self.gpu, round * LAUNCHES + launch)?;
            }
            let ended = self.gpu.mark()?;
            times.push(begun.until(&ended)?.as_secs_f64() / LAUNCHES as f64);
        }
        Ok(median(&mut times[1..]))
    }

    fn row(
        &mut self,
        op: impl Into<String>,
        (operations, bytes): (f64, f64),
        work: impl FnMut(&mut Gpu, usize) -> Result<(), Error>,
    ) -> Result<()> {
        let seconds = self.time(work)?;
        self.rows.push(Row { op: op.into(), seconds, operations, bytes });
        Ok(())
    }

    fn copy(&mut self) -> Result<f64> {
        let bytes = 1usize << 29;
        let from = self.gpu.zeroed::<u8>(bytes)?;
        let mut to = self.gpu.uninitialised::<u8>(bytes)?;
        let seconds = self.time(|gpu, _| gpu.copy(&from.view(), &mut to.view_mut()))?;
        Ok(2.0 * bytes as f64 / seconds)
    }

    /// Random numbers: some data runs faster than others.
    fn halves(&mut self, len: usize) -> Result<Memory<bf16>> {
        let values: Vec<bf16> = (0..len)
            .map(|i| bf16::from_f32((i.wrapping_mul(0x9e37_79b9) >> 9 & 0xffff) as f32 / 65_536.0 - 0.5))
            .collect();
        Ok(self.gpu.stored(&values)?)
    }

    fn floats(&mut self, len: usize) -> Result<Memory<f32>> {
        let values: Vec<f32> =
            (0..len).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 9 & 0xffff) as f32 / 65_536.0 - 0.5).collect();
        Ok(self.gpu.stored(&values)?)
    }

    fn encoder(&mut self, geometry: &Geometry) -> Result<()> {
        let (width, heads) = (geometry.width, geometry.heads());
        let rows = WINDOWS * POSITIONS;
        let (x, wide) = (self.halves(rows * width)?, self.halves(rows * 4 * width)?);
        let (weights, bias) = (self.halves(4 * width * width)?, self.floats(4 * width)?);
        let mut out = self.gpu.uninitialised::<bf16>(rows * 4 * width)?;
        let mut stream = self.floats(rows * width)?;
        for (name, depth, outputs) in
            [("queries, keys, values", width, 3 * width), ("widen, GELU", width, 4 * width)]
        {
            let shape = Shape { rows, depth, width: outputs };
            let amounts = (2.0 * (rows * depth * outputs) as f64, 0.0);
            self.row(format!("product of {rows} rows: {name}"), amounts, |gpu, _| {
                let output = if outputs == 4 * width {
                    Output::Gelu(out.view_mut())
                } else {
                    Output::Store(out.view_mut())
                };
                matmul(gpu, &x.view(), &weights.view(), Some(&bias.view()), output, shape)
            })?;
        }
        let shape = Shape { rows, depth: 4 * width, width };
        let amounts = (2.0 * (rows * 4 * width * width) as f64, 0.0);
        self.row(format!("product of {rows} rows: narrow, residual"), amounts, |gpu, _| {
            let output = Output::Add(stream.view_mut());
            matmul(gpu, &wide.view(), &weights.view(), Some(&bias.view()), output, shape)
        })?;
        let gamma = self.floats(width)?;
        let amounts = (0.0, (rows * width * 6) as f64);
        self.row("layer norm", amounts, |gpu, _| {
            let norm = Norm { gamma: gamma.view(), beta: gamma.view() };
            let mut out = out.view_mut();
            let mut y = out.part_mut(0..rows * width)?;
            layer_norm(gpu, &mut stream.view_mut(), None, norm, &mut y, width)
        })?;
        let qkv = self.halves(rows * 3 * width)?;
        let windows: Vec<encoder_attention::Window> = (0..WINDOWS as u32)
            .map(|i| encoder_attention::Window { first: i * POSITIONS as u32, length: POSITIONS as u32 })
            .collect();
        let on_device = self.gpu.stored(&windows)?;
        let amounts = ((WINDOWS * heads * POSITIONS * POSITIONS * 256) as f64, 0.0);
        self.row("encoder attention", amounts, |gpu, _| {
            let (view, mut mixed) = (on_device.view(), out.view_mut());
            encoder_attention(gpu, &qkv.view(), &windows, &view, &mut mixed, heads)
        })
    }

    fn decoder(&mut self, geometry: &Geometry) -> Result<()> {
        let (width, heads) = (geometry.width, geometry.heads());
        // As many matrices take turns as do not fit the L2 cache together, as a model's layers do.
        let size = 4 * width * width;
        let turns = ((200 << 20) / (2 * size)).clamp(1, 64);
        let (weights, bias) = (self.halves(turns * size)?, self.floats(4 * width)?);
        let gamma = self.floats(width)?;
        let stream = self.floats(TEXTS * width)?;
        let mut out = self.gpu.uninitialised::<bf16>(TEXTS * 4 * width)?;
        for rows in [1, 8, 16] {
            let shape = Shape { rows, depth: width, width: 4 * width };
            let bytes = (2 * size) as f64;
            self.row(format!("product of {rows} rows: norm, widen, GELU"), (0.0, bytes), |gpu, launch| {
                let turn = launch % turns;
                let norm = Norm { gamma: gamma.view(), beta: gamma.view() };
                let input = skinny::Input::Normed(stream.view(), norm);
                let weights = weights.view().part(turn * size..(turn + 1) * size)?;
                skinny(gpu, input, &weights, Some(&bias.view()), Output::Gelu(out.view_mut()), shape)
            })?;
        }
        let x = self.halves(TEXTS * width)?;
        let shape = Shape { rows: TEXTS, depth: width, width: 4 * width };
        self.row(
            format!("product of {TEXTS} rows: widen, GELU"),
            (0.0, (2 * size) as f64),
            |gpu, launch| {
                let turn = launch % turns;
                let weights = weights.view().part(turn * size..(turn + 1) * size)?;
                matmul(gpu, &x.view(), &weights, Some(&bias.view()), Output::Gelu(out.view_mut()), shape)
            },
        )?;

        let room = 448;
        let at = 100u32;
        let qkv = self.halves(TEXTS * 3 * width)?;
        let (mut keys, mut values) = (self.halves(TEXTS * room * width)?, self.halves(TEXTS * room * width)?);
        let items: Vec<self_attention::Item> =
            (0..TEXTS as u32).map(|row| self_attention::Item { row, position: at, first: row }).collect();
        let on_device = self.gpu.stored(&items)?;
        let bytes = (TEXTS * width * 4 * at as usize) as f64;
        self.row(format!("self-attention, {at} tokens"), (0.0, bytes), |gpu, _| {
            let (keys, values) = (keys.view_mut(), values.view_mut());
            let mut cache = Cache { keys, values, rows: TEXTS, room };
            let (view, mut mixed) = (on_device.view(), out.view_mut());
            self_attention(gpu, &qkv.view(), &items, &view, &mut cache, &mut mixed, heads)
        })?;
        drop((keys, values));

        let kept = TEXTS * POSITIONS * width;
        let (mut keys, mut values) = (self.halves(kept)?, self.halves(kept)?);
        let groups: Vec<cross_attention::Group> = (0..TEXTS as u32)
            .map(|slot| cross_attention::Group { slot, length: POSITIONS as u32, first: slot, count: 1 })
            .collect();
        let on_device = self.gpu.stored(&groups)?;
        let (partials, arrivals) = Workspace::lengths(TEXTS, TEXTS, heads, POSITIONS);
        let mut partials = self.gpu.uninitialised(partials)?;
        let mut arrivals = self.gpu.zeroed(arrivals)?;
        self.row("cross-attention", (0.0, (kept * 4) as f64), |gpu, _| {
            let (keys, values) = (keys.view_mut(), values.view_mut());
            let cache =
                SoundCache { kept: Kept::Whole { keys, values }, slots: TEXTS, heads, room: POSITIONS };
            let mut workspace = Workspace { partials: partials.view_mut(), arrivals: arrivals.view_mut() };
            let (view, mut mixed) = (on_device.view(), out.view_mut());
            cross_attention(gpu, &x.view(), &groups, &view, &cache, &mut workspace, &mut mixed)
        })?;
        drop((keys, values));

        let columns = geometry.vocabulary.next_multiple_of(8);
        let logits = self.floats(TEXTS * columns)?;
        let special = geometry.rules().special;
        let words = Vocabulary {
            size: columns as u32,
            end: special.end,
            no_timestamps: special.no_timestamps,
            first_timestamp: special.first_timestamp,
            timestamps: infer::tokens::TIMESTAMPS,
        };
        let lists = self.gpu.stored(&words.lists(&[], &[]))?;
        let items: Vec<sample::Item> =
            (0..TEXTS as u32).map(|row| sample::Item { row, chosen: NONE, top: 0 }).collect();
        let on_device = self.gpu.stored(&items)?;
        let mut states = self.gpu.stored(&[RowState::new(0, 0.0, Some(50)); TEXTS])?;
        let mut tokens = self.gpu.uninitialised(TEXTS * TOP_MAX)?;
        let mut scores = self.gpu.uninitialised(TEXTS * TOP_MAX)?;
        let mut next = self.gpu.zeroed(TEXTS)?;
        self.row("sampling", (0.0, (TEXTS * columns * 4) as f64), |gpu, _| {
            let mut answers =
                Answers { tokens: tokens.view_mut(), scores: scores.view_mut(), next: next.view_mut() };
            let (view, mut states) = (on_device.view(), states.view_mut());
            sample(gpu, &logits.view(), &items, &view, &mut states, &mut answers, (words, &lists.view()))
        })
    }
}
