//! The log-mel spectrogram of openai/whisper: 25 ms Hann windows every 10 ms, 80 or 128 Slaney mel
//! bands, log10 clamped to 8 below the loudest value of the segment, then (x + 4) / 4.

mod spectrum;

use spectrum::{BINS, LANES, SAMPLES, Scratch, Transform};

/// Samples a second that the model hears.
pub const SAMPLE_RATE: usize = 16_000;
/// Samples between neighbouring frames: a frame is 10 ms.
pub const HOP: usize = 160;
/// Frames of a window of the model: 30 s.
pub const WINDOW_FRAMES: usize = 3_000;

/// Computes spectrograms with a fixed number of mel bands.
pub struct Features {
    mels: usize,
    window: [f32; SAMPLES],
    /// For each mel filter the first bin that it covers and its weights from there, so that zeros are not multiplied.
    bands: Vec<(usize, Vec<f32>)>,
    transform: Transform,
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
        let window = std::array::from_fn(|i| {
            (0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / SAMPLES as f64).cos()) as f32
        });
        Features { mels, window, bands: mel_bands(mels), transform: Transform::new() }
    }

    /// For each mel filter the first bin that it covers and its weights from there.
    pub fn bands(&self) -> &[(usize, Vec<f32>)] {
        &self.bands
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
        let mut loudest = [f32::NEG_INFINITY; LANES];
        let mut scratch = Scratch::new();
        let mut bands = vec![[0.0; LANES]; self.mels];
        for first in (0..heard).step_by(LANES) {
            for lane in 0..LANES {
                let frame = &signal[(first + lane) * HOP..][..SAMPLES];
                let pairs = frame.as_chunks::<2>().0.iter().zip(self.window.as_chunks::<2>().0);
                for (to, (samples, weights)) in scratch.samples.iter_mut().zip(pairs) {
                    to[0][lane] = samples[0] * weights[0];
                    to[1][lane] = samples[1] * weights[1];
                }
            }
            spectrum::power(&self.transform, &mut scratch);
            spectrum::bands(&self.bands, &scratch.power, &mut bands);
            let kept = frames.saturating_sub(first).min(LANES);
            for (mel, band) in bands.iter().enumerate() {
                loudest.iter_mut().zip(band).for_each(|(loudest, x)| *loudest = loudest.max(*x));
                if kept > 0 {
                    values[mel * frames + first..][..kept].copy_from_slice(&band[..kept]);
                }
            }
        }
        let loudest = loudest.into_iter().fold(f32::NEG_INFINITY, f32::max);
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

/// Samples as f32 in -1..1, mirrored for half a transform before the first and silent behind the last, long enough for
/// `frames` frames and those that share their transform.
fn padded(pcm: &[i16], frames: usize) -> Vec<f32> {
    let half = SAMPLES / 2;
    let sample = |x: i16| f32::from(x) / 32_768.0;
    let length = frames.next_multiple_of(LANES) * HOP + SAMPLES;
    let mut padded = Vec::with_capacity(length);
    padded.extend((0..half).map(|i| pcm.get(half - i).map_or(0.0, |x| sample(*x))));
    padded.extend(pcm.iter().take(length - half).map(|x| sample(*x)));
    padded.resize(length, 0.0);
    padded
}

/// Slaney's mel filters over 0..8 kHz, each scaled to constant energy: librosa's defaults, which openai
/// stored in its `mel_filters.npz`.
fn mel_bands(mels: usize) -> Vec<(usize, Vec<f32>)> {
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
    let bin_hz = SAMPLE_RATE as f64 / SAMPLES as f64;
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
            (first, (first..end).map(weight).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests;
