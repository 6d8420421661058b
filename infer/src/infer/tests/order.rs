//! Segments that continue the text before them, and those that do not.

use std::collections::BTreeMap;

use events::{Activation, Audio, TranscriptionRequested};
use service::env::{self, Map};
use streams::memory::MemoryLog;
use streams::{Admit, Commit, DeadLetter, Emit, Emitted, Entry, Log, Message, Outcome, Queue, Source, keys};
use tokio_util::sync::CancellationToken;

use super::*;

pub const SHARD: Shard = Shard(0);
const SEGMENTS: Source = Source::Queue(SHARD, Queue::Segments, Lane::Batch);
const DECODE: Source = Source::Queue(SHARD, Queue::Decode, Lane::Batch);
const LONG: Duration = Duration::from_secs(600);

/// A deployment of infer alone, with the model that hashes.
pub struct Bench {
    pub log: MemoryLog,
    config: Config,
    /// What segments are to be transcribed with.
    pub model: ModelRef,
    lease: Duration,
    _folder: tempfile::TempDir,
}

impl Bench {
    pub async fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let mut config =
            env::load("voiceforge-infer", "", &[""; 0], &Map::new(), Config::read).unwrap().config;
        config.models = folder.path().to_owned();
        config.model = hash::NAME.to_owned();
        config.hash_model = Some(Duration::ZERO);
        let log = MemoryLog::new(1);
        log.ensure_groups("decode", &[DECODE]).await.unwrap();
        log.ensure_groups("infer", &[SEGMENTS]).await.unwrap();
        let info = hash::info();
        let model = ModelRef { name: info.name, sha256: info.sha256 };
        Bench { log, config, model, lease: LONG, _folder: folder }
    }

    /// Cuts a recording into these segments, in this order; each is to continue the one before where `across` is set.
    pub async fn cut(&self, number: u64, across: bool, segments: &[u32]) -> Envelope {
        let recording: RecordingId = format!("00000000-0000-0000-0000-{number:012}").parse().unwrap();
        let decoding = Decoding { condition_across_segments: across, ..Decoding::default() };
        let mut settings = super::cut(0, decoding).settings;
        settings.model = self.model.clone();
        settings.prompt = None;
        let audio = Audio {
            key: format!("default/{recording}"),
            bytes: 1,
            sha256: "cd".into(),
            container: "wav".into(),
            estimated_ms: 1000,
        };
        let (lane, activation) = (Lane::Batch, Activation::Auto);
        let work = Envelope {
            event_id: EventId::from(recording.as_uuid()),
            recording,
            event: TranscriptionRequested { name: None, audio, settings: settings.clone(), lane, activation }
                .into(),
            ..work()
        };
        let admit = Admit {
            shard: SHARD,
            recording,
            claim: None,
            fingerprint: String::new(),
            facts: vec![],
            work: Some((DECODE, Message::work(&work, 1000, 0).unwrap())),
        };
        self.log.admit(&admit).await.unwrap();
        let entry = self.log.take("decode", "d", DECODE, 1).await.unwrap().remove(0);
        for (at, &index) in segments.iter().enumerate() {
            let start_ms = u64::from(index) * 1000;
            let (end_ms, speech) = (start_ms + 1000, Vec::new());
            let cut =
                SegmentCut { channel: 0, index, start_ms, end_ms, settings: settings.clone(), lane, speech };
            let speech: Vec<u8> = pcm(number, index).iter().flat_map(|sample| sample.to_le_bytes()).collect();
            let place = |at: usize| if at == 0 { String::new() } else { at.to_string() };
            let emit = Emit {
                source: DECODE,
                group: "decode".into(),
                id: entry.id.clone(),
                identity: entry.identity().to_owned(),
                recording,
                generation: 0,
                cursor: keys::cursor(SHARD, recording, 0, 0),
                expected: place(at),
                next: place(at + 1),
                queue: SEGMENTS,
                message: Message::work(&work.follow(cut.into(), events::now()), 1000, 2).unwrap(),
                speech_key: keys::speech(SHARD, &segment(&work, index), 0),
                speech: speech.into(),
            };
            assert_eq!(self.log.emit(&emit).await.unwrap(), Emitted::Done);
        }
        work
    }

    /// Takes the next segment as another worker.
    async fn take(&self, consumer: &str) -> Entry {
        self.log.take("infer", consumer, SEGMENTS, 1).await.unwrap().remove(0)
    }

    /// Runs the stage until there are so many facts or nothing is left to do; the texts of each recording, in the order in
    /// which they came.
    pub async fn texts(&self, facts: usize) -> BTreeMap<RecordingId, Vec<(u32, String)>> {
        let shutdown = CancellationToken::new();
        let log: SharedLog = Arc::new(self.log.clone());
        let stage = Arc::new(Infer::start(Arc::clone(&log), self.config.clone()).await.unwrap());
        let mut options = self.config.stage().with_lease(self.lease);
        options.claim_every = Duration::from_millis(10);
        options.block = Duration::from_millis(20);
        let running = tokio::spawn(streams::stage::run(log, stage, options, shutdown.clone()));
        let enough = async {
            while self.log.facts(SHARD).len() < facts {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), enough).await.expect("facts within a minute");
        shutdown.cancel();
        running.await.unwrap().unwrap();
        let mut texts: BTreeMap<RecordingId, Vec<(u32, String)>> = BTreeMap::new();
        for fact in self.log.facts(SHARD) {
            let Ok(events::Decoded::Known(fact)) = events::decode(fact.field("event").unwrap()) else {
                panic!("{fact:?}")
            };
            if let Event::SegmentTranscribed(said) = fact.event {
                texts.entry(fact.recording).or_default().push((said.index, said.text));
            }
        }
        texts
    }
}

