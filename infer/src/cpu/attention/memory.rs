//! Keys and values of all heads of a layer, packed, and the passes of blocks of queries over them.

use std::cell::RefCell;

use super::kernels::{Isa, Kernels, Shared, by_isa};
use super::{BLOCK, HEAD_WIDTH_MAX, Heads, LANES, POSITIONS_MAX, Split};
use crate::cpu::parts::{Parts, Shares};

/// How keys and values are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Both f32.
    F32,
    /// Keys int8, values bf16.
    Bf16,
    /// Both int8.
    Int8,
}

/// Where keys and values stand in rows of f32.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Elements from one position to the next.
    pub stride: usize,
    /// First element of the keys.
    pub keys: usize,
    /// First element of the values.
    pub values: usize,
}

/// Queries, or results, in rows.
#[derive(Debug, Clone, Copy)]
pub struct Rows<T> {
    /// Element 0 of row 0 of head 0.
    pub data: T,
    /// Elements from one row to the next.
    pub stride: usize,
}

/// Keys and values of a layer.
#[derive(Debug, Clone)]
pub struct Memory {
    isa: Isa,
    form: Form,
    heads: Heads,
    /// Tiles of each head that there is room for.
    room: usize,
    /// Keys that are held.
    positions: usize,
    /// (heads, room, a tile's keys) and (heads, room, a tile's values): words as [`super::kernels`] has them.
    keys: Aligned,
    values: Aligned,
    /// (heads, room, 16) and (heads, width); empty for f32.
    key_scales: Aligned,
    key_means: Aligned,
    value_scales: Aligned,
    value_means: Aligned,
}

