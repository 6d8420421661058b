//! Does the reprocessing runs: requests the next generation of each selected recording on the `replay` lane, a little
//! at a time, and follows what becomes of it.
//!
//! A run goes on where it was, whenever its keeper died: the row that reserves a generation comes before the request,
//! the request has an identity of its own, and the cursor moves last. Whatever is repeated changes nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use events::{
    About, Audio, Cause, Envelope, Event, GenerationActivated, GenerationCancelled, Lane, RecordingFailed,
    RecordingId, Settings, Shard, TranscriptionRequested, now,
};
use jiff::{SignedDuration, Timestamp};
use service::store::{AudioStore, Key, StoreError};
use streams::{Append, Appended, Message, ModelNote, Queue, SharedLog, Source};
use tokio_util::sync::CancellationToken;
use transcript::Status;
use uuid::Uuid;
use views::{Asked, RecordingRow, Run, RunState, Views};

use super::lease::Lease;
use crate::metrics;

pub mod settings;

/// How the runs are done.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often to look when nothing is under way.
    pub every: Duration,
    /// How much undone audio the replay lane may hold before nothing more is requested.
    pub ahead: Duration,
    /// How long a request may be without an end before it is made sure that it is still there, and a run under way
    /// without a worker that has its model before it fails.
    pub missing_after: Duration,
}

/// Does the runs.
pub struct Runs {
    log: SharedLog,
    views: Views,
    store: AudioStore,
    options: Options,
    name: String,
    /// Runs whose model no worker has, and since when that is seen.
    without_model: Mutex<HashMap<Uuid, Instant>>,
    /// Recordings without an admission, and the place in the log up to which it may still come.
    unfolded: Mutex<HashMap<RecordingId, u64>>,
}

/// The chore's lease: a keeper that was killed is followed by another after this time.
const LEASE: Duration = Duration::from_secs(15);

/// Why a recording is skipped of which later facts were folded, and none that tells of its audio.
const UNFOLDED: &str = "not_admitted";

/// Recordings of one run dealt with before the next run has its turn, so that a large one does not hold up the others.
const TURN: u32 = 16;

impl Runs {
    /// Makes what does the runs; `name` is the holder of its lease.
    pub fn new(log: SharedLog, views: Views, store: AudioStore, options: Options, name: String) -> Runs {
        Runs { log, views, store, options, name, without_model: Mutex::default(), unfolded: Mutex::default() }
    }

