//! The two JSON shapes of OpenAI's transcription endpoints. Their `text`, `srt` and `vtt` are those of
//! [`format`](mod@crate::format).

use events::Task;
use serde::Serialize;

use crate::language;
use crate::transcript::Transcript;

/// What `timestamp_granularities[]` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granularities {
    /// `segment`: the default.
    pub segments: bool,
    /// `word`.
    pub words: bool,
}

impl Default for Granularities {
    fn default() -> Granularities {
        Granularities { segments: true, words: false }
    }
}

/// Writes the `json` shape: text and usage.
pub fn json(transcript: &Transcript) -> String {
    write(&Short { text: transcript.text(), usage: Usage::of(transcript) })
}

/// Writes the `verbose_json` shape: language by its English name, every segment field that the SDK requires, words at
/// the top level. Times are seconds.
pub fn verbose_json(transcript: &Transcript, granularities: Granularities) -> String {
    let spans =
        || transcript.segments.iter().flat_map(|segment| segment.spans().iter().map(move |s| (segment, s)));
    let segments = spans().enumerate().map(|(id, (segment, span))| Segment {
        id,
        seek: segment.start_ms / 10,
        start: seconds(span.start_ms),
        end: seconds(span.end_ms),
        text: &span.text,
        tokens: &span.tokens,
        temperature: finite(span.temperature),
        avg_logprob: finite(span.avg_logprob),
        compression_ratio: finite(span.compression_ratio),
        no_speech_prob: finite(span.no_speech_prob),
    });
    let words = spans().flat_map(|(_, span)| &span.words).map(|word| Word {
        word: word.text.trim(),
        start: seconds(word.start_ms),
        end: seconds(word.end_ms),
    });
    let language = match transcript.task {
        Task::Translate => "english",
        Task::Transcribe => language::name(transcript.language.as_deref().unwrap_or("en")),
    };
    write(&Verbose {
        task: transcript.task,
        language,
        duration: seconds(transcript.audio_ms),
        text: transcript.text(),
        segments: granularities.segments.then(|| segments.collect()),
        words: granularities.words.then(|| words.collect()),
        usage: Usage::of(transcript),
    })
}

#[derive(Serialize)]
struct Short {
    text: String,
    usage: Usage,
}

#[derive(Serialize)]
struct Verbose<'a> {
    task: Task,
    language: &'a str,
    duration: f64,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    segments: Option<Vec<Segment<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    words: Option<Vec<Word<'a>>>,
    usage: Usage,
}

#[derive(Serialize)]
struct Segment<'a> {
    id: usize,
    /// Start of the window in frames of 10 ms.
    seek: u64,
    start: f64,
    end: f64,
    text: &'a str,
    tokens: &'a [u32],
    temperature: f32,
    avg_logprob: f32,
    compression_ratio: f32,
    no_speech_prob: f32,
}

#[derive(Serialize)]
struct Word<'a> {
    word: &'a str,
    start: f64,
    end: f64,
}

#[derive(Serialize)]
struct Usage {
    #[serde(rename = "type")]
    kind: &'static str,
    /// Whole seconds, rounded up, as OpenAI bills them.
    seconds: u64,
}

impl Usage {
    fn of(transcript: &Transcript) -> Usage {
        Usage { kind: "duration", seconds: transcript.audio_ms.div_ceil(1_000) }
    }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

/// JSON has no NaN, and the SDK takes no null here.
fn finite(value: f32) -> f32 {
    if value.is_finite() { value } else { 0.0 }
}

fn write(shape: &impl Serialize) -> String {
    serde_json::to_string(shape).expect("the shapes are plain data: every value has a JSON form")
}
