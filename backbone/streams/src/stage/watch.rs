//! Watches what is downstream and pauses lanes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use events::{Lane, Shard};
use tokio_util::sync::CancellationToken;

use super::Options;
use crate::keys::Source;
use crate::log::{Backlog, Health, SharedLog};
use crate::metrics;

/// Which lanes are paused now.
#[derive(Default)]
pub struct Pauses([AtomicBool; 3]);

impl Pauses {
    pub fn is_paused(&self, lane: Lane) -> bool {
        self.0[lane as usize].load(Ordering::Relaxed)
    }

    fn set(&self, lane: Lane, paused: bool) {
        self.0[lane as usize].store(paused, Ordering::Relaxed);
    }
}

/// How often the queues downstream are measured.
const EVERY: Duration = Duration::from_millis(500);

/// Keeps the pauses right until `over`.
pub async fn pressure(
    log: SharedLog,
    options: Options,
    pauses: std::sync::Arc<Pauses>,
    over: CancellationToken,
) {
    let Some(outlet) = options.outlet else { return };
    while !over.is_cancelled() {
        let health = log.health().await.unwrap_or(Health::default());
        let queues: Vec<Source> = Lane::ALL
            .iter()
            .flat_map(|&lane| (0..log.shards()).map(move |shard| Source::Queue(Shard(shard), outlet, lane)))
            .collect();
        let measured = log.backlogs(&queues).await.unwrap_or_default();
        for &lane in Lane::ALL {
            let mut mean = Backlog::default();
            for (_, backlog) in queues.iter().zip(&measured).filter(|(queue, _)| queue.lane() == lane) {
                mean += *backlog;
            }
            let shards = u64::from(log.shards().max(1));
            mean.audio_ms /= shards;
            mean.bytes /= shards;
            let before = pauses.is_paused(lane);
            let now = options.limits.paused(before, mean, health);
            if now != before {
                tracing::info!(stage = options.name, %lane, paused = now, downstream = ?mean, ?health, "pressure changed");
            }
            pauses.set(lane, now);
            metrics::paused(options.name, lane.as_str(), now);
        }
        tokio::time::sleep(EVERY).await;
    }
}