    /// Does the runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let lease = Lease { chore: "runs", holder: &self.name, length: LEASE };
        loop {
            let again = match lease.hold(&self.log, self.turn()).await {
                Some(turn) => {
                    metrics::chore(lease.chore, turn.is_ok());
                    turn.unwrap_or_else(|error| {
                        tracing::warn!(error = format!("{error:#}"), "the runs cannot go on now");
                        false
                    })
                }
                None => false,
            };
            let pause = if again { Duration::ZERO } else { self.options.every };
            if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Gives every run one turn; tells whether anything was done, so that there may be more to do at once.
    ///
    /// # Errors
    /// When the database, Redis or the audio store does not answer; the next turn goes on.
    pub async fn turn(&self) -> anyhow::Result<bool> {
        let runs = self.views.runs_at_work().await.context("list the runs at work")?;
        if runs.is_empty() {
            return Ok(false);
        }
        let models = self.log.models().await.context("list the models")?;
        let mut behind = self.behind().await?;
        let (mut done, mut failure) = (0, None);
        for run in runs {
            match self.turn_of(&run, &models, &mut behind).await {
                Ok(more) => done += more,
                // The others have their turn all the same.
                Err(error) => failure = Some(error.context(format!("run {}", run.id))),
            }
        }
        failure.map_or(Ok(done > 0), Err)
    }

    /// Gives one run its turn; returns how many things were done.
    async fn turn_of(
        &self,
        run: &Run,
        models: &BTreeMap<String, ModelNote>,
        behind: &mut u64,
    ) -> anyhow::Result<u64> {
        let mut done = match run.state {
            RunState::Queued | RunState::Running => self.advance(run, models, behind).await?,
            RunState::Cancelled => self.cancel(run).await?,
            RunState::Done | RunState::Failed => 0,
        };
        done += self.compare(run).await?;
        if run.activating {
            done += self.activate(run).await?;
        }
        Ok(done)
    }

    /// Milliseconds of audio that wait in the replay lane.
    async fn behind(&self) -> anyhow::Result<u64> {
        let shards = (0..self.log.shards()).map(Shard);
        let sources: Vec<Source> = shards
            .flat_map(|shard| {
                [Queue::Decode, Queue::Segments].map(|queue| Source::Queue(shard, queue, Lane::Replay))
            })
            .collect();
        let waiting = self.log.backlogs(&sources).await.context("ask how much waits")?;
        Ok(waiting.iter().map(|backlog| backlog.audio_ms).sum())
    }

    /// Requests what there is room for, and ends the run after its last recording.
    async fn advance(
        &self,
        run: &Run,
        models: &BTreeMap<String, ModelNote>,
        behind: &mut u64,
    ) -> anyhow::Result<u64> {
        if models.is_empty() {
            // Redis was lost, or no worker has started yet: they announce their models again and again.
            return Ok(0);
        }
        if let Some(name) = run.wishes.model.as_ref().filter(|name| !models.contains_key(*name)) {
            return self.miss_model(run, name, models).await;
        }
        self.lock_without_model().remove(&run.id);
        if run.state == RunState::Queued {
            self.views.note_running(run.id).await.context("begin a run")?;
        }
        if run.all_requested {
            return self.finish(run, models).await;
        }
        let mut done = 0;
        let mut not_before = run.not_before;
        let ahead = self.options.ahead.as_millis() as u64;
        let is_due = |not_before: Option<Timestamp>| not_before.is_none_or(|at| at <= now());
        if *behind >= ahead || !is_due(not_before) {
            return Ok(0);
        }
        let rows = self.views.next_recordings(run, TURN).await.context("select the next recordings")?;
        if rows.is_empty() {
            self.views.note_all_requested(run.id).await.context("note that all is requested")?;
            return Ok(1);
        }
        for row in rows {
            if *behind >= ahead || !is_due(not_before) {
                break;
            }
            let next = pace(run.rate, not_before, row.state.audio_ms);
            match self.request(run, &row, models, next).await? {
                Requested::Yes => {
                    *behind += row.state.audio_ms;
                    not_before = next;
                }
                Requested::Skipped => {}
                Requested::NotNow => break,
            }
            done += 1;
        }
        Ok(done)
    }

    /// Ends a run whose model no worker has. After Redis lost its data the workers announce theirs one after the other, so
    /// it waits first: the model was there when the run was made.
    async fn miss_model(
        &self,
        run: &Run,
        name: &str,
        models: &BTreeMap<String, ModelNote>,
    ) -> anyhow::Result<u64> {
        let since = *self.lock_without_model().entry(run.id).or_insert_with(Instant::now);
        if since.elapsed() < self.options.missing_after {
            return Ok(0);
        }
        let known: Vec<&str> = models.keys().map(String::as_str).collect();
        let message = format!("no worker has announced the model {name}; there are {}", known.join(", "));
        let cause = Cause::new("unknown_model", message);
        self.views.end_run(run.id, RunState::Failed, Some(&cause)).await.context("end a run")?;
        self.lock_without_model().remove(&run.id);
        Ok(1)
    }

    fn lock_without_model(&self) -> MutexGuard<'_, HashMap<Uuid, Instant>> {
        // Every write is one insert or one removal: a panic elsewhere leaves nothing half done.
        self.without_model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deals with one recording: skips it, or requests its next generation.
    async fn request(
        &self,
        run: &Run,
        row: &RecordingRow,
        models: &BTreeMap<String, ModelNote>,
        not_before: Option<Timestamp>,
    ) -> anyhow::Result<Requested> {
        let work = match self.prepare(run, row, models).await? {
            Ok(work) => work,
            Err(UNFOLDED) if self.is_on_its_way(row).await? => return Ok(Requested::NotNow),
            Err(reason) => return self.skip(run, row, reason).await,
        };
        let reserved = self.views.reserve_generation(run.id, row).await.context("reserve a generation")?;
        let Some(asked) = reserved else { return Ok(Requested::NotNow) };
        let Ok(append) = request(run, row, &asked, work, self.log.shards()) else {
            return self.skip(run, row, "too_large").await;
        };
        match self.log.append(&append).await {
            Ok(Appended::Done | Appended::Repeated) => {}
            Ok(Appended::Deleted) => return self.skip(run, row, "deleted").await,
            Err(streams::Error::Full { .. }) => return Ok(Requested::NotNow),
            Err(error) => return Err(error).context("request a generation"),
        }
        self.views.note_requested(run.id, &asked, not_before).await.context("note a request")?;
        metrics::requested(row.state.audio_ms);
        tracing::debug!(run = %run.id, recording = %row.id, generation = asked.generation, "generation requested");
        Ok(Requested::Yes)
    }

    /// The audio and the settings of a recording in a run, if the audio is there and the model can hear it; else the reason.
    async fn prepare(
        &self,
        run: &Run,
        row: &RecordingRow,
        models: &BTreeMap<String, ModelNote>,
    ) -> anyhow::Result<Result<(Audio, Settings), &'static str>> {
        let (Some(audio), Some(own)) = (&row.audio, &row.settings) else {
            return Ok(Err(if row.state.status == Status::Deleted { "deleted" } else { UNFOLDED }));
        };
        let settings = match settings::resolve(&run.wishes, own, row.state.language.as_deref(), models) {
            Ok(settings) => settings,
            Err(unfit) => {
                tracing::info!(run = %run.id, recording = %row.id, %unfit, "recording skipped");
                return Ok(Err(unfit.code()));
            }
        };
        let Ok(key) = Key::parse(&audio.key) else { return Ok(Err("audio_gone")) };
        match self.store.head(&key).await {
            Ok(_) => Ok(Ok((audio.clone(), settings))),
            Err(StoreError::NotFound { .. }) => Ok(Err("audio_gone")),
            Err(error) => Err(error).context("look for the audio"),
        }
    }

