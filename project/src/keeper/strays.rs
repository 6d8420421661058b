//! Ends what would never end: transcriptions that the read side knows and whose work Redis has lost.
//!
//! A drop that went through the API is in the audio store until it has ended, and is handed in again
//! ([`sweep`](super::sweep)). One made straight into Redis is not. Should Redis go back in time between the projection of
//! its admission and the next write to disk, its work is gone while readers see it waiting. It is a stray when nothing
//! of it moves and its shard's queues hold nothing as old. Its transcription is asked for again in the next round; one
//! too many is harmless, as the higher round counts.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use events::{
    About, Activation, Cause, Envelope, Event, EventId, RecordingFailed, RecordingId, Shard,
    TranscriptionRequested, now,
};
use jiff::{SignedDuration, Timestamp};
use service::store::{AudioStore, Key, StoreError};
use streams::{Append, Appended, Message, Queue, SharedLog, Source, Survey};
use transcript::{State, Status};
use views::{Entry, GenerationRow, RecordingRow, Views};

use crate::keeper::schedule::Schedule;
use crate::metrics;

/// Looks for them.
pub struct Strays {
    log: SharedLog,
    views: Views,
    store: AudioStore,
    missing_after: Duration,
    seen: HashMap<RecordingId, Look>,
    schedule: Schedule<RecordingId>,
}

/// Where a recording stood since when, and where its shard's log ended then.
struct Look {
    state: State,
    since: Timestamp,
    log_end: u64,
}

/// Unfinished recordings looked at in one round, the oldest first: they are at the head of their queues.
const LOOKED_AT_MAX: u32 = 1_000;

/// Who gives up what cannot be begun again.
const STAGE: &str = "keeper";

impl Strays {
    /// Makes what looks for them; nothing is a stray before it stood still for `missing_after`.
    pub fn new(log: SharedLog, views: Views, store: AudioStore, missing_after: Duration) -> Strays {
        Strays {
            log,
            views,
            store,
            missing_after,
            seen: HashMap::new(),
            schedule: Schedule::new(missing_after),
        }
    }

    /// Looks once; returns how many strays were ended or begun again.
    ///
    /// # Errors
    /// When the database, Redis or the audio store does not answer; the next look goes on.
    pub async fn look(&mut self) -> anyhow::Result<u64> {
        // First, so that the rows know at least as much.
        let archived = self
            .views
            .all_archived_through(self.log.shards())
            .await
            .context("read how far the archive is")?;
        let before = now() - SignedDuration::try_from(self.missing_after).unwrap_or_default();
        let mut rows = Vec::new();
        for status in [Status::Queued, Status::Decoding, Status::Transcribing] {
            let some = self.views.unfinished(status, before, LOOKED_AT_MAX).await;
            rows.extend(some.context("list unfinished recordings")?);
        }
        let waits: HashSet<RecordingId> = rows.iter().map(|row| row.id).collect();
        self.seen.retain(|id, _| waits.contains(id));
        self.schedule.keep(|id| waits.contains(id));
        if rows.is_empty() {
            return Ok(0);
        }
        let survey = self.log.survey().await.context("survey the streams")?;
        let mut ended = 0;
        for row in rows {
            let shard = row.id.shard(self.log.shards());
            if self.is_stray(&row, shard, archived[usize::from(shard.0)], &survey)
                && self.begin_again(&row).await?
            {
                ended += 1;
            }
        }
        metrics::strays(ended);
        Ok(ended)
    }

    /// Tells whether nothing of a recording moves or waits, and it is time to say so.
    fn is_stray(&mut self, row: &RecordingRow, shard: Shard, archived: u64, survey: &Survey) -> bool {
        let log_end = survey.logs.iter().find(|log| log.shard == shard).map_or(u64::MAX, |log| log.last_seq);
        let look = || Look { state: row.state.clone(), since: now(), log_end };
        let seen = self.seen.entry(row.id).or_insert_with(look);
        if seen.state != row.state {
            *seen = look();
        }
        // What the log held when it was first seen like this, and still holds, is projected and changed nothing.
        archived >= seen.log_end.min(log_end)
            && queues_are_past(survey, shard, seen.since)
            && self.schedule.is_due(row.id, SystemTime::from(seen.since), SystemTime::now())
    }

