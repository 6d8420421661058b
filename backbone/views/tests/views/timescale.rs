//! The SQL of the TimescaleDB migrations on the real extension. One database for all, so one test.

use std::collections::BTreeSet;
use std::time::Duration;

use events::*;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use transcript::Status;
use views::verify::{Recordings, TABLES};
use views::{Entry, Keep, Kept, Policies, Rule, Search, Switched, Views};

use crate::apply::same_as_fold;
use crate::given::*;
use crate::support::{Database, options};

#[test]
fn timescale() {
    let Ok(url) = std::env::var("VOICEFORGE_TEST_TIMESCALE") else {
        eprintln!(
            "skipped: VOICEFORGE_TEST_TIMESCALE names no PostgreSQL server with the TimescaleDB extension"
        );
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let views = Views::connect(&url, &options()).await.unwrap();
        let db = Database { views, url };
        let mut connection = db.connection().await;
        clean(&mut connection).await;
        installs_once(&db, &mut connection).await;
        folds_alike(&db, &mut connection).await;
        writes_into_compressed_slices(&db, &mut connection).await;
        adds_up_usage(&db, &mut connection).await;
        builds_another_version(&db, &mut connection).await;
        keeps_policies(&db, &mut connection).await;
        erases_and_expires_in_compressed_slices(&db, &mut connection).await;
        clean(&mut connection).await;
        connection.close().await.unwrap();
    });
}

