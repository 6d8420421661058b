//! What a batch does to the tables.

use events::*;
use sqlx::{Connection, Row};
use transcript::{Recording, Status};
use views::{Conflict, Entry, EntryError, Error};

use crate::given::*;
use crate::support::{Database, with_database};

#[test]
fn a_recording_becomes_a_transcript() {
    with_database(|db| async move {
        let mut log = Log::new(3);
        let entries = log.whole(1, &["Hello there.", "My friend."]);
        let applied = db.apply(&entries).await;
        assert_eq!((applied.fresh, applied.repeated, applied.recordings), (4, 0, vec![recording(1)]));

        let row = db.views.recording(recording(1)).await.unwrap().unwrap();
        assert_eq!(row.state.status, Status::Complete);
        assert_eq!(
            (row.state.audio_ms, row.state.decoded_ms, row.state.transcribed_ms),
            (40_000, 40_000, 19_000)
        );
        assert_eq!((row.state.segments, row.state.transcribed_segments), (Some(2), 2));
        assert_eq!(row.state.completed_at, entries[3].envelope().map(|envelope| envelope.occurred_at));
        assert_eq!((row.name.as_deref(), row.drop_id.as_deref()), (Some("Talk 1.mp3"), Some("drop-1")));
        assert_eq!((row.settings, row.metadata["call"].as_str()), (Some(settings()), "17"));
        let transcript = db.views.transcript(recording(1), None).await.unwrap().unwrap();
        assert_eq!(transcript.text(), "Hello there. My friend.");
        assert_eq!(transcript.truncated, Some((39_000, "unexpected end of file".into())));
    });
}

#[test]
fn repeats_change_nothing_but_count() {
    with_database(|db| async move {
        let entries = Log::new(0).whole(2, &["One.", "Two."]);
        db.apply(&entries).await;
        let before = db.dump().await;
        let twice = [entries.clone(), entries.clone()].concat();
        let applied = db.apply(&twice).await;
        assert_eq!((applied.fresh, applied.repeated), (0, 8));
        assert!(applied.recordings.is_empty() && applied.conflicts.is_empty());
        assert_eq!(db.dump().await, before);
        assert_eq!(db.apply(&[]).await, views::Applied::default());
        let (archived,): (i64,) = sqlx::query_as("SELECT count(*) FROM log.events")
            .fetch_one(&mut db.connection().await)
            .await
            .unwrap();
        assert_eq!(archived, 4);
    });
}

pub async fn same_as_fold(db: &Database, events: &[Envelope], seed: u64) {
    for n in 0..4 {
        let mine = events.iter().filter(|event| event.recording == recording(n));
        let fold = Recording::fold(mine).unwrap();
        let row = db.views.recording(recording(n)).await.unwrap().unwrap();
        assert_eq!(row.state, fold.state(), "seed {seed}, recording {n}");
        assert_eq!(row.generation, fold.visible(), "seed {seed}, recording {n}");
        let transcript = db.views.transcript(recording(n), None).await.unwrap();
        assert_eq!(transcript, fold.transcript(None), "seed {seed}, recording {n}");
        let generations = db.views.generations(recording(n)).await.unwrap();
        let folded = fold.generations();
        assert_eq!(generations.len(), folded.len(), "seed {seed}, recording {n}");
        for row in generations {
            assert_eq!(
                row.state, folded[&row.generation].1,
                "seed {seed}, recording {n}, {}",
                row.generation
            );
            let transcript = db.views.transcript(recording(n), Some(row.generation)).await.unwrap();
            assert_eq!(transcript, fold.transcript(Some(row.generation)));
        }
    }
}

