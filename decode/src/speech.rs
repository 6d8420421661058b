//! How likely each frame of 16 ms is speech, in recordings loud or faint.

pub mod level;
mod product;
pub mod silero;

use crate::segment::FRAME_SAMPLES;

use self::level::Leveler;
use self::silero::{Silero, WINDOW_SAMPLES, WINDOWS};

/// What a frame sounds like.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Frame {
    /// Probability of speech, 0 to 1.
    pub speech: f32,
    /// Loudness in decibels below full scale (rms, above 100 Hz); -100 for silence.
    pub level_db: f32,
}

/// Samples that the detector hears at once: two frames, which get the same probability.
pub const HEARD_SAMPLES: usize = WINDOW_SAMPLES;
/// Samples that are best given at once, for speed.
pub const BATCH_SAMPLES: usize = WINDOWS * HEARD_SAMPLES;

/// Frames in what is heard at once.
const FRAMES: usize = HEARD_SAMPLES / FRAME_SAMPLES;

/// A speech detector: Silero's network with automatic gain in front. Its answers depend on all it has heard.
#[derive(Default)]
pub struct Detector {
    leveler: Leveler,
    network: Silero,
    /// What the network is given, and what it said.
    raised: Vec<[f32; HEARD_SAMPLES]>,
    probabilities: Vec<f32>,
}

impl Detector {
    /// Listens to the next sound at 16 kHz, a multiple of 512 samples (what is over is not heard), and appends its
    /// frames. However the sound is divided, the frames are the same.
    pub fn listen(&mut self, sound: &[i16], frames: &mut Vec<Frame>) {
        let (windows, _) = sound.as_chunks::<HEARD_SAMPLES>();
        let first = frames.len();
        self.raised.resize(windows.len(), [0.0; HEARD_SAMPLES]);
        for (window, raised) in windows.iter().zip(&mut self.raised) {
            let halves = window.as_chunks::<FRAME_SAMPLES>().0.iter();
            for (half, raised) in halves.zip(raised.as_chunks_mut::<FRAME_SAMPLES>().0) {
                let level_db = self.leveler.raise(half, raised);
                frames.push(Frame { speech: 0.0, level_db });
            }
        }
        self.probabilities.clear();
        self.network.listen(&self.raised, &mut self.probabilities);
        for (frames, probability) in frames[first..].chunks_exact_mut(FRAMES).zip(&self.probabilities) {
            frames.iter_mut().for_each(|frame| frame.speech = *probability);
        }
    }
}

#[cfg(test)]
mod tests;
