//! Whether a text can be believed: openai's thresholds, and what ends a text that runs away.

use std::io::Write;

use flate2::{Compression, write::ZlibEncoder};

/// Bounds beyond which a result is not believed; `None` switches a test off. The defaults are openai's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// Above this the text repeats itself.
    pub compression_ratio: Option<f32>,
    /// Below this mean logarithmic probability the text is guessed.
    pub avg_logprob: Option<f32>,
    /// Above this probability of no speech a guessed text is silence.
    pub no_speech: Option<f32>,
}

impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds { compression_ratio: Some(2.4), avg_logprob: Some(-1.0), no_speech: Some(0.6) }
    }
}

/// What a result is judged by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Mean logarithm of the probability of a token, the end counted as one.
    pub avg_logprob: f32,
    /// Probability that the window holds no speech, behind `<|startoftranscript|>` before any filter.
    pub no_speech_prob: f32,
    /// See [`compression_ratio`].
    pub compression_ratio: f32,
    /// Whether the text was ended because it ran away: see [`runs_away`].
    pub ran_away: bool,
    /// Whether the text had no room left to end in: see [`tokens_max`].
    pub out_of_room: bool,
}

impl Thresholds {
    /// Whether the next temperature should be tried: the text ran away, repeats itself or is guessed, and is not
    /// simply silence.
    pub fn ask_again(&self, quality: Quality) -> bool {
        let repeats = self.compression_ratio.is_some_and(|bound| quality.compression_ratio > bound);
        let guessed = self.avg_logprob.is_some_and(|bound| quality.avg_logprob < bound);
        let silent = self.no_speech.is_some_and(|bound| quality.no_speech_prob > bound);
        (quality.ran_away || repeats || guessed) && !(silent && guessed)
    }

    /// Whether the text of a window that was not encoded whole may be the fault of that: any test fails, silence was
    /// heard, or the text found no end.
    pub fn doubt(&self, quality: Quality) -> bool {
        self.ask_again(quality) || self.is_silence(quality) || quality.out_of_room
    }

    /// Whether the window is silence, whatever text was found in it.
    pub fn is_silence(&self, quality: Quality) -> bool {
        let silent = self.no_speech.is_some_and(|bound| quality.no_speech_prob > bound);
        let sure = self.avg_logprob.is_some_and(|bound| quality.avg_logprob > bound);
        silent && !sure
    }
}

/// Bytes of a text over bytes of its zlib form: high when it repeats itself.
pub fn compression_ratio(text: &str) -> f32 {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(text.as_bytes()).expect("a vector takes any number of bytes");
    let compressed = encoder.finish().expect("a vector takes any number of bytes");
    text.len() as f32 / compressed.len() as f32
}

/// Longest run of tokens whose repetition is looked for.
const PERIOD_MAX: usize = 24;
/// Repetitions of a run that nobody says, and tokens they have at least.
const REPEATS: usize = 6;
const REPEATED_MIN: usize = 30;

/// Whether the end of a text goes round in a circle: a run of tokens six times in a row, 30 tokens at least. Returns
/// the length of the run. Nothing but the room for tokens would end such a text.
pub fn runs_away(tokens: &[u32]) -> Option<usize> {
    (1..=PERIOD_MAX).find(|period| {
        let length = (period * REPEATS).max(REPEATED_MIN);
        tokens.len() >= length
            && tokens[tokens.len() - length..].windows(period + 1).all(|window| window[0] == window[*period])
    })
}

/// Tokens that so much sound may take: no language is spoken at 30 tokens a second, and a text that is longer ran away.
pub fn tokens_max(sound_ms: u64) -> usize {
    16 + (sound_ms * 30 / 1_000) as usize
}

#[cfg(test)]
mod tests;