#[test]
fn many_rows_at_once_are_the_rows_of_many_small_batches() {
    with_database(|db| async move {
        let mut log = Log::new(0);
        let mut first: Vec<Entry> = (0..80).flat_map(|n| log.whole(n, &["One.", "Two."])).collect();
        let better = |n| Entry::of(&log.envelope(n, 0, 1, said(0, 1, "Better."))).unwrap();
        let second: Vec<Entry> = (0..80).map(better).collect();
        // Half of them stand in the tables when the others come.
        let rest = first.split_off(160);
        let mut dumps = Vec::new();
        for few in [false, true] {
            for batch in [&first, &[rest.clone(), second.clone()].concat()] {
                for part in batch.chunks(if few { 7 } else { batch.len() }) {
                    db.apply(part).await;
                }
            }
            let archive = "SELECT string_agg(e::text, ' ' ORDER BY shard, seq) FROM log.events e";
            let mut connection = db.connection().await;
            let (archive,): (String,) = sqlx::query_as(archive).fetch_one(&mut connection).await.unwrap();
            dumps.push(db.dump().await + &archive);
            let tables = "TRUNCATE read_v1.recordings, read_v1.transcripts, read_v1.segments, log.events, control.inbox, \
                          control.checkpoints";
            sqlx::raw_sql(tables).execute(&mut connection).await.unwrap();
        }
        assert!(dumps[0].contains("Better."));
        assert_eq!(dumps[0], dumps[1]);
    });
}

#[test]
fn any_order_gives_the_rows_of_the_pure_fold() {
    with_database(|db| async move {
        let mut connection = db.connection().await;
        for seed in 0..40 {
            let events = history(seed);
            let mut dumps = Vec::new();
            for order in 0..2 {
                let tables = "read_v1.recordings, read_v1.transcripts, read_v1.segments, log.events, control.inbox, \
                              control.checkpoints";
                let sql = sqlx::AssertSqlSafe(format!("TRUNCATE {tables}"));
                sqlx::query(sql).execute(&mut connection).await.unwrap();
                for batch in shuffled(&events, seed * 2 + order) {
                    db.apply(&batch).await;
                }
                same_as_fold(&db, &events, seed).await;
                dumps.push(db.dump().await);
            }
            assert_eq!(dumps[0], dumps[1], "seed {seed}");
            for checkpoint in db.views.checkpoints().await.unwrap() {
                assert!(
                    checkpoint.gaps.is_empty() && checkpoint.contiguous_seq == checkpoint.applied,
                    "{checkpoint:?}"
                );
            }
        }
    });
}

#[test]
fn the_archive_folds_to_the_same_rows() {
    with_database(|db| async move {
        for batch in shuffled(&history(7), 7) {
            db.apply(&batch).await;
        }
        let before = db.dump().await;
        let mut connection = db.connection().await;
        let rows = sqlx::query("SELECT shard, seq, event FROM log.events ORDER BY shard, seq")
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let tables =
            "TRUNCATE read_v1.recordings, read_v1.transcripts, read_v1.segments, log.events, control.inbox";
        sqlx::query(tables).execute(&mut connection).await.unwrap();
        for row in rows {
            let (shard, seq): (i32, i64) = (row.get("shard"), row.get("seq"));
            let event: String = row.get("event");
            db.apply(&[Entry::read(Shard(shard as u16), seq as u64, event.as_bytes()).unwrap()]).await;
        }
        assert_eq!(db.dump().await, before);
    });
}

#[test]
fn deletion_wins_whatever_comes_after() {
    with_database(|db| async move {
        let mut log = Log::new(0);
        let mut entries = log.whole(1, &["A secret."]);
        entries.push(log.entry(1, RecordingDeleted { by: "api".into(), drop_id: None }));
        entries.push(log.entry(1, said(0, 1, "Another secret.")));
        let late = Entry::of(&log.envelope(1, 0, 5, said(0, 0, "A late secret."))).unwrap();
        entries.push(late);
        entries.push(Entry::of(&log.envelope(1, 1, 0, requested(Activation::Auto))).unwrap());
        for entry in &entries {
            db.apply(std::slice::from_ref(entry)).await;
        }
        let row = db.views.recording(recording(1)).await.unwrap().unwrap();
        assert_eq!((row.state.status, row.name, row.generation), (Status::Deleted, None, None));
        assert_eq!(row.drop_id.as_deref(), Some("drop-1"), "so that its drop is known to have ended");
        assert_eq!(db.views.transcript(recording(1), None).await.unwrap(), None);
        assert!(!db.dump().await.to_lowercase().contains("secret"));
        assert!(db.views.generations(recording(1)).await.unwrap().is_empty());
    });
}

