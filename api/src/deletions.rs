//! Deleting: a recording, or a drop that is none yet, is marked at once and erased soon after.

use events::{Deletion, Manifest, RecordingId};
use jiff::Timestamp;
use serde::Serialize;
use service::store::Key;
use streams::Message;
use transcript::Status;
use utoipa::ToSchema;
use views::RecordingRow;
use warp::http::StatusCode;
use warp::reply::Response;

use crate::api::Api;
use crate::call::Call;
use crate::drops;
use crate::keys::Caller;
use crate::reply::{self, Error, ErrorBody};

/// What becomes of something deleted.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deleted {
    /// The recording's id; null for a drop that was none yet.
    #[schema(value_type = Option<String>, format = Uuid)]
    pub id: Option<RecordingId>,
    /// The id of the drop it came from.
    pub drop_id: Option<String>,
    /// Always `deleted`: nobody reads it any more, and nothing new is made of it.
    #[schema(value_type = String)]
    pub status: Status,
    /// When that was asked for first.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub requested_at: Option<Timestamp>,
}

/// What is to be deleted.
enum Target {
    /// A recording that is still there.
    Recording(Deletion),
    /// A recording that is deleted already.
    Gone(Box<RecordingRow>),
    /// A drop that nobody has taken in yet.
    Drop(String),
}

/// Delete a recording
///
/// By its own id or by the id of its drop, whatever stage it is in. From the answer on nobody reads it and nothing more
/// is made of it; its audio, its text and its events are erased from store, queues, log and archive within moments.
/// 202 until all of it is erased, 204 from then on; asking again does no harm. Backups and write-ahead logs age out as
/// the operator set them up.
#[utoipa::path(
    delete, path = "/v1/recordings/{id}", tag = "recordings", operation_id = "delete_recording",
    params(("id" = String, Path, description = "Id of the recording or of its drop")),
    responses(
        (status = 202, description = "Deleted; it is being erased", body = Deleted),
        (status = 204, description = "Deleted, and everything is erased"),
        (status = 404, description = "There is none, or it is another tenant's", body = ErrorBody),
        (status = 503, description = "The queue, the database or the store does not answer", body = ErrorBody),
    )
)]
pub async fn delete(api: Api, id: String, call: Call) -> Result<Response, Error> {
    let caller = api.keys.caller(&call.headers).await?;
    call.params().finish()?;
    match find(&api, &caller, &id).await? {
        Target::Recording(deletion) => delete_recording(&api, deletion).await,
        Target::Gone(row) => tell(&api, row.id, row.drop_id).await,
        Target::Drop(drop) => delete_drop(&api, &caller, drop).await,
    }
}

async fn find(api: &Api, caller: &Caller, id: &str) -> Result<Target, Error> {
    // A row may have been told of later facts before the one that names its drop.
    let own = |row: RecordingRow, drop: Option<String>| match row.tenant == caller.tenant {
        true if row.state.status == Status::Deleted => Ok(Target::Gone(Box::new(row))),
        true => Ok(Target::Recording(Deletion {
            recording: row.id,
            tenant: row.tenant,
            submitted_at: row.submitted_at,
            drop_id: row.drop_id.or(drop),
            by: "api".to_owned(),
        })),
        false => Err(drops::nothing(id)),
    };
    let named = id.parse::<RecordingId>().ok();
    if let Some(recording) = named
        && let Some(row) = api.views.recording(recording).await?
    {
        return own(row, None);
    }
    if let Some(row) = api.views.recording_by_drop(id).await? {
        return own(row, None);
    }
    let outcome = api.ask(api.log.drop_outcome(id)).await?;
    // What a duplicate names came of another drop.
    let own_drop = outcome.as_ref().filter(|outcome| !outcome.duplicate).map(|_| id.to_owned());
    let of_drop = outcome.and_then(|outcome| outcome.recording).map(|recording| (recording, own_drop));
    for (recording, drop) in named.map(|recording| (recording, None)).into_iter().chain(of_drop) {
        let unfolded = find_unfolded(api, caller, recording).await?;
        // Redis may have lost the fact that names the drop, while the read side has it or is about to.
        let unfolded =
            unfolded.map(|found| Deletion { drop_id: found.drop_id.or_else(|| drop.clone()), ..found });
        // Folded while we looked into the log, or as far as the fact that tells of its drop.
        if unfolded.as_ref().is_none_or(|deletion| deletion.drop_id.is_none())
            && let Some(row) = api.views.recording(recording).await?
        {
            return own(row, drop);
        }
        if let Some(deletion) = unfolded {
            return Ok(Target::Recording(deletion));
        }
    }
    let manifest = match Key::parse(&Manifest::key(id)) {
        Ok(key) => drops::read_manifest(api, &key).await?,
        Err(_) => None,
    };
    let owner = manifest.and_then(|manifest| manifest.fields.get("tenant").cloned());
    let owner = match owner {
        Some(owner) => Some(owner),
        None => api.ask(api.log.waiting_drop(id)).await?,
    };
    if api.ask(api.log.is_drop_deleted(id, &caller.tenant)).await? {
        return Ok(Target::Drop(id.to_owned()));
    }
    let default = events::Tenant::default();
    let owner = owner.map(|owner| if owner.is_empty() { default.to_string() } else { owner });
    match owner {
        Some(owner) if owner == caller.tenant.as_str() => Ok(Target::Drop(id.to_owned())),
        _ => Err(drops::nothing(id)),
    }
}

