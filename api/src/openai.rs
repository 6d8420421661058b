//! `/v1/audio/*` as OpenAI's clients expect them. Each is a drop in the rt lane, and a wait for its transcript.
//!
//! Those clients give up after 10 minutes and send the same again, twice, without an idempotency key. That does no
//! harm: equal audio with equal options is the same recording, so a repeat waits for the work that is under way.

use std::collections::BTreeMap;

use events::{Lane, Task};
use serde::Deserialize;
use streams::ModelNote;
use transcript::Status;
use transcript::openai::{self, Granularities};
use utoipa::{IntoResponses, ToSchema};
use views::RecordingRow;
use warp::http::{HeaderMap, StatusCode};
use warp::reply::Response;

use crate::api::Api;
use crate::call::Call;
use crate::drops::{self, Found, ReadOptions};
use crate::options::{self, DecodingForm, Options};
use crate::params::{Params, shorten};
use crate::reply::{self, Error, ErrorBody, Kind};
use crate::upload::{Body, Takes};

/// Fields of OpenAI's that this deployment has no use for; like theirs for some models, they are ignored.
const IGNORED: [&str; 6] =
    ["stream", "include", "chunking_strategy", "known_speaker_names", "known_speaker_references", "user"];

/// How the transcript is written.
#[derive(Clone, Copy, Debug, PartialEq)]
enum ReplyFormat {
    Json,
    VerboseJson,
    Rendered(transcript::Format),
}

/// What a request wants besides the work itself.
pub struct Wants {
    format: ReplyFormat,
    granularities: Granularities,
    ignored: Vec<String>,
}

/// The form of OpenAI's endpoints.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "it only describes the form")]
pub struct AudioForm {
    /// The audio, in any container that `decode` reads.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// `whisper-1` for the deployment's default, or a model of `/v1/models`.
    model: String,
    /// ISO 639-1 code; left out, it is found from the speech.
    language: Option<String>,
    /// Names and spelling that the model should know.
    prompt: Option<String>,
    /// `json` (default), `text`, `srt`, `vtt` or `verbose_json`.
    response_format: Option<String>,
    /// 0 to 1. 0 (default) climbs by itself when a result is poor.
    temperature: Option<f32>,
    /// What `verbose_json` has times of: `segment` (default), `word`, or both.
    #[schema(rename = "timestamp_granularities[]")]
    timestamp_granularities: Option<Vec<String>>,
    #[serde(flatten)]
    decoding: DecodingForm,
}

