//! A loaded model: segments in, their texts out, any number at once.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{Either, select};

use crate::backend::{DeviceError, Report};
use crate::cpu::Precision;
use crate::cuda::Form;
use crate::devices::{self, Place};
use crate::features::SAMPLE_RATE;
use crate::model::weights::Weights;
use crate::model::{self, LoadError};
use crate::models::{self, ModelInfo};
use crate::quality::Thresholds;
use crate::reading::Voice;
use crate::sampling::Rules;
use crate::scheduler::{Scheduler, Urgency};
use crate::spans::Span;
use crate::tokens::{Tokens, language_code};

/// The longest segment: what one window of the model holds.
pub const SEGMENT_SAMPLES_MAX: usize = 30 * SAMPLE_RATE;

/// Candidates and beams there may be at once.
pub const CANDIDATES_MAX: usize = 16;

/// A loaded model, ready to transcribe segments from any number of threads.
pub struct Engine {
    info: ModelInfo,
    report: Report,
    voice: Arc<Voice>,
    scheduler: Scheduler,
}

/// How a model is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// Where.
    pub place: Place,
    /// Form of the weights, and of the arithmetic; on a GPU bf16 where it is that, else f16.
    pub precision: Precision,
    /// Threads that share the work; 0 means one for each processor.
    pub threads: usize,
    /// Segments under way at once.
    pub segments: usize,
    /// How a GPU keeps the sound that a segment hears.
    pub sound: Form,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { place: Place::Cpu, precision: Precision::Int8, threads: 0, segments: 8, sound: Form::Whole }
    }
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
    /// The end of the text before the segment, as the one before it [left](Output::context) it; instead of the prompt,
    /// which stood before the first one.
    pub previous: Option<Vec<u32>>,
    /// Words and names to expect, before the prompt in each window.
    pub hotwords: Option<String>,
    /// What the first window's text begins with.
    pub prefix: Option<String>,
    /// Temperatures tried in turn until a result is good enough; the last one's result is kept anyway.
    pub temperatures: Vec<f32>,
    /// Beams at temperature 0, 1 to [`CANDIDATES_MAX`]; 1 takes the likeliest token each time.
    pub beams: usize,
    /// Texts to find before a search with beams ends, as a multiple of the beams.
    pub patience: f32,
    /// Ranks texts of different length: see [`crate::search::Beams`].
    pub length_penalty: Option<f32>,
    /// Texts drawn at temperatures above 0, of which the likeliest is kept, 1 to [`CANDIDATES_MAX`].
    pub best_of: usize,
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
    /// Whether words get times.
    pub words: bool,
    /// Milliseconds of silence that are skipped where words beside it seem invented: see [`crate::hallucination`].
    /// Words are timed for it, and told only where they were asked for.
    pub hallucination_silence_ms: Option<u64>,
    /// Encodes the sound and a margin instead of the whole window: see [`crate::trim`]. A window whose text is doubtful
    /// is read again whole.
    pub trim: bool,
    /// Where speech was detected, in milliseconds of the segment; what coverage is measured against.
    pub speech: Vec<Range<u64>>,
    /// Whether speech that got no text is read again by itself.
    pub reread_gaps: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            task: Task::Transcribe,
            language: None,
            prompt: None,
            previous: None,
            temperatures: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            hotwords: None,
            prefix: None,
            beams: 1,
            patience: 1.0,
            length_penalty: None,
            best_of: 5,
            timestamps: true,
            condition_on_previous_text: true,
            thresholds: Thresholds::default(),
            tokens_max: 224,
            seed: 0,
            words: false,
            hallucination_silence_ms: None,
            trim: false,
            speech: Vec::new(),
            reread_gaps: true,
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
    /// The likeliest languages with their probabilities, likeliest first; none where it was given.
    pub languages: Vec<(&'static str, f32)>,
    /// Timed texts in order; none when the segment is silent.
    pub spans: Vec<Span>,
    /// The share of [`Options::speech`] that has text; 1 where there is none.
    pub coverage: f32,
    /// Speech of a second and more without text, in milliseconds of the segment.
    pub gaps: Vec<Range<u64>>,
    /// Tokens of the end of the text, prompt and what was [before](Options::previous) included, as a segment that follows
    /// continues it: 223 at most. None where the last text was drawn too freely to be a context.
    pub context: Vec<u32>,
    /// Windows whose text was found with only the sound and a margin encoded.
    pub trimmed: usize,
    /// Windows that were read again whole, because what was found that way was doubtful.
    pub reread: usize,
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
    /// The device could not do it; another, or this one later, may.
    #[error("the device failed: {0}")]
    Device(#[from] DeviceError),
}

impl Engine {
    /// Loads the model of a folder (CTranslate2 or Hugging Face safetensors).
    pub fn load(folder: &Path, setup: Setup) -> Result<Engine, LoadError> {
        let weights = Weights::open(folder)?;
        let dims = model::dims(&weights)?;
        let tokens = Tokens::load(folder, weights.format(), dims.vocabulary)?;
        let info = models::info(folder, &weights)?;
        let heads = model::alignment_heads(folder, dims)?;
        let backend = devices::load(&weights, Rules::new(&tokens), heads, setup)?;
        let report = backend.report();
        let scheduler = Scheduler::start(backend).map_err(|error| LoadError::io(folder, error))?;
        Ok(Engine { info, report, voice: Arc::new(Voice { dims, tokens }), scheduler })
    }

    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// What runs it.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Whether its thread panicked: then every segment fails, and the model is to be loaded again.
    pub fn has_ended(&self) -> bool {
        self.scheduler.has_ended()
    }

    /// Checks options against the model without transcribing: what [`Engine::transcribe`] would refuse.
    pub fn check(&self, options: &Options) -> Result<(), Error> {
        let bad = |message: String| Err(Error::BadOption(message));
        let Options { temperatures, tokens_max, beams, best_of, patience, length_penalty, .. } = options;
        if temperatures.is_empty() || temperatures.iter().any(|t| !(0.0..=2.0).contains(t)) {
            return bad(format!("temperatures are 0 to 2, at least one of them, not {temperatures:?}"));
        }
        for (name, value) in [("beams", beams), ("best_of", best_of)] {
            if !(1..=CANDIDATES_MAX).contains(value) {
                return bad(format!("{name} is 1 to {CANDIDATES_MAX}, not {value}"));
            }
        }
        if !(patience.is_finite() && *patience > 0.0 && *patience <= 10.0) {
            return bad(format!("patience is above 0 and at most 10, not {patience}"));
        }
        if length_penalty.is_some_and(|penalty| !(0.0..=1.0).contains(&penalty)) {
            return bad(format!("length_penalty is 0 to 1, not {length_penalty:?}"));
        }
        if *tokens_max == 0 {
            return bad("tokens_max is at least 1".to_owned());
        }
        let vocabulary = self.voice.dims.vocabulary;
        if let Some(token) = options.previous.iter().flatten().find(|token| **token as usize >= vocabulary) {
            return bad(format!("previous text has the token {token}, and there are {vocabulary}"));
        }
        if options.task == Task::Translate && !self.info.multilingual {
            return Err(Error::CannotTranslate { model: self.info.name.clone() });
        }
        self.given_language(options).map(|_| ())
    }

    /// Transcribes a segment: at most 30 s of 16 kHz mono sound. It joins what the device has in hand when its turn
    /// comes; dropping the future gives it up.
    pub async fn transcribe(
        &self,
        pcm: Arc<[i16]>,
        options: Options,
        urgency: Urgency,
    ) -> Result<Output, Error> {
        if pcm.len() > SEGMENT_SAMPLES_MAX {
            return Err(Error::TooLong { seconds: pcm.len() as f64 / SAMPLE_RATE as f64 });
        }
        self.check(&options)?;
        let language = self.given_language(&options)?;
        let (mut reply, answer) = oneshot::channel();
        let voice = Arc::clone(&self.voice);
        self.scheduler.submit(urgency, move |desk, slot| {
            let reading = async move {
                let read = Box::pin(voice.read(&desk, &slot, &pcm, &options, language));
                // Nobody waits any more: what was read is of no use.
                if let Either::Left((output, _)) = select(read, reply.cancellation()).await {
                    let _ = reply.send(output);
                }
            };
            reading.boxed_local()
        });
        match answer.await {
            Ok(output) => Ok(output?),
            Err(oneshot::Canceled) => Err(DeviceError::new("the reading broke off: see the log").into()),
        }
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

#[cfg(test)]
pub(crate) mod tests;
