//! The kernels for AVX-512 with VNNI and BF16, for heads of width 64: a key or value is four registers of f32, one of
//! int8.
//!
//! Products keep up to 24 sums in registers: six queries times four tiles of keys, or times the four registers of a
//! value's width. Each sum is one chain, so its result does not depend on how many others there are.

use std::arch::x86_64::*;

use super::LANES;
use super::kernels::Kernels;
use super::portable::{EXP, EXP2};

/// Width of the heads.
pub const WIDTH: usize = 64;

/// Four-byte words of an int8 key.
const GROUPS: usize = WIDTH / 4;

/// Registers of a value's sums.
const PARTS: usize = WIDTH / LANES;

/// The kernels, for machines with AVX-512 F, BW, DQ, VL, VNNI and BF16.
pub struct Avx512;

/// Calls a kernel with the number of queries as a constant.
macro_rules! by_count {
    ($n:expr, $kernel:ident, $args:tt) => {
        // SAFETY: `Avx512` is named only where its instructions were found.
        unsafe {
            match $n {
                1 => $kernel::<1> $args,
                2 => $kernel::<2> $args,
                3 => $kernel::<3> $args,
                4 => $kernel::<4> $args,
                5 => $kernel::<5> $args,
                6 => $kernel::<6> $args,
                n => unreachable!("a block is 1 to 6 queries, not {n}"),
            }
        }
    };
}

impl Kernels for Avx512 {
    fn score_f32(n: usize, queries: &[f32], keys: &[f32], scores: &mut [f32], stride: usize) {
        by_count!(n, score_f32, (queries, keys, scores, stride));
    }

    fn score_int8(
        n: usize,
        queries: &[u32],
        keys: &[u32],
        scales: &[f32],
        scores: &mut [f32],
        stride: usize,
    ) {
        by_count!(n, score_int8, (queries, keys, scales, scores, stride));
    }

    fn exponentiate_f32(row: &mut [f32], count: usize) -> f32 {
        // SAFETY: `Avx512` is named only where its instructions were found.
        unsafe { exponentiate_f32(row, count) }
    }

    fn exponentiate_bf16(row: &mut [f32], count: usize, factor: f32) -> f32 {
        // SAFETY: as above.
        unsafe { exponentiate_bf16(row, count, factor) }
    }

    fn exponentiate_u16(row: &mut [f32], count: usize, factor: f32) -> f32 {
        // SAFETY: as above.
        unsafe { exponentiate_u16(row, count, factor) }
    }

    fn mix_f32(n: usize, weights: &[f32], stride: usize, values: &[f32], out: &mut [f32]) {
        by_count!(n, mix_f32, (weights, stride, values, out));
    }

    fn mix_bf16(n: usize, weights: &[f32], stride: usize, values: &[u32], out: &mut [f32]) {
        by_count!(n, mix_bf16, (weights, stride, values, out));
    }

    fn mix_int8(n: usize, weights: &[f32], stride: usize, values: &[u32], out: &mut [f32]) {
        // Two sums for each register of the width: three queries fill the registers.
        let (first, second) = (n.min(3), n.saturating_sub(3));
        let (out, rest) = out.split_at_mut(first * WIDTH);
        by_count!(first, mix_int8, (weights, stride, values, out));
        if second > 0 {
            by_count!(second, mix_int8, (&weights[3 * stride..], stride, values, rest));
        }
    }
}

/// Panics unless `n` rows `stride` apart, of which `length` elements are touched, lie inside `slice`.
#[inline(always)]
fn check_rows<T>(slice: &[T], n: usize, stride: usize, length: usize) {
    assert!(slice.len() >= (n - 1) * stride + length, "the rows lie inside the slice");
}

#[target_feature(enable = "avx512f")]
fn score_f32<const N: usize>(queries: &[f32], keys: &[f32], scores: &mut [f32], stride: usize) {
    let tiles = keys.len() / (WIDTH * LANES);
    check_rows(queries, N, WIDTH, WIDTH);
    check_rows(scores, N, stride, tiles * LANES);
    let mut tile = 0;
    while tile + 4 <= tiles {
        // SAFETY: the tiles lie inside `keys`, the queries and rows inside their slices as checked.
        unsafe {
            score_tiles_f32::<N, 4>(
                queries,
                &keys[tile * WIDTH * LANES..],
                &mut scores[tile * LANES..],
                stride,
            )
        };
        tile += 4;
    }
    while tile < tiles {
        // SAFETY: as above.
        unsafe {
            score_tiles_f32::<N, 1>(
                queries,
                &keys[tile * WIDTH * LANES..],
                &mut scores[tile * LANES..],
                stride,
            )
        };
        tile += 1;
    }
}

