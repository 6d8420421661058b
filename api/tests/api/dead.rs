//! Dead letters over HTTP: listed, shown, replayed, dropped; and the survey.

use events::{Cause, Decoded, Envelope, Event, Lane, SegmentCut, TranscriptionRequested};
use expect_test::expect;
use service::store::Key;
use streams::{Commit, DeadLetter, Log, Message, Queue, Source};
use warp::http::StatusCode;

use crate::support::*;

/// Puts work into its queue and has it given up.
async fn give_up(world: &World, work: &Envelope, queue: Queue, stage: &str) {
    let source = Source::Queue(work.shard, queue, Lane::Batch);
    world.log.ensure_groups(stage, &[source]).await.unwrap();
    let append = streams::Append {
        shard: work.shard,
        recording: work.recording,
        facts: Vec::new(),
        work: Some((source, Message::work(work, 1000, 0).unwrap())),
    };
    world.log.append(&append).await.unwrap();
    let [entry] = world.log.take(stage, "w", source, 1).await.unwrap().try_into().unwrap();
    let cause = Cause::new("out_of_memory", "the model ran out of memory");
    let dead = DeadLetter { stage: stage.into(), cause, attempts: 3, worker: "host:1:w".into() };
    let commit = Commit {
        source,
        group: stage.to_owned(),
        identity: entry.identity().to_owned(),
        id: entry.id,
        recording: Some(work.recording),
        generation: Some(work.generation),
        facts: Vec::new(),
        outputs: Vec::new(),
        dead: Some(dead),
        delete: Vec::new(),
        lapse: None,
    };
    world.log.commit(&commit).await.unwrap();
}

/// Its first segment.
fn cut_of(admitted: &Envelope) -> SegmentCut {
    let Event::RecordingAdmitted(fact) = &admitted.event else { panic!("{admitted:?}") };
    SegmentCut {
        channel: 0,
        index: 0,
        start_ms: 0,
        end_ms: 5000,
        settings: fact.settings.clone(),
        lane: Lane::Batch,
        speech: Vec::new(),
    }
}

/// A recording with two dead segments, its audio in the store.
async fn two_dead_segments(world: &World) -> Envelope {
    world.post_form("/v1/recordings", b"RIFF", &[]).await;
    let drop = world.next_drop(Lane::Batch).await.unwrap();
    let admitted = world.admit(&drop).await;
    let Event::RecordingAdmitted(fact) = admitted.event.clone() else { panic!("{admitted:?}") };
    for index in 0..2 {
        let cut = SegmentCut { index, ..cut_of(&admitted) };
        let cut = admitted.follow(cut.into(), events::now());
        give_up(world, &cut, Queue::Segments, "infer").await;
    }
    let key = Key::parse(&fact.audio.key).unwrap();
    world.store.put_bytes(&key, bytes::Bytes::from_static(b"RIFF")).await.unwrap();
    admitted
}

#[test]
fn a_dead_segment_requests_its_recording_again_in_the_next_round() {
    with_world(|world| async move {
        let admitted = two_dead_segments(&world).await;
        let listed = world.get("/v1/dead?stage=infer&code=out_of_memory").await.json();
        let items = listed["items"].as_array().unwrap();
        assert_eq!(items.len(), 2, "{listed}");
        assert_eq!(items[0]["recording"], admitted.recording.to_string());
        assert_eq!((&items[1]["segment"], &items[1]["attempts"]), (&"0:1".into(), &3.into()));
        assert_eq!((&items[0]["worker"], &items[0]["round"]), (&"host:1:w".into(), &0.into()));
        assert_eq!(world.get("/v1/dead?stage=decode").await.json()["items"].as_array().unwrap().len(), 0);

        let id = items[0]["id"].as_str().unwrap();
        let shown = world.get(&format!("/v1/dead/{id}")).await.json();
        assert_eq!(shown["original"]["event"]["type"], "SegmentCut");
        assert_eq!(shown["code"], "out_of_memory");

        let replayed = world.request("POST", &format!("/v1/dead/{id}/replay")).send().await;
        assert_eq!(replayed.status, StatusCode::OK, "{}", replayed.text);
        let told = replayed.json();
        assert_eq!(
            (&told["done"], &told["round"], &told["also"]),
            (&"requested".into(), &1.into(), &1.into())
        );
        assert_eq!(world.get("/v1/dead").await.json()["items"].as_array().unwrap().len(), 0);
        let source = Source::Queue(admitted.shard, Queue::Decode, Lane::Batch);
        world.log.ensure_groups("decode", &[source]).await.unwrap();
        let [work] = world.log.take("decode", "t", source, 9).await.unwrap().try_into().unwrap();
        let Ok(Decoded::Known(work)) = events::decode(work.field("event").unwrap()) else {
            panic!("{work:?}")
        };
        assert_eq!((work.recording, work.generation, work.round), (admitted.recording, 0, 1));
        let (Event::TranscriptionRequested(asked), Event::RecordingAdmitted(first)) =
            (&work.event, &admitted.event)
        else {
            panic!("{work:?}");
        };
        assert_eq!(
            (&asked.audio, &asked.settings, &asked.name),
            (&first.audio, &first.settings, &first.name)
        );
        assert_eq!(world.log.facts(admitted.shard).len(), 1, "the request is a fact, too");
        assert_eq!(
            world.request("POST", &format!("/v1/dead/{id}/replay")).send().await.status,
            StatusCode::NOT_FOUND
        );

        // One more of round 0 dies, before it is known that round 1 has begun and after.
        let late = async |index| {
            let cut = SegmentCut { index, ..cut_of(&admitted) };
            give_up(&world, &admitted.follow(cut.into(), events::now()), Queue::Segments, "infer").await;
            let listed = world.get("/v1/dead").await.json();
            let id = listed["items"][0]["id"].as_str().unwrap().to_owned();
            world.request("POST", &format!("/v1/dead/{id}/replay")).send().await
        };
        assert_eq!(late(2).await.status, StatusCode::OK);
        assert_eq!(world.log.take("decode", "t", source, 9).await.unwrap(), [], "it is asked for already");
        assert_eq!(world.log.facts(admitted.shard).len(), 1);
        world.apply(&work).await;
        let refused = late(3).await;
        assert_eq!(
            (refused.status, &refused.json()["error"]["code"]),
            (StatusCode::CONFLICT, &"covered".into())
        );
        assert!(refused.text.contains("round 1"), "{}", refused.text);
        assert_eq!(world.get("/v1/dead").await.json()["items"].as_array().unwrap().len(), 0);
    });
}

