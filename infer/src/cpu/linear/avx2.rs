//! The loops in AVX2. The byte product of this set (`vpmaddubsw`) saturates at 16 bits, so bytes are widened first and
//! sums stay exact.

use std::arch::x86_64::*;

use super::stored::Stored;
use super::{F32Tile, Int8Tile, PANEL};

/// # Safety
/// The tile's pointers are valid for what its sizes say; the processor has the features.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn int8<const ROWS: usize, const ADD: bool>(tile: &Int8Tile) {
    for group in 0..tile.columns.div_ceil(8) {
        // For each row eight columns of two sums each: of the first two and of the last two inputs of a quad.
        let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
        for quad in 0..tile.quads {
            // SAFETY: a quad of the panel is 256 bytes, of which eight columns are 32; a row has four bytes for it.
            unsafe {
                let weights = tile.panel.add(quad * 4 * PANEL + group * 32);
                let low = _mm256_cvtepi8_epi16(_mm_loadu_si128(weights.cast()));
                let high = _mm256_cvtepi8_epi16(_mm_loadu_si128(weights.add(16).cast()));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = tile.x.add(row * tile.x_stride + quad * 4).cast::<i32>().read_unaligned();
                    let x = _mm256_cvtepu8_epi16(_mm_set1_epi32(x));
                    sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(x, low));
                    sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(x, high));
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            // `hadd` works in halves of a register, so the columns come out as 0 1 4 5 2 3 6 7.
            let whole = _mm256_permute4x64_epi64::<0b1101_1000>(_mm256_hadd_epi32(sums[0], sums[1]));
            // SAFETY: 64 offsets, scales and biases, of which these are eight; `store` keeps to the columns.
            unsafe {
                let at = group * 8;
                let whole = _mm256_add_epi32(whole, _mm256_loadu_si256(tile.offsets.add(at).cast()));
                let scale = _mm256_mul_ps(
                    _mm256_set1_ps(*tile.x_scales.add(row)),
                    _mm256_loadu_ps(tile.scales.add(at)),
                );
                let bias = _mm256_loadu_ps(tile.bias.add(at));
                let value = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole), scale, bias);
                store::<ADD>(tile.y.add(row * tile.y_stride + at), tile.columns - at, value);
            }
        }
    }
}

/// # Safety
/// The tile's pointers are valid for what its sizes say; the processor has the features.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn f32<W: Stored, const ROWS: usize, const ADD: bool>(tile: &F32Tile<W>) {
    for group in 0..tile.columns.div_ceil(16) {
        let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
        for input in 0..tile.inputs {
            // SAFETY: an input of the panel is 64 values, of which these are 16; a row has a value for it.
            unsafe {
                let weights = tile.panel.add(input * PANEL + group * 16);
                let (low, high) = (W::eight(weights), W::eight(weights.add(8)));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = _mm256_set1_ps(*tile.x.add(row * tile.x_stride + input));
                    sums[0] = _mm256_fmadd_ps(x, low, sums[0]);
                    sums[1] = _mm256_fmadd_ps(x, high, sums[1]);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (half, sum) in sums.iter().enumerate() {
                let at = group * 16 + half * 8;
                if at >= tile.columns {
                    continue;
                }
                // SAFETY: 64 biases, of which these are eight; `store` keeps to the columns.
                unsafe {
                    let value = _mm256_add_ps(*sum, _mm256_loadu_ps(tile.bias.add(at)));
                    store::<ADD>(tile.y.add(row * tile.y_stride + at), tile.columns - at, value);
                }
            }
        }
    }
}

/// Stores eight results, as many as there are columns.
///
/// # Safety
/// `y` has room for `columns` values.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn store<const ADD: bool>(y: *mut f32, columns: usize, value: __m256) {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(columns.min(8) as i32), lanes);
    // SAFETY: the mask leaves out what is beyond the columns.
    unsafe {
        let value = if ADD { _mm256_add_ps(_mm256_maskload_ps(y, mask), value) } else { value };
        _mm256_maskstore_ps(y, mask, value);
    }
}
