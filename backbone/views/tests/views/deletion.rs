//! Deletion means gone, and things go when they are old enough.

use std::time::Duration;

use events::*;
use serde_json::json;
use sqlx::Row;
use transcript::Status;
use views::{Entry, Keep, Kept, Rule};

use crate::given::*;
use crate::support::*;

fn deletion(n: u32) -> Deletion {
    let envelope = Log::new(0).envelope(n, 0, 0, RecordingDeleted { by: "api".into(), drop_id: None });
    Deletion {
        recording: envelope.recording,
        tenant: envelope.tenant,
        submitted_at: envelope.submitted_at,
        drop_id: Some(format!("drop-{n}")),
        by: "api".to_owned(),
    }
}

/// The deletion of `n` as it stands in the log.
fn deleted(log: &mut Log, n: u32) -> Entry {
    let event = RecordingDeleted { by: "api".into(), drop_id: Some(format!("drop-{n}")) };
    let envelope = Envelope { event_id: deletion(n).envelope(1).event_id, ..log.envelope(n, 0, 0, event) };
    Entry::of(&envelope).unwrap()
}

/// Everything the database holds, in one text.
async fn everything(db: &Database) -> String {
    let mut connection = db.connection().await;
    let tables = "SELECT table_schema || '.' || table_name AS name FROM information_schema.tables \
                  WHERE table_type = 'BASE TABLE' AND table_schema ~ '^(log|control|read_v)' ORDER BY 1";
    let mut text = String::new();
    for row in sqlx::query(tables).fetch_all(&mut connection).await.unwrap() {
        let sql = format!("SELECT t::text AS line FROM {} t", row.get::<String, _>("name"));
        for row in sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap() {
            text += &row.get::<String, _>("line");
            text.push('\n');
        }
    }
    text
}

async fn kinds(db: &Database, n: u32) -> Vec<String> {
    let sql = "SELECT type FROM log.events WHERE recording = $1 ORDER BY seq";
    let ids = sqlx::query_scalar(sql).bind(recording(n).as_uuid());
    ids.fetch_all(&mut db.connection().await).await.unwrap()
}

#[test]
fn what_is_erased_is_nowhere_and_its_places_are_known_gaps() {
    with_database(|db| async move {
        let mut log = Log::new(0);
        let mut entries = log.whole(1, &["A secret."]);
        entries.extend(log.whole(2, &["Kept."]));
        db.apply(&entries).await;
        assert!(db.views.request_erasure(&deletion(1)).await.unwrap());
        assert!(!db.views.request_erasure(&deletion(1)).await.unwrap(), "once is enough");
        assert_eq!(db.views.open_erasures(9).await.unwrap()[0].folded_at, None);

        db.apply(&[deleted(&mut log, 1)]).await;
        let [open] = db.views.open_erasures(9).await.unwrap().try_into().unwrap();
        assert!(open.folded_at.is_some() && open.completed_at.is_none(), "{open:?}");
        assert_eq!(open.deletion, deletion(1));
        // A fact that was on its way, and one of a type of a later release.
        let late = log.entry(1, said(0, 7, "A late secret."));
        let envelope = log.envelope(1, 0, 0, RecordingDeleted { by: "secret".into(), drop_id: None });
        let strange = events::encode(&envelope).unwrap().replace("RecordingDeleted", "RecordingSummarised");
        db.apply(&[late, Entry::read(Shard(0), log.seq, strange.as_bytes()).unwrap()]).await;
        assert_eq!(kinds(&db, 1).await.last().unwrap(), "RecordingDeleted", "later ones are not archived");

        // A fact that was erased from the log before anybody folded it.
        log.seq += 1;
        for _ in 0..2 {
            let removed = db.views.erase_rows(&deletion(1), Shard(0), &[log.seq]).await.unwrap();
            assert!(removed == 3 || removed == 0, "{removed}");
        }
        assert!(!db.views.complete_erasure(&open, &json!({})).await.unwrap(), "facts came meanwhile");
        let [open] = db.views.open_erasures(9).await.unwrap().try_into().unwrap();
        assert!(db.views.complete_erasure(&open, &json!({ "facts": 3 })).await.unwrap());
        assert_eq!(kinds(&db, 1).await, ["RecordingDeleted"]);
        assert!(db.views.open_erasures(9).await.unwrap().is_empty());
        assert!(db.views.erasure(recording(1)).await.unwrap().unwrap().completed_at.is_some());
        assert_eq!(db.views.archived_through(Shard(0)).await.unwrap(), log.seq, "nothing is waited for");
        let all = everything(&db).await;
        assert!(!all.contains("secret") && !all.contains("Talk 1"), "{all}");
        assert!(all.contains("Kept.") && all.contains("Talk 2"), "others stay");
    });
}

