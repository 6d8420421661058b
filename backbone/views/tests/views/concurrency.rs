//! Several programs that apply at once, and sessions that die.

use std::time::{Duration, Instant};

use sqlx::{PgConnection, Row};
use views::{ApplyError, Entry, Views};

use crate::apply::same_as_fold;
use crate::given::*;
use crate::support::{Database, options, with_database};

/// Applies until it is done, as a program does.
async fn apply_until_done(views: &Views, batch: &[Entry]) {
    loop {
        match views.apply(batch).await {
            Ok(_) => return,
            Err(ApplyError::Retry(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(ApplyError::Fatal(error)) => panic!("{error}"),
        }
    }
}

#[test]
fn programs_with_the_same_events_in_reversed_order_do_not_deadlock() {
    with_database(|db| async move {
        for seed in 100..110 {
            let events = history(seed);
            let programs: Vec<_> = (0..4)
                .map(|program| {
                    let mut batches = shuffled(&events, seed * 10 + program / 2);
                    if program % 2 == 1 {
                        batches.reverse();
                        batches.iter_mut().for_each(|batch| batch.reverse());
                    }
                    let url = db.url.clone();
                    tokio::spawn(async move {
                        let views = Views::connect(&url, &options()).await.unwrap();
                        for batch in batches {
                            apply_until_done(&views, &batch).await;
                        }
                    })
                })
                .collect();
            for program in programs {
                program.await.unwrap();
            }
            same_as_fold(&db, &events, seed).await;
            let sql = "TRUNCATE read_v1.recordings, read_v1.transcripts, read_v1.segments, log.events, control.inbox, \
                       control.checkpoints";
            sqlx::query(sql).execute(&mut db.connection().await).await.unwrap();
        }
        let sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
        let (deadlocks,): (i64,) = sqlx::query_as(sql).fetch_one(&mut db.connection().await).await.unwrap();
        assert_eq!(deadlocks, 0);
    });
}

#[test]
fn a_recording_whose_events_are_spread_over_programs_completes() {
    with_database(|db| async move {
        let other = Views::connect(&db.url, &options()).await.unwrap();
        for n in 0..30 {
            let entries = Log::new(n as u16).whole(n, &["one", "two", "three", "four"]);
            let (mine, theirs): (Vec<_>, Vec<_>) =
                entries.into_iter().enumerate().partition(|(at, _)| at % 2 == 0);
            let [mine, theirs] =
                [mine, theirs].map(|list| list.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>());
            tokio::join!(apply_until_done(&db.views, &mine), apply_until_done(&other, &theirs));
            let row = db.views.recording(recording(n)).await.unwrap().unwrap();
            assert!(row.state.status.is_final(), "recording {n}: {:?}", row.state);
        }
    });
}

/// Holds every batch up until it is dropped or rolled back.
async fn hold_up(db: &Database) -> PgConnection {
    let mut blocker = db.connection().await;
    sqlx::query("BEGIN").execute(&mut blocker).await.unwrap();
    sqlx::query("LOCK log.events IN EXCLUSIVE MODE").execute(&mut blocker).await.unwrap();
    blocker
}

/// Waits until a session is held up, and returns its process.
async fn held_up(connection: &mut PgConnection) -> i32 {
    let sql =
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    loop {
        if let Some(row) = sqlx::query(sql).fetch_optional(&mut *connection).await.unwrap() {
            return row.get("pid");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_session_that_dies_leaves_nothing_and_the_batch_can_be_given_again() {
    with_database(|db| async move {
        let entries = Log::new(0).whole(1, &["one", "two"]);
        let mut blocker = hold_up(&db).await;
        let (views, batch) = (db.views.clone(), entries.clone());
        let applying = tokio::spawn(async move { views.apply(&batch).await });
        let pid = held_up(&mut blocker).await;
        sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&mut blocker).await.unwrap();
        let error = applying.await.unwrap().unwrap_err();
        assert!(matches!(error, ApplyError::Retry(_)), "{error:?}");
        assert_eq!(db.dump().await, "");
        sqlx::query("ROLLBACK").execute(&mut blocker).await.unwrap();
        assert_eq!(db.apply(&entries).await.fresh, 4);
    });
}

#[test]
fn a_caller_that_goes_away_leaves_no_open_transaction() {
    with_database(|db| async move {
        let entries = Log::new(0).whole(1, &["one", "two"]);
        let mut blocker = hold_up(&db).await;
        let cut = tokio::time::timeout(Duration::from_millis(300), db.views.apply(&entries)).await;
        assert!(cut.is_err(), "it was held up");
        held_up(&mut blocker).await;
        sqlx::query("ROLLBACK").execute(&mut blocker).await.unwrap();
        let started = Instant::now();
        while db.views.archived_through(events::Shard(0)).await.unwrap() < 4 {
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "the transaction went on without its caller"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND state LIKE 'idle in transaction%'";
        let (open,): (i64,) = sqlx::query_as(sql).fetch_one(&mut blocker).await.unwrap();
        assert_eq!(open, 0);
        assert_eq!(db.apply(&entries).await.repeated, 4);
    });
}
