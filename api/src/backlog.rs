//! `/v1/backlog` and `/v1/models`: what waits, and what can be asked for.

use jiff::Timestamp;
use serde::Serialize;
use streams::{Queue, Survey};
use utoipa::ToSchema;
use warp::http::StatusCode;
use warp::reply::Response;

use crate::api::Api;
use crate::call::Call;
use crate::pressure::QueueBacklog;
use crate::reply::{self, Error, ErrorBody};
use crate::survey::seconds_since;

/// The undone work of the deployment, of all tenants together.
#[derive(Debug, Serialize, ToSchema)]
pub struct BacklogReport {
    /// Every queue and lane, over all shards.
    pub queues: Vec<QueueBacklog>,
    /// The same by the stage that does the work: what an autoscaler asks.
    pub stages: StageBacklogs,
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

/// The undone work of each stage, over all lanes and shards.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct StageBacklogs {
    /// Drops.
    pub ingest: StageBacklog,
    /// Recordings to decode.
    pub decode: StageBacklog,
    /// Segments to transcribe.
    pub infer: StageBacklog,
    /// Facts to fold.
    pub project: StageBacklog,
}

/// The undone work of a stage.
#[derive(Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct StageBacklog {
    /// Entries that are not done.
    pub entries: u64,
    /// Those of them that a worker has.
    pub in_progress: u64,
    /// Seconds of audio they stand for: 0 for drops and facts, an estimate for what is not decoded.
    pub audio_seconds: f64,
    /// Seconds since the oldest of them came; null where nothing waits, for facts, and for drops that nobody has in hand.
    pub oldest_wait_seconds: Option<f64>,
    /// Workers that read for the stage.
    pub workers: u64,
}

fn stages(survey: &Survey, now: Timestamp) -> StageBacklogs {
    let mut stages = StageBacklogs::default();
    for total in survey.totals() {
        let stage = match total.queue {
            Queue::Ingest => &mut stages.ingest,
            Queue::Decode => &mut stages.decode,
            Queue::Segments => &mut stages.infer,
        };
        stage.entries += total.backlog.entries;
        stage.in_progress += total.in_progress;
        stage.audio_seconds += total.backlog.audio_ms as f64 / 1000.0;
        let waits = total.oldest_at.map(|oldest| seconds_since(oldest, now));
        stage.oldest_wait_seconds = [stage.oldest_wait_seconds, waits].into_iter().flatten().reduce(f64::max);
    }
    for (group, unread, in_progress) in survey.readers() {
        if group == "project" {
            (stages.project.entries, stages.project.in_progress) = (unread + in_progress, in_progress);
        }
    }
    for worker in survey.workers() {
        match worker.stage.as_str() {
            "ingest" => stages.ingest.workers += 1,
            "decode" => stages.decode.workers += 1,
            "infer" => stages.infer.workers += 1,
            "project" => stages.project.workers += 1,
            _ => {}
        }
    }
    stages
}

/// Get the backlog
///
/// What waits in each queue and lane, and before each stage. It is measured at most once a second.
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
    let survey = api.pressure.survey(&api).await?;
    let mut total = BacklogTotal::default();
    for queue in &measured.queues {
        total.entries += queue.entries;
        total.audio_ms += queue.audio_ms;
        total.bytes += queue.bytes;
    }
    let report = BacklogReport {
        queues: measured.queues,
        stages: stages(&survey, events::now()),
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