/// A Redis that went back in time has forgotten the mark, and does a deleted recording once more.
#[test]
fn a_fact_behind_an_erasure_opens_it_again() {
    with_database(|db| async move {
        let mut log = Log::new(0);
        let facts = log.whole(1, &["A secret."]);
        db.apply(&facts).await;
        db.apply(&[deleted(&mut log, 1)]).await;
        let erase = || async {
            let [open] = db.views.open_erasures(9).await.unwrap().try_into().unwrap();
            db.views.erase_rows(&open.deletion, Shard(0), &[]).await.unwrap();
            assert!(db.views.complete_erasure(&open, &json!({})).await.unwrap());
            assert!(db.views.open_erasures(9).await.unwrap().is_empty());
        };
        erase().await;
        // The deletion's own fact comes again whenever Redis is told again.
        db.apply(&[deleted(&mut log, 1)]).await;
        assert!(db.views.open_erasures(9).await.unwrap().is_empty());
        // A fact that is new, and the very ones that were folded and erased.
        db.apply(&[log.entry(1, said(0, 7, "A late secret."))]).await;
        erase().await;
        db.apply(&facts).await;
        erase().await;
        // Others' facts are nothing to it.
        db.apply(&log.whole(2, &["Kept."])).await;
        assert!(db.views.open_erasures(9).await.unwrap().is_empty());
        assert!(!everything(&db).await.contains("secret"));
    });
}

#[test]
fn a_rebuild_from_what_is_left_gives_the_same_row() {
    with_database(|db| async move {
        let mut log = Log::new(0);
        let mut entries = log.whole(1, &["A secret."]);
        entries.push(deleted(&mut log, 1));
        db.apply(&entries).await;
        db.views.erase_rows(&deletion(1), Shard(0), &[]).await.unwrap();
        let before = db.dump().await;
        let mut connection = db.connection().await;
        let rows = sqlx::query("SELECT seq, event FROM log.events").fetch_all(&mut connection).await.unwrap();
        assert_eq!(rows.len(), 1);
        let tables = "TRUNCATE read_v1.recordings, read_v1.transcripts, read_v1.segments, control.inbox, control.checkpoints, log.events";
        sqlx::query(tables).execute(&mut connection).await.unwrap();
        let event: String = rows[0].get("event");
        let seq: i64 = rows[0].get("seq");
        db.apply(&[Entry::read(Shard(0), seq.unsigned_abs(), event.as_bytes()).unwrap()]).await;
        assert_eq!(db.dump().await, before);
        assert!(before.contains("drop-1"), "its sender may still ask by its drop: {before}");
    });
}

#[test]
fn an_older_schema_of_the_read_side_is_emptied_too() {
    with_database(|db| async move {
        let mut log = Log::new(0);
        let mut entries = log.whole(1, &["A secret."]);
        entries.extend(log.whole(2, &["Kept."]));
        db.apply(&entries).await;
        let mut connection = db.connection().await;
        for sql in [
            "CREATE SCHEMA read_v2",
            "CREATE TABLE read_v2.recordings AS TABLE read_v1.recordings",
            "CREATE TABLE read_v2.transcripts AS TABLE read_v1.transcripts",
            "CREATE TABLE read_v2.segments AS TABLE read_v1.segments",
            "INSERT INTO control.projections (schema, layout, state) VALUES ('read_v2', 1, 'old')",
        ] {
            sqlx::query(sql).execute(&mut connection).await.unwrap();
        }
        db.apply(&[deleted(&mut log, 1)]).await;
        db.views.erase_rows(&deletion(1), Shard(0), &[]).await.unwrap();
        let all = everything(&db).await;
        assert!(!all.contains("secret") && !all.contains("Talk 1"), "{all}");
        assert_eq!(
            all.matches("Talk 2").count(),
            5,
            "in both schemas, each with its facts, and in the archive: {all}"
        );
    });
}

