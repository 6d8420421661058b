//! How deliveries end, and what does not depend on them ending well.

use events::{Claim, Tenant};
use streams::stage::{Ended, Outputs, Part};
use streams::{Emitted, Outcome};

use super::*;

on_both_logs!(
    a_panic_is_tried_again,
    the_last_attempt_ends_in_the_dead_letters_and_in_a_fact,
    a_segment_given_up_is_a_fact_too,
    what_failed_may_be_brought_again,
    a_fact_that_ends_takes_nothing_from_the_work_it_tells_of,
    a_cause_of_any_length_fits_into_its_fact,
    a_result_too_large_fails_its_recording,
    what_cannot_be_read_dies_alone,
    unknown_work_dies,
    unknown_facts_are_handed_out_as_they_are,
    work_of_a_newer_version_waits_and_costs_no_attempt,
    what_kills_its_workers_is_given_up,
    the_last_panic_is_the_stages_to_end,
    a_stage_that_panics_while_it_gives_up_loses_nothing,
    facts_are_acknowledged_together,
    parts_wait_while_redis_is_full,
);

async fn a_panic_is_tried_again(bench: Bench) {
    bench.add_work(0..2).await;
    let worker = Worker::new(2, |delivery| async {
        assert!(delivery.entry().attempts > 0, "a panic that a test wants");
        finish(delivery).await;
    });
    let running = start(&bench.log, &worker, &options());
    until_empty(&bench).await;
    running.stop().await;
    assert_eq!(bench.seqs(), [1, 2]);
    assert!(worker.seen() >= 3, "whatever was in the hands of the panic came again");
    assert!(dead_codes(&bench).is_empty());
}

async fn the_last_attempt_ends_in_the_dead_letters_and_in_a_fact(bench: Bench) {
    bench.add_work(0..1).await;
    let worker = Worker::new(1, |delivery| async {
        delivery.retry_after(Duration::from_millis(1), cause("no_luck")).await;
    });
    let running = start(&bench.log, &worker, &Options { max_attempts: 3, ..options() });
    until_empty(&bench).await;
    running.stop().await;
    assert_eq!(worker.seen(), 3);
    assert_eq!(dead_codes(&bench), ["no_luck"]);
    assert_eq!(bench.dead(DECODE)[0].text("dead_attempts"), Some("3"));
    let facts = facts_of(&bench);
    let Event::RecordingFailed(failed) = &facts[0].event else { panic!("{facts:?}") };
    assert_eq!(
        (failed.stage.as_str(), failed.attempts, failed.cause.code.as_str()),
        ("decode", 3, "no_luck")
    );
    assert_eq!((facts.len(), facts[0].recording), (1, recording(0)));
}

async fn a_segment_given_up_is_a_fact_too(bench: Bench) {
    let (work, entry) = (requested(1), bench.one_taken(1, "decoder").await);
    let emit = emit_of(&entry, &work, 4);
    let emit = streams::Emit { expected: String::new(), ..emit };
    assert_eq!(bench.log.emit(&emit).await.unwrap(), Emitted::Done);
    let worker = Worker::new(1, |delivery| async {
        delivery.fail(cause("no_luck")).await;
    });
    let options = Options { inlet: Inlet::Queue(Queue::Segments), ..options() };
    let running = start(&bench.log, &worker, &options);
    until("the segment ended", || async { bench.backlog(SEGMENTS).await.entries == 0 }).await;
    running.stop().await;
    let facts = facts_of(&bench);
    let Event::SegmentFailed(failed) = &facts[0].event else { panic!("{facts:?}") };
    assert_eq!((failed.index, failed.start_ms, failed.end_ms), (4, 4000, 5000));
    assert_eq!(
        bench.log.speech(SHARD, &segment_of(&work, 4), 0).await.unwrap(),
        None,
        "its speech goes with it"
    );
}

