//! Layer normalisation, with the residual sum in front of it and the cast behind it.
//!
//! x (rows, width) f32 is the residual stream. Where there is a delta (rows, width), x becomes x + delta; then
//! y (rows, width) f16 or bf16 becomes (x - mean) / sqrt(variance + 1e-5) · gamma + beta. Sums are in f32.
//!
//! Width is a multiple of 4, at most 1280; every array begins at a multiple of 16 bytes.
//!
//! Bytes: 4 read and 2 written a value, with a delta 6 read and 6 written; gamma and beta stay in the caches.

use crate::device::{Arguments, Device, Error, Launch, check, check_array};
use crate::view::{Half, View, ViewMut};

const OP: &str = "layer norm";

/// Widest row: that of the large models.
pub const WIDTH_MAX: usize = 1_280;

/// Rows of a block and its threads, as in the kernel.
const ROWS: usize = 4;
const THREADS: u32 = 128;

/// What a row is scaled and shifted by, (width) each.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// Factors.
    pub gamma: View<'a, f32>,
    /// Terms.
    pub beta: View<'a, f32>,
}

impl Norm<'_> {
    /// Refuses what is no normalisation of rows of this width.
    pub(crate) fn check(&self, op: &'static str, width: usize) -> Result<(), Error> {
        check(width.is_multiple_of(4) && (4..=WIDTH_MAX).contains(&width), op, || {
            format!("rows of {width} values; normalised are multiples of 4 up to {WIDTH_MAX}")
        })?;
        check_array(op, "gamma", (self.gamma.address(), self.gamma.len()), width)?;
        check_array(op, "beta", (self.beta.address(), self.beta.len()), width)
    }
}

/// Normalises rows of `width` values: as many as x has.
pub fn layer_norm<T: Half>(
    device: &mut impl Device,
    x: &mut ViewMut<'_, f32>,
    delta: Option<&View<'_, T>>,
    norm: Norm<'_>,
    y: &mut ViewMut<'_, T>,
    width: usize,
) -> Result<(), Error> {
    norm.check(OP, width)?;
    let rows = x.len() / width;
    check(x.len() == rows * width && u32::try_from(rows).is_ok(), OP, || {
        format!("{} values are not rows of {width}", x.len())
    })?;
    check_array(OP, "x", (x.address(), x.len()), rows * width)?;
    check_array(OP, "y", (y.address(), y.len()), rows * width)?;
    if let Some(delta) = delta {
        check_array(OP, "delta", (delta.address(), delta.len()), rows * width)?;
    }
    if rows == 0 {
        return Ok(());
    }
    let kernel = if width <= 512 {
        T::pick("layer_norm_512_f16", "layer_norm_512_bf16")
    } else {
        T::pick("layer_norm_1280_f16", "layer_norm_1280_bf16")
    };
    let launch =
        Launch { kernel, grid: [rows.div_ceil(ROWS) as u32, 1, 1], threads: THREADS, shared_bytes: 0 };
    let arguments = Arguments::new()
        .write(x)
        .read_maybe(delta)
        .read(&norm.gamma)
        .read(&norm.beta)
        .write(y)
        .number(rows)
        .number(width);
    // SAFETY: the arguments are the kernel's parameters in order, and the arrays were checked to hold rows × width.
    unsafe { device.launch(&launch, &arguments) }
}

#[cfg(test)]
pub(crate) mod reference;
#[cfg(test)]
mod tests;
