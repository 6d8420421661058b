//! Attention of tokens to the tokens before them.

use std::cell::RefCell;

use super::kernels::{Isa, Kernels, by_isa};
use super::memory::{Aligned, floats_mut};
use super::{BLOCK, HEAD_WIDTH_MAX, Heads, LANES, Split};
use crate::cpu::parts::Parts;
use crate::model::TEXT_POSITIONS_MAX;

/// Keys and values of one layer for the tokens of a number of rows (texts in the making), in f32.
#[derive(Debug, Clone)]
pub struct TextCache {
    isa: Isa,
    heads: Heads,
    rows: usize,
    /// Tiles of each row that there is room for.
    room: usize,
    /// (heads, rows, room, width, 16): a head is one task's.
    keys: Aligned,
    /// (heads, rows, room, 16, width)
    values: Aligned,
}

/// A token that is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextItem {
    /// Its row.
    pub row: usize,
    /// Its position in the row. All earlier ones were run before or come earlier in the same call.
    pub position: usize,
}

impl TextCache {
    /// Room for `rows` rows of at most `positions` tokens.
    pub fn new(heads: Heads, rows: usize, positions: usize) -> TextCache {
        TextCache::with_isa(heads, rows, positions, Isa::best(heads.width))
    }

    /// The same with other instructions than the fastest.
    pub fn with_isa(heads: Heads, rows: usize, positions: usize, isa: Isa) -> TextCache {
        heads.check();
        assert!((1..=TEXT_POSITIONS_MAX).contains(&positions), "a text has 1 to {TEXT_POSITIONS_MAX} tokens");
        let room = positions.div_ceil(LANES);
        let words = rows * room * LANES * heads.layer_width();
        TextCache { isa, heads, rows, room, keys: Aligned::new(words), values: Aligned::new(words) }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        2 * self.keys.words().len() * 4
    }

    /// Keeps the keys and values of new tokens and mixes, for each, the values of its row up to itself.
    ///
    /// `qkv` (items, 3 layer width) holds each item's queries, keys and values; `mixed` is (items, layer width). Items
    /// of a row stand together, their positions ascending. A task a head.
    pub fn attend(&mut self, items: &[TextItem], qkv: &[f32], mixed: &mut [f32], split: Split) {
        let layer_width = self.heads.layer_width();
        assert_eq!(mixed.len(), items.len() * layer_width, "mixed values are (items, layer width)");
        assert_eq!(qkv.len(), 3 * mixed.len(), "queries, keys and values are (items, 3 layer width)");
        for TextItem { row, position } in items {
            assert!(
                *row < self.rows && *position < self.room * LANES,
                "the cache has room for row and position"
            );
        }
        let Heads { count, width } = self.heads;
        let (isa, room) = (self.isa, self.room);
        let (keys, values) = (self.keys.shares(count), self.values.shares(count));
        let mixed = Parts::new(mixed);
        split(count, &|head| {
            // SAFETY: each head is one task, which alone takes the head's part of each.
            let (keys, values) = unsafe { (floats_mut(keys.of(head)), floats_mut(values.of(head))) };
            for (item, qkv) in items.iter().zip(qkv.chunks_exact(3 * layer_width)) {
                let row = item.row * room * LANES * width;
                let (tile, lane) = (item.position / LANES, item.position % LANES);
                let key = &qkv[layer_width + head * width..][..width];
                let places = keys[row + tile * LANES * width..].iter_mut().skip(lane).step_by(LANES);
                places.zip(key).for_each(|(place, x)| *place = *x);
                values[row + item.position * width..][..width]
                    .copy_from_slice(&qkv[2 * layer_width + head * width..][..width]);
            }
            SCRATCH.with_borrow_mut(|scratch| {
                let mut first = 0;
                for group in items.chunk_by(|a, b| a.row == b.row).flat_map(|row| row.chunks(BLOCK)) {
                    let row = group[0].row * room * LANES * width;
                    let (keys, values) =
                        (&keys[row..][..room * LANES * width], &values[row..][..room * LANES * width]);
                    let query = |i: usize| &qkv[(first + i) * 3 * layer_width + head * width..][..width];
                    by_isa!(isa, K => block::<K>(group, width, query, keys, values, scratch));
                    for (i, result) in scratch.out[..group.len() * width].chunks_exact(width).enumerate() {
                        // SAFETY: the head's part of the items' results is this task's.
                        let out = unsafe { mixed.part((first + i) * layer_width + head * width, width) };
                        out.copy_from_slice(result);
                    }
                    first += group.len();
                }
            });
        });
    }

