//! Delivery: reads, claims, leases, retries.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{MemoryLog, Pending, Stream, entry, number};
use crate::keys::Source;
use crate::log::{Claimed, Entry, Error, Reader};

impl MemoryLog {
    pub(super) fn take_new(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        count: usize,
    ) -> Result<Vec<Entry>, Error> {
        let mut state = self.lock();
        let stream = state.stream_with_group(group, source, "take stream entries")?;
        let Stream { entries, groups, .. } = stream;
        let group = groups.get_mut(group).expect("stream_with_group() found it");
        let mut taken = Vec::new();
        for (&id, fields) in entries.range(group.delivered + 1..).take(count) {
            group.delivered = id;
            let pending =
                Pending { owner: consumer.to_owned(), renewed: Some(Instant::now()), deliveries: 1 };
            group.pending.insert(id, pending);
            taken.push(entry(source, id, fields.clone(), 1, 0));
        }
        Ok(taken)
    }

    pub(super) fn own_pending(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
    ) -> Result<Vec<Entry>, Error> {
        let mut state = self.lock();
        let attempts = state.attempts.get(&source.attempts(group)).cloned().unwrap_or_default();
        let stream = state.stream_with_group(group, source, "read own history")?;
        let Stream { entries, groups, .. } = stream;
        let group = groups.get(group).expect("stream_with_group() found it");
        let mine = group.pending.iter().filter(|(_, pending)| pending.owner == consumer);
        Ok(mine
            .map(|(&id, pending)| {
                let fields = entries.get(&id).cloned().unwrap_or_default();
                let mut own = entry(source, id, fields, pending.deliveries, 0);
                own.attempts = attempts.get(own.attempts_field()).map_or(0, |(attempts, _)| *attempts);
                own
            })
            .collect())
    }

    pub(super) fn unsettled(
        &self,
        group: &str,
        consumer: &str,
        sources: &[Source],
    ) -> Result<Vec<Source>, Error> {
        let mut state = self.lock();
        let mut unsettled = Vec::new();
        for &source in sources {
            let stream = state.stream_with_group(group, source, "look for work to claim")?;
            if stream.groups[group].pending.values().any(|pending| pending.owner != consumer) {
                unsettled.push(source);
            }
        }
        Ok(unsettled)
    }

    pub(super) fn claim(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        lease: Duration,
        count: usize,
    ) -> Result<Claimed, Error> {
        let mut state = self.lock();
        let key = source.attempts(group);
        let attempts = state.attempts.get(&key).cloned().unwrap_or_default();
        let mut over = Vec::new();
        let stream = state.stream_with_group(group, source, "claim stream entries")?;
        let Stream { entries, groups, .. } = stream;
        let group = groups.get_mut(group).expect("stream_with_group() found it");
        let now = Instant::now();
        let mut claimed = Claimed::default();
        let mut gone = Vec::new();
        // First what silent workers left, then retries that are due.
        for is_retry in [false, true] {
            for (&id, pending) in &mut group.pending {
                let silent = pending.renewed.is_none_or(|renewed| now - renewed >= lease);
                let wanted = match (is_retry, pending.owner == "retry") {
                    (false, false) => pending.owner != consumer && silent,
                    (is_retry, of_retry) => is_retry && of_retry,
                };
                if claimed.entries.len() >= count || !wanted {
                    continue;
                }
                let Some(fields) = entries.get(&id) else {
                    gone.push(id);
                    continue;
                };
                let mut taken = entry(source, id, fields.clone(), pending.deliveries + 1, 0);
                let kept = attempts.get(taken.attempts_field());
                if is_retry && kept.is_some_and(|(_, due)| *due > now) {
                    continue;
                }
                taken.attempts = kept.map_or(0, |(attempts, _)| *attempts);
                if taken.attempts == 0 {
                    over.push(taken.attempts_field().to_owned());
                }
                consumer.clone_into(&mut pending.owner);
                pending.renewed = Some(now);
                pending.deliveries += 1;
                claimed.entries.push(taken);
            }
        }
        for id in gone {
            group.pending.remove(&id);
            claimed.lost.push(format!("{id}-0"));
        }
        if let Some(kept) = state.attempts.get_mut(&key) {
            kept.retain(|field, _| !over.contains(field));
        }
        Ok(claimed)
    }

    pub(super) fn heartbeat(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        ids: &[String],
    ) -> Result<Vec<bool>, Error> {
        let mut state = self.lock();
        let stream = state.stream_with_group(group, source, "renew leases")?;
        let group = stream.groups.get_mut(group).expect("stream_with_group() found it");
        let renew = |id: &String| match group.pending.get_mut(&number(id)) {
            Some(pending) if pending.owner == consumer => {
                pending.renewed = Some(Instant::now());
                true
            }
            _ => false,
        };
        Ok(ids.iter().map(renew).collect())
    }

    pub(super) fn hand_back(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        ids: &[String],
    ) -> Result<(), Error> {
        let mut state = self.lock();
        let stream = state.stream_with_group(group, source, "hand work back")?;
        let group = stream.groups.get_mut(group).expect("stream_with_group() found it");
        for id in ids {
            if let Some(pending) = group.pending.get_mut(&number(id)).filter(|p| p.owner == consumer) {
                "handoff".clone_into(&mut pending.owner);
                pending.renewed = None;
                pending.deliveries = pending.deliveries.saturating_sub(1);
            }
        }
        Ok(())
    }

    pub(super) fn retry(
        &self,
        group: &str,
        consumer: &str,
        entry: &Entry,
        attempts: u32,
        delay: Duration,
    ) -> Result<bool, Error> {
        let mut state = self.lock();
        let stream = state.stream_with_group(group, entry.source, "put an entry off")?;
        let pending = stream
            .groups
            .get_mut(group)
            .expect("stream_with_group() found it")
            .pending
            .get_mut(&number(&entry.id));
        let Some(pending) = pending.filter(|pending| pending.owner == consumer) else { return Ok(false) };
        "retry".clone_into(&mut pending.owner);
        pending.renewed = Some(Instant::now());
        pending.deliveries = 0;
        let kept = state.attempts.entry(entry.source.attempts(group)).or_default();
        kept.insert(entry.attempts_field().to_owned(), (attempts, Instant::now() + delay));
        Ok(true)
    }
}

pub struct MemoryReader {
    pub log: MemoryLog,
    pub group: String,
    pub consumer: String,
}

#[async_trait]
impl Reader for MemoryReader {
    async fn read(&mut self, sources: &[Source], count: usize, block: Duration) -> Result<Vec<Entry>, Error> {
        let until = Instant::now() + block;
        loop {
            let appended = self.log.appended.notified();
            tokio::pin!(appended);
            // Registered before the look, so that an append between look and wait still wakes us.
            appended.as_mut().enable();
            let mut entries = Vec::new();
            for &source in sources {
                entries.extend(self.log.take_new(&self.group, &self.consumer, source, count)?);
            }
            if !entries.is_empty() || tokio::time::timeout_at(until, appended).await.is_err() {
                return Ok(entries);
            }
        }
    }
}
