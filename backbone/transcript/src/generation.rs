//! What is known of one transcription of a recording, and what follows from it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use events::{Activation, Cause, Envelope, Event, Lane, RecordingDecoded, RecordingFailed, Settings};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fact::Known;
use crate::segment::{Outcome, Segment};

/// Where a recording, or one of its transcriptions, stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Accepted; nothing came back from it yet.
    Queued,
    /// The first segments are in, more are being cut.
    Decoding,
    /// All segments are cut, some are still to be transcribed.
    Transcribing,
    /// All segments ended, at least one of them with text, or nobody spoke.
    Complete,
    /// It ended without a transcript.
    Failed,
    /// Stopped on request before it was complete.
    Cancelled,
    /// The drop was refused.
    Rejected,
    /// Gone on request.
    Deleted,
}

impl Status {
    /// Every status, in the order a recording goes through them.
    pub const ALL: &'static [Status] = &[
        Status::Queued,
        Status::Decoding,
        Status::Transcribing,
        Status::Complete,
        Status::Failed,
        Status::Cancelled,
        Status::Rejected,
        Status::Deleted,
    ];

    /// Returns the word that stands for the status in SQL and HTTP.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Queued => "queued",
            Status::Decoding => "decoding",
            Status::Transcribing => "transcribing",
            Status::Complete => "complete",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
            Status::Rejected => "rejected",
            Status::Deleted => "deleted",
        }
    }

    /// Says whether nothing more will happen by itself.
    pub fn is_final(self) -> bool {
        !matches!(self, Status::Queued | Status::Decoding | Status::Transcribing)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is not a status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a status: queued, decoding, transcribing, complete, failed, cancelled, rejected or deleted"
)]
pub struct StatusError(String);

impl FromStr for Status {
    type Err = StatusError;

    fn from_str(text: &str) -> Result<Status, StatusError> {
        let found = Status::ALL.iter().find(|status| status.as_str() == text);
        found.copied().ok_or_else(|| StatusError(text.chars().take(64).collect()))
    }
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Requested {
    /// How to transcribe.
    pub settings: Settings,
    /// The lane its work runs in.
    pub lane: Lane,
    /// How it becomes visible.
    pub activation: Activation,
    /// Length of the audio in milliseconds as its header tells: an estimate.
    pub estimated_ms: u64,
}

/// What is known of one transcription besides its segments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GenerationFacts {
    /// What was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested: Option<Known<Requested>>,
    /// All audio was decoded and cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoded: Option<Known<RecordingDecoded>>,
    /// Nothing could be transcribed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Known<RecordingFailed>>,
    /// It is not wanted any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<Known<()>>,
}

impl GenerationFacts {
    /// Takes in an event of this generation. Any order and any number of repeats give the same facts.
    pub fn absorb(&mut self, envelope: &Envelope) {
        let known = |fact| Known::new(envelope, fact);
        match &envelope.event {
            Event::RecordingAdmitted(admitted) => known(Requested {
                settings: admitted.settings.clone(),
                lane: admitted.lane,
                activation: Activation::Auto,
                estimated_ms: admitted.audio.estimated_ms,
            })
            .settle(&mut self.requested),
            Event::TranscriptionRequested(requested) => known(Requested {
                settings: requested.settings.clone(),
                lane: requested.lane,
                activation: requested.activation,
                estimated_ms: requested.audio.estimated_ms,
            })
            .settle(&mut self.requested),
            Event::RecordingDecoded(decoded) => {
                Known::new(envelope, decoded.clone()).settle(&mut self.decoded)
            }
            Event::RecordingFailed(failed) => Known::new(envelope, failed.clone()).settle(&mut self.failed),
            Event::GenerationCancelled(_) => Known::new(envelope, ()).settle(&mut self.cancelled),
            _ => {}
        }
    }

    /// Returns what decoding gave. Once it succeeded, no failure of a later round takes it back.
    pub fn decoded(&self) -> Option<&RecordingDecoded> {
        self.decoded.as_ref().map(|decoded| &decoded.fact)
    }

    /// Returns how many segments of `channel` belong to the transcript; all there may be before decoding ended.
    pub fn segments_below(&self, channel: u16) -> u64 {
        match self.decoded() {
            Some(decoded) => decoded.segments.get(usize::from(channel)).copied().unwrap_or(0).into(),
            None => u64::MAX,
        }
    }

    fn round_asked(&self) -> u32 {
        self.requested.as_ref().map_or(0, |requested| requested.round)
    }

