//! Arithmetic of the model in f32: products with weights, normalisation, activation, softmax.
//!
//! Matrices are row-major slices. A product with many rows goes to the `gemm` crate; one with a few
//! rows (a decoding step) is a loop of dot products, because there the weights are read once and
//! memory is the limit, which general matrix libraries do not reach for one row.
//! Each loop is compiled three times (AVX-512, AVX2, baseline) and picked at run time.

use gemm::Parallelism;
use rayon::prelude::*;

/// Rows from which a product is worth a matrix multiplication rather than dot products.
const GEMM_ROWS_MIN: usize = 9;

/// Weights below which splitting a product over threads costs more than it saves.
const SPLIT_WEIGHTS_MIN: usize = 192 * 1024;

/// A layer `y = x Wᵀ + b`: weights (outputs, inputs), bias (outputs) or none.
pub struct Linear {
    weights: Vec<f32>,
    bias: Option<Vec<f32>>,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    /// Builds a layer; `weights` is (outputs, inputs) and `bias`, where there is one, (outputs).
    pub fn new(weights: Vec<f32>, bias: Option<Vec<f32>>, outputs: usize, inputs: usize) -> Linear {
        assert_eq!(weights.len(), outputs * inputs, "weights are (outputs, inputs)");
        assert!(bias.as_ref().is_none_or(|bias| bias.len() == outputs), "bias is (outputs)");
        Linear { weights, bias, inputs, outputs }
    }

    /// Width of a result row.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Row `index` of the weights: the embedding of a token when the layer is tied to one.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.weights[index * self.inputs..][..self.inputs]
    }

    /// `y = x Wᵀ + b`: x (rows, inputs), y (rows, outputs).
    pub fn apply(&self, x: &[f32], y: &mut [f32]) {
        match &self.bias {
            Some(bias) => y.chunks_exact_mut(self.outputs).for_each(|row| row.copy_from_slice(bias)),
            None => y.fill(0.0),
        }
        self.accumulate(x, y);
    }

    /// `y += x Wᵀ + b`: the residual form of [`Linear::apply`].
    pub fn add_to(&self, x: &[f32], y: &mut [f32]) {
        if let Some(bias) = &self.bias {
            y.chunks_exact_mut(self.outputs).for_each(|row| add(row, bias));
        }
        self.accumulate(x, y);
    }

    fn accumulate(&self, x: &[f32], y: &mut [f32]) {
        let rows = x.len() / self.inputs;
        assert_eq!(
            (x.len(), y.len()),
            (rows * self.inputs, rows * self.outputs),
            "x (rows, inputs), y (rows, outputs)"
        );
        if rows >= GEMM_ROWS_MIN {
            let weights = Matrix { data: &self.weights, row_stride: 1, column_stride: self.inputs };
            let size = [rows, self.outputs, self.inputs];
            multiply_add(size, Matrix::rows(x, self.inputs), weights, y, self.outputs, true);
            return;
        }
        if rows == 1 {
            self.split(1, y, |weights, y| add_dots(weights, x, y));
            return;
        }
        // (outputs, rows), so that each weight is read once for all rows.
        let mut columns = vec![0.0; y.len()];
        self.split(rows, &mut columns, |weights, columns| add_column_dots(weights, x, self.inputs, columns));
        for (row, y) in y.chunks_exact_mut(self.outputs).enumerate() {
            y.iter_mut().zip(columns.chunks_exact(rows)).for_each(|(y, column)| *y += column[row]);
        }
    }

    /// Shares out the weights, and the results (outputs, rows), over the threads of the pool.
    fn split(&self, rows: usize, results: &mut [f32], part: impl Fn(&[f32], &mut [f32]) + Sync) {
        let threads = rayon::current_num_threads();
        if threads == 1 || self.weights.len() < SPLIT_WEIGHTS_MIN {
            return part(&self.weights, results);
        }
        let outputs = self.outputs.div_ceil(threads);
        results
            .par_chunks_mut(outputs * rows)
            .zip(self.weights.par_chunks(outputs * self.inputs))
            .for_each(|(results, weights)| part(weights, results));
    }
}

