//! `/v1/backlog` and `/v1/models`: what waits, and what can be asked for.

use serde::Serialize;
use utoipa::ToSchema;
use warp::http::StatusCode;
use warp::reply::Response;

use crate::api::Api;
use crate::call::Call;
use crate::pressure::QueueBacklog;
use crate::reply::{self, Error, ErrorBody};

/// The undone work of the deployment, of all tenants together.
#[derive(Debug, Serialize, ToSchema)]
pub struct BacklogReport {
    /// Every queue and lane, over all shards.
    pub queues: Vec<QueueBacklog>,
    /// All of them together. A recording that is being decoded counts in two queues.
    pub total: BacklogTotal,
    /// Memory of Redis in use as a share of its limit, 0 without a limit.
    pub redis_memory_share: f64,
    /// Free bytes on the disk of the audio store; null when the store is not a folder.
    pub store_free_bytes: Option<u64>,
}

/// The sum of all queues.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct BacklogTotal {
    /// Entries that are not done.
    pub entries: u64,
    /// Milliseconds of audio.
    pub audio_ms: u64,
    /// Bytes of speech held in Redis.
    pub bytes: u64,
}

/// Get the backlog
///
/// What waits in each queue and lane. It is measured at most once a second.
#[utoipa::path(
    get, path = "/v1/backlog", tag = "deployment", operation_id = "get_backlog",
    responses(
        (status = 200, description = "The backlog", body = BacklogReport),
        (status = 503, description = "The queue does not answer", body = ErrorBody),
    )
)]
pub async fn get(api: Api, call: Call) -> Result<Response, Error> {
    api.keys.caller(&call.headers).await?;
    call.params().finish()?;
    let measured = api.pressure.measure(&api).await?;
    let mut total = BacklogTotal::default();
    for queue in &measured.queues {
        total.entries += queue.entries;
        total.audio_ms += queue.audio_ms;
        total.bytes += queue.bytes;
    }
    let report = BacklogReport {
        queues: measured.queues,
        total,
        redis_memory_share: measured.redis_memory,
        store_free_bytes: measured.store_free,
    };
    Ok(reply::json(StatusCode::OK, &report))
}

/// The models of the deployment, in the shape of OpenAI's list.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    pub object: &'static str,
    /// The models by name.
    pub data: Vec<Model>,
}

/// A model that some worker has announced.
#[derive(Debug, Serialize, ToSchema)]
pub struct Model {
    /// The name to ask for it by.
    pub id: String,
    /// Always `model`.
    pub object: &'static str,
    /// Always 0: when weights were made is not known.
    pub created: u64,
    /// Always `voiceforge`.
    pub owned_by: &'static str,
    /// SHA-256 of its weights, hexadecimal.
    pub sha256: String,
    /// Whether it knows more than English.
    pub multilingual: bool,
    /// ISO 639-1 codes it knows.
    pub languages: Vec<String>,
}

/// List models
///
/// What `model` may be. `whisper-1` stands for the deployment's default.
#[utoipa::path(
    get, path = "/v1/models", tag = "deployment", operation_id = "list_models",
    responses(
        (status = 200, description = "The models", body = ModelList),
        (status = 503, description = "The queue does not answer", body = ErrorBody),
    )
)]
pub async fn models(api: Api, call: Call) -> Result<Response, Error> {
    api.keys.caller(&call.headers).await?;
    call.params().finish()?;
    let notes = api.ask(api.log.models()).await?;
    let data = notes.into_values().map(|note| Model {
        id: note.name,
        object: "model",
        created: 0,
        owned_by: "voiceforge",
        sha256: note.sha256,
        multilingual: note.multilingual,
        languages: note.languages,
    });
    Ok(reply::json(StatusCode::OK, &ModelList { object: "list", data: data.collect() }))
}
