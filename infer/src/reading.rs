//! The reading of one segment: windows, language, the ladder of temperatures, timed texts, words, what was skipped.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use crate::backend::DeviceError;
use crate::coverage;
use crate::engine::{Options, Output, Task};
use crate::features::{HOP, SAMPLE_RATE, WINDOW_FRAMES};
use crate::model::{AUDIO_POSITIONS, Dims};
use crate::quality::{self, Quality};
use crate::sampling::Sampling;
use crate::scheduler::{Desk, SlotLease};
use crate::search::{self, Beams, Candidate, Prompt};
use crate::spans::{self, Piece, Span};
use crate::tokens::Tokens;
use crate::{hallucination, languages, trim, words};

/// Windows that one segment may take. Ordinary speech takes one or two; the bound stops a model that
/// moves on by a fraction of a second each time.
const WINDOWS_MAX: usize = 16;

/// Above this temperature a text is no context for the next window.
const CONTEXT_TEMPERATURE_MAX: f32 = 0.5;

/// Tokens that a text has room for, however long its context and prefix.
const TEXT_ROOM_MIN: usize = 32;

/// Milliseconds of one frame.
const FRAME_MS: u64 = 10;

/// What is left behind the last text of a segment and is shorter, in frames, holds no word. Openai reads it as one more
/// window, padded to 30 s, which says nothing or what nobody said.
const REST_FRAMES_MIN: usize = 10;

/// What a reading needs of its model.
pub struct Voice {
    /// Its sizes.
    pub dims: Dims,
    /// Its vocabulary.
    pub tokens: Tokens,
}

impl Voice {
    /// Reads a segment: at most 30 s of 16 kHz mono sound, with options that were checked, in a language that is given
    /// or heard.
    pub async fn read(
        &self,
        desk: &Desk,
        slot: &SlotLease,
        pcm: &Arc<[i16]>,
        options: &Options,
        language: Option<&'static str>,
    ) -> Result<Output, DeviceError> {
        let context = self.context(options);
        let (languages, last_speech_ms, trimmed, reread) = (Vec::new(), 0, 0, 0);
        let segment = Segment {
            voice: self,
            desk,
            slot,
            pcm,
            options,
            language,
            languages,
            context,
            last_speech_ms,
            trimmed,
            reread,
        };
        segment.read().await
    }

    /// The tokens that the first window has as context: what was said before, or the prompt.
    fn context(&self, options: &Options) -> Vec<u32> {
        if let Some(previous) = &options.previous {
            return previous.clone();
        }
        options.prompt.as_deref().map(|prompt| self.spoken(prompt)).unwrap_or_default()
    }

    /// Tokens of a text as it would be spoken: behind a space.
    fn spoken(&self, text: &str) -> Vec<u32> {
        let text = text.trim();
        if text.is_empty() { Vec::new() } else { self.tokens.encode(&format!(" {text}")) }
    }
}

struct Segment<'a> {
    voice: &'a Voice,
    desk: &'a Desk,
    slot: &'a SlotLease,
    pcm: &'a Arc<[i16]>,
    options: &'a Options,
    language: Option<&'static str>,
    /// See [`Output::languages`].
    languages: Vec<(&'static str, f32)>,
    /// Tokens that the next window has as context.
    context: Vec<u32>,
    /// Where the last word so far ended.
    last_speech_ms: u64,
    /// See [`Output::trimmed`] and [`Output::reread`].
    trimmed: usize,
    reread: usize,
}

/// The best text of a window.
struct Window {
    candidate: Candidate,
    quality: Quality,
    temperature: f32,
}

