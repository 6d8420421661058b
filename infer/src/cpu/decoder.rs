//! One step of any number of texts: all their tokens go through the layers as one batch.

use smallvec::SmallVec;

use super::attention::{Heads, Job, SoundCache, TextCache, TextItem, attend_all};
use super::encoder::{Machine, prepare};
use super::image::{LinearPlace, NormPlace};
use super::linear::{Linear, Rows, Store, Weights, quantise};
use super::network::Places;
use super::parts::Parts;
use super::team::Team;
use crate::math::{add, normalise};
use crate::model::Dims;

/// Rows of x that one task prepares.
const ROWS_OF_TASK: usize = 8;

/// Rows of logits that are held at once.
const LOGITS: usize = 32;

/// Texts in the making, as far as the network is concerned, and memory for a step.
pub struct Decoder {
    /// Keys and values of the texts, for each layer.
    text: Vec<TextCache>,
    /// The tokens of the step: their rows and positions.
    items: Vec<TextItem>,
    tokens: Vec<u32>,
    /// Which items hear which slot: (slot, first item, items), ascending.
    groups: Vec<(usize, usize, usize)>,
    /// (items, width)
    x: Vec<f32>,
    /// (items, 3 width)
    qkv: Vec<f32>,
    /// (items, width)
    mixed: Vec<f32>,
    /// (items, inner)
    wide: Vec<f32>,
    input: Input,
    /// (rows of logits, vocabulary)
    logits: Vec<f32>,
    spare: Vec<u32>,
}

/// Rows on their way into a layer.
#[derive(Default)]
struct Input {
    values: Vec<f32>,
    bytes: Vec<u8>,
    scales: Vec<f32>,
}

/// What looks at the queries of a layer's attention to the sound: (layer, queries (items, width), caches of the layer's
/// slot).
pub type Look<'a> = &'a mut dyn FnMut(usize, &[f32], &SoundCache);

impl Decoder {
    /// Room for `rows` texts.
    pub fn new(places: &Places, rows: usize) -> Decoder {
        let Dims { width, decoder_heads, decoder_layers, text_positions, .. } = places.dims;
        let heads = Heads { count: decoder_heads, width: width / decoder_heads };
        Decoder {
            text: (0..decoder_layers).map(|_| TextCache::new(heads, rows, text_positions)).collect(),
            items: Vec::new(),
            tokens: Vec::new(),
            groups: Vec::new(),
            x: Vec::new(),
            qkv: Vec::new(),
            mixed: Vec::new(),
            wide: Vec::new(),
            input: Input::default(),
            logits: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        let values = [&self.x, &self.qkv, &self.mixed, &self.wide, &self.input.values, &self.logits];
        values.iter().map(|values| values.capacity() * size_of::<f32>()).sum::<usize>()
            + self.text.iter().map(TextCache::bytes).sum::<usize>()
            + self.input.bytes.capacity()
            + self.spare.capacity() * size_of::<u32>()
    }

    /// Forgets the tokens of the step before.
    pub fn clear(&mut self) {
        self.items.clear();
        self.tokens.clear();
        self.groups.clear();
    }

    /// Adds tokens of a row, the first at `position`, that hear `slot`; rows that hear one slot are added one behind
    /// the other. Returns the index of the first item.
    pub fn push(
        &mut self,
        slot: usize,
        row: usize,
        position: usize,
        tokens: impl Iterator<Item = u32>,
    ) -> usize {
        let first = self.items.len();
        for (i, token) in tokens.enumerate() {
            self.items.push(TextItem { row, position: position + i });
            self.tokens.push(token);
        }
        let count = self.items.len() - first;
        match self.groups.last_mut() {
            Some((last, _, items)) if *last == slot => *items += count,
            _ => self.groups.push((slot, first, count)),
        }
        first
    }

    /// Runs the tokens through the layers. `slots` holds the caches of each slot, one for each layer.
    pub fn run(&mut self, machine: Machine<'_>, slots: &[Vec<SoundCache>], mut look: Option<Look<'_>>) {
        let Machine { isa, team, places, image } = machine;
        let Dims { width, inner, text_positions, .. } = places.dims;
        let count = self.items.len();
        self.x.resize(count * width, 0.0);
        self.qkv.resize(count * 3 * width, 0.0);
        self.mixed.resize(count * width, 0.0);
        self.wide.resize(count * inner, 0.0);
        let embeddings = image.linear(&places.embeddings);
        let positions = image.get(places.text_positions);
        for ((item, token), x) in self.items.iter().zip(&self.tokens).zip(self.x.chunks_exact_mut(width)) {
            assert!(item.position < text_positions, "a text has a position for each token");
            embeddings.row(*token as usize, x);
            add(x, &positions[item.position * width..][..width]);
        }
        let split = |tasks: usize, task: &(dyn Fn(usize) + Sync)| team.run(tasks, &|_, i| task(i));
        let Decoder { text, items, groups, x, qkv, mixed, wide, input, .. } = self;
        let linear = |place: &LinearPlace| image.linear(place);
        let mut jobs: SmallVec<[Job<'_>; 32]> = SmallVec::new();
        for (i, layer) in places.decoder.iter().enumerate() {
            let rows = input.norm(machine, &linear(&layer.qkv), &layer.self_norm, x);
            linear(&layer.qkv).apply(isa, team, rows, count, qkv, Store::Set);
            text[i].attend(items, qkv, mixed, &split);
            let rows = input.take(machine, &linear(&layer.self_out), mixed);
            linear(&layer.self_out).apply(isa, team, rows, count, x, Store::Add);
            let rows = input.norm(machine, &linear(&layer.cross_query), &layer.cross_norm, x);
            let queries = &mut qkv[..count * width];
            linear(&layer.cross_query).apply(isa, team, rows, count, queries, Store::Set);
            if let Some(look) = &mut look {
                look(i, queries, &slots[groups[0].0][i]);
            }
            jobs.clear();
            jobs.extend(
                groups
                    .iter()
                    .map(|(slot, first, count)| Job { cache: &slots[*slot][i], rows: *first..first + count }),
            );
            attend_all(&jobs, queries, mixed, &split);
            let rows = input.take(machine, &linear(&layer.cross_out), mixed);
            linear(&layer.cross_out).apply(isa, team, rows, count, x, Store::Add);
            let rows = input.norm(machine, &linear(&layer.widen), &layer.feed_norm, x);
            linear(&layer.widen).apply(isa, team, rows, count, wide, Store::Gelu);
            let rows = input.take(machine, &linear(&layer.narrow), wide);
            linear(&layer.narrow).apply(isa, team, rows, count, x, Store::Add);
        }
    }

    /// Computes the logits behind the items given and hands each row (vocabulary) to `read`, with the index of the item
    /// among those given. Rows are read on all threads.
    pub fn read(&mut self, machine: Machine<'_>, items: &[usize], read: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        let Machine { isa, team, places, image } = machine;
        let Dims { width, vocabulary, .. } = places.dims;
        let layer = image.linear(&places.embeddings);
        for (chunk, items) in items.chunks(LOGITS).enumerate() {
            // The queries of the step are no longer needed.
            self.mixed.resize(self.mixed.len().max(items.len() * width), 0.0);
            let last = &mut self.mixed[..items.len() * width];
            for (item, last) in items.iter().zip(last.chunks_exact_mut(width)) {
                last.copy_from_slice(&self.x[item * width..][..width]);
            }
            self.logits.resize(self.logits.len().max(items.len() * vocabulary), 0.0);
            let logits = &mut self.logits[..items.len() * vocabulary];
            let rows = self.input.norm(machine, &layer, &places.decoder_norm, last);
            layer.apply(isa, team, rows, items.len(), logits, Store::Set);
            let parts = Parts::new(logits);
            team.run(items.len(), &|_, i| {
                // SAFETY: a row for each task.
                read(chunk * LOGITS + i, unsafe { parts.part(i * vocabulary, vocabulary) });
            });
        }
    }

    /// Makes row `to` of each (from, to, positions) a copy of `from`; all are read before any is written.
    pub fn copy_rows(&mut self, copies: &[(usize, usize, usize)]) {
        for text in &mut self.text {
            text.copy_rows(copies, &mut self.spare);
        }
    }
}

impl Input {
    /// Rows of x, normalised, as a layer wants them.
    fn norm<'a>(
        &'a mut self,
        machine: Machine<'_>,
        layer: &Linear<'_>,
        norm: &NormPlace,
        x: &[f32],
    ) -> Rows<'a> {
        let (gamma, beta) = machine.image.norm(norm);
        let width = gamma.len();
        self.values.resize(x.len(), 0.0);
        let values = Parts::new(&mut self.values);
        let count = x.len() / width;
        by_rows(machine.team, count, &|start, rows| {
            // SAFETY: the tasks' rows are apart.
            let values = unsafe { values.part(start * width, rows * width) };
            let x = &x[start * width..][..rows * width];
            for (x, y) in x.chunks_exact(width).zip(values.chunks_exact_mut(width)) {
                normalise(x, gamma, beta, y);
            }
        });
        bring(machine, layer, &self.values, count, &mut self.bytes, &mut self.scales)
    }

