//! Ctrl-C and SIGTERM as a question: what was started is stopped in order before the chore ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

static ASKED: AtomicBool = AtomicBool::new(false);

/// From now on a signal sets a flag and does not end the program. Programs it starts still get their own Ctrl-C.
pub fn on_signal() -> Result<()> {
    ctrlc::set_handler(|| ASKED.store(true, Ordering::SeqCst)).context("listen for Ctrl-C")
}

/// True once a signal came.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Waits for a signal.
pub fn wait() {
    while !asked() {
        std::thread::sleep(Duration::from_millis(50));
    }
}
