//! Events into the tables of one version of the read side.
//!
//! The rows of the touched recordings are locked in order, so that programs that fold at once take turns per recording;
//! facts are read, folded and written back by the rules of `transcript`; segments are upserted by key, where the better
//! outcome stays; and what the recordings' rows say is computed anew from what the tables hold, never counted up. All
//! writes are sorted by key: no two transactions wait for each other in a circle.

use std::collections::{BTreeMap, BTreeSet};

use events::{Cause, Envelope, RecordingId};
use serde::Serialize;
use sqlx::{PgConnection, Row};
use transcript::recording::concerns_generation;
use transcript::{GenerationFacts, RecordingFacts, Segment, State, Tally};
use uuid::Uuid;

use crate::entry::Entry;
use crate::error::Error;
use crate::schema::Schema;
use crate::segments;
use crate::state::{self, StateColumns, unsigned};
use crate::time::At;

/// A recording in hand.
pub(crate) struct Touched {
    pub submitted_at: At,
    pub tenant: String,
    facts: RecordingFacts,
    /// Every generation with its state as it stood; those that the batch touches are computed anew.
    generations: BTreeMap<u32, (GenerationFacts, State)>,
    touched: BTreeSet<u32>,
    /// Nothing of it was here before.
    pub is_new: bool,
}

/// Which row of `segments`: recording, generation, channel, index.
pub(crate) type SegmentKey = (RecordingId, u32, u16, u32);

/// Folds the events of entries into the tables of `schema`; those that this release does not know change nothing. Any order and any number of repeats give the same rows. Returns those of
/// their recordings that are deleted.
pub(crate) async fn fold<'e>(
    connection: &mut PgConnection,
    schema: &Schema,
    entries: impl IntoIterator<Item = &'e Entry>,
) -> Result<BTreeSet<RecordingId>, Error> {
    let known: Vec<(&Envelope, &str)> =
        entries.into_iter().filter_map(|entry| Some((entry.lean()?, entry.spans()))).collect();
    if known.is_empty() {
        return Ok(BTreeSet::new());
    }
    let mut recordings = lock_recordings(connection, schema, &known).await?;
    let mut segments: BTreeMap<SegmentKey, Segment<&str>> = BTreeMap::new();
    for (envelope, spans) in known {
        let recording = recordings.get_mut(&envelope.recording).expect("every recording was locked");
        recording.facts.absorb(envelope);
        if !concerns_generation(&envelope.event) {
            continue;
        }
        recording.touched.insert(envelope.generation);
        let unknown = || (GenerationFacts::default(), GenerationFacts::default().state(&Tally::default()));
        recording.generations.entry(envelope.generation).or_insert_with(unknown).0.absorb(envelope);
        if let Some(segment) = Segment::of(envelope) {
            let segment = segment.with_spans(|_| spans);
            let key = (envelope.recording, envelope.generation, segment.channel, segment.index);
            if segments.get(&key).is_none_or(|there| segment.beats(there)) {
                segments.insert(key, segment);
            }
        }
    }
    let deleted: BTreeSet<RecordingId> =
        recordings.iter().filter(|(_, r)| r.facts.is_deleted()).map(|(&id, _)| id).collect();
    segments.retain(|(recording, ..), _| !deleted.contains(recording));
    for id in &deleted {
        let recording = recordings.get_mut(id).expect("taken from the same map");
        recording.generations.clear();
        recording.touched.clear();
    }

    segments::write(connection, schema, &recordings, segments).await?;
    delete_contents(connection, schema, &recordings, &deleted).await?;
    settle_states(connection, schema, &mut recordings).await?;
    write_transcripts(connection, schema, &recordings).await?;
    write_recordings(connection, schema, &recordings).await?;
    Ok(deleted)
}