/// Facts of a shard's log looked at in one call.
const FACTS_PAGE: usize = 500;
/// Pages looked at: beyond that the read side is so far behind that the caller is asked to come again.
const PAGES_MAX: usize = 200;

/// Looks for a recording of the caller's that is in the log and not in the read side yet.
async fn find_unfolded(
    api: &Api,
    caller: &Caller,
    recording: RecordingId,
) -> Result<Option<Deletion>, Error> {
    let shard = recording.shard(api.log.shards());
    let mut after = api.views.archived_through(shard).await?;
    for _ in 0..PAGES_MAX {
        let page = api.ask(api.log.facts(shard, after, FACTS_PAGE)).await?;
        for entry in &page {
            let Ok(events::Decoded::Known(envelope)) =
                events::decode(entry.field("event").map_or(&[][..], |json| json))
            else {
                continue;
            };
            if envelope.recording == recording {
                let drop_id = match envelope.event {
                    events::Event::RecordingAdmitted(admitted) => Some(admitted.drop_id),
                    events::Event::RecordingRejected(rejected) => Some(rejected.drop_id),
                    events::Event::RecordingDeleted(deleted) => deleted.drop_id,
                    _ => None,
                };
                let (tenant, submitted_at) = (envelope.tenant, envelope.submitted_at);
                let deletion = Deletion { recording, tenant, submitted_at, drop_id, by: "api".to_owned() };
                return Ok(Some(deletion).filter(|deletion| deletion.tenant == caller.tenant));
            }
        }
        match page.last().and_then(|entry| entry.text("seq")?.parse().ok()) {
            Some(last) if page.len() == FACTS_PAGE => after = last,
            _ => return Ok(None),
        }
    }
    Err(Error::down("the read side", "too many facts are not folded yet to look through them"))
}

/// Notes the deletion where the eraser looks, and marks the recording in its shard.
async fn delete_recording(api: &Api, deletion: Deletion) -> Result<Response, Error> {
    api.views.request_erasure(&deletion).await?;
    let fact = deletion.envelope(api.log.shards());
    let message = Message::fact(&fact).map_err(Error::internal)?;
    api.ask(api.log.delete(fact.shard, deletion.recording, &message)).await?;
    tracing::info!(recording = %deletion.recording, tenant = %deletion.tenant, "deleted");
    tell(api, deletion.recording, deletion.drop_id).await
}

async fn tell(api: &Api, recording: RecordingId, drop_id: Option<String>) -> Result<Response, Error> {
    let erasure = api.views.erasure(recording).await?;
    if erasure.as_ref().is_some_and(|erasure| erasure.completed_at.is_some()) {
        return Ok(reply::nothing());
    }
    let requested_at = erasure.map(|erasure| erasure.requested_at);
    let deleted = Deleted { id: Some(recording), drop_id, status: Status::Deleted, requested_at };
    Ok(reply::json(StatusCode::ACCEPTED, &deleted))
}

/// Marks a drop, removes what it has in the store, and deletes the recording that it became meanwhile.
async fn delete_drop(api: &Api, caller: &Caller, drop: String) -> Result<Response, Error> {
    // Should Redis forget the mark, or a fact of the drop be on its way to the database, the keeper knows.
    api.views.note_deleted_drop(&drop, &caller.tenant).await?;
    api.ask(api.log.mark_drop_deleted(&drop, &caller.tenant)).await?;
    // The manifest first: without it nobody hands the drop in again.
    for key in [Manifest::key(&drop), Manifest::audio_key(&drop)] {
        if let Ok(key) = Key::parse(&key) {
            api.store.delete(&key).await?;
        }
    }
    tracing::info!(drop, tenant = %caller.tenant, "a drop was deleted");
    // Whoever takes the drop in tells what became of it and then looks for the mark: one of us two sees the other.
    let outcome = api.ask(api.log.drop_outcome(&drop)).await?;
    if let Some(recording) =
        outcome.filter(|outcome| !outcome.duplicate).and_then(|outcome| outcome.recording)
    {
        if let Some(deletion) = find_unfolded(api, caller, recording).await? {
            let deletion = Deletion { drop_id: deletion.drop_id.or(Some(drop)), ..deletion };
            return delete_recording(api, deletion).await;
        }
        if let Some(row) = api.views.recording(recording).await?.filter(|row| row.tenant == caller.tenant) {
            let (tenant, submitted_at) = (row.tenant, row.submitted_at);
            let by = "api".to_owned();
            let deletion = Deletion { recording, tenant, submitted_at, drop_id: Some(drop), by };
            return delete_recording(api, deletion).await;
        }
    }
    let deleted =
        Deleted { id: None, drop_id: Some(drop), status: Status::Deleted, requested_at: Some(events::now()) };
    Ok(reply::json(StatusCode::ACCEPTED, &deleted))
}
