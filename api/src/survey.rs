//! `/v1/survey`: how everything stands, for those who look after the deployment.

use events::Lane;
use jiff::Timestamp;
use serde::Serialize;
use streams::Survey;
use utoipa::ToSchema;
use warp::http::StatusCode;
use warp::reply::Response;

use crate::api::Api;
use crate::call::Call;
use crate::reply::{self, Error, ErrorBody};

/// How the deployment stands at about one moment.
#[derive(Debug, Serialize, ToSchema)]
pub struct SurveyReport {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Every queue and lane, over all shards.
    pub queues: Vec<QueueReport>,
    /// The logs of all shards together.
    pub log: LogReport,
    /// Everybody who reads anything.
    pub workers: Vec<WorkerReport>,
    /// Dead letters in all.
    pub dead_letters: u64,
    /// Deleted recordings that are not erased yet.
    pub erasures: u64,
    /// Bytes of memory Redis uses.
    pub redis_memory_bytes: u64,
    /// Its limit in bytes; null without one.
    pub redis_memory_limit_bytes: Option<u64>,
}

/// A queue and lane.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueReport {
    /// `ingest`, `decode` or `segments`.
    pub queue: &'static str,
    /// `rt`, `batch` or `replay`.
    #[schema(value_type = String)]
    pub lane: Lane,
    /// Entries that are not done.
    pub entries: u64,
    /// Those of them that a worker has.
    pub in_progress: u64,
    /// Seconds of audio; before decoding an estimate by the header, 0 in `ingest`.
    pub audio_s: f64,
    /// Bytes of speech held in Redis.
    pub bytes: u64,
    /// Seconds since the oldest of them came.
    pub oldest_s: Option<f64>,
    /// Entries ever done: two looks give a rate.
    pub done: u64,
}

/// The logs of all shards.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogReport {
    /// Facts they hold.
    pub length: u64,
    /// Facts ever appended.
    pub appended: u64,
    /// Facts up to which everything is archived.
    pub archived: u64,
    /// Who reads them.
    pub groups: Vec<ReaderReport>,
}

/// A consumer group of the logs.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReaderReport {
    /// Its name.
    pub group: String,
    /// Facts it was never given.
    pub unread: u64,
    /// Facts it was given and has not acknowledged.
    pub in_progress: u64,
}

/// A worker.
#[derive(Debug, Serialize, ToSchema)]
pub struct WorkerReport {
    /// Its stage.
    pub stage: String,
    /// Its name: host, process, and a part that is new with each start.
    pub name: String,
    /// Entries it has in hand.
    pub in_progress: u64,
    /// Seconds since its last sign of life. One that is silent for a minute and has nothing in hand is not listed.
    pub idle_s: f64,
}

/// Get a survey
///
/// Queues, log, workers, dead letters, memory: what `voiceforge top` shows. Measured at most once a second. Needs an
/// operator's key.
#[utoipa::path(
    get, path = "/v1/survey", tag = "deployment", operation_id = "get_survey",
    responses(
        (status = 200, description = "How everything stands", body = SurveyReport),
        (status = 403, description = "Not with this key", body = ErrorBody),
        (status = 503, description = "The queue or the database does not answer", body = ErrorBody),
    )
)]
pub async fn get(api: Api, call: Call) -> Result<Response, Error> {
    api.keys.caller(&call.headers).await?.operate()?;
    call.params().finish()?;
    let survey = api.pressure.survey(&api).await?;
    let archived = api.views.all_archived_through(api.log.shards()).await?.iter().sum();
    let erasures = api.views.count_open_erasures().await?;
    Ok(reply::json(StatusCode::OK, &report(&survey, archived, erasures, events::now())))
}

fn report(survey: &Survey, archived: u64, erasures: u64, at: Timestamp) -> SurveyReport {
    let queues = survey.totals().into_iter().map(|total| QueueReport {
        queue: total.queue.as_str(),
        lane: total.lane,
        entries: total.backlog.entries,
        in_progress: total.in_progress,
        audio_s: total.backlog.audio_ms as f64 / 1000.0,
        bytes: total.backlog.bytes,
        oldest_s: total.oldest_at.map(|oldest| seconds_since(oldest, at)),
        done: total.done,
    });
    let groups = survey.readers().into_iter();
    let groups = groups.map(|(group, unread, in_progress)| ReaderReport { group, unread, in_progress });
    let workers = survey.workers().into_iter().map(|worker| WorkerReport {
        stage: worker.stage,
        name: worker.name,
        in_progress: worker.in_progress,
        idle_s: worker.idle.as_secs_f64(),
    });
    SurveyReport {
        at,
        queues: queues.collect(),
        log: LogReport {
            length: survey.logs.iter().map(|log| log.length).sum(),
            appended: survey.logs.iter().map(|log| log.last_seq).sum(),
            archived,
            groups: groups.collect(),
        },
        workers: workers.collect(),
        dead_letters: survey.dead.iter().map(|(_, letters)| letters).sum(),
        erasures,
        redis_memory_bytes: survey.memory_bytes,
        redis_memory_limit_bytes: survey.memory_limit_bytes,
    }
}

/// Seconds from one time to another, by clocks that may differ a little: never less than nothing.
pub(crate) fn seconds_since(then: Timestamp, now: Timestamp) -> f64 {
    (now.as_millisecond() - then.as_millisecond()).max(0) as f64 / 1000.0
}