    /// Asks for the transcription again, or ends it where that cannot be; tells whether anybody wanted that.
    async fn begin_again(&self, row: &RecordingRow) -> anyhow::Result<bool> {
        // Later generations are of a run, which makes sure of its requests itself.
        if row.generation != Some(0) {
            return Ok(false);
        }
        let generations = self.views.generations(row.id).await.context("read a recording")?;
        let Some(first) = generations.into_iter().find(|generation| generation.generation == 0) else {
            return Ok(false);
        };
        let append = self.append(row, &first).await?;
        let appended = self.log.append(&append).await.context("begin a stray again")?;
        if appended == Appended::Done {
            let again = append.work.is_some();
            tracing::warn!(recording = %row.id, again, "Redis had lost the work on it");
        }
        Ok(appended == Appended::Done)
    }

    async fn append(&self, row: &RecordingRow, first: &GenerationRow) -> anyhow::Result<Append> {
        let shard = row.id.shard(self.log.shards());
        let request = match first.request {
            Some(id) => self.request(row.id, id).await?,
            None => None,
        };
        let envelope = match request {
            Some((request, asked)) if self.has_audio(&asked).await? => request.in_next_round(asked.into()),
            Some((request, _)) => {
                let message = "its work was lost, and its audio is not in the store any more";
                request.in_next_round(failed("audio_gone", message))
            }
            None => {
                let message = "its work was lost, and what was asked for is not archived";
                let cause = first.request.map_or(row.id.as_uuid(), EventId::as_uuid);
                let (tenant, submitted_at) = (row.tenant.clone(), row.submitted_at);
                let about = About { recording: row.id, shard, tenant, submitted_at };
                let failed = Envelope::of_act(cause, &about, 0, failed("request_gone", message));
                Envelope { round: first.round + 1, ..failed }
            }
        };
        let work = match &envelope.event {
            Event::TranscriptionRequested(asked) => {
                let queue = Source::Queue(shard, Queue::Decode, asked.lane);
                let work = Message::work(&envelope, asked.audio.estimated_ms, 0);
                Some((queue, work.context("write the work")?))
            }
            _ => None,
        };
        let facts = vec![Message::fact(&envelope).context("write the fact")?];
        Ok(Append { shard, recording: row.id, facts, work })
    }

    /// The request, and what it asks for, as the archive has it: the admission of a recording may be lost while its
    /// request is not.
    async fn request(
        &self,
        recording: RecordingId,
        id: EventId,
    ) -> anyhow::Result<Option<(Envelope, TranscriptionRequested)>> {
        let entry = self.views.archived_event(recording, id).await.context("read what was asked for")?;
        let Some(envelope) = entry.as_ref().and_then(Entry::envelope) else { return Ok(None) };
        let asked = match &envelope.event {
            Event::TranscriptionRequested(asked) => asked.clone(),
            Event::RecordingAdmitted(admitted) => TranscriptionRequested {
                name: admitted.name.clone(),
                audio: admitted.audio.clone(),
                settings: admitted.settings.clone(),
                lane: admitted.lane,
                activation: Activation::Auto,
            },
            _ => return Ok(None),
        };
        Ok(Some((envelope.clone(), asked)))
    }

    async fn has_audio(&self, asked: &TranscriptionRequested) -> anyhow::Result<bool> {
        let key = Key::parse(&asked.audio.key).context("name a recording's audio")?;
        match self.store.head(&key).await {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error).context("look for a recording's audio"),
        }
    }
}

fn failed(code: &str, message: &str) -> Event {
    RecordingFailed { stage: STAGE.into(), cause: Cause::new(code, message), attempts: 1 }.into()
}

/// Tells whether all work that waited in a shard at `since` is done.
fn queues_are_past(survey: &Survey, shard: Shard, since: Timestamp) -> bool {
    let of_shard =
        survey.queues.iter().filter(|queue| matches!(queue.source, Source::Queue(of, ..) if of == shard));
    of_shard
        .into_iter()
        .all(|queue| queue.backlog.entries == 0 || queue.oldest_at.is_some_and(|oldest| oldest > since))
}
