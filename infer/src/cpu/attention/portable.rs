//! The kernels as plain loops: the twin that the others are tested against, and what other machines run.
//!
//! `FMA` says whether fused multiply-add is an instruction where the loop is compiled.

use super::{HEAD_WIDTH_MAX, LANES};

/// The kernels for any processor.
pub struct Portable;

/// The same loops compiled for AVX2 and FMA.
pub struct Avx2;

#[inline(always)]
pub fn score_f32<const FMA: bool>(
    n: usize,
    queries: &[f32],
    keys: &[f32],
    scores: &mut [f32],
    stride: usize,
) {
    let width = queries.len() / n;
    for (tile, keys) in keys.chunks_exact(width * LANES).enumerate() {
        for (query, row) in queries.chunks_exact(width).zip(scores.chunks_mut(stride)) {
            let mut sums = [0.0f32; LANES];
            for (query, keys) in query.iter().zip(keys.as_chunks::<LANES>().0) {
                for (sum, key) in sums.iter_mut().zip(keys) {
                    *sum = fused::<FMA>(*query, *key, *sum);
                }
            }
            row[tile * LANES..][..LANES].copy_from_slice(&sums);
        }
    }
}

#[inline(always)]
pub fn score_int8<const FMA: bool>(
    n: usize,
    queries: &[u32],
    keys: &[u32],
    scales: &[f32],
    scores: &mut [f32],
    stride: usize,
) {
    let groups = queries.len() / n;
    for (query, row) in queries.chunks_exact(groups).zip(scores.chunks_mut(stride)) {
        // Keys are stored 128 higher than they are.
        let excess: i32 =
            query.iter().flat_map(|word| word.to_le_bytes()).map(|x| 128 * i32::from(x as i8)).sum();
        for ((keys, scales), row) in keys
            .chunks_exact(groups * LANES)
            .zip(scales.as_chunks::<LANES>().0)
            .zip(row.as_chunks_mut::<LANES>().0)
        {
            let mut sums = [-excess; LANES];
            for (query, keys) in query.iter().zip(keys.as_chunks::<LANES>().0) {
                let query = query.to_le_bytes().map(|x| i32::from(x as i8));
                for (sum, key) in sums.iter_mut().zip(keys) {
                    for (part, query) in query.iter().enumerate() {
                        *sum += (key >> (8 * part) & 255) as i32 * query;
                    }
                }
            }
            for ((score, sum), scale) in row.iter_mut().zip(sums).zip(scales) {
                *score = sum as f32 * scale;
            }
        }
    }
}

#[inline(always)]
pub fn exponentiate_f32<const FMA: bool>(row: &mut [f32], count: usize) -> f32 {
    let max = max_of(&row[..count]);
    let mut sums = [0.0f32; LANES];
    for (tile, scores) in row.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        for (lane, (score, sum)) in scores.iter_mut().zip(&mut sums).enumerate() {
            *score = if tile * LANES + lane < count { exp::<FMA>(*score - max) } else { 0.0 };
            *sum += *score;
        }
    }
    total(sums)
}

#[inline(always)]
pub fn exponentiate_bf16<const FMA: bool>(row: &mut [f32], count: usize, factor: f32) -> f32 {
    let shift = -max_of(&row[..count]) * factor;
    let mut sums = [0.0f32; LANES];
    for tile in 0..row.len() / LANES {
        let mut exponentials = [0.0f32; LANES];
        for (lane, (exponential, sum)) in exponentials.iter_mut().zip(&mut sums).enumerate() {
            let at = tile * LANES + lane;
            if at < count {
                *exponential = exp2::<FMA>(fused::<FMA>(row[at], factor, shift));
                *sum += *exponential;
            }
        }
        // Words are written behind what is still to be read.
        for (word, pair) in
            row[tile * LANES / 2..][..LANES / 2].iter_mut().zip(exponentials.as_chunks::<2>().0)
        {
            *word = f32::from_bits(bf16(pair[0]) | bf16(pair[1]) << 16);
        }
    }
    total(sums)
}