    /// Rows as a layer wants them.
    fn take<'a>(&'a mut self, machine: Machine<'_>, layer: &Linear<'_>, x: &'a [f32]) -> Rows<'a> {
        bring(machine, layer, x, x.len() / layer.inputs, &mut self.bytes, &mut self.scales)
    }
}

/// As [`prepare`], by the whole team where there are many rows.
fn bring<'a>(
    machine: Machine<'_>,
    layer: &Linear<'_>,
    values: &'a [f32],
    rows: usize,
    bytes: &'a mut Vec<u8>,
    scales: &'a mut Vec<f32>,
) -> Rows<'a> {
    if rows <= ROWS_OF_TASK || !matches!(layer.weights, Weights::Int8 { .. }) {
        return prepare(machine.isa, layer, values, layer.inputs, rows, bytes, scales);
    }
    let (inputs, stride) = (layer.inputs, layer.inputs.next_multiple_of(4));
    bytes.resize(rows * stride, 0);
    scales.resize(rows, 0.0);
    let (all_bytes, all_scales) = (Parts::new(bytes), Parts::new(scales));
    by_rows(machine.team, rows, &|start, rows| {
        // SAFETY: the tasks' rows are apart.
        let (bytes, scales) =
            unsafe { (all_bytes.part(start * stride, rows * stride), all_scales.part(start, rows)) };
        for (i, (bytes, scale)) in bytes.chunks_exact_mut(stride).zip(scales).enumerate() {
            *scale = quantise(machine.isa, &values[(start + i) * inputs..][..inputs], bytes);
        }
    });
    Rows::Int8 { bytes, stride, scales }
}

/// Shares out rows: (first row, rows).
fn by_rows(team: &Team, rows: usize, task: &(dyn Fn(usize, usize) + Sync)) {
    team.run(rows.div_ceil(ROWS_OF_TASK), &|_, i| {
        let start = i * ROWS_OF_TASK;
        task(start, ROWS_OF_TASK.min(rows - start));
    });
}
