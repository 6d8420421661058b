//! Products of 1 to 16 rows with a matrix of weights: a decoder's step while few texts are under way.
//!
//! y (rows, width) = output(input (rows, depth) · w (width, depth) transposed + bias (width)). The input is either f16 or
//! bf16, or the f32 residual stream, which is normalised first in each block. The output is stored, goes through the exact
//! (erf) GELU, or is added to the residual stream. Sums are in f32 and in an order that the shape alone decides: a row
//! gives the same bits alone and among others of as many tiles of 8.
//!
//! Depth is a multiple of 64, at most 1280 where the input is normalised; every array begins at a multiple of 16 bytes.
//!
//! Bytes: 2 · width · depth of weights, read once; the rest is small. Operations: 2 · width · depth a row, on tensor cores.

use crate::device::{Arguments, Device, Error, Launch, SHARED_BYTES_MAX, check, check_array};
use crate::layer_norm::Norm;
use crate::product::{Output, Shape};
use crate::view::{Half, View};

const OP: &str = "skinny product";

/// Most rows.
pub const ROWS_MAX: usize = 16;

/// As in the kernel.
const THREADS: u32 = 256;
const WARPS: usize = 8;
const COLUMNS: usize = 16;

/// Most blocks: two for each of the 132 multiprocessors of an H100. Each normalises the input for itself, so a wide product
/// (the logits) has blocks take several tiles of columns rather than begin anew for each.
const BLOCKS_MAX: usize = 264;

/// What is multiplied, (rows, depth).
#[derive(Debug)]
pub enum Input<'a, T> {
    /// As it is.
    Plain(View<'a, T>),
    /// The residual stream behind a normalisation.
    Normed(View<'a, f32>, Norm<'a>),
}

/// Multiplies.
pub fn skinny<T: Half>(
    device: &mut impl Device,
    input: Input<'_, T>,
    weights: &View<'_, T>,
    bias: Option<&View<'_, f32>>,
    output: Output<'_, T>,
    shape: Shape,
) -> Result<(), Error> {
    let Shape { rows, depth, width } = shape;
    check((1..=ROWS_MAX).contains(&rows), OP, || format!("{rows} rows; it takes 1 to {ROWS_MAX}"))?;
    check(depth > 0 && depth.is_multiple_of(64), OP, || {
        format!("a depth of {depth}; it takes multiples of 64")
    })?;
    let addressable = u32::try_from(width).is_ok() && u32::try_from(rows * depth).is_ok();
    check(width > 0 && addressable, OP, || format!("{rows} rows of {depth} to {width} values"))?;
    check_array(OP, "the matrix", (weights.address(), weights.len()), width * depth)?;
    if let Some(bias) = bias {
        check_array(OP, "the bias", (bias.address(), bias.len()), width)?;
    }
    let tiles = rows.div_ceil(8);
    let sums = WARPS * tiles * 8 * COLUMNS * size_of::<f32>();
    let (x, norm, normed_bytes) = match input {
        Input::Plain(x) => ((x.address(), x.len()), None, 0),
        Input::Normed(x, norm) => {
            norm.check(OP, depth)?;
            ((x.address(), x.len()), Some(norm), tiles * 8 * depth * size_of::<T>())
        }
    };
    check_array(OP, "the input", x, rows * depth)?;
    debug_assert!(sums + normed_bytes <= SHARED_BYTES_MAX, "1280 is the widest normalised row");
    let kernel = match (norm.is_some(), tiles) {
        (false, 1) => T::pick("skinny_8_f16", "skinny_8_bf16"),
        (false, _) => T::pick("skinny_16_f16", "skinny_16_bf16"),
        (true, 1) => T::pick("skinny_normed_8_f16", "skinny_normed_8_bf16"),
        (true, _) => T::pick("skinny_normed_16_f16", "skinny_normed_16_bf16"),
    };
    let (y, how) = output.parts();
    check_array(OP, "the output", y, rows * width)?;
    let launch = Launch {
        kernel,
        grid: [width.div_ceil(COLUMNS).min(BLOCKS_MAX) as u32, 1, 1],
        threads: THREADS,
        shared_bytes: (sums + normed_bytes) as u32,
    };
    let arguments = Arguments::new()
        .address(x.0)
        .read_maybe(norm.as_ref().map(|norm| &norm.gamma))
        .read_maybe(norm.as_ref().map(|norm| &norm.beta))
        .read(weights)
        .read_maybe(bias)
        .address(y.0)
        .number(rows)
        .number(depth)
        .number(width)
        .number(how);
    // SAFETY: the arguments are the kernel's parameters in order, and the arrays were checked to hold their shapes.
    unsafe { device.launch(&launch, &arguments) }
}

#[cfg(test)]
mod tests;
