//! The keeper's chores over a log in memory, a store in a folder, and a database of their own.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use events::*;
use futures::TryStreamExt;
use project::keeper::erase::Eraser;
use project::keeper::retain::Retainer;
use project::keeper::sweep::Sweeper;
use project::keeper::trim;
use project::project::Project;
use service::store::{AudioStore, Key};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use streams::memory::MemoryLog;
use streams::{
    Admit, Commit, DeadLetter, DeadPlace, DropOutcome, Log, Message, Queue, SharedLog, Source, stage,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use views::{Entry, Keep, Kept, Options, Policies, Rule, Views};

const SHARDS: u16 = 2;

struct World {
    log: MemoryLog,
    views: Views,
    store: AudioStore,
    url: String,
    folder: tempfile::TempDir,
}

impl World {
    fn eraser(&self) -> Eraser {
        let log: SharedLog = std::sync::Arc::new(self.log.clone());
        Eraser::new(log, self.views.clone(), self.store.clone(), Some(Duration::ZERO))
    }

    /// Admits a recording with a segment and its audio, and gives its dead letters; the words of all is `word`.
    async fn record(&self, number: u128, word: &str) -> Deletion {
        let recording: RecordingId = Uuid::from_u128((number << 112) | number).into();
        let tenant = Tenant::default();
        let shard = recording.shard(SHARDS);
        let drop_id = format!("drop-{number}");
        let submitted_at = now();
        let envelope = |part: &str, event: Event| Envelope {
            event_id: EventId::derive(recording.as_uuid().into(), event.kind(), part, 0),
            shard,
            seq: None,
            recording,
            tenant: tenant.clone(),
            generation: 0,
            round: 0,
            submitted_at,
            occurred_at: now(),
            trace: None,
            causation_id: None,
            event,
        };
        let settings = Settings {
            model: ModelRef { name: "tiny.en".into(), sha256: "5a".into() },
            task: Task::Transcribe,
            language: None,
            prompt: Some(word.to_owned()),
            temperatures: vec![0.0],
            channels: Channels::Mix,
            cutter: 1,
            decoding: Default::default(),
        };
        let key = format!("{tenant}/{recording}");
        let audio = Audio {
            key: key.clone(),
            bytes: 4,
            sha256: String::new(),
            container: "wav".into(),
            estimated_ms: 1000,
        };
        let admitted = RecordingAdmitted {
            drop_id: drop_id.clone(),
            name: Some(word.to_owned()),
            uri: None,
            audio: audio.clone(),
            settings: settings.clone(),
            lane: Lane::Batch,
            metadata: BTreeMap::new(),
        };
        let requested = TranscriptionRequested {
            name: Some(word.to_owned()),
            audio,
            settings,
            lane: Lane::Batch,
            activation: Activation::Auto,
        };
        let decoded = RecordingDecoded {
            segments: vec![1],
            audio_ms: 1000,
            speech_ms: 1000,
            channels: 1,
            sample_rate: 16_000,
            codec: "pcm".into(),
            truncated_at_ms: None,
            truncated_reason: None,
        };
        let said = SegmentTranscribed {
            channel: 0,
            index: 0,
            start_ms: 0,
            end_ms: 1000,
            language: "en".into(),
            text: word.to_owned(),
            spans: Vec::new(),
            model: "tiny.en".into(),
            infer_ms: 1,
            coverage: 1.0,
            gaps: Vec::new(),
        };
        let requested = envelope("", requested.into());
        let facts = [
            envelope("", admitted.into()),
            requested.clone(),
            envelope("", decoded.into()),
            envelope("0:0", said.into()),
        ];
        let work = Message::work(&requested, 1000, 0).unwrap();
        let admit = Admit {
            shard,
            recording,
            claim: None,
            fingerprint: String::new(),
            facts: facts.iter().map(|fact| Message::fact(fact).unwrap()).collect(),
            work: Some((Source::Queue(shard, Queue::Decode, Lane::Batch), work)),
        };
        self.log.admit(&admit).await.unwrap();
        let cause = Cause::new("refused", word);
        let outcome =
            DropOutcome { recording: Some(recording), duplicate: false, cause: Some(cause.clone()) };
        self.log.set_drop_outcome(&drop_id, &outcome).await.unwrap();
        for key in
            [&key, &Manifest::key(&drop_id), &Manifest::audio_key(&drop_id), &format!("fetching/{drop_id}/1")]
        {
            let bytes = Bytes::copy_from_slice(word.as_bytes());
            self.store.put_bytes(&Key::parse(key).unwrap(), bytes).await.unwrap();
        }
        // Its drop died once, too.
        let source = Source::Ingest(Lane::Batch);
        self.log.ensure_groups("ingest", &[source]).await.unwrap();
        let fields = [("drop", drop_id.as_str()), ("name", word)];
        let fields = fields.map(|(name, value)| (name.to_owned(), Bytes::copy_from_slice(value.as_bytes())));
        self.log.submit(Lane::Batch, &fields).await.unwrap();
        let [entry] = self.log.take("ingest", "a", source, 1).await.unwrap().try_into().unwrap();
        let dead = DeadLetter { stage: "ingest".into(), cause, attempts: 3, worker: "a".into() };
        let commit = Commit {
            source,
            group: "ingest".to_owned(),
            identity: entry.identity().to_owned(),
            id: entry.id,
            recording: None,
            generation: None,
            facts: Vec::new(),
            outputs: Vec::new(),
            dead: Some(dead),
            delete: Vec::new(),
            lapse: None,
        };
        self.log.commit(&commit).await.unwrap();
        Deletion { recording, tenant, submitted_at, drop_id: Some(drop_id), by: "api".to_owned() }
    }

    async fn delete(&self, deletion: &Deletion) {
        let fact = deletion.envelope(SHARDS);
        let message = Message::fact(&fact).unwrap();
        self.log.delete(fact.shard, deletion.recording, &message).await.unwrap();
    }

    /// Does what the projector does with everything in the logs.
    async fn fold(&self) {
        let mut entries = Vec::new();
        for shard in (0..SHARDS).map(Shard) {
            for fact in self.log.facts(shard) {
                let seq = fact.text("seq").unwrap().parse().unwrap();
                entries.push(Entry::read(shard, seq, fact.field("event").unwrap()).unwrap());
            }
        }
        self.views.apply(&entries).await.unwrap();
    }

    /// Whether `word` stands anywhere.
    async fn places_of(&self, word: &str) -> Vec<String> {
        let mut places = Vec::new();
        let mut streams: Vec<(String, Source)> =
            vec![("{vf:ingest}:dead".to_owned(), Source::Ingest(Lane::Batch))];
        for shard in (0..SHARDS).map(Shard) {
            let sources = Source::work_of(shard).chain([Source::Log(shard)]);
            streams.extend(sources.map(|source| (source.key(), source)));
            streams.push((Source::Log(shard).dead(), Source::Log(shard)));
        }
        for (key, source) in streams {
            for entry in self.log.entries(&key, source) {
                if entry.fields.iter().any(|(_, value)| String::from_utf8_lossy(value).contains(word)) {
                    places.push(key.clone());
                }
            }
        }
        let stored: Vec<_> = self.store.list(None).try_collect().await.unwrap();
        for meta in stored {
            let bytes = self.store.get_bytes(&meta.key, 1 << 20).await.unwrap();
            if bytes == word.as_bytes() {
                places.push(meta.key.to_string());
            }
        }
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        let tables = "SELECT table_schema || '.' || table_name AS name FROM information_schema.tables \
                      WHERE table_type = 'BASE TABLE' AND table_schema ~ '^(log|control|read_v)'";
        for row in sqlx::query(tables).fetch_all(&mut connection).await.unwrap() {
            let name: String = row.get("name");
            let sql = format!("SELECT count(*) FROM {name} t WHERE position($1 in t::text) > 0");
            let rows: i64 =
                sqlx::query_scalar(AssertSqlSafe(sql)).bind(word).fetch_one(&mut connection).await.unwrap();
            if rows > 0 {
                places.push(name);
            }
        }
        places
    }
}

fn with_world<F: Future<Output = ()> + Send + 'static>(test: impl FnOnce(World) -> F + Send + 'static) {
    let Ok(server) = std::env::var("VOICEFORGE_TEST_POSTGRES") else {
        eprintln!("skipped: VOICEFORGE_TEST_POSTGRES names no PostgreSQL server");
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let name = format!("chores_{}", Uuid::new_v4().simple());
        let mut admin = PgConnection::connect(&server).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await.unwrap();
        let (rest, query) =
            server.split_once('?').map_or((server.as_str(), ""), |(rest, query)| (rest, query));
        let (host, _) = rest.rsplit_once('/').expect("the URL names a database");
        let url = format!("{host}/{name}?{query}");
        let views =
            Views::connect(&url, &Options { max_connections: 4, ..Options::default() }).await.unwrap();
        views.migrate(&Policies::default()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = AudioStore::open(folder.path().to_str().unwrap()).unwrap();
        let world = World { log: MemoryLog::new(SHARDS), views, store, url, folder };
        let outcome = tokio::spawn(test(world)).await;
        let sql = format!("DROP DATABASE {name} WITH (FORCE)");
        sqlx::query(AssertSqlSafe(sql)).execute(&mut admin).await.unwrap();
        if let Err(error) = outcome {
            std::panic::resume_unwind(error.into_panic());
        }
    });
}