/// What both endpoints answer instead of a text.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "it only describes the answers")]
enum Refusal {
    /// A parameter or the audio cannot be used
    #[response(status = 400)]
    Bad(ErrorBody<'static>),
    /// Larger than the limit
    #[response(status = 413)]
    TooLarge(ErrorBody<'static>),
    /// The body is not a form
    #[response(status = 415)]
    MediaType(ErrorBody<'static>),
    /// Too many requests, or too much work waiting; see Retry-After
    #[response(status = 429)]
    Busy(ErrorBody<'static>),
    /// The model failed; the same request again does not help
    #[response(status = 500)]
    Failed(ErrorBody<'static>),
    /// The queue, the database or the store does not answer
    #[response(status = 503)]
    Down(ErrorBody<'static>),
    /// Not done in time; the work goes on, and the same request again finds it
    #[response(status = 504)]
    Late(ErrorBody<'static>),
}

/// Transcribe audio
///
/// OpenAI's endpoint: waits for the transcript. A client that goes away leaves the work going, and the same request
/// again finds it.
#[utoipa::path(
    post, path = "/v1/audio/transcriptions", tag = "openai", operation_id = "create_transcription",
    request_body(content = AudioForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The transcript, in the format asked for", body = String, content_type = "application/json"),
        Refusal,
    )
)]
pub async fn transcribe(api: Api, call: Call, body: Body) -> Result<Response, Error> {
    let read: ReadOptions<Wants> =
        |params, headers, models| read_form(params, headers, models, Task::Transcribe);
    answer(api, call, body, read).await
}

/// Translate audio to English
///
/// As transcriptions, with English text whatever is spoken. It needs a multilingual model.
#[utoipa::path(
    post, path = "/v1/audio/translations", tag = "openai", operation_id = "create_translation",
    request_body(content = AudioForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The translation, in the format asked for", body = String, content_type = "application/json"),
        Refusal,
    )
)]
pub async fn translate(api: Api, call: Call, body: Body) -> Result<Response, Error> {
    let read: ReadOptions<Wants> =
        |params, headers, models| read_form(params, headers, models, Task::Translate);
    answer(api, call, body, read).await
}

async fn answer(api: Api, call: Call, body: Body, read: ReadOptions<Wants>) -> Result<Response, Error> {
    let caller = api.keys.caller(&call.headers).await?;
    api.pressure.check(&api, Lane::Rt).await?;
    let taken = drops::take_in(&api, &caller, call, body, Takes::Form, read).await?;
    let wants = taken.more;
    let drop = taken.manifest.drop.clone();
    let found = Found::Queued { drop: drop.clone(), manifest: Some(taken.manifest), recording: None };
    let row = match drops::wait(&api, found, api.limits.wait).await? {
        Found::Recording(row) if row.state.status.is_final() => row,
        Found::Rejected { cause, .. } => {
            return Err(Error::param_as("file", &cause.code, cause.message).finally());
        }
        Found::Recording(_) | Found::Queued { .. } => return Err(late(&api, &drop)),
    };
    if row.state.status != Status::Complete {
        return Err(ended_badly(&row));
    }
    let transcript = api.views.transcript(row.id, None).await?;
    let transcript =
        transcript.ok_or_else(|| Error::internal(format!("{} is complete without a transcript", row.id)))?;
    let (content_type, text) = match wants.format {
        ReplyFormat::Json => ("application/json", openai::json(&transcript)),
        ReplyFormat::VerboseJson => {
            ("application/json", openai::verbose_json(&transcript, wants.granularities))
        }
        ReplyFormat::Rendered(format) => (format.content_type(), transcript::render(&transcript, format)),
    };
    let mut response = reply::text_as(StatusCode::OK, content_type, text);
    reply::set_header(&mut response, "x-voiceforge-recording", &row.id.to_string());
    if !wants.ignored.is_empty() {
        reply::set_header(&mut response, "x-voiceforge-ignored", &wants.ignored.join(", "));
    }
    Ok(response)
}

fn late(api: &Api, drop: &str) -> Error {
    let seconds = api.limits.wait.as_secs();
    let message = format!(
        "the transcript was not there after {seconds} s; the work goes on. Send the same request again to wait for it, or read /v1/recordings/{drop}"
    );
    Error::new(Kind::Late, "timeout", message)
}

/// What nothing could be decoded of is the client's to change; what the model could not do is not.
fn ended_badly(row: &RecordingRow) -> Error {
    let status = row.state.status;
    let (code, message) = match &row.state.reason {
        Some(cause) => (cause.code.clone(), cause.message.clone()),
        None => (status.to_string(), format!("the recording is {status}")),
    };
    let kind = match (status, row.state.segments) {
        (Status::Failed, Some(_)) => Kind::Internal,
        (Status::Failed | Status::Rejected, _) => return Error::param_as("file", &code, message).finally(),
        _ => Kind::Conflict,
    };
    Error::new(kind, code, message).finally()
}

fn read_form(
    mut params: Params,
    headers: &HeaderMap,
    models: &BTreeMap<String, ModelNote>,
    task: Task,
) -> Result<(Options, Wants), Error> {
    if !params.has("model") {
        params.problem("model", "is missing: whisper-1 for the default, or a model of /v1/models");
    }
    let format = read_format(&mut params);
    let granularities = read_granularities(&mut params, format);
    let mut options = options::read(&mut params, headers, models, Lane::Rt, Some(task));
    // 0 means to OpenAI what leaving it out means here: climb when a result is poor.
    if options.fields.get("temperature").is_some_and(|text| text.trim().parse() == Ok(0.0)) {
        options.fields.remove("temperature");
    }
    if granularities.words {
        options.fields.insert("word_timestamps".to_owned(), "true".to_owned());
    }
    let mut ignored: Vec<String> =
        IGNORED.iter().filter(|name| !params.list(name).is_empty()).map(|&n| n.to_owned()).collect();
    ignored.extend(params.finish_leniently()?.iter().map(|name| shorten(name)));
    Ok((options, Wants { format, granularities, ignored }))
}

/// What the answer has times of. Words cost time, so they are for the one format that has room for them.
fn read_granularities(params: &mut Params, format: ReplyFormat) -> Granularities {
    let asked = params.list("timestamp_granularities");
    if asked.is_empty() {
        return Granularities::default();
    }
    let unknown = asked.iter().find(|asked| !matches!(asked.as_str(), "segment" | "word"));
    if let Some(unknown) = unknown {
        let problem = format!("is {:?}; expected segment or word", shorten(unknown));
        params.problem("timestamp_granularities", problem);
    }
    let has = |name: &str| asked.iter().any(|asked| asked == name);
    if has("word") && format != ReplyFormat::VerboseJson {
        params.problem(
            "timestamp_granularities",
            "cannot be word here: words have times in response_format verbose_json alone",
        );
    }
    Granularities { segments: has("segment"), words: has("word") }
}

fn read_format(params: &mut Params) -> ReplyFormat {
    let Some(text) = params.text("response_format") else { return ReplyFormat::Json };
    match &*text {
        "json" => ReplyFormat::Json,
        "verbose_json" => ReplyFormat::VerboseJson,
        other => match other.parse() {
            Ok(format) => ReplyFormat::Rendered(format),
            Err(_) => {
                let problem =
                    format!("is {:?}; expected json, text, srt, vtt or verbose_json", shorten(other));
                params.problem("response_format", problem);
                ReplyFormat::Json
            }
        },
    }
}
