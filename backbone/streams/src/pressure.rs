//! When a stage must pause: what it feeds is far enough behind, or Redis is filling up.

use crate::log::{Backlog, Health};

/// High and low water. Between the two a stage keeps doing what it did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Pause above this much undone audio downstream, in milliseconds.
    pub audio_ms_high: u64,
    /// Go on below this much.
    pub audio_ms_low: u64,
    /// Pause above this much speech held in Redis, in bytes.
    pub bytes_high: u64,
    /// Go on below this much.
    pub bytes_low: u64,
    /// Pause above this share of Redis' memory limit.
    pub memory_high: f64,
    /// Go on below this share.
    pub memory_low: f64,
}

impl Default for Limits {
    /// 30 minutes of speech ahead of inference per shard and lane (58 MB of PCM), and 80 % of Redis' memory.
    fn default() -> Limits {
        Limits {
            audio_ms_high: 30 * 60_000,
            audio_ms_low: 20 * 60_000,
            bytes_high: 64 << 20,
            bytes_low: 48 << 20,
            memory_high: 0.80,
            memory_low: 0.70,
        }
    }
}

impl Limits {
    /// Tells whether to be paused now, given whether one is already.
    pub fn paused(&self, paused: bool, downstream: Backlog, health: Health) -> bool {
        if paused {
            downstream.audio_ms > self.audio_ms_low
                || downstream.bytes > self.bytes_low
                || health.memory_share > self.memory_low
        } else {
            downstream.audio_ms > self.audio_ms_high
                || downstream.bytes > self.bytes_high
                || health.memory_share > self.memory_high
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pausing_has_slack_between_high_and_low_water() {
        let limits = Limits::default();
        let behind = |minutes: u64| Backlog { audio_ms: minutes * 60_000, ..Backlog::default() };
        let fine = Health::default();
        assert!(!limits.paused(false, behind(25), fine), "between the marks: as before");
        assert!(limits.paused(true, behind(25), fine), "between the marks: as before");
        assert!(limits.paused(false, behind(31), fine));
        assert!(!limits.paused(true, behind(19), fine));
        assert!(limits.paused(false, behind(0), Health { memory_share: 0.81 }));
        assert!(limits.paused(false, Backlog { bytes: 65 << 20, ..Backlog::default() }, fine));
    }
}
