//! What is handed out: how much, in which order, to whom, and when it must stop.

use events::Shard;
use streams::Outcome;
use streams::memory::MemoryLog;
use streams::stage::{Ended, Outputs};

use super::*;

on_both_logs!(
    slots_are_respected_and_deliveries_end_in_any_order,
    the_upper_lane_goes_first_and_the_lower_ones_keep_a_share,
    replay_leaves_the_last_slot_to_live_work,
    what_workers_died_with_is_worked_on_alone,
    what_is_in_hand_ends_before_an_entry_that_is_to_be_alone,
    stopping_hands_back_what_is_not_done,
    stopping_lets_work_finish_within_its_grace,
);

async fn slots_are_respected_and_deliveries_end_in_any_order(bench: Bench) {
    bench.add_work(0..20).await;
    let worker = Worker::new(3, |delivery| async {
        let number = delivery.entry().identity().bytes().last().unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(u64::from(number % 7) * 5)).await;
        finish(delivery).await;
    });
    let running = start(&bench.log, &worker, &options());
    until("half is done", || async { bench.seqs().len() >= 10 }).await;
    bench.add_work(20..30).await;
    until_empty(&bench).await;
    running.stop().await;
    assert_eq!(bench.seqs(), (1..=30).collect::<Vec<u64>>());
    assert_eq!(worker.seen(), 30, "each once");
    assert_eq!(worker.most.load(Ordering::SeqCst), 3);
}

async fn the_upper_lane_goes_first_and_the_lower_ones_keep_a_share(bench: Bench) {
    let lane = |lane| Source::Queue(SHARD, Queue::Decode, lane);
    for number in 0..40 {
        bench.add(lane(Lane::Replay), &requested(number), 1, 0).await;
        bench.add(lane(Lane::Batch), &requested(100 + number), 1, 0).await;
        bench.add(lane(Lane::Rt), &requested(200 + number), 1, 0).await;
    }
    let worker = Worker::new(1, finish);
    let running = start(&bench.log, &worker, &options());
    until("two rounds of turns are over", || async { worker.seen() >= 32 }).await;
    running.stop().await;
    let seen = worker.seen.lock().unwrap();
    let count = |lane| seen[..32].iter().filter(|(l, _)| *l == lane).count();
    assert_eq!((count(Lane::Rt), count(Lane::Batch), count(Lane::Replay)), (24, 6, 2));
    assert_eq!(seen[0].0, Lane::Rt);
}

async fn replay_leaves_the_last_slot_to_live_work(bench: Bench) {
    let lane = |lane| Source::Queue(SHARD, Queue::Decode, lane);
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = Arc::clone(&go);
    let worker = Worker::new(2, move |delivery: Delivery| {
        let gate = Arc::clone(&gate);
        async move {
            if delivery.lane() == Lane::Replay {
                gate.acquire().await.unwrap().forget();
            }
            finish(delivery).await;
        }
    });
    let running = start(&bench.log, &worker, &options());
    for number in 0..6 {
        bench.add(lane(Lane::Replay), &requested(number), 1, 0).await;
    }
    until("replay is worked on", || async { worker.seen() == 1 }).await;
    for number in 0..3 {
        bench.add(lane(Lane::Rt), &requested(200 + number), 1, 0).await;
        until("live work is done beside it", || async { bench.seqs().len() == number as usize + 1 }).await;
    }
    assert_eq!(worker.seen(), 4, "one of the replay lane, however many slots are free");
    go.add_permits(6);
    until("replay is done too", || async { bench.seqs().len() == 9 }).await;
    running.stop().await;
    assert_eq!(worker.seen(), 9, "each once");
}

async fn what_workers_died_with_is_worked_on_alone(bench: Bench) {
    bench.add_work(0..4).await;
    assert_eq!(bench.take("w0", 9).await.len(), 4);
    for died in ["w1", "w2"] {
        assert_eq!(bench.claim(died, Duration::ZERO).await.len(), 4);
    }
    bench.add_work(4..8).await;
    let options = Options { lease: Duration::from_millis(1), ..options() };
    let (log, name) = (Arc::clone(&bench.log), options.worker.clone());
    let beside = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&beside);
    let worker = Worker::new(4, move |delivery: Delivery| {
        let (log, name, told) = (Arc::clone(&log), name.clone(), Arc::clone(&told));
        async move {
            let deliveries = delivery.entry().deliveries;
            let in_hand = log.own_pending(GROUP, &name, DECODE).await.unwrap().len();
            told.lock().unwrap().push((deliveries, in_hand));
            finish(delivery).await;
        }
    });
    let running = start(&bench.log, &worker, &options);
    until_empty(&bench).await;
    running.stop().await;
    let (alone, others): (Vec<_>, Vec<_>) =
        beside.lock().unwrap().drain(..).partition(|(deliveries, _)| *deliveries >= 4);
    assert_eq!(alone, [(4, 1); 4], "no death of its worker would count for another one");
    assert_eq!((others.len(), bench.seqs().len(), dead_codes(&bench)), (4, 8, vec![]));
}

