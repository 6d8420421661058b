//! What is turned away when there is too much, or something is down.

use std::sync::Arc;
use std::time::Duration;

use events::Lane;
use expect_test::expect;
use streams::redis::RedisLog;
use warp::http::StatusCode;

use crate::support::*;

#[test]
fn each_key_has_a_rate_of_its_own() {
    with_limits(
        |limits| (limits.rate, limits.burst) = (1, 3),
        |world| async move {
            let (one, two) = (world.key("one").await, world.key("two").await);
            for _ in 0..3 {
                assert_eq!(world.get_with("/v1/models", &one).await.status, StatusCode::OK);
            }
            let reply = world.get_with("/v1/models", &one).await;
            expect!["429 rate_limit_error rate_limit_exceeded -: too many requests with this key; slow down"]
                .assert_eq(&reply.error());
            assert_eq!(reply.header("retry-after"), "1");
            assert_eq!(
                world.get_with("/v1/models", &two).await.status,
                StatusCode::OK,
                "the other key has its own"
            );
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            assert_eq!(world.get_with("/v1/models", &one).await.status, StatusCode::OK, "it fills up again");
        },
    );
}

#[test]
fn a_full_backlog_turns_new_audio_away_before_it_is_read() {
    with_limits(
        |limits| limits.backlog_entries = 1,
        |world| async move {
            assert_eq!(world.post_form("/v1/recordings", b"1", &[]).await.status, StatusCode::ACCEPTED);
            assert_eq!(world.post_form("/v1/recordings", b"2", &[]).await.status, StatusCode::ACCEPTED);
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            let reply = world.post_form("/v1/recordings", b"3", &[]).await;
            expect!["429 rate_limit_error backlog_full -: 2 entries wait in the batch lane, and the limit is 1; try again once some of it is done"]
            .assert_eq(&reply.error());
            assert_eq!(reply.header("retry-after"), "30");
            assert_eq!(
                world.post_form("/v1/recordings?lane=rt", b"3", &[]).await.status,
                StatusCode::ACCEPTED,
                "the other lane has room"
            );
            assert_eq!(world.stored().await.len(), 6, "two objects for each drop taken in");
            assert_eq!(world.get("/v1/recordings").await.status, StatusCode::OK, "reading goes on");
        },
    );
}

#[test]
fn a_full_queue_turns_a_drop_away_whole() {
    with_world(|world| async move {
        // The first asks how full it is, which is believed for a second.
        assert_eq!(world.post_form("/v1/recordings", b"0", &[]).await.status, StatusCode::ACCEPTED);
        world.log.set_full(true);
        let reply = world.post_form("/v1/recordings", b"1", &[]).await;
        expect!["429 rate_limit_error queue_full -: the queue is at its memory limit; it takes new audio once some of the waiting work is done"]
            .assert_eq(&reply.error());
        assert_eq!(world.stored().await.len(), 2, "a drop that was turned away leaves nothing");
        world.log.set_full(false);
        assert_eq!(world.post_form("/v1/recordings", b"1", &[]).await.status, StatusCode::ACCEPTED);
    });
}

#[test]
fn a_full_disk_turns_new_audio_away() {
    with_limits(
        |limits| limits.store_reserve.0 = 1 << 60,
        |world| async move {
            let reply = world.post_form("/v1/recordings", b"1", &[]).await;
            assert!(
                reply.error().starts_with(
                    "429 rate_limit_error store_full -: the disk of the audio store is nearly full"
                ),
                "{}",
                reply.text
            );
            assert_eq!(reply.header("retry-after"), "60");
        },
    );
}

#[test]
fn a_database_that_is_away_is_503() {
    with_world(|world| async move {
        let (passage, url) = Passage::to(&world.database_url).await;
        let world = World::new(&url, world.log.clone(), Arc::new(world.log.clone()), usual_limits()).await;
        assert_eq!(world.get("/v1/recordings").await.status, StatusCode::OK);
        drop(passage);
        for path in ["/v1/recordings", "/v1/recordings/1-0", "/v1/search?q=x"] {
            let reply = world.get(path).await;
            expect![
                "503 server_error unavailable -: the database does not answer just now; try again shortly"
            ]
            .assert_eq(&reply.error());
            assert_eq!(reply.header("retry-after"), "5");
        }
        assert_eq!(world.get("/health/live").await.status, StatusCode::OK);
    });
}

#[test]
fn a_queue_that_is_away_is_503_and_keeps_nothing_it_did_not_take() {
    let Ok(server) = std::env::var("VOICEFORGE_TEST_REDIS") else {
        eprintln!("skipped: VOICEFORGE_TEST_REDIS names no Redis server");
        return;
    };
    with_world(|world| async move {
        let (passage, url) = Passage::to(&server).await;
        let log =
            RedisLog::connect(streams::redis::Config::new(url, 1)).await.expect("redis takes one shard");
        let world = World::new(&world.database_url, world.log.clone(), Arc::new(log), usual_limits()).await;
        assert_eq!(world.get("/v1/backlog").await.status, StatusCode::OK);
        drop(passage);
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let reply = world.post_form("/v1/recordings", b"1", &[]).await;
        expect!["503 server_error unavailable -: the queue does not answer just now; try again shortly"]
            .assert_eq(&reply.error());
        assert_eq!(reply.header("retry-after"), "5");
        assert_eq!(world.stored().await, [""; 0]);
        assert_eq!(world.get("/v1/recordings").await.status, StatusCode::OK, "reading goes on");
    });
}

#[test]
fn uploads_at_once_are_bounded() {
    with_limits(
        |limits| limits.uploads = 1,
        |world| async move {
            let held = world.api.uploads.try_acquire().unwrap();
            let reply = world.post_form("/v1/recordings", b"1", &[]).await;
            expect![
                "429 rate_limit_error too_many_uploads -: too many uploads are under way; try again shortly"
            ]
            .assert_eq(&reply.error());
            drop(held);
            assert_eq!(world.post_form("/v1/recordings", b"1", &[]).await.status, StatusCode::ACCEPTED);
            assert!(world.next_drop(Lane::Batch).await.is_some());
        },
    );
}
