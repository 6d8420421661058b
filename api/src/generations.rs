//! `/v1/generations`: runs that transcribe recordings again.

use std::collections::BTreeMap;

use events::{Activation, Channels, RecordingId, Task, Tenant};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use streams::ModelNote;
use transcript::Status;
use utoipa::ToSchema;
use uuid::Uuid;
use views::{NewRun, PageKey, Run, RunComparison, RunProgress, Selection, Wishes};
use warp::http::StatusCode;
use warp::reply::Response;

use crate::api::Api;
use crate::call::Call;
use crate::json;
use crate::keys::Caller;
use crate::options::{self, DecodingForm};
use crate::params::{Params, shorten};
use crate::recordings::{PAGE_DEFAULT, PAGE_MAX, Reason};
use crate::reply::{self, Error, ErrorBody, Kind};
use crate::upload::Body;

/// The most ids that one run may name.
const IDS_MAX: usize = 1000;
/// The longest ladder of temperatures.
const TEMPERATURES_MAX: usize = 10;

/// A run: which recordings are transcribed again, how, and how far that is.
#[derive(Debug, Serialize, ToSchema)]
pub struct GenerationRun {
    /// The run's id.
    #[schema(value_type = String, format = Uuid)]
    pub id: Uuid,
    /// Whose recordings.
    #[schema(value_type = String)]
    pub tenant: Tenant,
    /// `queued`, `running`, `done`, `cancelled` or `failed`.
    pub status: &'static str,
    /// Why it failed.
    pub reason: Option<Reason>,
    /// When it was made. Recordings handed in later are not in it.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When the first recording was looked at.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// When the last of its work ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// Which recordings: what was asked for.
    pub selection: RunSelection,
    /// What is done otherwise than the recordings' own settings have it; what is null stays as it was.
    pub wishes: RunWishes,
    /// `auto`: readers see a new transcript once it is complete, unless more of its segments failed. `manual`: once it
    /// is activated.
    #[schema(value_type = String)]
    pub activation: Activation,
    /// Hours of audio requested in an hour, at most; null without a limit.
    pub rate: Option<f64>,
    /// Whether its generations are being activated.
    pub activating: bool,
    /// How far it is.
    pub progress: Progress,
    /// Where to ask again.
    pub url: String,
    /// Where the recordings are listed by how much they differ.
    pub compare_url: String,
}

/// Which recordings a run is about.
#[derive(Debug, Serialize, ToSchema)]
pub struct RunSelection {
    /// Handed in at this time or later.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Timestamp>,
    /// Handed in before this time.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
    /// These alone; empty for all.
    #[schema(value_type = Vec<String>)]
    pub ids: Vec<RecordingId>,
    /// Those whose readers saw what this model made.
    pub made_by: Option<String>,
    /// Those that stood there; empty for complete and failed ones.
    #[schema(value_type = Vec<String>)]
    pub status: Vec<Status>,
}

/// What a run does otherwise.
#[derive(Debug, Serialize, ToSchema)]
pub struct RunWishes {
    /// The model's name.
    pub model: Option<String>,
    /// ISO 639-1 code, or `auto`.
    pub language: Option<String>,
    /// `transcribe` or `translate`.
    #[schema(value_type = Option<String>)]
    pub task: Option<Task>,
    /// Names and spelling that the model should know.
    pub prompt: Option<String>,
    /// The ladder of temperatures.
    pub temperature: Option<Vec<f32>>,
    /// `mix` or `each`.
    #[schema(value_type = Option<String>)]
    pub channels: Option<Channels>,
    /// The options of decoding that change, by name; what is not there stays as it was.
    pub decoding: BTreeMap<String, String>,
}

