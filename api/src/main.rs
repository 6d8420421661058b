//! voiceforge-api: audio in, transcripts out, over HTTP.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use api::{Api, Config, Parts};
use service::Service;
use service::store::AudioStore;
use streams::redis::RedisLog;
use tokio::net::TcpListener;
use views::{Policies, Views};

fn main() -> ExitCode {
    service::run("voiceforge-api", "Takes audio in over HTTP and serves transcripts.", Config::read, serve)
}

async fn serve(config: Config, service: Service) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.address).await.with_context(|| {
        format!("listen on {}; choose another address with --api-address", config.address)
    })?;
    let store = AudioStore::open(&config.audio_store)?;
    let options = views::Options {
        // A client can wait for a few seconds, not for a database that is away.
        acquire_timeout: Duration::from_secs(4),
        application_name: "voiceforge-api".to_owned(),
        ..views::Options::default()
    };
    service.readiness.expect("redis");
    service.readiness.expect("database");
    let connect = async {
        let views = connect_views(&config, &options).await?;
        let log =
            RedisLog::connect(streams::redis::Config::new(config.redis.url.as_str(), config.redis.shards))
                .await?;
        anyhow::Ok((views, log))
    };
    let (views, log) = tokio::select! {
        connected = connect => connected?,
        () = service.shutdown.wait() => return Ok(()),
    };
    let api = Api::new(Parts {
        log: Arc::new(log),
        store,
        views,
        limits: config.limits,
        readiness: service.readiness.clone(),
        metrics: Some(service.metrics.clone()),
    });
    api::serve(listener, api, service.shutdown.token()).await
}

/// Connects to the database and prepares it; one that is starting is waited for.
async fn connect_views(config: &Config, options: &views::Options) -> anyhow::Result<Views> {
    loop {
        let attempt = async {
            let views = Views::connect(config.database.url.as_str(), options).await?;
            let installed = views.migrate(&Policies::default()).await?;
            Ok::<_, views::Error>((views, installed))
        };
        match attempt.await {
            Ok((views, installed)) => {
                tracing::info!("{installed}");
                return Ok(views);
            }
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, url = %config.database.url, "the database does not answer, trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(error).context("prepare the database"),
        }
    }
}
