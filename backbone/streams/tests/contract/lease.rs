//! Who holds an entry: leases, retries, handing back, and what a lost reply leaves.

use std::time::Duration;

use streams::{Outcome, Source};

use super::fixture::*;

on_both_logs!(
    only_what_others_hold_is_unsettled,
    each_entry_is_given_to_one_consumer_in_order,
    a_reader_waits_for_what_comes_and_not_longer,
    a_claim_respects_the_lease_of_others,
    a_claim_never_takes_what_is_in_the_same_hands,
    a_claim_takes_no_more_than_asked_for,
    a_claim_reports_entries_whose_data_is_gone,
    a_heartbeat_keeps_the_lease_and_refuses_others,
    a_retry_is_not_claimable_before_its_time_and_carries_its_attempts,
    an_entry_put_off_again_and_again_is_no_crash_loop,
    only_the_holder_can_put_an_entry_off,
    attempts_are_forgotten_with_the_entry,
    work_handed_back_is_claimable_at_once_and_burns_no_delivery,
    only_the_holder_can_hand_back,
    own_history_is_what_a_lost_reply_left,
    own_history_knows_the_attempts,
    to_look_into_own_history_is_no_delivery,
    a_consumer_leaves_only_when_it_holds_nothing,
);

async fn each_entry_is_given_to_one_consumer_in_order(bench: Bench) {
    bench.add_work(0..5).await;
    let (a, b) = (bench.take("a", 3).await, bench.take("b", 9).await);
    let ids: Vec<&str> = a.iter().chain(&b).map(|entry| entry.text("event_id").unwrap()).collect();
    let expected: Vec<String> = (0..5).map(|number| requested(number).event_id.to_string()).collect();
    assert_eq!(ids, expected);
    assert_eq!((a.len(), b.len()), (3, 2));
    assert!(a.iter().all(|entry| (entry.deliveries, entry.attempts) == (1, 0)));
    assert!(bench.take("a", 9).await.is_empty());
}

async fn a_reader_waits_for_what_comes_and_not_longer(bench: Bench) {
    let mut reader = bench.log.reader(GROUP, "a").await.unwrap();
    let since = tokio::time::Instant::now();
    assert!(reader.read(&[DECODE, SEGMENTS], 1, SHORT).await.unwrap().is_empty());
    assert!(since.elapsed() >= SHORT, "waited its time: {:?}", since.elapsed());

    let late = async {
        tokio::time::sleep(SHORT).await;
        bench.add(SEGMENTS, &requested(1), 1, 0).await;
    };
    let (read, ()) = tokio::join!(reader.read(&[DECODE, SEGMENTS], 1, LONG), late);
    let read = read.unwrap();
    assert_eq!(read.iter().map(|entry| entry.source).collect::<Vec<_>>(), [SEGMENTS]);
    assert!(since.elapsed() < Duration::from_secs(5), "woken by the append");
}

async fn a_claim_respects_the_lease_of_others(bench: Bench) {
    let entry = bench.one_taken(1, "a").await;
    assert!(bench.claim("b", LONG).await.is_empty());
    tokio::time::sleep(SHORT).await;
    let claimed = bench.claim("b", SHORT).await;
    assert_eq!(claimed.iter().map(|entry| &entry.id).collect::<Vec<_>>(), [&entry.id]);
    assert_eq!((claimed[0].deliveries, claimed[0].attempts), (2, 0));
    assert_eq!(claimed[0].fields, entry.fields);
    assert!(bench.claim("c", SHORT).await.is_empty(), "the lease begins anew with its new holder");
}

async fn a_claim_never_takes_what_is_in_the_same_hands(bench: Bench) {
    bench.one_taken(1, "a").await;
    assert!(bench.claim("a", Duration::ZERO).await.is_empty());
}

async fn a_claim_takes_no_more_than_asked_for(bench: Bench) {
    bench.add_work(0..250).await;
    bench.take("a", 250).await;
    let claimed = bench.log.claim(GROUP, "b", DECODE, Duration::ZERO, 120).await.unwrap();
    assert_eq!(claimed.entries.len(), 120, "more than one page of what is pending");
    let rest = bench.log.claim(GROUP, "b", DECODE, Duration::ZERO, 999).await.unwrap();
    assert_eq!(rest.entries.len(), 130);
}

async fn a_claim_reports_entries_whose_data_is_gone(bench: Bench) {
    bench.add_work(0..3).await;
    let taken = bench.take("a", 3).await;
    bench.remove(&taken[1]);
    let claimed = bench.log.claim(GROUP, "b", DECODE, Duration::ZERO, 9).await.unwrap();
    assert_eq!(claimed.entries.len(), 2);
    assert_eq!(claimed.lost, [taken[1].id.clone()]);
    let again = bench.log.claim(GROUP, "c", DECODE, Duration::ZERO, 9).await.unwrap();
    assert_eq!(again.lost, Vec::<String>::new(), "told once");
}