/// Does some work; returns what came of it, and the metrics that it told.
fn measured<T>(work: impl Future<Output = T>) -> (T, String) {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = tokio::runtime::Handle::current();
    let run = || metrics::with_local_recorder(&recorder, || handle.block_on(work));
    let done = tokio::task::block_in_place(run);
    (done, recorder.handle().render())
}

#[test]
fn what_is_deleted_is_erased_everywhere_and_nothing_else_is() {
    with_world(|world| async move {
        let gone = world.record(1, "secret").await;
        world.record(2, "kept").await;
        world.fold().await;
        assert_eq!(world.places_of("secret").await.len(), 13, "{:?}", world.places_of("secret").await);
        let kept = world.places_of("kept").await;

        world.views.request_erasure(&gone).await.unwrap();
        let mut eraser = world.eraser();
        eraser.erase().await.unwrap();
        let marked = Event::TYPES.iter().any(|(kind, _)| *kind == "RecordingDeleted");
        assert!(
            marked && !world.places_of("secret").await.is_empty(),
            "the projector has not heard of it yet"
        );
        world.fold().await;
        eraser.erase().await.unwrap();
        assert_eq!(world.places_of("secret").await, [""; 0]);
        assert_eq!(world.places_of("kept").await, kept);
        assert!(world.views.open_erasures(9).await.unwrap().is_empty());
        let outcome = world.log.drop_outcome("drop-1").await.unwrap().unwrap();
        assert_eq!((outcome.recording, outcome.cause), (Some(gone.recording), None));
        let shard = gone.recording.shard(SHARDS);
        assert_eq!(world.views.archived_through(shard).await.unwrap(), 5, "nothing is waited for");
        let stale = || world.views.stale_file(Duration::ZERO);
        assert!(stale().await.unwrap().is_some(), "Redis was only asked to write it anew");
        eraser.erase().await.unwrap();
        assert!(stale().await.unwrap().is_none(), "it has done so");
    });
}