#[test]
fn what_cannot_be_replayed_says_why_and_stays() {
    with_world(|world| async move {
        let admitted = two_dead_segments(&world).await;
        let Event::RecordingAdmitted(fact) = &admitted.event else { panic!("{admitted:?}") };
        world.store.delete(&Key::parse(&fact.audio.key).unwrap()).await.unwrap();
        let id = world.get("/v1/dead").await.json()["items"][0]["id"].as_str().unwrap().to_owned();
        let refused = world.request("POST", &format!("/v1/dead/{id}/replay")).send().await;
        expect!["409 invalid_request_error audio_gone -: its audio is not in the store any more, so nothing can be done again: hand the audio in again as a new drop, and drop this letter"]
            .assert_eq(&refused.error());
        assert_eq!(
            world.request("DELETE", &format!("/v1/dead/{id}")).send().await.status,
            StatusCode::NO_CONTENT
        );
        assert_eq!(
            world.request("DELETE", &format!("/v1/dead/{id}")).send().await.status,
            StatusCode::NOT_FOUND
        );
        assert_eq!(world.get("/v1/dead").await.json()["items"].as_array().unwrap().len(), 1);
        for odd in ["x", "00:1-0", "99:1-0", "drops:1-0", "%00", "00:+-"] {
            assert_eq!(world.get(&format!("/v1/dead/{odd}")).await.status, StatusCode::NOT_FOUND, "{odd}");
        }
    });
}

#[test]
fn dead_decoding_and_pages() {
    with_world(|world| async move {
        let admitted = two_dead_segments(&world).await;
        let Event::RecordingAdmitted(fact) = admitted.event.clone() else { panic!("{admitted:?}") };
        let asked = TranscriptionRequested {
            name: fact.name,
            audio: fact.audio,
            settings: fact.settings,
            lane: Lane::Batch,
            activation: events::Activation::Auto,
        };
        let asked = Envelope { round: 4, ..admitted.follow(asked.into(), events::now()) };
        give_up(&world, &asked, Queue::Decode, "decode").await;
        let first = world.get("/v1/dead?limit=2").await.json();
        let next = first["next"].as_str().unwrap();
        let rest = world.get(&format!("/v1/dead?limit=2&cursor={next}")).await.json();
        assert_eq!((rest["items"].as_array().unwrap().len(), rest["next"].is_null()), (1, true));
        let id = rest["items"][0]["id"].as_str().unwrap();
        let replayed = world.request("POST", &format!("/v1/dead/{id}/replay")).send().await.json();
        assert_eq!((&replayed["round"], &replayed["also"]), (&5.into(), &2.into()), "{replayed}");
    });
}

#[test]
fn operators_alone_see_what_is_of_all_tenants() {
    with_world(|world| async move {
        two_dead_segments(&world).await;
        let survey = world.get("/v1/survey").await.json();
        assert_eq!(survey["dead_letters"], 2, "without keys whoever is at this machine looks after it");
        let segments = survey["queues"].as_array().unwrap().iter();
        let segments = segments.clone().find(|q| q["queue"] == "segments" && q["lane"] == "batch").unwrap();
        assert_eq!((&segments["entries"], &segments["done"]), (&0.into(), &2.into()));
        let backlog = world.get("/v1/backlog").await.json();
        let ingest = &backlog["stages"]["ingest"];
        let told = ["entries", "in_progress", "workers"].map(|name| ingest[name].as_u64());
        assert_eq!(told, [Some(1); 3], "the drop that was taken and is not done: {backlog}");

        let [user, operator] = [world.key("acme").await, world.operator_key().await];
        for path in ["/v1/dead", "/v1/dead/00:1-0", "/v1/survey"] {
            let reply = world.get_with(path, &user).await;
            expect!["403 invalid_request_error operator_needed -: this takes an operator's key: `voiceforge keys create NAME --operator` makes one"]
                .assert_eq(&reply.error());
            assert_ne!(world.get_with(path, &operator).await.status, StatusCode::FORBIDDEN, "{path}");
        }
    });
}