async fn a_heartbeat_keeps_the_lease_and_refuses_others(bench: Bench) {
    let entry = bench.one_taken(1, "a").await;
    let ids = [entry.id.clone(), "77777-0".to_owned()];
    let lease = SHORT * 4;
    for _ in 0..8 {
        tokio::time::sleep(SHORT).await;
        assert_eq!(bench.log.heartbeat(GROUP, "a", DECODE, &ids).await.unwrap(), [true, false]);
        assert_eq!(bench.log.heartbeat(GROUP, "b", DECODE, &ids).await.unwrap(), [false, false]);
    }
    assert!(bench.claim("b", lease).await.is_empty(), "renewed a moment ago");
    tokio::time::sleep(lease).await;
    let claimed = bench.claim("b", lease).await;
    assert_eq!(claimed[0].deliveries, 2, "renewing is no delivery");
    assert_eq!(bench.log.heartbeat(GROUP, "a", DECODE, &ids).await.unwrap(), [false, false]);
}

async fn a_retry_is_not_claimable_before_its_time_and_carries_its_attempts(bench: Bench) {
    let entry = bench.one_taken(1, "a").await;
    assert!(bench.log.retry(GROUP, "a", &entry, 3, SHORT * 2).await.unwrap());
    assert!(bench.claim("b", Duration::ZERO).await.is_empty(), "not due, whatever the lease");
    assert!(bench.claim("a", Duration::ZERO).await.is_empty(), "not for its old holder either");
    assert!(bench.log.own_pending(GROUP, "a", DECODE).await.unwrap().is_empty());
    tokio::time::sleep(SHORT * 2 + Duration::from_millis(10)).await;
    let claimed = bench.claim("a", LONG).await;
    assert_eq!(claimed.len(), 1, "due, and free for all: its old holder too");
    assert_eq!(claimed[0].attempts, 3);
    assert_eq!(bench.commit(&claimed[0], &[]).await, Outcome::Done);
}

async fn an_entry_put_off_again_and_again_is_no_crash_loop(bench: Bench) {
    let mut entry = bench.one_taken(1, "a").await;
    for _ in 0..12 {
        assert!(bench.log.retry(GROUP, "a", &entry, 0, Duration::ZERO).await.unwrap());
        entry = bench.claim("a", LONG).await.remove(0);
    }
    assert_eq!((entry.deliveries, entry.attempts), (1, 0));
}

async fn only_the_holder_can_put_an_entry_off(bench: Bench) {
    let entry = bench.one_taken(1, "a").await;
    let claimed = bench.claim("b", Duration::ZERO).await.remove(0);
    assert!(!bench.log.retry(GROUP, "a", &entry, 4, Duration::ZERO).await.unwrap(), "a zombie");
    assert_eq!(
        bench.log.heartbeat(GROUP, "b", DECODE, std::slice::from_ref(&claimed.id)).await.unwrap(),
        [true]
    );
    assert_eq!(bench.claim("c", Duration::ZERO).await[0].attempts, 0, "and its count is not taken");
    assert_eq!(bench.commit(&claimed, &[]).await, Outcome::Done);
    assert!(!bench.log.retry(GROUP, "b", &claimed, 1, Duration::ZERO).await.unwrap(), "it ended");
    assert!(bench.claim("a", Duration::ZERO).await.is_empty());
}

async fn attempts_are_forgotten_with_the_entry(bench: Bench) {
    let entry = bench.one_taken(1, "a").await;
    bench.log.retry(GROUP, "a", &entry, 3, Duration::ZERO).await.unwrap();
    let claimed = bench.claim("a", LONG).await.remove(0);
    assert_eq!(bench.commit(&claimed, &[]).await, Outcome::Done);
    bench.add(DECODE, &requested(1), 1, 0).await;
    bench.take("a", 1).await;
    assert_eq!(bench.claim("b", Duration::ZERO).await[0].attempts, 0, "a replay of it starts from nothing");
}

async fn work_handed_back_is_claimable_at_once_and_burns_no_delivery(bench: Bench) {
    let entry = bench.one_taken(1, "a").await;
    bench.log.hand_back(GROUP, "a", DECODE, std::slice::from_ref(&entry.id)).await.unwrap();
    let claimed = bench.claim("b", LONG).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!((claimed[0].deliveries, claimed[0].attempts), (1, 0));
    bench.log.hand_back(GROUP, "b", DECODE, std::slice::from_ref(&entry.id)).await.unwrap();
    assert_eq!(bench.claim("b", LONG).await[0].deliveries, 1, "the one who gave it may take it again");
}