    /// Whether a fact may be on its way that stands in the log before those of a recording which are folded: a projector has
    /// it in hand, and another was faster.
    async fn is_on_its_way(&self, row: &RecordingRow) -> anyhow::Result<bool> {
        let shard = row.id.shard(self.log.shards());
        let checkpoints = self.views.checkpoints().await.context("ask how far the logs are folded")?;
        let Some(checkpoint) = checkpoints.into_iter().find(|checkpoint| checkpoint.shard == shard) else {
            return Ok(true);
        };
        let mut unfolded = self.unfolded.lock().unwrap_or_else(PoisonError::into_inner);
        // What is folded of it now lies before this place. Once nothing before it is missing, nothing more comes.
        let until = *unfolded.entry(row.id).or_insert(checkpoint.max_seq);
        let is_on_its_way = checkpoint.contiguous_seq < until;
        if !is_on_its_way {
            unfolded.remove(&row.id);
        }
        Ok(is_on_its_way)
    }

    async fn skip(&self, run: &Run, row: &RecordingRow, reason: &'static str) -> anyhow::Result<Requested> {
        self.views.note_skipped(run.id, row, reason).await.context("note a skipped recording")?;
        metrics::skipped(reason);
        Ok(Requested::Skipped)
    }

    /// Makes sure of requests that are silent for long, and ends the run once all of them have ended.
    async fn finish(&self, run: &Run, models: &BTreeMap<String, ModelNote>) -> anyhow::Result<u64> {
        let progress = self.views.run_progress(run.id).await.context("add up a run")?;
        if progress.open() == 0 {
            if !self.views.generations_to_compare(run.id, 1).await.context("list comparisons")?.is_empty() {
                return Ok(0);
            }
            self.views.end_run(run.id, RunState::Done, None).await.context("end a run")?;
            tracing::info!(run = %run.id, ?progress, "run done");
            return Ok(1);
        }
        let before = now() - SignedDuration::try_from(self.options.missing_after).unwrap_or_default();
        for asked in self.views.silent_requests(run.id, before, TURN).await.context("list silent requests")? {
            let row = self.views.recording(asked.recording).await.context("read a recording")?;
            let Some(row) = row else { continue };
            let work = match self.prepare(run, &row, models).await? {
                Ok(work) => work,
                // Its workers may only be starting: models are announced anew after Redis lost its data.
                Err("unknown_model") => continue,
                Err(UNFOLDED) if self.is_on_its_way(&row).await? => continue,
                Err(reason) => {
                    self.end_lost(run, &asked, reason).await?;
                    continue;
                }
            };
            // The log knows whether it has this request; it was lost only if Redis lost its data.
            let append = request(run, &row, &asked, work, self.log.shards()).context("write a request")?;
            if self.log.append(&append).await.context("request a generation again")? == Appended::Done {
                tracing::warn!(run = %run.id, recording = %row.id, "a request was lost: made again");
            }
        }
        Ok(0)
    }

