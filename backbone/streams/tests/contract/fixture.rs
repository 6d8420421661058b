//! What the tests are made of: a log to run on, and events to put into it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use events::{
    Activation, Audio, Cause, Channels, Claim, DropIdentity, Envelope, Event, EventId, Lane, ModelRef,
    RecordingDeleted, RecordingId, SegmentCut, SegmentFailed, SegmentId, Settings, Shard, Task, Tenant,
    TranscriptionRequested,
};
use streams::memory::MemoryLog;
use streams::{
    Admission, Admit, Backlog, Commit, DeadLetter, Emit, Entry, Message, Outcome, Queue, SharedLog, Source,
    keys,
};

use super::server::Server;

pub const SHARD: Shard = Shard(0);
pub const DECODE: Source = Source::Queue(SHARD, Queue::Decode, Lane::Batch);
pub const SEGMENTS: Source = Source::Queue(SHARD, Queue::Segments, Lane::Batch);
pub const LOG: Source = Source::Log(SHARD);
pub const GROUP: &str = "decode";

/// Long against everything a test does.
pub const LONG: Duration = Duration::from_secs(600);
/// Short, yet longer than the calls before it take.
pub const SHORT: Duration = Duration::from_millis(150);

/// Makes two tests of each function: one on the log in memory, one on a real Redis.
macro_rules! on_both_logs {
    ($($name:ident),+ $(,)?) => {
        mod in_memory {
            use crate::contract::fixture::Bench;
            // Time stands still until all wait for it, so that leases of a minute take no time.
            $(#[tokio::test(start_paused = true)] async fn $name() { super::$name(Bench::memory().await).await })+
        }
        mod on_redis {
            use crate::contract::fixture::Bench;
            $(#[tokio::test] async fn $name() {
                if let Some(bench) = Bench::redis().await {
                    super::$name(bench).await
                }
            })+
        }
    };
}

/// A log with its groups made, and the ways around it that only a test takes.
pub struct Bench {
    pub log: SharedLog,
    pub memory: Option<MemoryLog>,
    pub server: Option<Server>,
}

impl Bench {
    pub async fn memory() -> Bench {
        let memory = MemoryLog::new(1);
        Bench { log: Arc::new(memory.clone()), memory: Some(memory), server: None }.with_groups().await
    }

    pub async fn redis() -> Option<Bench> {
        Bench::on(Server::start()?).await
    }

    pub async fn durable_redis() -> Option<Bench> {
        Bench::on(Server::start_durable()?).await
    }

    async fn on(server: Server) -> Option<Bench> {
        let log = Arc::new(server.log(1).await);
        Some(Bench { log, memory: None, server: Some(server) }.with_groups().await)
    }

    async fn with_groups(self) -> Bench {
        for lane in Lane::ALL {
            let work = [Queue::Decode, Queue::Segments].map(|queue| Source::Queue(SHARD, queue, *lane));
            self.log.ensure_groups(GROUP, &work).await.expect("make the groups of work");
        }
        self.log.ensure_groups("project", &[LOG]).await.expect("make the group of facts");
        let drops = [Source::Ingest(Lane::Batch), Source::Ingest(Lane::Rt)];
        self.log.ensure_groups("ingest", &drops).await.expect("make the groups of drops");
        self
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("a bench on Redis")
    }

    /// Appends work to a queue, as an admission does.
    pub async fn add(&self, queue: Source, work: &Envelope, ms: u64, bytes: u64) {
        let message = Message::work(work, ms, bytes).expect("small work");
        let admit = Admit {
            shard: queue.shard().expect("a queue of a shard"),
            recording: fresh_recording(),
            claim: None,
            fingerprint: String::new(),
            facts: Vec::new(),
            work: Some((queue, message)),
        };
        assert_eq!(self.log.admit(&admit).await.expect("append work"), Admission::Admitted);
    }

    /// Appends a fact to the shard's log.
    pub async fn add_fact(&self, fact: &Envelope) {
        let admit = Admit {
            shard: SHARD,
            recording: fresh_recording(),
            claim: None,
            fingerprint: String::new(),
            facts: vec![Message::fact(fact).expect("a small fact")],
            work: None,
        };
        assert_eq!(self.log.admit(&admit).await.expect("append a fact"), Admission::Admitted);
    }

