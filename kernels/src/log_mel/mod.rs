//! What a model hears: log-mel spectrograms of segments, and windows of them.
//!
//! pcm i16 at 16 kHz holds segments; a segment begins at a multiple of 8 samples. A frame is 400 samples behind a Hann window, of
//! which there is one each 160: frame i is centred at sample 160 i, where the segment is mirrored at its beginning and silent
//! behind its end. Its power spectrum is gathered in bands; of a band counts log10 of its energy, 1e-10 at least and no more
//! than 8 below the loudest of the whole segment, plus 4, over 4. (openai/whisper, `audio.py`.) The segment's last frame, which hears
//! its end, counts for the loudest and is no frame of a window.
//!
//! spectrogram (rows, mels) f16 or bf16 becomes for each window those frames, bands side by side, and zeros where the window goes on
//! behind what it hears. Everything but the last rounding is in f32. A window gives the same bits alone and among others.
//!
//! Bands are a multiple of 8, at most 128; every array begins at a multiple of 16 bytes.
//!
//! Bytes: 320 a frame read; 4 a band written and read in the L2 cache, 2 written. Operations: some 11 thousand a frame.

use crate::device::{Arguments, Device, Error, Launch, check, check_array};
use crate::memory::Plain;
use crate::view::{Half, View, ViewMut};

const OP: &str = "log-mel";

/// Samples between frames.
pub const HOP: usize = 160;
/// Samples of a frame.
pub const SAMPLES: usize = 400;
/// Bins of a frame's spectrum.
pub const BINS: usize = SAMPLES / 2 + 1;
/// Most bands.
pub const MELS_MAX: usize = 128;

/// As in the kernel.
const THREADS: u32 = 128;
const FRAMES: usize = 16;
const FINISH_THREADS: u32 = 256;
/// Bands' numbers that a thread of the second kernel makes.
const PACK: usize = 8;

/// A window of a segment, as the kernels read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Window {
    /// Where its segment begins in pcm.
    pub pcm: u32,
    /// Samples of the segment.
    pub samples: u32,
    /// The first frame of the segment that is the window's.
    pub from: u32,
    /// Frames that are heard at most.
    pub heard: u32,
    /// Its first row of the spectrogram.
    pub row: u32,
    /// Its rows.
    pub frames: u32,
}

// SAFETY: six numbers of four bytes.
unsafe impl Plain for Window {}

impl Window {
    /// Blocks that make its segment's frames, and the one behind them.
    fn parts(&self) -> usize {
        (self.samples as usize / HOP + 1).div_ceil(FRAMES)
    }
}

/// A band of the spectrum, as the kernel reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Band {
    first: u32,
    count: u32,
    weights: u32,
}

// SAFETY: three numbers of four bytes.
unsafe impl Plain for Band {}

/// What the kernels multiply by.
#[derive(Debug, Clone)]
pub struct Tables {
    /// The window of a frame, turns, the bands' weights.
    pub numbers: Vec<f32>,
    /// The bands.
    pub bands: Vec<Band>,
}

impl Tables {
    /// The tables for bands that each have weights from a bin on.
    pub fn new(bands: &[(usize, Vec<f32>)]) -> Result<Tables, Error> {
        check(bands.len().is_multiple_of(PACK) && (PACK..=MELS_MAX).contains(&bands.len()), OP, || {
            format!("{} bands; it takes multiples of {PACK} up to {MELS_MAX}", bands.len())
        })?;
        let hann = (0..SAMPLES).map(|i| (0.5 - 0.5 * turns(i, SAMPLES).0) / 32_768.0);
        let back = |of: usize, count: usize| (0..count).flat_map(move |i| [turns(i, of).0, -turns(i, of).1]);
        let numbers = hann.chain(back(SAMPLES / 2, SAMPLES / 2)).chain(back(SAMPLES, BINS));
        let mut numbers: Vec<f32> = numbers.map(|x| x as f32).collect();
        let mut placed = Vec::new();
        for (i, (first, weights)) in bands.iter().enumerate() {
            check(first + weights.len() <= BINS, OP, || {
                format!("band {i} has {} bins from {first} on, of {BINS}", weights.len())
            })?;
            let (count, place) = (weights.len() as u32, numbers.len() as u32);
            placed.push(Band { first: *first as u32, count, weights: place });
            numbers.extend(weights);
        }
        Ok(Tables { numbers, bands: placed })
    }
}

/// Cosine and sine of a part of a turn.
fn turns(i: usize, of: usize) -> (f64, f64) {
    let (sin, cos) = (std::f64::consts::TAU * i as f64 / of as f64).sin_cos();
    (cos, sin)
}