#[test]
fn what_was_erased_a_moment_ago_waits_for_the_next_writing_of_the_file() {
    with_world(|world| async move {
        let [long_ago, just_now] = [world.record(1, "secret").await, world.record(2, "secret").await];
        let mut connection = PgConnection::connect(&world.url).await.unwrap();
        for (gone, age) in [(&long_ago, "2 hours"), (&just_now, "1 second")] {
            world.views.request_erasure(gone).await.unwrap();
            let sql = "UPDATE control.erasures SET completed_at = now() - $2::interval WHERE recording = $1";
            let query = sqlx::query(sql).bind(gone.recording.as_uuid()).bind(age);
            query.execute(&mut connection).await.unwrap();
        }
        let log: SharedLog = std::sync::Arc::new(world.log.clone());
        let hour = Duration::from_secs(3600);
        let mut eraser = Eraser::new(log, world.views.clone(), world.store.clone(), Some(hour));
        for _ in 0..2 {
            eraser.erase().await.unwrap();
        }
        let sql = "SELECT recording FROM control.erasures WHERE rewritten_at IS NOT NULL";
        let noted: Vec<Uuid> = sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap();
        assert_eq!(noted, [long_ago.recording.as_uuid()]);
    });
}

/// One recording whose audio cannot be removed holds up neither the others nor the file of Redis.
#[test]
fn one_erasure_that_fails_holds_no_other_up() {
    with_world(|world| async move {
        let [stuck, gone] = [world.record(1, "stuck").await, world.record(2, "gone").await];
        for deletion in [&stuck, &gone] {
            world.delete(deletion).await;
        }
        world.fold().await;
        let audio = world.folder.path().join(format!("default/{}", stuck.recording));
        std::fs::remove_file(&audio).unwrap();
        // What stands in its place cannot be removed as a file is.
        std::fs::create_dir_all(audio.join("no-file")).unwrap();

        let mut eraser = world.eraser();
        let (erased, metrics) = measured(eraser.erase());
        let error = erased.unwrap_err();
        for line in ["keeper_erasures_open 1", "keeper_erased_total 1"] {
            assert!(metrics.lines().any(|told| told == line), "{line}: {metrics}");
        }
        assert!(format!("{error:#}").contains(&format!("erase recording {}", stuck.recording)), "{error:#}");
        let open = world.views.open_erasures(9).await.unwrap();
        let open: Vec<_> = open.iter().map(|erasure| erasure.deletion.recording).collect();
        assert_eq!(open, [stuck.recording], "the older one does not hold the newer one up");
        assert_eq!(world.places_of("gone").await, [""; 0]);
        eraser.erase().await.unwrap_err();
        assert!(world.views.stale_file(Duration::ZERO).await.unwrap().is_none(), "the file is new");

        std::fs::remove_dir_all(&audio).unwrap();
        eraser.erase().await.unwrap();
        assert!(world.views.open_erasures(9).await.unwrap().is_empty());
        assert_eq!(world.places_of("stuck").await, [""; 0]);
    });
}

