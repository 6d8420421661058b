//! Measurements of a whole deployment: the release programs as processes, with a Redis and a PostgreSQL of their own.
//!
//! - [`latency`]: from a drop to its transcript, less decoding and the model. [`reads`]: transcripts read over HTTP.
//!   [`memory`]: what the programs keep while a million facts go by.
//! - [`detection`]: the speech detector, as a library.
//! - [`private`]: the deployment. [`numbers`]: quantiles and schedules. [`processes`]: what the system tells of processes.
//!   [`scrape`]: what programs tell of themselves.
//!
//! Each gives the body of its page, in Markdown; `cargo xtask bench` writes the page.

pub mod detection;
pub mod latency;
pub mod memory;
pub mod numbers;
pub mod private;
pub mod processes;
pub mod reads;
pub mod scrape;
