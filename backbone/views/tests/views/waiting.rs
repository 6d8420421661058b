//! Waiting for a recording.

use std::time::{Duration, Instant};

use transcript::Status;
use views::Views;

use crate::given::*;
use crate::support::{options, with_database};

const LONG: Duration = Duration::from_secs(20);

#[test]
fn a_notification_wakes_sooner_than_the_net() {
    with_database(|db| async move {
        let elsewhere = Views::connect(&db.url, &options()).await.unwrap();
        let mut log = Log::new(0);
        let mut fastest = LONG;
        for n in 0..5 {
            let entries = log.whole(n, &["Hi."]);
            let views = db.views.clone();
            let waiting = tokio::spawn(async move { views.wait(recording(n), LONG).await });
            tokio::time::sleep(Duration::from_millis(200)).await;
            elsewhere.apply(&entries[..2]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!waiting.is_finished(), "it is not complete yet");
            let done = Instant::now();
            elsewhere.apply(&entries[2..]).await.unwrap();
            let row = waiting.await.unwrap().unwrap().unwrap();
            assert_eq!(row.state.status, Status::Complete);
            fastest = fastest.min(done.elapsed());
        }
        assert!(fastest < Duration::from_millis(300), "{fastest:?}");
    });
}

#[test]
fn waiting_ends_at_its_limit_with_what_is_there() {
    with_database(|db| async move {
        let limit = Duration::from_millis(100);
        assert_eq!(db.views.wait(recording(1), limit).await.unwrap(), None);
        db.apply(&Log::new(0).whole(1, &["Hi."])[..1]).await;
        let row = db.views.wait(recording(1), limit).await.unwrap().unwrap();
        assert_eq!(row.state.status, Status::Queued);
        db.apply(&Log::new(0).whole(1, &["Hi."])).await;
        let started = Instant::now();
        assert_eq!(db.views.wait(recording(1), LONG).await.unwrap().unwrap().state.status, Status::Complete);
        assert!(started.elapsed() < LONG);
    });
}

#[test]
fn a_listener_that_lost_its_connection_does_not_leave_anyone_waiting() {
    with_database(|db| async move {
        let views = db.views.clone();
        let waiting = tokio::spawn(async move { views.wait(recording(1), LONG).await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let (ended,): (i64,) = sqlx::query_as(sql).fetch_one(&mut db.connection().await).await.unwrap();
        assert!(ended >= 2, "the pool's and the listener's, but only {ended}");
        let elsewhere = Views::connect(&db.url, &options()).await.unwrap();
        elsewhere.apply(&Log::new(0).whole(1, &["Hi."])).await.unwrap();
        assert_eq!(waiting.await.unwrap().unwrap().unwrap().state.status, Status::Complete);
    });
}

#[test]
fn a_list_too_long_for_a_notification_wakes_everyone() {
    with_database(|db| async move {
        let views = db.views.clone();
        let waiting = tokio::spawn(async move { views.wait(recording(299), LONG).await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut log = Log::new(0);
        let entries: Vec<_> = (0..300).flat_map(|n| log.whole(n, &["Hi."])).collect();
        assert_eq!(db.apply(&entries).await.recordings.len(), 300);
        assert_eq!(waiting.await.unwrap().unwrap().unwrap().state.status, Status::Complete);
    });
}
