//! Speech to text: Whisper on the processor or a GPU, and the stage that runs it.
//!
//! [`engine::Engine`] loads a model folder and transcribes segments of at most 30 s, many at once. A segment's
//! [`reading`] goes from window to window: [`search`] finds a text, [`quality`] judges it, [`spans`] times it,
//! [`words`] times its words, [`coverage`] finds what was skipped, [`hallucination`] what was
//! invented, [`trim`] says whose padding may be left out. Readings ask a [`scheduler`], which puts what all of
//! them ask for into one step of a [`backend`]: the network (weights from [`model`]) on some device, with [`features`]
//! before it and [`sampling`] behind it. [`models`] finds model folders by name, [`library`] keeps those loaded that are used; [`hash`] stands in for a model where
//! tests are not about it. [`languages`] tells which language several segments heard. Only [`infer`] knows streams and events.

pub mod backend;
pub mod config;
pub mod coverage;
pub mod cpu;
pub mod cuda;
pub mod devices;
pub mod engine;
pub mod features;
pub mod hallucination;
pub mod hash;
pub mod infer;
pub mod languages;
pub mod library;
mod math;
pub mod metrics;
pub mod model;
pub mod models;
pub mod quality;
pub mod reading;
pub mod sampling;
pub mod scheduler;
pub mod search;
pub mod spans;
pub mod tokens;
pub mod trim;
pub mod words;

#[cfg(test)]
mod plain;

pub use engine::{Engine, Error, Options, Output, Task};
pub use model::LoadError;
pub use models::{ModelInfo, ResolveError};
pub use quality::Thresholds;
pub use spans::{Span, Word};
