//! Weights as they are stored for arithmetic in f32: as they are, or their upper halves (bf16), which are put back before
//! they are multiplied.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::bf16;

/// A weight that becomes an f32 without rounding.
pub trait Stored: Copy {
    /// Its value.
    fn wide(self) -> f32;

    /// The values of eight weights.
    ///
    /// # Safety
    /// Eight weights stand there, and the processor has AVX2; it becomes its instructions where it is inlined into a
    /// function that enables them.
    #[cfg(target_arch = "x86_64")]
    unsafe fn eight(at: *const Self) -> __m256;

    /// The values of sixteen weights.
    ///
    /// # Safety
    /// Sixteen weights stand there, and the processor has AVX-512 F; as above.
    #[cfg(target_arch = "x86_64")]
    unsafe fn sixteen(at: *const Self) -> __m512;
}

impl Stored for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn eight(at: *const f32) -> __m256 {
        // SAFETY: as the caller promises.
        unsafe { _mm256_loadu_ps(at) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn sixteen(at: *const f32) -> __m512 {
        // SAFETY: as the caller promises.
        unsafe { _mm512_loadu_ps(at) }
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn eight(at: *const bf16) -> __m256 {
        // SAFETY: as the caller promises; a bf16 is two bytes.
        unsafe {
            let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn sixteen(at: *const bf16) -> __m512 {
        // SAFETY: as the caller promises; a bf16 is two bytes.
        unsafe {
            let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
        }
    }
}
