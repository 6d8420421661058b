//! `/v1/recordings`: dropping audio, and what became of it.

use std::collections::BTreeMap;
use std::time::Duration;

use events::{Lane, Manifest, RecordingId, Task, Tenant};
use jiff::Timestamp;
use serde::Serialize;
use service::env::Value;
use streams::ModelNote;
use transcript::{State, Status};
use utoipa::ToSchema;
use views::{Filter, RecordingKey, RecordingRow};
use warp::http::{HeaderMap, StatusCode};
use warp::reply::Response;

use crate::api::Api;
use crate::call::Call;
use crate::drops::{self, Found, Taken};
use crate::keys::Caller;
use crate::options::{self, DecodingForm, LaneChoice, Options};
use crate::params::{Params, shorten};
use crate::reply::{self, Error, ErrorBody, Kind};
use crate::upload::{Body, Takes};

/// How many recordings a page has unless asked otherwise, and at most.
pub const PAGE_DEFAULT: u32 = 50;
/// See [`PAGE_DEFAULT`].
pub const PAGE_MAX: u32 = 200;

/// A recording, or a drop on its way to become one.
#[derive(Debug, Serialize, ToSchema)]
pub struct Recording {
    /// The recording's id; null until the drop is admitted.
    #[schema(value_type = Option<String>, format = Uuid)]
    pub id: Option<RecordingId>,
    /// The id of the drop it came from.
    pub drop_id: Option<String>,
    /// Whose it is.
    #[schema(value_type = String)]
    pub tenant: Tenant,
    /// The name the sender gave it.
    pub name: Option<String>,
    /// `queued`, `decoding`, `transcribing`, `complete`, `failed`, `cancelled`, `rejected` or `deleted`.
    #[schema(value_type = String)]
    pub status: Status,
    /// Why it failed or was rejected.
    pub reason: Option<Reason>,
    /// When it was handed in.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub submitted_at: Option<Timestamp>,
    /// When it ended, well or not.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub completed_at: Option<Timestamp>,
    /// How far it is.
    pub progress: Progress,
    /// ISO 639-1 code: found, else asked for.
    pub language: Option<String>,
    /// The name of the model that made the transcript which readers see.
    pub model: Option<String>,
    /// `transcribe` or `translate`.
    #[schema(value_type = Option<String>)]
    pub task: Option<Task>,
    /// The lane it was dropped in: `rt`, `batch` or `replay`.
    #[schema(value_type = Option<String>)]
    pub lane: Option<Lane>,
    /// The transcription that readers see, 0 for the first.
    pub generation: Option<u32>,
    /// The audio as it was handed in.
    pub audio: Option<AudioFile>,
    /// The `meta.*` fields of the drop, without their prefix.
    pub metadata: BTreeMap<String, String>,
    /// Where to ask again.
    pub url: String,
    /// Where the transcript is read.
    pub transcript_url: String,
}

/// Why something did not work.
#[derive(Debug, Serialize, ToSchema)]
pub struct Reason {
    /// A stable word for programs.
    pub code: String,
    /// What happened and what to do about it.
    pub message: String,
}

/// How far a recording is.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Progress {
    /// The share of the work that is done, 0 to 1.
    pub share: f64,
    /// Seconds of audio; an estimate until decoding ended.
    pub audio_s: f64,
    /// Seconds of it that are decoded.
    pub decoded_s: f64,
    /// Seconds of speech that have their text; the rest is silence or still to come.
    pub transcribed_s: f64,
    /// Segments in all; null until decoding ended.
    pub segments: Option<u64>,
    /// Segments that have their text.
    pub transcribed_segments: u64,
    /// Segments that ended without text.
    pub failed_segments: u64,
}

/// An audio file as it was handed in.
#[derive(Debug, Serialize, ToSchema)]
pub struct AudioFile {
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes, hexadecimal.
    pub sha256: String,
    /// Its container by its first bytes, such as `mp3`.
    pub container: String,
}

