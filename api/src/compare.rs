//! The transcriptions of one recording: which there are, how two of them differ, and choosing or stopping one.

use events::{
    About, Activation, Envelope, Event, GenerationActivated, GenerationCancelled, Lane, RecordingId,
};
use jiff::Timestamp;
use serde::Serialize;
use streams::{Append, Appended, Message};
use transcript::compare::text::{Style, text};
use transcript::{Status, Transcript};
use utoipa::ToSchema;
use uuid::Uuid;
use views::{GenerationRow, RecordingRow};
use warp::http::StatusCode;
use warp::reply::Response;

use crate::api::Api;
use crate::call::Call;
use crate::drops::{self, Found};
use crate::keys::Caller;
use crate::recordings::Reason;
use crate::reply::{self, Error, ErrorBody, Kind};

/// The transcriptions of a recording.
#[derive(Debug, Serialize, ToSchema)]
pub struct Generations {
    /// The recording.
    #[schema(value_type = String, format = Uuid)]
    pub recording_id: RecordingId,
    /// The one that readers see.
    pub visible: Option<u32>,
    /// All of them, the first one first.
    pub items: Vec<Generation>,
}

/// One transcription of a recording.
#[derive(Debug, Serialize, ToSchema)]
pub struct Generation {
    /// Its number, 0 for the first.
    pub generation: u32,
    /// As a recording's.
    #[schema(value_type = String)]
    pub status: Status,
    /// Why it failed.
    pub reason: Option<Reason>,
    /// The model's name.
    pub model: Option<String>,
    /// The lane its work runs in.
    #[schema(value_type = Option<String>)]
    pub lane: Option<Lane>,
    /// How it becomes visible: `auto` or `manual`.
    #[schema(value_type = Option<String>)]
    pub activation: Option<Activation>,
    /// ISO 639-1 code of the language of most of the text.
    pub language: Option<String>,
    /// Segments in all; null until decoding ended.
    pub segments: Option<u64>,
    /// Segments that ended without text.
    pub failed_segments: u64,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub completed_at: Option<Timestamp>,
}

/// List the transcriptions of a recording
///
/// Its generations, and which of them readers see.
#[utoipa::path(
    get, path = "/v1/recordings/{id}/generations", tag = "generations", operation_id = "list_generations",
    params(("id" = String, Path, description = "Id of the recording or of its drop")),
    responses(
        (status = 200, description = "The generations", body = Generations),
        (status = 404, description = "There is no such recording, or it is another tenant's", body = ErrorBody),
        (status = 409, description = "The drop is not a recording yet, or was refused", body = ErrorBody),
        (status = 503, description = "The queue or the database does not answer", body = ErrorBody),
    )
)]
pub async fn list(api: Api, id: String, call: Call) -> Result<Response, Error> {
    let caller = api.keys.caller(&call.headers).await?;
    call.params().finish()?;
    let row = find(&api, &caller, &id).await?;
    let generation = |row: GenerationRow| Generation {
        generation: row.generation,
        status: row.state.status,
        reason: row.state.reason.map(|cause| Reason { code: cause.code, message: cause.message }),
        model: row.settings.map(|settings| settings.model.name),
        lane: row.lane,
        activation: row.activation,
        language: row.state.language,
        segments: row.state.segments,
        failed_segments: row.state.failed_segments,
        completed_at: row.state.completed_at,
    };
    let items = api.views.generations(row.id).await?.into_iter().map(generation).collect();
    Ok(reply::json(StatusCode::OK, &Generations { recording_id: row.id, visible: row.generation, items }))
}

/// Compare two transcriptions of a recording
///
/// Word by word over the whole recording, by the time at which the words were said: the segments of both are cut
/// elsewhere. Tells how many words differ, what each transcription is and how fast it was made.
#[utoipa::path(
    get, path = "/v1/recordings/{id}/compare", tag = "generations", operation_id = "compare_recording",
    params(
        ("id" = String, Path, description = "Id of the recording or of its drop"),
        ("from" = Option<u32>, Query, description = "The generation to compare against; by default the one readers see"),
        ("to" = Option<u32>, Query, description = "The other one; by default the newest that is complete"),
        ("format" = Option<String>, Query, description = "`json` (default): all words; `text`: what differs, for people"),
        ("width" = Option<u32>, Query, description = "Columns of the text, 40 to 400; by default 80"),
    ),
    responses(
        (status = 200, description = "The comparison: `from`, `to`, `counts`, `passages`", body = String, content_type = "application/json"),
        (status = 400, description = "A parameter cannot be used", body = ErrorBody),
        (status = 404, description = "There is no such recording or generation", body = ErrorBody),
        (status = 409, description = "There are no two transcriptions to compare", body = ErrorBody),
        (status = 503, description = "The queue or the database does not answer", body = ErrorBody),
    )
)]
pub async fn compare(api: Api, id: String, call: Call) -> Result<Response, Error> {
    let caller = api.keys.caller(&call.headers).await?;
    let mut params = call.params();
    let from = params.number("from", 0..=u32::MAX);
    let to = params.number("to", 0..=u32::MAX);
    let width = params.number("width", 40..=400).unwrap_or(80);
    let format = params.text("format").unwrap_or_else(|| "json".to_owned());
    if !matches!(&*format, "json" | "text") {
        params.problem("format", format!("is {:?}; expected json or text", crate::params::shorten(&format)));
    }
    params.finish()?;
    let row = find(&api, &caller, &id).await?;
    let (from, to) = choose(&api, &row, from, to).await?;
    let [from, to] = [read(&api, row.id, from).await?, read(&api, row.id, to).await?];
    // Hours of speech take a moment of pure work.
    let compared = tokio::task::spawn_blocking(move || {
        let comparison = transcript::compare(&from, &to);
        match &*format {
            "text" => {
                let style = Style { width: width as usize, colour: false };
                reply::text_as(StatusCode::OK, "text/plain; charset=utf-8", text(&comparison, style))
            }
            _ => reply::json(StatusCode::OK, &comparison),
        }
    });
    compared.await.map_err(Error::internal)
}