    /// Ends a request that is silent and cannot be made again, once nothing of it can be under way: somebody waits for the
    /// run to end. Should its work come to an end all the same, that end counts.
    async fn end_lost(&self, run: &Run, asked: &Asked, reason: &'static str) -> anyhow::Result<()> {
        let shard = asked.recording.shard(self.log.shards());
        let lanes = [Queue::Decode, Queue::Segments].map(|queue| Source::Queue(shard, queue, Lane::Replay));
        let waiting = self.log.backlogs(&lanes).await.context("ask how much waits")?;
        if waiting.iter().any(|backlog| backlog.entries > 0) {
            return Ok(());
        }
        let generations = self.views.generations(asked.recording).await.context("read a recording")?;
        let row = generations.iter().find(|row| row.generation == asked.generation);
        let round = row.map_or(0, |row| row.round) + 1;
        let message =
            "its work was lost, and it cannot be begun again: its audio is gone, or the model cannot hear it";
        let event =
            RecordingFailed { stage: "keeper".into(), cause: Cause::new(reason, message), attempts: 1 };
        // A later round has an identity of its own.
        let act = Uuid::new_v5(&run.id, &round.to_be_bytes());
        let envelope = Envelope { round, ..self.act(act, run, asked, event.into()) };
        let facts = vec![Message::fact(&envelope).context("write a failure")?];
        let append = Append { shard, recording: asked.recording, facts, work: None };
        if self.log.append(&append).await.context("end a lost request")? == Appended::Done {
            tracing::warn!(run = %run.id, recording = %asked.recording, reason, "a request was lost and cannot be made again");
        }
        Ok(())
    }

    /// Cancels what a stopped run had requested.
    async fn cancel(&self, run: &Run) -> anyhow::Result<u64> {
        if run.ended_at.is_some() {
            return Ok(0);
        }
        let asked = self.views.generations_to_cancel(run.id, TURN).await.context("list what to cancel")?;
        if asked.is_empty() {
            self.views.end_run(run.id, RunState::Cancelled, None).await.context("end a run")?;
        }
        for asked in &asked {
            let event = GenerationCancelled { by: format!("run {}", run.id) };
            let envelope = self.act(run.id, run, asked, event.into());
            let fact = Message::fact(&envelope).context("write a cancellation")?;
            self.log
                .cancel(envelope.shard, asked.recording, asked.generation, &fact)
                .await
                .context("cancel a generation")?;
            self.views.note_cancelled(run.id, asked.recording).await.context("note a cancellation")?;
        }
        Ok(asked.len() as u64)
    }