/// One page of recordings.
#[derive(Debug, Serialize, ToSchema)]
pub struct RecordingPage {
    /// The recordings, the newest first.
    pub items: Vec<Recording>,
    /// The `cursor` of the next page; null on the last one.
    pub next: Option<String>,
}

impl Recording {
    fn of_row(row: RecordingRow) -> Recording {
        let id = row.id.to_string();
        let state = row.state;
        let settings = row.settings;
        Recording {
            progress: Progress::of(&state),
            status: state.status,
            reason: state.reason.map(|cause| Reason { code: cause.code, message: cause.message }),
            completed_at: state.completed_at,
            language: state
                .language
                .or_else(|| settings.as_ref().and_then(|settings| settings.language.clone())),
            model: row.model.or_else(|| settings.as_ref().map(|settings| settings.model.name.clone())),
            task: settings.map(|settings| settings.task),
            drop_id: row.drop_id,
            tenant: row.tenant,
            name: row.name,
            submitted_at: Some(row.submitted_at),
            lane: row.lane,
            generation: row.generation,
            audio: row.audio.map(|audio| AudioFile {
                bytes: audio.bytes,
                sha256: audio.sha256,
                container: audio.container,
            }),
            metadata: row.metadata,
            ..Recording::at(&id, Some(row.id))
        }
    }

    fn of_drop(
        caller: &Caller,
        drop: String,
        manifest: Option<Manifest>,
        id: Option<RecordingId>,
    ) -> Recording {
        let field = |name: &str| manifest.as_ref().and_then(|manifest| manifest.fields.get(name).cloned());
        let metadata = manifest.iter().flat_map(|manifest| &manifest.fields);
        let metadata = metadata
            .filter_map(|(name, value)| Some((name.strip_prefix("meta.")?.to_owned(), value.clone())));
        Recording {
            tenant: caller.tenant.clone(),
            name: field("name"),
            model: field("model"),
            language: field("language"),
            task: field("task").and_then(|task| task.parse().ok()),
            submitted_at: manifest.as_ref().map(|manifest| manifest.submitted_at),
            lane: manifest.as_ref().map(|manifest| manifest.lane),
            metadata: metadata.collect(),
            drop_id: Some(drop.clone()),
            ..Recording::at(&drop, id)
        }
    }

    /// A recording of which only the address is known.
    fn at(address: &str, id: Option<RecordingId>) -> Recording {
        Recording {
            id,
            drop_id: None,
            tenant: Tenant::default(),
            name: None,
            status: Status::Queued,
            reason: None,
            submitted_at: None,
            completed_at: None,
            progress: Progress::default(),
            language: None,
            model: None,
            task: None,
            lane: None,
            generation: None,
            audio: None,
            metadata: BTreeMap::new(),
            url: format!("/v1/recordings/{address}"),
            transcript_url: format!("/v1/recordings/{address}/transcript"),
        }
    }

    /// What the caller is told about what was found.
    pub fn of(caller: &Caller, found: Found) -> Recording {
        match found {
            Found::Recording(row) => Recording::of_row(*row),
            Found::Queued { drop, manifest, recording } => {
                Recording::of_drop(caller, drop, manifest, recording)
            }
            Found::Rejected { drop, manifest, cause } => Recording {
                status: Status::Rejected,
                reason: Some(Reason { code: cause.code, message: cause.message }),
                progress: Progress { share: 1.0, ..Progress::default() },
                ..Recording::of_drop(caller, drop, manifest, None)
            },
        }
    }
}

impl Progress {
    fn of(state: &State) -> Progress {
        let seconds = |ms: u64| ms as f64 / 1000.0;
        Progress {
            share: (state.progress() * 1000.0).round() / 1000.0,
            audio_s: seconds(state.audio_ms),
            decoded_s: seconds(state.decoded_ms),
            transcribed_s: seconds(state.transcribed_ms),
            segments: state.segments,
            transcribed_segments: state.transcribed_segments,
            failed_segments: state.failed_segments,
        }
    }
}