/// How far a run is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Progress {
    /// The share of its audio that has ended, 0 to 1.
    pub share: f64,
    /// Recordings selected when it was made.
    pub selected: u64,
    /// Recordings of which a generation was requested.
    pub requested: u64,
    /// Those that are complete.
    pub complete: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that were cancelled.
    pub cancelled: u64,
    /// Those whose new transcript readers see now.
    pub visible: u64,
    /// Those that were activated as somebody had the whole run activated.
    pub activated: u64,
    /// Recordings skipped, by reason: `audio_gone`, `decoding_option`, `deleted`, `model_language`, `model_translate`,
    /// `not_admitted`, `too_large`, `unknown_model`.
    pub skipped: BTreeMap<String, u64>,
    /// Seconds of audio selected.
    pub audio_s: f64,
    /// Seconds of audio of what has ended.
    pub ended_audio_s: f64,
    /// Seconds of audio completed in a second; null before the first.
    pub speed: Option<f64>,
    /// Seconds until it will be done at that speed; null where that is not known.
    pub eta_s: Option<f64>,
}

/// What a run would be about, when only asked.
#[derive(Debug, Serialize, ToSchema)]
pub struct DryRun {
    /// Always true: nothing was made.
    pub dry_run: bool,
    /// Recordings that are selected.
    pub recordings: u64,
    /// Seconds of their audio.
    pub audio_s: f64,
}

/// One page of runs.
#[derive(Debug, Serialize, ToSchema)]
pub struct RunPage {
    /// The runs, the newest first.
    pub items: Vec<GenerationRun>,
    /// The `cursor` of the next page; null on the last one.
    pub next: Option<String>,
}

/// The body of a new run, for the document.
#[derive(Deserialize, ToSchema)]
#[allow(dead_code, reason = "it only describes the body")]
pub struct RunRequest {
    /// Whose recordings; by default the key's own. Another tenant takes an operator's key.
    tenant: Option<String>,
    /// Only recordings handed in at this time or later (RFC 3339).
    from: Option<String>,
    /// Only recordings handed in before this time.
    until: Option<String>,
    /// Only these recordings, up to 1000.
    ids: Option<Vec<String>>,
    /// Only recordings whose readers see what this model made.
    made_by: Option<String>,
    /// Only recordings that stand there; by default those that are `complete` or `failed`.
    status: Option<Vec<String>>,
    /// The model to use; by default each recording's own.
    model: Option<String>,
    /// ISO 639-1 code, or `auto`; by default each recording's own.
    language: Option<String>,
    /// `transcribe` or `translate`; by default each recording's own.
    task: Option<String>,
    /// Names and spelling that the model should know.
    prompt: Option<String>,
    /// A ladder of temperatures from 0 to 1.
    temperature: Option<Vec<f32>>,
    /// `mix` or `each`.
    channels: Option<String>,
    #[serde(flatten)]
    decoding: DecodingForm,
    /// `auto` (default) or `manual`.
    activation: Option<String>,
    /// Hours of audio requested in an hour, at most.
    rate: Option<f64>,
    /// Only tell what is selected.
    dry_run: Option<bool>,
}

