//! One channel of sound from its own rate to 16 kHz, as a stream.

use audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Indexing, Resampler as _};

use crate::SAMPLE_RATE;
use crate::error::DecodeError;

/// Rates that sound is recorded at, with room on both sides. Anything else is a damaged header.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// Streaming conversion of mono f32 samples to 16 kHz. Sample n of the output stands for second n / 16000 of the
/// input: the filter's delay is cut off in front and made up for at the end.
pub struct Resampler {
    rate: u32,
    /// None when the input is at 16 kHz already.
    fft: Option<Fft<f32>>,
    /// Input that does not fill a chunk yet.
    waiting: Vec<f32>,
    chunk_out: Vec<f32>,
    /// Samples of the filter's delay still to be dropped.
    delay: usize,
    taken: u64,
    given: u64,
}

impl Resampler {
    /// Starts a conversion from `rate` Hz.
    pub fn new(rate: u32) -> Result<Resampler, DecodeError> {
        let unsupported = || DecodeError::Unsupported {
            what: format!("a sample rate of {rate} Hz cannot be used"),
            remedy: "export the recording at a rate between 8 and 192 kHz".into(),
        };
        if !RATES.contains(&rate) {
            return Err(unsupported());
        }
        let fft = if rate == SAMPLE_RATE {
            None
        } else {
            let fft = Fft::new_custom(
                rate as usize,
                SAMPLE_RATE as usize,
                block_frames(rate),
                1,
                1,
                rubato::WindowFunction::BlackmanHarris2,
                FixedSync::Both,
            );
            Some(fft.map_err(|_| unsupported())?)
        };
        let delay = fft.as_ref().map_or(0, |f| f.output_delay());
        let chunk_out = vec![0.0; fft.as_ref().map_or(0, |f| f.output_frames_max())];
        Ok(Resampler { rate, fft, waiting: Vec::new(), chunk_out, delay, taken: 0, given: 0 })
    }

    /// The input rate in Hz.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Takes samples and appends to `out` what is ready at 16 kHz.
    pub fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) {
        self.taken += samples.len() as u64;
        if self.fft.is_none() {
            out.extend_from_slice(samples);
            self.given += samples.len() as u64;
            return;
        }
        self.waiting.extend_from_slice(samples);
        let chunk = self.chunk_len();
        let mut used = 0;
        while self.waiting.len() - used >= chunk {
            self.convert(used, chunk, out);
            used += chunk;
        }
        self.waiting.drain(..used);
    }

    /// Appends the rest: afterwards the output is as long as the input was, in time.
    pub fn finish(&mut self, out: &mut Vec<f32>) {
        if self.fft.is_none() {
            return;
        }
        let due = (self.taken * u64::from(SAMPLE_RATE)).div_ceil(u64::from(self.rate));
        let rest = self.waiting.len();
        let start = out.len();
        let before = self.given;
        self.convert(0, rest, out);
        self.waiting.clear();
        while self.given < due {
            self.convert(0, 0, out);
        }
        out.truncate(start + due.saturating_sub(before) as usize);
        self.given = due;
    }

    /// Back to the state of `new`.
    pub fn reset(&mut self) {
        if let Some(fft) = &mut self.fft {
            fft.reset();
            self.delay = fft.output_delay();
        }
        self.waiting.clear();
        self.taken = 0;
        self.given = 0;
    }

    fn chunk_len(&self) -> usize {
        self.fft.as_ref().map_or(1, |f| f.input_frames_next())
    }

    /// Converts `len` waiting samples from `from`, filled up with silence to a chunk.
    fn convert(&mut self, from: usize, len: usize, out: &mut Vec<f32>) {
        let Some(fft) = &mut self.fft else { return };
        let frames_out = self.chunk_out.len();
        let input = InterleavedSlice::new(&self.waiting[from..from + len], 1, len)
            .expect("a slice is as long as it is");
        let mut output = InterleavedSlice::new_mut(&mut self.chunk_out, 1, frames_out)
            .expect("a slice is as long as it is");
        let partial = Indexing::new().partial_len(len);
        let (_, frames) = fft
            .process_into_buffer(&input, &mut output, Some(&partial))
            .expect("both buffers hold the frames that the resampler asked for");
        let skip = self.delay.min(frames);
        self.delay -= skip;
        out.extend_from_slice(&self.chunk_out[skip..frames]);
        self.given += (frames - skip) as u64;
    }
}

/// Frames of input that the filter takes at once: some 1000 or more, for a steep filter, and an even number of the
/// smallest blocks that both rates share, so that its delay (half a block) is a whole number of samples on both sides.
fn block_frames(rate: u32) -> usize {
    let (mut shared, mut rest) = (rate, SAMPLE_RATE);
    while rest > 0 {
        (shared, rest) = (rest, shared % rest);
    }
    let smallest = (rate / shared) as usize;
    smallest * 1024usize.div_ceil(smallest).next_multiple_of(2)
}

#[cfg(test)]
mod tests;
