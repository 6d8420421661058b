//! Small values that programs agree on: the language of a recording, what its segments leave to the next, the models of a deployment, leases on chores.

use std::time::Duration;

use events::SegmentId;
use streams::{Before, Emitted, ModelNote, Outcome, keys};

use super::fixture::*;

on_both_logs!(
    the_first_to_settle_a_language_wins,
    what_segments_heard_is_told_to_all,
    a_segment_finds_what_the_one_before_left,
    who_waits_is_told_for_how_long,
    nothing_is_left_of_what_nobody_wants,
    models_are_known_by_name,
    a_chore_has_one_holder_at_a_time,
    a_fork_sees_the_same_log,
);

async fn the_first_to_settle_a_language_wins(bench: Bench) {
    let recording = recording(1);
    assert_eq!(bench.log.language(SHARD, recording, 0).await.unwrap(), None);
    assert_eq!(bench.log.settle_language(SHARD, recording, 0, "de").await.unwrap(), "de");
    assert_eq!(bench.log.settle_language(SHARD, recording, 0, "en").await.unwrap(), "de");
    assert_eq!(bench.log.settle_language(SHARD, recording, 0, "de").await.unwrap(), "de", "asked again");
    assert_eq!(
        bench.log.settle_language(SHARD, recording, 1, "en").await.unwrap(),
        "en",
        "its own generation"
    );
    assert_eq!(bench.log.language(SHARD, recording, 0).await.unwrap().as_deref(), Some("de"));
}

async fn what_segments_heard_is_told_to_all(bench: Bench) {
    let hear = async |generation, segment: &str, heard: &str| {
        let told = bench.log.hear_language(SHARD, recording(1), generation, segment, heard).await.unwrap();
        (
            told.again,
            told.all.into_iter().map(|(by, heard)| format!("{by}={heard}")).collect::<Vec<_>>().join(" "),
        )
    };
    assert_eq!(hear(0, "0.1", "de").await, (false, "0.1=de".to_owned()));
    assert_eq!(hear(0, "0.0", "nl").await, (false, "0.0=nl 0.1=de".to_owned()));
    assert_eq!(hear(0, "0.1", "en").await, (true, "0.0=nl 0.1=de".to_owned()), "what it said first counts");
    assert_eq!(hear(1, "0.1", "fr").await, (false, "0.1=fr".to_owned()), "its own generation");
}

/// Puts speech of segments 0 to 2 of recording 1 where it waits to be read.
async fn three_unread(bench: &Bench) {
    let entry = bench.one_taken(1, "a").await;
    for index in 0..3 {
        assert_eq!(bench.log.emit(&emit_of(&entry, &requested(1), index)).await.unwrap(), Emitted::Done);
    }
}

/// Segment `index` of recording 1.
fn segment(index: u32) -> SegmentId {
    segment_of(&requested(1), index)
}

/// Takes the next segment and ends it, as infer does with what it cannot read.
async fn end_next(bench: &Bench, segment: SegmentId) {
    let entry = bench.log.take(GROUP, "a", SEGMENTS, 1).await.unwrap().remove(0);
    let mut commit = commit_of(&entry, &[]);
    commit.delete = vec![keys::speech(SHARD, &segment, 0)];
    assert_eq!(bench.log.commit(&commit).await.unwrap(), Outcome::Done);
}

async fn a_segment_finds_what_the_one_before_left(bench: Bench) {
    three_unread(&bench).await;
    let before = async |index| bench.log.before(SHARD, &segment(index), 0).await.unwrap();
    let leave = async |index, tail| bench.log.leave_tail(SHARD, &segment(index), 0, tail).await.unwrap();
    let left = |tail: &str| Before::Ended(Some(tail.to_owned()));
    let behind = async |index| match before(index).await {
        Before::Waits { behind, .. } => behind,
        ended => panic!("{ended:?}"),
    };
    assert_eq!(before(0).await, Before::Ended(None), "nothing comes before the first");
    assert_eq!((behind(1).await, behind(2).await), (1, 2));
    leave(0, "[1]").await;
    assert_eq!(behind(1).await, 1, "it has not ended before its speech is gone");
    assert!(bench.log.is_unread(SHARD, &segment(0), 0).await.unwrap());
    end_next(&bench, segment(0)).await;
    assert!(!bench.log.is_unread(SHARD, &segment(0), 0).await.unwrap());
    assert_eq!((before(1).await, before(1).await), (left("[1]"), left("[1]")), "as often as it is asked for");
    assert_eq!(behind(2).await, 1);

    leave(1, "[2]").await;
    assert_eq!(
        before(1).await,
        left("[1]"),
        "who leaves something and dies is read again with the same before it"
    );
    leave(1, "[3]").await;
    end_next(&bench, segment(1)).await;
    assert_eq!(before(2).await, left("[3]"));
    end_next(&bench, segment(2)).await;
    assert_eq!(before(3).await, Before::Ended(None), "it failed and left nothing");
    leave(3, "[4]").await;
    leave(1, "[9]").await;
    assert_eq!(before(2).await, Before::Ended(None), "of earlier ones nothing is kept, nor taken");
    assert_eq!(before(4).await, left("[4]"));

    let other = async |segment: SegmentId, round| bench.log.before(SHARD, &segment, round).await.unwrap();
    assert_eq!(other(segment(4), 1).await, Before::Ended(None), "its own round");
    assert_eq!(
        other(SegmentId { channel: 1, ..segment(4) }, 0).await,
        Before::Ended(None),
        "its own channel"
    );
    assert_eq!(
        other(SegmentId { generation: 1, ..segment(4) }, 0).await,
        Before::Ended(None),
        "its own generation"
    );
}