/// # Safety
/// There are `N` queries and rows and `T` tiles.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn score_tiles_f32<const N: usize, const T: usize>(
    queries: &[f32],
    keys: &[f32],
    scores: &mut [f32],
    stride: usize,
) {
    let (query, key, score) = (queries.as_ptr(), keys.as_ptr(), scores.as_mut_ptr());
    let mut sums = [[_mm512_setzero_ps(); T]; N];
    for i in 0..WIDTH {
        let mut tile = [_mm512_setzero_ps(); T];
        for (t, tile) in tile.iter_mut().enumerate() {
            // SAFETY: element `i` of 16 keys of one of the caller's tiles.
            *tile = unsafe { _mm512_loadu_ps(key.add((t * WIDTH + i) * LANES)) };
        }
        for (n, sums) in sums.iter_mut().enumerate() {
            // SAFETY: element `i` of one of the caller's queries.
            let query = _mm512_set1_ps(unsafe { *query.add(n * WIDTH + i) });
            for (sum, tile) in sums.iter_mut().zip(tile) {
                *sum = _mm512_fmadd_ps(query, tile, *sum);
            }
        }
    }
    for (n, sums) in sums.iter().enumerate() {
        for (t, sum) in sums.iter().enumerate() {
            // SAFETY: 16 scores of one of the caller's rows.
            unsafe { _mm512_storeu_ps(score.add(n * stride + t * LANES), *sum) };
        }
    }
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn score_int8<const N: usize>(
    queries: &[u32],
    keys: &[u32],
    scales: &[f32],
    scores: &mut [f32],
    stride: usize,
) {
    let tiles = keys.len() / (GROUPS * LANES);
    check_rows(queries, N, GROUPS, GROUPS);
    check_rows(scales, tiles, LANES, LANES);
    check_rows(scores, N, stride, tiles * LANES);
    let mut start = [0; N];
    for (start, query) in start.iter_mut().zip(queries.chunks_exact(GROUPS)) {
        // Keys are stored 128 higher than they are.
        *start =
            -query.iter().flat_map(|word| word.to_le_bytes()).map(|x| 128 * i32::from(x as i8)).sum::<i32>();
    }
    let mut tile = 0;
    while tile + 4 <= tiles {
        let (keys, scales) = (&keys[tile * GROUPS * LANES..], &scales[tile * LANES..]);
        // SAFETY: the tiles lie inside `keys` and `scales`, the queries and rows inside their slices as checked.
        unsafe {
            score_tiles_int8::<N, 4>(&start, queries, keys, scales, &mut scores[tile * LANES..], stride)
        };
        tile += 4;
    }
    while tile < tiles {
        let (keys, scales) = (&keys[tile * GROUPS * LANES..], &scales[tile * LANES..]);
        // SAFETY: as above.
        unsafe {
            score_tiles_int8::<N, 1>(&start, queries, keys, scales, &mut scores[tile * LANES..], stride)
        };
        tile += 1;
    }
}

/// # Safety
/// There are `N` queries and rows and `T` tiles with their scales.
#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
unsafe fn score_tiles_int8<const N: usize, const T: usize>(
    start: &[i32; N],
    queries: &[u32],
    keys: &[u32],
    scales: &[f32],
    scores: &mut [f32],
    stride: usize,
) {
    let (query, key, score) = (queries.as_ptr(), keys.as_ptr(), scores.as_mut_ptr());
    let mut sums = [[_mm512_setzero_si512(); T]; N];
    for (sums, start) in sums.iter_mut().zip(start) {
        *sums = [_mm512_set1_epi32(*start); T];
    }
    for group in 0..GROUPS {
        let mut tile = [_mm512_setzero_si512(); T];
        for (t, tile) in tile.iter_mut().enumerate() {
            // SAFETY: a word of 16 keys of one of the caller's tiles.
            *tile = unsafe { _mm512_loadu_si512(key.add((t * GROUPS + group) * LANES).cast()) };
        }
        for (n, sums) in sums.iter_mut().enumerate() {
            // SAFETY: a word of one of the caller's queries.
            let query = _mm512_set1_epi32(unsafe { *query.add(n * GROUPS + group) }.cast_signed());
            for (sum, tile) in sums.iter_mut().zip(tile) {
                *sum = _mm512_dpbusd_epi32(*sum, tile, query);
            }
        }
    }
    for t in 0..T {
        // SAFETY: the scales of one of the caller's tiles.
        let scale = unsafe { _mm512_loadu_ps(scales.as_ptr().add(t * LANES)) };
        for (n, sums) in sums.iter().enumerate() {
            let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[t]), scale);
            // SAFETY: 16 scores of one of the caller's rows.
            unsafe { _mm512_storeu_ps(score.add(n * stride + t * LANES), scaled) };
        }
    }
}