impl Memory {
    /// Room for `positions` keys of each head.
    pub fn new(heads: Heads, positions: usize, form: Form, isa: Isa) -> Memory {
        heads.check();
        assert!((1..=POSITIONS_MAX).contains(&positions), "keys are 1 to {POSITIONS_MAX}, not {positions}");
        let room = positions.div_ceil(LANES);
        let elements = heads.layer_width() * room * LANES;
        let (narrow, wide) = (form != Form::F32, form == Form::Int8);
        let words = |needed: bool, words: usize| Aligned::new(if needed { words } else { 0 });
        Memory {
            isa,
            form,
            heads,
            room,
            positions: 0,
            keys: Aligned::new(if narrow { elements / 4 } else { elements }),
            values: Aligned::new(match form {
                Form::F32 => elements,
                Form::Bf16 => elements / 2,
                Form::Int8 => elements / 4,
            }),
            key_scales: words(narrow, heads.count * room * LANES),
            key_means: words(narrow, heads.layer_width()),
            value_scales: words(wide, heads.layer_width()),
            value_means: words(wide, heads.layer_width()),
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        let parts = [
            &self.keys,
            &self.values,
            &self.key_scales,
            &self.key_means,
            &self.value_scales,
            &self.value_means,
        ];
        parts.into_iter().map(|part| part.words().len() * 4).sum()
    }

    /// Bytes that a pass over one head reads.
    pub fn bytes_read(&self) -> usize {
        self.bytes() / self.heads.count / self.room * self.positions.div_ceil(LANES)
    }

    /// Heads.
    pub fn heads(&self) -> Heads {
        self.heads
    }

    /// Keys that are held.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Packs `positions` keys and values, forgetting what was held; one task a head.
    pub fn store(&mut self, rows: &[f32], layout: Layout, positions: usize, split: Split) {
        let Heads { count, width } = self.heads;
        assert!(
            (1..=self.room * LANES).contains(&positions),
            "1 to {} positions fit, not {positions}",
            self.room * LANES
        );
        let last = layout.keys.max(layout.values) + self.heads.layer_width();
        assert!(rows.len() >= (positions - 1) * layout.stride + last, "the rows hold every position");
        self.positions = positions;
        let (form, isa) = (self.form, self.isa);
        let keys = self.keys.shares(count);
        let values = self.values.shares(count);
        let key_scales = self.key_scales.shares(count);
        let key_means = self.key_means.shares(count);
        let value_scales = self.value_scales.shares(count);
        let value_means = self.value_means.shares(count);
        let tiles = positions.div_ceil(LANES);
        split(count, &|head| {
            // SAFETY: each head is one task, which alone takes the head's part of each.
            let [keys, values, key_scales, key_means, value_scales, value_means] = unsafe {
                [&keys, &values, &key_scales, &key_means, &value_scales, &value_means].map(|x| x.of(head))
            };
            let (key_rows, value_rows) =
                (&rows[layout.keys + head * width..], &rows[layout.values + head * width..]);
            let stride = layout.stride;
            by_isa!(isa, K => {
                let elements = tiles * LANES * width;
                match form {
                    Form::F32 => {
                        let (keys, values) = (floats_mut(&mut keys[..elements]), floats_mut(&mut values[..elements]));
                        K::pack_keys_f32(key_rows, stride, positions, width, keys);
                        K::pack_values_f32(value_rows, stride, positions, width, values);
                    }
                    Form::Bf16 | Form::Int8 => {
                        let scales = floats_mut(&mut key_scales[..tiles * LANES]);
                        let keys = &mut keys[..elements / 4];
                        K::pack_keys_int8(key_rows, stride, positions, floats_mut(key_means), scales, keys);
                        if form == Form::Bf16 {
                            K::pack_values_bf16(value_rows, stride, positions, width, &mut values[..elements / 2]);
                        } else {
                            let (means, scales) = (floats_mut(value_means), floats_mut(value_scales));
                            let values = &mut values[..elements / 4];
                            K::pack_values_int8(value_rows, stride, positions, means, scales, values);
                        }
                    }
                }
            });
        });
    }

    /// Attends with `count` queries of one head, from row `first` on, and writes their mixed values.
    ///
    /// # Safety
    /// Nobody else touches this head's part of those rows of `out` meanwhile.
    pub unsafe fn attend(
        &self,
        head: usize,
        queries: Rows<&[f32]>,
        out: Rows<&Parts<'_, f32>>,
        first: usize,
        count: usize,
    ) {
        assert!(self.positions > 0, "keys and values were stored");
        let width = self.heads.width;
        SCRATCH.with_borrow_mut(|scratch| {
            for from in (first..first + count).step_by(BLOCK) {
                let n = BLOCK.min(first + count - from);
                let query =
                    |row: usize| &queries.data[(from + row) * queries.stride + head * width..][..width];
                by_isa!(self.isa, K => self.block::<K>(head, n, query, scratch));
                for (row, mixed) in scratch.out[..n * width].chunks_exact(width).enumerate() {
                    // SAFETY: the caller holds this head's part of the rows.
                    let out = unsafe { out.data.part((from + row) * out.stride + head * width, width) };
                    out.copy_from_slice(mixed);
                }
            }
        });
    }

    /// Writes the scaled products of one query (width) of a head with all keys: scores (positions).
    pub fn scores(&self, head: usize, query: &[f32], scores: &mut [f32]) {
        assert_eq!(query.len(), self.heads.width, "a query has the head's width");
        assert_eq!(scores.len(), self.positions, "there is a score for each position");
        SCRATCH.with_borrow_mut(|scratch| {
            by_isa!(self.isa, K => self.score::<K>(head, 1, |_| query, scratch));
            scores.copy_from_slice(&scratch.scores[..self.positions]);
            if self.form != Form::F32 {
                let mean = self.floats_of(&self.key_means, head);
                let shift: f32 = query.iter().zip(mean).map(|(query, mean)| query * mean).sum();
                let (scale, shift) = (scratch.scales[0], shift * self.heads.scale());
                scores.iter_mut().for_each(|score| *score = score.mul_add(scale, shift));
            }
        });
    }

    /// Takes `n` queries of a head to their mixed values in the scratch, (n, width).
    fn block<'a, K: Kernels>(
        &self,
        head: usize,
        n: usize,
        query: impl Fn(usize) -> &'a [f32],
        scratch: &mut Scratch,
    ) {
        let width = self.heads.width;
        let tiles = self.positions.div_ceil(LANES);
        let stride = tiles * LANES;
        self.score::<K>(head, n, query, scratch);
        let Scratch { scores, scales, out, .. } = scratch;
        let out = &mut out[..n * width];
        let values = self.words_of(&self.values, head);
        let mut sums = [0.0; BLOCK];
        for ((row, scale), sum) in scores.chunks_exact_mut(stride).zip(&*scales).zip(&mut sums).take(n) {
            let factor = scale * std::f32::consts::LOG2_E;
            *sum = match self.form {
                Form::F32 => K::exponentiate_f32(row, self.positions),
                Form::Bf16 => K::exponentiate_bf16(row, self.positions, factor),
                Form::Int8 => K::exponentiate_u16(row, self.positions, factor),
            };
        }
        let scores = &scores[..n * stride];
        match self.form {
            Form::F32 => K::mix_f32(n, scores, stride, &floats(values)[..self.positions * width], out),
            Form::Bf16 => K::mix_bf16(n, scores, stride, &values[..stride / 2 * width], out),
            Form::Int8 => K::mix_int8(n, scores, stride, &values[..stride / 4 * width], out),
        }
        for (out, sum) in out.chunks_exact_mut(width).zip(sums) {
            let inverse = 1.0 / sum;
            if self.form == Form::Int8 {
                let (scales, means) =
                    (self.floats_of(&self.value_scales, head), self.floats_of(&self.value_means, head));
                for ((out, scale), mean) in out.iter_mut().zip(scales).zip(means) {
                    *out = *out * (inverse * scale) + mean;
                }
            } else {
                out.iter_mut().for_each(|out| *out *= inverse);
            }
        }
    }

