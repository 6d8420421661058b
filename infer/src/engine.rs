//! Transcribes one segment: spectrogram, windows, language, the ladder of temperatures, timed texts.

use std::path::Path;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::features::{Features, SAMPLE_RATE, WINDOW_FRAMES};
use crate::model::{LoadError, Model, decoder::Heard, weights::Weights};
use crate::models::{self, ModelInfo};
use crate::search::{self, Candidate, Draw, Quality, Random, Rules, Start, Thresholds};
use crate::spans::{self, Piece};
use crate::tokens::{Tokens, language_code};

/// The longest segment: what one window of the model holds.
pub const SEGMENT_SAMPLES_MAX: usize = 30 * SAMPLE_RATE;

/// Windows that one segment may take. Ordinary speech takes one or two; the bound stops a model that
/// moves on by a fraction of a second each time.
const WINDOWS_MAX: usize = 16;

/// Above this temperature a text is no context for the next window.
const CONTEXT_TEMPERATURE_MAX: f32 = 0.5;

/// A loaded model, ready to transcribe segments from any number of threads.
pub struct Engine {
    info: ModelInfo,
    model: Model,
    tokens: Tokens,
    features: Features,
    pool: ThreadPool,
}

/// What is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Task {
    /// Speech in its own language.
    #[default]
    Transcribe,
    /// Speech put into English.
    Translate,
}

/// How a segment is transcribed. The defaults are openai's.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// What is written down.
    pub task: Task,
    /// Code or English name of the spoken language; `None` lets the model say, from the first window.
    pub language: Option<String>,
    /// Text that comes before the segment, or words to expect in it.
    pub prompt: Option<String>,
    /// Temperatures tried in turn until a result is good enough; the last one's result is kept anyway.
    pub temperatures: Vec<f32>,
    /// Candidates drawn at temperatures above 0, of which the likeliest is kept.
    pub candidates: usize,
    /// Whether the model times its text. Without, a segment is one span.
    pub timestamps: bool,
    /// Whether the text of a window is the context of the next one in the same segment.
    pub condition_on_previous_text: bool,
    /// When a result is not good enough.
    pub thresholds: Thresholds,
    /// Tokens a window may take; half the model's positions (224) at most.
    pub tokens_max: usize,
    /// Fixes what is drawn at temperatures above 0.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            task: Task::Transcribe,
            language: None,
            prompt: None,
            temperatures: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            candidates: 5,
            timestamps: true,
            condition_on_previous_text: true,
            thresholds: Thresholds::default(),
            tokens_max: 224,
            seed: 0,
        }
    }
}

/// The text of a segment.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Code of the language that was spoken.
    pub language: String,
    /// How sure the model is of it; 1 where it was given.
    pub language_probability: f32,
    /// Timed texts in order; none when the segment is silent.
    pub spans: Vec<Span>,
}

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
}

/// Why a segment cannot be transcribed as asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The segment does not fit a window.
    #[error(
        "a segment holds at most 30 s of 16 kHz sound, and this one is {seconds:.1} s long: cut it first"
    )]
    TooLong {
        /// Its length.
        seconds: f64,
    },
    /// The model has no such language.
    #[error("model {model} does not know the language {language:?}; it knows {known}")]
    UnknownLanguage {
        /// The model's name.
        model: String,
        /// What was asked for.
        language: String,
        /// What may be asked for.
        known: String,
    },
    /// An English-only model was asked to translate.
    #[error("model {model} is English-only and cannot translate: use a multilingual model")]
    CannotTranslate {
        /// The model's name.
        model: String,
    },
    /// An option has no sensible meaning.
    #[error("{0}")]
    BadOption(String),
}

