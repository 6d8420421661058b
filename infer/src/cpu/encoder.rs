//! From a spectrogram to what the decoder hears of it.
//!
//! Everything between two attentions is done for a block of rows at a time, from one thread's cache, so a layer has two
//! points where the threads wait for each other.

use super::attention::{Heads, SoundCache, WindowAttention};
use super::image::{Image, LinearPlace, NormPlace, Precision};
use super::linear::{Isa, Store, TILE, Target, quantise};
use super::network::{Places, TAPS};
use super::parts::Parts;
use super::team::Team;
use super::{Arithmetic, linear};
use crate::backend::Sound;
use crate::features::{Mel, WINDOW_FRAMES};
use crate::math::{add, normalise};
use crate::model::{AUDIO_POSITIONS, Dims};

/// Rows of a block, about: what a thread does from its own cache between two attentions.
const BLOCK: usize = 48;

/// What the loops need to run.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    /// Instructions.
    pub isa: Isa,
    /// Threads.
    pub team: &'a Team,
    /// Where the weights stand.
    pub places: &'a Places,
    /// The weights.
    pub image: &'a Image,
}

/// Memory of the encoder, used again for each window.
pub struct Encoder {
    attention: WindowAttention,
    /// (frames + 2, mels): a frame of zeros before and behind.
    frames: Vec<f32>,
    /// What the first convolution gives, (frames + 2, width): the same.
    first: Vec<f32>,
    /// The states, (positions, width).
    x: Vec<f32>,
    /// (positions, 3 width)
    qkv: Vec<f32>,
    /// (positions, width)
    mixed: Vec<f32>,
    /// Of each thread.
    blocks: Vec<Block>,
}

/// Memory of a thread for one block of rows.
#[derive(Default)]
pub struct Block {
    /// Rows as a layer reads them, in f32.
    normed: Vec<f32>,
    bytes: Vec<u8>,
    scales: Vec<f32>,
    /// (rows, inner)
    wide: Vec<f32>,
}

