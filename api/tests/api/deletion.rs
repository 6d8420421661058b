//! Deleting by HTTP, wherever a recording stands.

use bytes::Bytes;
use events::{Decoded, Envelope, Event, Lane, Tenant};
use serde_json::Value;
use streams::{Admit, DropOutcome, Log, Message, Source, keys};
use views::Entry;
use warp::http::StatusCode;

use crate::support::*;

async fn delete(world: &World, id: &str) -> Reply {
    world.request("DELETE", &format!("/v1/recordings/{id}")).send().await
}

/// The deletions in the log, of all shards.
fn deletions(world: &World) -> Vec<Envelope> {
    let facts = (0..4).flat_map(|shard| world.log.facts(events::Shard(shard)));
    let known = facts.filter_map(|fact| match events::decode(fact.field("event")?) {
        Ok(Decoded::Known(envelope)) => Some(Envelope { seq: fact.text("seq")?.parse().ok(), ..*envelope }),
        _ => None,
    });
    known.filter(|envelope| matches!(envelope.event, Event::RecordingDeleted(_))).collect()
}

#[test]
fn a_recording_is_deleted_by_any_of_its_ids_and_again() {
    with_world(|world| async move {
        let dropped = world.post_form("/v1/recordings", b"RIFF", &[]).await.json();
        let admitted = world.complete_next(Lane::Batch, &["a secret"]).await;
        let id = admitted.recording.to_string();
        let first = delete(&world, dropped["drop_id"].as_str().unwrap()).await;
        assert_eq!(first.status, StatusCode::ACCEPTED, "{}", first.text);
        let told = first.json();
        assert_eq!((&told["id"], &told["status"]), (&id.clone().into(), &"deleted".into()));
        assert_eq!(delete(&world, &id).await.status, StatusCode::ACCEPTED, "asking again does no harm");
        let [fact] = deletions(&world).try_into().unwrap();
        assert_eq!((fact.recording, fact.submitted_at), (admitted.recording, admitted.submitted_at));
        let Event::RecordingDeleted(deleted) = &fact.event else { panic!("{fact:?}") };
        assert_eq!(deleted.drop_id.as_deref(), dropped["drop_id"].as_str());

        // What the projector and the keeper do.
        let fact = Envelope { seq: Some(900), ..fact.clone() };
        world.views.apply(&[Entry::of(&fact).unwrap()]).await.unwrap();
        assert_eq!(world.get(&format!("/v1/recordings/{id}")).await.json()["status"], "deleted");
        let transcript = world.get(&format!("/v1/recordings/{id}/transcript")).await;
        assert!(transcript.status.is_client_error() && !transcript.text.contains("secret"));
        assert_eq!(delete(&world, &id).await.status, StatusCode::ACCEPTED, "it is not erased yet");
        let erasure = world.views.erasure(admitted.recording).await.unwrap().unwrap();
        assert!(world.views.complete_erasure(&erasure, &Value::Null).await.unwrap());
        let done = delete(&world, &id).await;
        assert_eq!((done.status, done.text.as_str()), (StatusCode::NO_CONTENT, ""));
    });
}

#[test]
fn a_drop_that_waits_is_deleted_with_its_audio() {
    with_world(|world| async move {
        let dropped = world.post_form("/v1/recordings", b"RIFF", &[]).await.json();
        let drop = dropped["drop_id"].as_str().unwrap();
        for _ in 0..2 {
            let reply = delete(&world, drop).await;
            assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.text);
            assert_eq!((&reply.json()["id"], &reply.json()["drop_id"]), (&Value::Null, &drop.into()));
            assert_eq!(world.stored().await, [""; 0]);
        }
        assert!(world.log.is_drop_deleted(drop, &Tenant::default()).await.unwrap());

        let fields = [("audio".to_owned(), Bytes::from_static(b"RIFF"))];
        let entry = world.log.submit(Lane::Rt, &fields).await.unwrap();
        let raw = keys::drop_id(Source::Ingest(Lane::Rt), &entry);
        assert_eq!(delete(&world, &raw).await.status, StatusCode::ACCEPTED);
        assert!(world.log.is_drop_deleted(&raw, &Tenant::default()).await.unwrap());
        assert_eq!(deletions(&world).len(), 0, "whoever takes them in says so");
    });
}