async fn what_is_in_hand_ends_before_an_entry_that_is_to_be_alone(bench: Bench) {
    bench.one_taken(0, "w0").await;
    for died in ["w1", "w2"] {
        assert_eq!(bench.claim(died, Duration::ZERO).await.len(), 1);
    }
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = Arc::clone(&go);
    let worker = Worker::new(3, move |delivery: Delivery| {
        let gate = Arc::clone(&gate);
        async move {
            if delivery.entry().deliveries == 1 {
                gate.acquire().await.unwrap().forget();
            }
            finish(delivery).await;
        }
    });
    let options = options();
    bench.add_work(1..2).await;
    let running = start(&bench.log, &worker, &options);
    until("it has both", || async {
        bench.log.own_pending(GROUP, &options.worker, DECODE).await.unwrap().len() == 2
    })
    .await;
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(worker.seen(), 1, "the other one waits");
    go.add_permits(1);
    until_empty(&bench).await;
    running.stop().await;
    assert_eq!((worker.seen(), worker.most.load(Ordering::SeqCst)), (2, 1));
}

async fn stopping_hands_back_what_is_not_done(bench: Bench) {
    bench.add_work(0..5).await;
    let worker = Worker::new(3, |delivery| async {
        if delivery.entry().identity() == requested(0).event_id.to_string() {
            delivery.stopping().cancelled().await;
            assert_eq!(delivery.hand_back().await, Ended::PutOff);
        } else {
            std::future::pending::<()>().await;
        }
    });
    let running = start(&bench.log, &worker, &options());
    until("its hands are full", || async { worker.seen() == 3 }).await;
    running.stop().await;
    let mut left = bench.claim("next", LONG).await;
    left.extend(bench.take("next", 9).await);
    assert_eq!(left.len(), 5, "all of it, at once");
    assert!(left.iter().all(|entry| (entry.deliveries, entry.attempts) == (1, 0)), "at no cost");
}

async fn stopping_lets_work_finish_within_its_grace(bench: Bench) {
    bench.add_work(0..1).await;
    let worker = Worker::new(1, |delivery| async {
        delivery.stopping().cancelled().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        finish(delivery).await;
    });
    let running = start(&bench.log, &worker, &options());
    until("it has the work", || async { worker.seen() == 1 }).await;
    running.stop().await;
    assert_eq!((bench.seqs(), bench.backlog(DECODE).await.entries), (vec![1], 0));
}

/// Leases need a clock that the thread of the heartbeat shares.
async fn a_lost_lease_stops_the_work_and_its_result_is_thrown_away(bench: Bench) {
    bench.add_work(0..1).await;
    let ended = Arc::new(Mutex::new(None));
    let told = Arc::clone(&ended);
    let worker = Worker::new(1, move |delivery| {
        let told = Arc::clone(&told);
        async move {
            delivery.lost().cancelled().await;
            // The other one is to finish first, however busy the machine is.
            tokio::time::sleep(SHORT * 4).await;
            let outputs = Outputs::fact(fact(delivery.envelope(), 0));
            let how = delivery.finish(outputs).await;
            told.lock().unwrap().replace(how);
        }
    });
    let running = start(&bench.log, &worker, &options());
    until("it has the work", || async { worker.seen() == 1 }).await;
    let taken_over = bench.claim("thief", Duration::ZERO).await.remove(0);
    assert_eq!(bench.commit(&taken_over, &[fact(&requested(0), 1)]).await, Outcome::Done);
    until("the first worker notices", || async { ended.lock().unwrap().is_some() }).await;
    running.stop().await;
    assert_eq!(*ended.lock().unwrap(), Some(Ended::Committed(Outcome::Lost)));
    assert_eq!(bench.seqs(), [1]);
}

