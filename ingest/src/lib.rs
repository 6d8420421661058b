//! The first stage: takes drops in, or says why not.
//!
//! - [`drop`]: a drop as its sender wrote it, field by field (pure).
//! - [`settings`]: what it asks for and the models at hand, resolved to the settings of a recording (pure).
//! - [`source`]: where audio arrives from: files, object stores, the web, each within what the operator allows.
//! - [`sniff`] and [`length`]: what the first bytes tell about kind and duration (pure).
//! - `gather`: the audio's SHA-256, size and place, whatever its source.
//! - [`intake`]: the stage: store, de-duplicate, admit or reject.
//! - [`health`], [`config`], [`metrics`]: the program around it.

pub mod config;
pub mod drop;
mod gather;
pub mod health;
pub mod intake;
pub mod length;
pub mod metrics;
pub mod settings;
pub mod sniff;
pub mod source;

pub use intake::{Ingest, Rules};
pub use source::Sources;
