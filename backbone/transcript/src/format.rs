//! The renderings: plain text, SubRip, WebVTT, and our own JSON document.

use std::fmt;
use std::str::FromStr;

use events::{Cause, Channels, RecordingId, Stretch, Task};
use serde::Serialize;

use crate::segment::{Outcome, Segment};
use crate::spans::Spans;
use crate::transcript::{Transcript, join};

/// A form to read a transcript in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// Our own document; see [`json`].
    #[default]
    Json,
    /// The words alone.
    Text,
    /// SubRip subtitles.
    Srt,
    /// WebVTT subtitles.
    Vtt,
}

impl Format {
    /// Every format.
    pub const ALL: &'static [Format] = &[Format::Json, Format::Text, Format::Srt, Format::Vtt];

    /// Returns the word that stands for the format in options and queries.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Text => "text",
            Format::Srt => "srt",
            Format::Vtt => "vtt",
        }
    }

    /// Returns the media type for HTTP.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Text => "text/plain; charset=utf-8",
            Format::Srt => "application/x-subrip; charset=utf-8",
            Format::Vtt => "text/vtt; charset=utf-8",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is not a format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a format: json, text, srt or vtt")]
pub struct FormatError(String);

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Format, FormatError> {
        let found = Format::ALL.iter().find(|format| format.as_str() == text);
        found.copied().ok_or_else(|| FormatError(text.chars().take(64).collect()))
    }
}

/// Writes a transcript in `format`.
pub fn render(transcript: &Transcript, format: Format) -> String {
    match format {
        Format::Json => json(transcript),
        Format::Text => text(transcript),
        Format::Srt => srt(transcript),
        Format::Vtt => vtt(transcript),
    }
}

/// Writes the words: one line in all, or one line per turn, with the channel in front, where channels are apart.
pub fn text(transcript: &Transcript) -> String {
    let mut out = String::new();
    if transcript.names_channels() {
        let spoken: Vec<&Segment> =
            transcript.segments.iter().filter(|s| !s.text().trim().is_empty()).collect();
        for turn in spoken.chunk_by(|a, b| a.channel == b.channel) {
            out += &format!("{}: {}\n", label(turn[0].channel), join(turn.iter().copied()));
        }
    } else {
        out = transcript.text();
        if !out.is_empty() {
            out.push('\n');
        }
    }
    out
}

/// Writes SubRip: a numbered cue per span, times as `HH:MM:SS,mmm`.
pub fn srt(transcript: &Transcript) -> String {
    let mut out = String::new();
    for (at, cue) in cues(transcript).enumerate() {
        let speaker = cue.channel.map(|channel| format!("{}: ", label(channel))).unwrap_or_default();
        // An arrow inside the words would read as a time line.
        let words = cue.text.replace("-->", "->");
        out += &format!(
            "{}\n{} --> {}\n{speaker}{words}\n\n",
            at + 1,
            clock(cue.start_ms, ','),
            clock(cue.end_ms, ',')
        );
    }
    out
}

/// Writes WebVTT: a cue per span, the channel as its voice, a note for each segment that has no text.
pub fn vtt(transcript: &Transcript) -> String {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut out = String::from("WEBVTT\n\n");
    for segment in &transcript.segments {
        if let Outcome::Failed { cause, .. } = &segment.outcome {
            let [from, to] = [segment.start_ms, segment.end_ms].map(|ms| clock(ms, '.'));
            let reason = one_line(&cause.message).replace("-->", "->");
            out += &format!("NOTE {from} to {to} has no text: {reason}\n\n");
        }
    }
    for cue in cues(transcript) {
        let voice = cue.channel.map(|channel| format!("<v {}>", label(channel))).unwrap_or_default();
        let [from, to] = [cue.start_ms, cue.end_ms].map(|ms| clock(ms, '.'));
        out += &format!("{from} --> {to}\n{voice}{}\n\n", escape(&cue.text));
    }
    out
}

