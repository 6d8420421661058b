//! What a chore works on, and the pipeline around it.

use std::time::Duration;

use events::*;
use project::keeper::runs::{Options, Runs};
use service::store::{AudioStore, Key};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use streams::memory::MemoryLog;
use streams::{Log, ModelNote, Queue, Source};
use uuid::Uuid;
use views::{Entry, NewRun, Policies, Run, RunState, Selection, Views, Wishes};

const SHARDS: u16 = 2;

/// Log, audio store and database, and what was done in them.
pub struct World {
    pub log: MemoryLog,
    pub views: Views,
    pub store: AudioStore,
    _folder: tempfile::TempDir,
}

/// Runs `test` in a world of its own.
pub fn with_world<F: Future<Output = ()> + Send + 'static>(test: impl FnOnce(World) -> F + Send + 'static) {
    let Ok(server) = std::env::var("VOICEFORGE_TEST_POSTGRES") else {
        eprintln!("skipped: VOICEFORGE_TEST_POSTGRES names no PostgreSQL server");
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let name = format!("keeper_{}", Uuid::new_v4().simple());
        let mut admin = PgConnection::connect(&server).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await.unwrap();
        let (rest, query) = server.split_once('?').unwrap_or((&server, ""));
        let (base, _) = rest.rsplit_once('/').expect("the URL names a database");
        let url = format!("{base}/{name}?{query}");
        let options = views::Options { max_connections: 4, ..views::Options::default() };
        let views = Views::connect(&url, &options).await.unwrap();
        views.migrate(&Policies::default()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = AudioStore::open(folder.path().to_str().unwrap()).unwrap();
        let world = World { log: MemoryLog::new(SHARDS), views, store, _folder: folder };
        for (model, multilingual, languages) in
            [("tiny.en", false, &["en"][..]), ("base", true, &["en", "de"])]
        {
            let languages = languages.iter().map(|&code| code.to_owned()).collect();
            let note = ModelNote { name: model.to_owned(), sha256: "5a".to_owned(), multilingual, languages };
            world.log.announce_model(&note, std::time::Duration::from_secs(60)).await.unwrap();
        }
        let outcome = tokio::spawn(test(world)).await;
        let drop = format!("DROP DATABASE {name} WITH (FORCE)");
        sqlx::query(AssertSqlSafe(drop)).execute(&mut admin).await.unwrap();
        if let Err(error) = outcome {
            std::panic::resume_unwind(error.into_panic());
        }
    });
}

impl World {
    /// A keeper that does the runs and keeps ten minutes of audio in the queues.
    pub fn keeper(&self) -> Runs {
        self.keeper_with(Options {
            every: Duration::from_millis(10),
            ahead: Duration::from_secs(600),
            missing_after: Duration::from_secs(120),
        })
    }

    pub fn keeper_with(&self, options: Options) -> Runs {
        let log = std::sync::Arc::new(self.log.clone());
        Runs::new(log, self.views.clone(), self.store.clone(), options, "test".to_owned())
    }

    /// Puts recording `n` in, `minutes` long, complete, in `language`.
    pub async fn admit(&mut self, n: u32, minutes: u64, language: &str) -> RecordingId {
        let recording = self.admit_only(n, minutes, language).await;
        self.transcribe(n, 0, minutes, language, &["the quick brown fox", "and good bye"]).await;
        recording
    }

    /// Puts recording `n` in, of which nobody has any work.
    pub async fn admit_only(&mut self, n: u32, minutes: u64, language: &str) -> RecordingId {
        let admitted = self.admission(n, minutes, language).await;
        self.tell(n, 0, admitted).await;
        recording(n)
    }

    /// Appends the admission of recording `n` and gives what a projector has in hand that has not come to apply it.
    pub async fn hold_back(&mut self, n: u32) -> Entry {
        let admitted = self.admission(n, 1, "en").await;
        self.say(n, 0, admitted).await;
        self.read().await.remove(0)
    }

    async fn admission(&self, n: u32, minutes: u64, language: &str) -> RecordingAdmitted {
        let key = format!("default/{}", recording(n));
        self.store.put_bytes(&Key::parse(&key).unwrap(), bytes::Bytes::from_static(b"RIFF")).await.unwrap();
        let settings = Settings {
            model: ModelRef {
                name: if language == "en" { "tiny.en" } else { "base" }.into(),
                sha256: "5a".into(),
            },
            task: Task::Transcribe,
            language: None,
            prompt: None,
            temperatures: vec![0.0],
            channels: Channels::Mix,
            cutter: CUTTER_VERSION,
            decoding: Default::default(),
        };
        let audio = Audio {
            key,
            bytes: 4,
            sha256: "ab".into(),
            container: "wav".into(),
            estimated_ms: minutes * 60_000,
        };
        RecordingAdmitted {
            drop_id: format!("drop-{n}"),
            name: Some(format!("{n}.wav")),
            uri: None,
            audio,
            settings,
            lane: Lane::Batch,
            metadata: Default::default(),
        }
    }