    /// For each (from, to, positions), makes row `to` a copy of the first tokens of row `from`. All are read before any
    /// is written; `spare` holds what is read, and keeps its memory from call to call.
    pub fn copy_rows(&mut self, copies: &[(usize, usize, usize)], spare: &mut Vec<u32>) {
        let row = self.room * LANES * self.heads.width;
        let used = |positions: usize| positions.div_ceil(LANES) * LANES * self.heads.width;
        for (from, to, positions) in copies {
            assert!(
                *from < self.rows && *to < self.rows && *positions <= self.room * LANES,
                "the cache has both rows"
            );
        }
        for part in [&mut self.keys, &mut self.values] {
            for head in part.words_mut().chunks_exact_mut(self.rows * row) {
                spare.clear();
                for (from, _, positions) in copies {
                    spare.extend_from_slice(&head[from * row..][..used(*positions)]);
                }
                let mut read = 0;
                for (_, to, positions) in copies {
                    let count = used(*positions);
                    head[to * row..][..count].copy_from_slice(&spare[read..][..count]);
                    read += count;
                }
            }
        }
    }
}

/// Takes up to 6 queries of a row, each with the keys up to its own, to their mixed values in the scratch.
fn block<'a, K: Kernels>(
    items: &[TextItem],
    width: usize,
    query: impl Fn(usize) -> &'a [f32],
    keys: &[f32],
    values: &[f32],
    scratch: &mut Scratch,
) {
    let n = items.len();
    let longest = items.iter().map(|item| item.position + 1).max().expect("a group has an item");
    let stride = longest.div_ceil(LANES) * LANES;
    let Scratch { scores, queries, out } = scratch;
    let (scores, queries, out) =
        (&mut scores[..n * stride], &mut queries[..n * width], &mut out[..n * width]);
    let scale = 1.0 / (width as f32).sqrt();
    for (row, to) in queries.chunks_exact_mut(width).enumerate() {
        to.iter_mut().zip(query(row)).for_each(|(to, from)| *to = from * scale);
    }
    K::score_f32(n, queries, &keys[..stride * width], scores, stride);
    let mut sums = [0.0; BLOCK];
    for ((row, item), sum) in scores.chunks_exact_mut(stride).zip(items).zip(&mut sums) {
        *sum = K::exponentiate_f32(row, item.position + 1);
    }
    K::mix_f32(n, scores, stride, &values[..longest * width], out);
    for (out, sum) in out.chunks_exact_mut(width).zip(sums) {
        let inverse = 1.0 / sum;
        out.iter_mut().for_each(|out| *out *= inverse);
    }
}

/// What a thread needs for one block.
#[repr(align(64))]
struct Scratch {
    /// (block, positions), where scores become exponentials.
    scores: [f32; BLOCK * TEXT_POSITIONS_MAX],
    /// (block, width)
    queries: [f32; BLOCK * HEAD_WIDTH_MAX],
    /// (block, width)
    out: [f32; BLOCK * HEAD_WIDTH_MAX],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const {
        RefCell::new(Scratch {
            scores: [0.0; BLOCK * TEXT_POSITIONS_MAX],
            queries: [0.0; BLOCK * HEAD_WIDTH_MAX],
            out: [0.0; BLOCK * HEAD_WIDTH_MAX],
        })
    };
}
