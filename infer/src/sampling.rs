//! From logits to a token: openai's filters, greedy choice, seeded sampling. Each row has a [`State`] of its own, small
//! enough to live on a device; a backend that samples elsewhere gives what this code gives.

use crate::backend::Scored;
use crate::math::log_sum_exp;
use crate::tokens::{Special, TIMESTAMPS, Tokens};

/// How the tokens of a row are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token each time; above, tokens are drawn.
    pub temperature: f32,
    /// Says all of what is drawn.
    pub seed: u64,
    /// Whether the rules of timestamps hold.
    pub timestamps: bool,
    /// The latest first timestamp, in steps of 20 ms; openai's is 50 (1 s).
    pub first_timestamp_max: u32,
    /// The latest timestamp of all, in steps of 20 ms: where a window is not encoded whole, there is nothing behind its
    /// sound that a text could be timed by.
    pub timestamp_max: u32,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 0.0,
            seed: 0,
            timestamps: true,
            first_timestamp_max: 50,
            timestamp_max: TIMESTAMPS - 1,
        }
    }
}

/// What a model never says, from its vocabulary. Filters in openai's order: blanks at the start, suppressed tokens,
/// then the rules of timestamps.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// The special tokens.
    pub special: Special,
    /// Never sampled.
    pub suppressed: Vec<u32>,
    /// Not sampled first.
    pub suppressed_first: Vec<u32>,
}

/// What the rules need to know of what a row has sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State {
    /// Tokens sampled.
    pub count: u32,
    /// Whether the last one is a timestamp.
    pub last_is_time: bool,
    /// Whether the one before it is; with fewer than two tokens it counts as one.
    pub previous_is_time: bool,
    /// The latest timestamp.
    pub latest: Option<u32>,
}

impl State {
    /// Before anything was sampled.
    pub fn new() -> State {
        State { previous_is_time: true, ..State::default() }
    }

    /// Takes note of a sampled token.
    pub fn push(&mut self, token: u32, special: &Special) {
        let is_time = token >= special.first_timestamp;
        self.previous_is_time = self.count == 0 || self.last_is_time;
        self.last_is_time = is_time;
        self.latest = if is_time { Some(token) } else { self.latest };
        self.count += 1;
    }
}

impl Rules {
    /// The rules of a vocabulary.
    pub fn new(tokens: &Tokens) -> Rules {
        Rules {
            special: tokens.special,
            suppressed: tokens.suppressed.clone(),
            suppressed_first: tokens.suppressed_first.clone(),
        }
    }

    /// Sets the logits (vocabulary) of what may not come next to minus infinity.
    pub fn apply(&self, state: State, sampling: &Sampling, logits: &mut [f32]) {
        if state.count == 0 {
            forbid_each(logits, &self.suppressed_first);
        }
        forbid_each(logits, &self.suppressed);
        if sampling.timestamps {
            self.apply_timestamps(state, sampling, logits);
        }
    }

    fn apply_timestamps(&self, state: State, sampling: &Sampling, logits: &mut [f32]) {
        let first = self.special.first_timestamp;
        let end = (first + TIMESTAMPS) as usize;
        forbid_each(logits, &[self.special.no_timestamps]);
        forbid(logits, end, usize::MAX);
        let first = first as usize;
        forbid(logits, first + sampling.timestamp_max as usize + 1, end);
        if state.last_is_time && state.previous_is_time {
            forbid(logits, first, usize::MAX);
        } else if state.last_is_time {
            forbid(logits, 0, self.special.end as usize);
        }
        if let Some(latest) = state.latest {
            // Times do not go back, and a text takes some time: only a start may repeat the end before it.
            let repeats = state.last_is_time && !state.previous_is_time;
            forbid(logits, first, latest as usize + usize::from(!repeats));
        }
        if state.count == 0 {
            forbid(logits, 0, first);
            forbid(logits, first + sampling.first_timestamp_max as usize + 1, usize::MAX);
        }
        // All timestamps together outweigh the best text: it is time for one. The normaliser of the
        // probabilities is common to both sides, so logits can be compared.
        let (text, times) = logits[..end.min(logits.len())].split_at(first);
        let (text_max, times_max) = (max(text), max(times));
        if times_max.is_finite() && log_sum_exp(times, times_max) > text_max {
            forbid(logits, 0, first);
        }
    }
}