impl Engine {
    /// Loads the model of a folder (CTranslate2 or Hugging Face safetensors). Work on a segment is shared by
    /// `threads` threads; 0 means one for each processor.
    pub fn load(folder: &Path, threads: usize) -> Result<Engine, LoadError> {
        let weights = Weights::open(folder)?;
        let model = Model::load(&weights)?;
        let tokens = Tokens::load(folder, weights.format(), model.dims.vocabulary)?;
        let info = models::info(folder, &weights)?;
        let pool =
            ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("whisper-{i}")).build();
        let pool = pool.map_err(|error| LoadError::io(folder, std::io::Error::other(error)))?;
        Ok(Engine { info, features: Features::new(model.dims.mels), model, tokens, pool })
    }

    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Checks options against the model without transcribing: what [`Engine::transcribe`] would refuse.
    pub fn check(&self, options: &Options) -> Result<(), Error> {
        let Options { temperatures, tokens_max, candidates, .. } = options;
        if temperatures.is_empty() || temperatures.iter().any(|t| !(0.0..=2.0).contains(t)) {
            return Err(Error::BadOption(format!(
                "temperatures are 0 to 2, at least one of them, not {temperatures:?}"
            )));
        }
        if !(1..=64).contains(candidates) || *tokens_max == 0 {
            return Err(Error::BadOption("at least one token, and 1 to 64 candidates, are needed".into()));
        }
        if options.task == Task::Translate && !self.info.multilingual {
            return Err(Error::CannotTranslate { model: self.info.name.clone() });
        }
        self.given_language(options).map(|_| ())
    }

    /// Transcribes a segment: at most 30 s of 16 kHz mono sound.
    pub fn transcribe(&self, pcm: &[i16], options: &Options) -> Result<Output, Error> {
        if pcm.len() > SEGMENT_SAMPLES_MAX {
            return Err(Error::TooLong { seconds: pcm.len() as f64 / SAMPLE_RATE as f64 });
        }
        self.check(options)?;
        let language = self.given_language(options)?;
        Ok(self.pool.install(|| Segment::new(self, options, language).read(pcm)))
    }

    /// The language asked for, if any, as this model's code.
    fn given_language(&self, options: &Options) -> Result<Option<&'static str>, Error> {
        if !self.info.multilingual && options.language.is_none() {
            return Ok(Some("en"));
        }
        let Some(language) = &options.language else { return Ok(None) };
        let known = &self.info.languages;
        match language_code(language).filter(|code| known.contains(code)) {
            Some(code) => Ok(Some(code)),
            None => Err(Error::UnknownLanguage {
                model: self.info.name.clone(),
                language: language.clone(),
                known: known.join(" "),
            }),
        }
    }
}

/// The reading of one segment.
struct Segment<'a> {
    engine: &'a Engine,
    options: &'a Options,
    language: Option<&'static str>,
    language_probability: f32,
    random: Random,
    /// Tokens that the next window has as context.
    context: Vec<u32>,
}

/// The best text of a window.
struct Window {
    candidate: Candidate,
    quality: Quality,
    temperature: f32,
}

impl<'a> Segment<'a> {
    fn new(engine: &'a Engine, options: &'a Options, language: Option<&'static str>) -> Segment<'a> {
        let prompt = options.prompt.as_deref().map(str::trim).filter(|prompt| !prompt.is_empty());
        let context = prompt.map(|prompt| engine.tokens.encode(&format!(" {prompt}"))).unwrap_or_default();
        Segment {
            engine,
            options,
            language,
            language_probability: 1.0,
            random: Random::new(options.seed),
            context,
        }
    }

    fn read(mut self, pcm: &[i16]) -> Output {
        let Engine { model, features, tokens, .. } = self.engine;
        let mel = features.compute(pcm);
        let duration_ms = (pcm.len() * 1_000 / SAMPLE_RATE) as u64;
        let mut spans = Vec::new();
        let mut seek = 0;
        for _ in 0..WINDOWS_MAX {
            if seek >= mel.frames() {
                break;
            }
            let frames = (mel.frames() - seek).min(WINDOW_FRAMES);
            let heard = model.decoder.hear(&model.encoder.encode(&mel.window(seek)));
            let language = self.language.unwrap_or_else(|| self.identify(&heard));
            self.language = Some(language);
            let window = self.descend(&heard, language);
            if self.options.thresholds.is_silence(window.quality) {
                seek += frames;
                continue;
            }
            let (pieces, next) = spans::cut(&window.candidate.tokens, tokens.special, seek, frames);
            let said = pieces.into_iter().filter_map(|piece| span(tokens, piece, &window, duration_ms));
            let first = spans.len();
            spans.extend(said);
            if !self.options.condition_on_previous_text || window.temperature > CONTEXT_TEMPERATURE_MAX {
                self.context.clear();
            } else {
                self.context
                    .extend(spans[first..].iter().flat_map(|span: &Span| span.tokens.iter().copied()));
            }
            seek = next;
        }
        Output {
            // Nothing was heard of a segment shorter than a frame.
            language: self.language.unwrap_or("en").to_owned(),
            language_probability: self.language_probability,
            spans,
        }
    }

    /// Asks the model which language it hears.
    fn identify(&mut self, heard: &Heard) -> &'static str {
        let Engine { model, tokens, .. } = self.engine;
        let among: Vec<u32> = tokens.languages.iter().map(|(_, token)| *token).collect();
        let probabilities = search::probabilities(&model.decoder, heard, tokens.special.start, &among);
        let likeliest = tokens.languages.iter().zip(probabilities).max_by(|a, b| a.1.total_cmp(&b.1));
        let ((code, _), probability) =
            likeliest.map_or((("en", 0), 1.0), |(language, probability)| (*language, probability));
        self.language_probability = probability;
        code
    }

