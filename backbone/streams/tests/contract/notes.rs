//! Small values that programs agree on: the language of a recording, the models of a deployment, leases on chores.

use std::time::Duration;

use streams::ModelNote;

use super::fixture::*;

on_both_logs!(
    the_first_to_settle_a_language_wins,
    what_segments_heard_is_told_to_all,
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

async fn models_are_known_by_name(bench: Bench) {
    let note = |name: &str, sha256: &str| ModelNote {
        name: name.to_owned(),
        sha256: sha256.to_owned(),
        multilingual: false,
        languages: vec!["en".to_owned()],
    };
    assert!(bench.log.models().await.unwrap().is_empty());
    for (name, sha256) in [("tiny.en", "a"), ("base", "b"), ("tiny.en", "c"), ("tiny.en", "c")] {
        bench.log.announce_model(&note(name, sha256)).await.unwrap();
    }
    let models: Vec<ModelNote> = bench.log.models().await.unwrap().into_values().collect();
    assert_eq!(models, [note("base", "b"), note("tiny.en", "c")]);
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
