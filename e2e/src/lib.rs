//! Whole-pipeline tests: the release programs, a real Redis, a real PostgreSQL, a real model.
//!
//! [`Pipeline`] starts a private stack and is the user: it drops audio and reads transcripts over HTTP. [`clips`] are
//! recordings of speech with what is said in them. The tests are in `tests/pipeline/`, one file per topic.

pub mod clips;
pub mod pipeline;

pub use clips::{Clip, word_errors};
pub use pipeline::Pipeline;
