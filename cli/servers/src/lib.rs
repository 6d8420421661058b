//! A private redis-server and a private PostgreSQL, each in one folder: started, found again, stopped.
//!
//! Nothing of the user's own servers is touched: ports are free ones on loopback, data and logs stay in the folder.
//! Both survive what a `kill -9` leaves behind (stale pid files, an old server still running in the folder).
//! Plain blocking code without an async runtime, so that small programs can use it too.

pub mod find;
mod folder;
pub mod postgres;
pub mod process;
pub mod redis;
#[cfg(test)]
mod tests;

pub use postgres::Postgres;
pub use process::{Identity, Running};
pub use redis::Redis;

use anyhow::Context as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

/// Returns a port on loopback that nobody listens on: `wished` when it is free, else one the system picks.
///
/// Somebody may take it before it is used, so a start that finds its port taken asks again.
pub fn free_port(wished: Option<u16>) -> std::io::Result<u16> {
    let bind = |port| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    if let Some(port) = wished
        && bind(port).is_ok()
    {
        return Ok(port);
    }
    Ok(bind(0)?.local_addr()?.port())
}

/// How long a log is now, in bytes: where the next start's own lines begin.
fn length_of(log: &Path) -> usize {
    log.metadata().map_or(0, |m| m.len() as usize)
}

/// The last lines of a log written since it had `from` bytes, for an error message.
fn tail_of(log: &Path, from: usize) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(bytes.get(from..).unwrap_or_default());
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// Opens a log to append to; the folder is made when missing.
fn open_log(log: &Path) -> anyhow::Result<std::fs::File> {
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("make folder {}", folder.display()))?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true).open(log).with_context(|| format!("open {}", log.display()))
}