/// A failed recording gives the claim of its content back, however it failed; a key, and what others hold, it leaves.
async fn what_failed_may_be_brought_again(bench: Bench) {
    let (content, key) = (content_claim(), Claim::by_key(&Tenant::default(), "k"));
    let worker = Worker::new(1, |delivery| async {
        let envelope = delivery.envelope();
        match envelope.recording {
            // Its audio is at fault: a fact without a dead letter.
            one if one == recording(2) => {
                let (stage, cause) = ("decode".to_owned(), cause("not_audio"));
                let failed = events::RecordingFailed { stage, cause, attempts: 1 };
                let fact = envelope.follow(failed.into(), events::now());
                delivery.finish(Outputs::fact(fact)).await;
            }
            one if one == recording(3) && envelope.generation == 0 => finish(delivery).await,
            _ => drop(delivery.fail(cause("no_luck")).await),
        }
    });
    let running = start(&bench.log, &worker, &options());
    for (number, claim, then) in [
        (1, content, Admission::Admitted),
        (2, content, Admission::Admitted),
        (3, content, Admission::Admitted),
        (4, content, duplicate_of(3)),
        (5, key, Admission::Admitted),
        (6, key, duplicate_of(5)),
        (6, content, duplicate_of(3)),
    ] {
        assert_eq!(bench.log.admit(&admit_under(number, claim)).await.unwrap(), then, "recording {number}");
        until_empty(&bench).await;
    }
    bench.add(DECODE, &Envelope { generation: 1, ..requested(3) }, 1000, 0).await;
    until_empty(&bench).await;
    let again = bench.log.admit(&admit_under(7, content)).await.unwrap();
    assert_eq!(again, duplicate_of(3), "a later generation takes nothing from the first");
    running.stop().await;
    assert_eq!(dead_codes(&bench), ["no_luck"; 3]);
}

/// The fact of a request is read while its decode runs.
async fn a_fact_that_ends_takes_nothing_from_the_work_it_tells_of(bench: Bench) {
    let claim = content_claim();
    assert_eq!(bench.log.admit(&admit_under(1, claim)).await.unwrap(), Admission::Admitted);
    let work = requested(1);
    let entry = bench.take("decoder", 1).await.remove(0);
    let emit = emit_of(&entry, &work, 0);
    assert_eq!(bench.log.emit(&emit).await.unwrap(), Emitted::Done);
    bench.add_fact(&work).await;
    bench.add_fact(&Envelope { event_id: events::EventId::from(uuid::Uuid::new_v4()), ..work }).await;
    let worker = Worker::new(9, |delivery| async {
        match (delivery.envelope().seq, delivery.entry().attempts) {
            (Some(1), 0) => drop(delivery.retry_after(Duration::from_millis(1), cause("database")).await),
            (Some(1), _) => Delivery::finish_all(vec![delivery]).await,
            _ => drop(delivery.fail(cause("refused")).await),
        }
    });
    let running = start(&bench.log, &worker, &Options { name: "project", inlet: Inlet::Facts, ..options() });
    until("one is done and one given up", || async {
        // The failure itself is a fact, and given up too: of it nothing follows.
        worker.seen() >= 4 && bench.log.unread_facts("project", SHARD).await.unwrap() == 0
    })
    .await;
    running.stop().await;
    assert_eq!(dead_codes(&bench), ["refused"; 2]);
    assert_eq!(bench.log.cursor(&emit.cursor).await.unwrap(), emit.next, "the decode goes on where it is");
    assert_eq!(
        bench.log.admit(&admit_under(2, claim)).await.unwrap(),
        duplicate_of(1),
        "and holds its claim"
    );
}

async fn a_cause_of_any_length_fits_into_its_fact(bench: Bench) {
    bench.add_work(0..1).await;
    let worker = Worker::new(1, |delivery| async {
        delivery.fail(events::Cause::new("long", "ä".repeat(100_000))).await;
    });
    let running = start(&bench.log, &worker, &options());
    until_empty(&bench).await;
    running.stop().await;
    assert!(matches!(facts_of(&bench)[0].event, Event::RecordingFailed(_)));
}

async fn a_result_too_large_fails_its_recording(bench: Bench) {
    bench.add_work(0..1).await;
    let worker = Worker::new(1, |delivery| async {
        let mut large = fact(delivery.envelope(), 0);
        large.trace = Some("x".repeat(70_000));
        delivery.finish(Outputs::fact(large)).await;
    });
    let running = start(&bench.log, &worker, &options());
    until_empty(&bench).await;
    running.stop().await;
    assert_eq!(dead_codes(&bench), ["result_too_large"]);
    assert!(matches!(facts_of(&bench)[0].event, Event::RecordingFailed(_)));
}

