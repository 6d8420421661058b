//! What the program asks that does the work of the runs. Every step may be repeated: a run goes on where it was.

use events::{Cause, RecordingId};
use jiff::Timestamp;
use sqlx::Row;
use sqlx::postgres::PgRow;
use transcript::Comparison;
use uuid::Uuid;

use super::{Run, RunState, run, selected};
use crate::database::Views;
use crate::error::Error;
use crate::fold::generation;
use crate::recordings::{RecordingRow, columns, recording};
use crate::time::At;

/// A generation that a run asked for, or is about to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The recording.
    pub recording: RecordingId,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// The generation.
    pub generation: u32,
    /// The generation that readers saw then.
    pub baseline: Option<u32>,
}

/// Joins a run's recordings with where their generations stand.
macro_rules! asked {
    ($which:literal) => {
        concat!(
            "SELECT rr.* FROM control.run_recordings rr LEFT JOIN read.transcripts t \
             ON t.submitted_at = rr.submitted_at AND t.recording = rr.recording AND t.generation = rr.generation \
             LEFT JOIN read.recordings r ON r.id = rr.recording \
             WHERE rr.run = $1 AND rr.skipped IS NULL AND coalesce(r.status <> 'deleted', true) AND ",
            $which,
            " ORDER BY rr.submitted_at, rr.recording LIMIT $2"
        )
    };
}

impl Views {
    /// Returns the runs that have something left to do, the oldest first.
    ///
    /// # Errors
    /// What the database says.
    pub async fn runs_at_work(&self) -> Result<Vec<Run>, Error> {
        let sql = "SELECT *, selection::text AS selection_text, wishes::text AS wishes_text FROM control.runs \
                   WHERE ended_at IS NULL OR activating ORDER BY created_at, id";
        sqlx::query(sql).fetch_all(&self.pool).await?.iter().map(run).collect()
    }

    /// Returns the next `limit` recordings of a run's selection, in order of submission.
    ///
    /// # Errors
    /// What the database says.
    pub async fn next_recordings(&self, run: &Run, limit: u32) -> Result<Vec<RecordingRow>, Error> {
        let (cursor_at, cursor_id) = run.cursor.unzip();
        let sql = concat!(
            "SELECT ",
            columns!(),
            " ",
            selected!(),
            "AND ($7::timestamptz IS NULL OR (r.submitted_at, r.id) > ($7, $8)) ORDER BY r.submitted_at, r.id LIMIT $9"
        );
        let rows = sqlx::query(sql)
            .bind(run.tenant.as_str())
            .bind(run.selection.from.map(At::new))
            .bind(At::new(run.selection.until.unwrap_or(run.created_at)))
            .bind(run.selection.ids())
            .bind(run.selection.statuses())
            .bind(run.selection.model())
            .bind(cursor_at)
            .bind(cursor_id)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(recording).collect()
    }

    /// Gives a recording the number of its next generation in a run; the same number each time. `None`: the run
    /// requests nothing more.
    ///
    /// # Errors
    /// What the database says.
    pub async fn reserve_generation(&self, run: Uuid, row: &RecordingRow) -> Result<Option<Asked>, Error> {
        // Two runs that reserve at once meet in the unique index: the second then takes the next number.
        let mut attempt = 1;
        loop {
            match self.try_reserve(run, row).await {
                Err(Error::Refused(error)) if attempt < 10 && is_taken(&error) => attempt += 1,
                reserved => return reserved,
            }
        }
    }

    async fn try_reserve(&self, run: Uuid, row: &RecordingRow) -> Result<Option<Asked>, Error> {
        let reserved = sqlx::query(
            "INSERT INTO control.run_recordings (run, recording, submitted_at, audio_ms, baseline, generation) \
             SELECT id, $2, $3, $4, $5, 1 + greatest( \
             coalesce((SELECT max(t.generation) FROM read.transcripts t WHERE t.submitted_at = $3 AND t.recording = $2), 0), \
             coalesce((SELECT max(rr.generation) FROM control.run_recordings rr WHERE rr.recording = $2), 0)) \
             FROM control.runs WHERE id = $1 AND state IN ('queued', 'running') \
             ON CONFLICT (run, recording) DO UPDATE SET audio_ms = excluded.audio_ms RETURNING *",
        )
        .bind(run)
        .bind(row.id.as_uuid())
        .bind(At::new(row.submitted_at))
        .bind(row.state.audio_ms as i64)
        .bind(row.generation.map(i64::from))
        .fetch_optional(&self.pool)
        .await?;
        reserved.as_ref().map(asked).transpose()
    }

