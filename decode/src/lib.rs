//! The decode stage: from a recording in any format to segments of speech, 16 kHz mono, at most 30 s each.
//!
//! The way of the sound, each step in its own file:
//! - `source`: the bytes, from wherever they are kept;
//! - `container`: which container and codec, and the samples in it; `ffmpeg` for what is not built in;
//! - `resample`: to 16 kHz;
//! - `speech`: how likely each frame is speech;
//! - `segment`: where to cut, by that;
//! - `decoder`: all of it, step by step, resumable after any segment.
//!
//! These are blocking and know nothing of streams, events or the audio store. `decode` is the stage around them, with
//! its `config` and `metrics`.

pub mod config;
pub mod container;
pub mod decode;
pub mod decoder;
pub mod error;
pub mod ffmpeg;
pub mod metrics;
pub mod resample;
pub mod segment;
pub mod source;
pub mod speech;

pub use decoder::{
    ChannelCursor, Channels, Cursor, DecodeOptions, Decoder, Info, Part, Progress, Step, Summary,
};
pub use error::DecodeError;
pub use ffmpeg::Ffmpeg;
pub use segment::CUTTER_VERSION;
pub use source::Source;

/// The sample rate of segments in Hz.
pub const SAMPLE_RATE: u32 = 16_000;
