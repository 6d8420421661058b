//! Ends what would never end: transcriptions that the read side knows and whose work Redis has lost.
//!
//! A drop that went through the API is in the audio store until it has ended, and is handed in again
//! ([`sweep`](super::sweep)). One made straight into Redis is not. Should Redis go back in time between the projection of
//! its admission and the next write to disk, its work is gone while readers see it waiting. It is a stray when nothing
//! of it moves and its shard's queues hold nothing as old. Its transcription is asked for again in the next round; one
//! too many is harmless, as the higher round counts.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use events::{
    Activation, Audio, Cause, Envelope, Event, EventId, RecordingFailed, RecordingId, Shard,
    TranscriptionRequested, now,
};
use jiff::{SignedDuration, Timestamp};
use service::store::{AudioStore, Key, StoreError};
use streams::{Append, Appended, Message, Queue, SharedLog, Source, Survey};
use transcript::{State, Status};
use views::{GenerationRow, RecordingRow, Views};

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

/// Where a recording stood since when.
struct Look {
    state: State,
    since: Timestamp,
}

/// Unfinished recordings looked at in one round, the oldest first: they are at the head of their queues.
const LOOKED_AT_MAX: u32 = 1_000;

/// The stage of the failure where the audio is gone, too.
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
        let before = now() - SignedDuration::try_from(self.missing_after).unwrap_or_default();
        let mut rows = Vec::new();
        for status in [Status::Queued, Status::Decoding, Status::Transcribing] {
            let some = self.views.unfinished(status, before, LOOKED_AT_MAX).await;
            rows.extend(some.context("list unfinished recordings")?);
        }
        let waits = |id: &RecordingId| rows.iter().any(|row| row.id == *id);
        self.seen.retain(|id, _| waits(id));
        self.schedule.keep(waits);
        if rows.is_empty() {
            return Ok(0);
        }
        let survey = self.log.survey().await.context("survey the streams")?;
        let mut ended = 0;
        for row in rows {
            if self.is_stray(&row, &survey) && self.begin_again(&row).await? {
                ended += 1;
            }
        }
        metrics::strays(ended);
        Ok(ended)
    }

    /// Tells whether nothing of a recording moves or waits, and it is time to say so.
    fn is_stray(&mut self, row: &RecordingRow, survey: &Survey) -> bool {
        let look = self.seen.entry(row.id).or_insert_with(|| Look { state: row.state.clone(), since: now() });
        if look.state != row.state {
            *look = Look { state: row.state.clone(), since: now() };
        }
        let shard = row.id.shard(self.log.shards());
        is_past(survey, shard, look.since)
            && self.schedule.is_due(row.id, SystemTime::from(look.since), SystemTime::now())
    }

    /// Asks for the transcription again, or ends it where the audio is gone, too; tells whether anybody wanted that.
    async fn begin_again(&self, row: &RecordingRow) -> anyhow::Result<bool> {
        let generations = self.views.generations(row.id).await.context("read a recording")?;
        let Some(first) = generations.into_iter().find(|generation| generation.generation == 0) else {
            return Ok(false);
        };
        // Later generations are of a run, which makes sure of its requests itself.
        let (Some(audio), Some(0)) = (&row.audio, row.generation) else { return Ok(false) };
        let Some(append) = self.append(row, &first, audio).await? else { return Ok(false) };
        let appended = self.log.append(&append).await.context("begin a stray again")?;
        if appended == Appended::Done {
            let round = first.round + 1;
            tracing::warn!(recording = %row.id, round, "Redis had lost the work on it: begun again");
        }
        Ok(appended == Appended::Done)
    }

    async fn append(
        &self,
        row: &RecordingRow,
        first: &GenerationRow,
        audio: &Audio,
    ) -> anyhow::Result<Option<Append>> {
        let (Some(cause), Some(settings)) = (first.request, first.settings.clone()) else { return Ok(None) };
        let key = Key::parse(&audio.key).context("name a recording's audio")?;
        let is_there = match self.store.head(&key).await {
            Ok(_) => true,
            Err(StoreError::NotFound { .. }) => false,
            Err(error) => return Err(error).context("look for a recording's audio"),
        };
        let event: Event = if is_there {
            let lane = first.lane.unwrap_or_default();
            let activation = first.activation.unwrap_or(Activation::Auto);
            let (name, audio) = (row.name.clone(), audio.clone());
            TranscriptionRequested { name, audio, settings, lane, activation }.into()
        } else {
            let cause =
                Cause::new("audio_gone", "its work was lost, and its audio is not in the store any more");
            RecordingFailed { stage: STAGE.into(), cause, attempts: 1 }.into()
        };
        let round = first.round + 1;
        let shard = row.id.shard(self.log.shards());
        let envelope = Envelope {
            event_id: EventId::derive(cause, event.kind(), "", round),
            shard,
            seq: None,
            recording: row.id,
            tenant: row.tenant.clone(),
            generation: 0,
            round,
            submitted_at: row.submitted_at,
            occurred_at: now(),
            trace: None,
            causation_id: Some(cause),
            event,
        };
        let work = match &envelope.event {
            Event::TranscriptionRequested(requested) => {
                let queue = Source::Queue(shard, Queue::Decode, requested.lane);
                let work = Message::work(&envelope, requested.audio.estimated_ms, 0);
                Some((queue, work.context("write the work")?))
            }
            _ => None,
        };
        let facts = vec![Message::fact(&envelope).context("write the fact")?];
        Ok(Some(Append { shard, recording: row.id, facts, work }))
    }
}

/// Tells whether everything that waited in a shard at `since` is done and projected.
fn is_past(survey: &Survey, shard: Shard, since: Timestamp) -> bool {
    let of_shard = |source: Source| matches!(source, Source::Queue(of, ..) if of == shard);
    let queues_are_past = survey
        .queues
        .iter()
        .filter(|queue| of_shard(queue.source))
        .all(|queue| queue.backlog.entries == 0 || queue.oldest_at.is_some_and(|oldest| oldest > since));
    let log = survey.logs.iter().find(|log| log.shard == shard);
    let all_is_projected = log
        .and_then(|log| log.groups.iter().find(|group| group.name == "project"))
        .is_some_and(|group| group.pending == 0 && group.unread == 0);
    queues_are_past && all_is_projected
}