    /// Notes that a generation was requested, and that the run goes on behind it, at the earliest at `not_before`.
    ///
    /// # Errors
    /// What the database says.
    pub async fn note_requested(
        &self,
        run: Uuid,
        asked: &Asked,
        not_before: Option<Timestamp>,
    ) -> Result<(), Error> {
        sqlx::query(
            "WITH requested AS (UPDATE control.run_recordings SET requested_at = now() WHERE run = $1 AND recording = $2) \
             UPDATE control.runs SET cursor_at = $3, cursor_id = $2, not_before = $4 WHERE id = $1",
        )
        .bind(run)
        .bind(asked.recording.as_uuid())
        .bind(At::new(asked.submitted_at))
        .bind(not_before.map(At::new))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Notes that no generation of a recording is requested, and why in a stable word; the run goes on behind it.
    ///
    /// # Errors
    /// What the database says.
    pub async fn note_skipped(&self, run: Uuid, row: &RecordingRow, reason: &str) -> Result<(), Error> {
        sqlx::query(
            "WITH skipped AS (INSERT INTO control.run_recordings (run, recording, submitted_at, audio_ms, skipped) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (run, recording) DO UPDATE SET skipped = excluded.skipped) \
             UPDATE control.runs SET cursor_at = $3, cursor_id = $2 WHERE id = $1",
        )
        .bind(run)
        .bind(row.id.as_uuid())
        .bind(At::new(row.submitted_at))
        .bind(row.state.audio_ms as i64)
        .bind(reason)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Notes that a run is being worked on.
    ///
    /// # Errors
    /// What the database says.
    pub async fn note_running(&self, run: Uuid) -> Result<(), Error> {
        let sql = "UPDATE control.runs SET state = 'running', started_at = now() WHERE id = $1 AND state = 'queued'";
        sqlx::query(sql).bind(run).execute(&self.pool).await?;
        Ok(())
    }

    /// Notes that the whole selection was dealt with.
    ///
    /// # Errors
    /// What the database says.
    pub async fn note_all_requested(&self, run: Uuid) -> Result<(), Error> {
        let sql = "UPDATE control.runs SET all_requested = true WHERE id = $1";
        sqlx::query(sql).bind(run).execute(&self.pool).await?;
        Ok(())
    }

    /// Notes that nothing of a run is left to do. A run that was cancelled meanwhile stays cancelled.
    ///
    /// # Errors
    /// What the database says.
    pub async fn end_run(&self, run: Uuid, state: RunState, reason: Option<&Cause>) -> Result<(), Error> {
        sqlx::query(
            "UPDATE control.runs SET ended_at = now(), reason_code = $3, reason = $4, \
             state = CASE WHEN state = 'cancelled' THEN state ELSE $2 END WHERE id = $1 AND ended_at IS NULL",
        )
        .bind(run)
        .bind(state.as_str())
        .bind(reason.map(|cause| &cause.code))
        .bind(reason.map(|cause| &cause.message))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Returns generations requested before `before` that have not ended, and notes that they are looked at now.
    ///
    /// # Errors
    /// What the database says.
    pub async fn silent_requests(
        &self,
        run: Uuid,
        before: Timestamp,
        limit: u32,
    ) -> Result<Vec<Asked>, Error> {
        let rows = sqlx::query(
            "UPDATE control.run_recordings SET requested_at = now() WHERE run = $1 AND recording IN \
             (SELECT rr.recording FROM control.run_recordings rr LEFT JOIN read.transcripts t \
             ON t.submitted_at = rr.submitted_at AND t.recording = rr.recording AND t.generation = rr.generation \
             WHERE rr.run = $1 AND rr.skipped IS NULL AND rr.requested_at < $3 \
             AND coalesce(t.status, 'queued') IN ('queued', 'decoding', 'transcribing') \
             ORDER BY rr.requested_at LIMIT $2) RETURNING *",
        )
        .bind(run)
        .bind(i64::from(limit))
        .bind(At::new(before))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(asked).collect()
    }

    /// Returns generations of a cancelled run that are still to be cancelled.
    ///
    /// # Errors
    /// What the database says.
    pub async fn generations_to_cancel(&self, run: Uuid, limit: u32) -> Result<Vec<Asked>, Error> {
        let sql = asked!(
            "rr.cancelled_at IS NULL AND coalesce(t.status, 'queued') IN ('queued', 'decoding', 'transcribing')"
        );
        let rows = sqlx::query(sql).bind(run).bind(i64::from(limit)).fetch_all(&self.pool).await?;
        rows.iter().map(asked).collect()
    }

    /// Notes that a generation of a run was cancelled.
    ///
    /// # Errors
    /// What the database says.
    pub async fn note_cancelled(&self, run: Uuid, recording: RecordingId) -> Result<(), Error> {
        let sql = "UPDATE control.run_recordings SET cancelled_at = now() WHERE run = $1 AND recording = $2";
        sqlx::query(sql).bind(run).bind(recording.as_uuid()).execute(&self.pool).await?;
        Ok(())
    }

    /// Returns complete generations of a run that the run has not activated.
    ///
    /// # Errors
    /// What the database says.
    pub async fn generations_to_activate(&self, run: Uuid, limit: u32) -> Result<Vec<Asked>, Error> {
        let sql = asked!("rr.activated_at IS NULL AND t.status = 'complete'");
        let rows = sqlx::query(sql).bind(run).bind(i64::from(limit)).fetch_all(&self.pool).await?;
        rows.iter().map(asked).collect()
    }

    /// Notes that a generation of a run was activated.
    ///
    /// # Errors
    /// What the database says.
    pub async fn note_activated(&self, run: Uuid, recording: RecordingId) -> Result<(), Error> {
        let sql = "UPDATE control.run_recordings SET activated_at = now() WHERE run = $1 AND recording = $2";
        sqlx::query(sql).bind(run).bind(recording.as_uuid()).execute(&self.pool).await?;
        Ok(())
    }

    /// Notes that nothing of a run is left to activate.
    ///
    /// # Errors
    /// What the database says.
    pub async fn end_activation(&self, run: Uuid) -> Result<(), Error> {
        let sql = "UPDATE control.runs SET activating = false WHERE id = $1";
        sqlx::query(sql).bind(run).execute(&self.pool).await?;
        Ok(())
    }

    /// Returns complete generations of a run that were not compared with what readers saw before.
    ///
    /// # Errors
    /// What the database says.
    pub async fn generations_to_compare(&self, run: Uuid, limit: u32) -> Result<Vec<Asked>, Error> {
        let sql = asked!("rr.compared_at IS NULL AND t.status = 'complete'");
        let rows = sqlx::query(sql).bind(run).bind(i64::from(limit)).fetch_all(&self.pool).await?;
        rows.iter().map(asked).collect()
    }

    /// Keeps how a generation of a run differs; `None` where there was nothing to compare it with.
    ///
    /// # Errors
    /// What the database says.
    pub async fn note_compared(
        &self,
        run: Uuid,
        recording: RecordingId,
        comparison: Option<&Comparison>,
    ) -> Result<(), Error> {
        let count = |of: fn(&Comparison) -> u64| comparison.map(|comparison| of(comparison) as i64);
        sqlx::query(
            "UPDATE control.run_recordings SET compared_at = now(), baseline_words = $3, words = $4, replaced = $5, \
             inserted = $6, deleted = $7, difference_ppm = $8 WHERE run = $1 AND recording = $2",
        )
        .bind(run)
        .bind(recording.as_uuid())
        .bind(count(|comparison| comparison.from.words))
        .bind(count(|comparison| comparison.to.words))
        .bind(count(|comparison| comparison.counts.replaced))
        .bind(count(|comparison| comparison.counts.inserted))
        .bind(count(|comparison| comparison.counts.deleted))
        .bind(comparison.map(|comparison| super::ppm(comparison.counts.rate)))
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

/// Says whether another transaction took the same number first.
fn is_taken(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).as_deref() == Some("23505")
}

fn asked(row: &PgRow) -> Result<Asked, Error> {
    let number: Option<i64> = row.try_get("generation")?;
    Ok(Asked {
        recording: row.try_get::<Uuid, _>("recording")?.into(),
        submitted_at: row.try_get::<At, _>("submitted_at")?.0,
        generation: generation(
            number.ok_or_else(|| Error::Corrupt("a request without a generation".to_owned()))?,
        )?,
        baseline: row.try_get::<Option<i64>, _>("baseline")?.map(generation).transpose()?,
    })
}
