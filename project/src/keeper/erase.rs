//! Erases what is deleted: from queues, log and dead letters, from the audio store, from archive and tables.
//!
//! A deletion is carried out once its fact is folded: from then on no projector archives anything of the recording, so
//! what is removed stays removed. Every step may be repeated; whoever dies in the middle leaves the erasure open, and the
//! next round does all of it again.

use anyhow::Context;
use events::{Deletion, Manifest};
use futures::TryStreamExt;
use serde_json::json;
use service::store::{AudioStore, Key};
use std::time::Duration;
use streams::{DropOutcome, Message, SharedLog};
use views::{Erasure, Views};

use crate::metrics;

/// Erasures looked at in one round.
const PAGE: u32 = 200;

/// Does what deletion leaves to do.
pub struct Eraser {
    log: SharedLog,
    views: Views,
    store: AudioStore,
    /// How long what was erased may stay in the append-only file of Redis; `None`: as long as Redis likes.
    rewrite_after: Option<Duration>,
}

impl Eraser {
    /// Makes an eraser.
    pub fn new(log: SharedLog, views: Views, store: AudioStore, rewrite_after: Option<Duration>) -> Eraser {
        Eraser { log, views, store, rewrite_after }
    }

    /// Carries out the deletions that can be, and sees to it that the others can be in a later round.
    ///
    /// # Errors
    /// When Redis, the database or the store does not answer; the next round goes on.
    pub async fn erase(&self) -> anyhow::Result<()> {
        for erasure in self.views.open_erasures(PAGE).await.context("ask what is to be erased")? {
            let Erasure { deletion, is_folded, .. } = erasure;
            self.mark(&deletion).await?;
            if is_folded {
                let recording = deletion.recording;
                self.erase_one(&deletion).await.with_context(|| format!("erase recording {recording}"))?;
            }
        }
        let open = self.views.count_open_erasures().await.context("count what is to be erased")?;
        metrics::erasures_open(open);
        self.rewrite_file().await
    }

    /// Marks the recording in its shard. That was done when it was deleted; a Redis that lost it is told again.
    async fn mark(&self, deletion: &Deletion) -> anyhow::Result<()> {
        let fact = deletion.envelope(self.log.shards());
        let message = Message::fact(&fact).context("write the fact of a deletion")?;
        self.log
            .delete(fact.shard, deletion.recording, &message)
            .await
            .context("mark a recording deleted")?;
        Ok(())
    }

    async fn erase_one(&self, deletion: &Deletion) -> anyhow::Result<()> {
        let recording = deletion.recording;
        let shard = recording.shard(self.log.shards());
        let erased = self.log.erase(shard, recording).await.context("erase it from the streams")?;
        let mut dead = erased.dead;
        if let Some(drop_id) = &deletion.drop_id {
            dead += self.log.erase_drop(drop_id).await.context("erase its drop from the dead letters")?;
        }
        let files = self.erase_files(deletion).await?;
        let facts = self
            .views
            .erase_rows(deletion, shard, &erased.seqs)
            .await
            .context("erase it from the database")?;
        if let Some(drop_id) = &deletion.drop_id {
            // What is said there of a refusal may quote the drop.
            let outcome = DropOutcome { recording: Some(recording), duplicate: false, cause: None };
            self.log.set_drop_outcome(drop_id, &outcome).await.context("forget why its drop was refused")?;
        }
        let removed = json!({
            "files": files,
            "facts_in_log": erased.seqs.len(),
            "facts_in_archive": facts,
            "work": erased.work,
            "dead_letters": dead,
        });
        self.views.complete_erasure(recording, &removed).await.context("note that it is erased")?;
        metrics::erased();
        tracing::info!(%recording, by = deletion.by, %removed, "erased");
        Ok(())
    }

    /// Removes the recording's audio and whatever its drop has left in the store; returns how many files there were.
    async fn erase_files(&self, deletion: &Deletion) -> anyhow::Result<u64> {
        let mut keys = vec![audio_key(deletion)?];
        if let Some(drop_id) = &deletion.drop_id {
            // Somebody's own id may be no name of a file; then there is no such file.
            let own = [Manifest::key(drop_id), Manifest::audio_key(drop_id)];
            keys.extend(own.iter().filter_map(|key| Key::parse(key).ok()));
            if let Ok(fetching) = Key::new(["fetching", drop_id]) {
                let fetched: Vec<_> =
                    self.store.list(Some(&fetching)).try_collect().await.context("list fetched audio")?;
                keys.extend(fetched.into_iter().map(|meta| meta.key));
            }
        }
        let mut removed = 0;
        for key in keys {
            removed += u64::from(self.store.head(&key).await.is_ok());
            self.store.delete(&key).await.context("erase its audio")?;
        }
        Ok(removed)
    }

    /// Has Redis write its append-only file anew once something that was erased stands in it for too long.
    async fn rewrite_file(&self) -> anyhow::Result<()> {
        let Some(after) = self.rewrite_after else { return Ok(()) };
        if !self.views.has_stale_file(after).await.context("ask how old the append-only file is")? {
            return Ok(());
        }
        self.log.rewrite_file().await.context(
            "have Redis rewrite its append-only file (where it may not be asked, set VOICEFORGE_REWRITE_AFTER=never)",
        )?;
        self.views.note_rewritten_file().await.context("note that the append-only file is new")?;
        tracing::info!("asked Redis to write its append-only file anew: what was erased leaves the disk");
        Ok(())
    }
}

/// Where the audio of a recording lies.
pub(crate) fn audio_key(deletion: &Deletion) -> anyhow::Result<Key> {
    Key::new([deletion.tenant.as_str(), &deletion.recording.to_string()]).context("name a recording's audio")
}