async fn who_waits_is_told_for_how_long(bench: Bench) {
    three_unread(&bench).await;
    let since = async |index| match bench.log.before(SHARD, &segment(index), 0).await.unwrap() {
        Before::Waits { since, .. } => since,
        ended => panic!("{ended:?}"),
    };
    assert!(since(2).await < SHORT);
    tokio::time::sleep(SHORT).await;
    assert!(since(1).await >= SHORT - Duration::from_millis(1), "since the first of them asked");
    bench.log.leave_tail(SHARD, &segment(0), 0, "[1]").await.unwrap();
    assert!(since(2).await < SHORT, "one more has been read");
}

async fn nothing_is_left_of_what_nobody_wants(bench: Bench) {
    let left = async |generation| {
        let of = |index| SegmentId { generation, ..segment(index) };
        bench.log.leave_tail(SHARD, &of(0), 0, "[1]").await.unwrap();
        bench.log.before(SHARD, &of(1), 0).await.unwrap() != Before::Ended(None)
    };
    let work = requested(1);
    assert!(left(0).await);
    bench.log.cancel(SHARD, work.recording, 1, &super::acts::cancellation(&work)).await.unwrap();
    assert!(!left(1).await, "its generation is cancelled");
    bench.mark_deleted(work.recording).await;
    bench.log.erase(SHARD, work.recording).await.unwrap();
    assert_eq!(bench.log.before(SHARD, &segment(1), 0).await.unwrap(), Before::Ended(None), "erased");
    assert!(!left(0).await, "its recording is deleted");
}

async fn models_are_known_by_name(bench: Bench) {
    let note = |name: &str, sha256: &str| ModelNote {
        name: name.to_owned(),
        sha256: sha256.to_owned(),
        multilingual: false,
        languages: vec!["en".to_owned()],
    };
    assert!(bench.log.models().await.unwrap().is_empty());
    for (name, sha256) in [("tiny.en", "a"), ("base", "b"), ("tiny.en", "c"), ("tiny.en", "c")] {
        bench.log.announce_model(&note(name, sha256), LONG).await.unwrap();
    }
    let models: Vec<ModelNote> = bench.log.models().await.unwrap().into_values().collect();
    assert_eq!(models, [note("base", "b"), note("tiny.en", "c")]);
    for (name, sha256, is_there) in
        [("tiny.en", "c", true), ("tiny.en", "a", true), ("tiny.en", "b", false), ("base", "c", false)]
    {
        assert_eq!(bench.log.has_model(name, sha256).await.unwrap(), is_there, "{name} {sha256}");
    }
    bench.log.announce_model(&note("base", "b"), SHORT).await.unwrap();
    tokio::time::sleep(SHORT + Duration::from_millis(20)).await;
    assert!(!bench.log.has_model("base", "b").await.unwrap(), "its workers are gone");
    assert_eq!(bench.log.models().await.unwrap().len(), 2, "names stay");
}

async fn a_chore_has_one_holder_at_a_time(bench: Bench) {
    let lease = async |holder: &str, length| bench.log.lease("trim", holder, length).await.unwrap();
    assert!(lease("a", LONG).await);
    assert!(lease("a", SHORT).await, "renewed");
    assert!(!lease("b", SHORT).await);
    assert!(bench.log.lease("sweep", "b", SHORT).await.unwrap(), "another chore");
    tokio::time::sleep(SHORT + Duration::from_millis(20)).await;
    assert!(lease("b", LONG).await, "the first holder let it end");
    assert!(!lease("a", LONG).await);
}

async fn a_fork_sees_the_same_log(bench: Bench) {
    let fork = bench.log.fork().await.unwrap();
    assert_eq!(fork.shards(), 1);
    bench.add_work(0..1).await;
    assert_eq!(fork.take(GROUP, "a", DECODE, 9).await.unwrap().len(), 1);
}
