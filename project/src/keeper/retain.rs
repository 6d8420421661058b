//! Lets things go that are older than the deployment keeps them, and what is remembered about facts no log holds.

use std::time::{Duration, Instant};

use anyhow::Context;
use events::Shard;
use service::store::{AudioStore, Key};
use streams::SharedLog;
use views::Views;

use crate::metrics;

/// Recordings looked at in one go; as many goes as it takes.
const PAGE: u32 = 500;
/// Archived events removed in one statement.
const EVENTS_PAGE: u32 = 20_000;
/// Facts below the oldest one of a log whose identities are remembered still: a replica that takes over may not have
/// trimmed as far yet.
const REMEMBERED: u64 = 100_000;

/// Looks for what is too old.
pub struct Retainer {
    log: SharedLog,
    views: Views,
    store: AudioStore,
    every: Duration,
    last: Option<Instant>,
}

impl Retainer {
    /// Makes a retainer that looks no more often than `every`.
    pub fn new(log: SharedLog, views: Views, store: AudioStore, every: Duration) -> Retainer {
        Retainer { log, views, store, every, last: None }
    }

    /// Looks through everything once, unless that was done a short while ago.
    ///
    /// # Errors
    /// When Redis, the database or the store does not answer; the next round goes on.
    pub async fn retain(&mut self) -> anyhow::Result<()> {
        if self.last.is_some_and(|last| last.elapsed() < self.every) {
            return Ok(());
        }
        let now = events::now();
        loop {
            let expired =
                self.views.expired_recordings(now, PAGE).await.context("ask which recordings are too old")?;
            for deletion in &expired {
                // The eraser does the rest.
                self.views.request_erasure(deletion).await.context("note that a recording is too old")?;
            }
            metrics::expired("transcripts", expired.len() as u64);
            if expired.len() < PAGE as usize {
                break;
            }
        }
        loop {
            let expired = self.views.expired_audio(now, PAGE).await.context("ask which audio is too old")?;
            for (recording, tenant) in &expired {
                let key = Key::new([tenant.as_str(), &recording.to_string()]).context("name audio")?;
                self.store.delete(&key).await.context("remove audio that is too old")?;
            }
            let gone: Vec<_> = expired.iter().map(|(recording, _)| *recording).collect();
            self.views.note_expired_audio(&gone).await.context("note which audio is gone")?;
            metrics::expired("audio", gone.len() as u64);
            if gone.len() < PAGE as usize {
                break;
            }
        }
        loop {
            let removed =
                self.views.expire_events(now, EVENTS_PAGE).await.context("remove events that are too old")?;
            metrics::expired("events", removed);
            if removed < u64::from(EVENTS_PAGE) {
                break;
            }
        }
        self.forget().await?;
        self.last = Some(Instant::now());
        Ok(())
    }

    /// Forgets the identities of facts that no log gives again.
    async fn forget(&self) -> anyhow::Result<()> {
        let mut through = Vec::new();
        for shard in (0..self.log.shards()).map(Shard) {
            let archived = self.views.archived_through(shard).await.context("read how far the archive is")?;
            let oldest = self.log.facts(shard, 0, 1).await.context("read the oldest fact")?;
            let oldest: Option<u64> = oldest.first().and_then(|fact| fact.text("seq")?.parse().ok());
            let gone = oldest.map_or(archived, |oldest| oldest.saturating_sub(1).min(archived));
            if let Some(gone) = gone.checked_sub(REMEMBERED) {
                through.push((shard, gone));
            }
        }
        if !through.is_empty() {
            let forgotten =
                self.views.forget_inbox(&through).await.context("forget what was seen long ago")?;
            metrics::forgotten(forgotten);
        }
        Ok(())
    }
}
