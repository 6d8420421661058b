//! Reading what was said: one transcript, or a search through all.

use events::{RecordingId, SegmentId};
use jiff::Timestamp;
use serde::Serialize;
use transcript::{DocumentSpans, Format, Spans, Status, Transcript, format};
use utoipa::ToSchema;
use views::{Hit, HitKey, Search};
use warp::http::StatusCode;
use warp::reply::Response;

use crate::api::Api;
use crate::call::Call;
use crate::drops::{self, Found};
use crate::keys::Caller;
use crate::recordings::{PAGE_DEFAULT, PAGE_MAX};
use crate::reply::{self, Error, ErrorBody, Kind};

/// Get a transcript
///
/// As a JSON document with all times, as plain text, or as subtitles. Before the recording is complete it has the
/// segments that are in; `x-voiceforge-status` tells where the recording stands, and `x-voiceforge-truncated` at which
/// millisecond the audio broke off and why, if it did.
#[utoipa::path(
    get, path = "/v1/recordings/{id}/transcript", tag = "transcripts", operation_id = "get_transcript",
    params(
        ("id" = String, Path, description = "Id of the recording or of its drop"),
        ("format" = Option<String>, Query, description = "`json` (default), `text`, `srt` or `vtt`"),
        ("generation" = Option<u32>, Query, description = "Which transcription, 0 for the first; by default the one readers see"),
    ),
    responses(
        (status = 200, description = "The transcript, in the format asked for", body = String,
         content_type = "application/json"),
        (status = 400, description = "A parameter cannot be used", body = ErrorBody),
        (status = 404, description = "There is no such recording or generation", body = ErrorBody),
        (status = 409, description = "There is no transcript: not yet (see Retry-After), or it failed, with the reason", body = ErrorBody),
        (status = 503, description = "The queue or the database does not answer", body = ErrorBody),
    )
)]
pub async fn get(api: Api, id: String, call: Call) -> Result<Response, Error> {
    let caller = api.keys.caller(&call.headers).await?;
    let mut params = call.params();
    let format = params.parsed::<Format>("format").unwrap_or_default();
    let generation = params.number("generation", 0..=u32::MAX);
    params.finish()?;
    if format == Format::Json {
        let transcript = find::<DocumentSpans>(&api, &caller, &id, generation).await?;
        return Ok(answer(&transcript, format, format::json(&transcript)));
    }
    let transcript: Transcript = find(&api, &caller, &id, generation).await?;
    // The document says itself what is missing; plain text and subtitles cannot.
    if transcript.status == Status::Failed && transcript.segments.is_empty() {
        let reason = transcript.reason.as_ref().map_or(String::new(), ToString::to_string);
        return Err(no_transcript(transcript.status, &reason));
    }
    Ok(answer(&transcript, format, transcript::render(&transcript, format)))
}

fn answer<S>(transcript: &Transcript<S>, format: Format, text: String) -> Response {
    let mut response = reply::text_as(StatusCode::OK, format.content_type(), text);
    reply::set_header(&mut response, "x-voiceforge-status", transcript.status.as_str());
    if let Some((at_ms, reason)) = &transcript.truncated {
        let told = format!("{at_ms} {}", header_text(reason));
        reply::set_header(&mut response, "x-voiceforge-truncated", &told);
    }
    response
}

