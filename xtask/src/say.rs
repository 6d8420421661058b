//! Progress, in plain lines that read well in a terminal and in a log.

use std::fmt::Display;
use std::time::Instant;

use anyhow::Result;

/// Does a piece of work; says before what it is, and after how long it took.
pub fn step<T>(what: impl Display, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("  {what} ...");
    let begun = Instant::now();
    let result = work();
    match &result {
        Ok(_) => eprintln!("  {what}: done in {:.1} s", begun.elapsed().as_secs_f64()),
        Err(_) => eprintln!("  {what}: FAILED after {:.1} s", begun.elapsed().as_secs_f64()),
    }
    result
}

/// A heading above a few steps.
pub fn title(what: impl Display) {
    eprintln!("\n{what}");
}

/// One more thing worth knowing.
pub fn note(what: impl Display) {
    eprintln!("  {what}");
}