/// The two generations to compare, as asked for or else what readers see and the newest other one.
async fn choose(
    api: &Api,
    row: &RecordingRow,
    from: Option<u32>,
    to: Option<u32>,
) -> Result<(u32, u32), Error> {
    if let (Some(from), Some(to)) = (from, to) {
        return Ok((from, to));
    }
    let complete: Vec<u32> = api
        .views
        .generations(row.id)
        .await?
        .into_iter()
        .filter(|generation| generation.state.status == Status::Complete)
        .map(|generation| generation.generation)
        .collect();
    let not = |other: u32| complete.iter().rev().copied().find(|&generation| generation != other);
    let visible = row.generation.filter(|visible| complete.contains(visible));
    let chosen = match (from, to) {
        (Some(from), _) => not(from).map(|to| (from, to)),
        (None, Some(to)) => {
            visible.filter(|&visible| visible != to).or_else(|| not(to)).map(|from| (from, to))
        }
        // The newest is usually seen already; then the one before it is what people want it compared with.
        (None, None) => match (visible, complete.last()) {
            (Some(visible), Some(&newest)) if visible == newest => not(newest).map(|from| (from, newest)),
            (Some(visible), Some(&newest)) => Some((visible, newest)),
            _ => None,
        },
    };
    chosen.ok_or_else(|| {
        let message = format!(
            "recording {} has no two complete transcriptions to compare; POST /v1/generations makes another",
            row.id
        );
        Error::new(Kind::Conflict, "nothing_to_compare", message).finally()
    })
}

async fn read(api: &Api, recording: RecordingId, generation: u32) -> Result<Transcript, Error> {
    let found = api.views.transcript(recording, Some(generation)).await?;
    found.ok_or_else(|| no_generation(recording, generation))
}

/// What was done to a transcription.
#[derive(Debug, Serialize, ToSchema)]
pub struct Act {
    /// The recording.
    #[schema(value_type = String, format = Uuid)]
    pub recording_id: RecordingId,
    /// Its generations that this is about.
    pub generations: Vec<u32>,
    /// `activated` or `cancelled`. Readers see it within moments.
    pub status: &'static str,
}

/// Activate a transcription
///
/// Readers see this generation from now on, until another is activated. It must be complete.
#[utoipa::path(
    post, path = "/v1/recordings/{id}/generations/{generation}/activate", tag = "generations", operation_id = "activate_generation",
    params(
        ("id" = String, Path, description = "Id of the recording or of its drop"),
        ("generation" = u32, Path, description = "Which transcription"),
    ),
    responses(
        (status = 202, description = "Activated", body = Act),
        (status = 404, description = "There is no such recording or generation", body = ErrorBody),
        (status = 409, description = "It is not complete", body = ErrorBody),
        (status = 503, description = "The queue or the database does not answer", body = ErrorBody),
    )
)]
pub async fn activate(api: Api, id: String, number: String, call: Call) -> Result<Response, Error> {
    let caller = api.keys.caller(&call.headers).await?;
    call.params().finish()?;
    let (row, generation) = find_generation(&api, &caller, &id, &number).await?;
    let status = generation.state.status;
    if status != Status::Complete {
        let message = format!(
            "generation {} of recording {} is {status}; only a complete one can be activated",
            generation.generation, row.id
        );
        return Err(Error::new(Kind::Conflict, "not_complete", message));
    }
    let envelope =
        act(&api, &row, generation.generation, GenerationActivated { by: "api".to_owned() }.into());
    let facts = vec![Message::fact(&envelope).map_err(Error::internal)?];
    let append = Append { shard: envelope.shard, recording: row.id, facts, work: None };
    taken(&id, api.ask(api.log.append(&append)).await?)?;
    Ok(done(&row, vec![generation.generation], "activated"))
}

