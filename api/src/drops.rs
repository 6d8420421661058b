//! A drop by HTTP: taken in durably, found again by its id, and waited for.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use events::{Cause, Manifest, RecordingId, Tenant};
use futures::FutureExt;
use service::store::{Key, StoreError};
use service::telemetry::TraceContext;
use streams::ModelNote;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;
use views::RecordingRow;

use crate::api::Api;
use crate::call::Call;
use crate::keys::Caller;
use crate::metrics;
use crate::options::{Options, printable_name};
use crate::params::{Params, shorten};
use crate::reply::{Error, Kind};
use crate::upload::{self, Body, Received, Takes};

/// Turns the fields of an upload into [`Options`] and whatever else its route wants; `models` are those at hand.
pub type ReadOptions<T> = fn(
    Params,
    headers: &warp::http::HeaderMap,
    models: &BTreeMap<String, ModelNote>,
) -> Result<(Options, T), Error>;

/// A drop that was taken in: it is in the queue, and would outlive the queue.
#[derive(Debug)]
pub struct Taken<T> {
    /// What stands beside its audio.
    pub manifest: Manifest,
    /// What the route wanted.
    pub more: T,
}

/// Takes in a drop: audio, then manifest, both durable, then the queue.
///
/// It runs in a task of its own, so that a client that goes away after its last byte leaves a whole drop behind and
/// not half of one.
///
/// # Errors
/// As the client should read them. Then nothing stays behind, but for a queue that does not answer: whether the drop
/// is in it nobody knows, so it stays and is handed in again later.
pub async fn take_in<T: Send + 'static>(
    api: &Api,
    caller: &Caller,
    call: Call,
    body: Body,
    takes: Takes,
    read: ReadOptions<T>,
) -> Result<Taken<T>, Error> {
    let (api, tenant) = (api.clone(), caller.tenant.clone());
    let work = async move {
        let _slot = api.uploads.try_acquire().map_err(|_| {
            metrics::refused("too_many_uploads".to_owned());
            Error::busy(
                "too_many_uploads",
                "too many uploads are under way; try again shortly",
                Duration::from_secs(2),
            )
        })?;
        let drop = Uuid::new_v4().simple().to_string();
        let audio = key(&Manifest::audio_key(&drop))?;
        // Boxed, because the compiler cannot see through this many borrows that the task may move between threads.
        let received = upload::receive(&api.store, &audio, &call, body, takes, &api.limits).boxed().await?;
        let bytes = received.stored.size;
        let taken = match prepare(&api, &tenant, &call, &drop, received, read).boxed().await {
            Ok((manifest, more)) => hand_in(&api, &manifest).await.map(|()| Taken { manifest, more }),
            Err(error) => Err((error, Kept::Nothing)),
        };
        match taken {
            Ok(taken) => {
                metrics::taken_in(taken.manifest.lane, bytes);
                tracing::info!(drop, bytes, lane = %taken.manifest.lane, %tenant, "drop taken in");
                Ok(taken)
            }
            Err((error, Kept::Drop)) => Err(error),
            Err((error, Kept::Nothing)) => {
                upload::discard(&api.store, &audio).await;
                upload::discard(&api.store, &key(&Manifest::key(&drop))?).await;
                Err(error)
            }
        }
    };
    tokio::spawn(work).await.map_err(Error::internal)?
}

/// What stays of a drop that was not taken in.
enum Kept {
    /// It may be in the queue, so it must stay.
    Drop,
    Nothing,
}

/// Reads what is asked for and writes the manifest.
async fn prepare<T>(
    api: &Api,
    tenant: &Tenant,
    call: &Call,
    drop: &str,
    received: Received,
    read: ReadOptions<T>,
) -> Result<(Manifest, T), Error> {
    let Received { stored, file_name, params } = received;
    let models = api.ask(api.log.models()).await?;
    let (mut options, more) = read(params, &call.headers, &models)?;
    // A form tells its lane last, so this is the first time to ask whether there is room in it.
    api.pressure.check(api, options.lane).await?;
    let fields = &mut options.fields;
    if let Some(name) = file_name.as_deref().and_then(printable_name) {
        fields.entry("name".to_owned()).or_insert(name);
    }
    fields.insert("tenant".to_owned(), tenant.to_string());
    fields.insert("trace".to_owned(), TraceContext::follow(call.header("traceparent")).to_string());
    let manifest = Manifest::new(drop, options.lane, &stored.sha256_hex(), options.fields, events::now());
    api.store.put_bytes(&key(&Manifest::key(drop))?, manifest.to_json().into()).await?;
    Ok((manifest, more))
}

async fn hand_in(api: &Api, manifest: &Manifest) -> Result<(), (Error, Kept)> {
    let fields: Vec<(String, Bytes)> =
        manifest.fields.iter().map(|(name, value)| (name.clone(), Bytes::from(value.clone()))).collect();
    let handed_in = api.ask(api.log.submit(manifest.lane, &fields)).await;
    handed_in.map(drop).map_err(|error| match error.kind {
        Kind::Down => {
            let message = format!(
                "the queue does not answer just now; the audio is kept as drop {} and goes on once the queue is back. Sending it again does no harm",
                manifest.drop
            );
            (Error { message, ..error }, Kept::Drop)
        }
        _ => (error, Kept::Nothing),
    })
}