/// Makes sure that each recording has its row, locks the rows in order, and reads what is known.
async fn lock_recordings(
    connection: &mut PgConnection,
    schema: &Schema,
    known: &[(&Envelope, &str)],
) -> Result<BTreeMap<RecordingId, Touched>, Error> {
    let mut recordings: BTreeMap<RecordingId, Touched> = BTreeMap::new();
    for (envelope, _) in known {
        recordings.entry(envelope.recording).or_insert_with(|| Touched {
            submitted_at: At::submitted(envelope),
            tenant: envelope.tenant.as_str().to_owned(),
            facts: RecordingFacts::default(),
            generations: BTreeMap::new(),
            touched: BTreeSet::new(),
            is_new: false,
        });
    }
    let ids: Vec<Uuid> = recordings.keys().map(|id| id.as_uuid()).collect();
    let new: Vec<Uuid> = sqlx::query_scalar(schema.sql(
        "INSERT INTO {schema}.recordings (id, submitted_at, tenant, status, audio_ms, decoded_ms, transcribed_ms, \
         transcribed_segments, failed_segments, facts) \
         SELECT id, submitted_at, tenant, 'queued', 0, 0, 0, 0, 0, '{}' \
         FROM unnest($1::uuid[], $2::timestamptz[], $3::text[]) AS new (id, submitted_at, tenant) \
         ON CONFLICT (id) DO NOTHING RETURNING id",
    ))
    .bind(&ids)
    .bind(recordings.values().map(|recording| recording.submitted_at).collect::<Vec<_>>())
    .bind(recordings.values().map(|recording| recording.tenant.clone()).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    for id in new {
        recordings.get_mut(&id.into()).expect("only these were inserted").is_new = true;
    }

    let sql = "SELECT id, submitted_at, tenant, facts::text AS facts FROM {schema}.recordings \
               WHERE id = ANY($1) ORDER BY id FOR UPDATE";
    for row in sqlx::query(schema.sql(sql)).bind(&ids).fetch_all(&mut *connection).await? {
        let id: Uuid = row.try_get("id")?;
        let recording = recordings.get_mut(&id.into()).expect("only these were asked for");
        recording.submitted_at = row.try_get("submitted_at")?;
        recording.tenant = row.try_get("tenant")?;
        recording.facts = state::json(&row, "facts")?;
    }

    let sql = "SELECT t.*, t.facts::text AS facts_text FROM unnest($1::uuid[], $2::timestamptz[]) AS r (id, submitted_at) \
               JOIN {schema}.transcripts t ON t.submitted_at = r.submitted_at AND t.recording = r.id";
    let submitted: Vec<At> = recordings.values().map(|recording| recording.submitted_at).collect();
    for row in sqlx::query(schema.sql(sql)).bind(&ids).bind(submitted).fetch_all(&mut *connection).await? {
        let id: Uuid = row.try_get("recording")?;
        let recording = recordings.get_mut(&id.into()).expect("only these were asked for");
        let facts = state::json(&row, "facts_text")?;
        recording.generations.insert(generation(row.try_get("generation")?)?, (facts, state::state(&row)?));
    }
    Ok(recordings)
}

/// A generation as it stands in SQL, which has no unsigned numbers.
pub(crate) fn generation(number: i64) -> Result<u32, Error> {
    u32::try_from(number).map_err(|_| Error::Corrupt(format!("generation {number}")))
}

/// Deletion means gone: only the recording's row stays, to say so.
async fn delete_contents(
    connection: &mut PgConnection,
    schema: &Schema,
    recordings: &BTreeMap<RecordingId, Touched>,
    deleted: &BTreeSet<RecordingId>,
) -> Result<(), Error> {
    // One recording at a time: with its key as a constant, a compressed slice gives up that recording's rows alone.
    for id in deleted {
        for sql in [
            "DELETE FROM {schema}.segments WHERE submitted_at = $1 AND recording = $2",
            "DELETE FROM {schema}.transcripts WHERE submitted_at = $1 AND recording = $2",
        ] {
            let submitted_at = recordings[id].submitted_at;
            sqlx::query(schema.sql(sql))
                .bind(submitted_at)
                .bind(id.as_uuid())
                .execute(&mut *connection)
                .await?;
        }
    }
    Ok(())
}

/// Adds up the segments of the touched generations and computes their states.
async fn settle_states(
    connection: &mut PgConnection,
    schema: &Schema,
    recordings: &mut BTreeMap<RecordingId, Touched>,
) -> Result<(), Error> {
    // One row per channel that decoding told of, with the number of its segments; one for all channels before that.
    let mut wanted: Vec<(RecordingId, u32)> = Vec::new();
    let (mut at, mut submitted, mut ids, mut generations) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut channels, mut below): (Vec<Option<i32>>, Vec<i64>) = (Vec::new(), Vec::new());
    for (&id, recording) in recordings.iter() {
        for &generation in &recording.touched {
            let facts = &recording.generations[&generation].0;
            let limits: Vec<(Option<i32>, i64)> = match facts.decoded() {
                Some(decoded) => {
                    (0..).zip(&decoded.segments).map(|(channel, &n)| (Some(channel), n.into())).collect()
                }
                None => vec![(None, i64::MAX)],
            };
            for (channel, limit) in limits {
                at.push(wanted.len() as i64);
                submitted.push(recording.submitted_at);
                ids.push(id.as_uuid());
                generations.push(i64::from(generation));
                channels.push(channel);
                below.push(limit);
            }
            wanted.push((id, generation));
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query(schema.sql(
        "SELECT w.at, s.language, count(*) AS segments, sum(greatest(s.end_ms - s.start_ms, 0))::bigint AS ms, \
         max(s.end_ms) AS until_ms, max(s.occurred_at) AS last_at, \
         (array_agg(jsonb_build_array(s.cause_code, s.cause_message)::text ORDER BY s.channel, s.index) \
          FILTER (WHERE s.cause_code IS NOT NULL))[1] AS first_failure \
         FROM unnest($1::bigint[], $2::timestamptz[], $3::uuid[], $4::bigint[], $5::int[], $6::bigint[]) \
         AS w (at, submitted_at, recording, generation, channel, below) \
         JOIN {schema}.segments s ON s.submitted_at = w.submitted_at AND s.recording = w.recording \
         AND s.generation = w.generation AND (w.channel IS NULL OR s.channel = w.channel) AND s.index < w.below \
         GROUP BY w.at, s.language",
    ))
    .bind(at)
    .bind(submitted)
    .bind(ids)
    .bind(generations)
    .bind(channels)
    .bind(below)
    .fetch_all(connection)
    .await?;

    let mut tallies = vec![Tally::default(); wanted.len()];
    for row in rows {
        let at: i64 = row.try_get("at")?;
        let tally = usize::try_from(at).ok().and_then(|at| tallies.get_mut(at)).expect("the number was ours");
        let segments = unsigned(row.try_get("segments")?);
        tally.until_ms = tally.until_ms.max(unsigned(row.try_get("until_ms")?));
        tally.last_at = tally.last_at.max(Some(row.try_get::<At, _>("last_at")?.0));
        match row.try_get::<Option<String>, _>("language")? {
            Some(language) => {
                tally.transcribed += segments;
                tally.language_ms.insert(language, unsigned(row.try_get("ms")?));
            }
            None => {
                let (code, message): (String, String) = state::json(&row, "first_failure")?;
                tally.failed += segments;
                tally.first_failure = Some(Cause { code, message });
            }
        }
    }
    for ((id, generation), tally) in wanted.into_iter().zip(tallies) {
        let recording = recordings.get_mut(&id).expect("taken from the same map");
        let (facts, state) = recording.generations.get_mut(&generation).expect("touched ones are there");
        *state = facts.state(&tally);
    }
    Ok(())
}

/// A row of `transcripts`, as JSON for `jsonb_to_recordset`.
#[derive(Serialize)]
struct TranscriptRecord<'a> {
    submitted_at: At,
    recording: RecordingId,
    generation: u32,
    tenant: &'a str,
    model: Option<&'a str>,
    task: Option<&'a str>,
    lane: Option<&'a str>,
    activation: Option<&'a str>,
    codec: Option<&'a str>,
    #[serde(flatten)]
    state: StateColumns,
    facts: &'a GenerationFacts,
}

async fn write_transcripts(
    connection: &mut PgConnection,
    schema: &Schema,
    recordings: &BTreeMap<RecordingId, Touched>,
) -> Result<(), Error> {
    let mut records = Vec::new();
    for (&id, recording) in recordings {
        for &generation in &recording.touched {
            let (facts, state) = &recording.generations[&generation];
            let requested = facts.requested.as_ref().map(|known| &known.fact);
            records.push(TranscriptRecord {
                submitted_at: recording.submitted_at,
                recording: id,
                generation,
                tenant: &recording.tenant,
                model: requested.map(|requested| requested.settings.model.name.as_str()),
                task: requested.map(|requested| requested.settings.task.as_str()),
                lane: requested.map(|requested| requested.lane.as_str()),
                activation: requested.map(|requested| requested.activation.as_str()),
                codec: facts.decoded().map(|decoded| decoded.codec.as_str()),
                state: state.into(),
                facts,
            });
        }
    }
    if records.is_empty() {
        return Ok(());
    }
    sqlx::query(schema.sql(
        "INSERT INTO {schema}.transcripts (submitted_at, recording, generation, tenant, model, task, lane, activation, \
         codec, status, reason_code, reason, audio_ms, decoded_ms, transcribed_ms, segments, transcribed_segments, \
         failed_segments, language, completed_at, facts) \
         SELECT * FROM jsonb_to_recordset($1::jsonb) AS new (submitted_at timestamptz, recording uuid, \
         generation bigint, tenant text, model text, task text, lane text, activation text, codec text, status text, \
         reason_code text, reason text, audio_ms bigint, decoded_ms bigint, transcribed_ms bigint, segments bigint, \
         transcribed_segments bigint, failed_segments bigint, language text, completed_at timestamptz, facts jsonb) \
         ON CONFLICT (submitted_at, recording, generation) DO UPDATE SET model = excluded.model, task = excluded.task, \
         lane = excluded.lane, activation = excluded.activation, codec = excluded.codec, status = excluded.status, \
         reason_code = excluded.reason_code, reason = excluded.reason, audio_ms = excluded.audio_ms, \
         decoded_ms = excluded.decoded_ms, transcribed_ms = excluded.transcribed_ms, segments = excluded.segments, \
         transcribed_segments = excluded.transcribed_segments, failed_segments = excluded.failed_segments, \
         language = excluded.language, completed_at = excluded.completed_at, facts = excluded.facts",
    ))
    .bind(to_json(&records))
    .execute(connection)
    .await?;
    Ok(())
}

/// A row of `recordings`, as JSON for `jsonb_to_recordset`.
#[derive(Serialize)]
struct RecordingRecord<'a> {
    id: RecordingId,
    drop_id: Option<&'a str>,
    name: Option<&'a str>,
    generation: Option<u32>,
    #[serde(flatten)]
    state: StateColumns,
    facts: &'a RecordingFacts,
}

