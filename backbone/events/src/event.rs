//! The events. Facts are in the past tense and go to the log; work goes to a queue and is deleted when done.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::settings::{Activation, Lane, Settings};

/// One event. The `type` in the envelope is the variant's name.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A drop was accepted; its audio is in the store.
    RecordingAdmitted(RecordingAdmitted),
    /// A drop was refused, with the reason.
    RecordingRejected(RecordingRejected),
    /// Somebody asked for the recording to be gone.
    RecordingDeleted(RecordingDeleted),
    /// A transcription of the recording was asked for. Fact and, in a decode queue, work.
    TranscriptionRequested(TranscriptionRequested),
    /// All audio that could be read was decoded and cut.
    RecordingDecoded(RecordingDecoded),
    /// Nothing of the recording could be transcribed in this generation, with the reason.
    RecordingFailed(RecordingFailed),
    /// A segment waits for inference. Work only: it never enters the log.
    SegmentCut(SegmentCut),
    /// A segment has its text.
    SegmentTranscribed(SegmentTranscribed),
    /// A segment ended without text, with the reason.
    SegmentFailed(SegmentFailed),
    /// Readers see this generation from now on.
    GenerationActivated(GenerationActivated),
    /// The generation is not wanted any more.
    GenerationCancelled(GenerationCancelled),
}

/// Why something did not work, in a stable word for programs and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// A stable word such as `unsupported_codec`.
    pub code: String,
    /// What happened and what to do about it.
    pub message: String,
}

impl Cause {
    /// Makes a cause.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Cause {
        Cause { code: code.into(), message: message.into() }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

/// The audio of a recording, as it stands in the audio store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audio {
    /// Key in the audio store: `<tenant>/<recording>`.
    pub key: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 of the bytes, hexadecimal.
    pub sha256: String,
    /// Container by its first bytes, such as `wav`; `unknown` where sniffing did not tell.
    pub container: String,
    /// Length in milliseconds as far as the header or the size tells: an estimate, used for backlog only.
    pub estimated_ms: u64,
}

/// See [`Event::RecordingAdmitted`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordingAdmitted {
    /// The drop it came from.
    pub drop_id: String,
    /// The name the sender gave it, usually a file name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it was fetched from, if it came by uri.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// The audio.
    pub audio: Audio,
    /// The settings of generation 0.
    pub settings: Settings,
    /// The lane it was dropped in.
    pub lane: Lane,
    /// Whatever else the sender said about it, kept as it came (`meta.*` fields).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// See [`Event::RecordingRejected`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordingRejected {
    /// The drop that was refused.
    pub drop_id: String,
    /// The name the sender gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Why.
    pub cause: Cause,
}

/// See [`Event::RecordingDeleted`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordingDeleted {
    /// Who or what asked: `api`, `retention`.
    pub by: String,
    /// The drop it came from: all else that is known of the recording is erased, and its sender may ask by this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_id: Option<String>,
}

/// See [`Event::TranscriptionRequested`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TranscriptionRequested {
    /// The name the sender gave the recording: a hint about its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The audio to transcribe.
    pub audio: Audio,
    /// How.
    pub settings: Settings,
    /// The lane all work of this transcription runs in.
    pub lane: Lane,
    /// How its generation becomes visible.
    #[serde(default)]
    pub activation: Activation,
}

/// See [`Event::RecordingDecoded`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordingDecoded {
    /// Number of segments cut, per channel; empty lists and zeros mean that nobody spoke.
    pub segments: Vec<u32>,
    /// Length of the audio in milliseconds.
    pub audio_ms: u64,
    /// Milliseconds of speech found, summed over channels.
    pub speech_ms: u64,
    /// Channels of the source.
    pub channels: u16,
    /// Sample rate of the source in Hz.
    pub sample_rate: u32,
    /// Codec as decoded, such as `mp3`.
    pub codec: String,
    /// Where reading stopped, if the file broke midway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated_at_ms: Option<u64>,
    /// Why reading stopped there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated_reason: Option<String>,
}

/// See [`Event::RecordingFailed`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordingFailed {
    /// The stage that gave up.
    pub stage: String,
    /// Why.
    pub cause: Cause,
    /// How often it was tried.
    pub attempts: u32,
}

