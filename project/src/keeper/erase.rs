//! Erases what is deleted: from queues, log and dead letters, from the audio store, from archive and tables.
//!
//! A deletion is carried out once its fact is folded: from then on no projector archives anything of the recording, so
//! what is removed stays removed. Every step may be repeated; whoever dies in the middle leaves the erasure open, and the
//! next round does all of it again.

use anyhow::{Context, ensure};
use events::{Deletion, Manifest};
use futures::TryStreamExt;
use jiff::Timestamp;
use serde_json::json;
use service::store::{AudioStore, Key};
use std::time::Duration;
use streams::{DropOutcome, Message, SharedLog};
use views::{Erasure, Views};

use crate::metrics;

/// Erasures looked at in one round.
const PAGE: u32 = 200;

/// As long as a drop's own marks: what became of it, and that it is deleted.
const DROPS_KEPT: Duration = streams::redis::KEEP;

/// Does what deletion leaves to do.
pub struct Eraser {
    log: SharedLog,
    views: Views,
    store: AudioStore,
    /// How long what was erased may stay in the append-only file of Redis; `None`: as long as Redis likes.
    rewrite_after: Option<Duration>,
    /// The writing anew that was asked for.
    rewrite: Option<Rewrite>,
}

/// A writing anew of the append-only file.
#[derive(Debug)]
struct Rewrite {
    /// The start of the server that does it.
    server: String,
    /// What was erased up to this time will not be in the file.
    before: Timestamp,
}

impl Eraser {
    /// Makes an eraser.
    pub fn new(log: SharedLog, views: Views, store: AudioStore, rewrite_after: Option<Duration>) -> Eraser {
        Eraser { log, views, store, rewrite_after, rewrite: None }
    }

    /// Carries out the deletions that can be, and sees to it that the others can be in a later round.
    ///
    /// # Errors
    /// When Redis, the database or the store does not answer, or one recording cannot be erased: the others are all the
    /// same, and the next round goes on.
    pub async fn erase(&mut self) -> anyhow::Result<()> {
        let of_drops = self.views.request_erasures_of_drops(DROPS_KEPT, PAGE);
        let of_drops = of_drops.await.context("look for recordings of deleted drops")?;
        if of_drops > 0 {
            tracing::warn!(
                recordings = of_drops,
                "deleted drops had become recordings: they are deleted, too"
            );
        }
        let mut failures = Vec::new();
        for erasure in self.views.open_erasures(PAGE).await.context("ask what is to be erased")? {
            let recording = erasure.deletion.recording;
            if let Err(error) = self.carry_out(&erasure).await {
                let error = error.context(format!("erase recording {recording}"));
                if matches!(error.downcast_ref(), Some(streams::Error::Unavailable { .. })) {
                    // It would not answer for the others either.
                    return Err(error);
                }
                tracing::warn!(error = format!("{error:#}"), "cannot erase a recording");
                failures.push(error);
                // The others go all the same, unless the database is away.
                self.views.count_open_erasures().await.context("ask how much is to be erased")?;
            }
        }
        let open = self.views.count_open_erasures().await.context("count what is to be erased")?;
        metrics::erasures_open(open);
        self.rewrite_file().await?;
        failures.pop().map_or(Ok(()), Err)
    }

    async fn carry_out(&self, erasure: &Erasure) -> anyhow::Result<()> {
        self.mark(&erasure.deletion).await?;
        if erasure.folded_at.is_some() {
            self.erase_one(erasure).await?;
        }
        Ok(())
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

    async fn erase_one(&self, erasure: &Erasure) -> anyhow::Result<()> {
        let deletion = &erasure.deletion;
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
        if !self.views.complete_erasure(erasure, &removed).await.context("note that it is erased")? {
            tracing::info!(%recording, "facts of it came meanwhile: it is erased once more");
            return Ok(());
        }
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

    /// Has Redis write its append-only file anew once something that was erased stands in it for too long. Only what was
    /// erased that long ago counts as gone from it: later bytes may lie beside facts that are not trimmed yet, and be
    /// written again with them.
    async fn rewrite_file(&mut self) -> anyhow::Result<()> {
        let Some(after) = self.rewrite_after else { return Ok(()) };
        if self.rewrite.is_none() && self.stale_file(after).await?.is_none() {
            return Ok(());
        }
        let file = self.log.file().await.context("ask how the append-only file is written anew")?;
        if file.is_rewriting {
            // This one, or one that began before something was erased: the next round sees.
            return Ok(());
        }
        if let Some(Rewrite { server, before }) = self.rewrite.take() {
            // A server that was started anew has the old file.
            if file.server == server {
                ensure!(
                    file.is_good,
                    "Redis could not write its append-only file anew, so what was erased is still in it: see its log; \
                     mostly the disk is full. It is asked again"
                );
                self.views
                    .note_rewritten_file(before)
                    .await
                    .context("note that the append-only file is new")?;
                tracing::info!(%before, "the append-only file of Redis is new: what was erased has left the disk");
            }
        }
        let Some(before) = self.stale_file(after).await? else { return Ok(()) };
        self.log.rewrite_file().await.context(
            "have Redis rewrite its append-only file (where it may not be asked, set VOICEFORGE_REWRITE_AFTER=never)",
        )?;
        self.rewrite = Some(Rewrite { server: file.server, before });
        Ok(())
    }

    async fn stale_file(&self, after: Duration) -> anyhow::Result<Option<Timestamp>> {
        self.views.stale_file(after).await.context("ask how old the append-only file is")
    }
}

/// Where the audio of a recording lies.
pub(crate) fn audio_key(deletion: &Deletion) -> anyhow::Result<Key> {
    Key::new([deletion.tenant.as_str(), &deletion.recording.to_string()]).context("name a recording's audio")
}
