//! What must hold when things go wrong: row by row, and many at once on a seeded schedule.

mod aof;
mod bench;
mod log;
mod schedule;
mod servers;
mod workers;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Whether tests that take minutes were asked for by name; says plainly that they are skipped otherwise.
fn is_asked_for() -> bool {
    let asked = std::env::var_os("VOICEFORGE_TEST_ROWS").is_some();
    if !asked {
        println!("skipped: it takes minutes; `cargo xtask test NAME` runs it");
    }
    asked
}

/// One at a time: a deployment takes the whole machine.
fn machine() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}
