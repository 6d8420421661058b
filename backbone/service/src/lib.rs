//! What a program is besides its work.
//!
//! - [`mod@env`]: its settings, from flags and `VOICEFORGE_*` variables, with every mistake reported at once.
//! - [`telemetry`]: its messages, its metrics, and the trace context that events carry.
//! - [`admin`]: its admin port with health and metrics.
//! - [`shutdown`]: its end, with grace for the work in hand.
//! - [`store`]: the audio store, which several stages share.
//!
//! [`run`] puts them in order, so that a `main.rs` says only what is special about its program:
//!
//! ```no_run
//! use std::process::ExitCode;
//! use service::{Service, env::{Reader, Redis}};
//!
//! struct Config {
//!     redis: Redis,
//! }
//!
//! impl Config {
//!     fn read(from: &mut Reader) -> Config {
//!         Config { redis: Redis::read(from) }
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     service::run("voiceforge-decode", "Cuts recordings into segments of speech.", Config::read, decode)
//! }
//!
//! async fn decode(config: Config, service: Service) -> anyhow::Result<()> {
//!     service.readiness.ok("redis", format!("connected to {}", config.redis.url));
//!     service.shutdown.wait().await;
//!     Ok(())
//! }
//! ```

pub mod admin;
mod chain;
pub mod env;
pub mod shutdown;
pub mod store;
pub mod telemetry;

mod run;

pub use admin::Readiness;
pub use chain::chain;
pub use run::{BAD_CONFIGURATION, Service, install_tls, run};
pub use shutdown::Shutdown;
