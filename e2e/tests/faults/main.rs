//! What must hold when things go wrong: row by row, and many at once on a seeded schedule.

mod aof;
mod bench;
mod log;
mod schedule;
mod servers;
mod workers;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One at a time: a deployment takes the whole machine.
fn machine() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}
