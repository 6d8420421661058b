//! How all streams stand, in two round trips however many there are.

use std::time::Duration;

use events::{Lane, Shard};
use jiff::Timestamp;
use redis::Value;

use super::reply::{self, unexpected};
use super::{RedisLog, check};
use crate::dead::DeadPlace;
use crate::keys::{self, Source};
use crate::log::{Backlog, Error};
use crate::survey::{ConsumerState, GroupState, LogState, QueueState, Survey};

const ACTION: &str = "survey the streams";

impl RedisLog {
    pub(super) async fn survey_all(&self) -> Result<Survey, Error> {
        let shards: Vec<Shard> = (0..self.config.shards).map(Shard).collect();
        let drops = [Source::Ingest(Lane::Rt), Source::Ingest(Lane::Batch)];
        let queues: Vec<Source> =
            drops.into_iter().chain(shards.iter().flat_map(|&shard| Source::work_of(shard))).collect();
        let places: Vec<DeadPlace> = DeadPlace::all(self.config.shards).collect();

        let mut first = redis::pipe();
        first.cmd("INFO").arg("memory");
        for queue in &queues {
            first.cmd("XLEN").arg(queue.key());
            first.cmd("HMGET").arg(queue.counter()).arg("ms").arg("bytes");
            first.cmd("HGET").arg(queue.counter()).arg("done");
            if queue.shard().is_some() {
                // Work is small. A drop may bring 64 MiB, and is not looked at.
                first.cmd("XRANGE").arg(queue.key()).arg("-").arg("+").arg("COUNT").arg(1);
            }
            first.cmd("XINFO").arg("GROUPS").arg(queue.key());
        }
        for &shard in &shards {
            let log = Source::Log(shard).key();
            first.cmd("XLEN").arg(&log);
            first.cmd("GET").arg(keys::seq(shard));
            first.cmd("XRANGE").arg(&log).arg("-").arg("+").arg("COUNT").arg(1);
            first.cmd("XINFO").arg("GROUPS").arg(&log);
        }
        for place in &places {
            first.cmd("XLEN").arg(place.key());
        }
        let mut replies = self.all(ACTION, first).await?.into_iter();
        let mut next = || replies.next().unwrap_or(Value::Nil);
        let info = reply::text(next()).unwrap_or_default();
        let number = |name: &str| check::info_field(&info, name).and_then(|v| v.parse::<u64>().ok());
        let mut survey = Survey {
            memory_bytes: number("used_memory").unwrap_or(0),
            memory_limit_bytes: number("maxmemory").filter(|&limit| limit > 0),
            ..Survey::default()
        };
        let mut asked = Vec::new();
        for &source in &queues {
            let entries = reply::count_of(&next());
            let (audio_ms, bytes) = reply::weights_of(next());
            let done = reply::text(next()).and_then(|done| done.parse().ok()).unwrap_or(0);
            let oldest_at = match source.shard() {
                Some(_) => reply::range_of(next(), source)?.pop().and_then(|entry| came_at(&entry.id)),
                None => None,
            };
            let backlog = Backlog { entries, audio_ms, bytes };
            let groups = groups_of(next())?;
            asked.extend(groups.iter().map(|group| (source, group.name.clone(), None)));
            let groups = groups.into_iter().map(|group| GroupState {
                name: group.name,
                pending: group.pending,
                // Done work is deleted, so that what is not pending was never delivered.
                unread: entries.saturating_sub(group.pending),
                consumers: Vec::new(),
            });
            survey.queues.push(QueueState { source, backlog, done, oldest_at, groups: groups.collect() });
        }
        for &shard in &shards {
            let length = reply::count_of(&next());
            let last_seq = reply::text(next()).and_then(|seq| seq.parse().ok()).unwrap_or(0);
            let source = Source::Log(shard);
            let first_seq = reply::seq_of(reply::range_of(next(), source)?.pop());
            let groups = groups_of(next())?;
            asked.extend(
                groups.iter().map(|group| (source, group.name.clone(), Some(group.last_delivered.clone()))),
            );
            let groups = groups.into_iter().map(|group| GroupState {
                name: group.name,
                pending: group.pending,
                unread: 0,
                consumers: Vec::new(),
            });
            survey.logs.push(LogState { shard, length, first_seq, last_seq, groups: groups.collect() });
        }
        survey.dead = places.into_iter().map(|place| (place, reply::count_of(&next()))).collect();

        let mut second = redis::pipe();
        for (source, group, last_delivered) in &asked {
            second.cmd("XINFO").arg("CONSUMERS").arg(source.key()).arg(group);
            if source.shard().is_none() {
                second.cmd("XPENDING").arg(source.key()).arg(group).arg("-").arg("+").arg(1);
            }
            if let Some(last_delivered) = last_delivered {
                second.cmd("XREVRANGE").arg(source.key()).arg(last_delivered).arg("-").arg("COUNT").arg(1);
            }
        }
        let mut replies = self.all(ACTION, second).await?.into_iter();
        let mut next = || replies.next().unwrap_or(Value::Nil);
        for queue in &mut survey.queues {
            for group in &mut queue.groups {
                group.consumers = consumers_of(next())?;
                if queue.source.shard().is_none() {
                    let oldest = reply::first_pending(next()).and_then(|id| came_at(&id));
                    queue.oldest_at = [queue.oldest_at, oldest].into_iter().flatten().min();
                }
            }
        }
        for log in &mut survey.logs {
            for group in &mut log.groups {
                group.consumers = consumers_of(next())?;
                let read = reply::seq_of(reply::range_of(next(), Source::Log(log.shard))?.pop());
                // All it was given is trimmed, or it was given nothing yet: what is left is unread.
                let read =
                    read.or(log.first_seq.map(|first| first.saturating_sub(1))).unwrap_or(log.last_seq);
                group.unread = log.last_seq.saturating_sub(read);
            }
        }
        Ok(survey)
    }
}

/// Reads the time out of an id that Redis gave.
fn came_at(id: &str) -> Option<Timestamp> {
    Timestamp::from_millisecond(id.split('-').next()?.parse().ok()?).ok()
}

fn groups_of(value: Value) -> Result<Vec<reply::Group>, Error> {
    match value {
        Value::Nil => Ok(Vec::new()),
        value => reply::groups_of(value),
    }
}

fn consumers_of(value: Value) -> Result<Vec<ConsumerState>, Error> {
    let consumers = reply::consumers_of(value).ok_or_else(|| unexpected(ACTION, "consumers of odd shape"))?;
    let state =
        |(name, pending, idle_ms)| ConsumerState { name, pending, idle: Duration::from_millis(idle_ms) };
    Ok(consumers.into_iter().map(state).collect())
}
