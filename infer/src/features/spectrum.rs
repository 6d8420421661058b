//! Power spectra and logarithms of eight frames at once: lane `i` of every number is frame `i`.
//!
//! A frame's 400 samples are taken as 200 complex ones, even samples real and odd ones imaginary, whose transform gives
//! the 201 bins of the real one. No frame's numbers depend on another's.

use std::f64::consts::TAU;

/// Frames that go together.
pub const LANES: usize = 8;

/// Samples of a frame.
pub const SAMPLES: usize = 400;

/// Bins of a spectrum.
pub const BINS: usize = SAMPLES / 2 + 1;

/// Complex samples of a frame.
const HALF: usize = SAMPLES / 2;

/// One number for each of eight frames.
pub type Lane = [f32; LANES];

/// What the transform multiplies by.
pub struct Transform {
    /// For each pass: factors (length / radix, radix), real and imaginary, in f32 rounded from f64.
    passes: [Vec<[f32; 2]>; RADICES.len()],
    /// e^(-2πi k / 400) for k up to 100.
    real: Vec<[f32; 2]>,
}

/// Their product is 200.
const RADICES: [usize; 4] = [5, 5, 4, 2];

/// Room for a transform.
pub struct Scratch {
    /// Windowed samples, and then every other pass's results, (200) complex.
    pub samples: [[Lane; 2]; HALF],
    other: [[Lane; 2]; HALF],
    /// (201)
    pub power: [Lane; BINS],
}

impl Scratch {
    /// Zeros, on the heap.
    pub fn new() -> Box<Scratch> {
        Box::new(Scratch {
            samples: [[[0.0; LANES]; 2]; HALF],
            other: [[[0.0; LANES]; 2]; HALF],
            power: [[0.0; LANES]; BINS],
        })
    }
}

impl Transform {
    /// Computes the factors.
    pub fn new() -> Transform {
        let factor = |turns: f64| [(-TAU * turns).cos() as f32, (-TAU * turns).sin() as f32];
        let mut length = HALF;
        let passes = RADICES.map(|radix| {
            let count = length / radix;
            let factors = (0..count)
                .flat_map(|p| (0..radix).map(move |k| (p * k) as f64 / (count * radix) as f64))
                .map(factor)
                .collect();
            length /= radix;
            factors
        });
        Transform { passes, real: (0..=HALF / 2).map(|k| factor(k as f64 / SAMPLES as f64)).collect() }
    }
}

/// Squared magnitudes of the bins of `scratch.samples`, into `scratch.power`.
pub fn power(transform: &Transform, scratch: &mut Scratch) {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // SAFETY: the processor was just found to have what it was compiled for.
        unsafe { x86::power(transform, scratch) };
        return;
    }
    power_of::<Lane>(transform, scratch);
}

/// Writes log10 of the largest of 1e-10 and each band's energy: bands are (first bin, weights) of a spectrum.
pub fn bands(bands: &[(usize, Vec<f32>)], power: &[Lane; BINS], out: &mut [Lane]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // SAFETY: the processor was just found to have what it was compiled for.
        unsafe { x86::bands(bands, power, out) };
        return;
    }
    bands_of::<Lane>(bands, power, out);
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Eight numbers in whatever holds them.
trait Numbers: Copy {
    fn load(lane: &Lane) -> Self;
    fn store(self, lane: &mut Lane);
    fn splat(x: f32) -> Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// `self * factor + other`
    fn fused(self, factor: Self, other: Self) -> Self;
    /// The larger of both; `other` where `self` is no number.
    fn max(self, other: Self) -> Self;
    /// Mantissas in 1/√2..√2 and exponents of positive numbers.
    fn split(self) -> (Self, Self);
}

#[inline(always)]
fn power_of<N: Numbers>(transform: &Transform, scratch: &mut Scratch) {
    let Scratch { samples, other, power } = scratch;
    let [first, second, third, fourth] = &transform.passes;
    pass::<N, 5>(1, first, samples, other);
    pass::<N, 5>(5, second, other, samples);
    pass::<N, 4>(25, third, samples, other);
    pass::<N, 2>(100, fourth, other, samples);
    let half = N::splat(0.5);
    let [re, im] = load::<N>(&samples[0]);
    let (sum, difference) = (re.add(im), re.sub(im));
    sum.mul(sum).store(&mut power[0]);
    difference.mul(difference).store(&mut power[HALF]);
    for k in 1..=HALF / 2 {
        let ([a, b], [c, d]) = (load::<N>(&samples[k]), load::<N>(&samples[HALF - k]));
        // Transforms of the even and of the odd samples.
        let even = [a.add(c).mul(half), b.sub(d).mul(half)];
        let odd = [b.add(d).mul(half), c.sub(a).mul(half)];
        let turned = turn(odd, transform.real[k]);
        square([even[0].add(turned[0]), even[1].add(turned[1])]).store(&mut power[k]);
        square([even[0].sub(turned[0]), even[1].sub(turned[1])]).store(&mut power[HALF - k]);
    }
}