/// Drop audio
///
/// Takes a form with the audio in `file`, or the audio itself as the body with all other fields in the query. The
/// audio is streamed into the audio store; once it is safe there and queued, the answer is 202 with the drop's id.
/// With `wait` the answer comes when the transcript is there (200), or after that time (202).
///
/// An `Idempotency-Key` header, or the field `key`, names the drop: the same key again gives the recording of the first
/// drop. Without a key the same bytes with the same options are the same recording.
#[utoipa::path(
    post, path = "/v1/recordings", tag = "recordings", operation_id = "create_recording",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "Names the drop, so that sending it again does no harm; up to 512 bytes"),
        ("wait" = Option<String>, Query, description = "How long to wait for the transcript, such as `30s`"),
        ("lane" = Option<String>, Query, description = "`batch` (default), or `rt` when somebody is waiting"),
        ("name" = Option<String>, Query, description = "What to call it; by default the file's name"),
        ("model" = Option<String>, Query, description = "A model of `/v1/models`"),
        ("language" = Option<String>, Query, description = "ISO 639-1 code; left out, it is found from the speech"),
        ("task" = Option<String>, Query, description = "`transcribe` (default) or `translate` to English"),
        ("prompt" = Option<String>, Query, description = "Names and spelling that the model should know"),
        ("temperature" = Option<String>, Query, description = "0 to 1, or a list of them to climb when a result is poor"),
        ("channels" = Option<String>, Query, description = "`mix` (default), or `each`: one transcript for each channel"),
        ("key" = Option<String>, Query, description = "As the Idempotency-Key header"),
        DecodingForm,
    ),
    request_body(
        content((Upload = "multipart/form-data"), (Vec<u8> = "application/octet-stream")),
        description = "A form with the audio in `file` and the fields above, or the audio itself. Fields `meta.*` are kept with the recording"
    ),
    responses(
        (status = 202, description = "Taken in; ask `url` for the rest", body = Recording),
        (status = 200, description = "With `wait`: it has ended, well or not", body = Recording),
        (status = 400, description = "A parameter cannot be used, or there is no audio", body = ErrorBody),
        (status = 408, description = "The upload stood still for too long", body = ErrorBody),
        (status = 413, description = "Larger than the limit", body = ErrorBody),
        (status = 415, description = "The body is neither audio nor a form", body = ErrorBody),
        (status = 429, description = "Too many requests, or too much work waiting; see Retry-After", body = ErrorBody),
        (status = 503, description = "The queue, the database or the store does not answer", body = ErrorBody),
    )
)]
pub async fn create(api: Api, call: Call, body: Body) -> Result<Response, Error> {
    let caller = api.keys.caller(&call.headers).await?;
    let lane = if call.params().has("lane") { call.params().parsed::<LaneChoice>("lane") } else { None };
    api.pressure.check(&api, lane.map_or(Lane::Batch, |LaneChoice(lane)| lane)).await?;
    let taken = drops::take_in(&api, &caller, call, body, Takes::FormOrRaw, read_fields).await?;
    let Taken { manifest, more: wait } = taken;
    let found = Found::Queued { drop: manifest.drop.clone(), manifest: Some(manifest), recording: None };
    let found = match wait {
        Some(limit) => drops::wait(&api, found, limit).await?,
        None => found,
    };
    let status = if found.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let recording = Recording::of(&caller, found);
    let mut response = reply::json(status, &recording);
    reply::set_header(&mut response, "location", &recording.url);
    Ok(response)
}

