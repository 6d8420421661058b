//! The tables against a real server. `VOICEFORGE_TEST_POSTGRES`: each test makes its own database and drops it.
//! `VOICEFORGE_TEST_TIMESCALE`: a server with the TimescaleDB extension, one database for all, so one test.

mod given;
mod support;

mod apply;
mod concurrency;
mod deletion;
mod install;
mod lines;
mod queries;
mod runs;
mod timescale;
mod waiting;
