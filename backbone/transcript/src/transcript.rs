//! A transcript: the segments of one recording in one generation, in order.

use events::{Cause, Channels, RecordingId, Span, Task};

use crate::generation::{GenerationFacts, State, Status};
use crate::language;
use crate::recording::RecordingFacts;
use crate::segment::Segment;

/// What readers get. The renderings in [`format`](mod@crate::format) and [`openai`](crate::openai) start from it. `S` stands for
/// the spans of a segment, as in [`Segment`].
#[derive(Clone, Debug, PartialEq)]
pub struct Transcript<S = Vec<Span>> {
    /// The recording.
    pub recording: RecordingId,
    /// The name the sender gave it.
    pub name: Option<String>,
    /// Which transcription of it.
    pub generation: u32,
    /// Where it stands; a transcript that is not complete has the segments that are in.
    pub status: Status,
    /// Why it failed.
    pub reason: Option<Cause>,
    /// Transcribed, or translated to English.
    pub task: Task,
    /// The model's name; empty while the request is not known.
    pub model: String,
    /// One transcript of all channels, or one per channel: then renderings name the channel.
    pub channels: Channels,
    /// ISO 639-1 code of the language of most of the text, else the language asked for.
    pub language: Option<String>,
    /// Length of the audio in milliseconds; an estimate until decoding ended.
    pub audio_ms: u64,
    /// Where reading stopped in milliseconds, if the file broke midway, and why.
    pub truncated: Option<(u64, String)>,
    /// The segments, by start, channel and index.
    pub segments: Vec<Segment<S>>,
}

impl<S> Transcript<S> {
    /// Puts a transcript together. `segments` may come in any order.
    pub fn new(
        recording: RecordingId,
        about: &RecordingFacts,
        generation: u32,
        facts: &GenerationFacts,
        state: State,
        mut segments: Vec<Segment<S>>,
    ) -> Transcript<S> {
        segments.sort_by_key(|segment| (segment.start_ms, segment.channel, segment.index));
        let settings = facts.requested.as_ref().map(|known| &known.fact.settings);
        let truncated = facts.decoded().and_then(|decoded| {
            let reason = decoded.truncated_reason.clone().unwrap_or_default();
            decoded.truncated_at_ms.map(|at| (at, reason))
        });
        Transcript {
            recording,
            name: about.name().map(str::to_owned),
            generation,
            status: state.status,
            reason: state.reason,
            task: settings.map(|settings| settings.task).unwrap_or_default(),
            model: settings.map(|settings| settings.model.name.clone()).unwrap_or_default(),
            channels: settings.map(|settings| settings.channels).unwrap_or_default(),
            language: state.language.or_else(|| settings.and_then(|settings| settings.language.clone())),
            audio_ms: state.audio_ms,
            truncated,
            segments,
        }
    }

    /// How many segments ended without text.
    pub fn failed_segments(&self) -> usize {
        self.segments.iter().filter(|segment| !segment.is_transcribed()).count()
    }

    /// The whole text in one line, channels after each other in time. Languages without spaces are joined without.
    pub fn text(&self) -> String {
        join(&self.segments)
    }

    /// The text of one channel in one line.
    pub fn channel_text(&self, channel: u16) -> String {
        join(self.segments.iter().filter(|segment| segment.channel == channel))
    }

    /// Says whether renderings name the channel of what is said.
    pub fn names_channels(&self) -> bool {
        self.channels == Channels::Each
    }
}

/// Joins the texts of segments, with a space where their language has spaces.
pub(crate) fn join<'a, S: 'a>(segments: impl IntoIterator<Item = &'a Segment<S>>) -> String {
    let mut text = String::new();
    for segment in segments {
        let more = segment.text().trim();
        if more.is_empty() {
            continue;
        }
        if !text.is_empty() && !segment.language().is_some_and(language::is_unspaced) {
            text.push(' ');
        }
        text.push_str(more);
    }
    text
}
