//! The fold of a recording's events into its transcript, and the forms a transcript is read in. Pure: values in,
//! values out.
//!
//! - [`recording`]: [`Recording`], the fold: what is known of a recording, in whatever order the events came.
//! - [`generation`]: what is known of one transcription, and what follows from it: status, progress, reason.
//! - [`segment`]: one segment's outcome, and which of two outcomes counts.
//! - [`spans`]: the spans of a segment, as values or straight from what is stored into the document.
//! - [`transcript`]: [`Transcript`], the segments in order: what readers get.
//! - [`format`](mod@format): the renderings: text, srt, vtt and our own json; [`openai`]: the two OpenAI shapes.
//! - [`compare`](mod@compare): two transcriptions of a recording, word by word.
//! - [`language`]: names of languages, and which of them are written without spaces.
//!
//! `views` folds the same events into tables; its tests compare the tables with this fold.

pub mod compare;
pub mod fact;
pub mod format;
pub mod generation;
pub mod language;
pub mod openai;
pub mod recording;
pub mod segment;
pub mod spans;
pub mod transcript;

pub use compare::{Comparison, compare};
pub use fact::Known;
pub use format::{Format, render};
pub use generation::{GenerationFacts, Requested, State, Status, Tally};
pub use recording::{Recording, RecordingFacts};
pub use segment::{Outcome, Segment};
pub use spans::{DocumentSpans, Spans};
pub use transcript::Transcript;

#[cfg(test)]
mod tests;