/// The form of an upload.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it only describes the form")]
pub struct Upload {
    /// The audio, in any container that `decode` reads.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

fn read_fields(
    mut params: Params,
    headers: &HeaderMap,
    models: &BTreeMap<String, ModelNote>,
) -> Result<(Options, Option<Duration>), Error> {
    let lane = params.parsed::<LaneChoice>("lane").map_or(Lane::Batch, |LaneChoice(lane)| lane);
    let wait = read_wait(&mut params);
    let options = options::read(&mut params, headers, models, lane, None);
    params.finish()?;
    Ok((options, wait))
}

fn read_wait(params: &mut Params) -> Option<Duration> {
    let text = params.text("wait")?;
    let wait = Duration::parse(&text);
    if wait.is_err() {
        params.problem("wait", format!("is {:?}; expected a duration such as 30s or 2min", shorten(&text)));
    }
    wait.ok()
}

/// List recordings
///
/// The newest first, in pages: `next` of one page is the `cursor` of the next.
#[utoipa::path(
    get, path = "/v1/recordings", tag = "recordings", operation_id = "list_recordings",
    params(
        ("status" = Option<String>, Query, description = "Only those that stand there, such as `complete`"),
        ("name" = Option<String>, Query, description = "Only those with this text in their name"),
        ("from" = Option<String>, Query, description = "Only those handed in at this time or later (RFC 3339)"),
        ("until" = Option<String>, Query, description = "Only those handed in before this time"),
        ("tenant" = Option<String>, Query, description = "Only this tenant's; it must be the key's own"),
        ("limit" = Option<u32>, Query, description = "How many a page has, 1 to 200; by default 50"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, description = "A page", body = RecordingPage),
        (status = 400, description = "A parameter cannot be used", body = ErrorBody),
        (status = 403, description = "Another tenant's", body = ErrorBody),
        (status = 503, description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn list(api: Api, call: Call) -> Result<Response, Error> {
    let caller = api.keys.caller(&call.headers).await?;
    let mut params = call.params();
    let tenant = params.parsed::<Tenant>("tenant");
    let filter = Filter {
        tenant: Some(caller.tenant.clone()),
        status: params.parsed("status"),
        name: params.text("name"),
        from: params.parsed("from"),
        until: params.parsed("until"),
    };
    let limit = params.number("limit", 1..=PAGE_MAX).unwrap_or(PAGE_DEFAULT);
    let cursor = params.parsed::<RecordingKey>("cursor");
    params.finish()?;
    if let Some(tenant) = tenant.filter(|tenant| *tenant != caller.tenant) {
        let message = format!("this key reads recordings of {} only, not of {tenant}", caller.tenant);
        return Err(Error {
            param: Some("tenant".to_owned()),
            ..Error::new(Kind::Forbidden, "other_tenant", message)
        });
    }
    let page = api.views.recordings(&filter, cursor.as_ref(), limit).await?;
    let items = page.items.into_iter().map(Recording::of_row).collect();
    Ok(reply::json(StatusCode::OK, &RecordingPage { items, next: page.next.map(|next| next.to_string()) }))
}

/// Get a recording
///
/// By its own id or by the id of its drop. With `wait` the answer comes once it has ended, or after that time.
#[utoipa::path(
    get, path = "/v1/recordings/{id}", tag = "recordings", operation_id = "get_recording",
    params(
        ("id" = String, Path, description = "Id of the recording or of its drop"),
        ("wait" = Option<String>, Query, description = "How long to wait for the end, such as `30s`"),
    ),
    responses(
        (status = 200, description = "The recording as it stands", body = Recording),
        (status = 404, description = "There is none, or it is another tenant's", body = ErrorBody),
        (status = 503, description = "The queue or the database does not answer", body = ErrorBody),
    )
)]
pub async fn get(api: Api, id: String, call: Call) -> Result<Response, Error> {
    let caller = api.keys.caller(&call.headers).await?;
    let mut params = call.params();
    let wait = read_wait(&mut params);
    params.finish()?;
    let mut found = drops::find(&api, &caller, &id).await?;
    if let Some(limit) = wait {
        found = drops::wait(&api, found, limit).await?;
    }
    Ok(reply::json(StatusCode::OK, &Recording::of(&caller, found)))
}