impl Encoder {
    /// Room for one window.
    pub fn new(places: &Places, threads: usize) -> Encoder {
        let Dims { mels, width, encoder_heads, .. } = places.dims;
        let heads = Heads { count: encoder_heads, width: width / encoder_heads };
        Encoder {
            attention: WindowAttention::new(heads, AUDIO_POSITIONS, arithmetic(places.precision)),
            frames: vec![0.0; (WINDOW_FRAMES + 2) * mels],
            first: vec![0.0; (WINDOW_FRAMES + 2) * width],
            x: vec![0.0; AUDIO_POSITIONS * width],
            qkv: vec![0.0; AUDIO_POSITIONS * 3 * width],
            mixed: vec![0.0; AUDIO_POSITIONS * width],
            blocks: (0..threads).map(|_| Block::default()).collect(),
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        let values = self.frames.len() + self.first.len() + self.x.len() + self.qkv.len() + self.mixed.len();
        values * size_of::<f32>()
            + self.attention.bytes()
            + self.blocks.iter().map(Block::bytes).sum::<usize>()
    }

    /// Encodes a window of a segment's spectrogram into a slot: a cache for each layer of the decoder. Returns the
    /// encoder's states (positions, width).
    pub fn encode(
        &mut self,
        machine: Machine<'_>,
        mel: &Mel,
        sound: &Sound<'_>,
        slot: &mut [SoundCache],
    ) -> &[f32] {
        let positions = sound.positions;
        let Machine { isa, team, places, image } = machine;
        let Dims { width, .. } = places.dims;
        assert!((1..=AUDIO_POSITIONS).contains(&positions), "a window has 1 to 1500 positions");
        self.stem(machine, mel, sound);
        let layers = &places.encoder;
        let split = |tasks: usize, task: &(dyn Fn(usize) + Sync)| team.run(tasks, &|_, i| task(i));
        for (i, layer) in layers.iter().enumerate() {
            let (qkv, mixed) = (&mut self.qkv[..positions * 3 * width], &mut self.mixed[..positions * width]);
            self.attention.attend(qkv, mixed, &split);
            let mixed = &*mixed;
            let next = layers.get(i + 1);
            let (x, qkv) = (Parts::new(&mut self.x), Parts::new(qkv));
            let own = Parts::new(&mut self.blocks);
            let blocks = Blocks::new(positions, team.threads());
            team.run(blocks.count, &|thread, i| {
                // SAFETY: a thread runs one task at a time.
                let block = &mut unsafe { own.part(thread, 1) }[0];
                let (start, rows) = blocks.rows(i);
                // SAFETY: the blocks' rows are apart.
                let x = unsafe { x.part(start * width, rows * width) };
                block.feed(mixed, start, rows, width);
                block.apply(isa, image, &layer.out, rows, x, Store::Add);
                block.norm(isa, image, &layer.feed_norm, x);
                block.widen(isa, image, &layer.widen, rows);
                block.apply(isa, image, &layer.narrow, rows, x, Store::Add);
                match next {
                    Some(next) => {
                        block.norm(isa, image, &next.attention_norm, x);
                        // SAFETY: as above.
                        let qkv = unsafe { qkv.part(start * 3 * width, rows * 3 * width) };
                        block.apply(isa, image, &next.qkv, rows, qkv, Store::Set);
                    }
                    None => {
                        let (gamma, beta) = image.norm(&places.encoder_norm);
                        block.normed.resize(x.len(), 0.0);
                        for (x, y) in x.chunks_exact(width).zip(block.normed.chunks_exact_mut(width)) {
                            normalise(x, gamma, beta, y);
                        }
                        x.copy_from_slice(&block.normed);
                    }
                }
            });
        }
        self.hear(machine, positions, slot);
        &self.x[..positions * width]
    }

    /// The convolutions, the positions, and queries, keys and values of the first layer.
    fn stem(&mut self, machine: Machine<'_>, mel: &Mel, sound: &Sound<'_>) {
        let Sound { from, positions, frames: heard, .. } = *sound;
        let Machine { isa, team, places, image } = machine;
        let Dims { mels, width, .. } = places.dims;
        let frames = 2 * positions;
        self.frames[..(frames + 2) * mels].fill(0.0);
        let count = mel.frames().saturating_sub(from).min(heard).min(frames);
        for (i, row) in mel.values().chunks_exact(mel.frames().max(1)).enumerate().take(mels) {
            for (frame, value) in row[from.min(row.len())..].iter().take(count).enumerate() {
                self.frames[(frame + 1) * mels + i] = *value;
            }
        }
        let (own, source) = (Parts::new(&mut self.blocks), &self.frames);
        // The frame behind the last is one of zeros, as the one before the first.
        self.first[(frames + 1) * width..][..width].fill(0.0);
        let first = Parts::new(&mut self.first);
        let blocks = Blocks::new(frames, team.threads());
        team.run(blocks.count, &|thread, i| {
            // SAFETY: a thread runs one task at a time.
            let block = &mut unsafe { own.part(thread, 1) }[0];
            let (start, rows) = blocks.rows(i);
            // SAFETY: the blocks' rows are apart.
            let first = unsafe { first.part((start + 1) * width, rows * width) };
            block.convolve(isa, image, &places.conv1, &source[start * mels..], mels, rows, first);
        });
        let (source, x, qkv) = (&self.first, Parts::new(&mut self.x), Parts::new(&mut self.qkv));
        let sound_positions = image.get(places.sound_positions);
        let layer = &places.encoder[0];
        let blocks = Blocks::new(positions, team.threads());
        team.run(blocks.count, &|thread, i| {
            // SAFETY: a thread runs one task at a time.
            let block = &mut unsafe { own.part(thread, 1) }[0];
            let (start, rows) = blocks.rows(i);
            // SAFETY: the blocks' rows are apart.
            let x = unsafe { x.part(start * width, rows * width) };
            block.convolve(isa, image, &places.conv2, &source[2 * start * width..], 2 * width, rows, x);
            add(x, &sound_positions[start * width..][..x.len()]);
            block.norm(isa, image, &layer.attention_norm, x);
            // SAFETY: as above.
            let qkv = unsafe { qkv.part(start * 3 * width, rows * 3 * width) };
            block.apply(isa, image, &layer.qkv, rows, qkv, Store::Set);
        });
    }

    /// Keys and values of the states for each layer of the decoder.
    fn hear(&mut self, machine: Machine<'_>, positions: usize, slot: &mut [SoundCache]) {
        let Machine { isa, team, places, image } = machine;
        let width = places.dims.width;
        let split = |tasks: usize, task: &(dyn Fn(usize) + Sync)| team.run(tasks, &|_, i| task(i));
        let (own, x) = (Parts::new(&mut self.blocks), &self.x);
        for (layer, cache) in places.decoder.iter().zip(slot) {
            let kv = &mut self.qkv[..positions * 2 * width];
            let parts = Parts::new(kv);
            let blocks = Blocks::new(positions, team.threads());
            team.run(blocks.count, &|thread, i| {
                // SAFETY: a thread runs one task at a time.
                let block = &mut unsafe { own.part(thread, 1) }[0];
                let (start, rows) = blocks.rows(i);
                block.feed(x, start, rows, width);
                // SAFETY: the blocks' rows are apart.
                let kv = unsafe { parts.part(start * 2 * width, rows * 2 * width) };
                block.apply(isa, image, &layer.cross_kv, rows, kv, Store::Set);
            });
            cache.store(kv, &split);
        }
    }
}

/// The arithmetic of attention beside layers of a precision.
pub fn arithmetic(precision: Precision) -> Arithmetic {
    match precision {
        Precision::Int8 => Arithmetic::Fast,
        Precision::Bf16 | Precision::F32 => Arithmetic::Exact,
    }
}

/// Rows cut into blocks of whole tiles, as many for each thread.
#[derive(Clone, Copy)]
struct Blocks {
    rows: usize,
    count: usize,
}

impl Blocks {
    fn new(rows: usize, threads: usize) -> Blocks {
        Blocks { rows, count: rows.div_ceil(BLOCK).next_multiple_of(threads).min(rows.div_ceil(TILE)) }
    }

