//! How an entry ends: once, whole, and for good.

use events::{Lane, RecordingDeleted};
use streams::{Admission, Backlog, Message, Outcome, Queue, Source, keys};

use super::fixture::*;

on_both_logs!(
    a_commit_appends_its_outputs_and_ends_the_entry,
    the_first_to_finish_wins_and_a_repeat_writes_nothing,
    an_entry_nobody_took_cannot_be_committed,
    another_identity_under_the_same_id_is_left_alone,
    an_entry_whose_data_is_gone_is_acknowledged_and_writes_nothing,
    a_deleted_recording_leaves_nothing_behind,
    seq_is_contiguous_over_many_commits,
    counters_are_exact_over_appends_and_commits,
    a_dead_letter_keeps_the_original_fields,
    a_claim_lapses_for_its_holder_alone,
    a_drop_may_say_anything_and_still_ends,
);

async fn a_commit_appends_its_outputs_and_ends_the_entry(bench: Bench) {
    let work = requested(1);
    let entry = bench.one_taken(1, "a").await;
    let next = cut(&work, 0);
    let mut commit = commit_of(&entry, &[fact(&work, 0), fact(&work, 1)]);
    commit.outputs = vec![(SEGMENTS, Message::work(&next, 700, 22_400).unwrap())];
    assert_eq!(bench.log.commit(&commit).await.unwrap(), Outcome::Done);

    let facts = bench.facts();
    let ids: Vec<&str> = facts.iter().map(|fact| fact.text("event_id").unwrap()).collect();
    let expected = [fact(&work, 0), fact(&work, 1)].map(|fact| fact.event_id.to_string());
    assert_eq!(ids, expected);
    assert_eq!(bench.backlog(DECODE).await, Backlog::default());
    assert_eq!(bench.backlog(SEGMENTS).await, Backlog { entries: 1, audio_ms: 700, bytes: 22_400 });
    let passed_on = bench.log.take(GROUP, "b", SEGMENTS, 9).await.unwrap();
    assert_eq!(passed_on.len(), 1);
    assert_eq!(passed_on[0].text("event_id"), Some(next.event_id.to_string().as_str()));
    assert!(bench.claim("b", std::time::Duration::ZERO).await.is_empty(), "nothing is left to claim");
}

async fn the_first_to_finish_wins_and_a_repeat_writes_nothing(bench: Bench) {
    let work = requested(1);
    let first = bench.one_taken(1, "a").await;
    let second = bench.claim("b", std::time::Duration::ZERO).await.remove(0);
    assert_eq!(bench.commit(&second, &[fact(&work, 0)]).await, Outcome::Done);
    assert_eq!(bench.commit(&first, &[fact(&work, 1)]).await, Outcome::Lost, "the slower of two workers");
    assert_eq!(bench.commit(&second, &[fact(&work, 0)]).await, Outcome::Lost, "a lost reply, asked again");
    assert_eq!(bench.seqs(), [1]);
}

async fn an_entry_nobody_took_cannot_be_committed(bench: Bench) {
    let taken = bench.one_taken(1, "a").await;
    bench.add_work(2..3).await;
    let mut never = commit_of(&taken, &[fact(&requested(2), 0)]);
    never.id = "99999999999999-0".to_owned();
    assert_eq!(bench.log.commit(&never).await.unwrap(), Outcome::Lost);
    assert!(bench.seqs().is_empty());
    assert_eq!(bench.backlog(DECODE).await.entries, 2);
}

async fn another_identity_under_the_same_id_is_left_alone(bench: Bench) {
    let entry = bench.one_taken(1, "a").await;
    let mut commit = commit_of(&entry, &[fact(&requested(1), 0)]);
    for other in [requested(2).event_id.to_string(), String::new()] {
        commit.identity = other;
        assert_eq!(bench.log.commit(&commit).await.unwrap(), Outcome::Mismatch);
    }
    assert!(bench.seqs().is_empty());
    assert_eq!(bench.backlog(DECODE).await.entries, 1);
    assert_eq!(bench.commit(&entry, &[]).await, Outcome::Done, "it is still there for its own commit");
}

