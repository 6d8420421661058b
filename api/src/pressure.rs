//! Whether there is room for more work: what waits in the queues, the memory of Redis, the disk of the audio store.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use events::{Lane, Shard};
use serde::Serialize;
use service::env::ByteSize;
use service::store::{AudioStore, Key};
use streams::{Backlog, Queue, Source, Survey};
use tokio::sync::Mutex;
use utoipa::ToSchema;

use crate::api::Api;
use crate::config::Limits;
use crate::metrics;
use crate::reply::Error;

/// How long a measurement is believed.
const FRESH: Duration = Duration::from_secs(1);

/// The undone work of one queue and lane, over all shards.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct QueueBacklog {
    /// `ingest`, `decode` or `segments`.
    pub queue: &'static str,
    /// `rt`, `batch` or `replay`.
    #[schema(value_type = String)]
    pub lane: Lane,
    /// Entries that are not done, in work ones included.
    pub entries: u64,
    /// Milliseconds of audio; before decoding an estimate by the header, 0 in `ingest`.
    pub audio_ms: u64,
    /// Bytes of speech held in Redis.
    pub bytes: u64,
}

/// What was measured at one time.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Every queue and lane.
    pub queues: Vec<QueueBacklog>,
    /// Memory of Redis in use as a share of its limit, 0 without a limit.
    pub redis_memory: f64,
    /// Free bytes on the disk of the audio store; `None` when it is not on this machine.
    pub store_free: Option<u64>,
}

/// Measures at most once a second, however many ask.
pub struct Pressure {
    last: Mutex<Option<(Instant, Result<Measured, Error>)>>,
    surveyed: Mutex<Option<(Instant, Result<Survey, Error>)>>,
    folder: Option<PathBuf>,
}

impl Pressure {
    /// The pressure on everything behind the API.
    pub fn new(store: &AudioStore) -> Pressure {
        let inside = Key::new(["incoming"]).ok().and_then(|key| store.local_path(&key));
        Pressure {
            last: Mutex::default(),
            surveyed: Mutex::default(),
            folder: inside.and_then(|path| path.parent().map(Path::to_owned)),
        }
    }

    /// Says whether new audio may come into `lane`.
    ///
    /// # Errors
    /// 429 with what is full, 503 when the queue does not answer.
    pub async fn check(&self, api: &Api, lane: Lane) -> Result<(), Error> {
        let measured = self.measure(api).await?;
        refusal(&measured, lane, &api.limits).map_or(Ok(()), |error| {
            metrics::refused(error.code.clone().unwrap_or_default());
            Err(error)
        })
    }

    /// Returns a measurement of the last second.
    ///
    /// # Errors
    /// 503 when the queue does not answer.
    pub async fn measure(&self, api: &Api) -> Result<Measured, Error> {
        let mut last = self.last.lock().await;
        if let Some((_, measured)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return measured.clone();
        }
        let measured = self.measure_now(api).await;
        *last = Some((Instant::now(), measured.clone()));
        measured
    }

    /// Returns a survey of the last second.
    ///
    /// # Errors
    /// 503 when the queue does not answer.
    pub async fn survey(&self, api: &Api) -> Result<Survey, Error> {
        let mut last = self.surveyed.lock().await;
        if let Some((_, survey)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return survey.clone();
        }
        let survey = api.ask(api.log.survey()).await;
        *last = Some((Instant::now(), survey.clone()));
        survey
    }

    async fn measure_now(&self, api: &Api) -> Result<Measured, Error> {
        let mut kinds = Vec::new();
        for queue in [Queue::Ingest, Queue::Decode, Queue::Segments] {
            for &lane in Lane::ALL {
                // Nobody hands in drops to be replayed.
                if (queue, lane) != (Queue::Ingest, Lane::Replay) {
                    kinds.push((queue, lane, sources(api, queue, lane)));
                }
            }
        }
        let all: Vec<Source> = kinds.iter().flat_map(|(.., sources)| sources).copied().collect();
        let (backlogs, health) =
            api.ask(async { futures::try_join!(api.log.backlogs(&all), api.log.health()) }).await?;
        let mut backlogs = backlogs.into_iter();
        let queues = kinds.iter().map(|(queue, lane, sources)| {
            let mut sum = Backlog::default();
            backlogs.by_ref().take(sources.len()).for_each(|backlog| sum += backlog);
            let Backlog { entries, audio_ms, bytes } = sum;
            QueueBacklog { queue: queue.as_str(), lane: *lane, entries, audio_ms, bytes }
        });
        let queues = queues.collect();
        let free = |folder: &PathBuf| {
            let disk = nix::sys::statvfs::statvfs(folder).ok()?;
            // Both are u64 here, and narrower on other systems.
            #[allow(clippy::useless_conversion)]
            Some(u64::from(disk.blocks_available()).saturating_mul(u64::from(disk.fragment_size())))
        };
        Ok(Measured {
            queues,
            redis_memory: health.memory_share,
            store_free: self.folder.as_ref().and_then(free),
        })
    }
}