    /// Does what decode and infer do with a generation.
    pub async fn transcribe(
        &mut self,
        n: u32,
        generation: u32,
        minutes: u64,
        language: &str,
        texts: &[&str],
    ) {
        for (index, text) in (0..).zip(texts) {
            let start_ms = u64::from(index) * 5_000;
            let said = SegmentTranscribed {
                channel: 0,
                index,
                start_ms,
                end_ms: start_ms + 5_000,
                language: language.into(),
                text: (*text).to_owned(),
                spans: Vec::new(),
                model: "any".into(),
                infer_ms: 100,
                coverage: 1.0,
                gaps: Vec::new(),
            };
            self.tell(n, generation, said).await;
        }
        let decoded = RecordingDecoded {
            segments: vec![texts.len() as u32],
            audio_ms: minutes * 60_000,
            speech_ms: 8_000,
            channels: 1,
            sample_rate: 16_000,
            codec: "pcm".into(),
            truncated_at_ms: None,
            truncated_reason: None,
        };
        self.tell(n, generation, decoded).await;
    }

    /// Appends a fact about recording `n` and projects it.
    pub async fn tell(&mut self, n: u32, generation: u32, event: impl Into<Event>) {
        self.say(n, generation, event).await;
        self.project().await;
    }

    /// Appends a fact about recording `n`.
    pub async fn say(&mut self, n: u32, generation: u32, event: impl Into<Event>) {
        let about = About {
            recording: recording(n),
            shard: recording(n).shard(SHARDS),
            tenant: Tenant::default(),
            submitted_at: submitted_at(n),
        };
        let envelope = Envelope::of_act(Uuid::new_v4(), &about, generation, event.into());
        let facts = vec![streams::Message::fact(&envelope).unwrap()];
        let append = streams::Append { shard: about.shard, recording: about.recording, facts, work: None };
        self.log.append(&append).await.unwrap();
    }

    /// Does what project does with every fact that is new.
    pub async fn project(&mut self) {
        for entry in self.read().await {
            self.views.apply(&[entry]).await.unwrap();
        }
    }

    /// Takes every fact that is new.
    async fn read(&mut self) -> Vec<Entry> {
        let (group, logs) =
            ("project", (0..SHARDS).map(|shard| Source::Log(Shard(shard))).collect::<Vec<_>>());
        self.log.ensure_groups(group, &logs).await.unwrap();
        let mut reader = self.log.reader(group, "test").await.unwrap();
        let mut entries = Vec::new();
        loop {
            let facts = reader.read(&logs, 1_000, Duration::ZERO).await.unwrap();
            if facts.is_empty() {
                return entries;
            }
            for fact in facts {
                let Source::Log(shard) = fact.source else { panic!("{:?}", fact.source) };
                let seq = fact.text("seq").unwrap().parse().unwrap();
                entries.push(Entry::read(shard, seq, fact.field("event").unwrap()).unwrap());
                self.log.acknowledge(group, fact.source, &[fact.id]).await.unwrap();
            }
        }
    }

    /// The requests that wait in the replay lane, as recording and generation, in order of recording.
    pub fn requested(&self) -> Vec<(u32, u32)> {
        let requests = self.requests(Lane::Replay);
        requests.into_iter().map(|(n, envelope)| (n, envelope.generation)).collect()
    }

    /// The requests that wait in a lane, in order of recording and generation.
    pub fn requests(&self, lane: Lane) -> Vec<(u32, Envelope)> {
        let mut requested = Vec::new();
        for shard in (0..SHARDS).map(Shard) {
            let source = Source::Queue(shard, Queue::Decode, lane);
            for entry in self.log.entries(&source.key(), source) {
                let Ok(Decoded::Known(envelope)) = events::decode(entry.field("event").unwrap()) else {
                    panic!()
                };
                let n = (0..100).find(|&n| recording(n) == envelope.recording).unwrap();
                requested.push((n, *envelope));
            }
        }
        requested.sort_by_key(|(n, envelope)| (*n, envelope.generation));
        requested
    }

    /// How many facts of a kind the log holds.
    pub fn told(&self, kind: &str) -> usize {
        let facts = (0..SHARDS).flat_map(|shard| {
            let source = Source::Log(Shard(shard));
            self.log.entries(&source.key(), source)
        });
        facts.filter(|fact| fact.text("event").unwrap().contains(&format!("\"type\":\"{kind}\""))).count()
    }

    pub async fn start(&self, wishes: Wishes, activation: Activation) -> Run {
        self.start_over(Selection::default(), wishes, activation, None).await
    }

    pub async fn start_over(
        &self,
        selection: Selection,
        wishes: Wishes,
        activation: Activation,
        rate: Option<f64>,
    ) -> Run {
        let new = NewRun { tenant: Tenant::default(), selection, wishes, activation, rate };
        self.views.create_run(&new).await.unwrap()
    }

    pub async fn state(&self, run: &Run) -> RunState {
        self.run(run).await.state
    }

    pub async fn run(&self, run: &Run) -> Run {
        self.views.run(&run.tenant, run.id).await.unwrap().unwrap()
    }
}

/// Takes turns until nothing is left to do.
pub async fn all_turns(keeper: &Runs) {
    while keeper.turn().await.unwrap() {}
}

pub fn recording(n: u32) -> RecordingId {
    Uuid::from_u128((u128::from(n) << 112) | 0x8000_0000_8000_0000_0000_0000 | u128::from(n)).into()
}

fn submitted_at(n: u32) -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_767_323_045 + i64::from(n)).unwrap()
}
