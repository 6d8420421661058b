//! What the loop survives: a Redis that forgets, restarts, is cut off or stays away.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::*;
use crate::contract::proxy::Proxy;
use crate::contract::server::Server;
use streams::redis::{Config, RedisLog};

/// Runs 60 pieces of work with something going wrong in the middle; all must end, each once.
async fn survives(mut bench: Bench, trouble: impl FnOnce(&mut Server) + Send + 'static) {
    let mut server = bench.server.take().expect("a bench on Redis");
    bench.add_work(0..60).await;
    let worker = Worker::new(4, |delivery| async {
        tokio::time::sleep(Duration::from_millis(15)).await;
        finish(delivery).await;
    });
    let running = start(&bench.log, &worker, &options());
    until("some of it is done", || async { worker.seen() > 12 }).await;
    let server = tokio::task::spawn_blocking(move || {
        trouble(&mut server);
        server
    });
    bench.server = Some(server.await.unwrap());
    until_empty(&bench).await;
    running.stop().await;
    assert_eq!(bench.seqs(), (1..=60).collect::<Vec<u64>>());
    let ids: std::collections::BTreeSet<String> =
        bench.facts().iter().map(|fact| fact.text("event_id").unwrap().to_owned()).collect();
    assert_eq!((ids.len(), dead_codes(&bench)), (60, vec![]));
    let pending: Vec<redis_value::Value> =
        bench.server().ask(&["XPENDING", &DECODE.key(), GROUP, "-", "+", "9"]);
    assert!(pending.is_empty(), "{pending:?}");
}