    /// Returns what follows from these facts and the `tally` of the segments that belong to the transcript.
    pub fn state(&self, tally: &Tally) -> State {
        let decoded = self.decoded();
        let total = decoded.map(|decoded| decoded.segments.iter().map(|&n| u64::from(n)).sum());
        let failure = self.failed.as_ref().filter(|failed| {
            let decoded_before = self.decoded.as_ref().is_none_or(|decoded| decoded.round < failed.round);
            decoded_before && failed.round >= self.round_asked()
        });
        let cancelled = self.cancelled.as_ref().filter(|cancelled| cancelled.round >= self.round_asked());
        let all_in = total.is_some_and(|total| tally.ended() >= total);

        let (status, reason, completed_at) = if all_in {
            let last = self.decoded.as_ref().map(|decoded| decoded.occurred_at).max(tally.last_at);
            match &tally.first_failure {
                Some(first) if tally.transcribed == 0 => {
                    let message = match tally.failed {
                        1 => first.message.clone(),
                        n => format!("all {n} segments failed; the first: {}", first.message),
                    };
                    (Status::Failed, Some(Cause::new(first.code.clone(), message)), last)
                }
                _ => (Status::Complete, None, last),
            }
        } else if let Some(failed) = failure {
            (Status::Failed, Some(failed.fact.cause.clone()), Some(failed.occurred_at))
        } else if let Some(cancelled) = cancelled {
            (Status::Cancelled, None, Some(cancelled.occurred_at))
        } else if decoded.is_some() {
            (Status::Transcribing, None, None)
        } else if tally.ended() > 0 {
            (Status::Decoding, None, None)
        } else {
            (Status::Queued, None, None)
        };

        let estimated_ms = self.requested.as_ref().map_or(0, |requested| requested.fact.estimated_ms);
        State {
            status,
            reason,
            audio_ms: decoded.map_or(estimated_ms.max(tally.until_ms), |decoded| decoded.audio_ms),
            decoded_ms: decoded.map_or(tally.until_ms, |decoded| decoded.audio_ms),
            transcribed_ms: tally.transcribed_ms(),
            segments: total,
            transcribed_segments: tally.transcribed,
            failed_segments: tally.failed,
            language: tally.language(),
            completed_at,
        }
    }
}

/// The segments of one transcription, added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// How many ended with text.
    pub transcribed: u64,
    /// How many ended without.
    pub failed: u64,
    /// The latest end of a segment within the recording, milliseconds.
    pub until_ms: u64,
    /// When the last of them ended.
    pub last_at: Option<Timestamp>,
    /// Milliseconds of segments with text, per language.
    pub language_ms: BTreeMap<String, u64>,
    /// Why the first failed segment failed, by channel and index.
    pub first_failure: Option<Cause>,
}

impl Tally {
    /// Adds up `segments`, which come in order of channel and index.
    pub fn of<'a>(segments: impl IntoIterator<Item = &'a Segment>) -> Tally {
        let mut tally = Tally::default();
        for segment in segments {
            tally.until_ms = tally.until_ms.max(segment.end_ms);
            tally.last_at = tally.last_at.max(Some(segment.occurred_at));
            match &segment.outcome {
                Outcome::Transcribed { language, .. } => {
                    tally.transcribed += 1;
                    *tally.language_ms.entry(language.clone()).or_default() += segment.len_ms();
                }
                Outcome::Failed { cause, .. } => {
                    tally.failed += 1;
                    tally.first_failure.get_or_insert_with(|| cause.clone());
                }
            }
        }
        tally
    }

    /// How many segments ended, with or without text.
    pub fn ended(&self) -> u64 {
        self.transcribed + self.failed
    }

    /// Milliseconds of segments with text.
    pub fn transcribed_ms(&self) -> u64 {
        self.language_ms.values().sum()
    }

    /// The language of most of the text; the first by code among equals.
    pub fn language(&self) -> Option<String> {
        let most = self.language_ms.iter().max_by_key(|(code, ms)| (**ms, std::cmp::Reverse(*code)));
        most.map(|(code, _)| code.clone())
    }
}

/// Where one transcription stands.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Where it stands, in a word.
    pub status: Status,
    /// Why it failed or was rejected.
    pub reason: Option<Cause>,
    /// Length of the audio in milliseconds; an estimate until decoding ended.
    pub audio_ms: u64,
    /// Milliseconds of audio decoded and cut, as far as results tell.
    pub decoded_ms: u64,
    /// Milliseconds of segments that have their text; the rest of the audio is silence or still to come.
    pub transcribed_ms: u64,
    /// Number of segments; `None` until decoding ended.
    pub segments: Option<u64>,
    /// Segments that have their text.
    pub transcribed_segments: u64,
    /// Segments that ended without text.
    pub failed_segments: u64,
    /// ISO 639-1 code of the language of most of the text.
    pub language: Option<String>,
    /// When it ended: the time of the event that completed, failed or cancelled it.
    pub completed_at: Option<Timestamp>,
}

impl State {
    /// The share of the work that is done, 0 to 1: by segments once their number is known, by time before.
    pub fn progress(&self) -> f64 {
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        match (self.status.is_final(), self.segments) {
            (true, _) => 1.0,
            (false, Some(total)) => share(self.transcribed_segments + self.failed_segments, total).min(1.0),
            (false, None) => share(self.decoded_ms, self.audio_ms).min(0.99),
        }
    }
}