/// A read-only matrix view with its own strides (in elements).
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// First element of the view, and everything behind it.
    pub data: &'a [f32],
    /// Distance between neighbouring rows.
    pub row_stride: usize,
    /// Distance between neighbouring columns.
    pub column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A view of rows that stand `row_stride` apart.
    pub fn rows(data: &'a [f32], row_stride: usize) -> Matrix<'a> {
        Matrix { data, row_stride, column_stride: 1 }
    }

    /// The same elements with rows and columns exchanged.
    pub fn transposed(self) -> Matrix<'a> {
        Matrix { data: self.data, row_stride: self.column_stride, column_stride: self.row_stride }
    }

    fn covers(&self, rows: usize, columns: usize) -> bool {
        rows == 0
            || columns == 0
            || (rows - 1) * self.row_stride + (columns - 1) * self.column_stride < self.data.len()
    }
}

/// `y = a b`: a (m, k), b (k, n), y (m, n) with rows `y_stride` apart, for `size` = [m, n, k]; over the
/// threads of the current pool when `split`, else on this thread alone.
pub fn multiply(size: [usize; 3], a: Matrix, b: Matrix, y: &mut [f32], y_stride: usize, split: bool) {
    product(size, a, b, y, y_stride, split, false);
}

/// `y += a b`, otherwise as [`multiply`].
pub fn multiply_add(size: [usize; 3], a: Matrix, b: Matrix, y: &mut [f32], y_stride: usize, split: bool) {
    product(size, a, b, y, y_stride, split, true);
}

fn product(
    [m, n, k]: [usize; 3],
    a: Matrix,
    b: Matrix,
    y: &mut [f32],
    y_stride: usize,
    split: bool,
    add: bool,
) {
    assert!(a.covers(m, k), "a is (m, k)");
    assert!(b.covers(k, n), "b is (k, n)");
    assert!(Matrix::rows(y, y_stride).covers(m, n) && y_stride >= n, "y is (m, n)");
    let parallelism = if split { Parallelism::Rayon(0) } else { Parallelism::None };
    // SAFETY: the three assertions keep every element that the product touches inside its slice, and
    // `y` is borrowed mutably, so it overlaps neither input.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            y.as_mut_ptr(),
            1,
            y_stride as isize,
            add,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Layer normalisation parameters, each (width).
pub struct Norm {
    /// Scale.
    pub gamma: Vec<f32>,
    /// Shift.
    pub beta: Vec<f32>,
}

impl Norm {
    /// Normalises each row of x (rows, width) into y, with openai's epsilon of 1e-5.
    pub fn apply(&self, x: &[f32], y: &mut [f32]) {
        let width = self.gamma.len();
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            normalise(x, &self.gamma, &self.beta, y);
        }
    }
}

/// Defines a function compiled for AVX-512, for AVX2 and for the baseline; the body is generic over the
/// instruction set.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $body:ident) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    $body::<x86::Avx512>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    $body::<x86::Avx2>($($arg),*)
                }
                if is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2") {
                    if is_x86_feature_detected!("avx512f") {
                        // SAFETY: the processor was just found to have the features it was compiled for.
                        return unsafe { avx512($($arg),*) };
                    }
                    // SAFETY: as above.
                    return unsafe { avx2($($arg),*) };
                }
            }
            $body::<Baseline>($($arg),*)
        }
    };
}