/// Writes our own document: see [`Document`].
pub fn json<S: Spans>(transcript: &Transcript<S>) -> String {
    // Each text stands in it three times: in the whole, with its channel, with its segment.
    let segment_len = |segment: &Segment<S>| match &segment.outcome {
        Outcome::Transcribed { spans, text, .. } => 256 + 3 * text.len() + spans.document_len(),
        Outcome::Failed { cause, .. } => 256 + cause.message.len(),
    };
    let mut out = String::with_capacity(1_024 + transcript.segments.iter().map(segment_len).sum::<usize>());
    open_list(&Document::of(transcript), &mut out);
    for (at, segment) in transcript.segments.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        open_list(&DocumentSegment::of(segment), &mut out);
        if let Outcome::Transcribed { spans, .. } = &segment.outcome {
            spans.write_document(&mut out);
        }
        out.push_str("]}");
    }
    out.push_str("]}");
    out
}

/// Writes an object that ends with an empty list, up to where the list's first element goes.
fn open_list(object: &impl Serialize, out: &mut String) {
    let json = serde_json::to_string(object).expect("a document is plain data: every value has a JSON form");
    out.push_str(json.strip_suffix("]}").expect("an empty list is the last field"));
}

/// Our own JSON document. Times are milliseconds from the start of the recording. The lists at the end of it and of its
/// segments are written apart, an element at a time.
#[derive(Debug, Serialize)]
pub struct Document<'a> {
    /// The recording.
    pub recording: RecordingId,
    /// The name the sender gave it, or null.
    pub name: Option<&'a str>,
    /// Which transcription of it, 0 for the first.
    pub generation: u32,
    /// Where it stands: `complete`, or a word that says why there is less.
    pub status: crate::Status,
    /// Why it failed: `{code, message}`, or null.
    pub reason: Option<&'a Cause>,
    /// `transcribe` or `translate`.
    pub task: Task,
    /// The model's name.
    pub model: &'a str,
    /// ISO 639-1 code of the language of most of the text, or null.
    pub language: Option<&'a str>,
    /// Length of the audio.
    pub audio_ms: u64,
    /// Where reading stopped and why, if the file broke midway, or null.
    pub truncated: Option<Truncated<'a>>,
    /// How many segments have no text.
    pub failed_segments: usize,
    /// The whole text.
    pub text: String,
    /// The text of each channel, where channels are transcribed apart; else left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<ChannelText>,
    /// The segments in order of start.
    pub segments: [DocumentSegment<'a>; 0],
}

/// Where a broken file ended.
#[derive(Debug, Serialize)]
pub struct Truncated<'a> {
    /// The last time that could be read.
    pub at_ms: u64,
    /// What was wrong there.
    pub reason: &'a str,
}

/// What was said on one channel.
#[derive(Debug, Serialize)]
pub struct ChannelText {
    /// The channel, from 0.
    pub channel: u16,
    /// Its text.
    pub text: String,
}

/// A segment in [`Document`].
#[derive(Debug, Serialize)]
pub struct DocumentSegment<'a> {
    /// Channel, 0 for a mix.
    pub channel: u16,
    /// Position within the channel.
    pub index: u32,
    /// Start.
    pub start_ms: u64,
    /// End.
    pub end_ms: u64,
    /// ISO 639-1 code; null for a failed segment.
    pub language: Option<&'a str>,
    /// The text; empty where nobody spoke, and for a failed segment.
    pub text: &'a str,
    /// Why there is no text: `{code, message}`; left out where there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<&'a Cause>,
    /// The share of the detected speech that has text, 0 to 1; left out where all of it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coverage: Option<f32>,
    /// Detected speech without text, a second and more at a time, `[start, end]` each; left out where there is none.
    #[serde(skip_serializing_if = "<[Stretch]>::is_empty")]
    pub gaps: &'a [Stretch],
    /// The text in pieces with their own times.
    pub spans: [DocumentSpan<'a>; 0],
}

