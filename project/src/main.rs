//! `voiceforge-project`: folds the facts of every shard into the read side.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use project::config::Config;
use project::project::{Project, connect};
use service::Service;
use streams::redis::RedisLog;

fn main() -> ExitCode {
    service::run("voiceforge-project", "Folds the facts into searchable transcripts.", Config::read, run)
}

async fn run(config: Config, service: Service) -> anyhow::Result<()> {
    service.readiness.expect("redis");
    service.readiness.expect("database");
    let redis = streams::redis::Config::new(config.redis.url.as_str(), config.redis.shards);
    let log: streams::SharedLog = Arc::new(RedisLog::connect(redis).await.context("connect to redis")?);
    service.readiness.ok("redis", format!("connected to {}", config.redis.url));
    let Some(views) = service.shutdown.token().run_until_cancelled(connect(&config)).await else {
        return Ok(());
    };
    let (views, installed) = views?;
    tracing::info!(%installed, "database ready");
    service.readiness.ok("database", installed.to_string());
    let stage = Arc::new(Project::start(views, config.batch));
    streams::stage::run(
        log,
        stage,
        config.stage().ending_within(service.shutdown.grace()),
        service.shutdown.token(),
    )
    .await
    .context("run the stage loop")
}
