//! Histories and rebuilds, with the log in memory and a real PostgreSQL: `VOICEFORGE_TEST_POSTGRES`.

#[allow(dead_code, reason = "made for the tests of views")]
#[path = "../../../backbone/views/tests/views/given.rs"]
mod given;
#[allow(dead_code, reason = "made for the tests of views")]
#[path = "../../../backbone/views/tests/views/support.rs"]
mod support;

mod history;
mod pipeline;
mod rebuild;