    /// Writes the products of `n` queries of a head with all keys into the scratch, rows as long as the tiles, with
    /// what they are still to be multiplied by.
    fn score<'a, K: Kernels>(
        &self,
        head: usize,
        n: usize,
        query: impl Fn(usize) -> &'a [f32],
        scratch: &mut Scratch,
    ) {
        let Heads { width, .. } = self.heads;
        let tiles = self.positions.div_ceil(LANES);
        let stride = tiles * LANES;
        let Scratch { scores, queries, words, scales, .. } = scratch;
        let scores = &mut scores[..n * stride];
        let queries = &mut queries[..n * width];
        let scale = self.heads.scale();
        for (row, to) in queries.chunks_exact_mut(width).enumerate() {
            to.iter_mut().zip(query(row)).for_each(|(to, from)| *to = from * scale);
        }
        let keys = self.words_of(&self.keys, head);
        if self.form == Form::F32 {
            K::score_f32(n, queries, &floats(keys)[..stride * width], scores, stride);
            return;
        }
        let words = &mut words[..n * width / 4];
        K::quantise_queries(n, queries, words, scales);
        let key_scales = &self.floats_of(&self.key_scales, head)[..stride];
        K::score_int8(n, words, &keys[..stride * width / 4], key_scales, scores, stride);
    }

    fn words_of<'a>(&self, words: &'a Aligned, head: usize) -> &'a [u32] {
        let part = words.words().len() / self.heads.count;
        &words.words()[head * part..][..part]
    }

    fn floats_of<'a>(&self, words: &'a Aligned, head: usize) -> &'a [f32] {
        floats(self.words_of(words, head))
    }
}

/// What a thread needs for one block.
#[repr(align(64))]
struct Scratch {
    /// (block, positions), where scores become exponentials.
    scores: [f32; BLOCK * POSITIONS_MAX],
    /// (block, width), scaled, and as int8 with their scales.
    queries: [f32; BLOCK * HEAD_WIDTH_MAX],
    words: [u32; BLOCK * HEAD_WIDTH_MAX / 4],
    scales: [f32; BLOCK],
    /// (block, width)
    out: [f32; BLOCK * HEAD_WIDTH_MAX],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const {
        RefCell::new(Scratch {
            scores: [0.0; BLOCK * POSITIONS_MAX],
            queries: [0.0; BLOCK * HEAD_WIDTH_MAX],
            words: [0; BLOCK * HEAD_WIDTH_MAX / 4],
            scales: [0.0; BLOCK],
            out: [0.0; BLOCK * HEAD_WIDTH_MAX],
        })
    };
}

/// Words that begin at a line of the cache.
#[derive(Debug)]
pub struct Aligned {
    /// The words, behind what is missing to the first line's start.
    padded: Vec<u32>,
    start: usize,
    words: usize,
}

impl Aligned {
    /// Zeros. The system gives their pages when they are first written, so room that is not used costs nothing.
    pub fn new(words: usize) -> Aligned {
        let padded = vec![0u32; words + LANES];
        // A line is as many words as a register has lanes.
        let start = padded.as_ptr().align_offset(LANES * size_of::<u32>());
        assert!(start <= LANES, "there is room for what is missing to a line");
        Aligned { padded, start, words }
    }

    /// The words.
    pub fn words(&self) -> &[u32] {
        &self.padded[self.start..][..self.words]
    }

    /// The words, to write.
    pub fn words_mut(&mut self) -> &mut [u32] {
        &mut self.padded[self.start..][..self.words]
    }

    /// Equal shares for tasks that run at once.
    pub fn shares(&mut self, count: usize) -> Shares<'_, u32> {
        Shares::new(self.words_mut(), count)
    }
}

impl Clone for Aligned {
    fn clone(&self) -> Aligned {
        let mut copy = Aligned::new(self.words);
        copy.words_mut().copy_from_slice(self.words());
        copy
    }
}

/// The words as f32.
pub fn floats(words: &[u32]) -> &[f32] {
    // SAFETY: both are four bytes of the same alignment of which every pattern is valid.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len()) }
}

/// The words as f32, to write.
pub fn floats_mut(words: &mut [u32]) -> &mut [f32] {
    // SAFETY: as above, and the words are borrowed mutably.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
}