async fn an_entry_whose_data_is_gone_is_acknowledged_and_writes_nothing(bench: Bench) {
    let entry = bench.one_taken(1, "a").await;
    bench.remove(&entry);
    assert_eq!(bench.commit(&entry, &[fact(&requested(1), 0)]).await, Outcome::Gone);
    assert_eq!(bench.commit(&entry, &[fact(&requested(1), 0)]).await, Outcome::Lost, "acknowledged by then");
    assert!(bench.seqs().is_empty());
}

async fn a_deleted_recording_leaves_nothing_behind(bench: Bench) {
    let work = requested(1);
    let entry = bench.one_taken(1, "a").await;
    let emit = emit_of(&entry, &work, 0);
    bench.log.emit(&emit).await.unwrap();
    bench.mark_deleted(work.recording).await;

    let mut commit = commit_of(&entry, &[fact(&work, 0)]);
    commit.outputs = vec![(SEGMENTS, Message::work(&cut(&work, 7), 700, 1).unwrap())];
    commit.dead = Some(letter());
    commit.delete = vec![emit.speech_key.clone(), emit.cursor.clone()];
    assert_eq!(bench.log.commit(&commit).await.unwrap(), Outcome::Deleted);
    assert_eq!(bench.seqs(), [1], "only the deletion itself");
    assert_eq!(bench.backlog(DECODE).await, Backlog::default(), "the entry itself ends");
    assert_eq!(bench.backlog(SEGMENTS).await.entries, 1, "only the part of before");
    assert_eq!(bench.log.dead_letters(DECODE).await.unwrap(), 0);
    assert_eq!(bench.log.speech(SHARD, &segment_of(&work, 0), 0).await.unwrap(), None);

    let another = bench.one_taken(2, "a").await;
    assert_eq!(
        bench.commit(&another, &[fact(&requested(2), 0)]).await,
        Outcome::Done,
        "others are untouched"
    );
    assert_eq!(bench.seqs(), [1, 2]);
}

async fn seq_is_contiguous_over_many_commits(bench: Bench) {
    bench.add_work(0..20).await;
    let entries = bench.take("a", 20).await;
    let commits = entries.iter().zip(0..).map(|(entry, number)| {
        let facts: Vec<_> = (0..number % 3).map(|index| fact(&requested(number), index)).collect();
        let bench = &bench;
        async move { assert_eq!(bench.commit(entry, &facts).await, Outcome::Done) }
    });
    futures::future::join_all(commits).await;
    let expected: Vec<u64> = (1..=(0..20).map(|n| n % 3).sum()).collect();
    assert_eq!(bench.seqs(), expected);
}

async fn counters_are_exact_over_appends_and_commits(bench: Bench) {
    let rt = Source::Queue(SHARD, Queue::Decode, Lane::Rt);
    bench.add(DECODE, &requested(1), 1500, 10).await;
    bench.add(DECODE, &requested(2), 2500, 20).await;
    bench.add(rt, &requested(3), 7, 0).await;
    assert_eq!(bench.backlog(DECODE).await, Backlog { entries: 2, audio_ms: 4000, bytes: 30 });
    assert_eq!(bench.backlog(rt).await, Backlog { entries: 1, audio_ms: 7, bytes: 0 });
    let entries = bench.take("a", 9).await;
    assert_eq!(bench.backlog(DECODE).await.entries, 2, "work in hand is not done");
    bench.commit(&entries[0], &[]).await;
    bench.commit(&entries[0], &[]).await;
    assert_eq!(bench.backlog(DECODE).await, Backlog { entries: 1, audio_ms: 2500, bytes: 20 });
    bench.commit(&entries[1], &[]).await;
    assert_eq!(bench.backlog(DECODE).await, Backlog::default());
    assert_eq!(bench.backlog(rt).await.audio_ms, 7);
}

async fn a_claim_lapses_for_its_holder_alone(bench: Bench) {
    let claim = content_claim();
    let admit = async |number| bench.log.admit(&admit_under(number, claim)).await.unwrap();
    assert_eq!(admit(1).await, Admission::Admitted);
    let first = bench.take("a", 9).await.remove(0);
    let mut commit = commit_of(&first, &[]);
    commit.lapse = Some(claim);
    assert_eq!(bench.log.commit(&commit).await.unwrap(), Outcome::Done);
    assert_eq!(admit(2).await, Admission::Admitted, "the claim is free");

    assert_eq!(bench.log.commit(&commit).await.unwrap(), Outcome::Lost);
    assert_eq!(admit(3).await, duplicate_of(2), "a repeat takes it from nobody");
    bench.take("b", 9).await;
    let other = bench.one_taken(3, "a").await;
    let mut commit = commit_of(&other, &[]);
    commit.lapse = Some(claim);
    assert_eq!(bench.log.commit(&commit).await.unwrap(), Outcome::Done);
    assert_eq!(admit(4).await, duplicate_of(2), "another recording takes it from nobody");
}