/// A piece of a segment in [`Document`].
#[derive(Debug, Serialize)]
pub struct DocumentSpan<'a> {
    /// Start.
    pub start_ms: u64,
    /// End.
    pub end_ms: u64,
    /// The text.
    pub text: &'a str,
    /// Mean log-probability of the tokens: nearer to 0 is surer.
    pub avg_logprob: f32,
    /// Probability that nobody spoke.
    pub no_speech_prob: f32,
    /// Length of the text over its length compressed; repetition makes it large.
    pub compression_ratio: f32,
    /// The temperature that gave the text.
    pub temperature: f32,
    /// Words with times, where they were asked for; else left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<DocumentWord<'a>>,
}

/// A word in [`Document`].
#[derive(Debug, Serialize)]
pub struct DocumentWord<'a> {
    /// Start.
    pub start_ms: u64,
    /// End.
    pub end_ms: u64,
    /// The word.
    pub text: &'a str,
    /// Probability of its tokens.
    pub probability: f32,
}

impl Document<'_> {
    /// Makes the document of a transcript.
    pub fn of<S>(transcript: &Transcript<S>) -> Document<'_> {
        let mut channels: Vec<u16> = match transcript.channels {
            Channels::Each => transcript.segments.iter().map(|segment| segment.channel).collect(),
            Channels::Mix => Vec::new(),
        };
        channels.sort_unstable();
        channels.dedup();
        let texts = channels.into_iter();
        Document {
            recording: transcript.recording,
            name: transcript.name.as_deref(),
            generation: transcript.generation,
            status: transcript.status,
            reason: transcript.reason.as_ref(),
            task: transcript.task,
            model: &transcript.model,
            language: transcript.language.as_deref(),
            audio_ms: transcript.audio_ms,
            truncated: transcript
                .truncated
                .as_ref()
                .map(|(at_ms, reason)| Truncated { at_ms: *at_ms, reason }),
            failed_segments: transcript.failed_segments(),
            text: transcript.text(),
            channels: texts
                .map(|channel| ChannelText { channel, text: transcript.channel_text(channel) })
                .collect(),
            segments: [],
        }
    }
}

impl DocumentSegment<'_> {
    fn of<S>(segment: &Segment<S>) -> DocumentSegment<'_> {
        DocumentSegment {
            channel: segment.channel,
            index: segment.index,
            start_ms: segment.start_ms,
            end_ms: segment.end_ms,
            language: segment.language(),
            text: segment.text(),
            failed: match &segment.outcome {
                Outcome::Failed { cause, .. } => Some(cause),
                Outcome::Transcribed { .. } => None,
            },
            coverage: Some(segment.coverage()).filter(|coverage| *coverage < 1.0),
            gaps: segment.gaps(),
            spans: [],
        }
    }
}

/// What subtitles show at one time.
struct Cue {
    start_ms: u64,
    end_ms: u64,
    channel: Option<u16>,
    text: String,
}

/// The cues in order of start: a span each; a whole segment where the model marked no spans.
fn cues(transcript: &Transcript) -> impl Iterator<Item = Cue> {
    let mut cues = Vec::new();
    for segment in &transcript.segments {
        let channel = transcript.names_channels().then_some(segment.channel);
        let mut add = |start_ms: u64, end_ms: u64, text: &str| {
            let text = one_line(text);
            if !text.is_empty() {
                cues.push(Cue { start_ms, end_ms: end_ms.max(start_ms), channel, text });
            }
        };
        if segment.spans().is_empty() {
            add(segment.start_ms, segment.end_ms, segment.text());
        }
        for span in segment.spans() {
            add(span.start_ms, span.end_ms, &span.text);
        }
    }
    cues.sort_by_key(|cue| (cue.start_ms, cue.channel));
    cues.into_iter()
}

/// Brings text to one line: a blank line would end its cue.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The name of a channel for people: they count from 1.
fn label(channel: u16) -> String {
    format!("Channel {}", u32::from(channel) + 1)
}

/// `HH:MM:SS` and milliseconds after `point`.
fn clock(ms: u64, point: char) -> String {
    let (s, m, h) = (ms / 1_000 % 60, ms / 60_000 % 60, ms / 3_600_000);
    format!("{h:02}:{m:02}:{s:02}{point}{:03}", ms % 1_000)
}