/// Whatever the keeper had done when it was killed, the next one does all of it.
#[test]
fn an_erasure_goes_on_after_a_kill_at_any_step() {
    with_world(|world| async move {
        for step in 0..4_u128 {
            let word = format!("secret{step}");
            let gone = world.record(10 + step * 2, &word).await;
            let shard = gone.recording.shard(SHARDS);
            if step == 1 {
                world.delete(&gone).await;
                // Its facts leave the log before anybody has folded them.
                world.log.erase(shard, gone.recording).await.unwrap();
            }
            world.delete(&gone).await;
            world.fold().await;
            if step >= 2 {
                world.log.erase(shard, gone.recording).await.unwrap();
                world.log.erase_drop(gone.drop_id.as_deref().unwrap()).await.unwrap();
            }
            if step >= 3 {
                world.views.erase_rows(&gone, shard, &[]).await.unwrap();
            }
            world.eraser().erase().await.unwrap();
            world.eraser().erase().await.unwrap();
            assert_eq!(world.places_of(&word).await, [""; 0], "step {step}");
            assert!(world.views.erasure(gone.recording).await.unwrap().unwrap().completed_at.is_some());
            let highest = world.log.facts(shard).iter().filter_map(|f| f.text("seq")?.parse().ok()).max();
            assert_eq!(Some(world.views.archived_through(shard).await.unwrap()), highest, "step {step}");
        }
    });
}

