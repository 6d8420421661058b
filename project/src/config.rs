//! The settings of `voiceforge-project` and `voiceforge-keeper`.

use std::time::Duration;

use service::env::{self, Database, Reader, Redis};
use streams::stage::{Inlet, Options};

/// What an operator of `voiceforge-project` can set.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the streams are.
    pub redis: Redis,
    /// Where the tables are.
    pub database: Database,
    /// Facts applied in one transaction at most.
    pub batch: usize,
    /// How old transcripts may get on TimescaleDB before they are dropped; `None` keeps them.
    pub retain: Option<Duration>,
    /// How old transcripts get on TimescaleDB before they are compressed.
    pub compress_after: Option<Duration>,
}

impl Config {
    /// Reads the settings.
    pub fn read(from: &mut Reader) -> Config {
        Config {
            redis: Redis::read(from),
            database: Database::read(from),
            batch: from
                .setting("batch", "facts applied in one transaction at most")
                .within(1..=10_000)
                .or("500"),
            retain: from
                .setting("retain", "age at which TimescaleDB drops transcripts; unset keeps them for ever")
                .optional("365d"),
            compress_after: from
                .setting(
                    "compress-after",
                    "age at which TimescaleDB compresses transcripts; unset takes its default",
                )
                .optional("7d"),
        }
    }

    /// Returns how the stage loop is to run. Two batches may be in hand: one in a transaction, one gathering.
    pub fn stage(&self) -> Options {
        Options::new("project", Inlet::Facts)
    }
}

/// What an operator of `voiceforge-keeper` can set.
#[derive(Clone, Debug)]
pub struct KeeperConfig {
    /// Where the streams are.
    pub redis: Redis,
    /// Where the tables are.
    pub database: Database,
    /// Where the audio is.
    pub audio_store: String,
    /// How often the chores are looked at.
    pub every: Duration,
    /// How long an accepted drop may be without an end before it is handed in again.
    pub missing_after: Duration,
    /// Whether archived facts are removed from the logs.
    pub trim: bool,
}

impl KeeperConfig {
    /// Reads the settings.
    pub fn read(from: &mut Reader) -> KeeperConfig {
        KeeperConfig {
            redis: Redis::read(from),
            database: Database::read(from),
            audio_store: env::audio_store(from),
            every: from.setting("keeper-every", "how often the chores are looked at").or("10s"),
            missing_after: from
                .setting(
                    "missing-after",
                    "how long an accepted drop may be without an end before it is handed in again",
                )
                .or("2min"),
            trim: from.setting("trim", "remove archived facts from the logs").or("true"),
        }
    }
}
