//! Settings that several programs share, so that they have one name, one meaning and one default.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{Reader, Url, Value, choice};
use crate::telemetry::{self, Format};

/// Where the streams are.
#[derive(Debug, Clone)]
pub struct Redis {
    /// `--redis-url`: address of Redis.
    pub url: Url,
    /// `--shards`: how many shards this deployment has.
    pub shards: u16,
}

impl Redis {
    /// Reads `redis-url` and `shards`.
    pub fn read(from: &mut Reader) -> Redis {
        Redis {
            url: from
                .setting("redis-url", "address of Redis, which holds the streams")
                .or("redis://127.0.0.1:6379"),
            shards: from
                .setting("shards", "number of shards; set once for a deployment, the same for every program")
                .within(1..=1024)
                .or("1"),
        }
    }
}

/// Where transcripts are kept.
#[derive(Debug, Clone)]
pub struct Database {
    /// `--database-url`: address of PostgreSQL.
    pub url: Url,
}

impl Database {
    /// Reads `database-url`.
    pub fn read(from: &mut Reader) -> Database {
        let url = from
            .setting("database-url", "address of PostgreSQL, with TimescaleDB where there is one")
            .or("postgres://postgres@127.0.0.1:5432/voiceforge");
        Database { url }
    }
}

/// Reads `lease`: how long a worker may be silent before others take its work.
pub fn lease(from: &mut Reader) -> Duration {
    from.setting("lease", "how long a worker may be silent before others take its work")
        .within(Duration::from_secs(1)..=Duration::from_secs(600))
        .or("15s")
}

/// Reads `audio-store`: the folder or URL for [`AudioStore::open`](crate::store::AudioStore::open).
pub fn audio_store(from: &mut Reader) -> String {
    let default = data_folder(from).join("audio");
    from.setting("audio-store", "where audio is kept: a folder, or a URL such as s3://bucket/folder")
        .or(default.show())
}

/// Reads `models`: the folder with one folder of weights for each model.
pub fn models(from: &mut Reader) -> PathBuf {
    let default = data_folder(from).join("models");
    from.setting("models", "folder with one folder of weights for each model").or(default.show())
}

/// The folder for data when none is set: `$XDG_DATA_HOME/voiceforge`, `~/.local/share/voiceforge`, or for a service
/// without a home `/var/lib/voiceforge`.
pub fn data_folder(from: &Reader) -> PathBuf {
    let by_home = || from.foreign("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let base = from.foreign("XDG_DATA_HOME").map(PathBuf::from).or_else(by_home);
    base.unwrap_or_else(|| PathBuf::from("/var/lib")).join("voiceforge")
}

/// What every program has; [`run`](crate::run) reads it.
#[derive(Debug, Clone)]
pub struct Common {
    /// `--log`: which messages are written.
    pub log: String,
    /// `--log-format`: for people or for machines.
    pub log_format: Format,
    /// `--admin`: address for health and metrics.
    pub admin: SocketAddr,
    /// `--admin-file`: where the bound admin address is written.
    pub admin_file: Option<PathBuf>,
    /// `--shutdown-grace`: how long the work in hand may take after a signal.
    pub shutdown_grace: Duration,
}

impl Common {
    /// Reads the settings of every program.
    pub fn read(from: &mut Reader) -> Common {
        from.heading("Every program");
        Common {
            log: from
                .setting(
                    "log",
                    "which messages to write: a level, or levels by module such as info,decode=debug",
                )
                .check(|filter: &String| telemetry::check_filter(filter))
                .or("info"),
            log_format: from.setting("log-format", "how messages are written").or("pretty"),
            admin: from
                .setting("admin", "address of /health and /metrics; port 0 takes any free one and says which")
                .or("127.0.0.1:0"),
            admin_file: from
                .setting("admin-file", "file that gets the bound admin address")
                .optional("/run/voiceforge/decode.admin"),
            shutdown_grace: from
                .setting("shutdown-grace", "how long work in hand may take to end after SIGTERM or SIGINT")
                .or("25s"),
        }
    }
}

impl Value for Format {
    const PLACEHOLDER: &'static str = "FORMAT";

    fn expects() -> String {
        "pretty or json".to_owned()
    }

    fn parse(text: &str) -> Result<Format, String> {
        choice(text, &[("pretty", Format::Pretty), ("json", Format::Json)])
    }

    fn show(&self) -> String {
        match self {
            Format::Pretty => "pretty",
            Format::Json => "json",
        }
        .to_owned()
    }
}
