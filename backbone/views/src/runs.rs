//! Reprocessing runs: which recordings are to be transcribed again, how, and how far that is.
//!
//! Here is what people ask; [`work`] is what the program asks that does the work.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use events::{Activation, Cause, Channels, RecordingId, Task, Tenant};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::postgres::PgRow;
use transcript::Status;
use uuid::Uuid;

use crate::database::Views;
use crate::error::Error;
use crate::page::{ComparisonKey, Page, RunKey};
use crate::state::{self, unsigned};
use crate::time::At;

pub mod work;

/// Which recordings a run is about; everything that is empty does not choose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Submitted at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Submitted before this time. A run never reaches beyond the moment it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// These alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<RecordingId>,
    /// Those whose readers see what this model made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Those that stand there; without any, those that are complete or failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<Status>,
}

/// What a run wants otherwise than the recordings' own settings have it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Wishes {
    /// The model's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// ISO 639-1 code, or `auto` to have it found from the speech.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Transcribe, or translate to English.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// Names and spelling that the model should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The ladder of temperatures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperatures: Option<Vec<f32>>,
    /// All channels mixed, or each apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<Channels>,
    /// Options of decoding by name, as text that [`events::Decoding::set`] takes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub decoding: BTreeMap<String, String>,
}

/// A run to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRun {
    /// Whose recordings.
    pub tenant: Tenant,
    /// Which of them.
    pub selection: Selection,
    /// What is wanted otherwise.
    pub wishes: Wishes,
    /// How its generations become visible.
    pub activation: Activation,
    /// Hours of audio requested in an hour, at most.
    pub rate: Option<f64>,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Nothing was requested yet.
    Queued,
    /// Recordings are being requested and transcribed.
    Running,
    /// Every recording of it has ended.
    Done,
    /// Stopped on request; what was complete by then stays.
    Cancelled,
    /// It cannot be done, for the reason told.
    Failed,
}

impl RunState {
    const ALL: [RunState; 5] =
        [RunState::Queued, RunState::Running, RunState::Done, RunState::Cancelled, RunState::Failed];

    /// Returns the word that stands for the state in SQL and HTTP.
    pub fn as_str(self) -> &'static str {
        match self {
            RunState::Queued => "queued",
            RunState::Running => "running",
            RunState::Done => "done",
            RunState::Cancelled => "cancelled",
            RunState::Failed => "failed",
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RunState {
    type Err = Error;

    fn from_str(text: &str) -> Result<RunState, Error> {
        let found = RunState::ALL.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| Error::Corrupt(format!("state of a run {text:?}")))
    }
}

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Its identity, from which the identities of its requests are derived.
    pub id: Uuid,
    /// Whose recordings.
    pub tenant: Tenant,
    /// When it was made.
    pub created_at: Timestamp,
    /// Where it stands.
    pub state: RunState,
    /// Why it failed.
    pub reason: Option<Cause>,
    /// Which recordings.
    pub selection: Selection,
    /// What is wanted otherwise.
    pub wishes: Wishes,
    /// How its generations become visible.
    pub activation: Activation,
    /// Hours of audio requested in an hour, at most.
    pub rate: Option<f64>,
    /// When the rate allows the next request.
    pub not_before: Option<Timestamp>,
    /// Recordings selected when it was made, and milliseconds of their audio.
    pub selected: Selected,
    /// Whether everything selected was dealt with.
    pub all_requested: bool,
    /// Whether its generations are being activated.
    pub activating: bool,
    /// How often it was activated.
    pub activations: u64,
    /// When the first recording was looked at.
    pub started_at: Option<Timestamp>,
    /// When the last of its work ended.
    pub ended_at: Option<Timestamp>,
    cursor: Option<(At, Uuid)>,
}

/// What a selection holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// Recordings.
    pub recordings: u64,
    /// Milliseconds of their audio.
    pub audio_ms: u64,
}

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunProgress {
    /// Recordings for which a generation was requested.
    pub requested: u64,
    /// Those of them that are complete.
    pub complete: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Those of them that were cancelled.
    pub cancelled: u64,
    /// Recordings for which none was requested, by reason; also those deleted after it was.
    pub skipped: BTreeMap<String, u64>,
    /// Complete ones that readers see now.
    pub visible: u64,
    /// Complete ones that were activated by the run.
    pub activated: u64,
    /// Milliseconds of audio of what has ended, skipped ones included.
    pub ended_ms: u64,
    /// Milliseconds of audio of what is complete.
    pub complete_ms: u64,
}

impl RunProgress {
    /// Recordings that were requested and have not ended.
    pub fn open(&self) -> u64 {
        self.requested.saturating_sub(self.complete + self.failed + self.cancelled)
    }
}

