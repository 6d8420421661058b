//! Where the encoder begins: frames of a spectrum become positions of the residual stream, by two convolutions.
//!
//! mel (frames, mels) f16 or bf16 holds the windows' frames, one frame's bands side by side; a window is any stretch of
//! frames. hidden (frames, width), at the same frames, becomes GELU of mel convolved over three frames; x (positions, width)
//! f32 becomes GELU of every other frame of hidden convolved over three, plus the position's row of a table that counts from
//! each window's beginning. GELU is the exact (erf) one. A window of n frames has n / 2 positions, rounded up. In front of
//! and behind a window there are zeros, for both convolutions, whatever stands there in the arrays: windows may be packed
//! without a gap. Sums are in f32: a window gives the same bits alone and among others.
//!
//! Weights are (width, 3, channels): of the frame before, of the frame, of the one behind, each with its channels side by
//! side.
//!
//! Bands and width are multiples of 8; every array begins at a multiple of 16 bytes.
//!
//! Operations: 2 · frames · 3 · mels · width and 2 · positions · 3 · width · width, on tensor cores. Bytes: 2 · mels a
//! frame, 2 · width written and read, 8 · width a position; the weights stay in the L2 cache.

use crate::device::{Arguments, Device, Error, Launch, check, check_array};
use crate::memory::Plain;
use crate::product::Tile;
use crate::view::{Half, View, ViewMut};

const OP: &str = "convolution";

/// Frames that are convolved: the one before, the frame, the one behind.
const TAPS: usize = 3;

/// A window, as the kernels read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Window {
    /// Its first frame in mel and hidden.
    pub frame: u32,
    /// How many it has.
    pub frames: u32,
    /// Its first position in x.
    pub position: u32,
}

// SAFETY: three numbers of four bytes.
unsafe impl Plain for Window {}

impl Window {
    /// Positions that it becomes.
    pub fn positions(&self) -> usize {
        self.frames.div_ceil(2) as usize
    }
}

/// What windows are convolved with.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a, T> {
    /// (width, 3, mels)
    pub first: View<'a, T>,
    /// (width)
    pub first_bias: View<'a, f32>,
    /// (width, 3, width)
    pub second: View<'a, T>,
    /// (width)
    pub second_bias: View<'a, f32>,
    /// (positions of a window, width)
    pub positions: View<'a, f32>,
    /// Bands of a frame.
    pub mels: usize,
    /// Values of a position.
    pub width: usize,
}

impl<T> Weights<'_, T> {
    fn check(&self) -> Result<(), Error> {
        let Weights { first, first_bias, second, second_bias, positions, mels, width } = self;
        let fits = |size: &usize| *size > 0 && size.is_multiple_of(8) && *size <= 1 << 13;
        check(fits(mels) && fits(width), OP, || {
            format!("{mels} bands to {width} values; it takes multiples of 8 up to 8192")
        })?;
        check_array(OP, "the first matrix", (first.address(), first.len()), width * TAPS * mels)?;
        check_array(OP, "the first bias", (first_bias.address(), first_bias.len()), *width)?;
        check_array(OP, "the second matrix", (second.address(), second.len()), width * TAPS * width)?;
        check_array(OP, "the second bias", (second_bias.address(), second_bias.len()), *width)?;
        check_array(OP, "the positions", (positions.address(), positions.len()), 0)
    }

    /// Most positions of a window: what the table has, as long as a place in a window is a number of 32 bits.
    fn room(&self) -> usize {
        (self.positions.len() / self.width).min(1 << 16)
    }
}

/// Convolves the windows, which are in order and share neither frames nor positions. `windows` are what `device_windows` holds on
/// the device: they are checked here and read there.
pub fn conv<T: Half>(
    device: &mut impl Device,
    mel: &View<'_, T>,
    windows: &[Window],
    device_windows: &View<'_, Window>,
    weights: Weights<'_, T>,
    hidden: &mut ViewMut<'_, T>,
    x: &mut ViewMut<'_, f32>,
) -> Result<(), Error> {
    weights.check()?;
    let Weights { mels, width, .. } = weights;
    check(windows.len() <= 65_535 && device_windows.len() >= windows.len(), OP, || {
        format!("{} windows, {} on the device", windows.len(), device_windows.len())
    })?;
    let (room, mut frames, mut positions) = (weights.room(), 0, 0);
    for (i, window) in windows.iter().enumerate() {
        check((1..=room).contains(&window.positions()), OP, || {
            format!("window {i} has {} frames; there are {room} positions", window.frames)
        })?;
        let (frame, position) = (window.frame as usize, window.position as usize);
        check(frame >= frames && position >= positions, OP, || {
            format!("window {i} shares frames or positions with the one before it")
        })?;
        (frames, positions) = (frame + window.frames as usize, position + window.positions());
    }
    check_array(OP, "mel", (mel.address(), mel.len()), frames * mels)?;
    check_array(OP, "hidden", (hidden.address(), hidden.len()), frames * width)?;
    check_array(OP, "x", (x.address(), x.len()), positions * width)?;
    if windows.is_empty() {
        return Ok(());
    }
    let launch_of = |rows_of: fn(&Window) -> usize, small: &'static str, large: &'static str| {
        let rows = || windows.iter().map(rows_of);
        let tile = Tile::of(rows(), width);
        let row_tiles = rows().max().unwrap_or(0).div_ceil(tile.side());
        Launch {
            kernel: if tile == Tile::Small { small } else { large },
            grid: [width.div_ceil(tile.side()) as u32, row_tiles as u32, windows.len() as u32],
            threads: Tile::THREADS,
            shared_bytes: Tile::SHARED_BYTES,
        }
    };
    let launch = launch_of(
        |window| window.frames as usize,
        T::pick("conv_first_64_f16", "conv_first_64_bf16"),
        T::pick("conv_first_128_f16", "conv_first_128_bf16"),
    );
    let arguments = Arguments::new()
        .read(mel)
        .read(device_windows)
        .read(&weights.first)
        .read(&weights.first_bias)
        .write(hidden)
        .number(mels)
        .number(width);
    // SAFETY: the arguments are the kernel's parameters in order; windows and arrays were checked.
    unsafe { device.launch(&launch, &arguments) }?;
    let launch = launch_of(
        Window::positions,
        T::pick("conv_second_64_f16", "conv_second_64_bf16"),
        T::pick("conv_second_128_f16", "conv_second_128_bf16"),
    );
    let arguments = Arguments::new()
        .read(&hidden.view())
        .read(device_windows)
        .read(&weights.second)
        .read(&weights.second_bias)
        .read(&weights.positions)
        .write(x)
        .number(width);
    // SAFETY: as above.
    unsafe { device.launch(&launch, &arguments) }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
