//! The settings of `voiceforge-decode`.

use std::path::PathBuf;
use std::time::Duration;

use service::env::{self, Reader, Redis};
use streams::Queue;
use streams::pressure::Limits;
use streams::stage::{Inlet, Options};

use crate::Ffmpeg;

/// What an operator can set.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the streams are.
    pub redis: Redis,
    /// Where the audio is.
    pub audio_store: String,
    /// Recordings decoded at once.
    pub slots: usize,
    /// The longest recording.
    pub max_duration: Duration,
    /// The longest segment on the rt lane, where somebody waits.
    pub rt_segment_max: Duration,
    /// The program for codecs that are not built in, if it is to be used.
    pub ffmpeg: Option<PathBuf>,
    /// How long a worker may be silent before others take its work.
    pub lease: Duration,
    /// Undecided speech ahead of inference, per shard and lane, before decode pauses.
    pub ahead_max: Duration,
}

impl Config {
    /// Reads the settings.
    pub fn read(from: &mut Reader) -> Config {
        let use_ffmpeg: String = from
            .setting("ffmpeg", "decode codecs that are not built in through ffmpeg: off, auto (if it is on PATH) or its path")
            .or("off");
        let ffmpeg = match use_ffmpeg.as_str() {
            "off" => None,
            "auto" => Ffmpeg::find().map(|ffmpeg| ffmpeg.program),
            path => Some(PathBuf::from(path)),
        };
        Config {
            redis: Redis::read(from),
            audio_store: env::audio_store(from),
            slots: from.setting("decode-slots", "recordings decoded at once").within(1..=64).or("2"),
            max_duration: from.setting("max-duration", "longest recording that is decoded").or("12h"),
            rt_segment_max: from
                .setting("rt-segment-max", "longest segment on the rt lane: shorter ones answer sooner")
                .within(Duration::from_secs(5)..=Duration::from_secs(30))
                .or("30s"),
            ffmpeg,
            lease: env::lease(from),
            ahead_max: from
                .setting(
                    "ahead-max",
                    "speech waiting for inference, per shard and lane, before decoding pauses",
                )
                .or("30min"),
        }
    }

    /// Returns how the stage loop is to run.
    pub fn stage(&self) -> Options {
        let high = self.ahead_max.as_millis() as u64;
        // 16 kHz mono i16 is 32 bytes a millisecond.
        let limits = Limits {
            audio_ms_high: high,
            audio_ms_low: high * 2 / 3,
            bytes_high: high * 32,
            bytes_low: high * 32 * 2 / 3,
            ..Limits::default()
        };
        Options {
            outlet: Some(Queue::Segments),
            limits,
            ..Options::new("decode", Inlet::Queue(Queue::Decode)).with_lease(self.lease)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use service::env::Map;

    #[test]
    fn pressure_follows_the_setting() {
        let args = ["--ahead-max=3min".to_owned()];
        let loaded = env::load("voiceforge-decode", "", &args, &Map::new(), Config::read).unwrap();
        let options = loaded.config.stage();
        assert_eq!((options.limits.audio_ms_high, options.limits.audio_ms_low), (180_000, 120_000));
        assert_eq!(options.limits.bytes_high, 5_760_000);
        assert!(loaded.config.ffmpeg.is_none(), "off unless asked for");
    }
}