#[inline(always)]
pub fn exponentiate_u16<const FMA: bool>(row: &mut [f32], count: usize, factor: f32) -> f32 {
    let shift = -max_of(&row[..count]) * factor;
    let mut sum = 0u32;
    for tile in 0..row.len() / LANES {
        let (mut high, mut low) = ([0u8; LANES], [0u8; LANES]);
        for lane in 0..LANES {
            let at = tile * LANES + lane;
            if at < count {
                let exponential = exp2::<FMA>(fused::<FMA>(row[at], factor, shift));
                let whole = (exponential * 65_535.0).round_ties_even().min(65_535.0) as u32;
                sum += whole;
                [low[lane], high[lane], ..] = whole.to_le_bytes();
            }
        }
        let words = row[tile * LANES / 2..][..LANES / 2].iter_mut();
        for (word, bytes) in words.zip(high.as_chunks::<4>().0.iter().chain(low.as_chunks::<4>().0)) {
            *word = f32::from_bits(u32::from_le_bytes(*bytes));
        }
    }
    sum as f32
}

#[inline(always)]
pub fn mix_f32<const FMA: bool>(n: usize, weights: &[f32], stride: usize, values: &[f32], out: &mut [f32]) {
    let width = out.len() / n;
    for (weights, out) in weights.chunks(stride).zip(out.chunks_exact_mut(width)) {
        out.fill(0.0);
        for (weight, value) in weights.iter().zip(values.chunks_exact(width)) {
            for (out, value) in out.iter_mut().zip(value) {
                *out = fused::<FMA>(*weight, *value, *out);
            }
        }
    }
}

#[inline(always)]
pub fn mix_bf16<const FMA: bool>(n: usize, weights: &[f32], stride: usize, values: &[u32], out: &mut [f32]) {
    let width = out.len() / n;
    for (weights, out) in weights.chunks(stride).zip(out.chunks_exact_mut(width)) {
        out.fill(0.0);
        for (weights, values) in weights.iter().zip(values.chunks_exact(width)) {
            let [first, second] = pair(weights.to_bits());
            for (out, values) in out.iter_mut().zip(values) {
                let values = pair(*values);
                *out = fused::<FMA>(second, values[1], fused::<FMA>(first, values[0], *out));
            }
        }
    }
}

#[inline(always)]
pub fn mix_int8<const FMA: bool>(n: usize, weights: &[f32], stride: usize, values: &[u32], out: &mut [f32]) {
    let width = out.len() / n;
    for (weights, out) in weights.chunks(stride).zip(out.chunks_exact_mut(width)) {
        let (mut high, mut low) = ([0i32; HEAD_WIDTH_MAX], [0i32; HEAD_WIDTH_MAX]);
        for (quad, values) in values.chunks_exact(width).enumerate() {
            let word = |part: usize| weights[quad / 4 * 8 + part * 4 + quad % 4].to_bits().to_le_bytes();
            let (weights_high, weights_low) = (word(0), word(1));
            for ((values, high), low) in values.iter().zip(&mut high).zip(&mut low) {
                for (part, value) in values.to_le_bytes().into_iter().enumerate() {
                    *high += i32::from(weights_high[part]) * i32::from(value as i8);
                    *low += i32::from(weights_low[part]) * i32::from(value as i8);
                }
            }
        }
        for ((out, high), low) in out.iter_mut().zip(high).zip(low) {
            *out = fused::<FMA>(high as f32, 256.0, low as f32);
        }
    }
}

#[inline(always)]
pub fn quantise_queries<const FMA: bool>(n: usize, queries: &[f32], words: &mut [u32], scales: &mut [f32]) {
    let width = queries.len() / n;
    for ((query, words), scale) in
        queries.chunks_exact(width).zip(words.chunks_exact_mut(width / 4)).zip(scales)
    {
        *scale = quantise(query, words, 0);
    }
}

