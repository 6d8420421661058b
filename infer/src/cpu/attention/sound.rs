//! Attention of tokens to the sound.

use std::ops::Range;

use super::memory::{Form, Layout, Memory, Rows};
use super::{Arithmetic, Heads, Isa, Split};
use crate::cpu::parts::Parts;

/// What one layer of the decoder needs of one window of sound: keys and values of every head.
///
/// Exact: 8 bytes an element of the layer's width and position. Fast: 2 bytes (and a scale for each key).
#[derive(Debug, Clone)]
pub struct SoundCache {
    memory: Memory,
}

/// Rows of a step that hear one window.
#[derive(Debug, Clone)]
pub struct Job<'a> {
    /// The window.
    pub cache: &'a SoundCache,
    /// Which rows of the step's queries and results.
    pub rows: Range<usize>,
}

impl SoundCache {
    /// Room for windows of at most `positions` positions.
    pub fn new(heads: Heads, positions: usize, arithmetic: Arithmetic) -> SoundCache {
        SoundCache::with_isa(heads, positions, arithmetic, Isa::best(heads.width))
    }

    /// The same with other instructions than the fastest.
    pub fn with_isa(heads: Heads, positions: usize, arithmetic: Arithmetic, isa: Isa) -> SoundCache {
        let form = match arithmetic {
            Arithmetic::Exact => Form::F32,
            Arithmetic::Fast => Form::Int8,
        };
        SoundCache { memory: Memory::new(heads, positions, form, isa) }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Bytes that a pass over all heads reads.
    pub fn bytes_read(&self) -> usize {
        self.memory.bytes_read() * self.memory.heads().count
    }

    /// Positions that are held; 0 before the first [`SoundCache::store`].
    pub fn positions(&self) -> usize {
        self.memory.positions()
    }

    /// Takes a window's projected keys and values `kv` (positions, 2 layer width), each position's keys first,
    /// forgetting what was held. A task a head.
    pub fn store(&mut self, kv: &[f32], split: Split) {
        let width = self.memory.heads().layer_width();
        let positions = kv.len() / (2 * width);
        assert_eq!(kv.len(), positions * 2 * width, "keys and values are (positions, 2 layer width)");
        self.memory.store(kv, Layout { stride: 2 * width, keys: 0, values: width }, positions, split);
    }

    /// Mixes the sound's values for queries (rows, layer width) into `out` of the same shape, on this thread.
    pub fn attend(&self, queries: &[f32], out: &mut [f32]) {
        let rows = queries.len() / self.memory.heads().layer_width();
        attend_all(&[Job { cache: self, rows: 0..rows }], queries, out, &super::in_order);
    }

    /// Writes the products of one head's queries with all keys, divided by √width, before the softmax: `queries`
    /// (rows, layer width), `scores` (rows, positions).
    pub fn scores(&self, head: usize, queries: &[f32], scores: &mut [f32]) {
        let Heads { count, width } = self.memory.heads();
        assert!(head < count, "head {head} is one of {count}");
        let rows = queries.chunks_exact(count * width);
        assert_eq!(scores.len(), rows.len() * self.positions(), "scores are (rows, positions)");
        for (query, scores) in rows.zip(scores.chunks_exact_mut(self.positions().max(1))) {
            self.memory.scores(head, &query[head * width..][..width], scores);
        }
    }
}

/// Mixes the values of many windows for the rows that hear them: `queries` and `out` are (rows, layer width).
///
/// The jobs' rows ascend and do not overlap, and their windows were stored. A task for each head of each job, in which
/// all its rows share the passes over the head's keys and values.
pub fn attend_all(jobs: &[Job<'_>], queries: &[f32], out: &mut [f32], split: Split) {
    let Some(first) = jobs.first() else { return };
    let heads = first.cache.memory.heads();
    let width = heads.layer_width();
    assert_eq!(queries.len(), out.len(), "there is a result for each query");
    let mut taken = 0;
    for Job { cache, rows } in jobs {
        assert_eq!(cache.memory.heads(), heads, "all windows are of one layer");
        assert!(taken <= rows.start && rows.start <= rows.end, "the jobs' rows ascend");
        taken = rows.end;
    }
    assert!(queries.len() >= taken * width, "queries are (rows, layer width)");
    let out = Parts::new(out);
    split(jobs.len() * heads.count, &|task| {
        let Job { cache, rows } = &jobs[task / heads.count];
        let (queries, out) = (Rows { data: queries, stride: width }, Rows { data: &out, stride: width });
        // SAFETY: each task has a head of rows that no other has: the jobs' rows do not overlap.
        unsafe { cache.memory.attend(task % heads.count, queries, out, rows.start, rows.len()) };
    });
}
