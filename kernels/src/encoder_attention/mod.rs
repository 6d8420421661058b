//! An encoder's attention: the positions of a window to each other, windows of many lengths side by side.
//!
//! qkv (positions, 3 · heads · 64) holds queries, keys and values side by side, a window's positions one after the other.
//! mixed (positions, heads · 64) becomes for each position the sum of its window's values, weighted by the softmax of
//! query · key / 8. Weights are rounded to the model's type before they are multiplied, the greatest is 1; sums are in f32. A
//! window gives the same bits alone and among others. Positions that no window has are neither read nor written.
//!
//! Heads are 64 wide, as in every Whisper; every array begins at a multiple of 16 bytes.
//!
//! Operations: 256 · heads · length² of a window on tensor cores, with queries rounded up to 32 and keys to 64, and heads · length²
//! exponentials, which take a multiprocessor of an H100 as long. Bytes: 512 · heads a position; keys and values are read again for
//! each 128 queries, from the L2 cache.

use crate::device::{Arguments, Device, Error, Launch, check, check_array};
use crate::memory::Plain;
use crate::view::{Half, View, ViewMut};

const OP: &str = "encoder attention";

/// Width of a head.
pub const HEAD_WIDTH: usize = 64;

/// As in the kernel.
const THREADS: u32 = 128;
const QUERIES: usize = 128;

/// Positions that attend to each other, as the kernel reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Window {
    /// The first of them.
    pub first: u32,
    /// How many.
    pub length: u32,
}

// SAFETY: two numbers of four bytes.
unsafe impl Plain for Window {}

/// Mixes. `windows` are what `device_windows` holds on the device: they are checked here and read there. They ascend and do not
/// overlap. A launch that is recorded and run again is told the greatest lengths that will stand there: blocks of positions that a
/// window does not have end at once.
pub fn encoder_attention<T: Half>(
    device: &mut impl Device,
    qkv: &View<'_, T>,
    windows: &[Window],
    device_windows: &View<'_, Window>,
    mixed: &mut ViewMut<'_, T>,
    heads: usize,
) -> Result<(), Error> {
    let width = heads * HEAD_WIDTH;
    check((1..=65_535).contains(&heads) && windows.len() <= 65_535, OP, || {
        format!("{} windows of {heads} heads", windows.len())
    })?;
    let mut end = 0;
    for (i, window) in windows.iter().enumerate() {
        let (first, length) = (window.first as usize, window.length as usize);
        check(length > 0 && first >= end, OP, || {
            format!("window {i} is {length} positions from {first} on, behind one that ends at {end}")
        })?;
        end = first + length;
    }
    check(i32::try_from(end).is_ok(), OP, || format!("{end} positions"))?;
    let of_device = (device_windows.address(), device_windows.len());
    check_array(OP, "the windows on the device", of_device, windows.len())?;
    check_array(OP, "qkv", (qkv.address(), qkv.len()), end * 3 * width)?;
    check_array(OP, "mixed", (mixed.address(), mixed.len()), end * width)?;
    let longest = windows.iter().map(|window| window.length as usize).max().unwrap_or(0);
    if longest == 0 {
        return Ok(());
    }
    let launch = Launch {
        kernel: T::pick("encoder_attention_f16", "encoder_attention_bf16"),
        // Blocks beside each other read the same keys and values.
        grid: [longest.div_ceil(QUERIES) as u32, heads as u32, windows.len() as u32],
        threads: THREADS,
        shared_bytes: 0,
    };
    let arguments = Arguments::new().read(qkv).read(device_windows).write(mixed);
    // SAFETY: the arguments are the kernel's parameters in order; windows and arrays were checked.
    unsafe { device.launch(&launch, &arguments) }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
