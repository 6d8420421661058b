//! From logits to tokens: openai's filters, the likeliest token or a drawn one, or the likeliest few; each row by rules and
//! state of its own, which stay on the device.
//!
//! logits (items, vocabulary) f32. Forbidden are the tokens of the first list, at a text's first token those of the
//! second, and where timestamps are on what their rules forbid: pairs, no going back, the first within
//! `first_timestamp_max`, none behind `timestamp_max`, and a timestamp where all of them together outweigh the best text.
//!
//! An item either takes one token, which moves the row's state on and is left in `next` for the row's next step, or tells
//! the `top` likeliest and leaves the choice to the host, which names it as `chosen` in a later item. Scores are
//! logarithmic probabilities at temperature 1 after the filters. Where everything is forbidden the text ends, with score 0.
//!
//! Draws are by the same generator and over the same cumulative weights in order of tokens as on the host; weights are
//! exponentials in f32, so that a draw within one part in a million of the border of two tokens may fall to the other.
//!
//! Bytes: 4 · vocabulary an item and pass, from the L2 cache; a greedy token takes 1 pass, a drawn one 3 at most, the
//! likeliest few one more each.

use crate::device::{Arguments, Device, Error, Launch, check, check_array};
use crate::memory::Plain;
use crate::view::{View, ViewMut};

const OP: &str = "sampling";

/// Most tokens that an item tells, and the length of its answer: one more than the 16 beams of a search.
pub const TOP_MAX: usize = 17;

/// What stands for no token.
pub const NONE: u32 = u32::MAX;

/// As in the kernel.
const THREADS: u32 = 512;

/// What is asked of one row of logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Item {
    /// The row whose state counts.
    pub row: u32,
    /// The token that the host chose before this step, or [`NONE`].
    pub chosen: u32,
    /// How many of the likeliest tokens are told; 0 to take one.
    pub top: u32,
}

// SAFETY: three numbers of four bytes.
unsafe impl Plain for Item {}

/// How a row's tokens are chosen, and what the rules need to know of those chosen before.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct RowState {
    /// Says all of what is drawn.
    pub seed: u64,
    /// 0 takes the likeliest token; above, tokens are drawn.
    pub temperature: f32,
    /// Whether the rules of timestamps hold: 0 or 1, as below.
    pub timestamps: u32,
    /// The latest first timestamp, in steps of 20 ms.
    pub first_timestamp_max: u32,
    /// Tokens chosen.
    pub count: u32,
    /// Whether the last one is a timestamp.
    pub last_is_time: u32,
    /// Whether the one before it is; with fewer than two tokens it counts as one.
    pub previous_is_time: u32,
    /// The latest timestamp, or [`NONE`].
    pub latest: u32,
    /// The latest timestamp that may come at all, in steps of 20 ms; [`NONE`] for all there are.
    pub timestamp_max: u32,
}

// SAFETY: a number of eight bytes and eight of four.
unsafe impl Plain for RowState {}

impl RowState {
    /// Before anything was chosen.
    pub fn new(seed: u64, temperature: f32, first_timestamp_max: Option<u32>) -> RowState {
        RowState {
            seed,
            temperature,
            timestamps: u32::from(first_timestamp_max.is_some()),
            first_timestamp_max: first_timestamp_max.unwrap_or(0),
            count: 0,
            last_is_time: 0,
            previous_is_time: 1,
            latest: NONE,
            timestamp_max: NONE,
        }
    }
}

/// A model's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Vocabulary {
    /// How many.
    pub size: u32,
    /// `<|endoftext|>`; all below it are text.
    pub end: u32,
    /// `<|notimestamps|>`
    pub no_timestamps: u32,
    /// `<|0.00|>`
    pub first_timestamp: u32,
    /// How many there are.
    pub timestamps: u32,
}

impl Vocabulary {
    /// The two lists as the kernel reads them: a bit a token, (2, words).
    pub fn lists(&self, never: &[u32], never_first: &[u32]) -> Vec<u32> {
        let words = self.words();
        let mut bits = vec![0; 2 * words];
        for (half, list) in [never, never_first].into_iter().enumerate() {
            for token in list.iter().filter(|token| **token < self.size) {
                bits[half * words + *token as usize / 32] |= 1 << (token % 32);
            }
        }
        bits
    }

    fn words(&self) -> usize {
        self.size.div_ceil(32) as usize
    }
}

/// Where answers go.
#[derive(Debug)]
pub struct Answers<'a> {
    /// (items, 17): the token; or the likeliest, [`NONE`] where fewer are allowed.
    pub tokens: ViewMut<'a, u32>,
    /// (items, 17): their logarithmic probabilities.
    pub scores: ViewMut<'a, f32>,
    /// (rows): what each row reads next.
    pub next: ViewMut<'a, u32>,
}

/// Answers each item. `items` are what `device_items` holds; each row is at most once among them.
pub fn sample(
    device: &mut impl Device,
    logits: &View<'_, f32>,
    items: &[Item],
    device_items: &View<'_, Item>,
    states: &mut ViewMut<'_, RowState>,
    answers: &mut Answers<'_>,
    (words, lists): (Vocabulary, &View<'_, u32>),
) -> Result<(), Error> {
    let count = items.len();
    let Vocabulary { size, end, no_timestamps, first_timestamp, timestamps } = words;
    let whole = end < size && no_timestamps < size && first_timestamp.checked_add(timestamps).is_some();
    check(whole && first_timestamp <= size && i32::try_from(count).is_ok(), OP, || {
        format!("{count} items of {words:?}")
    })?;
    for (i, item) in items.iter().enumerate() {
        check((item.row as usize) < states.len(), OP, || {
            format!("item {i} is row {} of {}", item.row, states.len())
        })?;
        check(items[..i].iter().all(|before| before.row != item.row), OP, || {
            format!("row {} is there twice", item.row)
        })?;
        check(item.top as usize <= TOP_MAX, OP, || format!("item {i} asks for {} tokens", item.top))?;
        check(item.chosen == NONE || item.chosen < size, OP, || {
            format!("item {i} chose {} of {size} tokens", item.chosen)
        })?;
    }
    check(device_items.len() >= count, OP, || {
        format!("{count} items, {} on the device", device_items.len())
    })?;
    check_array(OP, "logits", (logits.address(), logits.len()), count * size as usize)?;
    check_array(OP, "lists", (lists.address(), lists.len()), 2 * words.words())?;
    check_array(OP, "tokens", (answers.tokens.address(), answers.tokens.len()), count * TOP_MAX)?;
    check_array(OP, "scores", (answers.scores.address(), answers.scores.len()), count * TOP_MAX)?;
    check_array(OP, "next", (answers.next.address(), answers.next.len()), states.len())?;
    if count == 0 {
        return Ok(());
    }
    let launch = Launch { kernel: "sample", grid: [count as u32, 1, 1], threads: THREADS, shared_bytes: 0 };
    let arguments = Arguments::new()
        .read(logits)
        .read(device_items)
        .write(states)
        .write(&answers.next)
        .write(&answers.tokens)
        .write(&answers.scores)
        .read(lists)
        .number(size as usize)
        .number(end as usize)
        .number(no_timestamps as usize)
        .number(first_timestamp as usize)
        .number(timestamps as usize);
    // SAFETY: the arguments are the kernel's parameters in order; items and arrays were checked.
    unsafe { device.launch(&launch, &arguments) }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