/// The lanes of a tile that are below `count`.
#[inline(always)]
fn lanes_below(count: usize, tile: usize) -> __mmask16 {
    match count.saturating_sub(tile * LANES) {
        0 => 0,
        left if left >= LANES => !0,
        left => (1 << left) - 1,
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn max_of(row: &[f32]) -> f32 {
    let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
    let mut max = [lowest; 4];
    let (tiles, rest) = row.as_chunks::<LANES>();
    for (i, tile) in tiles.iter().enumerate() {
        // SAFETY: a tile is 16 elements.
        max[i % 4] = _mm512_max_ps(max[i % 4], unsafe { _mm512_loadu_ps(tile.as_ptr()) });
    }
    // SAFETY: the lanes that are read are the rest.
    let rest = unsafe { _mm512_mask_loadu_ps(lowest, lanes_below(rest.len(), 0), rest.as_ptr()) };
    let halves = [_mm512_max_ps(max[0], max[1]), _mm512_max_ps(max[2], max[3])];
    _mm512_reduce_max_ps(_mm512_max_ps(rest, _mm512_max_ps(halves[0], halves[1])))
}

#[target_feature(enable = "avx512f")]
fn exponentiate_f32(row: &mut [f32], count: usize) -> f32 {
    let max = _mm512_set1_ps(max_of(&row[..count]));
    let mut sum = _mm512_setzero_ps();
    let (full, rest) = row.as_chunks_mut::<LANES>().0.split_at_mut(count / LANES);
    for scores in full {
        sum = _mm512_add_ps(sum, exponentiate_tile_f32(scores, max, !0));
    }
    for (tile, scores) in rest.iter_mut().enumerate() {
        sum = _mm512_add_ps(sum, exponentiate_tile_f32(scores, max, lanes_below(count % LANES, tile)));
    }
    _mm512_reduce_add_ps(sum)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn exponentiate_tile_f32(scores: &mut [f32; LANES], max: __m512, lanes: __mmask16) -> __m512 {
    let round = _mm512_set1_ps(ROUND);
    // SAFETY: a tile is 16 elements.
    let x = _mm512_sub_ps(unsafe { _mm512_loadu_ps(scores.as_ptr()) }, max);
    let x = _mm512_max_ps(x, _mm512_set1_ps(-86.0));
    let shifted = _mm512_fmadd_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E), round);
    let power = _mm512_sub_ps(shifted, round);
    let rest = _mm512_fmadd_ps(power, _mm512_set1_ps(-0.693_359_4), x);
    let rest = _mm512_fmadd_ps(power, _mm512_set1_ps(2.121_944_4e-4), rest);
    let mut poly = _mm512_set1_ps(EXP[0]);
    for coefficient in &EXP[1..] {
        poly = _mm512_fmadd_ps(poly, rest, _mm512_set1_ps(*coefficient));
    }
    let mantissa = _mm512_fmadd_ps(poly, _mm512_mul_ps(rest, rest), rest);
    let mantissa = _mm512_add_ps(mantissa, _mm512_set1_ps(1.0));
    let exponential = _mm512_maskz_mov_ps(lanes, times_power(mantissa, shifted));
    // SAFETY: a tile is 16 elements.
    unsafe { _mm512_storeu_ps(scores.as_mut_ptr(), exponential) };
    exponential
}

#[target_feature(enable = "avx512f,avx512bf16,avx512vl")]
fn exponentiate_bf16(row: &mut [f32], count: usize, factor: f32) -> f32 {
    let max = max_of(&row[..count]);
    let (factor, shift) = (_mm512_set1_ps(factor), _mm512_set1_ps(-max * factor));
    let mut sum = _mm512_setzero_ps();
    for tile in 0..count / LANES {
        sum = _mm512_add_ps(sum, exponentiate_tile_bf16(row, tile, factor, shift, !0));
    }
    for tile in count / LANES..row.len() / LANES {
        sum = _mm512_add_ps(sum, exponentiate_tile_bf16(row, tile, factor, shift, lanes_below(count, tile)));
    }
    _mm512_reduce_add_ps(sum)
}

#[target_feature(enable = "avx512f,avx512bf16,avx512vl")]
#[inline]
fn exponentiate_tile_bf16(
    row: &mut [f32],
    tile: usize,
    factor: __m512,
    shift: __m512,
    lanes: __mmask16,
) -> __m512 {
    // SAFETY: 16 elements.
    let x = unsafe { _mm512_loadu_ps(row[tile * LANES..][..LANES].as_ptr()) };
    let exponential = _mm512_maskz_mov_ps(lanes, exp2(_mm512_fmadd_ps(x, factor, shift)));
    // The tile's eight words lie behind every tile that is still to be read.
    let words = &mut row[tile * LANES / 2..][..LANES / 2];
    // SAFETY: eight elements.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), bf16_bits(_mm512_cvtneps_pbh(exponential))) };
    exponential
}

#[target_feature(enable = "avx512f")]
fn exponentiate_u16(row: &mut [f32], count: usize, factor: f32) -> f32 {
    let max = max_of(&row[..count]);
    let (factor, shift) = (_mm512_set1_ps(factor), _mm512_set1_ps(-max * factor));
    let mut sum = _mm512_setzero_si512();
    for tile in 0..count / LANES {
        sum = _mm512_add_epi32(sum, exponentiate_tile_u16(row, tile, factor, shift, !0));
    }
    for tile in count / LANES..row.len() / LANES {
        sum =
            _mm512_add_epi32(sum, exponentiate_tile_u16(row, tile, factor, shift, lanes_below(count, tile)));
    }
    _mm512_reduce_add_epi32(sum) as f32
}

#[target_feature(enable = "avx512f")]
#[inline]
fn exponentiate_tile_u16(
    row: &mut [f32],
    tile: usize,
    factor: __m512,
    shift: __m512,
    lanes: __mmask16,
) -> __m512i {
    // SAFETY: 16 elements.
    let x = unsafe { _mm512_loadu_ps(row[tile * LANES..][..LANES].as_ptr()) };
    let exponential = exp2(_mm512_fmadd_ps(x, factor, shift));
    let whole = _mm512_cvtps_epi32(_mm512_mul_ps(exponential, _mm512_set1_ps(65_535.0)));
    let whole = _mm512_maskz_min_epi32(lanes, whole, _mm512_set1_epi32(65_535));
    // The tile's eight words lie behind every tile that is still to be read.
    let words = &mut row[tile * LANES / 2..][..LANES / 2];
    // SAFETY: twice four elements.
    unsafe {
        _mm_storeu_si128(words.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_srli_epi32::<8>(whole)));
        _mm_storeu_si128(words.as_mut_ptr().add(4).cast(), _mm512_cvtepi32_epi8(whole));
    }
    whole
}