/// Redis forgot that the drop had been taken in, while a projector had the facts in hand.
#[test]
fn what_becomes_of_a_deleted_drop_is_deleted_too() {
    with_world(|world| async move {
        let [tenant, other] = ["default", "other"].map(|name| name.parse::<Tenant>().unwrap());
        world.views.note_deleted_drop("drop-1", &tenant).await.unwrap();
        world.views.note_deleted_drop("drop-2", &other).await.unwrap();
        let (gone, kept) = (world.record(1, "secret").await, world.record(2, "kept").await);
        world.fold().await;
        for _ in 0..2 {
            world.eraser().erase().await.unwrap();
            world.fold().await;
        }
        let erasure = world.views.erasure(gone.recording).await.unwrap().expect("it was asked for");
        assert!(erasure.completed_at.is_some());
        assert_eq!(erasure.deletion.drop_id.as_deref(), Some("drop-1"));
        assert_eq!(world.views.erasure(kept.recording).await.unwrap(), None, "it is another tenant's drop");
    });
}

#[test]
fn a_duplicate_keeps_its_manifest_until_the_other_one_has_ended() {
    with_world(|world| async move {
        let other = world.record(1, "twice").await;
        let outcome = DropOutcome { recording: Some(other.recording), duplicate: true, cause: None };
        world.log.set_drop_outcome("drop-9", &outcome).await.unwrap();
        let key = Key::parse(&Manifest::key("drop-9")).unwrap();
        world.store.put_bytes(&key, Bytes::from_static(b"{}")).await.unwrap();
        let log: SharedLog = std::sync::Arc::new(world.log.clone());
        let mut sweeper =
            Sweeper::new(log, world.views.clone(), world.store.clone(), Duration::from_secs(3600));
        sweeper.sweep().await.unwrap();
        assert!(world.store.head(&key).await.is_ok(), "the log alone tells of the other one");
        world.fold().await;
        sweeper.sweep().await.unwrap();
        assert!(world.store.head(&key).await.is_err(), "it has ended");
    });
}

#[test]
fn what_is_too_old_goes_by_the_rules() {
    with_world(|world| async move {
        let old = world.record(1, "old").await;
        world.fold().await;
        let log: SharedLog = std::sync::Arc::new(world.log.clone());
        let views = world.views.clone();
        let mut retainer = Retainer::new(log, views, world.store.clone(), Duration::ZERO);
        retainer.retain().await.unwrap();
        assert_eq!(world.places_of("old").await.len(), 13, "without a rule everything is kept");

        let second = Keep::For(Duration::from_secs(1));
        world.views.set_retention(&Rule { tenant: None, what: Kept::Audio, keep: second }).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1100)).await;
        retainer.retain().await.unwrap();
        let audio = Key::new(["default", &old.recording.to_string()]).unwrap();
        assert!(world.store.head(&audio).await.is_err(), "its audio is gone");
        assert!(
            world.views.transcript(old.recording, None).await.unwrap().is_some(),
            "its transcript is not"
        );
        assert_eq!(world.views.audio_expired_at(&[old.recording]).await.unwrap().len(), 1);

        world
            .views
            .set_retention(&Rule { tenant: None, what: Kept::Transcripts, keep: second })
            .await
            .unwrap();
        retainer.retain().await.unwrap();
        world.eraser().erase().await.unwrap();
        world.fold().await;
        world.eraser().erase().await.unwrap();
        assert_eq!(world.places_of("old").await, [""; 0]);
        let [erasure] = [world.views.erasure(old.recording).await.unwrap().unwrap()];
        assert_eq!(erasure.deletion.by, "retention");
    });
}