impl Segment<'_> {
    async fn read(mut self) -> Result<Output, DeviceError> {
        let frames = self.pcm.len() / HOP;
        let mut spans = Vec::new();
        let mut seek = 0;
        for window in 0..WINDOWS_MAX {
            if seek >= frames || (window > 0 && frames - seek < REST_FRAMES_MIN) {
                break;
            }
            let (said, next) = self.window(seek, frames, window).await?;
            spans.extend(said);
            seek = next;
        }
        let room = self.voice.dims.text_positions / 2 - 1;
        let context = self.context[self.context.len().saturating_sub(room)..].to_vec();
        let mut gaps = self.gaps(&spans);
        if self.options.reread_gaps && !gaps.is_empty() {
            for gap in &gaps {
                // The context is of the end; a gap is read for itself.
                self.context.clear();
                let before = spans.iter().filter(|span| span.end_ms <= gap.start);
                self.last_speech_ms = before.map(|span| span.end_ms).max().unwrap_or(0);
                let (from, end) = ((gap.start / FRAME_MS) as usize, (gap.end / FRAME_MS) as usize);
                let end = end.min(frames);
                if from < end {
                    let (said, _) = self.window(from, end, WINDOWS_MAX).await?;
                    spans.extend(said);
                }
            }
            spans.sort_by_key(|span| span.start_ms);
            gaps = self.gaps(&spans);
        }
        let coverage = coverage::share(&self.options.speech, &gaps);
        Ok(Output {
            // Nothing was heard of a segment shorter than a frame.
            language: self.language.unwrap_or("en").to_owned(),
            language_probability: self.languages.first().map_or(1.0, |(_, probability)| *probability),
            languages: self.languages,
            spans,
            coverage,
            gaps,
            context,
            trimmed: self.trimmed,
            reread: self.reread,
        })
    }

    fn gaps(&self, spans: &[Span]) -> Vec<Range<u64>> {
        coverage::gaps(&self.options.speech, &times(spans))
    }

    /// Reads one window, of frames from `seek` to `end` at most. Returns its texts and where reading goes on.
    async fn window(
        &mut self,
        seek: usize,
        end: usize,
        number: usize,
    ) -> Result<(Vec<Span>, usize), DeviceError> {
        let frames = (end - seek).min(WINDOW_FRAMES);
        let positions = trim::positions(frames);
        // What was missed once is read with nothing left out.
        if self.options.trim && number < WINDOWS_MAX && positions < AUDIO_POSITIONS {
            let language = self.language;
            if let Some(told) = self.attempt(seek, frames, number, positions).await? {
                self.trimmed += 1;
                return Ok(told);
            }
            self.reread += 1;
            // A language heard in the trimmed window is no better than its text.
            self.language = language;
        }
        let told = self.attempt(seek, frames, number, AUDIO_POSITIONS).await?;
        Ok(told.expect("a whole window always gives a text"))
    }

    /// Reads a window of which so many positions are encoded. `None` where that is not all of it and a guard tripped.
    async fn attempt(
        &mut self,
        seek: usize,
        frames: usize,
        number: usize,
        positions: usize,
    ) -> Result<Option<(Vec<Span>, usize)>, DeviceError> {
        self.slot.encode(self.pcm, seek, frames, positions).await?;
        let language = match self.language {
            Some(language) => language,
            None => self.identify().await?,
        };
        self.language = Some(language);
        match self.descend(language, frames, number, positions).await? {
            Some(window) => self.told(window, seek, frames, positions).await,
            None => Ok(None),
        }
    }

    /// Turns the text of a window into spans. `None` where only part of it was encoded, and speech in it got no text.
    async fn told(
        &mut self,
        window: Window,
        seek: usize,
        frames: usize,
        positions: usize,
    ) -> Result<Option<(Vec<Span>, usize)>, DeviceError> {
        let (options, tokens) = (self.options, &self.voice.tokens);
        if options.thresholds.is_silence(window.quality) {
            return Ok(Some((Vec::new(), seek + frames)));
        }
        let duration_ms = (self.pcm.len() * 1_000 / SAMPLE_RATE) as u64;
        let from_ms = seek as u64 * FRAME_MS;
        let (pieces, mut next) = spans::cut(&window.candidate.tokens, tokens.special, seek, frames);
        let end_ms = (seek + frames) as u64 * FRAME_MS;
        let said = pieces.into_iter().filter_map(|piece| span(tokens, piece, &window, duration_ms));
        let mut said: Vec<Span> = said.collect();
        if positions < AUDIO_POSITIONS && self.misses(&said, seek, next) {
            return Ok(None);
        }
        let is_timed = options.words || options.hallucination_silence_ms.is_some();
        if is_timed && !said.is_empty() {
            let language = self.language.unwrap_or("en");
            let text: Vec<u32> = said
                .iter()
                .flat_map(|span| span.tokens.iter().copied().filter(|t| *t < tokens.special.end))
                .collect();
            let (before, after) = self.frame_of_words(language, &text);
            let alignment = self.slot.align(after).await?;
            let heard = frames.div_ceil(2).min(positions).min(alignment.positions);
            let times = words::align(&alignment, before, heard);
            words::place(tokens, language, &times, from_ms, self.last_speech_ms, &mut said);
        }
        if let Some(threshold_ms) = options.hallucination_silence_ms {
            let window = hallucination::Window {
                start_ms: from_ms,
                end_ms,
                segment_ms: (self.pcm.len() / HOP) as u64 * FRAME_MS,
                last_speech_ms: self.last_speech_ms,
                is_finished: spans::is_finished(&window.candidate.tokens, tokens.special),
                next_ms: next as u64 * FRAME_MS,
            };
            next = (hallucination::skip(window, threshold_ms, &mut said) / FRAME_MS) as usize;
            next = next.max(seek + 1);
        }
        self.last_speech_ms = hallucination::end_of(&said).unwrap_or(self.last_speech_ms);
        if !options.words {
            said.iter_mut().for_each(|span| span.words.clear());
        }
        if !options.condition_on_previous_text || window.temperature > CONTEXT_TEMPERATURE_MAX {
            self.context.clear();
        } else {
            self.context.extend(said.iter().flat_map(|span| span.tokens.iter().copied()));
        }
        Ok(Some((said, next)))
    }

    /// Whether speech of a second and more between two frames got no text.
    fn misses(&self, said: &[Span], from: usize, end: usize) -> bool {
        let (from, end) = (from as u64 * FRAME_MS, end as u64 * FRAME_MS);
        let speech = self.options.speech.iter();
        let speech: Vec<Range<u64>> = speech.map(|part| part.start.max(from)..part.end.min(end)).collect();
        !coverage::gaps(&speech, &times(said)).is_empty()
    }

    /// Asks the model which language it hears.
    async fn identify(&mut self) -> Result<&'static str, DeviceError> {
        let tokens = &self.voice.tokens;
        let among: Rc<[u32]> = tokens.languages.iter().map(|(_, token)| *token).collect();
        let rows = self.desk.rows(1).await;
        rows[0].among(self.slot, tokens.special.start, &among);
        let answer = rows[0].answer().await?;
        let codes = tokens.languages.iter().map(|(code, _)| *code);
        let mut languages: Vec<(&'static str, f32)> =
            codes.zip(&answer.tokens).map(|(code, (_, probability))| (code, *probability)).collect();
        languages.sort_by(|a, b| b.1.total_cmp(&a.1));
        languages.truncate(languages::TOLD);
        self.languages = languages;
        Ok(self.languages.first().map_or("en", |(code, _)| code))
    }

    /// Goes through the temperatures until a result is good enough. `None` where only part of the window was encoded and
    /// the first result is [doubtful](quality::Thresholds::doubt).
    async fn descend(
        &self,
        language: &str,
        frames: usize,
        number: usize,
        positions: usize,
    ) -> Result<Option<Window>, DeviceError> {
        let Voice { tokens, .. } = self.voice;
        let Options { temperatures, best_of, beams, thresholds, .. } = self.options;
        let is_trimmed = positions < AUDIO_POSITIONS;
        let timestamp_max =
            if is_trimmed { frames.div_ceil(2) as u32 } else { Sampling::default().timestamp_max };
        let prompt = self.prompt(language, frames, number == 0);
        let mut best = None;
        for (i, temperature) in temperatures.iter().enumerate() {
            let seed =
                self.options.seed ^ (((number as u64) << 32) | i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let sampling = Sampling {
                temperature: *temperature,
                seed,
                timestamps: self.options.timestamps,
                timestamp_max,
                ..Sampling::default()
            };
            let found = if *temperature > 0.0 {
                search::draw(self.desk, self.slot, &prompt, sampling, *best_of).await?
            } else if *beams > 1 {
                let Options { patience, length_penalty, .. } = *self.options;
                let beams = Beams { size: *beams, patience, length_penalty };
                search::search(self.desk, self.slot, &prompt, sampling, beams).await?
            } else {
                search::draw(self.desk, self.slot, &prompt, sampling, 1).await?
            };
            let candidate = found.best;
            let quality = Quality {
                avg_logprob: candidate.avg_logprob(),
                no_speech_prob: found.no_speech_prob,
                compression_ratio: quality::compression_ratio(tokens.decode(&candidate.tokens).trim()),
                ran_away: candidate.ran_away,
                out_of_room: candidate.out_of_room,
            };
            if is_trimmed && thresholds.doubt(quality) {
                return Ok(None);
            }
            let again = thresholds.ask_again(quality);
            best = Some(Window { candidate, quality, temperature: *temperature });
            if !again {
                break;
            }
        }
        Ok(best)
    }

    /// The tokens that a window's text continues, and the room for it.
    fn prompt(&self, language: &str, frames: usize, is_first: bool) -> Prompt {
        let Voice { tokens, dims } = self.voice;
        let special = tokens.special;
        let half = dims.text_positions / 2;
        let prefix = self.options.prefix.as_deref().filter(|_| is_first).map(|text| self.voice.spoken(text));
        let mut prefix = prefix.unwrap_or_default();
        prefix.truncate(half - 1);
        if !prefix.is_empty() && self.options.timestamps {
            prefix.insert(0, special.first_timestamp);
        }
        let beginning = self.beginning(language);
        let hotwords =
            self.options.hotwords.as_deref().map(|words| self.voice.spoken(words)).unwrap_or_default();
        let mut prompt = Vec::new();
        if !self.context.is_empty() || (!hotwords.is_empty() && prefix.is_empty()) {
            prompt.push(special.previous);
            let text = beginning.len() + prefix.len() + TEXT_ROOM_MIN;
            let room = half.min(dims.text_positions - text);
            if prefix.is_empty() {
                prompt.extend(hotwords.iter().take(room - 1));
            }
            let room = room - prompt.len();
            prompt.extend(&self.context[self.context.len().saturating_sub(room)..]);
        }
        let start = prompt.len();
        prompt.extend(beginning);
        // The last token is sampled and never read, so it takes no position.
        let room = (dims.text_positions + 1 - prompt.len()).min(half.max(prefix.len() + TEXT_ROOM_MIN));
        let limit = self.options.tokens_max.max(prefix.len() + 1).min(room);
        let most = quality::tokens_max(frames as u64 * FRAME_MS) + prefix.len();
        let (tokens_max, is_budget) = (limit.min(most), most < limit);
        Prompt { tokens: prompt.into(), start, prefix, tokens_max, is_budget, end: special.end }
    }

    /// `<|startoftranscript|>`, language and task, and whether there are timestamps.
    fn beginning(&self, language: &str) -> Vec<u32> {
        let tokens = &self.voice.tokens;
        let special = tokens.special;
        let mut beginning = vec![special.start];
        if let Some(token) = tokens.language(language) {
            beginning.push(token);
            beginning.push(match self.options.task {
                Task::Translate => special.translate,
                Task::Transcribe => special.transcribe,
            });
        }
        if !self.options.timestamps {
            beginning.push(special.no_timestamps);
        }
        beginning
    }

    /// The text between its beginning without timestamps and its end, as it is aligned with the sound; and the number of
    /// tokens before the one that predicts the first of the text.
    fn frame_of_words(&self, language: &str, text: &[u32]) -> (usize, Vec<u32>) {
        let special = self.voice.tokens.special;
        let mut framed = self.beginning(language);
        framed.retain(|token| *token != special.no_timestamps);
        let before = framed.len();
        framed.push(special.no_timestamps);
        framed.extend(text);
        framed.push(special.end);
        (before, framed)
    }
}

fn times(spans: &[Span]) -> Vec<Range<u64>> {
    spans.iter().map(|span| span.start_ms..span.end_ms).collect()
}

/// Gives a piece its text; a piece without text or without length is nothing said.
fn span(tokens: &Tokens, piece: Piece, window: &Window, duration_ms: u64) -> Option<Span> {
    let text = tokens.decode(&piece.tokens);
    if text.trim().is_empty() || piece.start_ms == piece.end_ms {
        return None;
    }
    let Quality { avg_logprob, no_speech_prob, compression_ratio, .. } = window.quality;
    Some(Span {
        start_ms: piece.start_ms.min(duration_ms),
        end_ms: piece.end_ms.min(duration_ms),
        text,
        tokens: piece.tokens,
        avg_logprob,
        no_speech_prob,
        compression_ratio,
        temperature: window.temperature,
        words: Vec::new(),
    })
}

#[cfg(test)]
mod tests;