    /// First row and number of rows of a block.
    fn rows(&self, block: usize) -> (usize, usize) {
        let tiles = self.rows.div_ceil(TILE);
        let at = |block: usize| (tiles * block / self.count * TILE).min(self.rows);
        (at(block), at(block + 1) - at(block))
    }
}

impl Block {
    fn bytes(&self) -> usize {
        (self.normed.capacity() + self.wide.capacity() + self.scales.capacity()) * size_of::<f32>()
            + self.bytes.capacity()
    }

    /// Takes rows of width `width` from `values` as the next layer's input.
    fn feed(&mut self, values: &[f32], start: usize, rows: usize, width: usize) {
        self.normed.clear();
        self.normed.extend_from_slice(&values[start * width..][..rows * width]);
        self.wide.clear();
    }

    /// Takes rows, normalised, as the next layer's input.
    fn norm(&mut self, _isa: Isa, image: &Image, place: &NormPlace, x: &[f32]) {
        let (gamma, beta) = image.norm(place);
        self.normed.resize(x.len(), 0.0);
        self.wide.clear();
        let width = gamma.len();
        for (x, y) in x.chunks_exact(width).zip(self.normed.chunks_exact_mut(width)) {
            normalise(x, gamma, beta, y);
        }
    }

    /// The layer of the input into y (rows, outputs).
    fn apply(
        &mut self,
        isa: Isa,
        image: &Image,
        place: &LinearPlace,
        rows: usize,
        y: &mut [f32],
        store: Store,
    ) {
        let layer = image.linear(place);
        let values = if self.wide.is_empty() { &self.normed } else { &self.wide };
        let x = prepare(isa, &layer, values, layer.inputs, rows, &mut self.bytes, &mut self.scales);
        let target = Target::new(y, layer.outputs);
        // SAFETY: y is this task's alone.
        unsafe { layer.multiply(isa, x, 0..rows, 0..layer.panels(), target, store) };
    }

    /// The layer of the input, through the activation, becomes the next layer's input.
    fn widen(&mut self, isa: Isa, image: &Image, place: &LinearPlace, rows: usize) {
        let mut wide = std::mem::take(&mut self.wide);
        wide.resize(rows * place.outputs, 0.0);
        self.apply(isa, image, place, rows, &mut wide, Store::Gelu);
        self.wide = wide;
    }

    /// A convolution and its activation: rows of three frames, `stride` apart in `values`, into y (rows, outputs).
    #[allow(clippy::too_many_arguments)]
    fn convolve(
        &mut self,
        isa: Isa,
        image: &Image,
        place: &LinearPlace,
        values: &[f32],
        stride: usize,
        rows: usize,
        y: &mut [f32],
    ) {
        debug_assert!(place.inputs.is_multiple_of(TAPS));
        let layer = image.linear(place);
        let x = prepare(isa, &layer, values, stride, rows, &mut self.bytes, &mut self.scales);
        let target = Target::new(y, layer.outputs);
        // SAFETY: y is this task's alone.
        unsafe { layer.multiply(isa, x, 0..rows, 0..layer.panels(), target, Store::Gelu) };
    }
}

/// Brings rows, `stride` apart, into the form that a layer wants.
pub fn prepare<'a>(
    isa: Isa,
    layer: &linear::Linear<'_>,
    values: &'a [f32],
    stride: usize,
    rows: usize,
    bytes: &'a mut Vec<u8>,
    scales: &'a mut Vec<f32>,
) -> linear::Rows<'a> {
    match layer.weights {
        linear::Weights::F32 { .. } | linear::Weights::Bf16 { .. } => linear::Rows::F32 { values, stride },
        linear::Weights::Int8 { .. } => {
            let width = layer.inputs.next_multiple_of(4);
            bytes.resize(rows * width, 0);
            scales.resize(rows, 0.0);
            for (row, (bytes, scale)) in bytes.chunks_exact_mut(width).zip(scales.iter_mut()).enumerate() {
                *scale = quantise(isa, &values[row * stride..][..layer.inputs], bytes);
            }
            linear::Rows::Int8 { bytes, stride: width, scales }
        }
    }
}