fn segment(work: &Envelope, index: u32) -> SegmentId {
    SegmentId { recording: work.recording, generation: 0, channel: 0, index }
}

fn pcm(number: u64, index: u32) -> Vec<i16> {
    vec![number as i16, index as i16]
}

/// What a text leaves.
fn tail(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

/// The texts of segments of which each continues the one before; the first of them begins anew.
fn chain(number: u64, segments: std::ops::Range<u32>) -> Vec<(u32, String)> {
    let mut before = Vec::new();
    let text = |index| {
        let text = hash::text_after(&before, &pcm(number, index));
        before = tail(&text);
        (index, text)
    };
    segments.map(text).collect()
}

/// The texts of segments that know nothing of each other.
fn alone(number: u64, segments: std::ops::Range<u32>) -> Vec<(u32, String)> {
    segments.map(|index| (index, hash::text(&pcm(number, index)))).collect()
}

fn sorted(mut texts: Vec<(u32, String)>) -> Vec<(u32, String)> {
    texts.sort();
    texts
}

#[tokio::test]
async fn each_continues_the_one_before_where_it_is_asked_for() {
    let bench = Bench::new().await;
    let ordered = bench.cut(1, true, &[5, 3, 1, 0, 4, 2]).await;
    let ordinary = bench.cut(2, false, &[2, 1, 0]).await;
    let mut texts = bench.texts(9).await;
    assert_eq!(texts.remove(&ordered.recording).unwrap(), chain(1, 0..6), "in order");
    assert_eq!(sorted(texts.remove(&ordinary.recording).unwrap()), alone(2, 0..3));
    assert_ne!(chain(1, 0..6)[1..], alone(1, 0..6)[1..]);
    assert_eq!(bench.log.backlog(SEGMENTS).await.unwrap(), streams::Backlog::default());
}

#[tokio::test]
async fn who_waits_holds_nobody_up() {
    let mut bench = Bench::new().await;
    bench.config.slots = 1;
    let ordered = bench.cut(1, true, &[0, 1, 2, 3]).await;
    let ordinary = bench.cut(2, false, &[0, 1, 2]).await;
    bench.take("stuck").await;
    let mut texts = bench.texts(3).await;
    assert_eq!(sorted(texts.remove(&ordinary.recording).unwrap()), alone(2, 0..3));
    assert_eq!(texts.remove(&ordered.recording), None);
}

#[tokio::test]
async fn who_waits_goes_on_at_last() {
    let mut bench = Bench::new().await;
    bench.config.order_wait = Duration::from_secs(1);
    let ordered = bench.cut(1, true, &[0, 1, 2, 3]).await;
    let stuck = bench.take("stuck").await;
    let mut texts = bench.texts(3).await;
    let without = texts.remove(&ordered.recording).unwrap();
    assert_eq!(without, chain(1, 1..4), "the first that waits begins anew, the others continue it");

    // The one that was stuck is read in the end, and changes nothing for those that went on.
    bench.log.hand_back("infer", "stuck", SEGMENTS, std::slice::from_ref(&stuck.id)).await.unwrap();
    let mut texts = bench.texts(4).await;
    let all = texts.remove(&ordered.recording).unwrap();
    assert_eq!(all[3..], chain(1, 0..1));
}

#[tokio::test]
async fn a_worker_that_dies_changes_nothing() {
    let mut bench = Bench::new().await;
    bench.lease = Duration::from_millis(100);
    let ordered = bench.cut(1, true, &[0, 1, 2]).await;
    bench.take("dead").await;
    // It had read the first, and died before the commit.
    let left = serde_json::to_string(&tail(&chain(1, 0..1)[0].1)).unwrap();
    bench.log.leave_tail(SHARD, &segment(&ordered, 0), 0, &left).await.unwrap();
    let mut texts = bench.texts(3).await;
    assert_eq!(texts.remove(&ordered.recording).unwrap(), chain(1, 0..3));
}

#[tokio::test]
async fn after_one_that_failed_the_text_begins_anew() {
    let bench = Bench::new().await;
    let ordered = bench.cut(1, true, &[0, 1, 2]).await;
    let entry = bench.take("other").await;
    let cause = Cause::new("device", "it cannot");
    let commit = Commit {
        source: SEGMENTS,
        group: "infer".into(),
        id: entry.id.clone(),
        identity: entry.identity().to_owned(),
        recording: Some(ordered.recording),
        generation: Some(0),
        facts: vec![],
        outputs: vec![],
        dead: Some(DeadLetter { stage: "infer".into(), cause, attempts: 5, worker: "other".into() }),
        delete: vec![keys::speech(SHARD, &segment(&ordered, 0), 0)],
        lapse: None,
    };
    assert_eq!(bench.log.commit(&commit).await.unwrap(), Outcome::Done);
    let mut texts = bench.texts(2).await;
    assert_eq!(texts.remove(&ordered.recording).unwrap(), chain(1, 1..3));
}

#[tokio::test]
async fn of_a_deleted_recording_nothing_is_left() {
    let bench = Bench::new().await;
    let work = bench.cut(1, true, &[0, 1]).await;
    bench.texts(2).await;
    let left = async |index| bench.log.before(SHARD, &segment(&work, index), 0).await.unwrap();
    assert!(matches!(left(2).await, Before::Ended(Some(_))));
    let fact = events::RecordingDeleted { by: "api".into(), drop_id: None };
    let fact = Message::fact(&work.follow(fact.into(), events::now())).unwrap();
    bench.log.delete(SHARD, work.recording, &fact).await.unwrap();
    bench.log.erase(SHARD, work.recording).await.unwrap();
    assert_eq!((left(1).await, left(2).await), (Before::Ended(None), Before::Ended(None)));
}