    /// Activates the complete generations of a run.
    async fn activate(&self, run: &Run) -> anyhow::Result<u64> {
        let asked =
            self.views.generations_to_activate(run.id, TURN).await.context("list what to activate")?;
        if asked.is_empty() && run.ended_at.is_some() {
            self.views.end_activation(run.id).await.context("end an activation")?;
        }
        for asked in &asked {
            let by = format!("run {}", run.id);
            // The first act of a kind is named after the run alone, each later one is another.
            let mut act = run.id;
            if run.activations > 1 {
                act = Uuid::new_v5(&act, &run.activations.to_be_bytes());
            }
            let envelope = self.act(act, run, asked, GenerationActivated { by }.into());
            let facts = vec![Message::fact(&envelope).context("write an activation")?];
            let append = Append { shard: envelope.shard, recording: asked.recording, facts, work: None };
            self.log.append(&append).await.context("activate a generation")?;
            self.views.note_activated(run.id, asked.recording).await.context("note an activation")?;
        }
        Ok(asked.len() as u64)
    }

    /// Compares complete generations with what readers saw before, for the list of what differs most.
    async fn compare(&self, run: &Run) -> anyhow::Result<u64> {
        let asked = self.views.generations_to_compare(run.id, TURN).await.context("list comparisons")?;
        for asked in &asked {
            let read = async |generation| self.views.transcript(asked.recording, Some(generation)).await;
            let from = match asked.baseline {
                Some(baseline) => read(baseline).await.context("read a transcript")?,
                None => None,
            };
            // What failed before has no words to differ from.
            let from = from.filter(|from| from.status == Status::Complete);
            let to = read(asked.generation).await.context("read a transcript")?;
            let comparison = match from.zip(to) {
                Some((from, to)) => Some(
                    tokio::task::spawn_blocking(move || transcript::compare(&from, &to))
                        .await
                        .context("compare transcripts")?,
                ),
                None => None,
            };
            self.views
                .note_compared(run.id, asked.recording, comparison.as_ref())
                .await
                .context("note a comparison")?;
        }
        Ok(asked.len() as u64)
    }

    fn act(&self, act: Uuid, run: &Run, asked: &Asked, event: Event) -> Envelope {
        let about = About {
            recording: asked.recording,
            shard: asked.recording.shard(self.log.shards()),
            tenant: run.tenant.clone(),
            submitted_at: asked.submitted_at,
        };
        Envelope::of_act(act, &about, asked.generation, event)
    }
}

/// What became of a recording's turn.
enum Requested {
    Yes,
    Skipped,
    /// The run was stopped, or Redis is full.
    NotNow,
}

/// The request of a run for one recording: the same identity each time, so that the log takes it once.
///
/// # Errors
/// [`events::CodecError::TooLarge`] for a prompt that no event can carry.
pub fn request(
    run: &Run,
    row: &RecordingRow,
    asked: &Asked,
    (audio, settings): (Audio, Settings),
    shards: u16,
) -> Result<Append, events::CodecError> {
    let about = About {
        recording: row.id,
        shard: row.id.shard(shards),
        tenant: row.tenant.clone(),
        submitted_at: row.submitted_at,
    };
    let event = TranscriptionRequested {
        name: row.name.clone(),
        audio,
        settings,
        lane: Lane::Replay,
        activation: run.activation,
    };
    let envelope = Envelope::of_act(run.id, &about, asked.generation, event.into());
    let queue = Source::Queue(about.shard, Queue::Decode, Lane::Replay);
    Ok(Append {
        shard: about.shard,
        recording: row.id,
        facts: vec![Message::fact(&envelope)?],
        work: Some((queue, Message::work(&envelope, row.state.audio_ms, 0)?)),
    })
}

/// When the rate allows the request after one of `audio_ms`.
fn pace(rate: Option<f64>, not_before: Option<Timestamp>, audio_ms: u64) -> Option<Timestamp> {
    let rate = rate.filter(|rate| *rate > 0.0)?;
    let from = not_before.map_or(now(), |not_before| not_before.max(now()));
    let pause = SignedDuration::from_secs_f64((audio_ms as f64 / 1000.0 / rate).min(1e9));
    Some(from.saturating_add(pause).unwrap_or(from))
}