#[test]
fn checkpoints_show_gaps_and_declared_gaps_close_them() {
    with_database(|db| async move {
        let entries = Log::new(5).whole(1, &["a", "b", "c", "d"]);
        assert_eq!(db.views.archived_through(Shard(5)).await.unwrap(), 0);
        db.apply(&entries[1..2]).await;
        assert_eq!(db.views.archived_through(Shard(5)).await.unwrap(), 0, "the first one is missing");
        db.apply(&entries[..1]).await;
        assert_eq!(db.views.archived_through(Shard(5)).await.unwrap(), 2);
        db.apply(&entries[5..]).await;
        let [checkpoint] = db.views.checkpoints().await.unwrap().try_into().unwrap();
        assert_eq!((checkpoint.max_seq, checkpoint.contiguous_seq, checkpoint.applied), (6, 2, 3));
        assert_eq!(checkpoint.gaps, [(3, 5)]);
        db.views.declare_gap(Shard(5), 3, 4, "trimmed by hand").await.unwrap();
        db.views.declare_gap(Shard(5), 3, 4, "trimmed by hand").await.unwrap();
        assert_eq!(db.views.archived_through(Shard(5)).await.unwrap(), 4);
        let applied = db.apply(&entries).await;
        assert_eq!(
            (applied.fresh, applied.conflicts.len()),
            (3, 0),
            "what was only declared lost is no conflict"
        );
        assert_eq!(db.views.archived_through(Shard(5)).await.unwrap(), 6);
        db.views.declare_gap(Shard(9), 1, 7, "before this database").await.unwrap();
        assert_eq!(db.views.archived_through(Shard(9)).await.unwrap(), 7);
        assert_eq!(db.views.all_archived_through(10).await.unwrap(), [0, 0, 0, 0, 0, 6, 0, 0, 0, 7]);
        assert_eq!(db.views.all_archived_through(6).await.unwrap(), [0, 0, 0, 0, 0, 6]);
    });
}

#[test]
fn two_events_with_one_seq_are_reported_and_both_applied() {
    with_database(|db| async move {
        let (mut log, mut other) = (Log::new(0), Log::new(0));
        let first = log.whole(1, &["one"]);
        db.apply(&first).await;
        other.seq = 0;
        let second = Entry::of(&other.envelope(2, 0, 0, requested(Activation::Auto))).unwrap();
        let ids = [&first[0], &second].map(|entry| entry.envelope().unwrap().event_id);
        let applied = db.apply(std::slice::from_ref(&second)).await;
        let conflict = Conflict { shard: Shard(0), seq: 1, first: ids[0], second: ids[1] };
        assert_eq!((applied.fresh, applied.conflicts), (1, vec![conflict]));
        assert!(db.apply(&[second]).await.conflicts.is_empty(), "said once");
        assert!(db.views.recording(recording(2)).await.unwrap().is_some());

        // Both in one batch.
        let (mut log, mut other) = (Log::new(1), Log::new(1));
        let pair = [log.entry(4, admitted("x", "x")), Entry::of(&other.envelope(6, 0, 0, failed())).unwrap()];
        assert_eq!(db.apply(&pair).await.conflicts.len(), 2, "each against the other");
    });
}