/// One pass of Stockham's transform: `stride` transforms of the length that is left lie interleaved.
#[inline(always)]
fn pass<N: Numbers, const R: usize>(
    stride: usize,
    factors: &[[f32; 2]],
    from: &[[Lane; 2]; HALF],
    to: &mut [[Lane; 2]; HALF],
) {
    let count = HALF / stride / R;
    for (p, factors) in factors.as_chunks::<R>().0.iter().enumerate().take(count) {
        for q in 0..stride {
            let mut x = [[N::splat(0.0); 2]; R];
            for (k, x) in x.iter_mut().enumerate() {
                *x = load(&from[q + stride * (p + count * k)]);
            }
            butterfly(&mut x);
            for (k, (x, factor)) in x.into_iter().zip(factors).enumerate() {
                let [re, im] = if k == 0 { x } else { turn(x, *factor) };
                let to = &mut to[q + stride * (R * p + k)];
                re.store(&mut to[0]);
                im.store(&mut to[1]);
            }
        }
    }
}

/// The transform of 2, 4 or 5 numbers.
#[inline(always)]
fn butterfly<N: Numbers, const R: usize>(x: &mut [[N; 2]; R]) {
    match R {
        2 => {
            let (a, b) = (x[0], x[1]);
            x[0] = add(a, b);
            x[1] = sub(a, b);
        }
        4 => {
            let (even, odd) = ([add(x[0], x[2]), sub(x[0], x[2])], [add(x[1], x[3]), sub(x[1], x[3])]);
            // A quarter turn back.
            let turned = [odd[1][1], N::splat(0.0).sub(odd[1][0])];
            x[0] = add(even[0], odd[0]);
            x[1] = add(even[1], turned);
            x[2] = sub(even[0], odd[0]);
            x[3] = sub(even[1], turned);
        }
        5 => {
            // Cosines and sines of one and two fifths of a turn.
            const COS: [f32; 2] = [0.309_017, -0.809_017];
            const SIN: [f32; 2] = [0.951_056_54, 0.587_785_24];
            let zero = x[0];
            let (outer, inner) = ([add(x[1], x[4]), sub(x[1], x[4])], [add(x[2], x[3]), sub(x[2], x[3])]);
            x[0] = add(zero, add(outer[0], inner[0]));
            for (i, j) in [(0, 1), (1, 0)] {
                let sign = if i == 0 { 1.0 } else { -1.0 };
                let mut mean = zero;
                let mut tilt = [N::splat(0.0); 2];
                for part in 0..2 {
                    mean[part] = inner[0][part].fused(N::splat(COS[j]), mean[part]);
                    mean[part] = outer[0][part].fused(N::splat(COS[i]), mean[part]);
                    tilt[part] = inner[1][part].mul(N::splat(sign * SIN[j]));
                    tilt[part] = outer[1][part].fused(N::splat(SIN[i]), tilt[part]);
                }
                x[1 + i] = [mean[0].add(tilt[1]), mean[1].sub(tilt[0])];
                x[4 - i] = [mean[0].sub(tilt[1]), mean[1].add(tilt[0])];
            }
        }
        _ => unreachable!("the radices are 2, 4 and 5"),
    }
}

#[inline(always)]
fn load<N: Numbers>(pair: &[Lane; 2]) -> [N; 2] {
    [N::load(&pair[0]), N::load(&pair[1])]
}

#[inline(always)]
fn add<N: Numbers>(a: [N; 2], b: [N; 2]) -> [N; 2] {
    [a[0].add(b[0]), a[1].add(b[1])]
}

#[inline(always)]
fn sub<N: Numbers>(a: [N; 2], b: [N; 2]) -> [N; 2] {
    [a[0].sub(b[0]), a[1].sub(b[1])]
}

/// Complex product.
#[inline(always)]
fn turn<N: Numbers>([re, im]: [N; 2], [cos, sin]: [f32; 2]) -> [N; 2] {
    let (cos, sin) = (N::splat(cos), N::splat(sin));
    [re.mul(cos).sub(im.mul(sin)), re.fused(sin, im.mul(cos))]
}

#[inline(always)]
fn square<N: Numbers>([re, im]: [N; 2]) -> N {
    re.fused(re, im.mul(im))
}

#[inline(always)]
fn bands_of<N: Numbers>(bands: &[(usize, Vec<f32>)], power: &[Lane; BINS], out: &mut [Lane]) {
    for ((first, weights), out) in bands.iter().zip(out) {
        let mut energy = N::splat(0.0);
        for (weight, power) in weights.iter().zip(&power[*first..]) {
            energy = N::load(power).fused(N::splat(*weight), energy);
        }
        log10(energy.max(N::splat(1e-10))).store(out);
    }
}

