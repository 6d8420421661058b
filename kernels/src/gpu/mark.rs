//! Points in time on a device, for measurements.

use std::time::Duration;

use cudarc::driver::CudaEvent;

use super::error::failed;
use crate::device::Error;

/// The moment at which everything that was asked for before is done.
#[derive(Debug)]
pub struct Mark(pub(super) CudaEvent);

impl Mark {
    /// The time from this one to a later one, by the device's clock (half a microsecond is its step). Waits for both.
    pub fn until(&self, later: &Mark) -> Result<Duration, Error> {
        let milliseconds = self.0.elapsed_ms(&later.0).map_err(failed("measure"))?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }
}
