//! The API over a memory log, a temporary audio store and a PostgreSQL database of each test's own
//! (`VOICEFORGE_TEST_POSTGRES`). The stages behind it are stood in for by the events they would write.

mod support;

mod auth;
mod dead;
mod deletion;
mod drops;
mod generations;
mod limits;
mod openai;
mod openapi;
mod reading;
mod wire;
