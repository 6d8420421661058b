use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use events::{
    Activation, Audio, Decoding, Envelope, EventId, ModelRef, RecordingId, SegmentId, Settings, Shard, Task,
    Tenant,
};
use service::env::{self, Map};
use streams::memory::MemoryLog;
use streams::{Admit, Log, Message, Queue, Source, keys};
use tokio_util::sync::CancellationToken;

use super::*;

/// A deployment of decode alone: a memory log and a store in a temporary folder.
struct Bench {
    log: MemoryLog,
    store: AudioStore,
    config: Config,
    _folder: tempfile::TempDir,
}

const SHARD: Shard = Shard(0);
const SEGMENTS: Source = Source::Queue(SHARD, Queue::Segments, Lane::Batch);

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let store = AudioStore::open(folder.path().to_str().unwrap()).unwrap();
        let config = env::load("voiceforge-decode", "", &[""; 0], &Map::new(), Config::read).unwrap().config;
        Bench { log: MemoryLog::new(1), store, config, _folder: folder }
    }

    /// Puts audio in the store and asks for its transcription.
    async fn request(&self, audio: Option<Vec<u8>>) -> Envelope {
        self.request_as(7, audio, Lane::Batch, Decoding::default()).await
    }

    /// Puts audio in the store and asks for its transcription as a recording of that number.
    async fn request_as(
        &self,
        number: u128,
        audio: Option<Vec<u8>>,
        lane: Lane,
        decoding: Decoding,
    ) -> Envelope {
        let recording = RecordingId::from(uuid::Uuid::from_u128(number));
        let key = format!("default/{recording}");
        let bytes = audio.as_ref().map_or(0, Vec::len) as u64;
        if let Some(audio) = audio {
            self.store.put_bytes(&Key::parse(&key).unwrap(), audio.into()).await.unwrap();
        }
        let settings = Settings {
            model: ModelRef { name: "tiny.en".into(), sha256: "ab".into() },
            task: Task::Transcribe,
            language: None,
            prompt: None,
            temperatures: vec![0.0],
            channels: Channels::Mix,
            cutter: CUTTER_VERSION,
            decoding,
        };
        let audio = Audio { key, bytes, sha256: "cd".into(), container: "wav".into(), estimated_ms: 1000 };
        let activation = Activation::Auto;
        let at = events::now();
        let work = Envelope {
            event_id: EventId::from(uuid::Uuid::from_u128(number + 2)),
            shard: SHARD,
            seq: None,
            recording,
            tenant: Tenant::default(),
            generation: 0,
            round: 0,
            submitted_at: at,
            occurred_at: at,
            trace: None,
            causation_id: None,
            event: TranscriptionRequested { name: None, audio, settings, lane, activation }.into(),
        };
        let admit = Admit {
            shard: SHARD,
            recording,
            claim: None,
            fingerprint: String::new(),
            facts: vec![],
            work: Some((Source::Queue(SHARD, Queue::Decode, lane), Message::work(&work, 1000, 0).unwrap())),
        };
        self.log.admit(&admit).await.unwrap();
        work
    }

    fn run(&self) -> (CancellationToken, tokio::task::JoinHandle<Result<(), streams::Error>>) {
        let shutdown = CancellationToken::new();
        let log: SharedLog = Arc::new(self.log.clone());
        let stage = Arc::new(Decode::new(Arc::clone(&log), self.store.clone(), self.config.clone()));
        let options = self.config.stage();
        (shutdown.clone(), tokio::spawn(streams::stage::run(log, stage, options, shutdown)))
    }

    /// Runs the stage until a fact stands in the log, and returns it.
    async fn fact(&self) -> Event {
        let (shutdown, running) = self.run();
        let facts = async {
            loop {
                if let Some(fact) = self.log.facts(SHARD).pop() {
                    break fact;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let fact =
            tokio::time::timeout(Duration::from_secs(60), facts).await.expect("a fact within a minute");
        shutdown.cancel();
        running.await.unwrap().unwrap();
        let work = Source::Queue(SHARD, Queue::Decode, Lane::Batch);
        assert_eq!(
            self.log.backlog(work).await.unwrap(),
            streams::Backlog::default(),
            "nothing left pending"
        );
        match events::decode(fact.field("event").unwrap()).unwrap() {
            events::Decoded::Known(envelope) => envelope.event,
            other => panic!("{other:?}"),
        }
    }

    async fn failure(&self) -> Cause {
        match self.fact().await {
            Event::RecordingFailed(failed) => failed.cause,
            other => panic!("{other:?}"),
        }
    }
}

/// One second of silence as a 16-bit wav of 8 kHz.
fn silence() -> Vec<u8> {
    let samples = [0; 16_000];
    let mut wav =
        b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data".to_vec();
    wav[4..8].copy_from_slice(&(36 + samples.len() as u32).to_le_bytes());
    wav.extend((samples.len() as u32).to_le_bytes());
    wav.extend(samples);
    wav
}

fn clip() -> Option<Vec<u8>> {
    let folder = PathBuf::from(std::env::var_os("VOICEFORGE_TEST_CLIPS")?);
    let files = std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let longest = files.filter(|path| path.extension().is_some_and(|e| e == "wav" || e == "flac"));
    std::fs::read(longest.max_by_key(|path| path.metadata().map_or(0, |m| m.len()))?).ok()
}

#[tokio::test]
async fn silence_is_decoded_to_nothing() {
    let bench = Bench::new();
    bench.request(Some(silence())).await;
    let Event::RecordingDecoded(decoded) = bench.fact().await else { panic!("decoded") };
    assert_eq!((decoded.segments, decoded.audio_ms, decoded.sample_rate), (vec![0], 1000, 8000));
}

#[tokio::test]
async fn what_cannot_be_decoded_is_a_fact_with_a_reason() {
    for (audio, code) in
        [(None, "audio_missing"), (Some(vec![]), "empty"), (Some(b"hello world".to_vec()), "not_audio")]
    {
        let bench = Bench::new();
        bench.request(audio).await;
        let cause = bench.failure().await;
        assert_eq!(cause.code, code, "{cause}");
        assert_eq!(bench.log.dead_letters(SEGMENTS).await.unwrap(), 0, "bad audio is no dead letter");
    }
}

/// A worker that stops in the middle leaves its successor the place, and together they emit each part once.
#[tokio::test]
async fn a_successor_goes_on_where_the_first_one_stopped() {
    let Some(audio) = clip() else {
        eprintln!("skipped: VOICEFORGE_TEST_CLIPS is not set");
        return;
    };
    let whole = Bench::new();
    let work = whole.request(Some(audio.clone())).await;
    let Event::RecordingDecoded(decoded) = whole.fact().await else { panic!("decoded") };
    let count = decoded.segments[0];
    assert!(count >= 2, "the clip must be long enough to be cut: {decoded:?}");

    let halves = Bench::new();
    halves.request(Some(audio)).await;
    let (shutdown, running) = halves.run();
    while halves.log.backlog(SEGMENTS).await.unwrap().entries == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    shutdown.cancel();
    running.await.unwrap().unwrap();
    let Event::RecordingDecoded(resumed) = halves.fact().await else { panic!("decoded") };
    assert_eq!(resumed, decoded);
    for index in 0..count {
        let segment = SegmentId { recording: work.recording, generation: 0, channel: 0, index };
        let speech = whole.log.speech(SHARD, &segment, 0).await.unwrap();
        assert!(speech.is_some());
        assert_eq!(halves.log.speech(SHARD, &segment, 0).await.unwrap(), speech, "segment {index}");
    }
    assert_eq!(halves.log.backlog(SEGMENTS).await.unwrap(), whole.log.backlog(SEGMENTS).await.unwrap());
    assert_eq!(
        halves.log.cursor(&keys::cursor(SHARD, work.recording, 0, 0)).await.unwrap(),
        "",
        "the cursor is gone"
    );
}

/// Recordings whose segments are read one after the other have few of them in the queue, and keep nobody from being decoded.
#[tokio::test]
async fn who_waits_for_its_own_segments_holds_nobody_up() {
    let Some(audio) = clip() else {
        eprintln!("skipped: VOICEFORGE_TEST_CLIPS is not set");
        return;
    };
    let mut bench = Bench::new();
    bench.config.slots = 1;
    bench.config.rt_segment_max = Duration::from_secs(1);
    let across = Decoding { condition_across_segments: true, ..Decoding::default() };
    let ordered = bench.request_as(7, Some(audio.clone()), Lane::Rt, across).await;
    let queue = Source::Queue(SHARD, Queue::Segments, Lane::Rt);
    let entries = async || bench.log.backlog(queue).await.unwrap().entries;
    let (shutdown, running) = bench.run();
    let work = async {
        while entries().await < u64::from(AHEAD) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let ordinary = bench.request_as(8, Some(audio), Lane::Rt, Decoding::default()).await;
        while bench.log.facts(SHARD).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        ordinary
    };
    let ordinary =
        tokio::time::timeout(Duration::from_secs(60), work).await.expect("the other is decoded meanwhile");
    let segment =
        |of: &Envelope, index| SegmentId { recording: of.recording, generation: 0, channel: 0, index };
    let unread =
        async |of: &Envelope, index| bench.log.is_unread(SHARD, &segment(of, index), 0).await.unwrap();
    assert!(unread(&ordinary, AHEAD).await, "the clip must be long enough");
    assert!(unread(&ordered, AHEAD - 1).await);
    assert!(!unread(&ordered, AHEAD).await, "it waits");

    // One more goes into the queue for each that is read.
    bench.log.ensure_groups("infer", &[queue]).await.unwrap();
    let first = bench.log.take("infer", "i", queue, 1).await.unwrap().remove(0);
    let commit = streams::Commit {
        source: queue,
        group: "infer".into(),
        id: first.id.clone(),
        identity: first.identity().to_owned(),
        recording: Some(ordered.recording),
        generation: Some(0),
        facts: vec![],
        outputs: vec![],
        dead: None,
        delete: vec![keys::speech(SHARD, &segment(&ordered, 0), 0)],
        lapse: None,
    };
    assert_eq!(bench.log.commit(&commit).await.unwrap(), Outcome::Done);
    let one_more = async {
        while !unread(&ordered, AHEAD).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), one_more).await.expect("one more is cut");
    assert!(!unread(&ordered, AHEAD + 1).await);
    shutdown.cancel();
    running.await.unwrap().unwrap();
}
