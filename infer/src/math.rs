//! Arithmetic of one row in f32: logarithm of a sum, normalisation, activation. Each loop is compiled three times (AVX-512, AVX2,
//! baseline) and picked at run time.

/// Defines a function compiled for AVX-512, for AVX2 and for the baseline, and one that takes the [`Level`]; the body is
/// generic over the instruction set.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident, $at:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $body:ident) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            $at(Level::best(), $($arg),*)
        }

        #[inline(always)]
        fn $at(level: Level, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    $body::<Fma>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    $body::<Fma>($($arg),*)
                }
                match level {
                    // SAFETY: a level is only named where the processor was found to have it.
                    Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    Level::Avx2 => return unsafe { avx2($($arg),*) },
                    Level::Baseline => {}
                }
            }
            let _ = level;
            $body::<Baseline>($($arg),*)
        }
    };
}

vectorised! {
    /// Returns the logarithm of the sum of exponentials of a row, given the row's maximum (finite).
    pub fn log_sum_exp, log_sum_exp_at(row: &[f32], max: f32) -> f32 = log_sum_exp_body
}
vectorised! {
    /// Gaussian error linear unit in its exact (erf) form, in place.
    pub fn gelu, gelu_at(x: &mut [f32]) = gelu_body
}
vectorised! {
    /// `y += x`.
    pub fn add, add_at(y: &mut [f32], x: &[f32]) = add_body
}
vectorised! {
    /// Normalises a row with openai's epsilon of 1e-5, then scales and shifts it; all slices have one length.
    pub fn normalise, normalise_at(x: &[f32], gamma: &[f32], beta: &[f32], y: &mut [f32]) = normalise_body
}

/// What a loop is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// What every processor of the kind has.
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The widest that this processor has.
    #[inline(always)]
    fn best() -> Level {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2") {
            return if is_x86_feature_detected!("avx512f") { Level::Avx512 } else { Level::Avx2 };
        }
        Level::Baseline
    }
}

/// Lanes of one accumulator: the width of an AVX-512 register in f32.
const LANES: usize = 16;

/// An instruction set that the loops are compiled for.
trait Isa {
    /// Whether fused multiply-add is an instruction; where it is not, `mul_add` is a slow library call.
    const FMA: bool;
}

struct Baseline;

impl Isa for Baseline {
    const FMA: bool = cfg!(target_arch = "aarch64");
}

#[cfg(target_arch = "x86_64")]
struct Fma;

#[cfg(target_arch = "x86_64")]
impl Isa for Fma {
    const FMA: bool = true;
}

#[inline(always)]
fn fused<I: Isa>(a: f32, b: f32, c: f32) -> f32 {
    if I::FMA { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn log_sum_exp_body<I: Isa>(row: &[f32], max: f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (blocks, rest) = row.as_chunks::<LANES>();
    for block in blocks {
        for (x, sum) in block.iter().zip(&mut sums) {
            *sum += exp::<I>(*x - max);
        }
    }
    let sum = sums.iter().sum::<f32>() + rest.iter().map(|x| exp::<I>(*x - max)).sum::<f32>();
    sum.ln() + max
}

#[inline(always)]
fn gelu_body<I: Isa>(x: &mut [f32]) {
    for x in x {
        *x *= 0.5 * (1.0 + erf::<I>(*x * std::f32::consts::FRAC_1_SQRT_2));
    }
}

#[inline(always)]
fn add_body<I: Isa>(y: &mut [f32], x: &[f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
}

#[inline(always)]
fn normalise_body<I: Isa>(x: &[f32], gamma: &[f32], beta: &[f32], y: &mut [f32]) {
    let width = x.len() as f32;
    let mean = sum_of::<I>(x, 0.0, |x| x) / width;
    let variance = sum_of::<I>(x, mean, |x| x * x) / width;
    let scale = 1.0 / (variance + 1e-5).sqrt();
    for (((x, gamma), beta), y) in x.iter().zip(gamma).zip(beta).zip(y) {
        *y = fused::<I>((x - mean) * scale, *gamma, *beta);
    }
}

/// Sum over a row of `of(x - shift)`.
#[inline(always)]
fn sum_of<I: Isa>(x: &[f32], shift: f32, of: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for (x, sum) in block.iter().zip(&mut sums) {
            *sum += of(x - shift);
        }
    }
    sums.iter().sum::<f32>() + rest.iter().map(|x| of(x - shift)).sum::<f32>()
}

/// e to the x within 2 units in the last place, without a branch so that loops vectorise.
/// Reduction by powers of two and the polynomial of Cephes' `expf`; `-inf` gives 0.
#[inline(always)]
fn exp<I: Isa>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    let x = x.clamp(-87.336, 88.376);
    let shifted = fused::<I>(x, std::f32::consts::LOG2_E, ROUND);
    let power = shifted - ROUND;
    let rest = fused::<I>(power, -0.693_359_4, x);
    let rest = fused::<I>(power, 2.121_944_4e-4, rest);
    let mut sum = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        sum = fused::<I>(sum, rest, coefficient);
    }
    let mantissa = fused::<I>(sum, rest * rest, rest) + 1.0;
    let scale = f32::from_bits(((power as i32 + 127) << 23) as u32);
    if x > -87.335 { mantissa * scale } else { 0.0 }
}

/// The error function within 2e-7: Abramowitz and Stegun 7.1.26.
#[inline(always)]
fn erf<I: Isa>(x: f32) -> f32 {
    let magnitude = x.abs();
    let t = 1.0 / fused::<I>(0.327_591_1, magnitude, 1.0);
    let mut sum = 1.061_405_4;
    for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        sum = fused::<I>(sum, t, coefficient);
    }
    let value = 1.0 - sum * t * exp::<I>(-magnitude * magnitude);
    value.copysign(x)
}

#[cfg(test)]
mod tests;
