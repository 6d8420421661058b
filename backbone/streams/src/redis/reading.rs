//! Delivery: groups, reads, claims, leases, retries.

use std::time::Duration;

use async_trait::async_trait;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Value};

use super::reply::{self, entries_of};
use super::{CONNECT_TIMEOUT, RedisLog, failed};
use crate::keys::Source;
use crate::log::{Claimed, Entry, Error, Reader};

impl RedisLog {
    pub(super) async fn ensure_groups(&self, group: &str, sources: &[Source]) -> Result<(), Error> {
        for source in sources {
            // Looked for first, because at the memory limit XGROUP CREATE is refused even where it would change
            // nothing, and those who start then are those who free memory.
            if self.groups(*source).await?.iter().any(|known| known.name == group) {
                continue;
            }
            let mut command = redis::cmd("XGROUP");
            command.arg("CREATE").arg(source.key()).arg(group).arg("0").arg("MKSTREAM");
            match self.run::<Value>("create stream group", &command).await {
                Ok(_) => {}
                Err(Error::Reply { reply, .. }) if reply.contains("BUSYGROUP") => {}
                Err(Error::Unavailable { source: e, .. }) if e.to_string().contains("BUSYGROUP") => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    pub(super) async fn reader(&self, group: &str, consumer: &str) -> Result<Box<dyn Reader>, Error> {
        Ok(Box::new(RedisReader {
            client: self.client.clone(),
            group: group.to_owned(),
            consumer: consumer.to_owned(),
            connection: None,
        }))
    }

    pub(super) async fn take(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        count: usize,
    ) -> Result<Vec<Entry>, Error> {
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(group).arg(consumer).arg("COUNT").arg(count);
        command.arg("STREAMS").arg(source.key()).arg(">");
        entries_of(self.once("take stream entries", &command).await?, &[source])
    }

    pub(super) async fn own_pending(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
    ) -> Result<Vec<Entry>, Error> {
        const ACTION: &str = "read own history";
        // Through XREADGROUP each look would count as a delivery, and so as a worker that died. Drops may be large.
        let page_size = if source.shard().is_none() { 1 } else { 64 };
        let (mut all, mut from) = (Vec::new(), "-".to_owned());
        loop {
            let mut command = redis::cmd("XPENDING");
            command.arg(source.key()).arg(group).arg(&from).arg("+").arg(page_size).arg(consumer);
            let pending = reply::pending_of(self.run(ACTION, &command).await?)?;
            let Some((last, _)) = pending.last() else { return Ok(all) };
            from = format!("({last}");
            let mut ranges = redis::pipe();
            for (id, _) in &pending {
                ranges.cmd("XRANGE").arg(source.key()).arg(id).arg(id);
            }
            let mut page = Vec::new();
            for ((id, deliveries), range) in pending.into_iter().zip(self.all(ACTION, ranges).await?) {
                // An entry whose data is gone has no fields: a commit finds that out and acknowledges it.
                let gone = Entry { source, id, fields: Vec::new(), deliveries: 0, attempts: 0 };
                let entry = reply::range_of(range, source)?.pop().unwrap_or(gone);
                page.push(Entry { deliveries, ..entry });
            }
            all.extend(self.with_attempts(group, source, page).await?);
        }
    }

    pub(super) async fn unsettled(
        &self,
        group: &str,
        consumer: &str,
        sources: &[Source],
    ) -> Result<Vec<Source>, Error> {
        const ACTION: &str = "look for work to claim";
        let mut commands = redis::pipe();
        for source in sources {
            commands.cmd("XPENDING").arg(source.key()).arg(group);
        }
        let mut unsettled = Vec::new();
        for (&source, reply) in sources.iter().zip(self.all(ACTION, commands).await?) {
            if reply == Value::Nil {
                return Err(Error::NoGroup { action: ACTION });
            }
            if reply::owners_of(reply).iter().any(|owner| owner != consumer) {
                unsettled.push(source);
            }
        }
        Ok(unsettled)
    }

    pub(super) async fn claim(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        lease: Duration,
        count: usize,
    ) -> Result<Claimed, Error> {
        let mut invocation = self.scripts.claim.prepare_invoke();
        invocation.key(source.key()).key(source.attempts(group));
        invocation.arg(group).arg(consumer).arg(lease.as_millis() as u64).arg(count);
        const ACTION: &str = "claim stream entries";
        // Once, for the reason that once() gives.
        let invocation = &invocation;
        let asked = self
            .line
            .call(|mut connection| async move { invocation.invoke_async::<Value>(&mut connection).await });
        let value = asked.await.map_err(|e| failed(ACTION, e))?;
        reply::claimed_of(value, source)
    }

    pub(super) async fn heartbeat(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        ids: &[String],
    ) -> Result<Vec<bool>, Error> {
        let mut invocation = self.scripts.heartbeat.prepare_invoke();
        invocation.key(source.key()).arg(group).arg(consumer);
        for id in ids {
            invocation.arg(id);
        }
        let mine: Vec<u8> = self.script("renew leases", &invocation).await?;
        Ok(mine.into_iter().map(|mine| mine == 1).collect())
    }

    pub(super) async fn hand_back(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        ids: &[String],
    ) -> Result<(), Error> {
        let mut invocation = self.scripts.hand_back.prepare_invoke();
        invocation.key(source.key()).arg(group).arg(consumer);
        for id in ids {
            invocation.arg(id);
        }
        self.script("hand work back", &invocation).await
    }

    pub(super) async fn retry(
        &self,
        group: &str,
        consumer: &str,
        entry: &Entry,
        attempts: u32,
        delay: Duration,
    ) -> Result<bool, Error> {
        let mut invocation = self.scripts.retry.prepare_invoke();
        invocation.key(entry.source.key()).key(entry.source.attempts(group));
        invocation.arg(group).arg(consumer).arg(&entry.id).arg(entry.attempts_field()).arg(attempts);
        invocation.arg(delay.as_millis() as u64);
        Ok(self.script::<u8>("put an entry off", &invocation).await? == 1)
    }

    pub(super) async fn leave(&self, group: &str, consumer: &str, sources: &[Source]) -> Result<(), Error> {
        for source in sources {
            let mut invocation = self.scripts.leave.prepare_invoke();
            invocation.key(source.key()).arg(group).arg(consumer);
            self.script::<Value>("remove the consumer", &invocation).await?;
        }
        Ok(())
    }

    /// Fills in how often processing each entry failed.
    async fn with_attempts(
        &self,
        group: &str,
        source: Source,
        mut entries: Vec<Entry>,
    ) -> Result<Vec<Entry>, Error> {
        let mut command = redis::cmd("HMGET");
        command.arg(source.attempts(group));
        command.arg(entries.iter().map(|entry| entry.attempts_field()).collect::<Vec<_>>());
        let kept: Vec<Option<String>> = self.run("read attempts", &command).await?;
        for (entry, kept) in entries.iter_mut().zip(kept) {
            let attempts = kept.as_deref().and_then(|kept| kept.split(':').next()?.parse().ok());
            entry.attempts = attempts.unwrap_or(0);
        }
        Ok(entries)
    }
}

struct RedisReader {
    client: Client,
    group: String,
    consumer: String,
    connection: Option<MultiplexedConnection>,
}

#[async_trait]
impl Reader for RedisReader {
    async fn read(&mut self, sources: &[Source], count: usize, block: Duration) -> Result<Vec<Entry>, Error> {
        const ACTION: &str = "wait for stream entries";
        let connection = match &mut self.connection {
            Some(connection) => connection,
            empty => {
                // The margin notices a dead peer: a healthy server answers a blocked read when its time is over.
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(CONNECT_TIMEOUT))
                    .set_response_timeout(Some(block * 2 + Duration::from_secs(2)));
                let opened = self.client.get_multiplexed_async_connection_with_config(&config).await;
                empty.insert(opened.map_err(|e| failed("connect a reader", e))?)
            }
        };
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(&self.group).arg(&self.consumer);
        command
            .arg("COUNT")
            .arg(count.max(1))
            .arg("BLOCK")
            .arg(block.as_millis().max(1) as u64)
            .arg("STREAMS");
        command.arg(sources.iter().map(|source| source.key()).collect::<Vec<_>>());
        command.arg(vec![">"; sources.len()]);
        match command.query_async::<Value>(connection).await {
            Ok(value) => entries_of(value, sources),
            Err(error) => {
                // The reply may be on its way still: only a new connection has a clean line.
                self.connection = None;
                Err(failed(ACTION, error))
            }
        }
    }
}
