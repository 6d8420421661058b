//! What an operator can set.

use std::net::SocketAddr;
use std::time::Duration;

use service::env::{self, ByteSize, Database, Reader, Redis};

/// The settings of `voiceforge-api`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the queue is.
    pub redis: Redis,
    /// Where transcripts are read.
    pub database: Database,
    /// Where audio goes: a folder or a URL.
    pub audio_store: String,
    /// Where to listen.
    pub address: SocketAddr,
    /// How much is taken from whom.
    pub limits: Limits,
}

/// How much is taken, from one key and from all.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Requests a second of one key, over time.
    pub rate: u32,
    /// Requests of one key at once.
    pub burst: u32,
    /// Bytes of one upload.
    pub upload: ByteSize,
    /// How long an upload may stand still.
    pub upload_idle: Duration,
    /// Uploads at the same time, of all keys.
    pub uploads: usize,
    /// How long a request may wait for a result.
    pub wait: Duration,
    /// Undone audio in the batch lane above which new audio is turned away.
    pub backlog: Duration,
    /// Undone audio in the rt lane above which new audio is turned away.
    pub backlog_rt: Duration,
    /// Undone entries of a lane above which new audio is turned away, however short they are.
    pub backlog_entries: u64,
    /// Share of Redis' memory limit above which new audio is turned away.
    pub redis_memory: f64,
    /// Free space that the audio store's disk must keep.
    pub store_reserve: ByteSize,
}

impl Config {
    /// Reads every setting.
    pub fn read(from: &mut Reader) -> Config {
        let config = Config {
            redis: Redis::read(from),
            database: Database::read(from),
            audio_store: env::audio_store(from),
            address: from
                .setting("api-address", "address to serve; beyond this machine only once there are API keys")
                .or("127.0.0.1:8080"),
            limits: Limits::read(from),
        };
        if config.limits.burst < config.limits.rate {
            from.mistake("api-burst", "must be at least --api-rate, or that rate is never reached");
        }
        config
    }
}

impl Limits {
    /// Reads the limits.
    pub fn read(from: &mut Reader) -> Limits {
        from.heading("Limits");
        Limits {
            rate: from.setting("api-rate", "requests a second for each key").within(1..=100_000).or("50"),
            burst: from.setting("api-burst", "requests of one key at once").within(1..=100_000).or("100"),
            upload: from
                .setting("api-upload-limit", "largest upload")
                .within(ByteSize::KIB..=ByteSize::TIB)
                .or("2GiB"),
            upload_idle: from
                .setting("api-upload-idle", "how long an upload may stand still before it is given up")
                .within(Duration::from_millis(100)..=Duration::from_secs(3600))
                .or("30s"),
            uploads: from.setting("api-uploads", "uploads at the same time").within(1..=10_000).or("64"),
            wait: from
                .setting("api-wait-limit", "longest time a request may wait for its result")
                .within(Duration::from_secs(1)..=Duration::from_secs(3600))
                .or("590s"),
            backlog: from
                .setting("api-backlog-limit", "undone audio in the batch lane above which new audio gets 429")
                .or("24h"),
            backlog_rt: from
                .setting("api-backlog-limit-rt", "undone audio in the rt lane above which new audio gets 429")
                .or("2h"),
            backlog_entries: from
                .setting("api-backlog-entries", "undone entries of a lane above which new audio gets 429")
                .or("100000"),
            redis_memory: from
                .setting("api-redis-memory", "share of Redis' memory limit above which new audio gets 429")
                .within(0.0..=1.0)
                .or("0.85"),
            store_reserve: from
                .setting(
                    "api-store-reserve",
                    "free space the disk of the audio store must keep; less gives 429",
                )
                .or("512MiB"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use service::env::{LoadError, Map};

    fn load(args: &[&str], variables: Map) -> Result<Config, String> {
        match env::load("voiceforge-api", "", args, &variables, Config::read) {
            Ok(loaded) => Ok(loaded.config),
            Err(LoadError::Mistakes(mistakes)) => Err(mistakes.mistakes.join("\n")),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn the_address_is_this_machine_unless_set() {
        assert_eq!(load(&[], Map::new()).unwrap().address, "127.0.0.1:8080".parse().unwrap());
        let variables = Map::from([("VOICEFORGE_API_ADDRESS", "0.0.0.0:9000")]);
        assert_eq!(load(&[], variables).unwrap().address, "0.0.0.0:9000".parse().unwrap());
    }

    #[test]
    fn every_mistake_is_told() {
        let told =
            load(&["--api-rate=0", "--api-upload-limit=2GB1"], Map::from([("VOICEFORGE_API_BURST", "x")]));
        let told = told.unwrap_err();
        for name in ["--api-rate", "--api-upload-limit", "VOICEFORGE_API_BURST"] {
            assert!(told.contains(name), "{told}");
        }
        assert!(load(&["--api-rate=50", "--api-burst=10"], Map::new()).unwrap_err().contains("--api-burst"));
    }
}