/// See [`Event::SegmentCut`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentCut {
    /// Channel, 0 for a mix.
    pub channel: u16,
    /// Position within the channel.
    pub index: u32,
    /// Start within the recording, milliseconds.
    pub start_ms: u64,
    /// End within the recording, milliseconds.
    pub end_ms: u64,
    /// How to transcribe it.
    pub settings: Settings,
    /// The lane it runs in.
    pub lane: Lane,
    /// Where speech was detected, in milliseconds of the segment, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub speech: Vec<Stretch>,
}

/// A stretch of time in milliseconds. In JSON a pair: `[start, end]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub struct Stretch {
    /// Where it begins.
    pub start_ms: u64,
    /// Where it has ended.
    pub end_ms: u64,
}

impl From<(u64, u64)> for Stretch {
    fn from((start_ms, end_ms): (u64, u64)) -> Stretch {
        Stretch { start_ms, end_ms }
    }
}

impl From<Stretch> for (u64, u64) {
    fn from(Stretch { start_ms, end_ms }: Stretch) -> (u64, u64) {
        (start_ms, end_ms)
    }
}

/// See [`Event::SegmentTranscribed`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentTranscribed {
    /// Channel, 0 for a mix.
    pub channel: u16,
    /// Position within the channel.
    pub index: u32,
    /// Start within the recording, milliseconds.
    pub start_ms: u64,
    /// End within the recording, milliseconds.
    pub end_ms: u64,
    /// ISO 639-1 code of the language it was decoded in.
    pub language: String,
    /// The whole text, without the space that Whisper puts in front.
    pub text: String,
    /// The text in the pieces the model marked with times. Empty where nobody spoke.
    pub spans: Vec<Span>,
    /// The weights that made it.
    pub model: String,
    /// Milliseconds from handing the speech to the model until its text was there. Segments share the model's steps and
    /// wait for a place in them, so that this is no share of the machine: the sum over segments is beyond the time that
    /// passed.
    pub infer_ms: u64,
    /// The share of the detected speech that has text, 0 to 1.
    #[serde(default = "whole", skip_serializing_if = "is_whole")]
    pub coverage: f32,
    /// Detected speech without text, a second and more at a time, within the recording, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Stretch>,
}

/// The coverage of a segment that tells none.
pub(crate) fn whole() -> f32 {
    1.0
}

fn is_whole(share: &f32) -> bool {
    *share == whole()
}

/// A piece of a segment's text between two timestamps of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// Start within the recording, milliseconds.
    pub start_ms: u64,
    /// End within the recording, milliseconds.
    pub end_ms: u64,
    /// The text as decoded, with its leading space.
    pub text: String,
    /// Token ids of the text, timestamps included.
    pub tokens: Vec<u32>,
    /// Mean log-probability of the window's tokens.
    pub avg_logprob: f32,
    /// Probability that the window holds no speech.
    pub no_speech_prob: f32,
    /// Length of the text over its length compressed; repetition makes it large.
    pub compression_ratio: f32,
    /// The temperature that gave the text.
    pub temperature: f32,
    /// Words with times, where they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<Word>,
}

/// A word with its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// The word as decoded.
    pub text: String,
    /// Start within the recording, milliseconds.
    pub start_ms: u64,
    /// End within the recording, milliseconds.
    pub end_ms: u64,
    /// Probability of its tokens.
    pub probability: f32,
}

/// See [`Event::SegmentFailed`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentFailed {
    /// Channel, 0 for a mix.
    pub channel: u16,
    /// Position within the channel.
    pub index: u32,
    /// Start within the recording, milliseconds.
    pub start_ms: u64,
    /// End within the recording, milliseconds.
    pub end_ms: u64,
    /// Why.
    pub cause: Cause,
    /// How often it was tried.
    pub attempts: u32,
}

/// See [`Event::GenerationActivated`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationActivated {
    /// Who or what asked.
    pub by: String,
}

/// See [`Event::GenerationCancelled`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationCancelled {
    /// Who or what asked.
    pub by: String,
}