/// log10 of positive normal numbers within 3e-7 of the larger of 1 and itself: Cephes' polynomial for `logf`.
#[inline(always)]
fn log10<N: Numbers>(x: N) -> N {
    let (mantissa, exponent) = x.split();
    let x = mantissa.sub(N::splat(1.0));
    let mut sum = N::splat(7.037_683_6e-2);
    for coefficient in [
        -0.115_146_1,
        0.116_769_984,
        -0.124_201_41,
        0.142_493_23,
        -0.166_680_57,
        0.200_007_15,
        -0.249_999_94,
        0.333_333_3,
    ] {
        sum = sum.fused(x, N::splat(coefficient));
    }
    let square = x.mul(x);
    let ln = sum.mul(x).fused(square, square.fused(N::splat(-0.5), x));
    exponent.fused(N::splat(std::f32::consts::LOG10_2), ln.mul(N::splat(std::f32::consts::LOG10_E)))
}

/// Largest mantissa, √2, as bits over those of 1.
const ROOT_EXCESS: i32 = 0x3f80_0000 - 0x3f35_04f3;

impl Numbers for Lane {
    #[inline(always)]
    fn load(lane: &Lane) -> Lane {
        *lane
    }

    #[inline(always)]
    fn store(self, lane: &mut Lane) {
        *lane = self;
    }

    #[inline(always)]
    fn splat(x: f32) -> Lane {
        [x; LANES]
    }

    #[inline(always)]
    fn add(self, other: Lane) -> Lane {
        std::array::from_fn(|i| self[i] + other[i])
    }

    #[inline(always)]
    fn sub(self, other: Lane) -> Lane {
        std::array::from_fn(|i| self[i] - other[i])
    }

    #[inline(always)]
    fn mul(self, other: Lane) -> Lane {
        std::array::from_fn(|i| self[i] * other[i])
    }

    #[inline(always)]
    fn fused(self, factor: Lane, other: Lane) -> Lane {
        std::array::from_fn(|i| self[i] * factor[i] + other[i])
    }

    #[inline(always)]
    fn max(self, other: Lane) -> Lane {
        std::array::from_fn(|i| if self[i] > other[i] { self[i] } else { other[i] })
    }

    #[inline(always)]
    fn split(self) -> (Lane, Lane) {
        let exponents = self.map(|x| ((x.to_bits().cast_signed() + ROOT_EXCESS) >> 23) - 127);
        let mantissas = std::array::from_fn(|i| {
            f32::from_bits((self[i].to_bits().cast_signed() - (exponents[i] << 23)).cast_unsigned())
        });
        (mantissas, exponents.map(|x| x as f32))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{BINS, Lane, Numbers, ROOT_EXCESS, Scratch, Transform, bands_of, power_of};

    #[target_feature(enable = "avx2,fma")]
    pub fn power(transform: &Transform, scratch: &mut Scratch) {
        power_of::<__m256>(transform, scratch);
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn bands(bands: &[(usize, Vec<f32>)], power: &[Lane; BINS], out: &mut [Lane]) {
        bands_of::<__m256>(bands, power, out);
    }

    // Only the two functions above, which are compiled for AVX2 and FMA, name this implementation.
    impl Numbers for __m256 {
        #[inline(always)]
        fn load(lane: &Lane) -> __m256 {
            // SAFETY: a lane is eight numbers; AVX is there as said above.
            unsafe { _mm256_loadu_ps(lane.as_ptr()) }
        }

        #[inline(always)]
        fn store(self, lane: &mut Lane) {
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(lane.as_mut_ptr(), self) }
        }

        #[inline(always)]
        fn splat(x: f32) -> __m256 {
            // SAFETY: AVX is there as said above.
            unsafe { _mm256_set1_ps(x) }
        }

        #[inline(always)]
        fn add(self, other: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_add_ps(self, other) }
        }

        #[inline(always)]
        fn sub(self, other: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_sub_ps(self, other) }
        }

        #[inline(always)]
        fn mul(self, other: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_mul_ps(self, other) }
        }

        #[inline(always)]
        fn fused(self, factor: __m256, other: __m256) -> __m256 {
            // SAFETY: FMA is there as said above.
            unsafe { _mm256_fmadd_ps(self, factor, other) }
        }

        #[inline(always)]
        fn max(self, other: __m256) -> __m256 {
            // SAFETY: AVX is there as said above.
            unsafe { _mm256_max_ps(self, other) }
        }

        #[inline(always)]
        fn split(self) -> (__m256, __m256) {
            // SAFETY: AVX2 is there as said above.
            unsafe {
                let bits = _mm256_castps_si256(self);
                let exponents =
                    _mm256_srai_epi32::<23>(_mm256_add_epi32(bits, _mm256_set1_epi32(ROOT_EXCESS)));
                let exponents = _mm256_sub_epi32(exponents, _mm256_set1_epi32(127));
                let mantissas = _mm256_sub_epi32(bits, _mm256_slli_epi32::<23>(exponents));
                (_mm256_castsi256_ps(mantissas), _mm256_cvtepi32_ps(exponents))
            }
        }
    }
}

#[cfg(test)]
mod tests;
