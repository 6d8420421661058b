//! A GPU against the processor, and against its own limits: what `cargo xtask gpu` runs.

pub mod check;
pub mod geometry;
pub mod ops;
pub mod windows;

/// The one in the middle.
fn median(times: &mut [f64]) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
