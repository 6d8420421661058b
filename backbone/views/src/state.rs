//! The columns that `recordings` and `transcripts` have in common: where a transcription stands.

use events::Cause;
use serde::Serialize;
use sqlx::Row;
use sqlx::postgres::PgRow;
use transcript::State;

use crate::error::Error;
use crate::time::At;

/// A [`State`] as columns. As JSON, it is a part of the record that `jsonb_to_recordset` reads.
#[derive(Debug, Serialize)]
pub(crate) struct StateColumns {
    status: &'static str,
    reason_code: Option<String>,
    reason: Option<String>,
    audio_ms: u64,
    decoded_ms: u64,
    transcribed_ms: u64,
    segments: Option<u64>,
    transcribed_segments: u64,
    failed_segments: u64,
    language: Option<String>,
    completed_at: Option<At>,
}

impl From<&State> for StateColumns {
    fn from(state: &State) -> StateColumns {
        let reason = state.reason.clone();
        StateColumns {
            status: state.status.as_str(),
            reason_code: reason.as_ref().map(|cause| cause.code.clone()),
            reason: reason.map(|cause| cause.message),
            audio_ms: state.audio_ms,
            decoded_ms: state.decoded_ms,
            transcribed_ms: state.transcribed_ms,
            segments: state.segments,
            transcribed_segments: state.transcribed_segments,
            failed_segments: state.failed_segments,
            language: state.language.clone(),
            completed_at: state.completed_at.map(At::new),
        }
    }
}

/// Reads the columns back.
pub(crate) fn state(row: &PgRow) -> Result<State, Error> {
    let number = |column| Ok::<u64, Error>(unsigned(row.try_get(column)?));
    let code: Option<String> = row.try_get("reason_code")?;
    let message: Option<String> = row.try_get("reason")?;
    let status: &str = row.try_get("status")?;
    Ok(State {
        status: status.parse().map_err(|error| Error::Corrupt(format!("{error}")))?,
        reason: code.zip(message).map(|(code, message)| Cause { code, message }),
        audio_ms: number("audio_ms")?,
        decoded_ms: number("decoded_ms")?,
        transcribed_ms: number("transcribed_ms")?,
        segments: row.try_get::<Option<i64>, _>("segments")?.map(unsigned),
        transcribed_segments: number("transcribed_segments")?,
        failed_segments: number("failed_segments")?,
        language: row.try_get("language")?,
        completed_at: row.try_get::<Option<At>, _>("completed_at")?.map(|at| at.0),
    })
}

/// Reads a JSON column.
pub(crate) fn json<T: serde::de::DeserializeOwned>(row: &PgRow, column: &str) -> Result<T, Error> {
    let text: &str = row.try_get(column)?;
    serde_json::from_str(text).map_err(|error| Error::Corrupt(format!("{column}: {error}")))
}

/// SQL has no unsigned numbers; ours are never negative.
pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