/// Cancel a transcription
///
/// Its work is dropped, and readers never see it. One that has ended stays as it is.
#[utoipa::path(
    post, path = "/v1/recordings/{id}/generations/{generation}/cancel", tag = "generations", operation_id = "cancel_generation",
    params(
        ("id" = String, Path, description = "Id of the recording or of its drop"),
        ("generation" = u32, Path, description = "Which transcription"),
    ),
    responses(
        (status = 202, description = "Cancelled", body = Act),
        (status = 404, description = "There is no such recording or generation", body = ErrorBody),
        (status = 409, description = "It has ended", body = ErrorBody),
        (status = 503, description = "The queue or the database does not answer", body = ErrorBody),
    )
)]
pub async fn cancel_one(api: Api, id: String, number: String, call: Call) -> Result<Response, Error> {
    let caller = api.keys.caller(&call.headers).await?;
    call.params().finish()?;
    let (row, generation) = find_generation(&api, &caller, &id, &number).await?;
    cancel_all(&api, &id, &row, vec![generation]).await
}

/// Cancel a recording
///
/// Every transcription of it that is under way is cancelled; those that have ended stay.
#[utoipa::path(
    post, path = "/v1/recordings/{id}/cancel", tag = "recordings", operation_id = "cancel_recording",
    params(("id" = String, Path, description = "Id of the recording or of its drop")),
    responses(
        (status = 202, description = "Cancelled", body = Act),
        (status = 404, description = "There is no such recording, or it is another tenant's", body = ErrorBody),
        (status = 409, description = "Everything has ended, or the drop is not a recording yet", body = ErrorBody),
        (status = 503, description = "The queue or the database does not answer", body = ErrorBody),
    )
)]
pub async fn cancel(api: Api, id: String, call: Call) -> Result<Response, Error> {
    let caller = api.keys.caller(&call.headers).await?;
    call.params().finish()?;
    let row = find(&api, &caller, &id).await?;
    let generations = api.views.generations(row.id).await?;
    cancel_all(&api, &id, &row, generations).await
}

async fn cancel_all(
    api: &Api,
    id: &str,
    row: &RecordingRow,
    generations: Vec<GenerationRow>,
) -> Result<Response, Error> {
    let open: Vec<u32> = generations
        .iter()
        .filter(|generation| !generation.state.status.is_final())
        .map(|generation| generation.generation)
        .collect();
    if open.is_empty() {
        let stand = generations.first().map_or(row.state.status, |generation| generation.state.status);
        let message = format!("recording {} is {stand}: there is nothing left to cancel", row.id);
        return Err(Error::new(Kind::Conflict, "already_ended", message).finally());
    }
    for &generation in &open {
        let envelope = act(api, row, generation, GenerationCancelled { by: "api".to_owned() }.into());
        let fact = Message::fact(&envelope).map_err(Error::internal)?;
        taken(id, api.ask(api.log.cancel(envelope.shard, row.id, generation, &fact)).await?)?;
    }
    Ok(done(row, open, "cancelled"))
}

async fn find(api: &Api, caller: &Caller, id: &str) -> Result<RecordingRow, Error> {
    match drops::find(api, caller, id).await? {
        Found::Recording(row) => Ok(*row),
        Found::Queued { .. } => Err(Error {
            retry_after: Some(std::time::Duration::from_secs(1)),
            ..Error::new(Kind::Conflict, "not_ready", "the drop is not a recording yet; ask again shortly")
        }),
        Found::Rejected { cause, .. } => {
            Err(Error::new(Kind::Conflict, "no_transcript", format!("the drop was refused: {cause}"))
                .finally())
        }
    }
}

async fn find_generation(
    api: &Api,
    caller: &Caller,
    id: &str,
    number: &str,
) -> Result<(RecordingRow, GenerationRow), Error> {
    let row = find(api, caller, id).await?;
    let generation: u32 = number.parse().map_err(|_| {
        Error::param(
            "generation",
            format!("{:?} is not a generation; expected a number from 0", crate::params::shorten(number)),
        )
    })?;
    let all = api.views.generations(row.id).await?;
    let found = all.into_iter().find(|found| found.generation == generation);
    found.map(|found| (row.clone(), found)).ok_or_else(|| no_generation(row.id, generation))
}

fn no_generation(recording: RecordingId, generation: u32) -> Error {
    Error::not_found(format!("generation {generation} of recording {recording}"))
}

fn act(api: &Api, row: &RecordingRow, generation: u32, event: Event) -> Envelope {
    let about = About {
        recording: row.id,
        shard: row.id.shard(api.log.shards()),
        tenant: row.tenant.clone(),
        submitted_at: row.submitted_at,
    };
    Envelope::of_act(Uuid::new_v4(), &about, generation, event)
}

/// A recording that is deleted takes no more acts.
fn taken(id: &str, appended: Appended) -> Result<(), Error> {
    match appended {
        Appended::Done | Appended::Repeated => Ok(()),
        Appended::Deleted => Err(Error::not_found(format!("the recording {:?}", crate::params::shorten(id)))),
    }
}

fn done(row: &RecordingRow, generations: Vec<u32>, status: &'static str) -> Response {
    reply::json(StatusCode::ACCEPTED, &Act { recording_id: row.id, generations, status })
}