#[target_feature(enable = "avx512f")]
fn mix_f32<const N: usize>(weights: &[f32], stride: usize, values: &[f32], out: &mut [f32]) {
    let positions = values.len() / WIDTH;
    check_rows(weights, N, stride, positions);
    check_rows(out, N, WIDTH, WIDTH);
    let (weight, value) = (weights.as_ptr(), values.as_ptr());
    let mut sums = [[_mm512_setzero_ps(); PARTS]; N];
    for position in 0..positions {
        let mut parts = [_mm512_setzero_ps(); PARTS];
        for (part, register) in parts.iter_mut().enumerate() {
            // SAFETY: the position is inside `values`.
            *register = unsafe { _mm512_loadu_ps(value.add(position * WIDTH + part * LANES)) };
        }
        for (n, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the position is inside row `n`, as checked.
            let weight = _mm512_set1_ps(unsafe { *weight.add(n * stride + position) });
            for (sum, part) in sums.iter_mut().zip(parts) {
                *sum = _mm512_fmadd_ps(weight, part, *sum);
            }
        }
    }
    store(&sums, out);
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn mix_bf16<const N: usize>(weights: &[f32], stride: usize, values: &[u32], out: &mut [f32]) {
    let pairs = values.len() / WIDTH;
    check_rows(weights, N, stride, pairs);
    check_rows(out, N, WIDTH, WIDTH);
    let (weight, value) = (weights.as_ptr().cast::<i32>(), values.as_ptr());
    let mut sums = [[_mm512_setzero_ps(); PARTS]; N];
    for pair in 0..pairs {
        let mut parts = [_mm512_setzero_si512(); PARTS];
        for (part, register) in parts.iter_mut().enumerate() {
            // SAFETY: the pair of positions is inside `values`.
            *register = unsafe { _mm512_loadu_si512(value.add(pair * WIDTH + part * LANES).cast()) };
        }
        for (n, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the pair is inside row `n`, as checked.
            let weight = bf16_of(_mm512_set1_epi32(unsafe { *weight.add(n * stride + pair) }));
            for (sum, part) in sums.iter_mut().zip(parts) {
                *sum = _mm512_dpbf16_ps(*sum, weight, bf16_of(part));
            }
        }
    }
    store(&sums, out);
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn mix_int8<const N: usize>(weights: &[f32], stride: usize, values: &[u32], out: &mut [f32]) {
    let quads = values.len() / WIDTH;
    // Eight words for each four quads begun.
    check_rows(weights, N, stride, quads.div_ceil(4) * 8);
    check_rows(out, N, WIDTH, WIDTH);
    let (weight, value) = (weights.as_ptr().cast::<i32>(), values.as_ptr());
    let mut sums = [[[_mm512_setzero_si512(); 2]; PARTS]; N];
    for quad in 0..quads {
        let mut parts = [_mm512_setzero_si512(); PARTS];
        for (part, register) in parts.iter_mut().enumerate() {
            // SAFETY: the four positions are inside `values`.
            *register = unsafe { _mm512_loadu_si512(value.add(quad * WIDTH + part * LANES).cast()) };
        }
        for (n, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the words of the quad are inside row `n`, as checked.
            let (high, low) = unsafe {
                let word = weight.add(n * stride + quad / 4 * 8 + quad % 4);
                (_mm512_set1_epi32(*word), _mm512_set1_epi32(*word.add(4)))
            };
            for (sum, part) in sums.iter_mut().zip(parts) {
                sum[0] = _mm512_dpbusd_epi32(sum[0], high, part);
                sum[1] = _mm512_dpbusd_epi32(sum[1], low, part);
            }
        }
    }
    let mut whole = [[_mm512_setzero_ps(); PARTS]; N];
    for (whole, sums) in whole.iter_mut().zip(sums) {
        for (whole, [high, low]) in whole.iter_mut().zip(sums) {
            let (high, low) = (_mm512_cvtepi32_ps(high), _mm512_cvtepi32_ps(low));
            *whole = _mm512_fmadd_ps(high, _mm512_set1_ps(256.0), low);
        }
    }
    store(&whole, out);
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store<const N: usize>(sums: &[[__m512; PARTS]; N], out: &mut [f32]) {
    for (part, sum) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(sums.as_flattened()) {
        // SAFETY: a part is 16 elements.
        unsafe { _mm512_storeu_ps(part.as_mut_ptr(), *sum) };
    }
}

/// 1.5 * 2^23: adding it leaves the nearest whole number in the low bits.
const ROUND: f32 = 12_582_912.0;

/// 2 to the x, as the portable twin.
#[target_feature(enable = "avx512f")]
#[inline]
fn exp2(x: __m512) -> __m512 {
    let round = _mm512_set1_ps(ROUND);
    let x = _mm512_max_ps(x, _mm512_set1_ps(-125.0));
    let shifted = _mm512_add_ps(x, round);
    let rest = _mm512_sub_ps(x, _mm512_sub_ps(shifted, round));
    let mut sum = _mm512_set1_ps(EXP2[0]);
    for coefficient in &EXP2[1..] {
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(*coefficient));
    }
    times_power(sum, shifted)
}

/// `mantissa` times 2 to the whole number in the low bits of `shifted`.
#[target_feature(enable = "avx512f")]
#[inline]
fn times_power(mantissa: __m512, shifted: __m512) -> __m512 {
    let power = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
    _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(mantissa), power))
}

#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn bf16_of(words: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of which every pattern is valid.
    unsafe { std::mem::transmute(words) }
}

#[target_feature(enable = "avx512f,avx512bf16,avx512vl")]
#[inline]
fn bf16_bits(numbers: __m256bh) -> __m256i {
    // SAFETY: both are 32 bytes of which every pattern is valid.
    unsafe { std::mem::transmute(numbers) }
}
