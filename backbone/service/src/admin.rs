//! The admin port of a program: `/health`, `/health/live`, `/health/ready` and `/metrics`.
//!
//! It is served on a thread of its own with its own small runtime, so that probes are answered while the data path
//! keeps every other thread busy.

mod readiness;

pub use readiness::{Check, Health, Readiness, State};

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use warp::reply::Response;

use crate::shutdown::Shutdown;
use crate::telemetry;

/// The admin port, which is served until this is dropped: a program that is ending still answers.
#[derive(Debug)]
pub struct Admin {
    /// The address that was bound, with its real port.
    pub addr: SocketAddr,
    _stop: DropGuard,
}

/// Why there is no admin port.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Another program has the port.
    #[error(
        "the admin address {addr} is taken by another program; choose another with --admin or VOICEFORGE_ADMIN (port 0 takes any free one)"
    )]
    Taken {
        /// The address asked for.
        addr: SocketAddr,
    },
    /// The address cannot be bound.
    #[error("bind the admin address {addr} (--admin, VOICEFORGE_ADMIN)")]
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The thread or its runtime cannot start.
    #[error("start the admin thread")]
    Start(#[from] io::Error),
}

/// Serves the admin port of `program` on `addr`. Once the shutdown is requested, the program is no longer ready.
/// Without `metrics`, `/metrics` is 404.
///
/// # Errors
/// When the address cannot be bound, or the thread not be started.
pub fn serve(
    addr: SocketAddr,
    program: &'static str,
    readiness: &Readiness,
    metrics: Option<PrometheusHandle>,
    shutdown: &Shutdown,
) -> Result<Admin, AdminError> {
    let listener = TcpListener::bind(addr).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => AdminError::Taken { addr },
        _ => AdminError::Bind { addr, source },
    })?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };

    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let upkeep = metrics.clone();
    let routes = routes(program, readiness, metrics);
    let (readiness, ending) = (readiness.clone(), shutdown.token());
    let work = async move {
        tokio::spawn(warp::serve(routes).incoming(listener).run());
        tokio::spawn(async move {
            ending.cancelled().await;
            readiness.end();
        });
        if let Some(metrics) = upkeep {
            tokio::spawn(keep_up(metrics));
        }
        stopped.cancelled().await;
    };
    std::thread::Builder::new().name("admin".to_owned()).spawn(move || runtime.block_on(work))?;
    tracing::info!(%addr, "admin port is open");
    Ok(Admin { addr, _stop: stop.drop_guard() })
}

/// The routes of the admin port, for a program that also offers them on a port of its own.
pub fn routes(
    program: &'static str,
    readiness: &Readiness,
    metrics: Option<PrometheusHandle>,
) -> BoxedFilter<(Response,)> {
    let readiness = readiness.clone();
    let health = move || readiness.health(program);
    let state = {
        let health = health.clone();
        warp::path!("health").map(move || reply_json(StatusCode::OK, &health()))
    };
    let live = warp::path!("health" / "live")
        .map(move || reply_json(StatusCode::OK, &serde_json::json!({ "state": "live" })));
    let ready = warp::path!("health" / "ready").map(move || {
        let health = health();
        let status =
            if health.state == State::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        reply_json(status, &health)
    });
    let metrics =
        warp::path!("metrics").and(
            warp::any().and_then(move || {
                let text = metrics.as_ref().map(telemetry::render).ok_or_else(warp::reject::not_found);
                async move {
                    text.map(|text| reply(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text))
                }
            }),
        );
    warp::get()
        .or(warp::head())
        .unify()
        .and(state.or(live).unify().or(ready).unify().or(metrics).unify())
        .boxed()
}

/// Writes the bound address, with a newline, into `file`, so that whoever asked for port 0 finds it. The file appears
/// whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn write_addr(file: &Path, addr: SocketAddr) -> io::Result<()> {
    let mut unfinished = file.as_os_str().to_owned();
    unfinished.push(format!(".{}", std::process::id()));
    std::fs::write(&unfinished, format!("{addr}\n"))?;
    std::fs::rename(&unfinished, file)
}

/// Folds recorded samples into the histograms now and then: without it they pile up while nobody scrapes.
async fn keep_up(metrics: PrometheusHandle) {
    let mut tick = tokio::time::interval(Duration::from_secs(5));
    loop {
        tick.tick().await;
        metrics.run_upkeep();
    }
}

fn reply_json(status: StatusCode, value: &impl serde::Serialize) -> Response {
    let text = serde_json::to_string(value).expect("a struct with text keys becomes JSON");
    reply(status, "application/json", text)
}

fn reply(status: StatusCode, content_type: &'static str, text: String) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, warp::http::HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, warp::http::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