fn forbid(logits: &mut [f32], start: usize, end: usize) {
    let end = end.min(logits.len());
    if start < end {
        logits[start..end].fill(f32::NEG_INFINITY);
    }
}

fn forbid_each(logits: &mut [f32], tokens: &[u32]) {
    for token in tokens {
        logits[*token as usize] = f32::NEG_INFINITY;
    }
}

/// The largest logit; 16 at a time, because this is read for each token of each text.
pub(crate) fn max(logits: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (blocks, rest) = logits.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for block in blocks {
        lanes.iter_mut().zip(block).for_each(|(lane, x)| *lane = larger(*lane, *x));
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, x| larger(max, *x))
}

/// The first index of a value.
fn find(logits: &[f32], value: f32) -> Option<usize> {
    let (blocks, rest) = logits.as_chunks::<16>();
    // Without a branch for each value, so that a block is a few instructions.
    let holds = |block: &[f32; 16]| block.iter().fold(false, |found, x| found | (*x == value));
    match blocks.iter().position(holds) {
        Some(block) => blocks[block].iter().position(|x| *x == value).map(|i| block * 16 + i),
        None => rest.iter().position(|x| *x == value).map(|i| blocks.len() * 16 + i),
    }
}

/// Picks a token from filtered logits and gives its logarithmic probability at temperature 1. `count` is the number of
/// tokens sampled before; where everything is forbidden, the text ends.
pub fn choose(logits: &[f32], sampling: &Sampling, count: u32, end: u32) -> (u32, f32) {
    let max = max(logits);
    if !max.is_finite() {
        return (end, 0.0);
    }
    let likeliest = if logits[end as usize] == max { None } else { find(logits, max) };
    let likeliest = likeliest.unwrap_or(end as usize);
    let total = log_sum_exp(logits, max);
    let token = if sampling.temperature > 0.0 {
        draw(logits, max, sampling.temperature, unit(sampling.seed, count)).unwrap_or(likeliest)
    } else {
        likeliest
    };
    (token as u32, logits[token] - total)
}

/// The likeliest tokens of filtered logits with their logarithmic probabilities, the likeliest first; fewer where fewer
/// are allowed, none where nothing is.
pub fn top(logits: &[f32], count: usize) -> Scored {
    let max = max(logits);
    if !max.is_finite() {
        return Scored::new();
    }
    let total = log_sum_exp(logits, max);
    let mut best = Scored::with_capacity(count + 1);
    for (token, logit) in logits.iter().enumerate() {
        if !logit.is_finite() || (best.len() == count && best.last().is_some_and(|(_, least)| logit <= least))
        {
            continue;
        }
        let place = best.partition_point(|(_, better)| better >= logit);
        best.insert(place, (token as u32, *logit));
        best.truncate(count);
    }
    best.iter_mut().for_each(|(_, logit)| *logit -= total);
    best
}

/// Draws an index with probability proportional to exp(logit / temperature); `unit` is a number in 0..1.
fn draw(logits: &[f32], max: f32, temperature: f32, unit: f64) -> Option<usize> {
    let weight = |x: f32| f64::from((x - max) / temperature).exp();
    let total: f64 = logits.iter().map(|x| weight(*x)).sum();
    let mut rest = unit * total;
    logits.iter().position(|x| {
        rest -= weight(*x);
        rest < 0.0
    })
}

/// The `index`th random number in 0..1 of a seed: SplitMix64. The same seed must give the same text for as long as
/// transcripts are compared, whatever else is in the batch, so the generator is no dependency's choice and has no state.
pub fn unit(seed: u64, index: u32) -> f64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(u64::from(index) + 1));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests;
