//! From logits to tokens: openai's filters, greedy choice, seeded sampling, and the decision whether a
//! result is good enough.

use std::io::Write;

use flate2::{Compression, write::ZlibEncoder};

use crate::model::decoder::{Cache, Decoder, Heard, Item};
use crate::model::ops::log_sum_exp;
use crate::tokens::{Special, TIMESTAMPS, Tokens};

/// The latest first timestamp, in steps of 20 ms: speech begins within the first second of a window.
const FIRST_TIMESTAMP_MAX: u32 = 50;

/// What may be sampled next. Filters in openai's order: blanks at the start, suppressed tokens, then the
/// rules of timestamps.
pub struct Rules<'a> {
    special: Special,
    suppressed: &'a [u32],
    suppressed_first: &'a [u32],
    timestamps: bool,
}

impl<'a> Rules<'a> {
    /// The rules of a vocabulary, with or without those of timestamps.
    pub fn new(tokens: &'a Tokens, timestamps: bool) -> Rules<'a> {
        Rules {
            special: tokens.special,
            suppressed: &tokens.suppressed,
            suppressed_first: &tokens.suppressed_first,
            timestamps,
        }
    }

    /// Sets the logits (vocabulary) of what may not follow `sampled` to minus infinity.
    pub fn apply(&self, sampled: &[u32], logits: &mut [f32]) {
        if sampled.is_empty() {
            forbid_each(logits, self.suppressed_first);
        }
        forbid_each(logits, self.suppressed);
        if self.timestamps {
            self.apply_timestamps(sampled, logits);
        }
    }

    fn apply_timestamps(&self, sampled: &[u32], logits: &mut [f32]) {
        let first = self.special.first_timestamp;
        let end = (first + TIMESTAMPS) as usize;
        forbid_each(logits, &[self.special.no_timestamps]);
        forbid(logits, end, usize::MAX);
        let first = first as usize;
        let is_timestamp = |token: &u32| *token as usize >= first;
        let last_is_timestamp = sampled.last().is_some_and(is_timestamp);
        // With fewer than two tokens the one before the last counts as a timestamp: text follows the first.
        let previous_is_timestamp = sampled.len() < 2 || is_timestamp(&sampled[sampled.len() - 2]);
        if last_is_timestamp && previous_is_timestamp {
            forbid(logits, first, usize::MAX);
        } else if last_is_timestamp {
            forbid(logits, 0, self.special.end as usize);
        }
        if let Some(latest) = sampled.iter().rev().find(|token| is_timestamp(token)) {
            // Times do not go back, and a text takes some time: only a start may repeat the end before it.
            let repeats = last_is_timestamp && !previous_is_timestamp;
            forbid(logits, first, *latest as usize + usize::from(!repeats));
        }
        if sampled.is_empty() {
            forbid(logits, 0, first);
            forbid(logits, first + FIRST_TIMESTAMP_MAX as usize + 1, usize::MAX);
        }
        // All timestamps together outweigh the best text: it is time for one. The normaliser of the
        // probabilities is common to both sides, so logits can be compared.
        let (text, times) = logits[..end.min(logits.len())].split_at(first);
        let (text_max, times_max) = (max(text), max(times));
        if times_max.is_finite() && log_sum_exp(times, times_max) > text_max {
            forbid(logits, 0, first);
        }
    }
}

fn forbid(logits: &mut [f32], start: usize, end: usize) {
    let end = end.min(logits.len());
    if start < end {
        logits[start..end].fill(f32::NEG_INFINITY);
    }
}

fn forbid_each(logits: &mut [f32], tokens: &[u32]) {
    for token in tokens {
        logits[*token as usize] = f32::NEG_INFINITY;
    }
}

fn max(logits: &[f32]) -> f32 {
    logits.iter().fold(f32::NEG_INFINITY, |max, x| if *x > max { *x } else { max })
}

/// One text found for a window.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Tokens without prompt and end.
    pub tokens: Vec<u32>,
    /// Sum of the logarithms of the probabilities of the tokens and the end.
    pub sum_logprob: f32,
}

impl Candidate {
    /// Mean logarithm of the probability of a token, the end counted as one.
    pub fn avg_logprob(&self) -> f32 {
        self.sum_logprob / (self.tokens.len() + 1) as f32
    }

    /// How candidates of one window are ranked: the mean over the tokens alone, as openai's ranker has it.
    fn rank(&self) -> f32 {
        self.sum_logprob / self.tokens.len().max(1) as f32
    }
}

/// A prompt that was run once: every temperature of the ladder continues from it.
pub struct Start {
    cache: Cache,
    /// Logits behind the prompt, (vocabulary).
    logits: Vec<f32>,
    positions: usize,
    /// Probability that the window holds no speech, read behind `<|startoftranscript|>` before any filter.
    pub no_speech_prob: f32,
}

