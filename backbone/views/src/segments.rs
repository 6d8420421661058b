//! The rows of `segments`: of two outcomes of one segment, the better one stays.

use std::collections::{BTreeMap, BTreeSet};

use events::{RecordingId, Stretch};
use sqlx::PgConnection;
use transcript::{Outcome, Segment};
use uuid::Uuid;

use crate::copy::{self, Rows};
use crate::error::Error;
use crate::fold::{SegmentKey, Touched, to_json};
use crate::schema::Schema;
use crate::time::At;

/// Writes segments; the recordings are locked, so nobody else writes theirs meanwhile.
pub(crate) async fn write(
    connection: &mut PgConnection,
    schema: &Schema,
    recordings: &BTreeMap<RecordingId, Touched>,
    segments: BTreeMap<SegmentKey, Segment<&str>>,
) -> Result<(), Error> {
    if segments.len() <= copy::FEW {
        return upsert(connection, schema, recordings, &segments).await;
    }
    let there = find(connection, schema, recordings, &segments).await?;
    let (again, new): (BTreeMap<_, _>, BTreeMap<_, _>) =
        segments.into_iter().partition(|(key, _)| there.contains(key));
    copy(connection, schema, recordings, &new).await?;
    upsert(connection, schema, recordings, &again).await
}