/// [`Tables`] on the device.
#[derive(Debug, Clone, Copy)]
pub struct DeviceTables<'a> {
    /// [`Tables::numbers`], all of them.
    pub numbers: View<'a, f32>,
    /// [`Tables::bands`], all of them.
    pub bands: View<'a, Band>,
}

/// What one kernel leaves for the other. Launches that run one after the other share it.
#[derive(Debug)]
pub struct Workspace<'a> {
    /// Logarithms, (rows, mels).
    pub logs: ViewMut<'a, f32>,
    /// The loudest of some frames: as many as [`Workspace::loudest_len`] says.
    pub loudest: ViewMut<'a, f32>,
}

impl Workspace<'_> {
    /// Elements of `loudest` for so many windows of segments of so many samples.
    pub fn loudest_len(windows: usize, samples: usize) -> usize {
        windows * (samples / HOP + 1).div_ceil(FRAMES)
    }
}

/// Computes the windows. `windows` are what `device_windows` holds on the device: they are checked here and read there. Their rows
/// ascend and do not overlap.
pub fn log_mel<T: Half>(
    device: &mut impl Device,
    pcm: &View<'_, i16>,
    windows: &[Window],
    device_windows: &View<'_, Window>,
    tables: DeviceTables<'_>,
    workspace: &mut Workspace<'_>,
    spectrogram: &mut ViewMut<'_, T>,
) -> Result<(), Error> {
    let mels = tables.bands.len();
    let mut end = 0;
    for (i, window) in windows.iter().enumerate() {
        let Window { pcm: first, samples, row, frames, .. } = *window;
        check(first.is_multiple_of(8) && (first as usize + samples as usize) <= pcm.len(), OP, || {
            format!("window {i} is of {samples} samples from {first} on, of {}", pcm.len())
        })?;
        check(row as usize >= end && frames > 0, OP, || {
            format!("window {i} is {frames} rows from {row} on, behind one that ends at {end}")
        })?;
        end = row as usize + frames as usize;
    }
    check(windows.len() <= 65_535 && i32::try_from(end * mels.max(1)).is_ok(), OP, || {
        format!("{} windows of {end} rows", windows.len())
    })?;
    let of_device = (device_windows.address(), device_windows.len());
    check_array(OP, "the windows on the device", of_device, windows.len())?;
    check_array(OP, "pcm", (pcm.address(), pcm.len()), 0)?;
    check_array(OP, "the numbers", (tables.numbers.address(), tables.numbers.len()), 0)?;
    check_array(OP, "the bands", (tables.bands.address(), mels), 1)?;
    let parts = windows.iter().map(Window::parts).max().unwrap_or(0);
    let of_workspace = (workspace.logs.address(), workspace.logs.len());
    check_array(OP, "the workspace's logarithms", of_workspace, end * mels)?;
    let of_workspace = (workspace.loudest.address(), workspace.loudest.len());
    check_array(OP, "the workspace's loudest", of_workspace, windows.len() * parts)?;
    check_array(OP, "the spectrogram", (spectrogram.address(), spectrogram.len()), end * mels)?;
    if windows.is_empty() {
        return Ok(());
    }
    let launch = Launch {
        kernel: "log_mel_bands",
        grid: [parts as u32, windows.len() as u32, 1],
        threads: THREADS,
        shared_bytes: 0,
    };
    let arguments = Arguments::new()
        .read(pcm)
        .read(device_windows)
        .read(&tables.numbers)
        .read(&tables.bands)
        .write(&workspace.logs)
        .write(&workspace.loudest)
        .number(mels)
        .number(parts);
    // SAFETY: the arguments are the kernel's parameters in order; windows and arrays were checked, and tables are made whole.
    unsafe { device.launch(&launch, &arguments) }?;
    let longest = windows.iter().map(|window| window.frames as usize).max().unwrap_or(0);
    let launch = Launch {
        kernel: T::pick("log_mel_finish_f16", "log_mel_finish_bf16"),
        grid: [(longest * mels).div_ceil(PACK * FINISH_THREADS as usize) as u32, windows.len() as u32, 1],
        threads: FINISH_THREADS,
        shared_bytes: 0,
    };
    let arguments = Arguments::new()
        .read(device_windows)
        .read(&workspace.logs.view())
        .read(&workspace.loudest.view())
        .write(spectrogram)
        .number(mels)
        .number(parts);
    // SAFETY: as above.
    unsafe { device.launch(&launch, &arguments) }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