/// One queue and lane in all shards.
fn sources(api: &Api, queue: Queue, lane: Lane) -> Vec<Source> {
    match queue {
        Queue::Ingest => vec![Source::Ingest(lane)],
        queue => (0..api.log.shards()).map(|shard| Source::Queue(Shard(shard), queue, lane)).collect(),
    }
}

/// Why `lane` takes nothing new, if it does not.
fn refusal(measured: &Measured, lane: Lane, limits: &Limits) -> Option<Error> {
    if let Some(free) = measured.store_free.filter(|&free| free < limits.store_reserve.0) {
        let message = format!(
            "the disk of the audio store is nearly full ({} free, {} are kept in reserve); it takes new audio once there is room",
            ByteSize(free >> 20 << 20),
            limits.store_reserve
        );
        return Some(Error::busy("store_full", message, Duration::from_secs(60)));
    }
    if measured.redis_memory > limits.redis_memory {
        let share = (measured.redis_memory * 100.0).round();
        let message =
            format!("the queue uses {share} % of its memory; it takes new audio once some work is done");
        return Some(Error::busy("queue_full", message, Duration::from_secs(15)));
    }
    let mut waiting = (0, 0);
    for queue in measured.queues.iter().filter(|queue| queue.lane == lane) {
        waiting = (waiting.0 + queue.audio_ms, waiting.1 + queue.entries);
    }
    let limit = if lane == Lane::Rt { limits.backlog_rt } else { limits.backlog };
    let over = if u128::from(waiting.0) > limit.as_millis() {
        format!(
            "{} s of audio wait in the {lane} lane, and the limit is {} s",
            waiting.0 / 1000,
            limit.as_secs()
        )
    } else if waiting.1 > limits.backlog_entries {
        format!("{} entries wait in the {lane} lane, and the limit is {}", waiting.1, limits.backlog_entries)
    } else {
        return None;
    };
    let retry_after = Duration::from_secs(if lane == Lane::Rt { 5 } else { 30 });
    Some(Error::busy("backlog_full", format!("{over}; try again once some of it is done"), retry_after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn limits() -> Limits {
        let strings = service::env::Map::new();
        let no_flags: &[&str] = &[];
        service::env::load("test", "", no_flags, &strings, Limits::read)
            .expect("the defaults are values")
            .config
    }

    fn waiting(lane: Lane, entries: u64, audio_ms: u64) -> Measured {
        let queue = QueueBacklog { queue: "decode", lane, entries, audio_ms, bytes: 0 };
        Measured { queues: vec![queue, queue], redis_memory: 0.5, store_free: Some(1 << 40) }
    }

    fn check(measured: &Measured, lane: Lane, then: Expect) {
        let told = refusal(measured, lane, &limits()).map_or("room".to_owned(), |error| {
            format!("{} {:?} {error}", error.code.as_deref().unwrap_or_default(), error.retry_after)
        });
        then.assert_eq(&told);
    }

    #[test]
    fn a_lane_is_full_by_its_own_work_alone() {
        let hours = |hours: u64| hours * 3_600_000;
        check(&waiting(Lane::Batch, 1, hours(12)), Lane::Batch, expect!["room"]);
        check(
            &waiting(Lane::Batch, 1, hours(13)),
            Lane::Batch,
            expect![
                "backlog_full Some(30s) 93600 s of audio wait in the batch lane, and the limit is 86400 s; try again once some of it is done"
            ],
        );
        check(&waiting(Lane::Batch, 1, hours(13)), Lane::Rt, expect!["room"]);
        check(
            &waiting(Lane::Rt, 1, hours(2)),
            Lane::Rt,
            expect![
                "backlog_full Some(5s) 14400 s of audio wait in the rt lane, and the limit is 7200 s; try again once some of it is done"
            ],
        );
        check(
            &waiting(Lane::Batch, 60_000, 0),
            Lane::Batch,
            expect![
                "backlog_full Some(30s) 120000 entries wait in the batch lane, and the limit is 100000; try again once some of it is done"
            ],
        );
    }

    #[test]
    fn memory_and_disk_are_full_for_all_lanes() {
        let full = Measured { redis_memory: 0.9, ..waiting(Lane::Batch, 0, 0) };
        check(
            &full,
            Lane::Rt,
            expect![
                "queue_full Some(15s) the queue uses 90 % of its memory; it takes new audio once some work is done"
            ],
        );
        let full = Measured { store_free: Some(100 << 20), ..full };
        check(
            &full,
            Lane::Batch,
            expect![
                "store_full Some(60s) the disk of the audio store is nearly full (100MiB free, 512MiB are kept in reserve); it takes new audio once there is room"
            ],
        );
        let elsewhere = Measured { store_free: None, ..waiting(Lane::Batch, 0, 0) };
        check(&elsewhere, Lane::Batch, expect!["room"]);
    }
}
