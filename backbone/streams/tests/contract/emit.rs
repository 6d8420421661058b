//! Streaming decode: parts are emitted once, in order, and a successor goes on where the last one stopped.

use streams::{Backlog, Emitted, Outcome, keys};

use super::fixture::*;

on_both_logs!(
    a_part_moves_the_cursor_stores_its_speech_and_appends_its_work,
    a_part_emitted_twice_is_there_once,
    a_part_from_before_is_stale,
    a_successor_goes_on_at_the_cursor,
    nothing_is_emitted_for_an_entry_that_is_not_ours,
);

async fn a_part_moves_the_cursor_stores_its_speech_and_appends_its_work(bench: Bench) {
    let work = requested(1);
    let entry = bench.one_taken(1, "a").await;
    let cursor = keys::cursor(SHARD, work.recording, 0, 0);
    assert_eq!(bench.log.cursor(&cursor).await.unwrap(), "");
    for index in 0..3 {
        let emit = emit_of(&entry, &work, index);
        assert_eq!(bench.log.emit(&emit).await.unwrap(), Emitted::Done);
        assert_eq!(bench.log.cursor(&cursor).await.unwrap(), emit.next);
        let speech = bench.log.speech(SHARD, &segment_of(&work, index), 0).await.unwrap();
        assert_eq!(speech, Some(emit.speech));
    }
    assert_eq!(bench.backlog(SEGMENTS).await, Backlog { entries: 3, audio_ms: 3000, bytes: 192 });

    let mut commit = commit_of(&entry, &[]);
    commit.delete = vec![cursor.clone()];
    assert_eq!(bench.log.commit(&commit).await.unwrap(), Outcome::Done);
    assert_eq!(bench.log.cursor(&cursor).await.unwrap(), "", "the cursor lives as long as the work");
}

async fn a_part_emitted_twice_is_there_once(bench: Bench) {
    let entry = bench.one_taken(1, "a").await;
    let emit = emit_of(&entry, &requested(1), 0);
    assert_eq!(bench.log.emit(&emit).await.unwrap(), Emitted::Done);
    assert_eq!(bench.log.emit(&emit).await.unwrap(), Emitted::Repeated);
    assert_eq!(bench.backlog(SEGMENTS).await, Backlog { entries: 1, audio_ms: 1000, bytes: 64 });
}

async fn a_part_from_before_is_stale(bench: Bench) {
    let (entry, work) = (bench.one_taken(1, "a").await, requested(1));
    for index in 0..2 {
        assert_eq!(bench.log.emit(&emit_of(&entry, &work, index)).await.unwrap(), Emitted::Done);
    }
    assert_eq!(bench.log.emit(&emit_of(&entry, &work, 0)).await.unwrap(), Emitted::Stale, "from before");
    assert_eq!(bench.log.emit(&emit_of(&entry, &work, 5)).await.unwrap(), Emitted::Stale, "from nowhere");
    assert_eq!(bench.backlog(SEGMENTS).await.entries, 2);
}

async fn a_successor_goes_on_at_the_cursor(bench: Bench) {
    let (first, work) = (bench.one_taken(1, "a").await, requested(1));
    bench.log.emit(&emit_of(&first, &work, 0)).await.unwrap();
    let second = bench.claim("b", std::time::Duration::ZERO).await.remove(0);
    let cursor = bench.log.cursor(&keys::cursor(SHARD, work.recording, 0, 0)).await.unwrap();
    let next = emit_of(&second, &work, 1);
    assert_eq!(cursor, next.expected);
    assert_eq!(bench.log.emit(&next).await.unwrap(), Emitted::Done);
    let same = emit_of(&first, &work, 1);
    assert_eq!(bench.log.emit(&same).await.unwrap(), Emitted::Repeated, "a zombie cuts the same");
    assert_eq!(bench.log.emit(&emit_of(&second, &work, 2)).await.unwrap(), Emitted::Done);
    assert_eq!(bench.log.emit(&same).await.unwrap(), Emitted::Stale, "and falls behind");
    assert_eq!(bench.backlog(SEGMENTS).await.entries, 3);
}

async fn nothing_is_emitted_for_an_entry_that_is_not_ours(bench: Bench) {
    let work = requested(1);
    let entry = bench.one_taken(1, "a").await;
    let mut other = emit_of(&entry, &work, 0);
    other.identity = requested(2).event_id.to_string();
    assert_eq!(bench.log.emit(&other).await.unwrap(), Emitted::Ended(Outcome::Mismatch));

    bench.commit(&entry, &[]).await;
    let late = emit_of(&entry, &work, 0);
    assert_eq!(bench.log.emit(&late).await.unwrap(), Emitted::Ended(Outcome::Lost));

    let gone = bench.one_taken(2, "a").await;
    bench.remove(&gone);
    let emit = emit_of(&gone, &requested(2), 0);
    assert_eq!(bench.log.emit(&emit).await.unwrap(), Emitted::Ended(Outcome::Gone));

    let deleted = bench.one_taken(3, "a").await;
    bench.mark_deleted(requested(3).recording).await;
    let emit = emit_of(&deleted, &requested(3), 0);
    assert_eq!(bench.log.emit(&emit).await.unwrap(), Emitted::Ended(Outcome::Deleted));

    assert_eq!(bench.backlog(SEGMENTS).await, Backlog::default());
    assert_eq!(bench.log.speech(SHARD, &segment_of(&requested(3), 0), 0).await.unwrap(), None);
}