/// A text as it may stand in a header: what is not printable ASCII is replaced.
fn header_text(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

/// Finds a transcript by the id of its recording or drop, or says why there is none.
async fn find<S: Spans>(
    api: &Api,
    caller: &Caller,
    id: &str,
    generation: Option<u32>,
) -> Result<Transcript<S>, Error> {
    // Whoever asks by the recording's own id gets its transcript by one question; only where there is none, more are asked.
    if let Ok(recording) = id.parse()
        && let Some(transcript) = api.views.tenants_transcript(&caller.tenant, recording, generation).await?
    {
        return Ok(transcript);
    }
    let row = match drops::find(api, caller, id).await? {
        Found::Recording(row) => row,
        Found::Queued { .. } => return Err(not_yet()),
        Found::Rejected { cause, .. } => return Err(no_transcript(Status::Rejected, &cause.to_string())),
    };
    let transcript = api.views.tenants_transcript(&caller.tenant, row.id, generation).await?;
    transcript.ok_or_else(|| match generation {
        Some(number) => Error::not_found(format!("generation {number} of recording {}", row.id)),
        None if !row.state.status.is_final() => not_yet(),
        None => {
            let reason = row.state.reason.as_ref().map_or(String::new(), ToString::to_string);
            no_transcript(row.state.status, &reason)
        }
    })
}

fn not_yet() -> Error {
    Error {
        retry_after: Some(std::time::Duration::from_secs(1)),
        ..Error::new(
            Kind::Conflict,
            "not_ready",
            "the recording waits in the queue; there is no transcript yet",
        )
    }
}

fn no_transcript(status: Status, reason: &str) -> Error {
    let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    let message = format!("there is no transcript, the recording is {status}{because}");
    Error::new(Kind::Conflict, "no_transcript", message).finally()
}

/// One page of what a search found.
#[derive(Debug, Serialize, ToSchema)]
pub struct HitPage {
    /// The segments in which it was found, of the newest recordings first.
    pub items: Vec<SearchHit>,
    /// The `cursor` of the next page; null on the last one.
    pub next: Option<String>,
}

/// A segment in which something was found.
#[derive(Debug, Serialize, ToSchema)]
pub struct SearchHit {
    /// The recording.
    #[schema(value_type = String, format = Uuid)]
    pub recording_id: RecordingId,
    /// The name the sender gave it.
    pub name: Option<String>,
    /// When it was handed in.
    #[schema(value_type = String, format = DateTime)]
    pub submitted_at: Timestamp,
    /// The segment, as `<recording>:<generation>:<channel>:<index>`.
    pub segment: String,
    /// Start of the segment within the recording.
    pub start_ms: u64,
    /// End of the segment within the recording.
    pub end_ms: u64,
    /// Channel, 0 for a mix.
    pub channel: u16,
    /// ISO 639-1 code.
    pub language: String,
    /// The whole text of the segment.
    pub text: String,
    /// The text around what was found as HTML: `<mark>` around what was found, all else escaped.
    pub snippet: String,
    /// The recording's transcript.
    pub transcript_url: String,
}

impl From<Hit> for SearchHit {
    fn from(hit: Hit) -> SearchHit {
        let Hit { recording, generation, channel, index, .. } = hit;
        SearchHit {
            recording_id: recording,
            segment: SegmentId { recording, generation, channel, index }.to_string(),
            name: hit.name,
            submitted_at: hit.submitted_at,
            start_ms: hit.start_ms,
            end_ms: hit.end_ms,
            channel,
            language: hit.language,
            text: hit.text,
            snippet: hit.snippet.html(),
            transcript_url: format!("/v1/recordings/{recording}/transcript"),
        }
    }
}

/// Search transcripts
///
/// Full text over all transcripts that readers see, with times and marked snippets.
#[utoipa::path(
    get, path = "/v1/search", tag = "transcripts", operation_id = "search",
    params(
        ("q" = String, Query, description = "Words, `\"phrases\"`, `or`, `-without`"),
        ("recording" = Option<String>, Query, description = "Only in this recording"),
        ("language" = Option<String>, Query, description = "Only in segments of this language (ISO 639-1)"),
        ("from" = Option<String>, Query, description = "Only in recordings handed in at this time or later (RFC 3339)"),
        ("until" = Option<String>, Query, description = "Only in recordings handed in before this time"),
        ("limit" = Option<u32>, Query, description = "How many a page has, 1 to 200; by default 50"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, description = "A page; with nothing found an empty one", body = HitPage),
        (status = 400, description = "A parameter cannot be used", body = ErrorBody),
        (status = 503, description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn search(api: Api, call: Call) -> Result<Response, Error> {
    let caller = api.keys.caller(&call.headers).await?;
    let mut params = call.params();
    let text = params.text("q").filter(|text| !text.trim().is_empty());
    if text.is_none() {
        params.problem("q", "is missing: the words to look for");
    }
    if text.as_ref().is_some_and(|text| text.len() > 1000) {
        params.problem("q", "is longer than 1000 bytes");
    }
    let search = Search {
        text: text.unwrap_or_default().replace('\0', " "),
        tenant: Some(caller.tenant),
        recording: params.parsed("recording"),
        language: params.text("language").map(|language| language.to_ascii_lowercase().replace('\0', "")),
        from: params.parsed("from"),
        until: params.parsed("until"),
    };
    let limit = params.number("limit", 1..=PAGE_MAX).unwrap_or(PAGE_DEFAULT);
    let cursor = params.parsed::<HitKey>("cursor");
    params.finish()?;
    let page = api.views.search(&search, cursor.as_ref(), limit).await?;
    let items = page.items.into_iter().map(SearchHit::from).collect();
    Ok(reply::json(StatusCode::OK, &HitPage { items, next: page.next.map(|next| next.to_string()) }))
}