/// Its workers died over a fact until the loop gives it up: its place is a known gap, and the log is trimmed beyond it.
#[test]
fn a_fact_that_is_given_up_does_not_stop_trimming() {
    with_world(|world| async move {
        let there = world.record(1, "deadly").await;
        let shard = there.recording.shard(SHARDS);
        let source = Source::Log(shard);
        world.log.ensure_groups("project", &[source]).await.unwrap();
        let [first] = world.log.take("project", "w0", source, 1).await.unwrap().try_into().unwrap();
        for number in 1..=10 {
            let worker = format!("w{number}");
            let claimed = world.log.claim("project", &worker, source, Duration::ZERO, 9).await.unwrap();
            assert_eq!(claimed.entries.len(), 1);
        }
        let log: SharedLog = std::sync::Arc::new(world.log.clone());
        let stage = std::sync::Arc::new(Project::start(world.views.clone(), 100));
        let shutdown = CancellationToken::new();
        let lease = Duration::from_millis(50);
        let options = stage::Options::new("project", stage::Inlet::Facts).with_lease(lease);
        let running = tokio::spawn(stage::run(SharedLog::clone(&log), stage, options, shutdown.clone()));
        let last = world.log.last_seq(shard).await.unwrap();
        let archived = async || world.views.archived_through(shard).await.unwrap();
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while archived().await < last && std::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        shutdown.cancel();
        running.await.unwrap().unwrap();
        let dead = world.log.dead(DeadPlace::Shard(shard), None, 9).await.unwrap();
        let dead: Vec<_> = dead.iter().map(|dead| dead.letter.cause.code.as_str()).collect();
        assert!(dead.contains(&"crash_loop"), "{dead:?}");
        assert_eq!(first.text("seq"), Some("1"));
        // The failure that followed from it is a fact of its own.
        assert!(archived().await >= last, "what came after is archived");
        trim::archived(&log, &world.views).await.unwrap();
        let kept = log.facts(shard, 0, 9).await.unwrap();
        assert!(kept.is_empty() || kept[0].text("seq") != Some("1"), "{kept:?}");
    });
}

/// The database refuses a segment for good: its fact dies, and the segment ends as failed, so that nobody waits for it.
#[test]
fn a_fact_that_the_database_refuses_ends_what_it_was_about() {
    with_world(|world| async move {
        let mut connection = PgConnection::connect(&world.url).await.unwrap();
        let refuse = "ALTER TABLE read_v1.segments ADD CHECK (text IS DISTINCT FROM 'refused')";
        sqlx::query(refuse).execute(&mut connection).await.unwrap();
        let there = world.record(1, "refused").await;
        let shard = there.recording.shard(SHARDS);
        let log: SharedLog = std::sync::Arc::new(world.log.clone());
        let stage = std::sync::Arc::new(Project::start(world.views.clone(), 100));
        let shutdown = CancellationToken::new();
        let options = stage::Options::new("project", stage::Inlet::Facts);
        let running = tokio::spawn(stage::run(SharedLog::clone(&log), stage, options, shutdown.clone()));
        let row = loop {
            let row = world.views.recording(there.recording).await.unwrap();
            if let Some(row) = row.filter(|row| row.state.status.is_final()) {
                break row;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        shutdown.cancel();
        running.await.unwrap().unwrap();
        assert_eq!((row.state.failed_segments, row.state.transcribed_segments), (1, 0));
        assert_eq!(row.state.reason.unwrap().code, "not_projectable");
        let [dead] = world.log.dead(DeadPlace::Shard(shard), None, 9).await.unwrap().try_into().unwrap();
        assert_eq!((dead.letter.stage.as_str(), dead.source), ("project", Some(Source::Log(shard))));
        assert!(matches!(dead.envelope().unwrap().event, Event::SegmentTranscribed(_)));
    });
}