vectorised! {
    /// `y[i] += w[i] · x` for each row `w[i]` of the weights (len(y), len(x)).
    fn add_dots(weights: &[f32], x: &[f32], y: &mut [f32]) = add_dots_body
}
vectorised! {
    /// `columns[i][j] += w[i] · x[j]` for weights (outputs, width), x (rows, width), columns (outputs, rows).
    fn add_column_dots(weights: &[f32], x: &[f32], width: usize, columns: &mut [f32]) = add_column_dots_body
}
vectorised! {
    /// `scores[i] = keys[i] · query * scale` for keys that stand `stride` elements apart.
    pub fn score_keys(query: &[f32], keys: &[f32], stride: usize, scale: f32, scores: &mut [f32]) = score_keys_body
}
vectorised! {
    /// `y = Σ weights[i] values[i]` for values (len(y)) that stand `stride` elements apart.
    pub fn mix_values(weights: &[f32], values: &[f32], stride: usize, y: &mut [f32]) = mix_values_body
}
vectorised! {
    /// Turns a row of scores into probabilities.
    pub fn softmax(row: &mut [f32]) = softmax_body
}
vectorised! {
    /// Returns the logarithm of the sum of exponentials of a row, given the row's maximum (finite).
    pub fn log_sum_exp(row: &[f32], max: f32) -> f32 = log_sum_exp_body
}
vectorised! {
    /// Gaussian error linear unit in its exact (erf) form, in place.
    pub fn gelu(x: &mut [f32]) = gelu_body
}
vectorised! {
    /// `y += x`.
    pub fn add(y: &mut [f32], x: &[f32]) = add_body
}
vectorised! {
    /// Normalises a row with openai's epsilon of 1e-5, then scales and shifts it; all slices have one length.
    pub fn normalise(x: &[f32], gamma: &[f32], beta: &[f32], y: &mut [f32]) = normalise_body
}

/// Lanes of one accumulator: the width of an AVX-512 register in f32.
const LANES: usize = 16;

/// An instruction set that the loops are compiled for.
trait Isa {
    /// Whether fused multiply-add is an instruction; where it is not, `mul_add` is a slow library call.
    const FMA: bool;

    /// The scalar product of two slices of one length.
    fn dot(a: &[f32], b: &[f32]) -> f32;
}

struct Baseline;

impl Isa for Baseline {
    const FMA: bool = cfg!(target_arch = "aarch64");

    #[inline(always)]
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        dot_portable::<Baseline>(a, b)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! Scalar products in intrinsics: of a loop over lanes the compiler makes 8-byte steps.

    use std::arch::x86_64::*;

    use super::Isa;

    pub struct Avx512;

    impl Isa for Avx512 {
        const FMA: bool = true;

        #[inline(always)]
        fn dot(a: &[f32], b: &[f32]) -> f32 {
            // SAFETY: `vectorised` uses this type only in a function that it calls after finding AVX-512.
            unsafe { dot_avx512(a, b) }
        }
    }

    pub struct Avx2;

    impl Isa for Avx2 {
        const FMA: bool = true;

