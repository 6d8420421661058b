//! The log-mel spectrogram of openai/whisper: 25 ms Hann windows every 10 ms, 80 or 128 Slaney mel
//! bands, log10 clamped to 8 below the loudest value of the segment, then (x + 4) / 4.

use std::sync::Arc;

use realfft::{RealFftPlanner, RealToComplex, num_complex::Complex32};

/// Samples a second that the model hears.
pub const SAMPLE_RATE: usize = 16_000;
/// Samples between neighbouring frames: a frame is 10 ms.
pub const HOP: usize = 160;
/// Frames of a window of the model: 30 s.
pub const WINDOW_FRAMES: usize = 3_000;

/// Samples under one Fourier transform: 25 ms.
const FFT: usize = 400;
const BINS: usize = FFT / 2 + 1;

/// Computes spectrograms with a fixed number of mel bands.
pub struct Features {
    mels: usize,
    window: Vec<f32>,
    bands: Vec<Band>,
    fft: Arc<dyn RealToComplex<f32>>,
}

/// One mel filter: the bins it covers, so that zeros are not multiplied.
struct Band {
    first: usize,
    weights: Vec<f32>,
}

/// Frames of one segment.
pub struct Mel {
    /// Values, (mels, frames).
    values: Vec<f32>,
    frames: usize,
}

impl Features {
    /// Prepares filters for `mels` bands (80, or 128 for large-v3 and turbo).
    pub fn new(mels: usize) -> Features {
        let window = (0..FFT)
            .map(|i| (0.5 - 0.5 * (2.0 * std::f64::consts::PI * i as f64 / FFT as f64).cos()) as f32)
            .collect();
        Features { mels, window, bands: mel_bands(mels), fft: RealFftPlanner::new().plan_fft_forward(FFT) }
    }

    /// Computes the frames that lie wholly inside the samples' duration: one for each full 10 ms.
    ///
    /// The signal is mirrored at its start and continues as silence at its end, as in openai's
    /// transcription of a whole file.
    pub fn compute(&self, pcm: &[i16]) -> Mel {
        let frames = pcm.len() / HOP;
        // One frame more takes part in the maximum: it hears the last samples.
        let heard = frames + 1;
        let signal = padded(pcm, heard);
        let mut values = vec![0.0; self.mels * frames];
        let mut loudest = f32::NEG_INFINITY;
        let mut input = self.fft.make_input_vec();
        let mut spectrum = self.fft.make_output_vec();
        let mut scratch = self.fft.make_scratch_vec();
        let mut power = [0.0f32; BINS];
        for frame in 0..heard {
            for ((x, sample), weight) in input.iter_mut().zip(&signal[frame * HOP..]).zip(&self.window) {
                *x = sample * weight;
            }
            self.fft
                .process_with_scratch(&mut input, &mut spectrum, &mut scratch)
                .expect("the buffers were made by this plan");
            power.iter_mut().zip(&spectrum).for_each(|(power, bin): (_, &Complex32)| *power = bin.norm_sqr());
            for (mel, band) in self.bands.iter().enumerate() {
                let energy: f32 =
                    band.weights.iter().zip(&power[band.first..]).map(|(weight, power)| weight * power).sum();
                let value = energy.max(1e-10).log10();
                loudest = loudest.max(value);
                if frame < frames {
                    values[mel * frames + frame] = value;
                }
            }
        }
        values.iter_mut().for_each(|x| *x = (x.max(loudest - 8.0) + 4.0) / 4.0);
        Mel { values, frames }
    }
}

impl Mel {
    /// Number of 10 ms frames.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Values, (mels, frames).
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Copies `frames` frames from `start` on into a window of 30 s, (mels, [`WINDOW_FRAMES`]). Beyond the last
    /// frame it holds 0, as openai's does: the weights were trained and are run that way.
    pub fn window(&self, start: usize, frames: usize) -> Vec<f32> {
        let mels = self.values.len().checked_div(self.frames).unwrap_or(0);
        let mut window = vec![0.0; mels * WINDOW_FRAMES];
        let start = start.min(self.frames);
        let count = (self.frames - start).min(frames).min(WINDOW_FRAMES);
        for mel in 0..mels {
            window[mel * WINDOW_FRAMES..][..count]
                .copy_from_slice(&self.values[mel * self.frames + start..][..count]);
        }
        window
    }
}

/// Samples as f32 in -1..1, mirrored for half a transform before the first and silent behind the last,
/// long enough for `frames` frames.
fn padded(pcm: &[i16], frames: usize) -> Vec<f32> {
    let half = FFT / 2;
    let sample = |i: usize| pcm.get(i).map_or(0.0, |x| f32::from(*x) / 32_768.0);
    let length = frames * HOP + FFT;
    (0..length).map(|i| sample(i.abs_diff(half))).collect()
}

/// Slaney's mel filters over 0..8 kHz, each scaled to constant energy: librosa's defaults, which openai
/// stored in its `mel_filters.npz`.
fn mel_bands(mels: usize) -> Vec<Band> {
    const HZ_PER_MEL: f64 = 200.0 / 3.0;
    const LOG_START_HZ: f64 = 1_000.0;
    const LOG_START_MEL: f64 = LOG_START_HZ / HZ_PER_MEL;
    let log_step = 6.4f64.ln() / 27.0;
    let hz = |mel: f64| {
        if mel < LOG_START_MEL {
            mel * HZ_PER_MEL
        } else {
            LOG_START_HZ * (log_step * (mel - LOG_START_MEL)).exp()
        }
    };
    let top = LOG_START_MEL + (SAMPLE_RATE as f64 / 2.0 / LOG_START_HZ).ln() / log_step;
    let edges: Vec<f64> = (0..mels + 2).map(|i| hz(top * i as f64 / (mels + 1) as f64)).collect();
    let bin_hz = SAMPLE_RATE as f64 / FFT as f64;
    edges
        .windows(3)
        .map(|edge| {
            let weight = |bin: usize| {
                let hz = bin as f64 * bin_hz;
                let rise = (hz - edge[0]) / (edge[1] - edge[0]);
                let fall = (edge[2] - hz) / (edge[2] - edge[1]);
                (rise.min(fall).max(0.0) * 2.0 / (edge[2] - edge[0])) as f32
            };
            let first = (0..BINS).find(|bin| weight(*bin) > 0.0).unwrap_or(0);
            let end = (first..BINS).rev().find(|bin| weight(*bin) > 0.0).map_or(first, |bin| bin + 1);
            Band { first, weights: (first..end).map(weight).collect() }
        })
        .collect()
}

#[cfg(test)]
mod tests;
