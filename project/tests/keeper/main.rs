//! The keeper's chores over a memory log, a temporary audio store and a PostgreSQL database of each test's own
//! (`VOICEFORGE_TEST_POSTGRES`).

mod lease;
mod runs;
mod strays;
mod world;
