//! Whole-pipeline tests: the release programs, a real Redis, a real PostgreSQL, a real model.
//!
//! [`Pipeline`] starts a private stack and is the user: it drops audio and reads transcripts over HTTP. [`clips`] are
//! recordings of speech with what is said in them. The tests are in `tests/pipeline/`, one file per topic.
//!
//! [`faults`] is a deployment in which things go wrong, over a [`proxy`] that makes lines bad; its tests are in
//! `tests/faults/`.
//!
//! [`gpu`] compares a GPU with the processor and with its own limits.
//!
//! [`figures`] measures a whole deployment; [`talk`] makes up the facts of recordings for measurements.

pub mod clips;
pub mod faults;
pub mod figures;
pub mod gpu;
pub mod pipeline;
pub mod proxy;
pub mod talk;

pub use clips::{Clip, word_errors};
pub use pipeline::Pipeline;
