//! Speech to text: Whisper on the processor, and the stage that runs it.
//!
//! [`engine::Engine`] loads a model folder and transcribes segments of at most 30 s. Inside, one step
//! follows another: [`features`] (sound to spectrogram), [`model`] (spectrogram to states, states and tokens
//! to logits), [`search`] (logits to tokens), [`spans`] (tokens to timed texts, with [`tokens`]).
//! [`models`] finds model folders by name. [`hash`] stands in for a model where tests are not about it. None of these knows streams or events.

pub mod backend;
pub mod config;
pub mod cpu;
pub mod engine;
pub mod features;
pub mod hash;
pub mod infer;
pub mod metrics;
pub mod model;
pub mod models;
pub mod sampling;
pub mod search;
pub mod spans;
pub mod tokens;

pub use engine::{Engine, Error, Options, Output, Span, Task};
pub use model::LoadError;
pub use models::{ModelInfo, ResolveError};
pub use search::Thresholds;
