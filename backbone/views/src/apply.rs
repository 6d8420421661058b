//! A batch of entries into tables, in one transaction, each event once.
//!
//! The inbox decides what is new. New events are folded into the version of the read side that serves ([`crate::fold`])
//! and archived, the seqs are noted as seen, and those who wait are told.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use events::{Envelope, Event, EventId, RecordingDeleted, RecordingId, Shard};
use sqlx::postgres::PgPool;
use sqlx::{Connection, PgConnection, Row};
use uuid::Uuid;

use crate::copy::{self, Rows};
use crate::database::Views;
use crate::entry::Entry;
use crate::erasures;
use crate::error::{ApplyError, Error};
use crate::fold::fold;
use crate::metrics;
use crate::projections;
use crate::schema::Schema;
use crate::session::Session;
use crate::state::unsigned;
use crate::time::At;
use crate::watch;

/// What came of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Events that were new.
    pub fresh: usize,
    /// Events that were there already, or twice in the batch: they changed nothing.
    pub repeated: usize,
    /// The recordings of the new events, in order.
    pub recordings: Vec<RecordingId>,
    /// Seqs that two events claim.
    pub conflicts: Vec<Conflict>,
}

/// Two events with one seq: the log was rolled back by a failover after the first was read. Both are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The shard whose log it is.
    pub shard: Shard,
    /// The seq.
    pub seq: u64,
    /// The event that was there.
    pub first: EventId,
    /// The event that came.
    pub second: EventId,
}

impl Views {
    /// Folds and archives a batch in one transaction. Entries that were applied before change nothing, so the same
    /// batch may be given again after any error. The transaction runs in a task of its own: dropping the future does
    /// not interrupt it. A server that says nothing for a minute is not waited for: the connection may be half-open.
    ///
    /// # Errors
    /// [`ApplyError::Retry`]: the same batch later. [`ApplyError::Fatal`]: an entry is refused.
    pub async fn apply(&self, batch: &[Entry]) -> Result<Applied, ApplyError> {
        let started = Instant::now();
        let (pool, batch) = (self.pool.clone(), batch.to_vec());
        let mut task = tokio::spawn(async move { apply(&pool, batch).await });
        let outcome = match tokio::time::timeout(PATIENCE, &mut task).await {
            Ok(Ok(outcome)) => outcome.map_err(ApplyError::from),
            Ok(Err(error)) => Err(ApplyError::Fatal(Error::Task(error.to_string()))),
            Err(_) => {
                task.abort();
                let silent = std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer within a minute");
                Err(ApplyError::from(Error::from(sqlx::Error::Io(silent))))
            }
        };
        match &outcome {
            Ok(applied) => metrics::record_applied(applied.fresh, applied.repeated, started.elapsed()),
            Err(error) => metrics::record_apply_error(matches!(error, ApplyError::Retry(_))),
        }
        outcome
    }
}

/// How long a batch may take.
const PATIENCE: Duration = Duration::from_secs(60);

async fn apply(pool: &PgPool, batch: Vec<Entry>) -> Result<Applied, Error> {
    if batch.is_empty() {
        return Ok(Applied::default());
    }
    let mut session = Session::open(pool).await?;
    let mut transaction = session.connection().begin().await?;
    let serving = projections::hold_serving(&mut transaction).await?;
    let fresh = insert_inbox(&mut transaction, &batch).await?;
    let mut seen = HashSet::new();
    let fresh: Vec<&Entry> = batch
        .iter()
        .filter(|entry| fresh.contains(&entry.head.event_id) && seen.insert(entry.head.event_id))
        .collect();
    let envelopes: Vec<&Envelope> = fresh.iter().filter_map(|entry| entry.lean()).collect();
    let deleted = fold(&mut transaction, &serving, fresh.iter().copied()).await?;
    forget_in_old_versions(&mut transaction, &envelopes).await?;
    let (kept, unwanted) = split_deleted(&mut transaction, &serving, &fresh, &deleted).await?;
    insert_archive(&mut transaction, &kept).await?;
    let conflicts = advance(&mut transaction, &batch, &fresh).await?;
    erasures::declare_erased(&mut transaction, &unwanted).await?;
    erasures::reopen(&mut transaction, &late(&batch, &kept)).await?;
    note_erasures(&mut transaction, &envelopes).await?;
    let recordings: BTreeSet<RecordingId> = envelopes.iter().map(|envelope| envelope.recording).collect();
    if !recordings.is_empty() {
        watch::notify(&mut transaction, &recordings).await?;
    }
    transaction.commit().await?;
    session.close();
    Ok(Applied {
        fresh: fresh.len(),
        repeated: batch.len() - fresh.len(),
        recordings: recordings.into_iter().collect(),
        conflicts,
    })
}