/// Transcribe recordings again
///
/// Makes a run: a new generation of each selected recording, with another model or other settings, on the `replay`
/// lane. Live audio goes first. Readers go on seeing what they see until a new transcript is complete (`auto`), or
/// until it is activated (`manual`). What is left out of the body stays as each recording's own settings have it. With an
/// operator's key it may be of another `tenant`.
#[utoipa::path(
    post, path = "/v1/generations", tag = "generations", operation_id = "create_run",
    request_body(content = RunRequest, description = "Which recordings and how; every field may be left out"),
    responses(
        (status = 202, description = "Made; ask `url` for its progress", body = GenerationRun),
        (status = 200, description = "With `dry_run`: what would be in it", body = DryRun),
        (status = 400, description = "A field cannot be used", body = ErrorBody),
        (status = 403, description = "Another tenant, and not an operator's key", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 503, description = "The queue or the database does not answer", body = ErrorBody),
    )
)]
pub async fn create(api: Api, call: Call, body: Body) -> Result<Response, Error> {
    let caller = api.keys.caller(&call.headers).await?;
    let mut params = json::params(&call, body).await?;
    let models = api.ask(api.log.models()).await?;
    let new = NewRun {
        tenant: read_tenant(&mut params, &caller)?,
        selection: read_selection(&mut params),
        wishes: read_wishes(&mut params, &models),
        activation: params.parsed("activation").unwrap_or_default(),
        rate: read_rate(&mut params),
    };
    let dry_run = params.parsed::<bool>("dry_run").unwrap_or_default();
    params.finish()?;
    if dry_run {
        let selected = api.views.selected(&new.tenant, &new.selection).await?;
        let told = DryRun { dry_run, recordings: selected.recordings, audio_s: seconds(selected.audio_ms) };
        return Ok(reply::json(StatusCode::OK, &told));
    }
    let run = api.views.create_run(&new).await?;
    tracing::info!(run = %run.id, tenant = %run.tenant, recordings = run.selected.recordings, "run made");
    let run = GenerationRun::of(run, &RunProgress::default());
    let mut response = reply::json(StatusCode::ACCEPTED, &run);
    reply::set_header(&mut response, "location", &run.url);
    Ok(response)
}

/// Whose runs are meant: the caller's own, or for operators those of whom they name.
fn read_tenant(params: &mut Params, caller: &Caller) -> Result<Tenant, Error> {
    let named = params.parsed::<Tenant>("tenant").unwrap_or_else(|| caller.tenant.clone());
    if named == caller.tenant || caller.is_operator {
        return Ok(named);
    }
    let message = format!(
        "`tenant` names {named}, and this key is of {}: leave it out, or use an operator's key (`voiceforge keys create \
         NAME --operator` makes one)",
        caller.tenant
    );
    Err(Error::new(Kind::Forbidden, "operator_needed", message))
}

fn read_selection(params: &mut Params) -> Selection {
    let (ids, status) = (params.list("ids"), params.list("status"));
    if ids.len() > IDS_MAX {
        params.problem("ids", format!("has {} ids; at most {IDS_MAX} are taken", ids.len()));
    }
    let selection = Selection {
        from: params.parsed("from"),
        until: params.parsed("until"),
        ids: each(params, "ids", ids),
        model: params.text("made_by"),
        status: each(params, "status", status),
    };
    let open = selection.status.iter().find(|status| !is_over(**status));
    if let Some(open) = open {
        params.problem(
            "status",
            format!("names {open}; only complete, failed and cancelled recordings can be transcribed again"),
        );
    }
    if let (Some(from), Some(until)) = (selection.from, selection.until)
        && from >= until
    {
        params.problem("until", "is not after `from`, so nothing is between");
    }
    selection
}

fn is_over(status: Status) -> bool {
    matches!(status, Status::Complete | Status::Failed | Status::Cancelled)
}

/// Reads every value of a list; the first that cannot be read is a problem.
fn each<T: std::str::FromStr<Err: std::fmt::Display>>(
    params: &mut Params,
    name: &'static str,
    texts: Vec<String>,
) -> Vec<T> {
    let values: Result<Vec<T>, T::Err> = texts.iter().map(|text| text.parse()).collect();
    values.unwrap_or_else(|error| {
        params.problem(name, format!("cannot be used: {error}"));
        Vec::new()
    })
}

fn read_wishes(params: &mut Params, models: &BTreeMap<String, ModelNote>) -> Wishes {
    let model = options::read_model(params, models);
    let language = params.text("language").and_then(|language| match &*language {
        "auto" => Some(language),
        _ => options::check_language(params, &language, models, model.as_deref()),
    });
    Wishes {
        language,
        task: params.parsed("task"),
        prompt: options::read_prompt(params),
        temperatures: read_temperatures(params),
        channels: params.parsed("channels"),
        decoding: options::read_decoding(params),
        model,
    }
}

