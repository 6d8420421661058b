//! From a window's tokens to timed texts, and to the place where the next window begins: openai's rule.

use crate::tokens::Special;

/// Milliseconds of one timestamp step.
const STEP_MS: u64 = 20;
/// Milliseconds of one frame.
const FRAME_MS: u64 = 10;
/// Frames of one timestamp step.
const STEP_FRAMES: usize = 2;

/// A timed text.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Start from the segment's start.
    pub start_ms: u64,
    /// End from the segment's start; never beyond the segment.
    pub end_ms: u64,
    /// The text; a leading space is part of it.
    pub text: String,
    /// Its tokens, timestamps included.
    pub tokens: Vec<u32>,
    /// Mean logarithm of the probability of a token of the window.
    pub avg_logprob: f32,
    /// Probability that the window holds no speech.
    pub no_speech_prob: f32,
    /// Bytes of the window's text over bytes of its zlib form.
    pub compression_ratio: f32,
    /// Temperature at which the window's text was accepted.
    pub temperature: f32,
    /// Its words with their times, where they were asked for.
    pub words: Vec<Word>,
}

/// A word with its time.
#[derive(Debug, Clone, PartialEq)]
pub struct Word {
    /// Start from the segment's start.
    pub start_ms: u64,
    /// End from the segment's start.
    pub end_ms: u64,
    /// The word with what stands around it: a leading space, punctuation.
    pub text: String,
    /// Mean probability of its tokens.
    pub probability: f32,
}

/// A run of tokens between two timestamps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Start within the segment.
    pub start_ms: u64,
    /// End within the segment.
    pub end_ms: u64,
    /// Tokens with their timestamps.
    pub tokens: Vec<u32>,
}

/// Cuts the tokens of a window that begins at frame `seek` and holds `frames` frames of sound. Returns the
/// pieces and the frame at which reading goes on.
///
/// Two timestamps in a row end one piece and begin the next. A lone timestamp at the end says that nothing
/// is spoken behind it; without it, what stands behind the last pair is unfinished and is read again.
pub fn cut(tokens: &[u32], special: Special, seek: usize, frames: usize) -> (Vec<Piece>, usize) {
    let steps = |token: u32| u64::from(token.saturating_sub(special.first_timestamp));
    let is_timestamp = |token: u32| token >= special.first_timestamp;
    let ends_alone = is_finished(tokens, special);
    let offset_ms = seek as u64 * FRAME_MS;
    let mut ends: Vec<usize> =
        (1..tokens.len()).filter(|i| is_timestamp(tokens[i - 1]) && is_timestamp(tokens[*i])).collect();
    if ends.is_empty() {
        let last = tokens.iter().rev().find(|token| is_timestamp(**token)).map_or(0, |token| steps(*token));
        let length_ms = if last > 0 { last * STEP_MS } else { frames as u64 * FRAME_MS };
        let piece = Piece { start_ms: offset_ms, end_ms: offset_ms + length_ms, tokens: tokens.to_owned() };
        return (vec![piece], seek + frames);
    }
    if ends_alone {
        ends.push(tokens.len());
    }
    let mut pieces = Vec::new();
    let mut begin = 0;
    for end in ends {
        let tokens = &tokens[begin..end];
        pieces.push(Piece {
            start_ms: offset_ms + steps(tokens[0]) * STEP_MS,
            end_ms: offset_ms + steps(tokens[tokens.len() - 1]) * STEP_MS,
            tokens: tokens.to_owned(),
        });
        begin = end;
    }
    // The last pair's first half is where the unread sound begins; a step of at least one keeps it moving.
    let next =
        if ends_alone { frames } else { (steps(tokens[begin - 1]) as usize * STEP_FRAMES).max(STEP_FRAMES) };
    (pieces, seek + next)
}

/// Whether a lone timestamp at the end says that nothing is spoken behind it.
pub fn is_finished(tokens: &[u32], special: Special) -> bool {
    let is_timestamp = |token: u32| token >= special.first_timestamp;
    matches!(tokens, [.., before, last] if !is_timestamp(*before) && is_timestamp(*last))
}

#[cfg(test)]
mod tests;
