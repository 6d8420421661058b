//! A connection whose other end is gone without a word.

use std::time::Duration;

use streams::Log;
use streams::redis::{Config, RedisLog};

use super::proxy::Proxy;
use super::server::Server;

/// Longer than a reply may take, and much shorter than a system keeps a silent connection.
const PATIENCE: Duration = Duration::from_secs(30);

async fn line() -> Option<(Server, Proxy, RedisLog)> {
    let server = Server::start()?;
    let proxy = Proxy::start(&server, |_, _| false);
    let log = RedisLog::connect(Config::new(proxy.url(), 1)).await.expect("connect through the line");
    log.health().await.expect("the line is good");
    Some((server, proxy, log))
}

#[tokio::test]
async fn a_silent_connection_is_replaced() {
    let Some((_server, proxy, log)) = line().await else { return };
    proxy.silence();
    tokio::time::timeout(PATIENCE, log.health()).await.expect("an answer").expect("by a new connection");
}

#[tokio::test]
async fn a_caller_without_patience_leaves_a_good_line_to_the_next() {
    let Some((_server, proxy, log)) = line().await else { return };
    proxy.silence();
    let impatient = tokio::time::timeout(Duration::from_secs(3), log.health()).await;
    assert!(impatient.is_err(), "the connection was silent");
    tokio::time::timeout(Duration::from_secs(2), log.health()).await.expect("at once").expect("an answer");
}