/// Returns those of the segments that have a row.
async fn find(
    connection: &mut PgConnection,
    schema: &Schema,
    recordings: &BTreeMap<RecordingId, Touched>,
    segments: &BTreeMap<SegmentKey, Segment<&str>>,
) -> Result<BTreeSet<SegmentKey>, Error> {
    let keys: Vec<&SegmentKey> = segments.keys().filter(|key| !recordings[&key.0].is_new).collect();
    if keys.is_empty() {
        return Ok(BTreeSet::new());
    }
    let column = || keys.iter();
    let found: Vec<i64> = sqlx::query_scalar(schema.sql(
        "SELECT k.at FROM unnest($1::timestamptz[], $2::uuid[], $3::bigint[], $4::int[], $5::bigint[]) WITH ORDINALITY \
         AS k (submitted_at, recording, generation, channel, index, at) \
         CROSS JOIN LATERAL (SELECT FROM {schema}.segments s WHERE s.submitted_at = k.submitted_at \
         AND s.recording = k.recording AND s.generation = k.generation AND s.channel = k.channel \
         AND s.index = k.index LIMIT 1) AS there",
    ))
    .bind(column().map(|key| recordings[&key.0].submitted_at).collect::<Vec<_>>())
    .bind(column().map(|key| key.0.as_uuid()).collect::<Vec<_>>())
    .bind(column().map(|key| i64::from(key.1)).collect::<Vec<_>>())
    .bind(column().map(|key| i32::from(key.2)).collect::<Vec<_>>())
    .bind(column().map(|key| i64::from(key.3)).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let key = |at: i64| usize::try_from(at - 1).ok().and_then(|at| keys.get(at)).map(|key| **key);
    Ok(found.into_iter().filter_map(key).collect())
}

/// Writes segments that have no row yet.
async fn copy(
    connection: &mut PgConnection,
    schema: &Schema,
    recordings: &BTreeMap<RecordingId, Touched>,
    segments: &BTreeMap<SegmentKey, Segment<&str>>,
) -> Result<(), Error> {
    if segments.is_empty() {
        return Ok(());
    }
    let mut rows = Rows::new(21);
    for ((id, generation, channel, index), segment) in segments {
        let recording = &recordings[id];
        rows.row()
            .time(recording.submitted_at)
            .uuid(id.as_uuid())
            .bigint(i64::from(*generation))
            .integer((*channel).into())
            .bigint(i64::from(*index))
            .text(recording.tenant.as_str())
            .bigint(i64::from(segment.round))
            .uuid(segment.event_id.as_uuid())
            .time(segment.occurred_at.into())
            .bigint(signed(segment.start_ms))
            .bigint(signed(segment.end_ms));
        match &segment.outcome {
            Outcome::Transcribed { language, text, spans, model, infer_ms, coverage, gaps } => {
                rows.text(language.as_str()).text(text.as_str()).text(*spans).text(model.as_str());
                rows.bigint(signed(*infer_ms)).text(None).text(None).bigint(None);
                let (coverage, gaps) = lacking(*coverage, gaps);
                rows.real(coverage).text(gaps.as_deref());
            }
            Outcome::Failed { cause, attempts } => {
                rows.text(None).text(None).text(None).text(None).bigint(None);
                rows.text(cause.code.as_str()).text(cause.message.as_str()).bigint(i64::from(*attempts));
                rows.real(None).text(None);
            }
        }
    }
    let statement = format!(
        "COPY {schema}.segments (submitted_at, recording, generation, channel, index, tenant, round, event_id, \
         occurred_at, start_ms, end_ms, language, text, spans, model, infer_ms, cause_code, cause_message, attempts, \
         coverage, gaps) FROM STDIN BINARY"
    );
    rows.send(connection, &statement).await
}

/// Writes segments that have a row: the better outcome stays. Higher round wins, then success over failure, then event
/// id: the order of [`Segment::beats`].
async fn upsert(
    connection: &mut PgConnection,
    schema: &Schema,
    recordings: &BTreeMap<RecordingId, Touched>,
    segments: &BTreeMap<SegmentKey, Segment<&str>>,
) -> Result<(), Error> {
    if segments.is_empty() {
        return Ok(());
    }
    let mut columns = SegmentColumns::default();
    for (key, segment) in segments {
        columns.push(key, &recordings[&key.0], segment);
    }
    sqlx::query(schema.sql(
        "INSERT INTO {schema}.segments (submitted_at, recording, generation, channel, index, tenant, round, event_id, \
         occurred_at, start_ms, end_ms, language, text, spans, model, infer_ms, cause_code, cause_message, attempts, \
         coverage, gaps) \
         SELECT submitted_at, recording, generation, channel, index, tenant, round, event_id, \
         occurred_at, start_ms, end_ms, language, text, spans, model, infer_ms, cause_code, cause_message, attempts, \
         coverage, gaps \
         FROM unnest($1::timestamptz[], $2::uuid[], $3::bigint[], $4::int[], $5::bigint[], $6::text[], $7::bigint[], \
         $8::uuid[], $9::timestamptz[], $10::bigint[], $11::bigint[], $12::text[], $13::text[], $14::text[], $15::text[], \
         $16::bigint[], $17::text[], $18::text[], $19::bigint[], $20::real[], $21::text[]) \
         AS new (submitted_at, recording, generation, channel, index, tenant, round, event_id, \
         occurred_at, start_ms, end_ms, language, text, spans, model, infer_ms, cause_code, cause_message, attempts, \
         coverage, gaps) \
         ON CONFLICT (submitted_at, recording, generation, channel, index) DO UPDATE SET \
         round = excluded.round, event_id = excluded.event_id, occurred_at = excluded.occurred_at, \
         start_ms = excluded.start_ms, end_ms = excluded.end_ms, language = excluded.language, text = excluded.text, \
         spans = excluded.spans, model = excluded.model, infer_ms = excluded.infer_ms, cause_code = excluded.cause_code, \
         cause_message = excluded.cause_message, attempts = excluded.attempts, coverage = excluded.coverage, \
         gaps = excluded.gaps \
         WHERE (excluded.round, excluded.cause_code IS NULL, excluded.event_id) \
             > (segments.round, segments.cause_code IS NULL, segments.event_id)",
    ))
    .bind(columns.submitted_at)
    .bind(columns.recording)
    .bind(columns.generation)
    .bind(columns.channel)
    .bind(columns.index)
    .bind(columns.tenant)
    .bind(columns.round)
    .bind(columns.event_id)
    .bind(columns.occurred_at)
    .bind(columns.start_ms)
    .bind(columns.end_ms)
    .bind(columns.language)
    .bind(columns.text)
    .bind(columns.spans)
    .bind(columns.model)
    .bind(columns.infer_ms)
    .bind(columns.cause_code)
    .bind(columns.cause_message)
    .bind(columns.attempts)
    .bind(columns.coverage)
    .bind(columns.gaps)
    .execute(connection)
    .await?;
    Ok(())
}

/// The segments as columns, one array each.
#[derive(Default)]
struct SegmentColumns {
    submitted_at: Vec<At>,
    recording: Vec<Uuid>,
    generation: Vec<i64>,
    channel: Vec<i32>,
    index: Vec<i64>,
    tenant: Vec<String>,
    round: Vec<i64>,
    event_id: Vec<Uuid>,
    occurred_at: Vec<At>,
    start_ms: Vec<i64>,
    end_ms: Vec<i64>,
    language: Vec<Option<String>>,
    text: Vec<Option<String>>,
    spans: Vec<Option<String>>,
    model: Vec<Option<String>>,
    infer_ms: Vec<Option<i64>>,
    cause_code: Vec<Option<String>>,
    cause_message: Vec<Option<String>>,
    attempts: Vec<Option<i64>>,
    coverage: Vec<Option<f32>>,
    gaps: Vec<Option<String>>,
}

impl SegmentColumns {
    fn push(&mut self, key: &SegmentKey, recording: &Touched, segment: &Segment<&str>) {
        let (id, generation, channel, index) = *key;
        self.submitted_at.push(recording.submitted_at);
        self.recording.push(id.as_uuid());
        self.generation.push(generation.into());
        self.channel.push(channel.into());
        self.index.push(index.into());
        self.tenant.push(recording.tenant.clone());
        self.round.push(segment.round.into());
        self.event_id.push(segment.event_id.as_uuid());
        self.occurred_at.push(segment.occurred_at.into());
        self.start_ms.push(signed(segment.start_ms));
        self.end_ms.push(signed(segment.end_ms));
        match &segment.outcome {
            Outcome::Transcribed { language, text, spans, model, infer_ms, coverage, gaps } => {
                let (coverage, gaps) = lacking(*coverage, gaps);
                self.language.push(Some(language.clone()));
                self.text.push(Some(text.clone()));
                self.spans.push(Some((*spans).to_owned()));
                self.model.push(Some(model.clone()));
                self.infer_ms.push(Some(signed(*infer_ms)));
                self.cause_code.push(None);
                self.cause_message.push(None);
                self.attempts.push(None);
                self.coverage.push(coverage);
                self.gaps.push(gaps);
            }
            Outcome::Failed { cause, attempts } => {
                self.language.push(None);
                self.text.push(None);
                self.spans.push(None);
                self.model.push(None);
                self.infer_ms.push(None);
                self.cause_code.push(Some(cause.code.clone()));
                self.cause_message.push(Some(cause.message.clone()));
                self.attempts.push(Some((*attempts).into()));
                self.coverage.push(None);
                self.gaps.push(None);
            }
        }
    }
}

/// What a segment lacks, as its columns: nothing where all its speech has text.
fn lacking(coverage: f32, gaps: &[Stretch]) -> (Option<f32>, Option<String>) {
    ((coverage < 1.0).then_some(coverage), (!gaps.is_empty()).then(|| to_json(&gaps)))
}

/// A number that `Entry::read` found to be small enough.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
