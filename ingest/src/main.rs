//! `voiceforge-ingest`: takes drops from `vf:ingest`, puts their audio into the store and admits them as recordings.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use ingest::config::Config;
use ingest::{Ingest, Sources, health, metrics};
use service::Service;
use service::store::AudioStore;
use streams::redis::RedisLog;

fn main() -> ExitCode {
    service::run("voiceforge-ingest", "Takes drops in and admits them as recordings.", Config::read, run)
}

async fn run(config: Config, service: Service) -> anyhow::Result<()> {
    metrics::describe();
    for check in ["redis", "store"] {
        service.readiness.expect(check);
    }
    let options = config.stage().ending_within(service.shutdown.grace());
    let store = AudioStore::open(&config.audio_store).context("open the audio store")?;
    let sources = Sources::open(config.roots).context("open the roots of uris")?;
    let redis = streams::redis::Config::new(config.redis.url.as_str(), config.redis.shards);
    let log: streams::SharedLog = Arc::new(RedisLog::connect(redis).await.context("connect to redis")?);

    let ended = service.shutdown.token();
    tokio::spawn(health::watch(Arc::clone(&log), store.clone(), service.readiness.clone(), ended.clone()));
    match health::remove_leftovers(&store).await {
        Ok(removed) => tracing::info!(removed, "the store is clear of broken-off fetches"),
        Err(error) => tracing::warn!(%error, "cannot look for broken-off fetches in the store"),
    }
    let stage = Arc::new(Ingest::new(Arc::clone(&log), store, sources, config.rules, service.readiness));
    streams::stage::run(log, stage, options, ended).await.context("run the stage loop")
}
