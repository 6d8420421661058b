//! The settings of `voiceforge-ingest`.

use std::time::Duration;

use service::env::{self, ByteSize, Reader, Redis};
use streams::stage::{Inlet, Options};

use crate::Rules;
use crate::source::Roots;

/// What an operator can set.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the streams are.
    pub redis: Redis,
    /// Where the audio goes.
    pub audio_store: String,
    /// What a drop may be.
    pub rules: Rules,
    /// Where a drop's uri may point.
    pub roots: Roots,
    /// How long a worker may be silent before others take its drops.
    pub lease: Duration,
}

impl Config {
    /// Reads the settings.
    pub fn read(from: &mut Reader) -> Config {
        let redis = Redis::read(from);
        let audio_store = env::audio_store(from);
        let inline_bytes_max: ByteSize = from
            .setting("max-inline-bytes", "largest audio that may travel in the drop itself")
            .within(ByteSize::KIB..=ByteSize(512 << 20))
            .or("64MiB");
        let bytes_max: ByteSize = from
            .setting("max-bytes", "largest audio file taken in")
            .within(ByteSize::KIB..=ByteSize::TIB)
            .or("2GiB");
        let rules = Rules {
            model: from.setting("model", "model of drops that name none").or("tiny.en"),
            inline_bytes_max: inline_bytes_max.0,
            bytes_max: bytes_max.0,
            duration_max: from.setting("max-duration", "longest recording taken in").or("12h"),
            slots: from.setting("ingest-slots", "drops in hand at once").within(1..=64).or("4"),
        };
        Config { redis, audio_store, rules, roots: Roots::read(from), lease: env::lease(from) }
    }

    /// Returns how the stage loop is to run.
    pub fn stage(&self) -> Options {
        Options::new("ingest", Inlet::Drops).with_lease(self.lease)
    }
}

#[cfg(test)]
mod tests {
    use service::env::{LoadError, Map};

    use super::*;

    fn load(args: &[&str]) -> Result<Config, String> {
        env::load("voiceforge-ingest", "", args, &Map::new(), Config::read)
            .map(|loaded| loaded.config)
            .map_err(|error| match error {
                LoadError::Mistakes(mistakes) => mistakes.mistakes.join("\n"),
                other => other.to_string(),
            })
    }

    #[test]
    fn defaults_allow_nothing_but_bytes() {
        let config = load(&[]).unwrap();
        assert!(config.roots.uris.is_empty() && !config.roots.web);
        assert_eq!((config.rules.inline_bytes_max, config.rules.bytes_max), (64 << 20, 2 << 30));
        assert_eq!((config.rules.duration_max.as_secs(), config.rules.slots), (12 * 3600, 4));
        assert_eq!(config.rules.model, "tiny.en");
    }

    #[test]
    fn roots_are_a_list_and_a_bad_one_is_told() {
        let config = load(&["--uri-roots=file:///srv/audio,s3://bucket/calls", "--uri-web"]).unwrap();
        assert_eq!((config.roots.uris.len(), config.roots.web), (2, true));
        let told = load(&["--uri-roots=http://host/", "--max-bytes=1"]).unwrap_err();
        assert!(told.contains("is neither a folder such as file:///srv/audio nor a bucket"), "{told}");
        assert!(told.contains("--max-bytes"), "{told}");
    }
}