async fn run(connection: &mut PgConnection, sql: impl Into<String>) {
    let sql = sql.into();
    sqlx::raw_sql(AssertSqlSafe(sql.clone()))
        .execute(connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn number(connection: &mut PgConnection, sql: &'static str) -> i64 {
    sqlx::query(sql).fetch_one(connection).await.unwrap_or_else(|error| panic!("{sql}: {error}")).get(0)
}

/// Runs a job now. The server has one session for all, and a job changes its search path.
async fn run_job(connection: &mut PgConnection, job: i64) {
    run(connection, format!("CALL public.run_job({job})")).await;
    run(connection, "SET search_path TO public").await;
}

async fn clean(connection: &mut PgConnection) {
    run(connection, "SET search_path TO public").await;
    // Where a run before failed.
    run(connection, "RESET timescaledb.max_tuples_decompressed_per_dml_transaction").await;
    run(connection, "DROP SCHEMA IF EXISTS read CASCADE; DROP SCHEMA IF EXISTS read_v1 CASCADE; DROP SCHEMA IF EXISTS read_v2 CASCADE; DROP SCHEMA IF EXISTS log CASCADE; DROP SCHEMA IF EXISTS control CASCADE").await;
}

async fn empty(connection: &mut PgConnection) {
    for table in [
        "read_v1.recordings",
        "read_v1.transcripts",
        "read_v1.segments",
        "log.events",
        "control.inbox",
        "control.checkpoints",
    ] {
        run(connection, format!("TRUNCATE {table}")).await;
    }
}

async fn installs_once(db: &Database, connection: &mut PgConnection) {
    let other = Views::connect(&db.url, &options()).await.unwrap();
    let policies = Policies::default();
    let (mine, theirs) = tokio::join!(db.views.migrate(&policies), other.migrate(&policies));
    let installed = mine.unwrap();
    assert_eq!(installed, theirs.unwrap());
    assert!(installed.timescale.as_deref().is_some_and(|version| version.starts_with('2')), "{installed}");
    assert!(!installed.missing.iter().any(|missing| missing.starts_with("plain tables")), "{installed}");
    let hypertables = "SELECT count(*) FROM timescaledb_information.hypertables \
                       WHERE (hypertable_schema, hypertable_name, compression_enabled) IN \
                       (('log', 'events', true), ('read_v1', 'segments', true), ('read_v1', 'transcripts', false))";
    assert_eq!(number(connection, hypertables).await, 3);
    db.views.check().await.unwrap();
}

async fn folds_alike(db: &Database, connection: &mut PgConnection) {
    for seed in 200..206 {
        let events = history(seed);
        for batch in shuffled(&events, seed) {
            db.apply(&batch).await;
        }
        same_as_fold(db, &events, seed).await;
        empty(connection).await;
    }
}

async fn writes_into_compressed_slices(db: &Database, connection: &mut PgConnection) {
    let mut log = Log::new(0);
    let mut entries: Vec<Entry> =
        (0..4).flat_map(|n| log.whole(n, &["The cats ran.", "A dog barked."])).collect();
    let held_back = entries.pop().unwrap();
    db.apply(&entries).await;
    for table in ["read_v1.segments", "log.events"] {
        run(connection, format!("SELECT public.compress_chunk(c) FROM public.show_chunks('{table}') AS c"))
            .await;
    }
    let compressed = "SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed AND hypertable_schema IN ('log', 'read_v1')";
    assert_eq!(number(connection, compressed).await, 2);
    let hits = |text: &str| {
        let (views, search) = (db.views.clone(), Search { text: text.into(), ..Search::default() });
        async move { views.search(&search, None, 10).await.unwrap().items.len() }
    };
    assert_eq!(hits("dogs").await, 4, "search reads compressed slices too");

    let again = Entry::of(&log.envelope(0, 0, 1, said(0, 1, "A fox barked."))).unwrap();
    let gone = log.entry(1, RecordingDeleted { by: "api".into(), drop_id: None });
    let applied = db.apply(&[held_back, again, gone.clone(), gone]).await;
    assert_eq!((applied.fresh, applied.repeated), (3, 1));
    assert_eq!(db.apply(&entries).await.fresh, 0);
    assert_eq!((hits("dogs").await, hits("fox").await), (2, 1));
    let row = db.views.recording(recording(3)).await.unwrap().unwrap();
    assert_eq!(row.state.status, Status::Complete);
    let transcript = db.views.transcript(recording(0), None).await.unwrap().unwrap();
    assert_eq!(transcript.text(), "The cats ran. A fox barked.");
    assert_eq!(db.views.transcript(recording(1), None).await.unwrap(), None);
}

async fn adds_up_usage(db: &Database, connection: &mut PgConnection) {
    let (from, until) = (at(-3_600_000), at(7_200_000));
    let live = db.views.usage(None, from, until).await.unwrap();
    assert_eq!(live.len(), 2);
    assert_eq!((live[1].recordings, live[1].audio_ms, live[1].transcribed_ms), (2, 80_000, 38_000));
    db.views.refresh_usage(from, until).await.unwrap();
    assert_eq!(db.views.usage(None, from, until).await.unwrap(), live);
    let materialized = "SELECT count(*) FROM timescaledb_information.continuous_aggregates \
                        WHERE view_schema = 'read_v1' AND view_name = 'usage_hourly' AND NOT materialized_only";
    assert_eq!(number(connection, materialized).await, 1);

    // A write to an hour that was added up shows after the next refresh.
    let mut log = Log::new(1);
    db.apply(&log.whole(8, &["Late."])).await;
    db.views.refresh_usage(from, until).await.unwrap();
    assert_eq!(db.views.usage(None, from, until).await.unwrap()[1].recordings, 3);

    let jobs = "SELECT job_id::bigint FROM timescaledb_information.jobs \
                WHERE proc_name = 'policy_refresh_continuous_aggregate' AND hypertable_name IS NOT NULL \
                ORDER BY job_id DESC LIMIT 1";
    let job = number(connection, jobs).await;
    run_job(connection, job).await;
}

async fn builds_another_version(db: &Database, connection: &mut PgConnection) {
    let before = db.dump().await;
    let building = db.views.build().await.unwrap();
    for checkpoint in db.views.checkpoints().await.unwrap() {
        let (shard, through) = (checkpoint.shard, checkpoint.contiguous_seq);
        let stretch = db.views.archive(shard, 0, through).await.unwrap();
        let entries = db.views.archived(&stretch, 0, through).await.unwrap();
        building.fold(shard, 0, through, entries).await.unwrap();
    }
    building.finish().await.unwrap();
    for table in TABLES {
        assert_eq!(building.compare_page(table, None).await.unwrap(), (vec![], None));
    }
    let (nothing, limit) = (Recordings::new(), Duration::from_secs(5));
    let switched = building.switch(&nothing, &BTreeSet::new(), true, limit).await.unwrap();
    assert_eq!(switched, Switched::Done);
    assert_eq!(db.dump().await, before);
    assert_eq!(db.views.usage(None, at(-3_600_000), at(7_200_000)).await.unwrap()[1].recordings, 3);
    let policies = "SELECT count(*) FROM timescaledb_information.jobs \
                    WHERE hypertable_schema = 'read_v2' AND proc_name = 'policy_compression'";
    assert_eq!(number(connection, policies).await, 1, "the new version has the policies of the old");
    let [old, new] = <[_; 2]>::try_from(db.views.projections().await.unwrap()).unwrap();
    db.views.drop_version(&old.schema).await.unwrap();
    assert!(matches!(db.views.drop_version(&new.schema).await, Err(views::Error::Serves(_))));
    let left = "SELECT count(*) FROM timescaledb_information.hypertables \
                WHERE hypertable_schema LIKE 'read_v%' AND hypertable_schema <> 'read_v2'";
    assert_eq!(number(connection, left).await, 0);
    assert_eq!(db.dump().await, before);
}

async fn keeps_policies(db: &Database, connection: &mut PgConnection) {
    let compression = "SELECT job_id::bigint FROM timescaledb_information.jobs \
                       WHERE proc_name = 'policy_compression' AND hypertable_schema = 'log'";
    let first = number(connection, compression).await;
    db.views.migrate(&Policies::default()).await.unwrap();
    assert_eq!(number(connection, compression).await, first, "the same policy is left alone");
    run_job(connection, first).await;

    let day = Duration::from_secs(86_400);
    let strict =
        Policies { compress_events_after: None, retain_segments: Some(30 * day), ..Policies::default() };
    db.views.migrate(&strict).await.unwrap();
    let count = "SELECT count(*) FROM timescaledb_information.jobs \
                 WHERE proc_name = 'policy_compression' AND hypertable_schema IN ('log', 'read_v2')";
    assert_eq!(number(connection, count).await, 1, "only the segments' is left");
    let retention = "SELECT job_id::bigint FROM timescaledb_information.jobs \
                 WHERE proc_name = 'policy_retention' AND hypertable_schema = 'read_v2'";
    let job = number(connection, retention).await;
    assert!(number(connection, "SELECT count(*) FROM read_v2.segments").await > 0);
    run_job(connection, job).await;
    assert_eq!(
        number(connection, "SELECT count(*) FROM read_v2.segments").await,
        0,
        "all of it is older than 30 days"
    );
    assert!(number(connection, "SELECT count(*) FROM log.events").await > 0, "events are kept");
    db.views.migrate(&Policies::default()).await.unwrap();
    let count = "SELECT count(*) FROM timescaledb_information.jobs \
                 WHERE proc_name = 'policy_retention' AND hypertable_schema = 'read_v2'";
    assert_eq!(number(connection, count).await, 0);
}

async fn erases_and_expires_in_compressed_slices(db: &Database, connection: &mut PgConnection) {
    run(
        connection,
        "SELECT public.compress_chunk(c, if_not_compressed => true) FROM public.show_chunks('log.events') AS c",
    )
    .await;
    // Every slice has more than this. The server has one session for all, so it holds in the pool too.
    run(connection, "SET timescaledb.max_tuples_decompressed_per_dml_transaction = 1").await;
    let refused = sqlx::raw_sql("DELETE FROM log.events WHERE type = 'SegmentTranscribed'");
    let error = refused.execute(&mut *connection).await.unwrap_err().to_string();
    assert!(error.contains("tuple decompression limit exceeded"), "{error}");

    let left = "SELECT count(*) FROM log.events";
    let mut events = number(connection, left).await;
    // The second one finds the slice taken apart in part.
    for (n, removed) in [(0, 5), (2, 4)] {
        let envelope = Log::new(0).envelope(n, 0, 0, RecordingDeleted { by: "api".into(), drop_id: None });
        let deletion = Deletion {
            recording: envelope.recording,
            tenant: envelope.tenant,
            submitted_at: envelope.submitted_at,
            drop_id: None,
            by: "api".into(),
        };
        assert_eq!(db.views.erase_rows(&deletion, Shard(0), &[]).await.unwrap(), removed);
        events -= removed as i64;
        assert_eq!(number(connection, left).await, events);
    }

    let rule = Rule { tenant: None, what: Kept::Events, keep: Keep::For(Duration::from_secs(86_400)) };
    db.views.set_retention(&rule).await.unwrap();
    let tenants = number(connection, "SELECT count(DISTINCT tenant) FROM log.events").await;
    let now = at(200_000_000);
    let mut pages = 0;
    while db.views.expire_events(now, 3).await.unwrap() > 0 {
        pages += 1;
    }
    assert!(pages > 1, "{pages}");
    assert_eq!(number(connection, left).await, 0);
    assert_eq!(number(connection, "SELECT count(*) FROM control.expired_events").await, tenants);
}
