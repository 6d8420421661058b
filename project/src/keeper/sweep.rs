//! Hands accepted drops in again that reached no end, and forgets those that did.
//!
//! An accepted drop has a manifest in the audio store before it is in any queue. Should Redis lose the queue, the
//! manifest is still there. Handing a drop in twice is harmless: it names the same recording, whose admission finds
//! itself done.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use bytes::Bytes;
use events::Manifest;
use futures::TryStreamExt;
use service::store::{AudioStore, Key, StoreError};
use streams::SharedLog;
use views::Views;

use crate::keeper::schedule::Schedule;
use crate::metrics;

/// Looks through the manifests of accepted drops.
pub struct Sweeper {
    log: SharedLog,
    views: Views,
    store: AudioStore,
    schedule: Schedule<String>,
}

/// An upload that is not finished after so long never will be.
const UNFINISHED_AGE: Duration = Duration::from_secs(24 * 3600);

/// Drop ids asked about in one query.
const PAGE: usize = 500;

impl Sweeper {
    /// Makes a sweeper that waits `missing_after` before it hands a drop in again.
    pub fn new(log: SharedLog, views: Views, store: AudioStore, missing_after: Duration) -> Sweeper {
        Sweeper { log, views, store, schedule: Schedule::new(missing_after) }
    }

    /// Goes through all manifests once.
    ///
    /// # Errors
    /// When the store, the database or Redis does not answer; the next round goes on.
    pub async fn sweep(&mut self) -> anyhow::Result<()> {
        let folder = Key::parse(Manifest::folder()).context("name the folder of drops")?;
        let listed: Vec<_> =
            self.store.list(Some(&folder)).try_collect().await.context("list waiting drops")?;
        let drops: Vec<(String, SystemTime)> = listed
            .iter()
            .filter_map(|meta| Some((Manifest::drop_of(&meta.key.to_string())?.to_owned(), meta.modified)))
            .collect();
        let waiting: HashSet<&str> = drops.iter().map(|(drop, _)| drop.as_str()).collect();
        for meta in &listed {
            let key = meta.key.to_string();
            let drop = Manifest::drop_of_audio(&key).filter(|drop| !waiting.contains(drop));
            let age = meta.modified.elapsed().unwrap_or_default();
            if drop.is_some() && age > UNFINISHED_AGE {
                // An upload that died before its manifest: nobody was told that it was accepted.
                self.store.delete(&meta.key).await.context("remove an upload that was never accepted")?;
            }
        }
        self.schedule.keep(|drop| waiting.contains(drop.as_str()));
        let (mut again, mut finished) = (0, 0);
        for page in drops.chunks(PAGE) {
            let ids: Vec<String> = page.iter().map(|(drop, _)| drop.clone()).collect();
            let ended = self.views.finished_drops(&ids).await.context("ask which drops have ended")?;
            for (drop, since) in page {
                if ended.contains_key(drop) || self.is_duplicate_of_ended(drop).await? {
                    self.forget(drop).await?;
                    finished += 1;
                } else if self.schedule.is_due(drop.clone(), *since, SystemTime::now()) {
                    again += u64::from(self.hand_in_again(drop).await?);
                }
            }
        }
        metrics::swept(again, finished, drops.len() as u64 - finished);
        self.store.remove_unfinished(UNFINISHED_AGE).await.context("remove what crashed uploads left")?;
        Ok(())
    }

    /// Tells whether the drop brought what an earlier one had brought, whose recording, which carries the other's drop id,
    /// has ended. Until then this manifest may be the only one: who drops into Redis leaves none.
    async fn is_duplicate_of_ended(&self, drop: &str) -> anyhow::Result<bool> {
        let outcome = self.log.drop_outcome(drop).await.context("ask what became of a drop")?;
        let Some(other) = outcome.filter(|outcome| outcome.duplicate).and_then(|outcome| outcome.recording)
        else {
            return Ok(false);
        };
        let other = self.views.recording(other).await.context("ask whether a recording has ended")?;
        Ok(other.is_some_and(|other| other.state.status.is_final()))
    }

    async fn hand_in_again(&self, drop: &str) -> anyhow::Result<bool> {
        let key = Key::parse(&Manifest::key(drop)).context("name a manifest")?;
        let json = match self.store.get_bytes(&key, Manifest::BYTES_MAX).await {
            Ok(json) => json,
            Err(StoreError::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error).context("read a manifest"),
        };
        let manifest = match Manifest::from_json(&json) {
            Ok(manifest) => manifest,
            Err(error) => {
                tracing::error!(%error, drop, "a manifest cannot be read: its drop cannot be handed in again");
                return Ok(false);
            }
        };
        let fields: Vec<(String, Bytes)> =
            manifest.fields.into_iter().map(|(name, value)| (name, Bytes::from(value))).collect();
        self.log.submit(manifest.lane, &fields).await.context("hand a drop in again")?;
        tracing::warn!(drop, "an accepted drop has no end yet: handed in again");
        Ok(true)
    }

    /// Removes the manifest and what may be left of the audio beside it. The manifest goes last: until then a crash
    /// only means to be here again.
    async fn forget(&self, drop: &str) -> anyhow::Result<()> {
        for key in [Manifest::audio_key(drop), Manifest::key(drop)] {
            let key = Key::parse(&key).context("name a drop's file")?;
            self.store.delete(&key).await.context("remove a finished drop")?;
        }
        Ok(())
    }
}
