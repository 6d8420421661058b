//! Measures the way through a stage: read, handle, commit, with the loop that all stages share.
//!
//! `hop REDIS_URL FLOW COUNT` fills the queues of an empty Redis, runs one worker until they are empty, and prints one
//! line of JSON. Flows: `ack` ends each event and passes nothing on, as a task without a result does; `pass` appends a
//! fact and the next piece of work, as a stage does; `speech` emits segments of 960 KB of speech, reads each as infer
//! does, and commits a fact for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use events::{
    Activation, Audio, Channels, Claim, DropIdentity, Envelope, EventId, Lane, ModelRef, RecordingId,
    SegmentCut, SegmentTranscribed, Settings, Shard, Task, Tenant, TranscriptionRequested,
};
use streams::redis::{Config, RedisLog};
use streams::stage::{self, Inlet, Part};
use streams::{
    Append, Appended, Delivery, Emitted, Message, Options, Outputs, Queue, SharedLog, Source, Stage,
};
use tokio_util::sync::CancellationToken;

const SHARD: Shard = Shard(0);
const DECODE: Source = Source::Queue(SHARD, Queue::Decode, Lane::Batch);

/// 30 s of 16 kHz mono PCM, i16.
const SPEECH_BYTES: usize = 960_000;
/// Segments of one recording: half an hour of speech.
const SEGMENTS: u32 = 60;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, flow, count] = &arguments[..] else { return Err("usage: hop REDIS_URL FLOW COUNT".into()) };
    let count: usize = count.parse()?;
    let log: SharedLog = Arc::new(RedisLog::connect(Config::new(url, 1)).await?);
    let before = Usage::of(url).await?;
    let (since, usage) = match flow.as_str() {
        "ack" | "pass" => {
            fill(&log, count).await?;
            let usage = Usage::of(url).await?;
            let since = Instant::now();
            hop(&log, flow == "pass", count).await?;
            (since, usage)
        }
        "speech" => {
            let recordings = count.div_ceil(SEGMENTS as usize);
            fill(&log, recordings).await?;
            let since = Instant::now();
            carry_speech(&log, recordings, count).await?;
            (since, before)
        }
        other => return Err(format!("there is no flow {other:?}").into()),
    };
    let seconds = since.elapsed().as_secs_f64();
    let spent = Usage::of(url).await?;
    println!(
        "{{\"flow\":\"{flow}\",\"count\":{count},\"seconds\":{seconds:.4},\"worker_cpu\":{:.3},\"redis_cpu\":{:.3}}}",
        spent.worker - usage.worker,
        spent.redis - usage.redis
    );
    Ok(())
}

/// Puts work into the decode queue.
async fn fill(log: &SharedLog, count: usize) -> Result<(), Failure> {
    let mut filling = Vec::new();
    for number in 0..count {
        let work = requested(number as u32);
        let act = Append {
            shard: SHARD,
            recording: work.recording,
            facts: Vec::new(),
            work: Some((DECODE, Message::work(&work, 1000, 0)?)),
        };
        let log = Arc::clone(log);
        filling.push(async move { log.append(&act).await });
        if filling.len() == 256 || number + 1 == count {
            for appended in futures::future::join_all(filling.drain(..)).await {
                if appended? != Appended::Done {
                    return Err("Redis is not empty: work of this name stood there before".into());
                }
            }
        }
    }
    Ok(())
}

/// Runs one worker until so many events are through.
async fn hop(log: &SharedLog, pass: bool, count: usize) -> Result<(), Failure> {
    let stage = Arc::new(Hop { pass, left: AtomicUsize::new(count), done: CancellationToken::new() });
    let options = Options::new("decode", Inlet::Queue(Queue::Decode));
    stage::run(Arc::clone(log), Arc::clone(&stage), options, stage.done.clone()).await?;
    Ok(())
}

/// Does nothing with its deliveries but end them.
struct Hop {
    pass: bool,
    left: AtomicUsize,
    done: CancellationToken,
}

#[async_trait]
impl Stage for Hop {
    fn slots(&self) -> usize {
        512
    }

    async fn process(&self, deliveries: Vec<Delivery>) {
        let finish = deliveries.into_iter().map(async |delivery| {
            let outputs = if self.pass {
                let work = delivery.envelope();
                let fact = work.follow(transcribed().into(), events::now());
                Outputs { facts: vec![fact], work: vec![(Queue::Segments, Lane::Batch, cut(work, 0), 1000)] }
            } else {
                Outputs::default()
            };
            delivery.finish(outputs).await;
            if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
                self.done.cancel();
            }
        });
        futures::future::join_all(finish).await;
    }
}

/// Runs a worker that emits speech and one that reads it.
async fn carry_speech(log: &SharedLog, recordings: usize, count: usize) -> Result<(), Failure> {
    let over = CancellationToken::new();
    let speech = bytes::Bytes::from((0..SPEECH_BYTES).map(|at| (at * 31 % 251) as u8).collect::<Vec<u8>>());
    let cutter =
        Arc::new(Cutter { speech, left: AtomicUsize::new(count), parts: count.div_ceil(recordings) as u32 });
    let reader = Arc::new(Reader { log: Arc::clone(log), left: AtomicUsize::new(count), done: over.clone() });
    let cutting = Options::new("decode", Inlet::Queue(Queue::Decode));
    let reading = Options::new("infer", Inlet::Queue(Queue::Segments));
    let (cut, read) = tokio::join!(
        stage::run(Arc::clone(log), cutter, cutting, over.clone()),
        stage::run(Arc::clone(log), reader, reading, over.clone()),
    );
    cut?;
    read?;
    Ok(())
}