/// How a generation of a run differs from what readers saw before.
#[derive(Clone, Debug, PartialEq)]
pub struct RunComparison {
    /// The recording.
    pub recording: RecordingId,
    /// The name the sender gave it.
    pub name: Option<String>,
    /// The generation that readers saw when the new one was requested.
    pub baseline: u32,
    /// The new one.
    pub generation: u32,
    /// The one that readers see now.
    pub visible: Option<u32>,
    /// Words of the baseline.
    pub baseline_words: u64,
    /// Words of the new one.
    pub words: u64,
    /// Words replaced.
    pub replaced: u64,
    /// Words only in the new one.
    pub inserted: u64,
    /// Words only in the baseline.
    pub deleted: u64,
    /// Changed words over the words of the baseline.
    pub difference: f64,
    submitted_at: At,
}

/// What is part of every query over a selection: tenant, from, until, ids, statuses, model.
macro_rules! selected {
    () => {
        "FROM read.recordings r WHERE r.tenant = $1 AND ($2::timestamptz IS NULL OR r.submitted_at >= $2) \
         AND r.submitted_at < $3 AND ($4::uuid[] IS NULL OR r.id = ANY($4)) AND r.status = ANY($5) \
         AND ($6::text IS NULL OR EXISTS (SELECT FROM read.transcripts t WHERE t.submitted_at = r.submitted_at \
         AND t.recording = r.id AND t.generation = r.generation AND t.model = $6)) "
    };
}
use selected;

impl Selection {
    /// The same, as of `now`: nothing that comes later is in it.
    fn until_now(mut self, now: Timestamp) -> Selection {
        self.until = Some(self.until.map_or(now, |until| until.min(now)));
        self
    }

    fn ids(&self) -> Option<Vec<Uuid>> {
        (!self.ids.is_empty()).then(|| self.ids.iter().map(|id| id.as_uuid()).collect())
    }

    fn statuses(&self) -> Vec<&'static str> {
        let usual = [Status::Complete, Status::Failed];
        let wanted = if self.status.is_empty() { &usual[..] } else { &self.status };
        wanted.iter().map(|status| status.as_str()).collect()
    }

    fn model(&self) -> Option<String> {
        self.model.as_ref().map(|model| model.replace('\0', "\u{fffd}"))
    }
}

impl Views {
    /// Counts what a selection holds now.
    ///
    /// # Errors
    /// What the database says.
    pub async fn selected(&self, tenant: &Tenant, selection: &Selection) -> Result<Selected, Error> {
        let now = events::now();
        let selection = selection.clone().until_now(now);
        let sql = concat!(
            "SELECT count(*) AS recordings, coalesce(sum(r.audio_ms), 0)::bigint AS audio_ms ",
            selected!()
        );
        let row = sqlx::query(sql)
            .bind(tenant.as_str())
            .bind(selection.from.map(At::new))
            .bind(At::new(selection.until.unwrap_or(now)))
            .bind(selection.ids())
            .bind(selection.statuses())
            .bind(selection.model())
            .fetch_one(&self.pool)
            .await?;
        Ok(Selected {
            recordings: unsigned(row.try_get("recordings")?),
            audio_ms: unsigned(row.try_get("audio_ms")?),
        })
    }

    /// Makes a run. It is worked on from then on.
    ///
    /// # Errors
    /// What the database says.
    pub async fn create_run(&self, new: &NewRun) -> Result<Run, Error> {
        let now = events::now();
        let selection = new.selection.clone().until_now(now);
        let selected = self.selected(&new.tenant, &selection).await?;
        let row = sqlx::query(
            "INSERT INTO control.runs (id, tenant, created_at, state, selection, wishes, activation, rate, selected, \
             selected_ms) VALUES ($1, $2, $3, 'queued', $4::jsonb, $5::jsonb, $6, $7, $8, $9) \
             RETURNING *, selection::text AS selection_text, wishes::text AS wishes_text",
        )
        .bind(Uuid::new_v4())
        .bind(new.tenant.as_str())
        .bind(At::new(now))
        .bind(jsonb(&selection))
        .bind(jsonb(&new.wishes))
        .bind(new.activation.as_str())
        .bind(new.rate)
        .bind(selected.recordings as i64)
        .bind(selected.audio_ms as i64)
        .fetch_one(&self.pool)
        .await?;
        run(&row)
    }

    /// Returns a run of a tenant.
    ///
    /// # Errors
    /// What the database says.
    pub async fn run(&self, tenant: &Tenant, id: Uuid) -> Result<Option<Run>, Error> {
        let sql = "SELECT *, selection::text AS selection_text, wishes::text AS wishes_text \
                   FROM control.runs WHERE id = $1 AND tenant = $2";
        let row = sqlx::query(sql).bind(id).bind(tenant.as_str()).fetch_optional(&self.pool).await?;
        row.as_ref().map(run).transpose()
    }