/// Returns the events that were not there. The archive remembers longer than the inbox.
async fn insert_inbox(connection: &mut PgConnection, batch: &[Entry]) -> Result<HashSet<EventId>, Error> {
    let mut rows: Vec<(Uuid, i32, i64, At)> = batch
        .iter()
        .map(|Entry { head, .. }| {
            (head.event_id.as_uuid(), i32::from(head.shard), head.seq, At::new(head.occurred_at))
        })
        .collect();
    rows.sort_unstable_by_key(|row| (row.0, row.1, row.2));
    let fresh: Vec<Uuid> = sqlx::query_scalar(
        "INSERT INTO control.inbox (event_id, shard, seq) \
         SELECT n.event_id, n.shard, n.seq \
         FROM unnest($1::uuid[], $2::int[], $3::bigint[], $4::timestamptz[]) AS n (event_id, shard, seq, occurred_at) \
         WHERE NOT EXISTS (SELECT FROM log.events e WHERE e.occurred_at = n.occurred_at AND e.event_id = n.event_id) \
         ON CONFLICT DO NOTHING RETURNING event_id",
    )
    .bind(rows.iter().map(|row| row.0).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.1).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.2).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.3).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(fresh.into_iter().map(EventId::from).collect())
}

/// Deletions that are folded can be carried out: whatever of the recording comes after this is not archived.
async fn note_erasures(connection: &mut PgConnection, envelopes: &[&Envelope]) -> Result<(), Error> {
    let mut deletions: BTreeMap<RecordingId, (&Envelope, &RecordingDeleted)> = BTreeMap::new();
    for envelope in envelopes {
        if let Event::RecordingDeleted(deleted) = &envelope.event {
            deletions.insert(envelope.recording, (envelope, deleted));
        }
    }
    if deletions.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO control.erasures (recording, tenant, submitted_at, drop_id, requested_by, folded_at) \
         SELECT *, now() FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::text[], $5::text[]) \
         ON CONFLICT (recording) DO UPDATE SET folded_at = coalesce(erasures.folded_at, excluded.folded_at)",
    )
    .bind(deletions.keys().map(|id| id.as_uuid()).collect::<Vec<_>>())
    .bind(deletions.values().map(|(envelope, _)| envelope.tenant.as_str()).collect::<Vec<_>>())
    .bind(deletions.values().map(|(envelope, _)| At::submitted(envelope)).collect::<Vec<_>>())
    .bind(deletions.values().map(|(_, deleted)| deleted.drop_id.clone()).collect::<Vec<_>>())
    .bind(deletions.values().map(|(_, deleted)| deleted.by.clone()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// The recordings of facts that are not archived now: they were, or their recording is deleted.
fn late(batch: &[Entry], kept: &[&Entry]) -> Vec<Uuid> {
    // What is kept are different entries of the batch, mostly all of them.
    if kept.len() == batch.len() {
        return Vec::new();
    }
    let kept: HashSet<EventId> = kept.iter().map(|entry| entry.head.event_id).collect();
    let late = batch
        .iter()
        .filter(|entry| entry.head.kind != "RecordingDeleted" && !kept.contains(&entry.head.event_id))
        .map(|entry| entry.head.recording);
    late.collect::<BTreeSet<RecordingId>>().into_iter().map(|id| id.as_uuid()).collect()
}

/// Splits off the facts that are not to be archived, because their recording is deleted; returns their places.
async fn split_deleted<'a>(
    connection: &mut PgConnection,
    serving: &Schema,
    fresh: &[&'a Entry],
    deleted: &BTreeSet<RecordingId>,
) -> Result<(Vec<&'a Entry>, Vec<(i32, i64)>), Error> {
    // The fold has not looked at what it does not understand.
    let unknown: Vec<Uuid> = fresh
        .iter()
        .filter(|entry| entry.lean().is_none())
        .map(|entry| entry.head.recording.as_uuid())
        .collect();
    let mut deleted = deleted.clone();
    if !unknown.is_empty() {
        let sql = "SELECT id FROM {schema}.recordings WHERE id = ANY($1) AND status = 'deleted' \
                   ORDER BY id FOR SHARE";
        let ids: Vec<Uuid> = sqlx::query_scalar(serving.sql(sql)).bind(unknown).fetch_all(connection).await?;
        deleted.extend(ids.into_iter().map(RecordingId::from));
    }
    let (unwanted, kept): (Vec<&Entry>, Vec<&Entry>) = fresh
        .iter()
        .partition(|entry| entry.head.kind != "RecordingDeleted" && deleted.contains(&entry.head.recording));
    let places = unwanted.iter().map(|entry| (i32::from(entry.head.shard), entry.head.seq)).collect();
    Ok((kept, places))
}

/// Deletion means gone: versions that no longer serve forget the recording altogether.
async fn forget_in_old_versions(connection: &mut PgConnection, envelopes: &[&Envelope]) -> Result<(), Error> {
    let deleted: BTreeMap<RecordingId, At> = envelopes
        .iter()
        .filter(|envelope| matches!(envelope.event, Event::RecordingDeleted(_)))
        .map(|envelope| (envelope.recording, At::submitted(envelope)))
        .collect();
    if deleted.is_empty() {
        return Ok(());
    }
    let sql = "SELECT schema FROM control.projections WHERE state = 'old' ORDER BY schema";
    for schema in sqlx::query_scalar::<_, String>(sql).fetch_all(&mut *connection).await? {
        let schema: Schema = schema.parse()?;
        for (id, submitted_at) in &deleted {
            for sql in [
                "DELETE FROM {schema}.segments WHERE submitted_at = $1 AND recording = $2",
                "DELETE FROM {schema}.transcripts WHERE submitted_at = $1 AND recording = $2",
                "DELETE FROM {schema}.recordings WHERE submitted_at = $1 AND id = $2",
            ] {
                let query = sqlx::query(schema.sql(sql)).bind(submitted_at).bind(id.as_uuid());
                query.execute(&mut *connection).await?;
            }
        }
    }
    Ok(())
}

async fn insert_archive(connection: &mut PgConnection, fresh: &[&Entry]) -> Result<(), Error> {
    if fresh.is_empty() {
        return Ok(());
    }
    let mut fresh = fresh.to_vec();
    fresh.sort_by_key(|entry| (At::new(entry.head.occurred_at), entry.head.event_id));
    if fresh.len() <= copy::FEW {
        return insert_few(connection, &fresh).await;
    }
    let mut rows = Rows::new(12);
    for entry in fresh {
        let head = &entry.head;
        rows.row()
            .time(At::new(head.occurred_at))
            .uuid(head.event_id.as_uuid())
            .text(head.kind.as_str())
            .bigint(i64::from(head.version))
            .integer(head.shard.into())
            .bigint(head.seq)
            .uuid(head.recording.as_uuid())
            .text(head.tenant.as_str())
            .bigint(i64::from(head.generation))
            .bigint(i64::from(head.round))
            .time(At::new(head.submitted_at))
            .text(&*entry.json);
    }
    let statement = "COPY log.events (occurred_at, event_id, type, version, shard, seq, recording, tenant, generation, \
                     round, submitted_at, event) FROM STDIN BINARY";
    rows.send(connection, statement).await
}

async fn insert_few(connection: &mut PgConnection, fresh: &[&Entry]) -> Result<(), Error> {
    let heads = || fresh.iter().map(|entry| &entry.head);
    sqlx::query(
        "INSERT INTO log.events (occurred_at, event_id, type, version, shard, seq, recording, tenant, generation, round, \
         submitted_at, event) \
         SELECT * FROM unnest($1::timestamptz[], $2::uuid[], $3::text[], $4::bigint[], $5::int[], $6::bigint[], $7::uuid[], \
         $8::text[], $9::bigint[], $10::bigint[], $11::timestamptz[], $12::text[])",
    )
    .bind(heads().map(|head| At::new(head.occurred_at)).collect::<Vec<_>>())
    .bind(heads().map(|head| head.event_id.as_uuid()).collect::<Vec<_>>())
    .bind(heads().map(|head| head.kind.as_str()).collect::<Vec<_>>())
    .bind(heads().map(|head| i64::from(head.version)).collect::<Vec<_>>())
    .bind(heads().map(|head| i32::from(head.shard)).collect::<Vec<_>>())
    .bind(heads().map(|head| head.seq).collect::<Vec<_>>())
    .bind(heads().map(|head| head.recording.as_uuid()).collect::<Vec<_>>())
    .bind(heads().map(|head| head.tenant.as_str()).collect::<Vec<_>>())
    .bind(heads().map(|head| i64::from(head.generation)).collect::<Vec<_>>())
    .bind(heads().map(|head| i64::from(head.round)).collect::<Vec<_>>())
    .bind(heads().map(|head| At::new(head.submitted_at)).collect::<Vec<_>>())
    .bind(fresh.iter().map(|entry| &*entry.json).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes the seqs of the batch as seen, and returns those that another event had already.
async fn advance(
    connection: &mut PgConnection,
    batch: &[Entry],
    fresh: &[&Entry],
) -> Result<Vec<Conflict>, Error> {
    let mut applied: BTreeMap<i32, i64> = BTreeMap::new();
    for entry in batch {
        applied.entry(entry.head.shard.into()).or_insert(0);
    }
    for entry in fresh {
        *applied.entry(entry.head.shard.into()).or_insert(0) += 1;
    }
    let shards: Vec<i32> = applied.keys().copied().collect();
    sqlx::query(
        "INSERT INTO control.checkpoints (shard, seen, applied) \
         SELECT shard, '{}', 0 FROM unnest($1::int[]) AS shard ON CONFLICT DO NOTHING",
    )
    .bind(&shards)
    .execute(&mut *connection)
    .await?;
    let sql = "SELECT FROM control.checkpoints WHERE shard = ANY($1) ORDER BY shard FOR UPDATE";
    sqlx::query(sql).bind(&shards).execute(&mut *connection).await?;

    let conflicts = find_conflicts(connection, fresh).await?;
    sqlx::query(
        "UPDATE control.checkpoints c SET seen = c.seen + new.seen, applied = c.applied + new.applied \
         FROM (SELECT shard, range_agg(int8range(seq, seq + 1)) AS seen \
               FROM unnest($1::int[], $2::bigint[]) AS s (shard, seq) GROUP BY shard) AS ranges \
         JOIN unnest($3::int[], $4::bigint[]) AS counts (shard, applied) USING (shard) \
         CROSS JOIN LATERAL (SELECT ranges.seen, counts.applied) AS new \
         WHERE c.shard = ranges.shard",
    )
    .bind(batch.iter().map(|entry| i32::from(entry.head.shard)).collect::<Vec<_>>())
    .bind(batch.iter().map(|entry| entry.head.seq).collect::<Vec<_>>())
    .bind(&shards)
    .bind(applied.values().copied().collect::<Vec<_>>())
    .execute(&mut *connection)
    .await?;
    Ok(conflicts)
}

/// New events whose seq was seen already: suspects, unless the seq was only declared lost, which is noted too.
async fn find_conflicts(connection: &mut PgConnection, fresh: &[&Entry]) -> Result<Vec<Conflict>, Error> {
    let rows = sqlx::query(
        "WITH new AS (SELECT * FROM unnest($1::int[], $2::bigint[], $3::uuid[]) AS new (shard, seq, event_id)), \
         suspects AS (SELECT new.* FROM new JOIN control.checkpoints c ON c.shard = new.shard WHERE c.seen @> new.seq \
                      UNION SELECT a.* FROM new a JOIN new b USING (shard, seq) WHERE a.event_id <> b.event_id), \
         filled AS (UPDATE control.gaps g SET filled_at = now() FROM suspects s \
                    WHERE g.shard = s.shard AND s.seq BETWEEN g.first_seq AND g.last_seq) \
         SELECT s.shard, s.seq, e.event_id AS first, s.event_id AS second FROM suspects s \
         CROSS JOIN LATERAL (SELECT event_id FROM log.events e WHERE e.shard = s.shard AND e.seq = s.seq \
                             AND e.event_id <> s.event_id ORDER BY event_id LIMIT 1) AS e \
         ORDER BY s.shard, s.seq, s.event_id",
    )
    .bind(fresh.iter().map(|entry| i32::from(entry.head.shard)).collect::<Vec<_>>())
    .bind(fresh.iter().map(|entry| entry.head.seq).collect::<Vec<_>>())
    .bind(fresh.iter().map(|entry| entry.head.event_id.as_uuid()).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    let mut conflicts = Vec::new();
    for row in rows {
        let (shard, seq): (i32, i64) = (row.try_get("shard")?, row.try_get("seq")?);
        let [first, second]: [Uuid; 2] = [row.try_get("first")?, row.try_get("second")?];
        sqlx::query(
            "INSERT INTO control.conflicts (shard, seq, first_event, second_event) \
             VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        )
        .bind(shard)
        .bind(seq)
        .bind(first)
        .bind(second)
        .execute(&mut *connection)
        .await?;
        conflicts.push(Conflict {
            shard: Shard(u16::try_from(shard).unwrap_or_default()),
            seq: unsigned(seq),
            first: first.into(),
            second: second.into(),
        });
    }
    Ok(conflicts)
}