fn read_temperatures(params: &mut Params) -> Option<Vec<f32>> {
    let texts = params.list("temperature");
    let ladder: Option<Vec<f32>> = texts
        .iter()
        .flat_map(|text| text.split(','))
        .map(|text| text.trim().parse().ok().filter(|t| (0.0..=1.0).contains(t)))
        .collect();
    if ladder.as_ref().is_none_or(|ladder| ladder.len() > TEMPERATURES_MAX) {
        let text = shorten(&texts.join(","));
        params.problem(
            "temperature",
            format!("is {text:?}; expected up to {TEMPERATURES_MAX} numbers from 0 to 1"),
        );
    }
    ladder.filter(|ladder| !ladder.is_empty())
}

fn read_rate(params: &mut Params) -> Option<f64> {
    let rate = params.parsed::<f64>("rate")?;
    if !(rate.is_finite() && rate > 0.0) {
        params.problem("rate", format!("is {rate}; expected hours of audio in an hour, above 0"));
    }
    Some(rate)
}

/// List runs
///
/// The newest first, in pages.
#[utoipa::path(
    get, path = "/v1/generations", tag = "generations", operation_id = "list_runs",
    params(
        ("tenant" = Option<String>, Query, description = "Whose; by default the key's own. Another takes an operator's key"),
        ("limit" = Option<u32>, Query, description = "How many a page has, 1 to 200; by default 50"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, description = "A page", body = RunPage),
        (status = 400, description = "A parameter cannot be used", body = ErrorBody),
        (status = 403, description = "Another tenant, and not an operator's key", body = ErrorBody),
        (status = 503, description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn list(api: Api, call: Call) -> Result<Response, Error> {
    let caller = api.keys.caller(&call.headers).await?;
    let mut params = call.params();
    let tenant = read_tenant(&mut params, &caller)?;
    let (limit, cursor) = read_page(params)?;
    let page = api.views.runs(&tenant, cursor.as_ref(), limit).await?;
    let mut items = Vec::new();
    for run in page.items {
        let progress = api.views.run_progress(run.id).await?;
        items.push(GenerationRun::of(run, &progress));
    }
    Ok(reply::json(StatusCode::OK, &RunPage { items, next: page.next.map(|next| next.to_string()) }))
}

/// Get a run
///
/// With its progress.
#[utoipa::path(
    get, path = "/v1/generations/{id}", tag = "generations", operation_id = "get_run",
    params(("id" = String, Path, description = "Id of the run")),
    responses(
        (status = 200, description = "The run as it stands", body = GenerationRun),
        (status = 404, description = "There is none, or it is another tenant's", body = ErrorBody),
        (status = 503, description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn get(api: Api, id: String, call: Call) -> Result<Response, Error> {
    let caller = api.keys.caller(&call.headers).await?;
    call.params().finish()?;
    let run = find(&api, &caller, &id).await?;
    tell(&api, StatusCode::OK, run).await
}

/// Cancel a run
///
/// It requests nothing more, and what it requested is cancelled unless it has ended. What is complete stays.
#[utoipa::path(
    post, path = "/v1/generations/{id}/cancel", tag = "generations", operation_id = "cancel_run",
    params(("id" = String, Path, description = "Id of the run")),
    responses(
        (status = 202, description = "It is being cancelled", body = GenerationRun),
        (status = 404, description = "There is none, or it is another tenant's", body = ErrorBody),
        (status = 409, description = "It has ended", body = ErrorBody),
        (status = 503, description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn cancel(api: Api, id: String, call: Call) -> Result<Response, Error> {
    let caller = api.keys.caller(&call.headers).await?;
    call.params().finish()?;
    let run = find(&api, &caller, &id).await?;
    match api.views.cancel_run(&run.tenant, run.id).await? {
        Some(run) => tell(&api, StatusCode::ACCEPTED, run).await,
        None => {
            let message = format!("run {} is {}; there is nothing left to cancel", run.id, run.state);
            Err(Error::new(Kind::Conflict, "already_ended", message).finally())
        }
    }
}

/// Activate the generations of a run
///
/// Readers see each generation of the run that is complete; those that are still to come as soon as they are.
#[utoipa::path(
    post, path = "/v1/generations/{id}/activate", tag = "generations", operation_id = "activate_run",
    params(("id" = String, Path, description = "Id of the run")),
    responses(
        (status = 202, description = "They are being activated", body = GenerationRun),
        (status = 404, description = "There is none, or it is another tenant's", body = ErrorBody),
        (status = 503, description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn activate(api: Api, id: String, call: Call) -> Result<Response, Error> {
    let caller = api.keys.caller(&call.headers).await?;
    call.params().finish()?;
    let run = find(&api, &caller, &id).await?;
    match api.views.activate_run(&run.tenant, run.id).await? {
        Some(run) => tell(&api, StatusCode::ACCEPTED, run).await,
        None => Err(nothing(&id)),
    }
}

/// One page of how the generations of a run differ from what readers saw before.
#[derive(Debug, Serialize, ToSchema)]
pub struct RunComparisonPage {
    /// The recordings, those that differ most first.
    pub items: Vec<RecordingDifference>,
    /// The `cursor` of the next page; null on the last one.
    pub next: Option<String>,
}

/// How one recording's new generation differs.
#[derive(Debug, Serialize, ToSchema)]
pub struct RecordingDifference {
    /// The recording.
    #[schema(value_type = String, format = Uuid)]
    pub recording_id: RecordingId,
    /// The name the sender gave it.
    pub name: Option<String>,
    /// The generation that readers saw when the new one was requested.
    pub from: u32,
    /// The new generation.
    pub to: u32,
    /// The generation that readers see now.
    pub visible: Option<u32>,
    /// Words of the first.
    pub from_words: u64,
    /// Words of the second.
    pub to_words: u64,
    /// Words replaced.
    pub replaced: u64,
    /// Words only in the second.
    pub inserted: u64,
    /// Words only in the first.
    pub deleted: u64,
    /// Changed words over the words of the first.
    pub difference: f64,
    /// Where the words are compared.
    pub compare_url: String,
}

impl From<RunComparison> for RecordingDifference {
    fn from(row: RunComparison) -> RecordingDifference {
        let RunComparison { recording, baseline, generation, .. } = row;
        RecordingDifference {
            compare_url: format!("/v1/recordings/{recording}/compare?from={baseline}&to={generation}"),
            recording_id: recording,
            name: row.name,
            from: baseline,
            to: generation,
            visible: row.visible,
            from_words: row.baseline_words,
            to_words: row.words,
            replaced: row.replaced,
            inserted: row.inserted,
            deleted: row.deleted,
            difference: row.difference,
        }
    }
}

/// Compare the generations of a run
///
/// With what readers saw before, recording by recording, those that differ most first. A recording is listed once its
/// new generation is complete.
#[utoipa::path(
    get, path = "/v1/generations/{id}/compare", tag = "generations", operation_id = "compare_run",
    params(
        ("id" = String, Path, description = "Id of the run"),
        ("limit" = Option<u32>, Query, description = "How many a page has, 1 to 200; by default 50"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, description = "A page", body = RunComparisonPage),
        (status = 400, description = "A parameter cannot be used", body = ErrorBody),
        (status = 404, description = "There is no such run, or it is another tenant's", body = ErrorBody),
        (status = 503, description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn compare(api: Api, id: String, call: Call) -> Result<Response, Error> {
    let caller = api.keys.caller(&call.headers).await?;
    let (limit, cursor) = read_page(call.params())?;
    let run = find(&api, &caller, &id).await?;
    let page = api.views.run_comparisons(run.id, cursor.as_ref(), limit).await?;
    let items = page.items.into_iter().map(RecordingDifference::from).collect();
    Ok(reply::json(
        StatusCode::OK,
        &RunComparisonPage { items, next: page.next.map(|next| next.to_string()) },
    ))
}

fn read_page<const LIST: char>(mut params: Params) -> Result<(u32, Option<PageKey<LIST>>), Error> {
    let limit = params.number("limit", 1..=PAGE_MAX).unwrap_or(PAGE_DEFAULT);
    let cursor = params.parsed::<PageKey<LIST>>("cursor");
    params.finish()?;
    Ok((limit, cursor))
}

async fn find(api: &Api, caller: &Caller, id: &str) -> Result<Run, Error> {
    let Ok(uuid) = Uuid::try_parse(id) else { return Err(nothing(id)) };
    let run = match caller.is_operator {
        true => api.views.any_run(uuid).await?,
        false => api.views.run(&caller.tenant, uuid).await?,
    };
    run.ok_or_else(|| nothing(id))
}

fn nothing(id: &str) -> Error {
    Error::not_found(format!("the run {:?}", shorten(id)))
}

async fn tell(api: &Api, status: StatusCode, run: Run) -> Result<Response, Error> {
    let progress = api.views.run_progress(run.id).await?;
    Ok(reply::json(status, &GenerationRun::of(run, &progress)))
}

impl GenerationRun {
    fn of(run: Run, progress: &RunProgress) -> GenerationRun {
        let Run { selection, wishes, .. } = &run;
        GenerationRun {
            status: run.state.as_str(),
            reason: run.reason.clone().map(|cause| Reason { code: cause.code, message: cause.message }),
            created_at: run.created_at,
            started_at: run.started_at,
            ended_at: run.ended_at,
            selection: RunSelection {
                from: selection.from,
                until: selection.until,
                ids: selection.ids.clone(),
                made_by: selection.model.clone(),
                status: selection.status.clone(),
            },
            wishes: RunWishes {
                model: wishes.model.clone(),
                language: wishes.language.clone(),
                task: wishes.task,
                prompt: wishes.prompt.clone(),
                temperature: wishes.temperatures.clone(),
                channels: wishes.channels,
                decoding: wishes.decoding.clone(),
            },
            activation: run.activation,
            rate: run.rate,
            activating: run.activating,
            progress: Progress::of(&run, progress, events::now()),
            url: format!("/v1/generations/{}", run.id),
            compare_url: format!("/v1/generations/{}/compare", run.id),
            id: run.id,
            tenant: run.tenant,
        }
    }
}

impl Progress {
    fn of(run: &Run, progress: &RunProgress, now: Timestamp) -> Progress {
        let elapsed_s = run
            .started_at
            .map_or(0.0, |started_at| run.ended_at.unwrap_or(now).duration_since(started_at).as_secs_f64());
        let speed =
            (progress.complete_ms > 0 && elapsed_s > 0.0).then(|| seconds(progress.complete_ms) / elapsed_s);
        let left_ms = run.selected.audio_ms.saturating_sub(progress.ended_ms);
        let share = match (run.ended_at, run.selected.audio_ms) {
            (Some(_), _) => 1.0,
            (None, 0) => 0.0,
            (None, all_ms) => (progress.ended_ms as f64 / all_ms as f64).min(1.0),
        };
        Progress {
            share: (share * 1000.0).round() / 1000.0,
            selected: run.selected.recordings,
            requested: progress.requested,
            complete: progress.complete,
            failed: progress.failed,
            cancelled: progress.cancelled,
            visible: progress.visible,
            activated: progress.activated,
            skipped: progress.skipped.clone(),
            audio_s: seconds(run.selected.audio_ms),
            ended_audio_s: seconds(progress.ended_ms),
            speed,
            eta_s: speed.filter(|_| run.ended_at.is_none()).map(|speed| seconds(left_ms) / speed),
        }
    }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}