#[inline(always)]
pub fn pack_keys_f32<const FMA: bool>(
    rows: &[f32],
    stride: usize,
    positions: usize,
    width: usize,
    keys: &mut [f32],
) {
    for (tile, keys) in keys.chunks_exact_mut(width * LANES).enumerate() {
        for lane in 0..LANES {
            let position = tile * LANES + lane;
            if position < positions {
                let key = &rows[position * stride..][..width];
                keys.iter_mut().skip(lane).step_by(LANES).zip(key).for_each(|(to, from)| *to = *from);
            } else {
                keys.iter_mut().skip(lane).step_by(LANES).for_each(|to| *to = 0.0);
            }
        }
    }
}

#[inline(always)]
pub fn pack_keys_int8<const FMA: bool>(
    rows: &[f32],
    stride: usize,
    positions: usize,
    mean: &mut [f32],
    scales: &mut [f32],
    keys: &mut [u32],
) {
    let width = mean.len();
    mean_of(rows, stride, positions, mean);
    for (position, scale) in scales.iter_mut().enumerate() {
        let mut words = [0; HEAD_WIDTH_MAX / 4];
        let words = &mut words[..width / 4];
        *scale = 0.0;
        if position < positions {
            let mut key = [0.0; HEAD_WIDTH_MAX];
            for ((key, from), mean) in key.iter_mut().zip(&rows[position * stride..][..width]).zip(&*mean) {
                *key = from - mean;
            }
            *scale = quantise(&key[..width], words, 0x8080_8080);
        }
        let lanes =
            keys[position / LANES * LANES * width / 4..].iter_mut().skip(position % LANES).step_by(LANES);
        lanes.zip(words).for_each(|(to, word)| *to = *word);
    }
}

#[inline(always)]
pub fn pack_values_f32<const FMA: bool>(
    rows: &[f32],
    stride: usize,
    positions: usize,
    width: usize,
    values: &mut [f32],
) {
    for (position, value) in values.chunks_exact_mut(width).enumerate() {
        if position < positions {
            value.copy_from_slice(&rows[position * stride..][..width]);
        } else {
            value.fill(0.0);
        }
    }
}

#[inline(always)]
pub fn pack_values_bf16<const FMA: bool>(
    rows: &[f32],
    stride: usize,
    positions: usize,
    width: usize,
    values: &mut [u32],
) {
    let none = [0.0; HEAD_WIDTH_MAX];
    let row = |position: usize| {
        if position < positions { &rows[position * stride..][..width] } else { &none[..width] }
    };
    for (pair, words) in values.chunks_exact_mut(width).enumerate() {
        for ((word, first), second) in words.iter_mut().zip(row(2 * pair)).zip(row(2 * pair + 1)) {
            *word = bf16(*first) | bf16(*second) << 16;
        }
    }
}

#[inline(always)]
pub fn pack_values_int8<const FMA: bool>(
    rows: &[f32],
    stride: usize,
    positions: usize,
    mean: &mut [f32],
    scales: &mut [f32],
    values: &mut [u32],
) {
    let width = mean.len();
    mean_of(rows, stride, positions, mean);
    scales.fill(0.0);
    for row in rows.chunks(stride).take(positions) {
        for ((scale, value), mean) in scales.iter_mut().zip(row).zip(&*mean) {
            *scale = scale.max((value - mean).abs());
        }
    }
    let mut inverse = [0.0; HEAD_WIDTH_MAX];
    for (inverse, scale) in inverse.iter_mut().zip(scales) {
        *inverse = if *scale > 0.0 { INT8_MAX / *scale } else { 0.0 };
        *scale /= INT8_MAX;
    }
    // What lies beyond the last position has the exponential 0; any value does.
    let row = |position: usize| &rows[position.min(positions - 1) * stride..][..width];
    for (quad, words) in values.chunks_exact_mut(width).enumerate() {
        let four = [row(4 * quad), row(4 * quad + 1), row(4 * quad + 2), row(4 * quad + 3)];
        for (i, ((word, mean), inverse)) in words.iter_mut().zip(&*mean).zip(&inverse).enumerate() {
            let byte = |part: usize| whole((four[part][i] - mean) * inverse) & 255;
            *word = byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24;
        }
    }
}