        #[inline(always)]
        fn dot(a: &[f32], b: &[f32]) -> f32 {
            // SAFETY: `vectorised` uses this type only in a function that it calls after finding AVX2 and FMA.
            unsafe { dot_avx2(a, b) }
        }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn dot_avx512(a: &[f32], b: &[f32]) -> f32 {
        // Four accumulators hide the latency of the multiply-add.
        let mut sums = [_mm512_setzero_ps(); 4];
        let (a_blocks, a_rest) = a.as_chunks::<64>();
        let (b_blocks, b_rest) = b.as_chunks::<64>();
        for (a, b) in a_blocks.iter().zip(b_blocks) {
            for (part, sum) in sums.iter_mut().enumerate() {
                // SAFETY: 16 of the 64 elements begin at 16 * part.
                let (a, b) = unsafe {
                    (_mm512_loadu_ps(a.as_ptr().add(16 * part)), _mm512_loadu_ps(b.as_ptr().add(16 * part)))
                };
                *sum = _mm512_fmadd_ps(a, b, *sum);
            }
        }
        let sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
        a_rest.iter().zip(b_rest).fold(_mm512_reduce_add_ps(sum), |sum, (a, b)| a.mul_add(*b, sum))
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    fn dot_avx2(a: &[f32], b: &[f32]) -> f32 {
        let mut sums = [_mm256_setzero_ps(); 4];
        let (a_blocks, a_rest) = a.as_chunks::<32>();
        let (b_blocks, b_rest) = b.as_chunks::<32>();
        for (a, b) in a_blocks.iter().zip(b_blocks) {
            for (part, sum) in sums.iter_mut().enumerate() {
                // SAFETY: 8 of the 32 elements begin at 8 * part.
                let (a, b) = unsafe {
                    (_mm256_loadu_ps(a.as_ptr().add(8 * part)), _mm256_loadu_ps(b.as_ptr().add(8 * part)))
                };
                *sum = _mm256_fmadd_ps(a, b, *sum);
            }
        }
        let sum = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
        let half = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
        let quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
        let whole = _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
        a_rest.iter().zip(b_rest).fold(whole, |sum, (a, b)| a.mul_add(*b, sum))
    }
}

#[inline(always)]
fn fused<I: Isa>(a: f32, b: f32, c: f32) -> f32 {
    if I::FMA { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn dot_portable<I: Isa>(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [[0.0f32; LANES]; 4];
    let (a_blocks, a_rest) = a.as_chunks::<{ LANES * 4 }>();
    let (b_blocks, b_rest) = b.as_chunks::<{ LANES * 4 }>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for (part, sum) in sums.iter_mut().enumerate() {
            for (lane, sum) in sum.iter_mut().enumerate() {
                *sum = fused::<I>(a[part * LANES + lane], b[part * LANES + lane], *sum);
            }
        }
    }
    let mut lanes = [0.0f32; LANES];
    for (lane, total) in lanes.iter_mut().enumerate() {
        *total = (sums[0][lane] + sums[1][lane]) + (sums[2][lane] + sums[3][lane]);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    a_rest.iter().zip(b_rest).fold(lanes[0], |sum, (a, b)| fused::<I>(*a, *b, sum))
}

#[inline(always)]
fn add_dots_body<I: Isa>(weights: &[f32], x: &[f32], y: &mut [f32]) {
    for (row, y) in weights.chunks_exact(x.len()).zip(y) {
        *y += I::dot(row, x);
    }
}

#[inline(always)]
fn add_column_dots_body<I: Isa>(weights: &[f32], x: &[f32], width: usize, columns: &mut [f32]) {
    for (row, column) in weights.chunks_exact(width).zip(columns.chunks_exact_mut(x.len() / width)) {
        for (x, y) in x.chunks_exact(width).zip(column) {
            *y += I::dot(row, x);
        }
    }
}

#[inline(always)]
fn score_keys_body<I: Isa>(query: &[f32], keys: &[f32], stride: usize, scale: f32, scores: &mut [f32]) {
    for (row, score) in scores.iter_mut().enumerate() {
        *score = I::dot(&keys[row * stride..][..query.len()], query) * scale;
    }
}

#[inline(always)]
fn mix_values_body<I: Isa>(weights: &[f32], values: &[f32], stride: usize, y: &mut [f32]) {
    y.fill(0.0);
    let width = y.len();
    for (row, weight) in weights.iter().enumerate() {
        for (y, value) in y.iter_mut().zip(&values[row * stride..][..width]) {
            *y = fused::<I>(*weight, *value, *y);
        }
    }
}

#[inline(always)]
fn softmax_body<I: Isa>(row: &mut [f32]) {
    let max = row.iter().fold(f32::NEG_INFINITY, |max, x| if *x > max { *x } else { max });
    let mut sums = [0.0f32; LANES];
    let (blocks, rest) = row.as_chunks_mut::<LANES>();
    for block in blocks {
        for (x, sum) in block.iter_mut().zip(&mut sums) {
            *x = exp::<I>(*x - max);
            *sum += *x;
        }
    }
    let mut sum: f32 = sums.iter().sum();
    for x in rest {
        *x = exp::<I>(*x - max);
        sum += *x;
    }
    let scale = 1.0 / sum;
    row.iter_mut().for_each(|x| *x *= scale);
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