async fn only_the_holder_can_hand_back(bench: Bench) {
    let entry = bench.one_taken(1, "a").await;
    bench.log.hand_back(GROUP, "b", DECODE, &[entry.id.clone(), "77777-0".to_owned()]).await.unwrap();
    assert!(bench.claim("b", LONG).await.is_empty());
    assert_eq!(bench.log.heartbeat(GROUP, "a", DECODE, &[entry.id]).await.unwrap(), [true]);
}

async fn own_history_is_what_a_lost_reply_left(bench: Bench) {
    bench.add_work(0..150).await;
    let taken = bench.take("a", 150).await;
    bench.take("b", 1).await;
    bench.commit(&taken[7], &[]).await;
    let left = bench.log.own_pending(GROUP, "a", DECODE).await.unwrap();
    assert_eq!(left.len(), 149, "more than one page");
    let expected: Vec<_> = taken.iter().filter(|entry| entry.id != taken[7].id).map(|e| &e.fields).collect();
    assert_eq!(left.iter().map(|entry| &entry.fields).collect::<Vec<_>>(), expected);
    bench.remove(&taken[0]);
    let left = bench.log.own_pending(GROUP, "a", DECODE).await.unwrap();
    assert!(left[0].fields.is_empty(), "its data is gone, and that shows");
    assert_eq!(bench.commit(&left[0], &[]).await, Outcome::Gone);
}

async fn own_history_knows_the_attempts(bench: Bench) {
    let entry = bench.one_taken(1, "a").await;
    bench.log.retry(GROUP, "a", &entry, 3, Duration::ZERO).await.unwrap();
    assert_eq!(bench.claim("a", LONG).await.len(), 1);
    let left = bench.log.own_pending(GROUP, "a", DECODE).await.unwrap();
    assert_eq!(left.iter().map(|entry| entry.attempts).collect::<Vec<_>>(), [3]);
}

/// An outage has each reader of a worker look, however long the work in hand takes.
async fn to_look_into_own_history_is_no_delivery(bench: Bench) {
    let entry = bench.one_taken(1, "a").await;
    for _ in 0..12 {
        let own = bench.log.own_pending(GROUP, "a", DECODE).await.unwrap();
        assert_eq!(own, std::slice::from_ref(&entry));
    }
    bench.log.hand_back(GROUP, "a", DECODE, std::slice::from_ref(&entry.id)).await.unwrap();
    assert_eq!(bench.claim("b", LONG).await[0].deliveries, 1, "nobody died");
}

async fn a_consumer_leaves_only_when_it_holds_nothing(bench: Bench) {
    let sources: [Source; 2] = [DECODE, SEGMENTS];
    let entry = bench.one_taken(1, "a").await;
    bench.log.leave(GROUP, "a", &sources).await.unwrap();
    assert_eq!(bench.claim("b", Duration::ZERO).await.len(), 1, "what it held is still there");
    bench.log.leave(GROUP, "a", &sources).await.unwrap();
    if let Some(server) = &bench.server {
        let consumers: Vec<redis::Value> = server.ask(&["XINFO", "CONSUMERS", &DECODE.key(), GROUP]);
        assert_eq!(consumers.len(), 1, "only b is left");
    }
    assert_eq!(
        bench.commit(&entry, &[]).await,
        Outcome::Done,
        "a result is taken from whoever brings it first"
    );
}

async fn only_what_others_hold_is_unsettled(bench: Bench) {
    let unsettled = async |consumer: &str| -> Vec<Source> {
        bench.log.unsettled(GROUP, consumer, &[DECODE, SEGMENTS]).await.unwrap()
    };
    bench.add_work(0..2).await;
    assert!(unsettled("a").await.is_empty(), "what nobody was given needs no claim");
    let taken = bench.take("a", 2).await;
    assert!(unsettled("a").await.is_empty(), "what is ours neither");
    assert_eq!(unsettled("b").await, [DECODE]);
    bench.log.retry(GROUP, "a", &taken[0], 1, LONG).await.unwrap();
    assert_eq!(unsettled("a").await, [DECODE], "a retry is nobody's");
    bench.commit(&taken[0], &[]).await;
    assert!(unsettled("a").await.is_empty());
    bench.log.hand_back(GROUP, "a", DECODE, std::slice::from_ref(&taken[1].id)).await.unwrap();
    assert_eq!(unsettled("a").await, [DECODE], "nor is what was handed back");
    bench.commit(&taken[1], &[]).await;
    assert!(unsettled("b").await.is_empty());
}
