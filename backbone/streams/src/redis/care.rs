//! How full the streams are, facts without a group, and the trimming of logs.

use events::Shard;
use redis::Value;

use super::{RedisLog, check, reply};
use crate::failpoint;
use crate::keys::Source;
use crate::log::{AppendOnlyFile, Backlog, Entry, Error, Health, Trimmed};

/// Facts that one call of `trim.lua` removes at most: a call must not hold the server up.
const TRIM_PAGE: u64 = 500;

impl RedisLog {
    pub(super) async fn backlogs(&self, sources: &[Source]) -> Result<Vec<Backlog>, Error> {
        let mut commands = redis::pipe();
        for source in sources {
            commands.cmd("XLEN").arg(source.key());
            commands.cmd("HMGET").arg(source.counter()).arg("ms").arg("bytes");
        }
        let mut replies = self.all("measure queues", commands).await?.into_iter();
        let mut next = || replies.next().unwrap_or(Value::Nil);
        let measure = |_| {
            let entries = reply::count_of(&next());
            let (audio_ms, bytes) = reply::weights_of(next());
            Backlog { entries, audio_ms, bytes }
        };
        Ok(sources.iter().map(measure).collect())
    }

    pub(super) async fn unread_facts(&self, group: &str, shard: Shard) -> Result<u64, Error> {
        let source = Source::Log(shard);
        let groups = self.groups(source).await?;
        let Some(group) = groups.iter().find(|g| g.name == group) else {
            return self.run("measure the log", redis::cmd("XLEN").arg(source.key())).await;
        };
        // Contiguous seq makes this exact where the server's own `lag` is not (it is nil after a restart).
        let Some(newest) = reply::seq_of(self.xrange(source, "+", "-").await?) else {
            return Ok(group.pending);
        };
        let read = match reply::seq_of(self.xrange(source, &group.last_delivered, "-").await?) {
            Some(read) => read,
            // All it was given is trimmed, or it was given nothing yet: what is left is unread.
            None => reply::seq_of(self.oldest(source).await?).unwrap_or(newest).saturating_sub(1),
        };
        Ok(newest.saturating_sub(read) + group.pending)
    }

    pub(super) async fn facts(&self, shard: Shard, after: u64, count: usize) -> Result<Vec<Entry>, Error> {
        let source = Source::Log(shard);
        let mut invocation = self.scripts.facts.prepare_invoke();
        invocation.key(source.key()).arg(after).arg(count.max(1));
        reply::range_of(self.script("read facts", &invocation).await?, source)
    }

    pub(super) async fn health(&self) -> Result<Health, Error> {
        let info: String = self.run("ask for memory use", redis::cmd("INFO").arg("memory")).await?;
        let number =
            |name: &str| check::info_field(&info, name).and_then(|v| v.parse::<f64>().ok()).unwrap_or(0.0);
        let (used, limit) = (number("used_memory"), number("maxmemory"));
        Ok(Health { memory_share: if limit > 0.0 { used / limit } else { 0.0 } })
    }

    pub(super) async fn file(&self) -> Result<AppendOnlyFile, Error> {
        let info: String = self.run("ask for the append-only file", &redis::cmd("INFO")).await?;
        let is = |name: &str, value: &str| check::info_field(&info, name) == Some(value);
        Ok(AppendOnlyFile {
            server: check::info_field(&info, "run_id").unwrap_or_default().to_owned(),
            is_rewriting: is("aof_rewrite_in_progress", "1") || is("aof_rewrite_scheduled", "1"),
            is_good: is("aof_last_bgrewrite_status", "ok"),
        })
    }

    pub(super) async fn trim(&self, shard: Shard, archived: u64) -> Result<Trimmed, Error> {
        let mut trimmed = Trimmed::default();
        loop {
            let mut invocation = self.scripts.trim.prepare_invoke();
            invocation.key(Source::Log(shard).key()).arg(archived).arg(TRIM_PAGE);
            failpoint::reach("trim.before");
            let (removed, holder): (u64, String) = self.script("trim the log", &invocation).await?;
            failpoint::reach("trim.after");
            trimmed.facts += removed;
            trimmed.held_by = Some(holder).filter(|holder| !holder.is_empty());
            if removed < TRIM_PAGE {
                return Ok(trimmed);
            }
        }
    }

    pub(super) async fn dead_letters(&self, source: Source) -> Result<u64, Error> {
        self.run("count dead letters", redis::cmd("XLEN").arg(source.dead())).await
    }

    async fn oldest(&self, source: Source) -> Result<Option<Entry>, Error> {
        let mut command = redis::cmd("XRANGE");
        command.arg(source.key()).arg("-").arg("+").arg("COUNT").arg(1);
        Ok(reply::range_of(self.run("read the log", &command).await?, source)?.pop())
    }

    /// Returns the newest entry between two ids.
    async fn xrange(&self, source: Source, from: &str, to: &str) -> Result<Option<Entry>, Error> {
        let mut command = redis::cmd("XREVRANGE");
        command.arg(source.key()).arg(from).arg(to).arg("COUNT").arg(1);
        Ok(reply::range_of(self.run("read the log", &command).await?, source)?.pop())
    }
}
