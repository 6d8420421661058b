//! Measures attention on this machine, with each instruction set: GFLOP/s and GB/s, from the median of many runs.
//!
//! `cargo run --release -p infer --example attention -- [THREADS [ISA]]`

use std::time::Instant;

use infer::cpu::attention::{
    Arithmetic, Heads, Isa, Job, SoundCache, TextCache, TextItem, WindowAttention, attend_all,
};
use infer::cpu::team::Team;

/// Positions of a window of 30 s.
const POSITIONS: usize = 1_500;

/// Name, heads, layers of encoder and of decoder.
const MODELS: [(&str, usize, usize); 2] = [("tiny", 6, 4), ("base", 8, 6)];

fn main() -> anyhow::Result<()> {
    let threads = std::env::args().nth(1).map_or(Ok(2), |threads| threads.parse())?;
    let isa = std::env::args().nth(2);
    let team = Team::new(threads);
    let split = |tasks: usize, task: &(dyn Fn(usize) + Sync)| team.run(tasks, &|_, i| task(i));
    for isa in Isa::available(64).filter(|one| isa.as_ref().is_none_or(|isa| isa == one.name())) {
        println!("{} on {threads} threads", isa.name());
        for (model, count, layers) in MODELS {
            for arithmetic in [Arithmetic::Exact, Arithmetic::Fast] {
                let heads = Heads { count, width: 64 };
                windows(model, heads, layers, arithmetic, isa, &split);
                sounds(model, heads, layers, arithmetic, isa, &split);
            }
            texts(model, Heads { count, width: 64 }, layers, isa, &split);
        }
    }
    Ok(())
}

/// The encoder's self-attention over a window of 30 s.
fn windows(
    model: &str,
    heads: Heads,
    layers: usize,
    arithmetic: Arithmetic,
    isa: Isa,
    split: infer::cpu::attention::Split,
) {
    let width = heads.layer_width();
    let qkv = numbers(POSITIONS * 3 * width);
    let mut mixed = vec![0.0; POSITIONS * width];
    let mut attention = WindowAttention::with_isa(heads, POSITIONS, arithmetic, isa);
    let seconds = median(15, || attention.attend(&qkv, &mut mixed, split)) * layers as f64;
    let operations = (4 * POSITIONS * POSITIONS * width * layers) as f64;
    println!(
        "  {model} {arithmetic:?} window: {:.1} ms for {layers} layers, {:.0} GFLOP/s",
        seconds * 1e3,
        operations / seconds / 1e9
    );
}

/// A step's attention to the sound, for several windows and rows of each.
fn sounds(
    model: &str,
    heads: Heads,
    layers: usize,
    arithmetic: Arithmetic,
    isa: Isa,
    split: infer::cpu::attention::Split,
) {
    let width = heads.layer_width();
    let kv = numbers(POSITIONS * 2 * width);
    for (slots, rows) in [(1, 1), (1, 5), (8, 1), (8, 5)] {
        // Every layer of every slot has its own memory, as in a step of the model.
        let mut caches: Vec<_> =
            (0..slots * layers).map(|_| SoundCache::with_isa(heads, POSITIONS, arithmetic, isa)).collect();
        let stored = median(1, || caches.iter_mut().for_each(|cache| cache.store(&kv, split)));
        let queries = numbers(slots * rows * width);
        let mut out = vec![0.0; queries.len()];
        let seconds = median(25, || {
            for layer in caches.chunks_exact(slots) {
                let job = |(slot, cache)| Job { cache, rows: slot * rows..(slot + 1) * rows };
                let jobs: Vec<_> = layer.iter().enumerate().map(job).collect();
                attend_all(&jobs, &queries, &mut out, split);
            }
        });
        let bytes: usize = caches.iter().map(SoundCache::bytes_read).sum();
        println!(
            "  {model} {arithmetic:?} sound, {slots} windows of {rows} rows: {:.3} ms a step, {:.1} MB, {:.1} GB/s; \
             stored in {:.2} ms a window",
            seconds * 1e3,
            bytes as f64 / 1e6,
            bytes as f64 / seconds / 1e9,
            stored * 1e3 / slots as f64
        );
    }
}

/// A step's attention to the text.
fn texts(model: &str, heads: Heads, layers: usize, isa: Isa, split: infer::cpu::attention::Split) {
    let width = heads.layer_width();
    for (rows, position) in [(1, 50), (8, 50), (8, 200)] {
        let mut caches = vec![TextCache::with_isa(heads, rows, 448, isa); layers];
        let items: Vec<_> = (0..rows).map(|row| TextItem { row, position }).collect();
        let qkv = numbers(rows * 3 * width);
        let mut mixed = vec![0.0; rows * width];
        let seconds = median(101, || {
            caches.iter_mut().for_each(|cache| cache.attend(&items, &qkv, &mut mixed, split));
        });
        println!("  {model} text, {rows} rows at {position}: {:.3} ms a step", seconds * 1e3);
    }
}

/// Numbers that are neither all alike nor far apart.
fn numbers(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next() + next()).collect()
}

fn median(runs: usize, mut run: impl FnMut()) -> f64 {
    let mut seconds: Vec<_> = (0..runs)
        .map(|_| {
            let started = Instant::now();
            run();
            started.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[runs / 2]
}
