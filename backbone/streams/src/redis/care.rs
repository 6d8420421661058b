//! How full the streams are, facts without a group, and the trimming of logs.

use events::Shard;
use redis::Value;

use super::{RedisLog, check, reply};
use crate::failpoint;
use crate::keys::Source;
use crate::log::{Backlog, Entry, Error, Health};

impl RedisLog {
    pub(super) async fn backlog(&self, source: Source) -> Result<Backlog, Error> {
        let entries = self.run("measure a queue", redis::cmd("XLEN").arg(source.key())).await?;
        let mut command = redis::cmd("HMGET");
        command.arg(source.counter()).arg("ms").arg("bytes");
        let (ms, bytes): (Option<i64>, Option<i64>) = self.run("measure a queue", &command).await?;
        let count = |value: Option<i64>| value.unwrap_or(0).max(0) as u64;
        Ok(Backlog { entries, audio_ms: count(ms), bytes: count(bytes) })
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

    pub(super) async fn trim(&self, shard: Shard, archived: u64) -> Result<u64, Error> {
        let source = Source::Log(shard);
        let mut keep_from: Option<String> = None;
        let mut lowest = |id: String| match &keep_from {
            Some(kept) if reply::id_order(kept) <= reply::id_order(&id) => {}
            _ => keep_from = Some(id),
        };
        for group in self.groups(source).await? {
            let mut command = redis::cmd("XPENDING");
            command.arg(source.key()).arg(&group.name).arg("-").arg("+").arg(1);
            let pending: Value = self.run("read pending facts", &command).await?;
            lowest(reply::first_pending(pending).unwrap_or_else(|| reply::next_id(&group.last_delivered)));
        }
        // The first fact above the archive's mark stays, and so does all that follows it.
        let mut from = "-".to_owned();
        let mut first_kept = None;
        'pages: loop {
            let mut command = redis::cmd("XRANGE");
            command.arg(source.key()).arg(&from).arg("+").arg("COUNT").arg(1000);
            let page: Value = self.run("read the log", &command).await?;
            let page = reply::range_of(page, source)?;
            let Some(last) = page.last().map(|entry| entry.id.clone()) else { break };
            for entry in page {
                if reply::seq_of(Some(entry.clone())).is_none_or(|seq| seq > archived) {
                    first_kept = Some(entry.id);
                    break 'pages;
                }
            }
            from = format!("({last}");
        }
        let newest = self.xrange(source, "+", "-").await?.map(|entry| reply::next_id(&entry.id));
        if let Some(id) = first_kept.or(newest) {
            lowest(id);
        }
        let Some(keep_from) = keep_from else { return Ok(0) };
        let mut command = redis::cmd("XTRIM");
        command.arg(source.key()).arg("MINID").arg(keep_from);
        failpoint::reach("trim.before");
        let trimmed = self.run("trim the log", &command).await?;
        failpoint::reach("trim.after");
        Ok(trimmed)
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
