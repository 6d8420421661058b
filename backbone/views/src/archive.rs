//! The archive: every fact as it stood in the log, read in the order of a shard's log.

use std::collections::BTreeMap;

use events::{EventId, RecordingId, Shard};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::compressed;
use crate::database::Views;
use crate::entry::Entry;
use crate::error::Error;
use crate::state::unsigned;
use crate::time::At;
use crate::verify::Recordings;

/// A stretch of a shard's log in the archive, with the times in which its events happened: with them, a time slice that
/// holds none of them is not looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    shard: Shard,
    /// Begins after this seq.
    pub after: u64,
    /// Ends with this seq.
    pub through: u64,
    times: Option<(At, At)>,
}

/// Seqs of a [`Stretch`] at most.
const STRETCH_LEN_MAX: u64 = 50_000;

impl Views {
    /// Returns the stretch of the archive after `after`, up to `through` at most.
    ///
    /// # Errors
    /// What the database says.
    pub async fn archive(&self, shard: Shard, after: u64, through: u64) -> Result<Stretch, Error> {
        let through = through.min(after.saturating_add(STRETCH_LEN_MAX));
        let sql = "SELECT min(occurred_at) AS first, max(occurred_at) AS last FROM log.events \
                   WHERE shard = $1 AND seq > $2 AND seq <= $3";
        let row = sqlx::query(sql)
            .bind(i32::from(shard.0))
            .bind(signed(after))
            .bind(signed(through))
            .fetch_one(&self.pool)
            .await?;
        let times = row.try_get::<Option<At>, _>("first")?.zip(row.try_get::<Option<At>, _>("last")?);
        Ok(Stretch { shard, after, through, times })
    }

    /// Returns the entries of `stretch` with seqs after `after` and up to `through`, in order of seq. Where a log was
    /// rolled back, two may have one seq.
    ///
    /// # Errors
    /// [`Error::Event`] for an event that this release cannot read.
    pub async fn archived(&self, stretch: &Stretch, after: u64, through: u64) -> Result<Vec<Entry>, Error> {
        let Some((first, last)) = stretch.times else { return Ok(Vec::new()) };
        let sql = "SELECT event_id, shard, seq, event FROM log.events \
                   WHERE shard = $1 AND seq > $2 AND seq <= $3 AND occurred_at BETWEEN $4 AND $5 \
                   ORDER BY seq, event_id";
        let rows = sqlx::query(sql)
            .bind(i32::from(stretch.shard.0))
            .bind(signed(after.max(stretch.after)))
            .bind(signed(through.min(stretch.through)))
            .bind(first)
            .bind(last)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(entry).collect()
    }

    /// Returns which of the events are archived, and how.
    ///
    /// # Errors
    /// What the database says, and as [`archived`](Views::archived).
    pub async fn archived_copies(&self, events: &[EventId]) -> Result<BTreeMap<EventId, Copy>, Error> {
        let ids: Vec<Uuid> = events.iter().map(|id| id.as_uuid()).collect();
        let sql = "SELECT i.event_id, i.shard, i.seq, e.event FROM control.inbox i \
                   LEFT JOIN log.events e ON e.shard = i.shard AND e.seq = i.seq AND e.event_id = i.event_id \
                   WHERE i.event_id = ANY($1)";
        let mut copies = BTreeMap::new();
        for row in sqlx::query(sql).bind(ids).fetch_all(&self.pool).await? {
            let is_there = row.try_get::<Option<&str>, _>("event")?.is_some();
            let entry = if is_there { Some(entry(&row)?) } else { None };
            let id: Uuid = row.try_get("event_id")?;
            copies.insert(id.into(), Copy { seq: unsigned(row.try_get("seq")?), entry });
        }
        Ok(copies)
    }

    /// Returns an archived event of a recording.
    ///
    /// # Errors
    /// What the database says, and as [`archived`](Views::archived).
    pub async fn archived_event(
        &self,
        recording: RecordingId,
        event: EventId,
    ) -> Result<Option<Entry>, Error> {
        let sql = "SELECT event_id, shard, seq, event FROM log.events WHERE recording = $1 AND event_id = $2 LIMIT 1";
        let query = sqlx::query(sql).bind(recording.as_uuid()).bind(event.as_uuid());
        query.fetch_optional(&self.pool).await?.as_ref().map(entry).transpose()
    }
}

