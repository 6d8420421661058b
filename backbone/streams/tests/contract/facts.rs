//! The log of facts: counted exactly, acknowledged in batches, trimmed only where nobody misses anything.

use std::time::Duration;

use super::fixture::*;

on_both_logs!(
    unread_facts_are_counted_exactly,
    facts_stay_when_they_are_done,
    trimming_stops_at_the_archive,
    trimming_stops_at_what_any_group_has_not_acknowledged,
    seq_goes_on_when_everything_is_trimmed,
    a_trim_says_who_holds_it_back,
    a_log_nobody_reads_is_not_trimmed,
    what_is_no_fact_does_not_stop_a_trim,
    a_long_log_is_trimmed_whole,
);

async fn add_facts(bench: &Bench, numbers: std::ops::Range<u32>) {
    for number in numbers {
        bench.add_fact(&fact(&requested(1), number)).await;
    }
}

async fn unread(bench: &Bench) -> u64 {
    bench.log.unread_facts("project", SHARD).await.unwrap()
}

async fn read(bench: &Bench, count: usize) -> Vec<String> {
    let taken = bench.log.take("project", "a", LOG, count).await.unwrap();
    taken.into_iter().map(|entry| entry.id).collect()
}

async fn unread_facts_are_counted_exactly(bench: Bench) {
    assert_eq!(unread(&bench).await, 0);
    add_facts(&bench, 0..10).await;
    assert_eq!(unread(&bench).await, 10, "nothing was given out yet");
    assert_eq!(bench.log.unread_facts("nobody", SHARD).await.unwrap(), 10, "a group that is not there");
    let ids = read(&bench, 4).await;
    assert_eq!(unread(&bench).await, 10, "given out is not acknowledged");
    bench.log.acknowledge("project", LOG, &ids[..3]).await.unwrap();
    bench.log.acknowledge("project", LOG, &ids[..3]).await.unwrap();
    assert_eq!(unread(&bench).await, 7);
    assert_eq!(bench.log.trim(SHARD, 99).await.unwrap().facts, 3);
    assert_eq!(unread(&bench).await, 7, "trimming what is done changes nothing");
    bench.log.acknowledge("project", LOG, &ids).await.unwrap();
    bench.log.trim(SHARD, 99).await.unwrap();
    assert_eq!(unread(&bench).await, 6);
    add_facts(&bench, 10..12).await;
    assert_eq!(unread(&bench).await, 8);
    let rest = read(&bench, 99).await;
    bench.log.acknowledge("project", LOG, &rest).await.unwrap();
    bench.log.acknowledge("project", LOG, &[]).await.unwrap();
    assert_eq!(unread(&bench).await, 0);
}

async fn facts_stay_when_they_are_done(bench: Bench) {
    add_facts(&bench, 0..2).await;
    let taken = bench.log.take("project", "a", LOG, 9).await.unwrap();
    let mut commit = commit_of(&taken[0], &[]);
    commit.group = "project".to_owned();
    assert_eq!(bench.log.commit(&commit).await.unwrap(), streams::Outcome::Done);
    assert_eq!(bench.seqs(), [1, 2]);
    assert_eq!(unread(&bench).await, 1);
    let claimed = bench.log.claim("project", "b", LOG, Duration::ZERO, 9).await.unwrap();
    assert_eq!(claimed.entries.len(), 1, "the other one");
}

async fn trimming_stops_at_the_archive(bench: Bench) {
    add_facts(&bench, 0..10).await;
    let ids = read(&bench, 10).await;
    bench.log.acknowledge("project", LOG, &ids).await.unwrap();
    assert_eq!(bench.log.trim(SHARD, 0).await.unwrap().facts, 0);
    assert_eq!(bench.log.trim(SHARD, 4).await.unwrap().facts, 4);
    assert_eq!(bench.log.trim(SHARD, 4).await.unwrap().facts, 0);
    assert_eq!(bench.seqs(), [5, 6, 7, 8, 9, 10]);
}

async fn trimming_stops_at_what_any_group_has_not_acknowledged(bench: Bench) {
    bench.log.ensure_groups("other", &[LOG]).await.unwrap();
    add_facts(&bench, 0..10).await;
    let ids = read(&bench, 10).await;
    bench.log.acknowledge("project", LOG, &ids).await.unwrap();
    assert_eq!(bench.log.trim(SHARD, 99).await.unwrap().facts, 0, "the other group has read nothing");
    let other = bench.log.take("other", "o", LOG, 6).await.unwrap();
    assert_eq!(bench.log.trim(SHARD, 99).await.unwrap().facts, 0, "nor acknowledged anything");
    let done: Vec<String> = [0, 1, 2, 4, 5].iter().map(|&at: &usize| other[at].id.clone()).collect();
    bench.log.acknowledge("other", LOG, &done).await.unwrap();
    assert_eq!(bench.log.trim(SHARD, 99).await.unwrap().facts, 3);
    assert_eq!(bench.seqs(), [4, 5, 6, 7, 8, 9, 10]);
    bench.log.acknowledge("other", LOG, &[other[3].id.clone()]).await.unwrap();
    assert_eq!(bench.log.trim(SHARD, 99).await.unwrap().facts, 3, "up to what it was never given");
    assert_eq!(bench.seqs(), [7, 8, 9, 10]);
}

