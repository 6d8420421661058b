//! `voiceforge-decode`: takes recordings from the decode queues and leaves segments of speech.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use decode::config::Config;
use decode::decode::Decode;
use service::Service;
use service::store::AudioStore;
use streams::redis::RedisLog;

fn main() -> ExitCode {
    service::run(
        "voiceforge-decode",
        "Decodes recordings and cuts them into segments of speech.",
        Config::read,
        run,
    )
}

async fn run(config: Config, service: Service) -> anyhow::Result<()> {
    let store = AudioStore::open(&config.audio_store).context("open the audio store")?;
    service.readiness.expect("redis");
    let redis = streams::redis::Config::new(config.redis.url.as_str(), config.redis.shards);
    let log: streams::SharedLog = Arc::new(RedisLog::connect(redis).await.context("connect to redis")?);
    service.readiness.ok("redis", format!("connected to {}", config.redis.url));
    let options = config.stage().ending_within(service.shutdown.grace());
    let stage = Arc::new(Decode::new(Arc::clone(&log), store, config));
    streams::stage::run(log, stage, options, service.shutdown.token()).await.context("run the stage loop")
}