/// An event in the archive.
#[derive(Clone, Debug, PartialEq)]
pub struct Copy {
    /// Its place in the log of its shard.
    pub seq: u64,
    /// The event as it was folded; `None` where it was erased.
    pub entry: Option<Entry>,
}

/// Returns what is archived after `after`, whether or not something before it is missing; at most `limit` entries.
pub(crate) async fn after(
    connection: &mut PgConnection,
    shard: Shard,
    after: u64,
    limit: i64,
) -> Result<Vec<Entry>, Error> {
    let sql = "SELECT event_id, shard, seq, event FROM log.events WHERE shard = $1 AND seq > $2 \
               ORDER BY seq, event_id LIMIT $3";
    let query = sqlx::query(sql).bind(i32::from(shard.0)).bind(signed(after)).bind(limit);
    query.fetch_all(connection).await?.iter().map(entry).collect()
}

/// Returns the entries that came to a seq that was passed already, since `since`: another event had it, or it was taken
/// for lost. Whoever follows the seqs misses them.
pub(crate) async fn stragglers(connection: &mut PgConnection, since: At) -> Result<Vec<Entry>, Error> {
    let sql = "SELECT e.event_id, e.shard, e.seq, e.event FROM log.events e \
               JOIN (SELECT shard, seq, seq AS last FROM control.conflicts WHERE noted_at >= $1 \
                     UNION SELECT shard, first_seq, last_seq FROM control.gaps WHERE filled_at >= $1) AS p (shard, first, last) \
               ON e.shard = p.shard AND e.seq BETWEEN p.first AND p.last ORDER BY e.shard, e.seq, e.event_id";
    sqlx::query(sql).bind(since).fetch_all(connection).await?.iter().map(entry).collect()
}

/// Returns all that is archived of the recordings, in the order of their logs.
pub(crate) async fn of_recordings(
    connection: &mut PgConnection,
    recordings: &Recordings,
) -> Result<Vec<Entry>, Error> {
    let sql = "SELECT event_id, shard, seq, event FROM log.events WHERE recording = ANY($1) \
               ORDER BY shard, seq, event_id";
    let ids: Vec<Uuid> = recordings.keys().map(|id| id.as_uuid()).collect();
    sqlx::query(sql).bind(ids).fetch_all(connection).await?.iter().map(entry).collect()
}

/// Returns those recordings whose first event went from the archive by age: it is not there, and the recording is older
/// than what went by a rule of retention, or than all there is.
pub(crate) async fn expired(
    connection: &mut PgConnection,
    recordings: &Recordings,
) -> Result<Recordings, Error> {
    let sql = "SELECT w.id, w.submitted_at FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) AS w (id, submitted_at, earliest) \
               JOIN read.recordings r ON r.id = w.id LEFT JOIN control.expired_events x ON x.tenant = r.tenant \
               WHERE (w.submitted_at < x.before \
                      OR w.submitted_at < coalesce((SELECT min(occurred_at) FROM log.events), 'infinity')) \
               AND NOT EXISTS (SELECT FROM log.events e WHERE e.recording = w.id AND e.occurred_at >= w.earliest \
                               AND e.type IN ('RecordingAdmitted', 'RecordingRejected'))";
    let rows = sqlx::query(sql)
        .bind(recordings.keys().map(|id| id.as_uuid()).collect::<Vec<Uuid>>())
        .bind(recordings.values().map(|&at| At::new(at)).collect::<Vec<_>>())
        .bind(recordings.values().map(|&at| compressed::earliest(at)).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    let id = |row: &PgRow| Ok::<_, Error>(row.try_get::<Uuid, _>("id")?.into());
    rows.iter().map(|row| Ok((id(row)?, row.try_get::<At, _>("submitted_at")?.0))).collect()
}

fn entry(row: &PgRow) -> Result<Entry, Error> {
    let shard = Shard(u16::try_from(row.try_get::<i32, _>("shard")?).unwrap_or_default());
    let seq = unsigned(row.try_get("seq")?);
    let json: &str = row.try_get("event")?;
    let event_id: EventId = row.try_get::<Uuid, _>("event_id")?.into();
    Entry::read(shard, seq, json.as_bytes()).map_err(|source| Error::Event { event_id, shard, seq, source })
}

/// Seqs beyond what SQL can number do not exist.
pub(crate) fn signed(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}