async fn what_cannot_be_read_dies_alone(bench: Bench) {
    bench.add_work(0..2).await;
    for json in ["", "{", "[]", r#"{"type":"TranscriptionRequested","version":1}"#] {
        add_raw(&bench, Some(DECODE), json).await;
    }
    bench.add_work(2..4).await;
    let worker = Worker::new(2, finish);
    let running = start(&bench.log, &worker, &options());
    until_empty(&bench).await;
    running.stop().await;
    assert_eq!((worker.seen(), bench.seqs()), (4, vec![1, 2, 3, 4]));
    assert_eq!(dead_codes(&bench), ["malformed_event"; 4]);
    assert_eq!(bench.backlog(DECODE).await, streams::Backlog::default());
}

async fn unknown_work_dies(bench: Bench) {
    add_raw(&bench, Some(DECODE), r#"{"type":"Unheard","version":1}"#).await;
    let worker = Worker::new(1, finish);
    let running = start(&bench.log, &worker, &options());
    until_empty(&bench).await;
    running.stop().await;
    assert_eq!((worker.seen(), dead_codes(&bench)), (0, vec!["unknown_event_type".to_owned()]));
}

async fn unknown_facts_are_handed_out_as_they_are(bench: Bench) {
    add_raw(&bench, None, r#"{"type":"Unheard","version":1}"#).await;
    bench.add_fact(&fact(&requested(1), 0)).await;
    let worker = Worker::new(9, |delivery| async {
        assert_eq!(delivery.entry().text("seq"), Some(if delivery.known().is_some() { "2" } else { "1" }));
        delivery.finish(Outputs::default()).await;
    });
    let running = start(&bench.log, &worker, &Options { name: "project", inlet: Inlet::Facts, ..options() });
    until("all is read", || async { bench.log.unread_facts("project", SHARD).await.unwrap() == 0 }).await;
    running.stop().await;
    assert_eq!((worker.seen(), bench.seqs(), dead_codes(&bench)), (2, vec![1, 2], vec![]));
}

async fn work_of_a_newer_version_waits_and_costs_no_attempt(bench: Bench) {
    add_raw(&bench, Some(DECODE), r#"{"type":"TranscriptionRequested","version":99}"#).await;
    bench.add_work(0..1).await;
    let worker = Worker::new(1, finish);
    let running = start(&bench.log, &worker, &options());
    until("the other work is done", || async { bench.backlog(DECODE).await.entries == 1 }).await;
    if bench.memory.is_some() {
        // Time is free here: long enough to be looked at again many times.
        tokio::time::sleep(LONG).await;
    }
    running.stop().await;
    assert_eq!((worker.seen(), dead_codes(&bench)), (1, vec![]));
    if bench.memory.is_some() {
        tokio::time::sleep(LONG).await;
        let waiting = bench.claim("upgraded", LONG).await;
        assert_eq!((waiting[0].attempts, waiting[0].deliveries), (0, 1));
    }
}

async fn what_kills_its_workers_is_given_up(bench: Bench) {
    bench.one_taken(1, "w0").await;
    for number in 1..=10 {
        assert_eq!(bench.claim(&format!("w{number}"), Duration::ZERO).await.len(), 1);
    }
    let worker = Worker::new(1, finish);
    let running = start(&bench.log, &worker, &Options { lease: Duration::from_millis(1), ..options() });
    until_empty(&bench).await;
    running.stop().await;
    assert_eq!((worker.seen(), dead_codes(&bench)), (0, vec!["crash_loop".to_owned()]));
    assert!(matches!(facts_of(&bench)[0].event, Event::RecordingFailed(_)));
}

/// A stage whose every delivery panics.
#[derive(Default)]
struct Panics {
    /// The codes of what it was told to give up.
    given_up: std::sync::Mutex<Vec<String>>,
    /// Whether giving up panics as well.
    even_there: bool,
}

#[async_trait]
impl Stage for Panics {
    fn slots(&self) -> usize {
        1
    }

    async fn process(&self, _deliveries: Vec<Delivery>) {
        panic!("a panic that a test wants");
    }

    async fn give_up(&self, delivery: Delivery, cause: events::Cause) {
        assert!(!self.even_there, "another one");
        self.given_up.lock().unwrap().push(cause.code.clone());
        delivery.fail(cause).await;
    }
}

async fn the_last_panic_is_the_stages_to_end(bench: Bench) {
    bench.add_work(0..1).await;
    let (worker, shutdown) = (Arc::new(Panics::default()), CancellationToken::new());
    let options = Options { max_attempts: 1, ..options() };
    let task =
        tokio::spawn(stage::run(Arc::clone(&bench.log), Arc::clone(&worker), options, shutdown.clone()));
    until_empty(&bench).await;
    shutdown.cancel();
    task.await.unwrap().unwrap();
    assert_eq!(*worker.given_up.lock().unwrap(), ["worker_panicked"]);
    assert_eq!(dead_codes(&bench), ["worker_panicked"]);
}

async fn a_stage_that_panics_while_it_gives_up_loses_nothing(bench: Bench) {
    // With one slot the second is taken only when the first is let go.
    bench.add_work(0..2).await;
    let (worker, shutdown) = (Panics { even_there: true, ..Panics::default() }, CancellationToken::new());
    let options = Options { max_attempts: 1, ..options() };
    let task = tokio::spawn(stage::run(Arc::clone(&bench.log), Arc::new(worker), options, shutdown.clone()));
    until_empty(&bench).await;
    shutdown.cancel();
    task.await.unwrap().unwrap();
    assert_eq!(dead_codes(&bench), ["worker_panicked", "worker_panicked"]);
}

async fn facts_are_acknowledged_together(bench: Bench) {
    #[derive(Default)]
    struct Projector(std::sync::atomic::AtomicBool);
    #[async_trait]
    impl Stage for Projector {
        fn slots(&self) -> usize {
            50
        }
        async fn process(&self, deliveries: Vec<Delivery>) {
            let (first, rest): (Vec<Delivery>, Vec<Delivery>) = deliveries
                .into_iter()
                .partition(|delivery| delivery.envelope().seq == Some(3) && delivery.entry().attempts == 0);
            for delivery in first {
                delivery.retry_after(Duration::ZERO, cause("database")).await;
            }
            let (early, rest): (Vec<Delivery>, Vec<Delivery>) = rest.into_iter().partition(|delivery| {
                delivery.envelope().seq == Some(4) && !self.0.swap(true, Ordering::SeqCst)
            });
            for delivery in early {
                delivery.put_off(Duration::ZERO).await;
            }
            Delivery::finish_all(rest).await;
        }
    }
    for number in 0..20 {
        bench.add_fact(&fact(&requested(1), number)).await;
    }
    let shutdown = CancellationToken::new();
    let options = Options { name: "project", inlet: Inlet::Facts, ..options() };
    let task = tokio::spawn(stage::run(
        Arc::clone(&bench.log),
        Arc::new(Projector::default()),
        options,
        shutdown.clone(),
    ));
    until("all is read", || async { bench.log.unread_facts("project", SHARD).await.unwrap() == 0 }).await;
    shutdown.cancel();
    task.await.unwrap().unwrap();
    if let Some(server) = &bench.server {
        assert!(
            !server.ask::<bool>(&["EXISTS", &LOG.attempts("project")]),
            "nothing is kept of what was put off"
        );
    }
}

async fn parts_wait_while_redis_is_full(bench: Bench) {
    bench.add_work(0..1).await;
    let full = |full: bool| match (&bench.memory, full) {
        (Some(memory), full) => memory.set_full(full),
        (None, true) => bench.server().fill_up(),
        (None, false) => bench.server().make_room(),
    };
    full(true);
    let worker = Worker::new(1, |delivery| async {
        let work = cut(delivery.envelope(), 0);
        let part = Part {
            work,
            lane: Lane::Batch,
            speech: vec![0; 32].into(),
            ms: 1,
            expected: String::new(),
            next: "1:16:1".to_owned(),
        };
        assert_eq!(delivery.emit(part.clone()).await.unwrap(), Emitted::Done);
        assert_eq!(delivery.emit(part).await.unwrap(), Emitted::Repeated);
        assert_eq!(delivery.finish(Outputs::default()).await, Ended::Committed(Outcome::Done));
    });
    let running = start(&bench.log, &worker, &options());
    until("it has the work", || async { worker.seen() == 1 }).await;
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(bench.backlog(SEGMENTS).await.entries, 0);
    full(false);
    until_empty(&bench).await;
    running.stop().await;
    assert_eq!((bench.backlog(SEGMENTS).await.entries, dead_codes(&bench).len()), (1, 0));
}
