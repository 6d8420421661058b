//! Transcripts: the segments of a recording in one generation, and the list of its generations.

use events::{Activation, Cause, EventId, Lane, RecordingId, Settings, Tenant};
use sqlx::Row;
use sqlx::postgres::PgRow;
use transcript::{GenerationFacts, Outcome, RecordingFacts, Segment, Spans, State, Transcript};
use uuid::Uuid;

use crate::database::Views;
use crate::error::Error;
use crate::fold::generation;
use crate::state::{self, unsigned};
use crate::time::At;

/// One transcription of a recording.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationRow {
    /// Its number.
    pub generation: u32,
    /// The round of its work.
    pub round: u32,
    /// The event that asked for it, in that round; `None` until it came in.
    pub request: Option<EventId>,
    /// How it was asked for; `None` until that event came in.
    pub settings: Option<Settings>,
    /// The lane its work runs in.
    pub lane: Option<Lane>,
    /// How it becomes visible.
    pub activation: Option<Activation>,
    /// Where it stands.
    pub state: State,
}

/// One statement: what it says of the transcription and its segments are of one moment. What is known of both besides
/// the segments is large, so it stands in the first row alone.
const TRANSCRIPT: &str = "SELECT x.*, CASE WHEN coalesce(x.place, 1) = 1 THEN t.facts::text END AS facts_text, \
     CASE WHEN coalesce(x.place, 1) = 1 THEN r.facts::text END AS about, t.generation, t.status, t.reason_code, t.reason, t.audio_ms, \
     t.decoded_ms, t.transcribed_ms, t.segments, t.transcribed_segments, t.failed_segments, t.language, t.completed_at \
     FROM read.recordings r \
     JOIN read.transcripts t ON t.submitted_at = r.submitted_at AND t.recording = r.id \
     AND t.generation = coalesce($2, r.generation) \
     LEFT JOIN LATERAL (SELECT row_number() OVER (ORDER BY s.channel, s.index) AS place, s.channel, s.index, \
     s.round AS segment_round, s.event_id, s.occurred_at, s.start_ms, s.end_ms, s.language AS segment_language, s.text, \
     s.spans, s.model AS segment_model, s.infer_ms, s.cause_code, s.cause_message, s.attempts, s.coverage, s.gaps \
     FROM read.segments s WHERE s.submitted_at = r.submitted_at AND s.recording = r.id \
     AND s.generation = t.generation) x ON true \
     WHERE r.id = $1 AND ($3::text IS NULL OR r.tenant = $3) ORDER BY x.place";

impl Views {
    /// Returns the transcript of a recording in `generation`, or in the one that readers see, as far as it is there.
    /// `None` where there is no such recording or generation, or the recording is gone.
    ///
    /// # Errors
    /// What the database says.
    pub async fn transcript(
        &self,
        recording: RecordingId,
        generation: Option<u32>,
    ) -> Result<Option<Transcript>, Error> {
        self.transcript_of(recording, generation, None).await
    }

    /// The same, of a recording of `tenant` alone, with its spans in the form that the caller needs.
    ///
    /// # Errors
    /// What the database says.
    pub async fn tenants_transcript<S: Spans>(
        &self,
        tenant: &Tenant,
        recording: RecordingId,
        generation: Option<u32>,
    ) -> Result<Option<Transcript<S>>, Error> {
        self.transcript_of(recording, generation, Some(tenant)).await
    }

    async fn transcript_of<S: Spans>(
        &self,
        recording: RecordingId,
        generation: Option<u32>,
        tenant: Option<&Tenant>,
    ) -> Result<Option<Transcript<S>>, Error> {
        let tenant = tenant.map(Tenant::as_str);
        let rows = self
            .lookups
            .ask(TRANSCRIPT, |query| {
                let query = query.bind(recording.as_uuid()).bind(generation.map(i64::from));
                query.bind(tenant.map(str::to_owned))
            })
            .await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let about: RecordingFacts = state::json(first, "about")?;
        let facts: GenerationFacts = state::json(first, "facts_text")?;
        let number = self::generation(first.try_get("generation")?)?;
        let mut segments = Vec::with_capacity(rows.len());
        for row in &rows {
            let belongs =
                |segment: &Segment<S>| u64::from(segment.index) < facts.segments_below(segment.channel);
            segments.extend(segment(row)?.filter(belongs));
        }
        Ok(Some(Transcript::new(recording, &about, number, &facts, state::state(first)?, segments)))
    }

    /// Returns the transcriptions of a recording, the first one first.
    ///
    /// # Errors
    /// What the database says.
    pub async fn generations(&self, recording: RecordingId) -> Result<Vec<GenerationRow>, Error> {
        let rows = sqlx::query(
            "SELECT t.*, t.facts::text AS facts_text FROM read.recordings r \
             JOIN read.transcripts t ON t.submitted_at = r.submitted_at AND t.recording = r.id \
             WHERE r.id = $1 ORDER BY t.generation",
        )
        .bind(recording.as_uuid())
        .fetch_all(&self.pool)
        .await?;
        let row = |row: &PgRow| {
            let facts: GenerationFacts = state::json(row, "facts_text")?;
            let (round, request) =
                facts.requested.as_ref().map_or((0, None), |of| (of.round, Some(of.event_id)));
            let requested = facts.requested.map(|known| known.fact);
            Ok(GenerationRow {
                generation: generation(row.try_get("generation")?)?,
                round,
                request,
                lane: requested.as_ref().map(|requested| requested.lane),
                activation: requested.as_ref().map(|requested| requested.activation),
                settings: requested.map(|requested| requested.settings),
                state: state::state(row)?,
            })
        };
        rows.iter().map(row).collect()
    }
}

/// Reads a segment; `None` from the row of a transcription that has none yet.
fn segment<S: Spans>(row: &PgRow) -> Result<Option<Segment<S>>, Error> {
    let Some(channel) = row.try_get::<Option<i32>, _>("channel")? else { return Ok(None) };
    let number = |column| Ok::<u64, Error>(unsigned(row.try_get(column)?));
    let small =
        |number: i64| u32::try_from(number).map_err(|_| Error::Corrupt(format!("segment number {number}")));
    let outcome = match row.try_get::<Option<String>, _>("cause_code")? {
        Some(code) => Outcome::Failed {
            cause: Cause { code, message: row.try_get("cause_message")? },
            attempts: small(row.try_get("attempts")?)?,
        },
        None => Outcome::Transcribed {
            language: row.try_get("segment_language")?,
            text: row.try_get("text")?,
            spans: S::read(row.try_get("spans")?)
                .map_err(|error| Error::Corrupt(format!("spans: {error}")))?,
            model: row.try_get("segment_model")?,
            infer_ms: number("infer_ms")?,
            coverage: row.try_get::<Option<f32>, _>("coverage")?.unwrap_or(1.0),
            gaps: match row.try_get::<Option<&str>, _>("gaps")? {
                Some(_) => state::json(row, "gaps")?,
                None => Vec::new(),
            },
        },
    };
    Ok(Some(Segment {
        channel: u16::try_from(channel).map_err(|_| Error::Corrupt(format!("channel {channel}")))?,
        index: small(row.try_get("index")?)?,
        start_ms: number("start_ms")?,
        end_ms: number("end_ms")?,
        round: small(row.try_get("segment_round")?)?,
        event_id: row.try_get::<Uuid, _>("event_id")?.into(),
        occurred_at: row.try_get::<At, _>("occurred_at")?.0,
        outcome,
    }))
}