#[test]
fn the_inbox_forgets_what_no_log_gives_again() {
    with_database(|db| async move {
        let mut entries = Log::new(0).whole(1, &["a", "b"]);
        entries.extend(Log::new(1).whole(2, &["c"]));
        db.apply(&entries).await;
        assert_eq!(db.views.forget_inbox(&[(Shard(0), 3), (Shard(2), 9)]).await.unwrap(), 3);
        assert_eq!(db.views.forget_inbox(&[(Shard(0), 3)]).await.unwrap(), 0);
        let before = (db.dump().await, kinds(&db, 1).await);
        let again = db.apply(&entries).await;
        assert_eq!((again.fresh, again.conflicts.len()), (0, 0), "the archive knows what comes all the same");
        assert_eq!((db.dump().await, kinds(&db, 1).await), before);
    });
}

#[test]
fn things_go_when_they_are_old_enough() {
    with_database(|db| async move {
        // Recording 1 is of acme and 60 s older than 2 of default, which is 60 s older than 3 of acme.
        let mut log = Log::new(0);
        let mut entries: Vec<Entry> = (1..=3).flat_map(|n| log.whole(n, &["Said."])).collect();
        entries.push(log.entry(4, admitted("drop-4", "still in work")));
        db.apply(&entries).await;
        let now = at(1_000_000);
        let expired = async || db.views.expired_recordings(now, 9).await.unwrap();
        assert_eq!(expired().await, [], "without a rule everything is kept");
        let age = |n: u32| Duration::from_secs(1000 - u64::from(n) * 60);
        let set = async |tenant: Option<&str>, what, keep| {
            let tenant = tenant.map(|tenant| tenant.parse().unwrap());
            db.views.set_retention(&Rule { tenant, what, keep }).await.unwrap();
        };
        set(None, Kept::Transcripts, Keep::For(age(2) - Duration::from_secs(1))).await;
        let ids = |found: Vec<Deletion>| found.into_iter().map(|d| d.recording).collect::<Vec<_>>();
        assert_eq!(ids(expired().await), [recording(1), recording(2)]);
        set(Some("acme"), Kept::Transcripts, Keep::Forever).await;
        let [only] = expired().await.try_into().unwrap();
        assert_eq!((only.recording, only.by.as_str()), (recording(2), "retention"));
        assert_eq!(only.drop_id.as_deref(), Some("drop-2"));
        db.views.request_erasure(&only).await.unwrap();
        assert_eq!(expired().await, [], "it is on its way");

        set(None, Kept::Audio, Keep::For(Duration::from_secs(1))).await;
        let audio = async || db.views.expired_audio(now, 9).await.unwrap();
        let found: Vec<_> = audio().await.into_iter().map(|(recording, _)| recording).collect();
        assert_eq!(found, [1, 2, 3].map(recording), "work needs its audio");
        db.views.note_expired_audio(&found[..2]).await.unwrap();
        assert_eq!(audio().await.len(), 1);
        assert_eq!(db.views.audio_expired_at(&found).await.unwrap().len(), 2);

        set(Some("acme"), Kept::Events, Keep::For(age(1) - Duration::from_secs(1))).await;
        assert_eq!(db.views.expire_events(now, 2).await.unwrap(), 2, "at most so many at once");
        assert_eq!(db.views.expire_events(now, 9).await.unwrap(), 1);
        assert_eq!(
            (kinds(&db, 1).await.len(), kinds(&db, 2).await.len(), kinds(&db, 3).await.len()),
            (0, 3, 3)
        );
        let row = db.views.recording(recording(1)).await.unwrap().unwrap();
        assert_eq!(row.state.status, Status::Complete, "what readers see stays");

        let rules = db.views.retention().await.unwrap();
        let told: Vec<_> = rules.iter().map(|r| (r.tenant.as_ref().map(Tenant::as_str), r.what)).collect();
        assert_eq!(
            told,
            [
                (None, Kept::Audio),
                (None, Kept::Transcripts),
                (Some("acme"), Kept::Transcripts),
                (Some("acme"), Kept::Events)
            ]
        );
        let acme = "acme".parse().unwrap();
        assert!(db.views.unset_retention(Some(&acme), Kept::Events).await.unwrap());
        assert!(!db.views.unset_retention(Some(&acme), Kept::Events).await.unwrap());
    });
}
