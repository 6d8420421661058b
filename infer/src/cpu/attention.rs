//! Attention on the processor: of the encoder's positions to each other ([`WindowAttention`]), of tokens to the sound
//! ([`SoundCache`]) and of tokens to the tokens before them ([`TextCache`]).
//!
//! All three pack keys and values once, a head at a time, in the order in which the kernels stream them, and then take
//! up to [`BLOCK`] queries of a head through scores, exponentials and the sum of values. A block's scores are (6, 1504)
//! numbers that never leave the core's caches; positions × positions are never held.
//!
//! A query's result does not depend on the queries beside it: each is its own chain of operations in an order that
//! only the keys decide, so it is bitwise the same alone and in any batch.
//!
//! Work is shared out by the caller's [`Split`]. Scratch belongs to the thread that runs a task; nothing is allocated
//! in a call.

use crate::model::HEAD_WIDTH_MAX;

mod kernels;
mod memory;
mod portable;
mod sound;
mod text;
mod window;

#[cfg(target_arch = "x86_64")]
mod avx512;

pub use kernels::Isa;
pub use sound::{Job, SoundCache, attend_all};
pub use text::{TextCache, TextItem};
pub use window::WindowAttention;

/// Runs tasks `0..n`, each once, on whatever threads there are, and returns when all are done: `split(n, &task)`.
pub type Split<'a> = &'a dyn Fn(usize, &(dyn Fn(usize) + Sync));

/// Runs the tasks one after the other on this thread: the simplest [`Split`].
pub fn in_order(tasks: usize, task: &(dyn Fn(usize) + Sync)) {
    (0..tasks).for_each(task);
}

/// How attention is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// In f32 throughout: within 1e-6 of a head's largest value of what exact arithmetic gives, where scores are
    /// of a few units.
    Exact,
    /// Queries and keys as int8 with a scale a token, exponentials and values in 8 to 16 bits, sums in f32 or int32:
    /// within 2 % of a head's largest value where scores are of a few units.
    Fast,
}

/// Heads of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// How many.
    pub count: usize,
    /// Width of each: a multiple of 16 up to [`HEAD_WIDTH_MAX`]. The fastest kernels are for 64, which all Whisper
    /// models have.
    pub width: usize,
}

impl Heads {
    /// Width of a layer: all heads side by side.
    pub fn layer_width(self) -> usize {
        self.count * self.width
    }

    /// What scores are multiplied by before the softmax.
    fn scale(self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    fn check(self) {
        let Heads { count, width } = self;
        assert!(count > 0 && width > 0 && width <= HEAD_WIDTH_MAX, "there are heads, of at most 128");
        assert!(width.is_multiple_of(LANES), "a head's width is a multiple of 16");
    }
}

/// Most keys that a query can attend to.
pub const POSITIONS_MAX: usize = 1_504;

/// Queries of one head that share a pass over keys and values: with four registers of keys they fill the registers.
pub const BLOCK: usize = 6;

/// Keys of a tile, and f32 lanes of the widest register.
const LANES: usize = 16;

#[cfg(test)]
mod tests;