    /// Adds recordings `from..to` to the decode queue.
    pub async fn add_work(&self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            self.add(DECODE, &requested(number), 1000, 0).await;
        }
    }

    pub async fn take(&self, consumer: &str, count: usize) -> Vec<Entry> {
        self.log.take(GROUP, consumer, DECODE, count).await.expect("take work")
    }

    /// Adds one recording to the decode queue and takes it.
    pub async fn one_taken(&self, number: u32, consumer: &str) -> Entry {
        self.add(DECODE, &requested(number), 1000, 0).await;
        let mut taken = self.take(consumer, 1).await;
        assert_eq!(taken.len(), 1, "the entry just added");
        taken.remove(0)
    }

    pub async fn claim(&self, consumer: &str, lease: Duration) -> Vec<Entry> {
        let claimed = self.log.claim(GROUP, consumer, DECODE, lease, 100).await.expect("claim");
        assert_eq!(claimed.lost, Vec::<String>::new());
        claimed.entries
    }

    pub async fn commit(&self, entry: &Entry, facts: &[Envelope]) -> Outcome {
        self.log.commit(&commit_of(entry, facts)).await.expect("commit")
    }

    pub async fn backlog(&self, source: Source) -> Backlog {
        self.log.backlog(source).await.expect("measure")
    }

    /// The facts of the shard in order.
    pub fn facts(&self) -> Vec<Entry> {
        self.stream(LOG, &LOG.key())
    }

    /// The `seq` of every fact.
    pub fn seqs(&self) -> Vec<u64> {
        self.facts().iter().map(|fact| fact.text("seq").unwrap().parse().unwrap()).collect()
    }

    /// The dead letters of the shard.
    pub fn dead(&self, source: Source) -> Vec<Entry> {
        self.stream(source, &source.dead())
    }

    fn stream(&self, source: Source, key: &str) -> Vec<Entry> {
        if let Some(memory) = &self.memory {
            return memory.entries(key, source);
        }
        type Rows = Vec<(String, Vec<(String, Vec<u8>)>)>;
        let rows: Rows = self.server().ask(&["XRANGE", key, "-", "+"]);
        rows.into_iter()
            .map(|(id, fields)| Entry {
                source,
                id,
                fields: fields.into_iter().map(|(name, value)| (name, Bytes::from(value))).collect(),
                deliveries: 1,
                attempts: 0,
            })
            .collect()
    }

    /// Removes an entry behind everybody's back, as an operator's XDEL does.
    pub fn remove(&self, entry: &Entry) {
        match &self.memory {
            Some(memory) => memory.remove(entry.source, &entry.id),
            None => self.server().ask(&["XDEL", &entry.source.key(), &entry.id]),
        }
    }

    pub async fn mark_deleted(&self, recording: RecordingId) {
        let deleted = deletion(recording);
        self.log.delete(SHARD, recording, &deleted).await.expect("mark a recording deleted");
    }
}

/// Why an entry is given up.
pub fn letter() -> DeadLetter {
    DeadLetter {
        stage: "decode".to_owned(),
        cause: cause("unsupported_codec"),
        attempts: 3,
        worker: "host:1:x".to_owned(),
    }
}

pub fn commit_of(entry: &Entry, facts: &[Envelope]) -> Commit {
    let decoded = entry.field("event").map(|json| events::decode(json));
    let recording = match decoded {
        Some(Ok(events::Decoded::Known(envelope))) => Some(envelope.recording),
        _ => None,
    };
    Commit {
        source: entry.source,
        group: GROUP.to_owned(),
        id: entry.id.clone(),
        identity: entry.identity().to_owned(),
        recording,
        generation: None,
        facts: facts.iter().map(|fact| Message::fact(fact).expect("a small fact")).collect(),
        outputs: Vec::new(),
        dead: None,
        delete: Vec::new(),
        lapse: None,
    }
}

/// The emit of part `index` of the recording in `entry`.
pub fn emit_of(entry: &Entry, work: &Envelope, index: u32) -> Emit {
    let cut = cut(work, index);
    let segment = segment_of(&cut, index);
    let speech = Bytes::from(vec![index as u8; 64]);
    let place = |part: u32| if part == 0 { String::new() } else { format!("{part}:{}:1", part * 16_000) };
    Emit {
        source: entry.source,
        group: GROUP.to_owned(),
        id: entry.id.clone(),
        identity: entry.identity().to_owned(),
        recording: work.recording,
        generation: work.generation,
        cursor: keys::cursor(work.shard, work.recording, work.generation, work.round),
        expected: place(index),
        next: place(index + 1),
        queue: SEGMENTS,
        message: Message::work(&cut, 1000, speech.len() as u64).expect("small work"),
        speech_key: keys::speech(work.shard, &segment, work.round),
        speech,
    }
}

