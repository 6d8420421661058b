//! What deletion leaves to do: recordings that are to be erased, and the rows that go.
//!
//! A deletion is noted twice: by whoever asks for it, so that it outlives a Redis that loses its fact, and by the fold
//! of its fact. From the fold on nothing of the recording is archived any more, so what is erased then stays erased.

use std::time::Duration;

use events::{Deletion, RecordingId, Shard, Tenant};
use jiff::Timestamp;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use uuid::Uuid;

use crate::compressed;
use crate::database::Views;
use crate::error::Error;
use crate::schema::Schema;
use crate::time::At;

/// A deletion and how far its erasure is.
#[derive(Clone, Debug, PartialEq)]
pub struct Erasure {
    /// Who is to be gone.
    pub deletion: Deletion,
    /// When that was asked for.
    pub requested_at: Timestamp,
    /// When the read side got to know; only then what is erased stays erased. Later, when a fact of the recording came behind
    /// that: then what came with it is still to be erased.
    pub folded_at: Option<Timestamp>,
    /// When everything was erased.
    pub completed_at: Option<Timestamp>,
}

impl Views {
    /// Notes that a recording is to be gone; `false` when that was noted before.
    ///
    /// # Errors
    /// What the database says.
    pub async fn request_erasure(&self, deletion: &Deletion) -> Result<bool, Error> {
        let done = sqlx::query(
            "INSERT INTO control.erasures (recording, tenant, submitted_at, drop_id, requested_by) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
        )
        .bind(deletion.recording.as_uuid())
        .bind(deletion.tenant.as_str())
        .bind(At::new(deletion.submitted_at))
        .bind(&deletion.drop_id)
        .bind(&deletion.by)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Notes that a drop is deleted of which no recording is known.
    ///
    /// # Errors
    /// What the database says.
    pub async fn note_deleted_drop(&self, drop_id: &str, tenant: &Tenant) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO control.deleted_drops (drop_id, tenant) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        )
        .bind(drop_id)
        .bind(tenant.as_str())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Requests the erasure of up to `limit` recordings that came of deleted drops all the same; returns how many. Forgets
    /// drops that were deleted longer than `keep` ago: by then their ids may be used again.
    ///
    /// # Errors
    /// What the database says.
    pub async fn request_erasures_of_drops(&self, keep: Duration, limit: u32) -> Result<u64, Error> {
        sqlx::query(
            "DELETE FROM control.deleted_drops WHERE requested_at < now() - make_interval(secs => $1)",
        )
        .bind(keep.as_secs_f64())
        .execute(&self.pool)
        .await?;
        let done = sqlx::query(
            "INSERT INTO control.erasures (recording, tenant, submitted_at, drop_id, requested_by) \
             SELECT r.id, r.tenant, r.submitted_at, r.drop_id, 'api' \
             FROM control.deleted_drops d JOIN read.recordings r ON r.drop_id = d.drop_id AND r.tenant = d.tenant \
             WHERE r.status <> 'deleted' LIMIT $1 ON CONFLICT DO NOTHING",
        )
        .bind(i64::from(limit))
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }

    /// Returns how far the erasure of a recording is; `None` when nobody asked for one.
    ///
    /// # Errors
    /// What the database says.
    pub async fn erasure(&self, recording: RecordingId) -> Result<Option<Erasure>, Error> {
        let sql = "SELECT * FROM control.erasures WHERE recording = $1";
        let row = sqlx::query(sql).bind(recording.as_uuid()).fetch_optional(&self.pool).await?;
        row.as_ref().map(erasure).transpose()
    }

    /// Returns up to `limit` erasures that are not complete: first those that can be done now.
    ///
    /// # Errors
    /// What the database says.
    pub async fn open_erasures(&self, limit: u32) -> Result<Vec<Erasure>, Error> {
        let sql = "SELECT * FROM control.erasures WHERE completed_at IS NULL \
                   ORDER BY folded_at IS NULL, requested_at, recording LIMIT $1";
        let rows = sqlx::query(sql).bind(i64::from(limit)).fetch_all(&self.pool).await?;
        rows.iter().map(erasure).collect()
    }

