//! One shard's facts in order, from the archive and then the log.

use std::collections::BTreeMap;

use events::{Envelope, EventId, Shard, now};
use project::history::{Facts, History, HistoryError, Origin};
use views::Entry;

use crate::given::*;
use crate::pipeline::Writer;
use crate::support::with_database;

/// Reads all there is just now: seqs by origin, and how often each event came.
async fn read_all(history: &mut History, times: &mut BTreeMap<EventId, usize>) -> (Vec<u64>, Vec<u64>) {
    let (mut archive, mut log) = (Vec::new(), Vec::new());
    while let Some(Facts { entries, origin, .. }) = history.next(4).await.unwrap() {
        for entry in entries {
            *times.entry(entry.event_id()).or_default() += 1;
            if origin == Origin::Archive { archive.push(entry.seq()) } else { log.push(entry.seq()) }
        }
    }
    (archive, log)
}

#[test]
fn the_archive_then_the_log_each_fact_once() {
    with_database(|db| async move {
        let mut writer = Writer::new(1);
        for n in 0..10 {
            writer.whole(n, &["one"]).await;
        }
        let entries = writer.entries(Shard(0)).await;
        assert_eq!(entries.len(), 30);
        // Archived: 1 to 12, and beyond a hole 15 to 18. Trimmed: what is archived without a hole.
        db.apply(&entries[..12]).await;
        db.apply(&entries[14..18]).await;
        writer.log.trim(Shard(0), 12).await.unwrap();

        let mut history = History::new(db.views.clone(), writer.log.clone(), Shard(0), 0);
        let mut times = BTreeMap::new();
        let (archive, log) = read_all(&mut history, &mut times).await;
        assert_eq!(archive, (1..=12).collect::<Vec<_>>(), "handed over below the first hole");
        assert_eq!(log, (13..=30).collect::<Vec<_>>());
        assert_eq!((history.archived(), history.ahead().count()), (12, 18));
        let told: Vec<_> = entries[12..].iter().map(Entry::recording).collect();
        let ahead: Vec<_> = history.ahead().collect();
        assert!(told.iter().all(|of| ahead.contains(of)) && ahead.iter().all(|of| told.contains(of)));

        // What came from the log comes up in the archive: known, and not given again.
        db.apply(&entries).await;
        writer.whole(10, &["two"]).await;
        let (archive, log) = read_all(&mut history, &mut times).await;
        assert_eq!((archive, log), (vec![], vec![31, 32, 33]));
        assert_eq!((history.archived(), history.ahead().count()), (30, 3));
        assert!(times.len() == 33 && times.values().all(|&times| times == 1), "{times:?}");

        // Another reader goes on from what was archived.
        let mut later = History::new(db.views.clone(), writer.log.clone(), Shard(0), 20);
        let (archive, log) = read_all(&mut later, &mut BTreeMap::new()).await;
        assert_eq!((archive, log), ((21..=30).collect(), vec![31, 32, 33]));
    });
}

#[test]
fn an_event_that_was_appended_twice_is_given_once() {
    with_database(|db| async move {
        let mut writer = Writer::new(1);
        writer.whole(0, &["one"]).await;
        let entries = writer.entries(Shard(0)).await;
        db.apply(&entries).await;
        // As after a failover: the log has the same event again, at a later place.
        let event = entries[1].envelope().unwrap();
        let again = streams::Message::fact(&event).unwrap();
        let other = writer.write(1, 0, 0, said(0, 0, "other")).await;
        let append = streams::Append {
            shard: Shard(0),
            recording: event.recording,
            facts: vec![
                streams::Message::fact(&Log { shard: Shard(0), seq: 99 }.envelope(2, 0, 0, failed()))
                    .unwrap(),
                again,
            ],
            work: None,
        };
        writer.log.append(&append).await.unwrap();

        let mut history = History::new(db.views.clone(), writer.log.clone(), Shard(0), 0);
        let mut times = BTreeMap::new();
        let (archive, log) = read_all(&mut history, &mut times).await;
        assert_eq!((archive.len(), log.len()), (3, 2), "the repeat is left out");
        assert_eq!((times[&event.event_id], times[&other.event_id]), (1, 1));
    });
}

#[test]
fn what_was_done_twice_is_given_as_it_was_folded() {
    with_database(|db| async move {
        let writer = Writer::new(1);
        // Folded, before a failover took its place in the log from it; then done again, later and elsewhere.
        let folded = Log { shard: Shard(0), seq: 49 }.envelope(1, 0, 0, said(0, 0, "one"));
        db.apply(&[Entry::of(&folded).unwrap()]).await;
        let again = Envelope { occurred_at: now(), ..folded.clone() };
        let append = streams::Append {
            shard: Shard(0),
            recording: again.recording,
            facts: vec![streams::Message::fact(&again).unwrap()],
            work: None,
        };
        writer.log.append(&append).await.unwrap();
        let mut history = History::new(db.views.clone(), writer.log.clone(), Shard(0), 0);
        let facts = history.next(10).await.unwrap().unwrap();
        let [given] = &facts.entries[..] else { panic!("{facts:?}") };
        assert_eq!((facts.origin, given.envelope()), (Origin::Log, Some(folded)));
    });
}

#[test]
fn what_cannot_be_read_is_named() {
    with_database(|db| async move {
        let mut writer = Writer::new(1);
        writer.whole(0, &["one"]).await;
        let entries = writer.entries(Shard(0)).await;
        db.apply(&entries).await;
        let sql =
            "UPDATE log.events SET event = replace(event, '\"version\":1', '\"version\":99') WHERE seq = 2";
        sqlx::query(sql).execute(&mut db.connection().await).await.unwrap();
        let mut history = History::new(db.views.clone(), writer.log.clone(), Shard(0), 0);
        let error = history.next(10).await.unwrap_err();
        assert!(!error.is_transient());
        let said = error.to_string();
        let id: EventId = entries.iter().map(Entry::event_id).nth(1).unwrap();
        assert!(
            said.contains(&id.to_string()) && said.contains("seq 2") && said.contains("version 99"),
            "{said}"
        );

        // In the log, the project stage has yet to send it to the dead letters.
        let empty = History::new(db.views.clone(), writer.log.clone(), Shard(0), 3);
        let bad = streams::Message { event_id: "x".into(), json: "{}".into(), ms: 0, bytes: 0 };
        let append =
            streams::Append { shard: Shard(0), recording: recording(7), facts: vec![bad], work: None };
        writer.log.append(&append).await.unwrap();
        let mut history = empty;
        let error = history.next(10).await.unwrap_err();
        assert!(matches!(error, HistoryError::Fact { seq: 4, .. }) && error.is_transient(), "{error}");
        db.views.declare_gap(Shard(0), 4, 4, "not projectable").await.unwrap();
        assert!(history.next(10).await.unwrap().is_some_and(|facts| facts.entries.is_empty()));
        assert!(history.next(10).await.unwrap().is_none());
    });
}
