//! `voiceforge-infer`: takes segments from the segment queues and leaves their text.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use infer::config::Config;
use infer::infer::Infer;
use service::Service;
use streams::redis::RedisLog;
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    service::run("voiceforge-infer", "Transcribes segments of speech with Whisper.", Config::read, run)
}

async fn run(config: Config, service: Service) -> anyhow::Result<()> {
    service.readiness.expect("redis");
    service.readiness.expect("models");
    let redis = streams::redis::Config::new(config.redis.url.as_str(), config.redis.shards);
    let log: streams::SharedLog = Arc::new(RedisLog::connect(redis).await.context("connect to redis")?);
    service.readiness.ok("redis", format!("connected to {}", config.redis.url));
    let options = config.stage().ending_within(service.shutdown.grace());
    let stage = Arc::new(Infer::start(Arc::clone(&log), config).await?);
    service.readiness.ok("models", stage.models().join(", "));
    let (lost, ending) = (stage.lost(), service.shutdown.token().child_token());
    tokio::spawn(end_with(lost.clone(), ending.clone()));
    // What is in hand is handed back before it ends.
    streams::stage::run(log, stage, options, ending).await.context("run the stage loop")?;
    anyhow::ensure!(
        !lost.is_cancelled(),
        "the GPU is lost to this process: start it again, as a supervisor does"
    );
    Ok(())
}

async fn end_with(lost: CancellationToken, ending: CancellationToken) {
    lost.cancelled().await;
    ending.cancel();
}