/// The name `redis` is taken by the modules of tests.
use ::redis as redis_value;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_redis() {
    let Some(bench) = Bench::durable_redis().await else { return };
    survives(bench, |server| {
        server.kill();
        std::thread::sleep(Duration::from_millis(500));
        server.restart();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_are_flushed() {
    let Some(bench) = Bench::redis().await else { return };
    survives(bench, |server| {
        for _ in 0..20 {
            server.ask::<()>(&["SCRIPT", "FLUSH"]);
            std::thread::sleep(Duration::from_millis(5));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut() {
    let Some(bench) = Bench::redis().await else { return };
    survives(bench, |server| {
        for _ in 0..5 {
            server.ask::<i64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            std::thread::sleep(Duration::from_millis(30));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_to_a_replica_and_back() {
    let Some(bench) = Bench::redis().await else { return };
    survives(bench, |server| {
        server.ask::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
        std::thread::sleep(Duration::from_millis(300));
        server.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    })
    .await;
}

#[tokio::test]
async fn groups_that_vanish_are_made_again() {
    let Some(bench) = Bench::redis().await else { return };
    let worker = Worker::new(2, finish);
    let running = start(&bench.log, &worker, &options());
    bench.add_work(0..3).await;
    until_empty(&bench).await;
    bench.server().ask::<()>(&["FLUSHALL"]);
    bench.add_work(3..6).await;
    until("what came after is done", || async { worker.seen() >= 6 }).await;
    until_empty(&bench).await;
    running.stop().await;
    assert_eq!(bench.seqs(), [1, 2, 3], "a new log");
}

/// Entries may be assigned to a reader whose line is cut before the answer comes; no other way leads back to them
/// while the worker lives.
#[tokio::test]
async fn entries_whose_reply_was_lost_are_found_in_own_history() {
    let Some(bench) = Bench::redis().await else { return };
    let worker = Worker::new(9, finish);
    let options = Options { lease: LONG, ..options() };
    let running = start(&bench.log, &worker, &options);
    bench.add_work(0..1).await;
    until_empty(&bench).await;
    // As one step, so that the loop's own readers cannot come first.
    let (key, event) = (DECODE.key(), Message::work(&requested(1), 0, 0).unwrap());
    let script = "redis.call('XADD', KEYS[1], '*', 'event_id', ARGV[3], 'event', ARGV[4]) \
                  return #redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'STREAMS', KEYS[1], '>')";
    let words = ["EVAL", script, "1", &key, GROUP, &options.worker, &event.event_id, &event.json];
    assert_eq!(bench.server().ask::<u64>(&words), 1, "assigned to the worker, which did not see it");
    tokio::time::sleep(SHORT * 3).await;
    assert_eq!(worker.seen(), 1, "it cannot know");
    bench.server().ask::<i64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    until_empty(&bench).await;
    running.stop().await;
    assert_eq!(worker.seen(), 2);
}

/// Contains the words of a request?
fn says(request: &[u8], word: &str) -> bool {
    request.windows(word.len()).any(|window| window == word.as_bytes())
}

/// Runs 40 pieces of work over a bad line. One worker and a long lease: nobody else comes to the rescue.
async fn survives_lost_replies(loses: impl Fn(&[u8], u32) -> bool + Send + Sync + 'static) {
    let Some(bench) = Bench::redis().await else { return };
    let proxy = Proxy::start(bench.server(), loses);
    let log: SharedLog = Arc::new(RedisLog::connect(Config::new(proxy.url(), 1)).await.unwrap());
    bench.add_work(0..20).await;
    bench.one_taken(20, "a worker that dies").await;
    let ids: Vec<String> =
        bench.claim("gone", Duration::ZERO).await.into_iter().map(|entry| entry.id).collect();
    bench.log.hand_back(GROUP, "gone", DECODE, &ids).await.unwrap();
    let worker = Worker::new(3, |delivery| async {
        if delivery.entry().identity().ends_with(['0', '1', '2']) && delivery.entry().attempts == 0 {
            delivery.retry_after(Duration::from_millis(50), cause("later")).await;
        } else {
            finish(delivery).await;
        }
    });
    let running = start(&log, &worker, &Options { lease: LONG, ..options() });
    for number in 21..40 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        bench.add_work(number..number + 1).await;
    }
    until_empty(&bench).await;
    running.stop().await;
    assert!(proxy.lost() > 0, "the line was bad");
    let ids: std::collections::BTreeSet<String> =
        bench.facts().iter().map(|fact| fact.text("event_id").unwrap().to_owned()).collect();
    assert_eq!((ids.len(), bench.seqs().len(), dead_codes(&bench)), (40, 40, vec![]));
}

#[tokio::test]
async fn lost_replies_to_takes() {
    survives_lost_replies(|request, number| {
        // Reading own history may fail too, but not for ever.
        says(request, "decode:batch\r\n$1\r\n>\r\n") && !says(request, "BLOCK") && number < 60
    })
    .await;
}

#[tokio::test]
async fn lost_replies_to_blocked_reads() {
    survives_lost_replies(|request, number| says(request, "BLOCK") && number % 3 == 0 && number < 400).await;
}

#[tokio::test]
async fn lost_replies_to_claims() {
    let (lease, claims) = (LONG.as_millis().to_string(), AtomicU32::new(0));
    let is_lost = move |claim: u32| claim.is_multiple_of(2) && claim < 200;
    survives_lost_replies(move |request, _| {
        says(request, &lease) && is_lost(claims.fetch_add(1, Ordering::Relaxed))
    })
    .await;
}

#[tokio::test]
async fn lost_replies_to_commits_and_retries() {
    survives_lost_replies(|request, number| {
        says(request, "EVALSHA") && says(request, ":attempts:") && number % 3 != 0 && number < 200
    })
    .await;
}

#[tokio::test]
async fn lost_replies_to_anything() {
    survives_lost_replies(|_, number| number % 11 == 10 && number < 600).await;
}

#[tokio::test]
async fn an_idle_worker_asks_little_and_stops_quickly() {
    let Some(server) = Server::start() else { return };
    let log: SharedLog = Arc::new(server.log(4).await);
    let worker = Worker::new(4, finish);
    let options = Options::new(GROUP, Inlet::Queue(Queue::Decode));
    let running = start(&log, &worker, &options);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let calls = |command: &str| {
        let stats: String = server.ask(&["INFO", "commandstats"]);
        let line = stats.lines().find(|line| line.starts_with(&format!("cmdstat_{command}:")));
        line.map_or(0, |line| line.split(['=', ',']).nth(1).unwrap().parse::<u64>().unwrap())
    };
    let before = (calls("xreadgroup"), calls("evalsha"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let asked = calls("xreadgroup") - before.0;
    assert!(asked <= 4 * 4, "one blocked read per shard and second, not {asked} in 3 s");
    let scripts = calls("evalsha") - before.1;
    assert_eq!(scripts, 0, "nothing is claimed where nothing is pending");
    let since = Instant::now();
    running.stop().await;
    assert!(since.elapsed() < options.block + Duration::from_secs(2), "{:?}", since.elapsed());
    assert!(server.ask::<Vec<redis_value::Value>>(&["XINFO", "CONSUMERS", &DECODE.key(), GROUP]).is_empty());
}

#[tokio::test]
async fn a_worker_stops_although_redis_is_away() {
    let Some(mut bench) = Bench::redis().await else { return };
    bench.add_work(0..2).await;
    let worker = Worker::new(1, |delivery| async {
        delivery.stopping().cancelled().await;
        finish(delivery).await;
    });
    let running = start(&bench.log, &worker, &options());
    until("it has the work", || async { worker.seen() == 1 }).await;
    bench.server.as_mut().unwrap().kill();
    tokio::time::sleep(SHORT).await;
    let since = Instant::now();
    running.stop().await;
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
}

/// A program that ends while work hangs drops it with its runtime.
#[test]
fn deliveries_may_die_with_the_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let bench = Bench::memory().await;
        bench.add_work(0..2).await;
        let worker = Worker::new(2, |delivery| async move {
            std::future::pending::<()>().await;
            drop(delivery);
        });
        let running = start(&bench.log, &worker, &options());
        until("it has the work", || async { worker.seen() == 2 }).await;
        running.stop().await;
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
}
