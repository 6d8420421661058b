//! The op in plain Rust: the rules step by step on a copy of the logits, in f64.

use super::{NONE, RowState, Vocabulary};

/// Logits as the rules leave them: what is forbidden is minus infinity.
pub fn filter(
    state: &RowState,
    words: &Vocabulary,
    (never, never_first): (&[u32], &[u32]),
    logits: &[f32],
) -> Vec<f64> {
    let mut left: Vec<f64> = logits.iter().map(|x| f64::from(*x)).collect();
    let first = words.first_timestamp as usize;
    let end = (first + words.timestamps as usize).min(left.len());
    let mut forbid = |from: usize, to: usize| {
        let to = to.min(left.len());
        left[from.min(to)..to].fill(f64::NEG_INFINITY);
    };
    let each = |list: &[u32], forbid: &mut dyn FnMut(usize, usize)| {
        list.iter().for_each(|token| forbid(*token as usize, *token as usize + 1));
    };
    each(never, &mut forbid);
    if state.count == 0 {
        each(never_first, &mut forbid);
    }
    if state.timestamps == 0 {
        return left;
    }
    each(&[words.no_timestamps], &mut forbid);
    forbid(end, usize::MAX);
    forbid(first.saturating_add(state.timestamp_max as usize).saturating_add(1), end);
    let (last, previous) = (state.last_is_time == 1, state.previous_is_time == 1);
    match (last, previous) {
        (true, true) => forbid(first, usize::MAX),
        (true, false) => forbid(0, words.end as usize),
        _ => {}
    }
    if state.latest != NONE {
        forbid(first, state.latest as usize + usize::from(!last || previous));
    }
    if state.count == 0 {
        forbid(0, first);
        forbid(first + state.first_timestamp_max as usize + 1, usize::MAX);
    }
    let (text, times) = left[..end].split_at(first);
    if log_sum(times) > text.iter().copied().fold(f64::NEG_INFINITY, f64::max) {
        left[..first].fill(f64::NEG_INFINITY);
    }
    left
}

/// The logarithm of the sum of exponentials.
pub fn log_sum(logits: &[f64]) -> f64 {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max.is_finite() { logits.iter().map(|x| (x - max).exp()).sum::<f64>().ln() + max } else { max }
}

/// The likeliest tokens, the first of equals first.
pub fn top(left: &[f64], count: usize) -> Vec<usize> {
    let mut tokens: Vec<usize> = (0..left.len()).filter(|token| left[*token].is_finite()).collect();
    tokens.sort_by(|a, b| left[*b].total_cmp(&left[*a]).then(a.cmp(b)));
    tokens.truncate(count);
    tokens
}

/// Shares of the tokens at a temperature, summed up in their order.
pub fn shares(left: &[f64], temperature: f64) -> Vec<f64> {
    let max = left.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = left.iter().map(|x| ((x - max) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut sum = 0.0;
    weights
        .iter()
        .map(|weight| {
            sum += weight;
            sum / total
        })
        .collect()
}

/// As the engine's generator.
pub fn unit(seed: u64, index: u32) -> f64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(u64::from(index) + 1));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}
