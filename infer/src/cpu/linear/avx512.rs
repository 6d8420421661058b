//! The loops in AVX-512: a tile of six rows by four registers of 16 columns is 24 sums, which leaves registers for four
//! parts of the panel and one value of x, and keeps both multipliers busy.

use std::arch::x86_64::*;

use super::stored::Stored;
use super::{F32Tile, Int8Tile, gelu};

/// Registers of a panel's 64 columns.
const PARTS: usize = 4;

/// # Safety
/// The tile's pointers are valid for what its sizes say; the processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub unsafe fn int8<const ROWS: usize, const ADD: bool>(tile: &Int8Tile) {
    // SAFETY: 64 offsets stand behind the pointer.
    let offsets: [__m512i; PARTS] =
        std::array::from_fn(|part| unsafe { _mm512_loadu_si512(tile.offsets.add(16 * part).cast()) });
    let mut sums = [offsets; ROWS];
    let mut panel = tile.panel;
    let mut x = tile.x;
    for _ in 0..tile.quads {
        // SAFETY: a quad of the panel is 256 bytes, and each row has four bytes for each quad.
        unsafe {
            let weights: [__m512i; PARTS] = [
                _mm512_loadu_si512(panel.cast()),
                _mm512_loadu_si512(panel.add(64).cast()),
                _mm512_loadu_si512(panel.add(128).cast()),
                _mm512_loadu_si512(panel.add(192).cast()),
            ];
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_epi32(x.add(row * tile.x_stride).cast::<i32>().read_unaligned());
                for part in 0..PARTS {
                    sums[part] = _mm512_dpbusd_epi32(sums[part], value, weights[part]);
                }
            }
            panel = panel.add(256);
            x = x.add(4);
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (part, sum) in sums.iter().enumerate() {
            // SAFETY: 64 scales and biases; the mask keeps to the `columns` results.
            unsafe {
                let scale = _mm512_mul_ps(
                    _mm512_set1_ps(*tile.x_scales.add(row)),
                    _mm512_loadu_ps(tile.scales.add(16 * part)),
                );
                let bias = _mm512_loadu_ps(tile.bias.add(16 * part));
                let value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(*sum), scale, bias);
                store::<ADD>(tile.y.add(row * tile.y_stride), part, tile.columns, value);
            }
        }
    }
}

/// # Safety
/// The tile's pointers are valid for what its sizes say; the processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub unsafe fn f32<W: Stored, const ROWS: usize, const ADD: bool>(tile: &F32Tile<W>) {
    let mut sums = [[_mm512_setzero_ps(); PARTS]; ROWS];
    let mut panel = tile.panel;
    let mut x = tile.x;
    for _ in 0..tile.inputs {
        // SAFETY: an input of the panel is 64 values, and each row has a value for it.
        unsafe {
            let weights: [__m512; PARTS] = [
                W::sixteen(panel),
                W::sixteen(panel.add(16)),
                W::sixteen(panel.add(32)),
                W::sixteen(panel.add(48)),
            ];
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*x.add(row * tile.x_stride));
                for part in 0..PARTS {
                    sums[part] = _mm512_fmadd_ps(value, weights[part], sums[part]);
                }
            }
            panel = panel.add(64);
            x = x.add(1);
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (part, sum) in sums.iter().enumerate() {
            // SAFETY: 64 biases; the mask keeps to the `columns` results.
            unsafe {
                let value = _mm512_add_ps(*sum, _mm512_loadu_ps(tile.bias.add(16 * part)));
                store::<ADD>(tile.y.add(row * tile.y_stride), part, tile.columns, value);
            }
        }
    }
}

/// Stores 16 results of a row, as many as there are columns.
///
/// # Safety
/// `y` has room for `columns` values.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
unsafe fn store<const ADD: bool>(y: *mut f32, part: usize, columns: usize, value: __m512) {
    let left = columns.saturating_sub(16 * part).min(16);
    let mask = ((1u32 << left) - 1) as __mmask16;
    // SAFETY: the mask leaves out what is beyond the columns; `wrapping_add` because the part may begin there.
    unsafe {
        let y = y.wrapping_add(16 * part);
        let value = if ADD { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), value) } else { value };
        _mm512_mask_storeu_ps(y, mask, value);
    }
}

/// See [`super::quantise`]; both slices have one length.
///
/// # Safety
/// The processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub unsafe fn quantise(x: &[f32], bytes: &mut [u8]) -> f32 {
    assert_eq!(x.len(), bytes.len());
    let mask = |start: usize| -> __mmask16 {
        let left = (x.len() - start).min(16);
        ((1u32 << left) - 1) as __mmask16
    };
    let mut largest = _mm512_setzero_ps();
    for start in (0..x.len()).step_by(16) {
        // SAFETY: the mask keeps to the slice.
        let values = unsafe { _mm512_maskz_loadu_ps(mask(start), x.as_ptr().add(start)) };
        largest = _mm512_max_ps(largest, _mm512_abs_ps(values));
    }
    let largest = _mm512_reduce_max_ps(largest);
    let inverse = _mm512_set1_ps(if largest > 0.0 { 127.0 / largest } else { 0.0 });
    let zero = _mm512_set1_epi32(128);
    for start in (0..x.len()).step_by(16) {
        // SAFETY: the mask keeps to both slices.
        unsafe {
            let values = _mm512_maskz_loadu_ps(mask(start), x.as_ptr().add(start));
            let whole = _mm512_cvtps_epi32(_mm512_mul_ps(values, inverse));
            let whole = _mm512_add_epi32(whole, zero);
            _mm512_mask_cvtepi32_storeu_epi8(bytes.as_mut_ptr().add(start).cast(), mask(start), whole);
        }
    }
    largest / 127.0
}

/// See [`super::gelu::activate`]: `rows` rows of `count` values, `stride` apart.
///
/// # Safety
/// The values are there and nobody else's; the processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub unsafe fn activate(values: *mut f32, stride: usize, rows: usize, count: usize) {
    let table = |power: usize| {
        let pieces = gelu::COEFFICIENTS[power].as_ptr();
        // SAFETY: a row of the table is 32 numbers.
        unsafe { (_mm512_loadu_ps(pieces), _mm512_loadu_ps(pieces.add(16))) }
    };
    let (a, b, c, d) = (table(0), table(1), table(2), table(3));
    let (scale, last) = (_mm512_set1_ps(gelu::PIECES_PER_UNIT), _mm512_set1_ps(gelu::LAST));
    for row in 0..rows {
        for part in 0..count.div_ceil(16) {
            let left = (count - 16 * part).min(16);
            let mask = ((1u32 << left) - 1) as __mmask16;
            // SAFETY: the mask keeps to the row's values.
            unsafe {
                let at = values.add(row * stride + 16 * part);
                let x = _mm512_maskz_loadu_ps(mask, at);
                let place = _mm512_min_ps(_mm512_mul_ps(_mm512_abs_ps(x), scale), last);
                let piece = _mm512_cvttps_epi32(place);
                let part = _mm512_sub_ps(place, _mm512_cvtepi32_ps(piece));
                let look = |(low, high): (__m512, __m512)| _mm512_permutex2var_ps(low, piece, high);
                let sum = _mm512_fmadd_ps(look(d), part, look(c));
                let sum = _mm512_fmadd_ps(sum, part, look(b));
                let sum = _mm512_fmadd_ps(sum, part, look(a));
                let y = _mm512_sub_ps(_mm512_max_ps(x, _mm512_setzero_ps()), sum);
                _mm512_mask_storeu_ps(at, mask, y);
            }
        }
    }
}
