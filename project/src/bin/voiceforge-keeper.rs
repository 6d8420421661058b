//! `voiceforge-keeper`: the chores of a deployment.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use project::config::KeeperConfig;
use project::keeper::Keeper;
use project::project::open;
use service::Service;
use service::store::AudioStore;
use streams::redis::RedisLog;

fn main() -> ExitCode {
    service::run(
        "voiceforge-keeper",
        "Hands missing drops in again, erases what is deleted or too old, trims archived logs, does reprocessing runs.",
        KeeperConfig::read,
        run,
    )
}

async fn run(config: KeeperConfig, service: Service) -> anyhow::Result<()> {
    service.readiness.expect("redis");
    let store = AudioStore::open(&config.audio_store).context("open the audio store")?;
    let redis = streams::redis::Config::new(config.redis.url.as_str(), config.redis.shards);
    let log: streams::SharedLog = Arc::new(RedisLog::connect(redis).await.context("connect to redis")?);
    service.readiness.ok("redis", format!("connected to {}", config.redis.url));
    let token = service.shutdown.token();
    let Some(views) = token.run_until_cancelled(open(&config.database)).await else { return Ok(()) };
    Keeper::new(log, views?, store, config).run(token).await;
    Ok(())
}