async fn write_recordings(
    connection: &mut PgConnection,
    schema: &Schema,
    recordings: &BTreeMap<RecordingId, Touched>,
) -> Result<(), Error> {
    let records: Vec<RecordingRecord> = recordings
        .iter()
        .map(|(&id, recording)| RecordingRecord {
            id,
            drop_id: recording.facts.drop_id.as_ref().map(|known| known.fact.as_str()),
            name: recording.facts.name(),
            generation: recording.facts.visible(&recording.generations),
            state: StateColumns::from(&recording.facts.state(&recording.generations)),
            facts: &recording.facts,
        })
        .collect();
    sqlx::query(schema.sql(
        "UPDATE {schema}.recordings r SET drop_id = new.drop_id, name = new.name, generation = new.generation, \
         status = new.status, reason_code = new.reason_code, reason = new.reason, audio_ms = new.audio_ms, \
         decoded_ms = new.decoded_ms, transcribed_ms = new.transcribed_ms, segments = new.segments, \
         transcribed_segments = new.transcribed_segments, failed_segments = new.failed_segments, \
         language = new.language, completed_at = new.completed_at, facts = new.facts \
         FROM jsonb_to_recordset($1::jsonb) AS new (id uuid, drop_id text, name text, generation bigint, status text, \
         reason_code text, reason text, audio_ms bigint, decoded_ms bigint, transcribed_ms bigint, segments bigint, \
         transcribed_segments bigint, failed_segments bigint, language text, completed_at timestamptz, facts jsonb) \
         WHERE r.id = new.id",
    ))
    .bind(to_json(&records))
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("rows are plain data: every value has a JSON form")
}