/// What is known under an id.
#[derive(Debug)]
pub enum Found {
    /// A recording.
    Recording(Box<RecordingRow>),
    /// A drop whose recording is not to be read yet.
    Queued {
        /// The drop's id.
        drop: String,
        /// What it was handed in with; `None` for drops that came by another way.
        manifest: Option<Manifest>,
        /// The recording it became, if it got that far.
        recording: Option<RecordingId>,
    },
    /// A drop that was refused.
    Rejected {
        /// The drop's id.
        drop: String,
        /// What it was handed in with.
        manifest: Option<Manifest>,
        /// Why.
        cause: Cause,
    },
}

impl Found {
    /// Whether nothing more will happen by itself.
    pub fn is_final(&self) -> bool {
        match self {
            Found::Recording(row) => row.state.status.is_final(),
            Found::Queued { .. } => false,
            Found::Rejected { .. } => true,
        }
    }
}

/// Finds what the caller may see under the id of a recording or a drop.
///
/// # Errors
/// 404 when there is nothing, or it is another tenant's.
pub async fn find(api: &Api, caller: &Caller, id: &str) -> Result<Found, Error> {
    let own = |row: RecordingRow| match row.tenant == caller.tenant {
        true => Ok(Found::Recording(Box::new(row))),
        false => Err(nothing(id)),
    };
    if let Ok(recording) = id.parse::<RecordingId>()
        && let Some(row) = api.views.recording(recording).await?
    {
        return own(row);
    }
    if let Some(row) = api.views.recording_by_drop(id).await? {
        return own(row);
    }
    let Some(manifest_key) = Key::parse(&Manifest::key(id)).ok() else { return Err(nothing(id)) };
    let manifest = read_manifest(api, &manifest_key).await?;
    let outcome = api.ask(api.log.drop_outcome(id)).await?;
    let recording = outcome.as_ref().and_then(|outcome| outcome.recording);
    if let Some(recording) = recording
        && let Some(row) = api.views.recording(recording).await?
    {
        return own(row);
    }
    // What is not in the read side yet has only its manifest to say whose it is. Drops of other ways have none: their
    // rows come within the second.
    let owner = manifest.as_ref().and_then(|manifest| manifest.fields.get("tenant"));
    if owner.is_none_or(|owner| owner != caller.tenant.as_str()) {
        return Err(nothing(id));
    }
    let drop = id.to_owned();
    Ok(match outcome.and_then(|outcome| outcome.cause) {
        Some(cause) => Found::Rejected { drop, manifest, cause },
        None => Found::Queued { drop, manifest, recording },
    })
}

/// The error for an id under which the caller has nothing.
pub fn nothing(id: &str) -> Error {
    Error::not_found(format!("the recording {:?}", shorten(id)))
}

/// Reads what stands beside the audio of a drop, if it is there and makes sense.
///
/// # Errors
/// When the store does not answer.
pub async fn read_manifest(api: &Api, key: &Key) -> Result<Option<Manifest>, Error> {
    match api.store.get_bytes(key, Manifest::BYTES_MAX).await {
        Ok(json) => Ok(Manifest::from_json(&json).ok()),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Waits until nothing more will happen to what was found, `limit` is over, or the program is ending; returns it as it
/// stands then.
///
/// # Errors
/// What the database says, if it will not pass.
pub async fn wait(api: &Api, found: Found, limit: Duration) -> Result<Found, Error> {
    let deadline = Instant::now() + limit.min(api.limits.wait);
    tokio::select! {
        settled = settle(api, found, deadline) => settled,
        () = api.ending.cancelled() => Err(Error {
            message: "the server is restarting; the work goes on, ask again shortly".to_owned(),
            ..Error::down("the server", "a request waited for its result when the program was told to end")
        }),
    }
}

async fn settle(api: &Api, found: Found, deadline: Instant) -> Result<Found, Error> {
    let found = match found {
        Found::Queued { drop, manifest, recording: None } => admitted(api, drop, manifest, deadline).await,
        other => other,
    };
    let recording = match &found {
        Found::Recording(row) => row.id,
        Found::Queued { recording: Some(recording), .. } => *recording,
        Found::Queued { .. } | Found::Rejected { .. } => return Ok(found),
    };
    let rest = deadline.saturating_duration_since(Instant::now());
    Ok(match api.views.wait(recording, rest).await? {
        Some(row) => Found::Recording(Box::new(row)),
        None => found,
    })
}

/// Waits until a drop is a recording or refused. Trouble with the queue is waited out: whoever waits has time.
async fn admitted(api: &Api, drop: String, manifest: Option<Manifest>, deadline: Instant) -> Found {
    let mut pause = Duration::from_millis(10);
    loop {
        match timeout_at(deadline, api.log.drop_outcome(&drop)).await {
            Ok(Ok(Some(outcome))) => {
                if let Some(cause) = outcome.cause {
                    return Found::Rejected { drop, manifest, cause };
                }
                if outcome.recording.is_some() {
                    return Found::Queued { drop, manifest, recording: outcome.recording };
                }
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::debug!(%error, drop, "cannot ask what became of a drop"),
            Err(_) => return Found::Queued { drop, manifest, recording: None },
        }
        if Instant::now() + pause > deadline {
            return Found::Queued { drop, manifest, recording: None };
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(Duration::from_millis(250));
    }
}

fn key(text: &str) -> Result<Key, Error> {
    Key::parse(text).map_err(Error::internal)
}