/// Emits segments of speech, two recordings at a time.
struct Cutter {
    speech: bytes::Bytes,
    left: AtomicUsize,
    parts: u32,
}

#[async_trait]
impl Stage for Cutter {
    fn slots(&self) -> usize {
        2
    }

    async fn process(&self, deliveries: Vec<Delivery>) {
        let work = deliveries.into_iter().map(async |delivery| {
            for index in 0..self.parts {
                if self
                    .left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                    .is_err()
                {
                    break;
                }
                let place = |index: u32| if index == 0 { String::new() } else { index.to_string() };
                let part = Part {
                    work: cut(delivery.envelope(), index),
                    lane: Lane::Batch,
                    speech: self.speech.clone(),
                    ms: 30_000,
                    expected: place(index),
                    next: place(index + 1),
                };
                let emitted = delivery.emit(part).await;
                assert!(matches!(emitted, Ok(Emitted::Done)), "{emitted:?}");
            }
            delivery.finish(Outputs::default()).await;
        });
        futures::future::join_all(work).await;
    }
}

/// Reads the speech of its segments and says a word about each.
struct Reader {
    log: SharedLog,
    left: AtomicUsize,
    done: CancellationToken,
}

#[async_trait]
impl Stage for Reader {
    fn slots(&self) -> usize {
        8
    }

    async fn process(&self, deliveries: Vec<Delivery>) {
        let work = deliveries.into_iter().map(async |delivery| {
            let cut = delivery.envelope();
            let segment = cut.segment().expect("a queue of segments holds segments");
            let speech = self.log.speech(cut.shard, &segment, cut.round).await;
            assert_eq!(speech.ok().flatten().map(|speech| speech.len()), Some(SPEECH_BYTES));
            let fact = cut.follow(transcribed().into(), events::now());
            delivery.finish(Outputs::fact(fact)).await;
            if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
                self.done.cancel();
            }
        });
        futures::future::join_all(work).await;
    }
}

/// Processor time spent so far, in seconds.
struct Usage {
    worker: f64,
    redis: f64,
}

impl Usage {
    async fn of(url: &str) -> Result<Usage, Failure> {
        let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
        let info: String = redis::cmd("INFO").arg("cpu").query_async(&mut connection).await?;
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|value| value.trim().parse::<f64>().ok()).unwrap_or(0.0)
        };
        // Fields 14 and 15 of the process' own line, in hundredths of a second; the name may hold spaces.
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks: f64 =
            after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<f64>().ok()).sum();
        Ok(Usage { worker: ticks / 100.0, redis: field("used_cpu_user") + field("used_cpu_sys") })
    }
}

fn settings() -> Settings {
    Settings {
        model: ModelRef { name: "tiny.en".to_owned(), sha256: "ab".repeat(32) },
        task: Task::Transcribe,
        language: Some("en".to_owned()),
        prompt: None,
        temperatures: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
        channels: Channels::Mix,
        cutter: 1,
        decoding: Default::default(),
    }
}

/// A recording's work, as ingest admits it.
fn requested(number: u32) -> Envelope {
    let identity = DropIdentity::derive(&number.to_string(), "hop");
    let recording = RecordingId::derive(&Claim::by_key(&Tenant::default(), &number.to_string()), &identity);
    let event = TranscriptionRequested {
        name: Some("talk.mp3".to_owned()),
        audio: Audio {
            key: format!("default/{recording}"),
            bytes: 1_234_567,
            sha256: "cd".repeat(32),
            container: "mp3".to_owned(),
            estimated_ms: 60_000,
        },
        settings: settings(),
        lane: Lane::Batch,
        activation: Activation::Auto,
    };
    Envelope {
        event_id: EventId::derive(identity.event_id(), "TranscriptionRequested", "", 0),
        shard: SHARD,
        seq: None,
        recording,
        tenant: Tenant::default(),
        generation: 0,
        round: 0,
        submitted_at: events::now(),
        occurred_at: events::now(),
        trace: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
        causation_id: None,
        event: event.into(),
    }
}

fn cut(work: &Envelope, index: u32) -> Envelope {
    let start_ms = u64::from(index) * 30_000;
    let (end_ms, lane) = (start_ms + 30_000, Lane::Batch);
    let event =
        SegmentCut { channel: 0, index, start_ms, end_ms, settings: settings(), lane, speech: Vec::new() };
    work.follow(event.into(), events::now())
}

fn transcribed() -> SegmentTranscribed {
    SegmentTranscribed {
        channel: 0,
        index: 0,
        start_ms: 0,
        end_ms: 30_000,
        language: "en".to_owned(),
        text: "the quick brown fox jumps over the lazy dog".to_owned(),
        spans: Vec::new(),
        model: "ab".repeat(32),
        infer_ms: 100,
        coverage: 1.0,
        gaps: Vec::new(),
    }
}