async fn seq_goes_on_when_everything_is_trimmed(bench: Bench) {
    add_facts(&bench, 0..3).await;
    let ids = read(&bench, 9).await;
    bench.log.acknowledge("project", LOG, &ids).await.unwrap();
    assert_eq!(bench.log.trim(SHARD, 3).await.unwrap().facts, 3);
    assert_eq!((bench.seqs(), unread(&bench).await), (vec![], 0));
    add_facts(&bench, 3..5).await;
    assert_eq!((bench.seqs(), unread(&bench).await), (vec![4, 5], 2));
    assert_eq!(read(&bench, 9).await.len(), 2, "what was trimmed is not missed by the group");
}

async fn a_trim_says_who_holds_it_back(bench: Bench) {
    let trim = async |archived| bench.log.trim(SHARD, archived).await.unwrap();
    let held = |facts, by: &str| streams::Trimmed {
        facts,
        held_by: Some(by.to_owned()).filter(|by| !by.is_empty()),
    };
    bench.log.ensure_groups("other", &[LOG]).await.unwrap();
    assert_eq!(trim(9).await, held(0, ""), "an empty log");
    add_facts(&bench, 0..4).await;
    let ids = read(&bench, 9).await;
    bench.log.acknowledge("project", LOG, &ids).await.unwrap();
    assert_eq!(trim(2).await, held(0, "other"));
    let other = bench.log.take("other", "o", LOG, 3).await.unwrap();
    bench.log.acknowledge("other", LOG, &[other[0].id.clone()]).await.unwrap();
    assert_eq!(trim(2).await, held(1, "other"), "one of the two");
    let rest: Vec<String> = other.into_iter().map(|fact| fact.id).collect();
    bench.log.acknowledge("other", LOG, &rest).await.unwrap();
    assert_eq!(trim(2).await, held(1, ""), "the archive is what stops it now");
    assert_eq!(trim(9).await, held(1, "other"));
    assert_eq!((bench.seqs(), bench.log.last_seq(SHARD).await.unwrap()), (vec![4], 4));
}

async fn a_log_nobody_reads_is_not_trimmed(bench: Bench) {
    let Some(server) = &bench.server else { return };
    add_facts(&bench, 0..2).await;
    server.ask::<()>(&["XGROUP", "DESTROY", &LOG.key(), "project"]);
    assert_eq!(bench.log.trim(SHARD, 9).await.unwrap(), streams::Trimmed::default());
    assert_eq!(bench.seqs(), [1, 2]);
}

/// Anyone may write to a stream. What is no fact goes with its neighbours once the groups are done with it.
async fn what_is_no_fact_does_not_stop_a_trim(bench: Bench) {
    let Some(server) = &bench.server else { return };
    server.ask::<String>(&["XADD", &LOG.key(), "*", "hello", "world"]);
    add_facts(&bench, 0..2).await;
    assert_eq!(bench.log.trim(SHARD, 9).await.unwrap().facts, 0, "nobody has seen it");
    let ids = read(&bench, 9).await;
    bench.log.acknowledge("project", LOG, &ids).await.unwrap();
    assert_eq!(bench.log.trim(SHARD, 1).await.unwrap().facts, 2);
    assert_eq!(bench.seqs(), [2]);
}

async fn a_long_log_is_trimmed_whole(bench: Bench) {
    add_facts(&bench, 0..1203).await;
    let ids = read(&bench, 2000).await;
    bench.log.acknowledge("project", LOG, &ids).await.unwrap();
    assert_eq!(bench.log.trim(SHARD, 1201).await.unwrap().facts, 1201, "more than one page");
    assert_eq!(bench.seqs(), [1202, 1203]);
}

/// The server's own `lag` is nil after a restart; ours is counted by seq.
#[tokio::test]
async fn unread_facts_are_exact_after_a_restart_of_redis() {
    let Some(mut bench) = Bench::durable_redis().await else { return };
    add_facts(&bench, 0..8).await;
    let ids = read(&bench, 5).await;
    bench.log.acknowledge("project", LOG, &ids[..2]).await.unwrap();
    bench.server.as_mut().unwrap().kill_and_restart();
    assert_eq!(unread(&bench).await, 6);
    assert_eq!(read(&bench, 9).await.len(), 3, "and so many are given out");
    assert_eq!(unread(&bench).await, 6);
}