    /// Goes through the temperatures until a result is good enough.
    fn descend(&mut self, heard: &Heard, language: &str) -> Window {
        let Engine { model, tokens, .. } = self.engine;
        let Options { temperatures, candidates, tokens_max, timestamps, thresholds, .. } = self.options;
        let (prompt, start) = self.prompt(language);
        let room = model.dims.text_positions - prompt.len();
        let tokens_max = (*tokens_max).min(model.dims.text_positions / 2).min(room);
        let start = Start::new(&model.decoder, heard, &prompt, start, tokens.special.no_speech, tokens_max);
        let rules = Rules::new(tokens, *timestamps);
        let mut best = None;
        for temperature in temperatures {
            let draw = Draw { temperature: *temperature, candidates: *candidates, tokens_max };
            let candidate = search::decode(&model.decoder, heard, &start, &rules, draw, &mut self.random);
            let quality = Quality {
                avg_logprob: candidate.avg_logprob(),
                no_speech_prob: start.no_speech_prob,
                compression_ratio: search::compression_ratio(tokens.decode(&candidate.tokens).trim()),
            };
            best = Some(Window { candidate, quality, temperature: *temperature });
            if !thresholds.ask_again(quality) {
                break;
            }
        }
        best.expect("check() refuses an empty list of temperatures")
    }

    /// The tokens that a window's text continues, and the place of `<|startoftranscript|>` among them.
    fn prompt(&self, language: &str) -> (Vec<u32>, usize) {
        let Engine { model, tokens, .. } = self.engine;
        let special = tokens.special;
        let context_max = model.dims.text_positions / 2 - 1;
        let mut prompt = Vec::new();
        if !self.context.is_empty() {
            prompt.push(special.previous);
            prompt.extend(&self.context[self.context.len().saturating_sub(context_max)..]);
        }
        let start = prompt.len();
        prompt.push(special.start);
        if let Some(token) = tokens.language(language) {
            prompt.push(token);
            prompt.push(if self.options.task == Task::Translate {
                special.translate
            } else {
                special.transcribe
            });
        }
        if !self.options.timestamps {
            prompt.push(special.no_timestamps);
        }
        (prompt, start)
    }
}

/// Gives a piece its text; a piece without text or without length is nothing said.
fn span(tokens: &Tokens, piece: Piece, window: &Window, duration_ms: u64) -> Option<Span> {
    let text = tokens.decode(&piece.tokens);
    if text.trim().is_empty() || piece.start_ms == piece.end_ms {
        return None;
    }
    let Quality { avg_logprob, no_speech_prob, compression_ratio } = window.quality;
    Some(Span {
        start_ms: piece.start_ms.min(duration_ms),
        end_ms: piece.end_ms.min(duration_ms),
        text,
        tokens: piece.tokens,
        avg_logprob,
        no_speech_prob,
        compression_ratio,
        temperature: window.temperature,
    })
}

#[cfg(test)]
pub(crate) mod tests;