    /// Returns the number of erasures that are not complete.
    ///
    /// # Errors
    /// What the database says.
    pub async fn count_open_erasures(&self) -> Result<u64, Error> {
        let sql = "SELECT count(*) FROM control.erasures WHERE completed_at IS NULL";
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&self.pool).await?;
        Ok(count.unsigned_abs())
    }

    /// Removes the rows of a deleted recording: its facts in the archive, of which only that of its deletion stays, and
    /// whatever an older or newer schema of the read side still holds. The places of the facts in the shard's log, and
    /// `seqs` besides, become known gaps, so that nothing waits for them. Returns how many facts went. May be repeated.
    ///
    /// # Errors
    /// What the database says; then nothing was removed.
    pub async fn erase_rows(&self, deletion: &Deletion, shard: Shard, seqs: &[u64]) -> Result<u64, Error> {
        let (pool, deletion, seqs) = (self.pool.clone(), deletion.clone(), seqs.to_vec());
        // A task of its own: a transaction must not be dropped half way.
        let task = tokio::spawn(async move {
            let mut transaction = pool.begin().await?;
            compressed::lift_limit(&mut transaction).await?;
            // In the order in which the fold locks: rows, archive, checkpoint.
            for schema in schemas(&mut transaction).await? {
                erase_contents(&mut transaction, &schema, &deletion).await?;
            }
            let removed = erase_archive(&mut transaction, &deletion, shard).await?;
            let places = seqs.iter().filter_map(|&seq| Some((i32::from(shard.0), i64::try_from(seq).ok()?)));
            let places: Vec<(i32, i64)> = removed.iter().copied().chain(places).collect();
            declare_erased(&mut transaction, &places).await?;
            let sql = "DELETE FROM control.expired_audio WHERE recording = $1";
            sqlx::query(sql).bind(deletion.recording.as_uuid()).execute(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(removed.len() as u64)
        });
        task.await.map_err(|error| Error::Task(error.to_string()))?
    }

    /// Notes that a recording is erased, and what went, for people to read; `false` when facts of it came meanwhile, and what
    /// came with them may still be there.
    ///
    /// # Errors
    /// What the database says.
    pub async fn complete_erasure(&self, erasure: &Erasure, removed: &Value) -> Result<bool, Error> {
        let sql = "UPDATE control.erasures SET completed_at = now(), removed = $2::jsonb \
                   WHERE recording = $1 AND folded_at IS NOT DISTINCT FROM $3";
        let done = sqlx::query(sql)
            .bind(erasure.deletion.recording.as_uuid())
            .bind(removed.to_string())
            .bind(erasure.folded_at.map(At::new))
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Returns the time that is `age` ago if something was erased before it of which the file of Redis may still tell.
    ///
    /// # Errors
    /// What the database says.
    pub async fn stale_file(&self, age: Duration) -> Result<Option<Timestamp>, Error> {
        let sql = "SELECT before FROM (SELECT now() - make_interval(secs => $1) AS before) AS t \
                   WHERE EXISTS (SELECT FROM control.erasures WHERE rewritten_at IS NULL AND completed_at <= before)";
        let before: Option<At> =
            sqlx::query_scalar(sql).bind(age.as_secs_f64()).fetch_optional(&self.pool).await?;
        Ok(before.map(|before| before.0))
    }

    /// Notes that the file of Redis tells of nothing any more that was erased up to `before`.
    ///
    /// # Errors
    /// What the database says.
    pub async fn note_rewritten_file(&self, before: Timestamp) -> Result<(), Error> {
        let sql = "UPDATE control.erasures SET rewritten_at = now() \
                   WHERE rewritten_at IS NULL AND completed_at <= $1";
        sqlx::query(sql).bind(At::new(before)).execute(&self.pool).await?;
        Ok(())
    }
}

fn erasure(row: &PgRow) -> Result<Erasure, Error> {
    let tenant: String = row.try_get("tenant")?;
    let recording: Uuid = row.try_get("recording")?;
    let at = |column| Ok::<_, Error>(row.try_get::<Option<At>, _>(column)?.map(|at| at.0));
    Ok(Erasure {
        deletion: Deletion {
            recording: recording.into(),
            tenant: tenant.parse().map_err(|error| Error::Corrupt(format!("{error}")))?,
            submitted_at: row.try_get::<At, _>("submitted_at")?.0,
            drop_id: row.try_get("drop_id")?,
            by: row.try_get("requested_by")?,
        },
        requested_at: row.try_get::<At, _>("requested_at")?.0,
        folded_at: at("folded_at")?,
        completed_at: at("completed_at")?,
    })
}

/// Deletes the archived facts; returns their places.
async fn erase_archive(
    connection: &mut PgConnection,
    deletion: &Deletion,
    shard: Shard,
) -> Result<Vec<(i32, i64)>, Error> {
    // The shard and the time say which compressed slices have nothing of it, unread. Not RETURNING: from a slice that is
    // compressed in part only, TimescaleDB then fails with `attempted to delete invisible tuple`. Nothing is archived of
    // a deleted recording, so both statements see the same.
    let these = "FROM log.events WHERE occurred_at >= $1 AND shard = $2 AND recording = $3 AND type <> 'RecordingDeleted'";
    let sql = [format!("SELECT shard, seq {these}"), format!("DELETE {these}")];
    let [select, delete] = sql.map(|sql| {
        sqlx::query(AssertSqlSafe(sql))
            .persistent(false)
            .bind(compressed::earliest(deletion.submitted_at))
            .bind(i32::from(shard.0))
            .bind(deletion.recording.as_uuid())
    });
    let rows = select.fetch_all(&mut *connection).await?;
    delete.execute(connection).await?;
    rows.iter().map(|row| Ok((row.try_get("shard")?, row.try_get("seq")?))).collect()
}

/// Opens the erasures of recordings anew of which a fact came behind their deletion. A Redis that went back in time has forgotten
/// the deletion's mark, so what it still has of a recording is done once more: audio, speech and text are there again.
pub(crate) async fn reopen(connection: &mut PgConnection, recordings: &[Uuid]) -> Result<(), Error> {
    if recordings.is_empty() {
        return Ok(());
    }
    let sql = "UPDATE control.erasures SET folded_at = clock_timestamp(), completed_at = NULL, rewritten_at = NULL \
               WHERE recording = ANY($1) AND folded_at IS NOT NULL";
    let reopened = sqlx::query(sql).bind(recordings).execute(connection).await?.rows_affected();
    if reopened > 0 {
        tracing::warn!(recordings = reopened, "facts came of what is deleted: it is erased once more");
    }
    Ok(())
}

/// Declares places in logs as known gaps: their facts were erased.
pub(crate) async fn declare_erased(
    connection: &mut PgConnection,
    places: &[(i32, i64)],
) -> Result<(), Error> {
    if places.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "WITH places AS (SELECT shard, range_agg(int8range(seq, seq, '[]')) AS seqs \
                         FROM unnest($1::int[], $2::bigint[]) AS p (shard, seq) GROUP BY shard ORDER BY shard), \
         noted AS (INSERT INTO control.gaps (shard, first_seq, last_seq, reason) \
                   SELECT shard, lower(r), upper(r) - 1, 'erased with its recording' \
                   FROM places, unnest(seqs) AS r ON CONFLICT DO NOTHING) \
         INSERT INTO control.checkpoints (shard, seen, applied) \
         SELECT shard, seqs, 0 FROM places \
         ON CONFLICT (shard) DO UPDATE SET seen = checkpoints.seen + excluded.seen",
    )
    .bind(places.iter().map(|place| place.0).collect::<Vec<_>>())
    .bind(places.iter().map(|place| place.1).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Every version of the read side that is there.
async fn schemas(connection: &mut PgConnection) -> Result<Vec<Schema>, Error> {
    let sql = "SELECT schema FROM control.projections ORDER BY schema";
    let names: Vec<String> = sqlx::query_scalar(sql).fetch_all(connection).await?;
    names.iter().map(|name| Ok(name.parse::<Schema>()?)).collect()
}

/// Empties one version of the read side of a recording. Where it is served, the fold of the deletion has done so already.
async fn erase_contents(
    connection: &mut PgConnection,
    schema: &Schema,
    deletion: &Deletion,
) -> Result<(), Error> {
    let Deletion { recording, submitted_at, .. } = deletion;
    for table in ["segments", "transcripts"] {
        let sql = format!("DELETE FROM {{schema}}.{table} WHERE submitted_at = $1 AND recording = $2");
        sqlx::query(schema.sql(&sql))
            .bind(At::new(*submitted_at))
            .bind(recording.as_uuid())
            .execute(&mut *connection)
            .await?;
    }
    let sql = "UPDATE {schema}.recordings SET name = NULL, generation = NULL, status = 'deleted', reason_code = NULL, \
         reason = NULL, audio_ms = 0, decoded_ms = 0, transcribed_ms = 0, segments = NULL, transcribed_segments = 0, \
         failed_segments = 0, language = NULL, completed_at = NULL, facts = '{}' \
         WHERE id = $1 AND status <> 'deleted'";
    sqlx::query(schema.sql(sql)).bind(recording.as_uuid()).execute(connection).await?;
    Ok(())
}