async fn a_dead_letter_keeps_the_original_fields(bench: Bench) {
    let work = requested(1);
    let entry = bench.one_taken(1, "a").await;
    let mut commit = commit_of(&entry, &[fact(&work, 0)]);
    commit.dead = Some(letter());
    assert_eq!(bench.log.commit(&commit).await.unwrap(), Outcome::Done);
    assert_eq!(bench.log.dead_letters(DECODE).await.unwrap(), 1);
    assert_eq!(bench.log.dead_letters(LOG).await.unwrap(), 1, "one place per shard");
    let dead = bench.dead(DECODE).remove(0);
    for (name, value) in &entry.fields {
        assert_eq!(dead.field(name), Some(value), "{name}");
    }
    let said: Vec<_> = ["dead_stage", "dead_code", "dead_message", "dead_attempts", "dead_worker"]
        .map(|name| dead.text(name).unwrap().to_owned())
        .into();
    assert_eq!(said, ["decode", "unsupported_codec", "told by a test", "3", "host:1:x"]);
    assert_eq!(bench.seqs(), [1], "the failure is a fact, in the same step");
    assert_eq!(bench.backlog(DECODE).await, Backlog::default());
}

/// Drops are written by anyone: odd fields must not make an entry that can neither be done nor given up.
async fn a_drop_may_say_anything_and_still_ends(bench: Bench) {
    let many = (0..4000).map(|n| (format!("field{n}"), "x".into()));
    let drops: Vec<Vec<(String, bytes::Bytes)>> = vec![
        vec![("drop".into(), "one".into()), ("drop".into(), "two".into())],
        vec![("drop".into(), bytes::Bytes::from_static(b"\xff\xfe"))],
        vec![("drop".into(), "käse".into()), ("audio".into(), "x".into())],
        vec![("event_id".into(), "".into()), ("drop".into(), "d4".into())],
        vec![("ms".into(), "soon".into()), ("bytes".into(), "1.5".into())],
        vec![("ms".into(), "-7".into()), ("bytes".into(), "99999999999999999999".into())],
        many.collect(),
    ];
    let source = Source::Ingest(Lane::Batch);
    for fields in &drops {
        bench.log.submit(Lane::Batch, fields).await.unwrap();
    }
    let taken = bench.log.take("ingest", "a", source, 99).await.unwrap();
    assert_eq!(taken.len(), drops.len());
    for (entry, number) in taken.iter().zip(1..) {
        assert!(bench.log.retry("ingest", "a", entry, number, std::time::Duration::ZERO).await.unwrap());
    }
    let claimed = bench.log.claim("ingest", "b", source, LONG, 99).await.unwrap().entries;
    let attempts: Vec<u32> = claimed.iter().map(|entry| entry.attempts).collect();
    assert_eq!(attempts, [1, 2, 3, 4, 5, 6, 7], "each counts under the name it was put off with");
    for entry in &claimed {
        let mut commit = commit_of(entry, &[]);
        commit.group = "ingest".to_owned();
        commit.dead = Some(letter());
        assert_eq!(bench.log.commit(&commit).await.unwrap(), Outcome::Done, "{:?}", entry.fields.first());
    }
    assert_eq!(bench.backlog(source).await, Backlog::default());
    assert_eq!(bench.log.dead_letters(source).await.unwrap(), drops.len() as u64);
}

/// The mark is what the design says it is; other programs may set it beside the fact.
#[test]
fn the_mark_of_deletion_is_in_the_slot_of_its_shard() {
    let deleted =
        requested(1).follow(RecordingDeleted { by: "api".to_owned(), drop_id: None }.into(), events::now());
    let mark = keys::deleted(deleted.shard, deleted.recording);
    assert_eq!(mark, format!("vf:{{00}}:deleted:{}", deleted.recording));
}