#[test]
fn unknown_types_are_archived_and_nothing_else() {
    with_database(|db| async move {
        let mut log = Log::new(0);
        let envelope = log.envelope(1, 0, 0, failed());
        let json = events::encode(&envelope).unwrap();
        let unknown = json.replace("\"RecordingFailed\"", "\"RecordingSung\"");
        let entry = Entry::read(Shard(0), 1, unknown.as_bytes()).unwrap();
        assert_eq!((entry.kind(), entry.envelope()), ("RecordingSung", None));
        let applied = db.apply(&[entry]).await;
        assert_eq!((applied.fresh, applied.recordings.len()), (1, 0));
        assert_eq!(db.views.recording(recording(1)).await.unwrap(), None);
        assert_eq!(db.views.archived_through(Shard(0)).await.unwrap(), 1);
        let (archived,): (String,) = sqlx::query_as("SELECT event FROM log.events")
            .fetch_one(&mut db.connection().await)
            .await
            .unwrap();
        assert_eq!(archived, unknown, "byte for byte");
    });
}

#[test]
fn what_cannot_be_an_event_says_why() {
    let mut log = Log::new(0);
    let newer =
        events::encode(&log.envelope(1, 0, 0, failed())).unwrap().replace("\"version\":1", "\"version\":99");
    let error = Entry::read(Shard(0), 1, newer.as_bytes()).unwrap_err();
    assert!(matches!(error, EntryError::Newer { version: 99, .. }), "{error}");
    assert!(matches!(Entry::read(Shard(0), 1, b"{}"), Err(EntryError::Codec(_))));
    assert!(matches!(Entry::read(Shard(0), 1, b"\xff"), Err(EntryError::Codec(_))));
    let mut endless = said(0, 0, "hm");
    endless.end_ms = u64::MAX;
    let endless = Entry::of(&log.envelope(1, 0, 0, endless));
    assert!(matches!(endless, Err(EntryError::Range { number: u64::MAX, .. })), "{endless:?}");
    let unplaced = Envelope { seq: None, ..log.envelope(1, 0, 0, failed()) };
    assert!(matches!(Entry::of(&unplaced), Err(EntryError::Range { .. })));
}

#[test]
fn what_postgresql_cannot_store_is_replaced() {
    with_database(|db| async move {
        let mut log = Log::new(0);
        let mut talk = admitted("drop\0", "a\0b \\u0000.mp3");
        talk.metadata.insert("k\0".into(), "v\0".into());
        let entries =
            [log.entry(1, talk), log.entry(1, said(0, 0, "nul \0 here")), log.entry(1, decoded(&[1]))];
        db.apply(&entries).await;
        let row = db.views.recording(recording(1)).await.unwrap().unwrap();
        assert_eq!(row.name.as_deref(), Some("a\u{fffd}b \\u0000.mp3"));
        assert_eq!(row.metadata["k\u{fffd}"], "v\u{fffd}");
        assert_eq!(
            db.views.transcript(recording(1), None).await.unwrap().unwrap().text(),
            "nul \u{fffd} here"
        );
    });
}

#[test]
fn limits_of_the_numbers_are_kept() {
    with_database(|db| async move {
        let mut log = Log::new(u16::MAX);
        let mut far = said(u16::MAX, u32::MAX, "far");
        (far.start_ms, far.end_ms) = (1, 1 << 47);
        let far = Entry::of(&log.envelope(1, u32::MAX, u32::MAX, far)).unwrap();
        db.apply(&[far]).await;
        let transcript = db.views.transcript(recording(1), None).await.unwrap().unwrap();
        assert_eq!((transcript.generation, transcript.segments[0].index), (u32::MAX, u32::MAX));
    });
}

#[test]
fn a_refused_batch_leaves_nothing() {
    with_database(|db| async move {
        let mut connection = db.connection().await;
        sqlx::query("ALTER TABLE log.events ADD CHECK (seq <> 3)").execute(&mut connection).await.unwrap();
        let entries = Log::new(0).whole(1, &["one", "two"]);
        let error = db.views.apply(&entries).await.unwrap_err();
        assert!(matches!(error, views::ApplyError::Fatal(Error::Refused(_))), "{error:?}");
        assert_eq!(db.dump().await, "");
        assert!(db.views.checkpoints().await.unwrap().is_empty());
        db.apply(&entries[..2]).await;
        assert_eq!(db.views.archived_through(Shard(0)).await.unwrap(), 2);
        connection.close().await.unwrap();
    });
}
