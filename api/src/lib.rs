//! The HTTP API: audio in, transcripts out.
//!
//! - [`routes`]: the whole route table on one page. [`reply`]: what goes back, and where an error becomes a status.
//! - [`recordings`], [`transcripts`], [`openai`], [`backlog`]: the handlers, each with its OpenAPI text beside it;
//!   [`openapi`] gathers that.
//! - [`generations`]: runs that transcribe recordings again; [`compare`]: the transcriptions of one recording.
//! - [`deletions`]: what is deleted, and how far its erasure is.
//! - [`dead`], [`survey`]: for operators: what was given up, and how everything stands.
//! - [`upload`]: a body on its way into the audio store. [`drops`]: a drop taken in, found again and waited for.
//! - [`options`]: what an upload asks for.
//! - [`keys`]: who is calling, and how often they may. [`pressure`]: whether there is room for more.
//! - [`call`], [`params`], [`json`]: a request's headers, query, form and JSON. [`api`]: what all handlers share.
//!
//! Handlers read the read side and hand drops to the queue; they never touch a model, and nothing here waits for one
//! but the requests that asked to.

pub mod api;
pub mod backlog;
pub mod call;
pub mod compare;
pub mod config;
pub mod dead;
pub mod deletions;
pub mod drops;
pub mod generations;
pub mod json;
pub mod keys;
pub mod metrics;
pub mod openai;
pub mod openapi;
pub mod options;
pub mod params;
pub mod pressure;
pub mod recordings;
pub mod reply;
pub mod routes;
pub mod survey;
pub mod transcripts;
pub mod upload;

pub use api::{Api, Parts};
pub use config::Config;

use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How often the API looks whether what it needs answers.
const PROBE_EVERY: Duration = Duration::from_secs(2);

/// Serves the API on `listener` until `shutdown` is cancelled, then lets the requests in hand end. Those who wait for a
/// transcript are told to ask again.
///
/// # Errors
/// When the listener is reachable from beyond this machine and there are no API keys.
pub async fn serve(listener: TcpListener, api: Api, shutdown: CancellationToken) -> anyhow::Result<()> {
    let address = listener.local_addr().context("read the address that is served")?;
    api.keys.expose(address.ip()).await?;
    metrics::describe();
    api.readiness.expect("redis");
    api.readiness.expect("database");
    let probing = tokio::spawn(probe(api.clone()));
    tracing::info!(%address, "the API is open");

    let ending = api.ending.clone();
    let stop = async move {
        shutdown.cancelled().await;
        ending.cancel();
    };
    warp::serve(routes::all(&api)).incoming(listener).graceful(stop).run().await;
    probing.abort();
    Ok(())
}

/// Keeps the readiness checks up to date.
async fn probe(api: Api) {
    let mut tick = tokio::time::interval(PROBE_EVERY);
    loop {
        tick.tick().await;
        match api.ask(api.log.health()).await {
            Ok(_) => api.readiness.ok("redis", "answers"),
            Err(error) => api.readiness.failed("redis", error.detail.unwrap_or(error.message)),
        }
        match api.views.check().await {
            Ok(()) => api.readiness.ok("database", "answers"),
            Err(error) => api.readiness.failed("database", error.to_string()),
        }
    }
}
