//! Recordings as readers see them: one by its id or its drop, or a page of many.

use std::collections::BTreeMap;

use events::{Audio, Lane, RecordingId, Settings, Tenant};
use jiff::Timestamp;
use sqlx::Row;
use sqlx::postgres::PgRow;
use transcript::{RecordingFacts, State, Status};
use uuid::Uuid;

use crate::database::Views;
use crate::error::Error;
use crate::fold::generation;
use crate::page::{Page, RecordingKey};
use crate::state;
use crate::time::At;

/// A recording and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordingRow {
    /// Who it is.
    pub id: RecordingId,
    /// Who owns it.
    pub tenant: Tenant,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// The drop it came from; `None` until its first event came in.
    pub drop_id: Option<String>,
    /// The name the sender gave it.
    pub name: Option<String>,
    /// Where it was fetched from, if it came by uri.
    pub uri: Option<String>,
    /// Its audio; `None` when it was rejected or deleted.
    pub audio: Option<Audio>,
    /// The lane it was dropped in.
    pub lane: Option<Lane>,
    /// The settings of its first transcription.
    pub settings: Option<Settings>,
    /// The model of the transcription that readers see.
    pub model: Option<String>,
    /// Whatever else the sender said about it.
    pub metadata: BTreeMap<String, String>,
    /// The transcription that readers see.
    pub generation: Option<u32>,
    /// Where it stands: the state of that transcription, or rejected, or deleted.
    pub state: State,
}

/// Which recordings; everything that is `None` does not filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this tenant.
    pub tenant: Option<Tenant>,
    /// That stand there.
    pub status: Option<Status>,
    /// With this text in the name, in any case of letters.
    pub name: Option<String>,
    /// Submitted at this time or later.
    pub from: Option<Timestamp>,
    /// Submitted before this time.
    pub until: Option<Timestamp>,
}

/// What [`recording`] reads of the recording `r`.
macro_rules! columns {
    () => {
        "r.*, r.facts::text AS facts_text, (SELECT t.model FROM read.transcripts t WHERE t.submitted_at = r.submitted_at \
         AND t.recording = r.id AND t.generation = r.generation) AS model"
    };
}
pub(crate) use columns;

macro_rules! recordings {
    ($rest:literal) => {
        concat!("SELECT ", columns!(), " FROM read.recordings r ", $rest)
    };
}

impl Views {
    /// Returns a recording.
    ///
    /// # Errors
    /// What the database says.
    pub async fn recording(&self, id: RecordingId) -> Result<Option<RecordingRow>, Error> {
        let sql = recordings!("WHERE r.id = $1");
        let rows = self.lookups.ask(sql, |query| query.bind(id.as_uuid())).await?;
        rows.first().map(recording).transpose()
    }

    /// Returns the recording that a drop became.
    ///
    /// # Errors
    /// What the database says.
    pub async fn recording_by_drop(&self, drop_id: &str) -> Result<Option<RecordingRow>, Error> {
        if drop_id.contains('\0') {
            return Ok(None);
        }
        let sql = recordings!("WHERE r.drop_id = $1 ORDER BY r.submitted_at DESC, r.id LIMIT 1");
        let row = sqlx::query(sql).bind(drop_id).fetch_optional(&self.pool).await?;
        row.as_ref().map(recording).transpose()
    }

    /// Returns up to `limit` recordings, the newest first, after the page that ended with `after`.
    ///
    /// # Errors
    /// What the database says.
    pub async fn recordings(
        &self,
        filter: &Filter,
        after: Option<&RecordingKey>,
        limit: u32,
    ) -> Result<Page<RecordingRow, RecordingKey>, Error> {
        let rows = sqlx::query(
            recordings!(
                "WHERE ($1::text IS NULL OR r.tenant = $1) AND ($2::text IS NULL OR r.status = $2) \
                 AND ($3::text IS NULL OR r.name ILIKE $3) \
                 AND ($4::timestamptz IS NULL OR r.submitted_at >= $4) AND ($5::timestamptz IS NULL OR r.submitted_at < $5) \
                 AND ($6::timestamptz IS NULL OR (r.submitted_at, r.id) < ($6, $7)) \
                 ORDER BY r.submitted_at DESC, r.id DESC LIMIT $8"
            ),
        )
        .bind(filter.tenant.as_ref().map(Tenant::as_str))
        .bind(filter.status.map(Status::as_str))
        .bind(filter.name.as_deref().map(like))
        .bind(filter.from.map(At::new))
        .bind(filter.until.map(At::new))
        .bind(after.map(|after| after.at))
        .bind(after.map(|after| after.id))
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.pool)
        .await?;
        let items = rows.iter().map(recording).collect::<Result<Vec<_>, Error>>()?;
        Ok(Page::new(items, limit, |row| RecordingKey {
            at: At::new(row.submitted_at),
            id: row.id.as_uuid(),
            channel: 0,
            index: 0,
        }))
    }

    /// Returns up to `limit` recordings that stand at `status` and were submitted before `before`, the oldest first.
    ///
    /// # Errors
    /// What the database says.
    pub async fn unfinished(
        &self,
        status: Status,
        before: Timestamp,
        limit: u32,
    ) -> Result<Vec<RecordingRow>, Error> {
        let sql =
            recordings!("WHERE r.status = $1 AND r.submitted_at < $2 ORDER BY r.submitted_at, r.id LIMIT $3");
        let query = sqlx::query(sql).bind(status.as_str()).bind(At::new(before)).bind(i64::from(limit));
        query.fetch_all(&self.pool).await?.iter().map(recording).collect()
    }
}

/// A pattern that finds `text` anywhere, whatever signs it has.
pub(crate) fn like(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    format!("%{}%", escaped.replace('\0', "\u{fffd}"))
}

/// Reads a recording from a row of [`columns!`].
pub(crate) fn recording(row: &PgRow) -> Result<RecordingRow, Error> {
    let facts: RecordingFacts = state::json(row, "facts_text")?;
    let name = facts.name().map(str::to_owned);
    let admitted = facts.admitted.map(|known| known.fact);
    let tenant: String = row.try_get("tenant")?;
    Ok(RecordingRow {
        id: row.try_get::<Uuid, _>("id")?.into(),
        tenant: tenant.parse().map_err(|error| Error::Corrupt(format!("{error}")))?,
        submitted_at: row.try_get::<At, _>("submitted_at")?.0,
        drop_id: facts.drop_id.map(|known| known.fact),
        name,
        uri: admitted.as_ref().and_then(|admitted| admitted.uri.clone()),
        lane: admitted.as_ref().map(|admitted| admitted.lane),
        audio: admitted.as_ref().map(|admitted| admitted.audio.clone()),
        settings: admitted.as_ref().map(|admitted| admitted.settings.clone()),
        model: row.try_get("model")?,
        metadata: admitted.map(|admitted| admitted.metadata).unwrap_or_default(),
        generation: row.try_get::<Option<i64>, _>("generation")?.map(generation).transpose()?,
        state: state::state(row)?,
    })
}