/// Largest magnitude of an int8 number, so that none needs -128.
const INT8_MAX: f32 = 127.0;

/// 1.5 * 2^23: adding it leaves the nearest whole number in the low bits.
const ROUND: f32 = 12_582_912.0;

/// The low bits of the nearest whole number.
#[inline(always)]
fn whole(x: f32) -> u32 {
    (x + ROUND).to_bits()
}

/// Turns a row (width) into int8 (width / 4) words, with some bits flipped, and returns the scale.
#[inline(always)]
fn quantise(row: &[f32], words: &mut [u32], flipped: u32) -> f32 {
    let mut largest = [0.0f32; LANES];
    for block in row.as_chunks::<LANES>().0 {
        for (largest, x) in largest.iter_mut().zip(block) {
            let x = x.abs();
            *largest = if x > *largest { x } else { *largest };
        }
    }
    let largest = largest.into_iter().fold(0.0, f32::max);
    let inverse = if largest > 0.0 { INT8_MAX / largest } else { 0.0 };
    let mut bytes = [0u8; HEAD_WIDTH_MAX];
    for (byte, x) in bytes.iter_mut().zip(row) {
        *byte = whole(*x * inverse) as u8;
    }
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes) ^ flipped;
    }
    largest / INT8_MAX
}

#[inline(always)]
fn mean_of(rows: &[f32], stride: usize, positions: usize, mean: &mut [f32]) {
    mean.fill(0.0);
    for row in rows.chunks(stride).take(positions) {
        mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x);
    }
    mean.iter_mut().for_each(|mean| *mean /= positions as f32);
}

#[inline(always)]
fn fused<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn max_of(row: &[f32]) -> f32 {
    row.iter().fold(f32::NEG_INFINITY, |max, x| if *x > max { *x } else { max })
}

/// Sums lanes by halves, as registers are summed.
#[inline(always)]
fn total(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The bits of the nearest bf16 number, ties to even.
#[inline(always)]
fn bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    (bits + (0x7fff + (bits >> 16 & 1))) >> 16
}

/// The two bf16 numbers of a word.
#[inline(always)]
fn pair(word: u32) -> [f32; 2] {
    [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)]
}

/// e to the x for x of at most 0, within 2 units in the last place; 4e-38 for what is smaller.
/// Reduction by powers of two and the polynomial of Cephes' `expf`.
#[inline(always)]
fn exp<const FMA: bool>(x: f32) -> f32 {
    let x = x.max(-86.0);
    let shifted = fused::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let power = shifted - ROUND;
    let rest = fused::<FMA>(power, -0.693_359_4, x);
    let rest = fused::<FMA>(power, 2.121_944_4e-4, rest);
    let mut sum = EXP[0];
    for coefficient in &EXP[1..] {
        sum = fused::<FMA>(sum, rest, *coefficient);
    }
    let mantissa = fused::<FMA>(sum, rest * rest, rest) + 1.0;
    f32::from_bits(mantissa.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// Cephes' polynomial for (e^x - 1 - x) / x^2, the highest power first.
pub const EXP: [f32; 6] = [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// 2 to the x for x of at most 0, within 4e-6 of its size; 2e-38 for what is smaller.
#[inline(always)]
fn exp2<const FMA: bool>(x: f32) -> f32 {
    let x = x.max(-125.0);
    let shifted = x + ROUND;
    let rest = x - (shifted - ROUND);
    let mut sum = EXP2[0];
    for coefficient in &EXP2[1..] {
        sum = fused::<FMA>(sum, rest, *coefficient);
    }
    f32::from_bits(sum.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// The polynomial of fourth degree that is closest to 2^x for -1/2..1/2, but 1 at 0; the highest power first.
pub const EXP2: [f32; 5] = [9.570_097e-3, 5.591_786e-2, 2.402_474_5e-1, 6.931_218e-1, 1.0];
