//! Products of many rows with a matrix of weights: the encoder's layers, keys and values of a window, prompts.
//!
//! y (rows, width) = output(x (rows, depth) · w (width, depth) transposed + bias (width)). x and w are f16 or bf16, bias is
//! f32. The output is stored, goes through the exact (erf) GELU, or is added to the residual stream. Sums are in f32 and in
//! an order that the depth alone decides: a row gives the same bits alone and among others.
//!
//! Any number of rows; depth is a multiple of 8, best of 32; width is a multiple of 8; every array begins at a multiple of
//! 16 bytes.
//!
//! Operations: 2 · rows · width · depth, on tensor cores by `mma.sync`. Bytes: 2 · rows · depth once and 2 · width · depth
//! once where the weights fit the L2 cache; 2 · rows · width written, added to the residual stream 8.

use crate::device::{Arguments, Device, Error, Launch, check, check_array};
use crate::product::{Output, Shape, Tile};
use crate::view::{Half, View};

const OP: &str = "product";

/// Multiplies.
pub fn matmul<T: Half>(
    device: &mut impl Device,
    x: &View<'_, T>,
    weights: &View<'_, T>,
    bias: Option<&View<'_, f32>>,
    output: Output<'_, T>,
    shape: Shape,
) -> Result<(), Error> {
    let Shape { rows, depth, width } = shape;
    check(depth > 0 && depth.is_multiple_of(8), OP, || {
        format!("a depth of {depth}; it takes multiples of 8")
    })?;
    check(width > 0 && width.is_multiple_of(8), OP, || {
        format!("a width of {width}; it takes multiples of 8")
    })?;
    let addressable = [rows, depth, width].iter().all(|size| i32::try_from(*size).is_ok());
    check(rows > 0 && rows <= 65_535 * Tile::Small.side() && addressable, OP, || {
        format!("{rows} rows of {depth} to {width} values")
    })?;
    check_array(OP, "x", (x.address(), x.len()), rows * depth)?;
    check_array(OP, "the matrix", (weights.address(), weights.len()), width * depth)?;
    if let Some(bias) = bias {
        check_array(OP, "the bias", (bias.address(), bias.len()), width)?;
    }
    let (y, how) = output.parts();
    check_array(OP, "the output", y, rows * width)?;
    let tile = Tile::of(std::iter::once(rows), width);
    let launch = Launch {
        kernel: match tile {
            Tile::Small => T::pick("matmul_64_f16", "matmul_64_bf16"),
            Tile::Large => T::pick("matmul_128_f16", "matmul_128_bf16"),
        },
        grid: [width.div_ceil(tile.side()) as u32, rows.div_ceil(tile.side()) as u32, 1],
        threads: Tile::THREADS,
        shared_bytes: Tile::SHARED_BYTES,
    };
    let arguments = Arguments::new()
        .read(x)
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