    /// Returns a run, whosever it is.
    ///
    /// # Errors
    /// What the database says.
    pub async fn any_run(&self, id: Uuid) -> Result<Option<Run>, Error> {
        let sql = "SELECT *, selection::text AS selection_text, wishes::text AS wishes_text \
                   FROM control.runs WHERE id = $1";
        sqlx::query(sql).bind(id).fetch_optional(&self.pool).await?.as_ref().map(run).transpose()
    }

    /// Returns up to `limit` runs of a tenant, the newest first, after the page that ended with `after`.
    ///
    /// # Errors
    /// What the database says.
    pub async fn runs(
        &self,
        tenant: &Tenant,
        after: Option<&RunKey>,
        limit: u32,
    ) -> Result<Page<Run, RunKey>, Error> {
        let rows = sqlx::query(
            "SELECT *, selection::text AS selection_text, wishes::text AS wishes_text FROM control.runs \
             WHERE tenant = $1 AND ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3)) \
             ORDER BY created_at DESC, id DESC LIMIT $4",
        )
        .bind(tenant.as_str())
        .bind(after.map(|after| after.at))
        .bind(after.map(|after| after.id))
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.pool)
        .await?;
        let items = rows.iter().map(run).collect::<Result<Vec<_>, Error>>()?;
        Ok(Page::new(items, limit, |run| RunKey {
            at: At::new(run.created_at),
            id: run.id,
            channel: 0,
            index: 0,
        }))
    }

    /// Adds up how far a run is.
    ///
    /// # Errors
    /// What the database says.
    pub async fn run_progress(&self, id: Uuid) -> Result<RunProgress, Error> {
        let rows = sqlx::query(
            "SELECT rr.skipped, CASE WHEN r.status = 'deleted' THEN r.status ELSE coalesce(t.status, 'queued') END AS status, \
             count(*) AS recordings, sum(rr.audio_ms)::bigint AS audio_ms, count(rr.activated_at) AS activated, \
             count(*) FILTER (WHERE r.generation = rr.generation) AS visible \
             FROM control.run_recordings rr LEFT JOIN read.recordings r ON r.id = rr.recording \
             LEFT JOIN read.transcripts t ON t.submitted_at = rr.submitted_at AND t.recording = rr.recording \
             AND t.generation = rr.generation WHERE rr.run = $1 GROUP BY 1, 2",
        )
        .bind(id)
        .fetch_all(&self.pool)
        .await?;
        let mut progress = RunProgress::default();
        for row in rows {
            let number = |column| Ok::<u64, Error>(unsigned(row.try_get(column)?));
            let (recordings, audio_ms) = (number("recordings")?, number("audio_ms")?);
            let status: &str = row.try_get("status")?;
            let status: Status = status.parse().map_err(|error| Error::Corrupt(format!("{error}")))?;
            let skipped: Option<String> = row.try_get("skipped")?;
            let deleted = (status == Status::Deleted).then(|| "deleted".to_owned());
            if let Some(reason) = skipped.or(deleted) {
                *progress.skipped.entry(reason).or_default() += recordings;
                progress.ended_ms += audio_ms;
                continue;
            }
            progress.requested += recordings;
            progress.activated += number("activated")?;
            match status {
                Status::Complete => {
                    progress.complete += recordings;
                    progress.visible += number("visible")?;
                    progress.complete_ms += audio_ms;
                }
                Status::Cancelled => progress.cancelled += recordings,
                status if status.is_final() => progress.failed += recordings,
                _ => continue,
            }
            progress.ended_ms += audio_ms;
        }
        Ok(progress)
    }

    /// Stops a run of a tenant; `None` where there is none that could be stopped.
    ///
    /// # Errors
    /// What the database says.
    pub async fn cancel_run(&self, tenant: &Tenant, id: Uuid) -> Result<Option<Run>, Error> {
        let sql = "UPDATE control.runs SET state = 'cancelled' \
                   WHERE id = $1 AND tenant = $2 AND state IN ('queued', 'running') \
                   RETURNING *, selection::text AS selection_text, wishes::text AS wishes_text";
        let row = sqlx::query(sql).bind(id).bind(tenant.as_str()).fetch_optional(&self.pool).await?;
        row.as_ref().map(run).transpose()
    }

    /// Has every generation of a run activated that is complete, now and as long as the run goes on; `None` where
    /// there is no such run.
    ///
    /// # Errors
    /// What the database says.
    pub async fn activate_run(&self, tenant: &Tenant, id: Uuid) -> Result<Option<Run>, Error> {
        // Every part of the statement sees the run as it was: while it is being activated, nothing begins anew.
        let sql = "WITH again AS (UPDATE control.run_recordings SET activated_at = NULL WHERE run = $1 AND EXISTS \
                   (SELECT FROM control.runs WHERE id = $1 AND tenant = $2 AND NOT activating)) \
                   UPDATE control.runs SET activating = true, activations = activations + (NOT activating)::int \
                   WHERE id = $1 AND tenant = $2 \
                   RETURNING *, selection::text AS selection_text, wishes::text AS wishes_text";
        let row = sqlx::query(sql).bind(id).bind(tenant.as_str()).fetch_optional(&self.pool).await?;
        row.as_ref().map(run).transpose()
    }

    /// Returns up to `limit` comparisons of a run, those that differ most first, after the page that ended with
    /// `after`.
    ///
    /// # Errors
    /// What the database says.
    pub async fn run_comparisons(
        &self,
        id: Uuid,
        after: Option<&ComparisonKey>,
        limit: u32,
    ) -> Result<Page<RunComparison, ComparisonKey>, Error> {
        let rows = sqlx::query(
            "SELECT rr.*, r.name, r.generation AS visible FROM control.run_recordings rr \
             JOIN read.recordings r ON r.id = rr.recording \
             WHERE rr.run = $1 AND rr.difference_ppm IS NOT NULL AND r.status <> 'deleted' \
             AND ($2::bigint IS NULL OR rr.difference_ppm < $2 OR rr.difference_ppm = $2 AND rr.recording > $3) \
             ORDER BY rr.difference_ppm DESC, rr.recording LIMIT $4",
        )
        .bind(id)
        .bind(after.map(|after| after.index))
        .bind(after.map(|after| after.id))
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.pool)
        .await?;
        let items = rows.iter().map(comparison).collect::<Result<Vec<_>, Error>>()?;
        Ok(Page::new(items, limit, |row| ComparisonKey {
            at: row.submitted_at,
            id: row.recording.as_uuid(),
            channel: 0,
            index: ppm(row.difference),
        }))
    }
}

