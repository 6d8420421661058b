//! The loop that all stages share: what it hands out, how deliveries end, and what it survives.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use events::{Decoded, Envelope, Event, Lane};
use futures::future::BoxFuture;
use streams::stage::{self, Inlet};
use streams::{Admission, Admit, Delivery, Error, Message, Options, Queue, SharedLog, Source, Stage};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::fixture::*;

mod ends;
mod flow;
mod points;
mod trouble;

/// A stage made of a function, which counts what it has in hand.
struct Worker {
    slots: usize,
    work: Box<dyn Fn(Delivery) -> BoxFuture<'static, ()> + Send + Sync>,
    in_hand: AtomicUsize,
    most: AtomicUsize,
    seen: Mutex<Vec<(Lane, String)>>,
}

impl Worker {
    fn new<F, Fut>(slots: usize, work: F) -> Arc<Worker>
    where
        F: Fn(Delivery) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Arc::new(Worker {
            slots,
            work: Box::new(move |delivery| Box::pin(work(delivery))),
            in_hand: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            seen: Mutex::default(),
        })
    }

    fn seen(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

#[async_trait]
impl Stage for Worker {
    fn slots(&self) -> usize {
        self.slots
    }

    async fn process(&self, deliveries: Vec<Delivery>) {
        let now = self.in_hand.fetch_add(deliveries.len(), Ordering::SeqCst) + deliveries.len();
        self.most.fetch_max(now, Ordering::SeqCst);
        futures::future::join_all(deliveries.into_iter().map(|delivery| async {
            self.seen.lock().unwrap().push((delivery.lane(), delivery.entry().identity().to_owned()));
            (self.work)(delivery).await;
            self.in_hand.fetch_sub(1, Ordering::SeqCst);
        }))
        .await;
    }
}

/// A stage that is running.
struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

fn start(log: &SharedLog, worker: &Arc<Worker>, options: &Options) -> Running {
    let shutdown = CancellationToken::new();
    let task =
        tokio::spawn(stage::run(Arc::clone(log), Arc::clone(worker), options.clone(), shutdown.clone()));
    Running { shutdown, task }
}

impl Running {
    async fn stop(self) {
        self.shutdown.cancel();
        let stopped = tokio::time::timeout(Duration::from_secs(30), self.task).await;
        stopped.expect("the loop returns").expect("without a panic").expect("without an error");
    }
}

/// Impatient options for the decode queue.
fn options() -> Options {
    Options {
        lease: Duration::from_secs(2),
        beat: Duration::from_millis(50),
        block: Duration::from_millis(200),
        claim_every: Duration::from_millis(50),
        grace: Duration::from_millis(300),
        ..Options::new(GROUP, Inlet::Queue(Queue::Decode))
    }
}

/// Finishes a delivery with one fact.
async fn finish(delivery: Delivery) {
    let outputs = stage::Outputs::fact(fact(delivery.envelope(), 0));
    delivery.finish(outputs).await;
}

/// Waits until something holds; fails when it takes absurdly long.
async fn until<Fut: Future<Output = bool>>(what: &str, holds: impl Fn() -> Fut) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "it never came to be that {what}");
}

async fn until_empty(bench: &Bench) {
    until("the queue is empty", || async { bench.backlog(DECODE).await.entries == 0 }).await;
}

/// Appends whatever bytes as work, or as a fact.
async fn add_raw(bench: &Bench, queue: Option<Source>, json: &str) {
    let message =
        Message { event_id: uuid::Uuid::new_v4().to_string(), json: json.to_owned(), ms: 5, bytes: 0 };
    let admit = Admit {
        shard: SHARD,
        recording: fresh_recording(),
        claim: None,
        fingerprint: String::new(),
        facts: if queue.is_none() { vec![message.clone()] } else { Vec::new() },
        work: queue.map(|queue| (queue, message)),
    };
    assert_eq!(bench.log.admit(&admit).await.unwrap(), Admission::Admitted);
}

/// The facts of the log as events.
fn facts_of(bench: &Bench) -> Vec<Envelope> {
    let decode = |json: &[u8]| match events::decode(json) {
        Ok(Decoded::Known(envelope)) => *envelope,
        other => panic!("{other:?}"),
    };
    bench.facts().iter().map(|fact| decode(fact.field("event").unwrap())).collect()
}

fn dead_codes(bench: &Bench) -> Vec<String> {
    bench.dead(DECODE).iter().map(|letter| letter.text("dead_code").unwrap().to_owned()).collect()
}
