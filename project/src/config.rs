//! The settings of `voiceforge-project` and `voiceforge-keeper`.

use std::time::Duration;

use service::env::{self, Database, Reader, Redis, Value};
use streams::stage::{Inlet, Options};
use views::Policies;

/// What an operator of `voiceforge-project` can set.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the streams are.
    pub redis: Redis,
    /// Where the tables are.
    pub database: Database,
    /// Facts applied in one transaction at most.
    pub batch: usize,
    /// How long a projector may be silent before others take its facts.
    pub lease: Duration,
    /// What TimescaleDB does with old data.
    pub policies: Policies,
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
            lease: env::lease(from),
            policies: Policies {
                retain_events: from
                    .setting("retain-events", "age at which TimescaleDB drops archived events; unset keeps them, and a rebuild needs them")
                    .optional("730d"),
                retain_segments: from
                    .setting("retain-segments", "age at which TimescaleDB drops transcripts; unset keeps them")
                    .optional("365d"),
                compress_events_after: Some(
                    from.setting("compress-events-after", "age at which TimescaleDB compresses archived events").or("7d"),
                ),
                compress_segments_after: Some(
                    from.setting("compress-segments-after", "age at which TimescaleDB compresses transcripts: search is slower in them")
                        .or("90d"),
                ),
            },
        }
    }

    /// Returns how the stage loop is to run.
    pub fn stage(&self) -> Options {
        Options::new("project", Inlet::Facts).with_lease(self.lease)
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
    /// How often the reprocessing runs are looked at while nothing of them moves.
    pub runs_every: Duration,
    /// How much undone audio the replay lane may hold before a run requests no more.
    pub replay_ahead: Duration,
    /// How often is looked for what is older than it is kept.
    pub retain_every: Duration,
    /// How long what was erased may stay in the append-only file of Redis.
    pub rewrite_after: RewriteAfter,
}

/// How long after an erasure Redis is asked to write its append-only file anew; `None` for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RewriteAfter(pub Option<Duration>);

impl Value for RewriteAfter {
    const PLACEHOLDER: &'static str = "DURATION|never";

    fn expects() -> String {
        format!("{}, or never", Duration::expects())
    }

    fn parse(text: &str) -> Result<RewriteAfter, String> {
        match text {
            "never" => Ok(RewriteAfter(None)),
            text => Duration::parse(text).map(|after| RewriteAfter(Some(after))),
        }
    }

    fn show(&self) -> String {
        self.0.map_or("never".to_owned(), |after| after.show())
    }
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
            runs_every: from
                .setting(
                    "runs-every",
                    "how often reprocessing runs are looked at while nothing of them moves",
                )
                .within(Duration::from_millis(10)..=Duration::from_secs(60))
                .or("1s"),
            replay_ahead: from
                .setting(
                    "replay-ahead",
                    "undone audio in the replay lane above which reprocessing runs request no more",
                )
                .or("10min"),
            retain_every: from
                .setting("retain-every", "how often is looked for what is older than it is kept")
                .or("10min"),
            rewrite_after: from
                .setting(
                    "rewrite-after",
                    "how long after an erasure Redis is asked to write its append-only file anew, or never",
                )
                .or("1h"),
        }
    }
}
