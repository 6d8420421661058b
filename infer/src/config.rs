//! The settings of `voiceforge-infer`.

use std::path::PathBuf;
use std::time::Duration;

use service::env::{self, ByteSize, Reader, Redis};
use streams::Queue;
use streams::stage::{Inlet, Options};

use crate::cpu::Precision;
use crate::cuda::Form;
use crate::devices::Wish;

/// What an operator can set.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the streams are.
    pub redis: Redis,
    /// The folder with a folder per model.
    pub models: PathBuf,
    /// Segments transcribed at once.
    pub slots: usize,
    /// Where models run.
    pub backend: Wish,
    /// Which GPU, counted from 0.
    pub device: usize,
    /// How a GPU keeps the sound that a segment hears.
    pub sound: Form,
    /// Threads of the engine; 0 is one per processor.
    pub threads: usize,
    /// Form of the weights.
    pub precision: Precision,
    /// Whether windows are trimmed.
    pub trim: Trim,
    /// The model loaded at start, so that the first segment does not wait for it.
    pub model: String,
    /// Memory that loaded models may take together.
    pub memory: ByteSize,
    /// How long a model stays loaded without use.
    pub idle: Duration,
    /// How long a segment waits for the one before it, where the text of that one is its context.
    pub order_wait: Duration,
    /// How long a worker may be silent before others take its segments.
    pub lease: Duration,
    /// For tests of everything around the model: see [`crate::hash`].
    pub hash_model: Option<Duration>,
}

/// Which windows are trimmed: see [`crate::trim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trim {
    /// Those of models and languages that were measured to be heard no worse.
    Auto,
    /// All.
    On,
    /// None.
    Off,
}

impl Config {
    /// Reads the settings.
    pub fn read(from: &mut Reader) -> Config {
        Config {
            redis: Redis::read(from),
            models: env::models(from),
            slots: from.setting("infer-slots", "segments transcribed at once").within(1..=256).or("8"),
            backend: match from
                .setting("infer-backend", "where models run: auto takes a GPU if one can be used, else the processor")
                .one_of(&["auto", "cuda", "cpu"])
                .or("cpu")
                .as_str()
            {
                "cuda" => Wish::Cuda,
                "auto" => Wish::Auto,
                _ => Wish::Cpu,
            },
            device: from
                .setting("infer-device", "which GPU, as the driver counts them from 0")
                .within(0..=63)
                .or("0"),
            sound: match from
                .setting("infer-sound-cache", "how a GPU keeps the sound that a segment hears: whole, or in e4m3, half as much to hold and read")
                .one_of(&["whole", "e4m3"])
                .or("whole")
                .as_str()
            {
                "e4m3" => Form::E4m3,
                _ => Form::Whole,
            },
            threads: from.setting("infer-threads", "threads of the engine, 0 for one per processor").or("0"),
            precision: Precision::of(
                &from
                    .setting("infer-precision", "form of the weights: int8 is fast, f32 exact, bf16 f32 with half the memory; on a GPU they are f16, or bf16 where that is asked for")
                    .one_of(&["int8", "bf16", "f32"])
                    .or("int8"),
            )
            .unwrap_or_default(),
            trim: match from
                .setting("infer-trim", "encode only the sound and a margin: auto does where it was measured to hear as well")
                .one_of(&["auto", "on", "off"])
                .or("auto")
                .as_str()
            {
                "on" => Trim::On,
                "off" => Trim::Off,
                _ => Trim::Auto,
            },
            model: from
                .setting("model", "model loaded at start, so that the first segment need not wait")
                .or("tiny.en"),
            memory: from
                .setting("infer-memory", "memory of all loaded models; the least recently used makes room")
                .within(ByteSize(64 << 20)..=ByteSize::TIB)
                .or("8GiB"),
            idle: from
                .setting("infer-idle", "how long a model stays loaded without use")
                .within(Duration::from_secs(1)..=Duration::from_secs(30 * 86_400))
                .or("30m"),
            order_wait: from
                .setting("infer-order-wait", "how long a segment that continues the text before waits for it, before it goes on without")
                .within(Duration::from_secs(1)..=Duration::from_secs(86_400))
                .or("10m"),
            lease: env::lease(from),
            hash_model: from
                .setting("hash-model", "for tests only: offer a model `hash` that takes this long and writes a hash of the speech")
                .optional("100ms"),
        }
    }

    /// Returns how the stage loop is to run.
    pub fn stage(&self) -> Options {
        Options::new("infer", Inlet::Queue(Queue::Segments)).with_lease(self.lease)
    }
}
