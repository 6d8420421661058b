//! Transcriptions whose work Redis has lost.

use std::time::Duration;

use events::*;
use project::keeper::strays::Strays;
use service::store::Key;
use transcript::Status;

use crate::world::*;

fn strays(world: &World) -> Strays {
    let log = std::sync::Arc::new(world.log.clone());
    Strays::new(log, world.views.clone(), world.store.clone(), Duration::ZERO)
}

/// Rounds of the requests that wait for decode.
fn rounds(world: &World) -> Vec<(u32, u32)> {
    world.requests(Lane::Batch).into_iter().map(|(n, envelope)| (n, envelope.round)).collect()
}

#[test]
fn what_nobody_works_on_is_asked_for_again_once() {
    with_world(|mut world| async move {
        world.admit(0, 1, "en").await;
        world.admit_only(2, 1, "en").await;
        let mut strays = strays(&world);
        assert_eq!(strays.look().await.unwrap(), 1);
        assert_eq!(rounds(&world), [(2, 1)]);
        let again = world.requests(Lane::Batch).remove(0).1;
        let Event::TranscriptionRequested(again) = again.event else { panic!("{again:?}") };
        assert_eq!((again.name.as_deref(), again.settings.model.name.as_str()), (Some("2.wav"), "tiny.en"));
        world.project().await;
        assert_eq!(strays.look().await.unwrap(), 0, "its work waits");
    });
}

#[test]
fn what_may_wait_in_a_queue_is_no_stray() {
    with_world(|mut world| async move {
        world.admit_only(1, 1, "en").await;
        assert_eq!(strays(&world).look().await.unwrap(), 1);
        let of_the_same_shard = (2..50).find(|&n| recording(n).shard(2) == recording(1).shard(2)).unwrap();
        world.admit_only(of_the_same_shard, 1, "en").await;
        assert_eq!(strays(&world).look().await.unwrap(), 0, "something waits there");
    });
}

#[test]
fn what_is_not_projected_yet_is_no_stray() {
    with_world(|mut world| async move {
        world.admit_only(1, 1, "en").await;
        world.admit_only(2, 1, "en").await;
        let mut strays = strays(&world);
        // Complete in the log, and the read side does not know.
        let failed = RecordingFailed { stage: "decode".into(), cause: Cause::new("any", "any"), attempts: 1 };
        for n in [1, 2] {
            world.say(n, 0, failed.clone()).await;
        }
        assert_eq!(strays.look().await.unwrap(), 0);
        world.project().await;
        assert_eq!(strays.look().await.unwrap(), 0);
        assert_eq!(rounds(&world), []);
    });
}

#[test]
fn where_the_audio_is_gone_too_it_fails_and_says_so() {
    with_world(|mut world| async move {
        let id = world.admit_only(1, 1, "en").await;
        world.store.delete(&Key::parse(&format!("default/{id}")).unwrap()).await.unwrap();
        assert_eq!(strays(&world).look().await.unwrap(), 1);
        world.project().await;
        let row = world.views.recording(id).await.unwrap().unwrap();
        assert_eq!(row.state.status, Status::Failed);
        assert_eq!(row.state.reason.unwrap().code, "audio_gone");
        assert_eq!(strays(&world).look().await.unwrap(), 0);
    });
}

#[test]
fn what_lost_its_admission_too_is_asked_for_by_its_request() {
    with_world(|mut world| async move {
        world.admit_only(1, 1, "en").await;
        let like = world.views.recording(recording(1)).await.unwrap().unwrap();
        let key = format!("default/{}", recording(2));
        world.store.put_bytes(&Key::parse(&key).unwrap(), bytes::Bytes::from_static(b"RIFF")).await.unwrap();
        let asked = TranscriptionRequested {
            name: Some("2.wav".into()),
            audio: Audio { key, ..like.audio.unwrap() },
            settings: like.settings.unwrap(),
            lane: Lane::Batch,
            activation: Activation::Auto,
        };
        world.tell(2, 0, asked).await;
        strays(&world).look().await.unwrap();
        assert_eq!(rounds(&world), [(1, 1), (2, 1)]);
    });
}

#[test]
fn what_nobody_knows_how_to_do_fails_and_says_so() {
    with_world(|mut world| async move {
        let said = SegmentFailed {
            channel: 0,
            index: 0,
            start_ms: 0,
            end_ms: 1,
            cause: Cause::new("any", "any"),
            attempts: 1,
        };
        world.tell(1, 0, said).await;
        assert_eq!(strays(&world).look().await.unwrap(), 1);
        world.project().await;
        let row = world.views.recording(recording(1)).await.unwrap().unwrap();
        assert_eq!(
            (row.state.status, row.state.reason.unwrap().code.as_str()),
            (Status::Failed, "request_gone")
        );
    });
}

#[test]
fn one_look_is_not_enough_before_the_time_is_over() {
    with_world(|mut world| async move {
        world.admit_only(1, 1, "en").await;
        let log = std::sync::Arc::new(world.log.clone());
        let patience = Duration::from_millis(400);
        let mut strays = Strays::new(log, world.views.clone(), world.store.clone(), patience);
        assert_eq!(strays.look().await.unwrap(), 0);
        tokio::time::sleep(patience * 2).await;
        assert_eq!(strays.look().await.unwrap(), 1);
    });
}