impl Start {
    /// Runs a prompt; `start` is the index of `<|startoftranscript|>` in it. There is room for `tokens_max`
    /// tokens behind it.
    pub fn new(
        decoder: &Decoder,
        heard: &Heard,
        prompt: &[u32],
        start: usize,
        no_speech: u32,
        tokens_max: usize,
    ) -> Start {
        let mut cache = decoder.cache(prompt.len() + tokens_max);
        let items: Vec<Item> = prompt
            .iter()
            .enumerate()
            .map(|(position, token)| Item { row: 0, position, token: *token })
            .collect();
        let mut logits = Vec::new();
        decoder.run(heard, &mut cache, &items, &[start, prompt.len() - 1], &mut logits);
        let last = logits.split_off(logits.len() / 2);
        let total = log_sum_exp(&logits, max(&logits));
        let no_speech_prob = (logits[no_speech as usize] - total).exp();
        Start { cache, logits: last, positions: prompt.len(), no_speech_prob }
    }
}

/// Probabilities of some tokens (of languages) behind a lone `<|startoftranscript|>`, among themselves.
pub fn probabilities(decoder: &Decoder, heard: &Heard, start: u32, among: &[u32]) -> Vec<f32> {
    let mut logits = Vec::new();
    decoder.run(
        heard,
        &mut decoder.cache(1),
        &[Item { row: 0, position: 0, token: start }],
        &[0],
        &mut logits,
    );
    let mut chosen: Vec<f32> = among.iter().map(|token| logits[*token as usize]).collect();
    crate::model::ops::softmax(&mut chosen);
    chosen
}

/// How candidates are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// 0 takes the likeliest token each time; above, tokens are sampled.
    pub temperature: f32,
    /// Candidates to draw when sampling, of which the likeliest is kept.
    pub candidates: usize,
    /// Tokens after which a candidate is cut off.
    pub tokens_max: usize,
}

/// Continues a prompt until its end and returns the likeliest candidate.
pub fn decode(
    decoder: &Decoder,
    heard: &Heard,
    start: &Start,
    rules: &Rules,
    draw: Draw,
    random: &mut Random,
) -> Candidate {
    let rows = if draw.temperature > 0.0 { draw.candidates.max(1) } else { 1 };
    let mut cache = start.cache.spread(rows, start.positions);
    let mut candidates = vec![Candidate { tokens: Vec::new(), sum_logprob: 0.0 }; rows];
    let mut logits = start.logits.repeat(rows);
    let mut open: Vec<usize> = (0..rows).collect();
    for step in 0..draw.tokens_max {
        let mut items = Vec::with_capacity(open.len());
        let vocabulary = start.logits.len();
        for (row, logits) in open.iter().zip(logits.chunks_exact_mut(vocabulary)) {
            let candidate = &mut candidates[*row];
            rules.apply(&candidate.tokens, logits);
            let (token, logprob) = choose(logits, draw.temperature, rules.special.end, random);
            candidate.sum_logprob += logprob;
            if token != rules.special.end {
                candidate.tokens.push(token);
                items.push(Item { row: *row, position: start.positions + step, token });
            }
        }
        if items.is_empty() || step + 1 == draw.tokens_max {
            break;
        }
        let wanted: Vec<usize> = (0..items.len()).collect();
        decoder.run(heard, &mut cache, &items, &wanted, &mut logits);
        open = items.iter().map(|item| item.row).collect();
    }
    candidates
        .into_iter()
        .reduce(|best, next| if next.rank() > best.rank() { next } else { best })
        .expect("at least one row was drawn")
}

/// Picks a token from filtered logits and gives its logarithmic probability at temperature 1.
fn choose(logits: &[f32], temperature: f32, end: u32, random: &mut Random) -> (u32, f32) {
    let likeliest =
        logits.iter().enumerate().fold(end as usize, |best, (i, x)| if *x > logits[best] { i } else { best });
    let max = logits[likeliest];
    if !max.is_finite() {
        return (end, 0.0);
    }
    let total = log_sum_exp(logits, max);
    let token = if temperature > 0.0 {
        sample(logits, max, temperature, random).unwrap_or(likeliest)
    } else {
        likeliest
    };
    (token as u32, logits[token] - total)
}

/// Draws an index with probability proportional to exp(logit / temperature).
fn sample(logits: &[f32], max: f32, temperature: f32, random: &mut Random) -> Option<usize> {
    let weight = |x: f32| f64::from((x - max) / temperature).exp();
    let total: f64 = logits.iter().map(|x| weight(*x)).sum();
    let mut rest = random.unit() * total;
    logits.iter().position(|x| {
        rest -= weight(*x);
        rest < 0.0
    })
}

/// Random numbers of which a seed says all: SplitMix64. The same seed must give the same text for as long
/// as transcripts are compared, so the generator is no dependency's choice.
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number in 0..1.
    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

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
    /// See [`Candidate::avg_logprob`].
    pub avg_logprob: f32,
    /// See [`Start::no_speech_prob`].
    pub no_speech_prob: f32,
    /// See [`compression_ratio`].
    pub compression_ratio: f32,
}

impl Thresholds {
    /// Whether the next temperature should be tried: the text repeats itself or is guessed, and is not
    /// simply silence.
    pub fn ask_again(&self, quality: Quality) -> bool {
        let repeats = self.compression_ratio.is_some_and(|bound| quality.compression_ratio > bound);
        let guessed = self.avg_logprob.is_some_and(|bound| quality.avg_logprob < bound);
        let silent = self.no_speech.is_some_and(|bound| quality.no_speech_prob > bound);
        (repeats || guessed) && !(silent && guessed)
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

#[cfg(test)]
mod tests;