/// The claim that the content of every [`requested`] recording makes.
pub fn content_claim() -> Claim {
    let work = requested(0);
    let Event::TranscriptionRequested(request) = &work.event else { unreachable!("it was just made") };
    Claim::by_content(&work.tenant, &request.audio.sha256, &request.settings.canonical())
}

/// The admission of recording `number` under a claim, with its work.
pub fn admit_under(number: u32, claim: Claim) -> Admit {
    let work = requested(number);
    Admit {
        shard: SHARD,
        recording: work.recording,
        claim: Some(claim),
        fingerprint: "f".to_owned(),
        facts: Vec::new(),
        work: Some((DECODE, Message::work(&work, 1000, 0).expect("small work"))),
    }
}

/// What a drop finds that recording `number` was before.
pub fn duplicate_of(number: u32) -> Admission {
    Admission::Duplicate { recording: recording(number), fingerprint: "f".to_owned() }
}

pub fn segment_of(cut: &Envelope, index: u32) -> SegmentId {
    SegmentId { recording: cut.recording, generation: cut.generation, channel: 0, index }
}

pub fn recording(number: u32) -> RecordingId {
    let claim = Claim::by_key(&Tenant::default(), &number.to_string());
    RecordingId::derive(&claim, &DropIdentity::derive(&number.to_string(), "audio"))
}

/// A recording nothing else is about.
pub fn fresh_recording() -> RecordingId {
    RecordingId::from(uuid::Uuid::new_v4())
}

pub fn cause(code: &str) -> Cause {
    Cause::new(code, "told by a test")
}

pub fn settings() -> Settings {
    Settings {
        model: ModelRef { name: "tiny.en".to_owned(), sha256: "ab".repeat(32) },
        task: Task::Transcribe,
        language: Some("en".to_owned()),
        prompt: None,
        temperatures: vec![0.0],
        channels: Channels::Mix,
        cutter: 1,
        decoding: Default::default(),
    }
}

/// The work of transcribing recording `number`.
pub fn requested(number: u32) -> Envelope {
    envelope(
        number,
        TranscriptionRequested {
            name: None,
            audio: Audio {
                key: format!("default/{number}"),
                bytes: 1,
                sha256: "cd".repeat(32),
                container: "wav".to_owned(),
                estimated_ms: 1000,
            },
            settings: settings(),
            lane: Lane::Batch,
            activation: Activation::Auto,
        }
        .into(),
    )
}

/// Segment `index` of the recording of `work`.
pub fn cut(work: &Envelope, index: u32) -> Envelope {
    let start_ms = u64::from(index) * 1000;
    let event = SegmentCut {
        channel: 0,
        index,
        start_ms,
        end_ms: start_ms + 1000,
        settings: settings(),
        lane: Lane::Batch,
        speech: Vec::new(),
    };
    work.follow(event.into(), events::now())
}

/// The fact that a recording is deleted.
pub fn deletion(recording: RecordingId) -> Message {
    let event = RecordingDeleted { by: "api".to_owned(), drop_id: None };
    let event_id = EventId::derive(EventId::from(recording.as_uuid()), "RecordingDeleted", "", 0);
    let fact = Envelope { recording, event_id, ..requested(0).follow(event.into(), events::now()) };
    Message::fact(&fact).expect("a small fact")
}

/// A fact that follows from `work`, told apart by `index`.
pub fn fact(work: &Envelope, index: u32) -> Envelope {
    let event =
        SegmentFailed { channel: 0, index, start_ms: 0, end_ms: 1, cause: cause("test"), attempts: 1 };
    work.follow(event.into(), events::now())
}

fn envelope(number: u32, event: Event) -> Envelope {
    let recording = recording(number);
    Envelope {
        event_id: EventId::derive(
            DropIdentity::derive(&number.to_string(), "").event_id(),
            event.kind(),
            "",
            0,
        ),
        shard: SHARD,
        seq: None,
        recording,
        tenant: Tenant::default(),
        generation: 0,
        round: 0,
        submitted_at: events::now(),
        occurred_at: events::now(),
        trace: None,
        causation_id: None,
        event,
    }
}
