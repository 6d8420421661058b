//! One segment's outcome.

use events::{Cause, Envelope, Event, EventId, Span, Stretch};
use jiff::Timestamp;

/// A segment that ended: with its text, or with the reason why there is none. `S` stands for its spans: values, or a
/// form that has no values.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment<S = Vec<Span>> {
    /// Channel, 0 for a mix.
    pub channel: u16,
    /// Position within the channel.
    pub index: u32,
    /// Start within the recording, milliseconds.
    pub start_ms: u64,
    /// End within the recording, milliseconds.
    pub end_ms: u64,
    /// The round of the event that counts.
    pub round: u32,
    /// The event that counts.
    pub event_id: EventId,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// How it ended.
    pub outcome: Outcome<S>,
}

/// How a segment ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome<S = Vec<Span>> {
    /// With text, empty where nobody spoke.
    Transcribed {
        /// ISO 639-1 code of the language it was decoded in.
        language: String,
        /// The whole text.
        text: String,
        /// The text in the pieces the model marked with times.
        spans: S,
        /// The weights that made it.
        model: String,
        /// Milliseconds that it was with the model, waiting for others in its batch included.
        infer_ms: u64,
        /// The share of the detected speech that has text, 0 to 1.
        coverage: f32,
        /// Detected speech without text, in order.
        gaps: Vec<Stretch>,
    },
    /// Without text.
    Failed {
        /// Why.
        cause: Cause,
        /// How often it was tried.
        attempts: u32,
    },
}

impl Segment {
    /// Returns the outcome that `envelope` tells of; `None` for events that are not about a segment's end.
    pub fn of(envelope: &Envelope) -> Option<Segment> {
        let (channel, index, start_ms, end_ms, outcome) = match &envelope.event {
            Event::SegmentTranscribed(done) => {
                let outcome = Outcome::Transcribed {
                    language: done.language.clone(),
                    text: done.text.clone(),
                    spans: done.spans.clone(),
                    model: done.model.clone(),
                    infer_ms: done.infer_ms,
                    coverage: done.coverage,
                    gaps: done.gaps.clone(),
                };
                (done.channel, done.index, done.start_ms, done.end_ms, outcome)
            }
            Event::SegmentFailed(failed) => {
                let outcome = Outcome::Failed { cause: failed.cause.clone(), attempts: failed.attempts };
                (failed.channel, failed.index, failed.start_ms, failed.end_ms, outcome)
            }
            _ => return None,
        };
        let Envelope { round, event_id, occurred_at, .. } = *envelope;
        Some(Segment { channel, index, start_ms, end_ms, round, event_id, occurred_at, outcome })
    }

    /// The pieces with times; none for a failed segment.
    pub fn spans(&self) -> &[Span] {
        match &self.outcome {
            Outcome::Transcribed { spans, .. } => spans,
            Outcome::Failed { .. } => &[],
        }
    }
}

impl<S> Segment<S> {
    /// Puts something else in the place of the spans.
    pub fn with_spans<T>(self, of: impl FnOnce(S) -> T) -> Segment<T> {
        let Segment { channel, index, start_ms, end_ms, round, event_id, occurred_at, outcome } = self;
        let outcome = match outcome {
            Outcome::Transcribed { language, text, spans, model, infer_ms, coverage, gaps } => {
                Outcome::Transcribed { language, text, spans: of(spans), model, infer_ms, coverage, gaps }
            }
            Outcome::Failed { cause, attempts } => Outcome::Failed { cause, attempts },
        };
        Segment { channel, index, start_ms, end_ms, round, event_id, occurred_at, outcome }
    }

    /// Says whether this outcome counts more than `other`, an outcome of the same segment: higher round, then
    /// success over failure, then event id.
    pub fn beats(&self, other: &Segment<S>) -> bool {
        let weight = |s: &Segment<S>| (s.round, s.is_transcribed(), s.event_id);
        weight(self) > weight(other)
    }

    /// Says whether it ended with text.
    pub fn is_transcribed(&self) -> bool {
        matches!(self.outcome, Outcome::Transcribed { .. })
    }

    /// Length in milliseconds.
    pub fn len_ms(&self) -> u64 {
        self.end_ms.saturating_sub(self.start_ms)
    }

    /// The text; empty for a failed segment.
    pub fn text(&self) -> &str {
        match &self.outcome {
            Outcome::Transcribed { text, .. } => text,
            Outcome::Failed { .. } => "",
        }
    }

    /// The share of the detected speech that has text; all of it for a failed segment, whose failure says enough.
    pub fn coverage(&self) -> f32 {
        match &self.outcome {
            Outcome::Transcribed { coverage, .. } => *coverage,
            Outcome::Failed { .. } => 1.0,
        }
    }

    /// Detected speech without text; none for a failed segment.
    pub fn gaps(&self) -> &[Stretch] {
        match &self.outcome {
            Outcome::Transcribed { gaps, .. } => gaps,
            Outcome::Failed { .. } => &[],
        }
    }

    /// The language; `None` for a failed segment.
    pub fn language(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Transcribed { language, .. } => Some(language),
            Outcome::Failed { .. } => None,
        }
    }
}