/// The projector is behind: the recording is in the log alone.
#[test]
fn a_recording_that_is_not_folded_yet_is_deleted() {
    with_world(|world| async move {
        let dropped = world.post_form("/v1/recordings", b"RIFF", &[]).await.json();
        let drop = dropped["drop_id"].as_str().unwrap();
        let other = world.post_form("/v1/recordings", b"RIFX", &[]).await.json();
        let waiting = world.next_drop(Lane::Batch).await.unwrap();
        let second = world.next_drop(Lane::Batch).await.unwrap();
        // Made here for its identities; what is admitted in the log below is another.
        let shape = world.admit(&second).await;
        // In a shard of which nothing is folded.
        let shard = u128::from(shape.shard.0 + 1);
        let recording: events::RecordingId = uuid::Uuid::from_u128((shard << 112) | 77).into();
        let admitted = Envelope {
            recording,
            shard: recording.shard(4),
            seq: None,
            ..shape.follow(shape.event.clone(), events::now())
        };
        let Event::RecordingAdmitted(mut fact) = admitted.event.clone() else { panic!("{admitted:?}") };
        fact.drop_id = waiting["drop"].clone();
        let admitted = Envelope { event: fact.into(), ..admitted };
        let admit = Admit {
            shard: admitted.shard,
            recording,
            claim: None,
            fingerprint: String::new(),
            facts: vec![Message::fact(&admitted).unwrap()],
            work: None,
        };
        world.log.admit(&admit).await.unwrap();
        let outcome = DropOutcome { recording: Some(recording), duplicate: false, cause: None };
        world.log.set_drop_outcome(drop, &outcome).await.unwrap();

        let reply = delete(&world, drop).await;
        assert_eq!(
            (reply.status, &reply.json()["id"]),
            (StatusCode::ACCEPTED, &recording.to_string().into())
        );
        assert_eq!(delete(&world, &recording.to_string()).await.status, StatusCode::ACCEPTED);
        let [fact] = deletions(&world).try_into().unwrap();
        assert_eq!((fact.recording, fact.submitted_at), (recording, admitted.submitted_at));
        assert_eq!(world.views.open_erasures(9).await.unwrap().len(), 1);
        assert_eq!(delete(&world, other["drop_id"].as_str().unwrap()).await.status, StatusCode::ACCEPTED);
    });
}

#[test]
fn nobody_deletes_what_is_another_tenants() {
    with_world(|world| async move {
        let [acme, shop] = [world.key("acme").await, world.key("shop").await];
        let post = world.request("POST", "/v1/recordings").key(&acme).form(b"RIFF", &[]).send().await;
        let waiting = post.json()["drop_id"].as_str().unwrap().to_owned();
        let post = world.request("POST", "/v1/recordings").key(&acme).form(b"RIFX", &[]).send().await;
        let drop = world.next_drop(Lane::Batch).await.unwrap();
        assert_eq!(drop["drop"], waiting);
        let _ = post;
        let admitted = world.complete_next(Lane::Batch, &["kept"]).await;
        for id in [waiting, admitted.recording.to_string(), "nope".to_owned(), "1-0".to_owned()] {
            let reply = world.request("DELETE", &format!("/v1/recordings/{id}")).key(&shop).send().await;
            assert_eq!(reply.status, StatusCode::NOT_FOUND, "{id}: {}", reply.text);
        }
        assert_eq!(deletions(&world).len(), 0);
        assert_eq!(world.views.open_erasures(9).await.unwrap(), []);
    });
}