async fn work_is_kept_while_it_takes_long_and_moves_on_when_its_worker_is_silent(bench: Bench) {
    bench.add_work(0..1).await;
    let slow = Worker::new(1, |delivery| async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        finish(delivery).await;
    });
    let options = Options { lease: Duration::from_millis(600), ..options() };
    let first = start(&bench.log, &slow, &options);
    until("it has the work", || async { slow.seen() == 1 }).await;
    let other = Worker::new(1, finish);
    let second = start(&bench.log, &other, &Options { worker: "other".to_owned(), ..options.clone() });
    until_empty(&bench).await;
    assert_eq!((slow.seen(), other.seen()), (1, 0), "the heartbeat kept it");

    first.stop().await;
    second.stop().await;
    bench.one_taken(7, "a worker that dies").await;
    let third = start(&bench.log, &other, &Options { worker: "third".to_owned(), ..options.clone() });
    until_empty(&bench).await;
    third.stop().await;
    assert_eq!((bench.seqs(), other.seen()), (vec![1, 2], 1));
}

async fn pressure_pauses_a_lane_while_its_leases_go_on(bench: Bench) {
    let rt = Source::Queue(SHARD, Queue::Decode, Lane::Rt);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let worker = Worker::new(4, move |delivery| {
        let gate = Arc::clone(&opened);
        async move {
            if delivery.lane() == Lane::Batch {
                gate.acquire().await.unwrap().forget();
            }
            finish(delivery).await;
        }
    });
    let options = Options { outlet: Some(Queue::Segments), lease: Duration::from_millis(600), ..options() };
    let running = start(&bench.log, &worker, &options);
    bench.add_work(0..1).await;
    until("it holds one", || async { worker.seen() == 1 }).await;
    bench.add(SEGMENTS, &requested(50), 31 * 60_000, 0).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    bench.add_work(1..3).await;
    bench.add(rt, &requested(9), 1, 0).await;
    until("the other lane goes on", || async { bench.backlog(rt).await.entries == 0 }).await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(worker.seen(), 2, "nothing new in the lane under pressure");
    assert!(bench.claim("thief", Duration::from_millis(600)).await.is_empty(), "what is held is kept");

    let segment = bench.log.take(GROUP, "infer", SEGMENTS, 1).await.unwrap().remove(0);
    assert_eq!(bench.commit(&segment, &[]).await, Outcome::Done);
    gate.add_permits(9);
    until_empty(&bench).await;
    running.stop().await;
    assert_eq!(worker.seen(), 4);
}

/// Makes two tests in real time of each function.
macro_rules! in_real_time {
    ($($name:ident),+ $(,)?) => {
        mod in_memory_in_real_time {
            use crate::contract::fixture::Bench;
            $(#[tokio::test] async fn $name() { super::$name(Bench::memory().await).await })+
        }
        mod on_redis_in_real_time {
            use crate::contract::fixture::Bench;
            $(#[tokio::test] async fn $name() {
                if let Some(bench) = Bench::redis().await {
                    super::$name(bench).await
                }
            })+
        }
    };
}

in_real_time!(
    a_lost_lease_stops_the_work_and_its_result_is_thrown_away,
    work_is_kept_while_it_takes_long_and_moves_on_when_its_worker_is_silent,
    pressure_pauses_a_lane_while_its_leases_go_on,
);

/// An idle worker reads all shards at once; what is more than it can do must not wait for it.
#[tokio::test]
async fn a_worker_keeps_no_more_than_it_can_work_on() {
    let memory = MemoryLog::new(8);
    let log: SharedLog = Arc::new(memory.clone());
    let queues: Vec<Source> =
        (0..8).map(|shard| Source::Queue(Shard(shard), Queue::Decode, Lane::Batch)).collect();
    let options = Options { lease: LONG, ..options() };
    let stuck = Worker::new(1, |delivery| async move {
        std::future::pending::<()>().await;
        drop(delivery);
    });
    let first = start(&log, &stuck, &options);
    tokio::time::sleep(SHORT).await;
    let bench = Bench { log: Arc::clone(&log), memory: Some(memory.clone()), server: None };
    for queue in &queues {
        let mut work = requested(u32::from(queue.shard().unwrap().0));
        work.shard = queue.shard().unwrap();
        let message = Message::work(&work, 1, 0).unwrap();
        let admit = Admit {
            shard: work.shard,
            recording: fresh_recording(),
            claim: None,
            fingerprint: String::new(),
            facts: Vec::new(),
            work: Some((*queue, message)),
        };
        bench.log.admit(&admit).await.unwrap();
    }
    until("it is at work", || async { stuck.seen() == 1 }).await;
    let free = Worker::new(1, finish);
    let second = start(&log, &free, &Options { worker: "free".to_owned(), ..options.clone() });
    until("the other one did the rest", || async { free.seen() == 7 }).await;
    second.stop().await;
    first.stop().await;
    let left: u64 = futures::future::join_all(
        queues.iter().map(|queue| async { log.backlog(*queue).await.unwrap().entries }),
    )
    .await
    .into_iter()
    .sum();
    assert_eq!(left, 1);
}