/// A share in millionths.
fn ppm(share: f64) -> i64 {
    (share * 1e6).round() as i64
}

fn jsonb(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("plain data has a JSON form");
    // JSON can say NUL, `jsonb` cannot keep it.
    text.replace("\\u0000", "\\ufffd")
}

fn run(row: &PgRow) -> Result<Run, Error> {
    let time = |column| Ok::<_, Error>(row.try_get::<Option<At>, _>(column)?.map(|at| at.0));
    let word = |column| Ok::<String, Error>(row.try_get(column)?);
    let corrupt = |error: events::IdError| Error::Corrupt(error.to_string());
    let code: Option<String> = row.try_get("reason_code")?;
    let cursor_at: Option<At> = row.try_get("cursor_at")?;
    Ok(Run {
        id: row.try_get("id")?,
        tenant: word("tenant")?.parse().map_err(corrupt)?,
        created_at: row.try_get::<At, _>("created_at")?.0,
        state: word("state")?.parse()?,
        reason: code.zip(row.try_get("reason")?).map(|(code, message)| Cause { code, message }),
        selection: state::json(row, "selection_text")?,
        wishes: state::json(row, "wishes_text")?,
        activation: word("activation")?.parse().map_err(corrupt)?,
        rate: row.try_get("rate")?,
        not_before: time("not_before")?,
        selected: Selected {
            recordings: unsigned(row.try_get("selected")?),
            audio_ms: unsigned(row.try_get("selected_ms")?),
        },
        all_requested: row.try_get("all_requested")?,
        activating: row.try_get("activating")?,
        activations: unsigned(row.try_get("activations")?),
        started_at: time("started_at")?,
        ended_at: time("ended_at")?,
        cursor: cursor_at.zip(row.try_get("cursor_id")?),
    })
}

fn comparison(row: &PgRow) -> Result<RunComparison, Error> {
    let number = |column| Ok::<u64, Error>(unsigned(row.try_get(column)?));
    let generation = |column| crate::fold::generation(row.try_get(column)?);
    Ok(RunComparison {
        recording: row.try_get::<Uuid, _>("recording")?.into(),
        name: row.try_get("name")?,
        baseline: generation("baseline")?,
        generation: generation("generation")?,
        visible: row.try_get::<Option<i64>, _>("visible")?.map(crate::fold::generation).transpose()?,
        baseline_words: number("baseline_words")?,
        words: number("words")?,
        replaced: number("replaced")?,
        inserted: number("inserted")?,
        deleted: number("deleted")?,
        difference: number("difference_ppm")? as f64 / 1e6,
        submitted_at: row.try_get("submitted_at")?,
    })
}
