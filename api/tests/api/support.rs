//! A whole API to call, and the pipeline behind it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::config::Limits;
use api::{Api, Parts, routes};
use events::*;
use serde_json::Value;
use service::admin::Readiness;
use service::store::{AudioStore, Key};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use streams::memory::MemoryLog;
use streams::{DropOutcome, Log, ModelNote, SharedLog, Source};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use views::{Entry, Options, Policies, Views};
use warp::filters::BoxedFilter;
use warp::http::{HeaderMap, StatusCode};
use warp::reply::Response;

/// An API with everything behind it.
pub struct World {
    pub api: Api,
    pub log: MemoryLog,
    pub store: AudioStore,
    pub views: Views,
    pub folder: tempfile::TempDir,
    pub database_url: String,
    routes: BoxedFilter<(Response,)>,
    seq: AtomicU64,
}

/// A reply as tests look at it.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {} {}", self.status, self.text))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Status, type, code, param and message of an error, in a line.
    pub fn error(&self) -> String {
        let error = &self.json()["error"];
        for key in ["message", "type", "param", "code"] {
            assert!(error.get(key).is_some(), "every error has all four keys: {}", self.text);
        }
        let [kind, code, param] = ["type", "code", "param"].map(|key| error[key].as_str().unwrap_or("-"));
        format!("{} {kind} {code} {param}: {}", self.status.as_u16(), error["message"].as_str().unwrap())
    }
}

/// Runs `test` against an API with the usual limits.
pub fn with_world<F: Future<Output = ()> + Send + 'static>(
    test: impl FnOnce(Arc<World>) -> F + Send + 'static,
) {
    with_limits(|_| {}, test);
}

/// Runs `test` against an API with the limits that `set` makes of the usual ones.
pub fn with_limits<F: Future<Output = ()> + Send + 'static>(
    set: impl FnOnce(&mut Limits),
    test: impl FnOnce(Arc<World>) -> F + Send + 'static,
) {
    let Ok(server) = std::env::var("VOICEFORGE_TEST_POSTGRES") else {
        eprintln!("skipped: VOICEFORGE_TEST_POSTGRES names no PostgreSQL server");
        return;
    };
    let mut limits = usual_limits();
    set(&mut limits);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let name = format!("api_{}", Uuid::new_v4().simple());
        let mut admin = PgConnection::connect(&server).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await.unwrap();
        let url = replace_database(&server, &name);
        let log = MemoryLog::new(4);
        let world = Arc::new(World::new(&url, log.clone(), Arc::new(log), limits).await);
        let outcome = tokio::spawn(test(world)).await;
        let drop = format!("DROP DATABASE {name} WITH (FORCE)");
        sqlx::query(AssertSqlSafe(drop)).execute(&mut admin).await.unwrap();
        if let Err(error) = outcome {
            std::panic::resume_unwind(error.into_panic());
        }
    });
}

pub fn usual_limits() -> Limits {
    let no_flags: &[&str] = &[];
    let strings = service::env::Map::new();
    let mut limits = service::env::load("test", "", no_flags, &strings, Limits::read).unwrap().config;
    // Machines that run tests are often nearly full.
    limits.store_reserve.0 = 0;
    limits
}

fn replace_database(url: &str, name: &str) -> String {
    let (rest, query) = url.split_once('?').map_or((url, ""), |(rest, query)| (rest, query));
    let (server, _) = rest.rsplit_once('/').expect("the URL names a database");
    format!("{server}/{name}?{query}")
}

impl World {
    /// An API over `through`, which is `log` or what is put before it.
    pub async fn new(database_url: &str, log: MemoryLog, through: SharedLog, limits: Limits) -> World {
        let options =
            Options { acquire_timeout: Duration::from_secs(1), max_connections: 4, ..Options::default() };
        let views = Views::connect(database_url, &options).await.unwrap();
        views.migrate(&Policies::default()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = AudioStore::open(folder.path().to_str().unwrap()).unwrap();
        log.ensure_groups("ingest", &[Source::Ingest(Lane::Batch), Source::Ingest(Lane::Rt)]).await.unwrap();
        for (name, multilingual, languages) in
            [("tiny.en", false, vec!["en"]), ("base", true, vec!["en", "de"])]
        {
            let languages = languages.into_iter().map(str::to_owned).collect();
            let note = ModelNote { name: name.to_owned(), sha256: "5a".to_owned(), multilingual, languages };
            log.announce_model(&note, std::time::Duration::from_secs(60)).await.unwrap();
        }
        let api = Api::new(Parts {
            log: through,
            store: store.clone(),
            views: views.clone(),
            limits,
            readiness: Readiness::new(),
            metrics: None,
        });
        let routes = routes::all(&api);
        World {
            api,
            log,
            store,
            views,
            folder,
            database_url: database_url.to_owned(),
            routes,
            seq: AtomicU64::new(0),
        }
    }

    /// Begins a request.
    pub fn request(&self, method: &str, path: &str) -> Request<'_> {
        Request { world: self, inner: warp::test::request().method(method).path(path) }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.request("GET", path).send().await
    }

    pub async fn get_with(&self, path: &str, key: &str) -> Reply {
        self.request("GET", path).key(key).send().await
    }

    /// Sends a POST with a body, or with an empty one.
    pub async fn post(&self, path: &str, body: &str) -> Reply {
        self.request("POST", path).header("content-type", "application/json").body(body).send().await
    }

    /// Sends a form of text fields and the file `talk.wav`.
    pub async fn post_form(&self, path: &str, file: &[u8], fields: &[(&str, &str)]) -> Reply {
        self.request("POST", path).form(file, fields).send().await
    }

    /// Makes a key and returns its secret.
    pub async fn key(&self, tenant: &str) -> String {
        self.views.create_key(&tenant.parse().unwrap(), "test", false).await.unwrap().secret
    }

    /// Makes a key that opens what is of the whole deployment, and returns its secret.
    pub async fn operator_key(&self) -> String {
        self.views.create_key(&Tenant::default(), "operator", true).await.unwrap().secret
    }

    /// What lies in the audio store, sorted.
    pub async fn stored(&self) -> Vec<String> {
        use futures::TryStreamExt;
        let metas: Vec<_> = self.store.list(None).try_collect().await.unwrap();
        let mut keys: Vec<String> = metas.into_iter().map(|meta| meta.key.to_string()).collect();
        keys.sort();
        keys
    }

    pub async fn stored_bytes(&self, key: &str) -> Vec<u8> {
        self.store.get_bytes(&Key::parse(key).unwrap(), u64::MAX).await.unwrap().to_vec()
    }

    /// Takes the next drop out of the queue of `lane`.
    pub async fn next_drop(&self, lane: Lane) -> Option<BTreeMap<String, String>> {
        let entry = self.log.take("ingest", "test", Source::Ingest(lane), 1).await.unwrap().pop()?;
        let field =
            |(name, value): (String, bytes::Bytes)| (name, String::from_utf8(value.to_vec()).unwrap());
        Some(entry.fields.into_iter().map(field).collect())
    }

    /// Does what ingest does with a drop: admits it and says so.
    pub async fn admit(&self, drop: &BTreeMap<String, String>) -> Envelope {
        let field = |name: &str| drop.get(name).cloned();
        let tenant: Tenant = drop["tenant"].parse().unwrap();
        let claim = Claim::by_content(&tenant, &drop["sha256"], b"");
        let identity = DropIdentity::derive(&drop["drop"], &drop["sha256"]);
        let recording = RecordingId::derive(&claim, &identity);
        let cause = Envelope {
            event_id: identity.event_id(),
            shard: recording.shard(4),
            seq: None,
            recording,
            tenant,
            generation: 0,
            round: 0,
            submitted_at: now(),
            occurred_at: now(),
            trace: field("trace"),
            causation_id: None,
            event: Event::RecordingDeleted(RecordingDeleted {
                by: "nobody: a first cause needs some event".to_owned(),
                drop_id: None,
            }),
        };
        let settings = Settings {
            model: ModelRef { name: field("model").unwrap_or("tiny.en".to_owned()), sha256: "5a".to_owned() },
            task: field("task").map_or(Task::Transcribe, |task| task.parse().unwrap()),
            language: field("language"),
            prompt: field("prompt"),
            temperatures: vec![0.0],
            channels: Channels::Mix,
            cutter: 1,
            decoding: Default::default(),
        };
        let metadata = drop
            .iter()
            .filter_map(|(name, value)| Some((name.strip_prefix("meta.")?.to_owned(), value.clone())));
        let admitted = RecordingAdmitted {
            drop_id: drop["drop"].clone(),
            name: field("name"),
            uri: None,
            audio: Audio {
                key: "default/x".to_owned(),
                bytes: 4,
                sha256: drop["sha256"].clone(),
                container: "wav".to_owned(),
                estimated_ms: 12_000,
            },
            settings,
            lane: Lane::Batch,
            metadata: metadata.collect(),
        };
        let admitted = cause.follow(admitted.into(), now());
        self.apply(&admitted).await;
        let outcome = DropOutcome { recording: Some(recording), duplicate: false, cause: None };
        self.log.set_drop_outcome(&drop["drop"], &outcome).await.unwrap();
        admitted
    }

    /// Does what decode says at its end.
    pub async fn decode(&self, admitted: &Envelope, segments: u32) {
        let decoded = RecordingDecoded {
            segments: vec![segments],
            audio_ms: 10_500,
            speech_ms: 8_000,
            channels: 1,
            sample_rate: 16_000,
            codec: "pcm".to_owned(),
            truncated_at_ms: None,
            truncated_reason: None,
        };
        self.apply(&admitted.follow(decoded.into(), now())).await;
    }

    /// Does what infer does with a segment of 5 s.
    pub async fn transcribe(&self, admitted: &Envelope, index: u32, text: &str) {
        self.transcribe_as(admitted, index, text, Vec::new()).await;
    }

    /// The same with times for words, half a second each.
    pub async fn transcribe_words(&self, admitted: &Envelope, index: u32, words: &[&str]) {
        let start_ms = u64::from(index) * 5_000;
        let word = |(at, word): (u64, &&str)| Word {
            text: format!(" {word}"),
            start_ms: start_ms + at * 500,
            end_ms: start_ms + at * 500 + 500,
            probability: 0.5,
        };
        let timed = (0..).zip(words).map(word).collect();
        self.transcribe_as(admitted, index, &words.join(" "), timed).await;
    }

    async fn transcribe_as(&self, admitted: &Envelope, index: u32, text: &str, words: Vec<Word>) {
        let start_ms = u64::from(index) * 5_000;
        let span = Span {
            start_ms,
            end_ms: start_ms + 4_000,
            text: format!(" {text}"),
            tokens: vec![50363, 1],
            avg_logprob: -0.25,
            no_speech_prob: 0.1,
            compression_ratio: 0.9,
            temperature: 0.0,
            words,
        };
        let transcribed = SegmentTranscribed {
            channel: 0,
            index,
            start_ms,
            end_ms: start_ms + 5_000,
            language: "en".to_owned(),
            text: text.to_owned(),
            spans: vec![span],
            model: "tiny.en".to_owned(),
            infer_ms: 100,
            coverage: 1.0,
            gaps: Vec::new(),
        };
        self.apply(&admitted.follow(transcribed.into(), now())).await;
    }

    /// Does what a stage does that gives a recording up.
    pub async fn fail(&self, admitted: &Envelope, cause: Cause) {
        let failed = RecordingFailed { stage: "decode".to_owned(), cause, attempts: 1 };
        self.apply(&admitted.follow(failed.into(), now())).await;
    }

    /// Does what infer does with a segment it gives up.
    pub async fn fail_segment(&self, admitted: &Envelope, index: u32, cause: Cause) {
        let failed = SegmentFailed { channel: 0, index, start_ms: 0, end_ms: 5_000, cause, attempts: 3 };
        self.apply(&admitted.follow(failed.into(), now())).await;
    }

    /// Takes the next drop of `lane` all the way, one segment a text.
    pub async fn complete_next(&self, lane: Lane, texts: &[&str]) -> Envelope {
        let drop = loop {
            match self.next_drop(lane).await {
                Some(drop) => break drop,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let admitted = self.admit(&drop).await;
        self.decode(&admitted, texts.len() as u32).await;
        for (index, text) in texts.iter().enumerate() {
            self.transcribe(&admitted, index as u32, text).await;
        }
        admitted
    }

    /// Does what a run and the stages do: a further generation, complete where there are texts.
    pub async fn another_generation(
        &self,
        admitted: &Envelope,
        generation: u32,
        activation: Activation,
        texts: &[&str],
    ) {
        let first = match &admitted.event {
            Event::RecordingAdmitted(first) => first.clone(),
            other => panic!("{other:?}"),
        };
        let (name, audio, lane) = (first.name, first.audio, Lane::Replay);
        let settings = Settings {
            model: ModelRef { name: "base".to_owned(), sha256: "5a".to_owned() },
            ..first.settings
        };
        let event = TranscriptionRequested { name, audio, settings, lane, activation };
        let cause = Envelope { event_id: Uuid::new_v4().into(), generation, ..admitted.clone() };
        let requested = cause.follow(event.into(), now());
        self.apply(&requested).await;
        if texts.is_empty() {
            return;
        }
        self.decode(&requested, texts.len() as u32).await;
        for (index, text) in texts.iter().enumerate() {
            self.transcribe(&requested, index as u32, text).await;
        }
    }

    /// Does what project does with a fact.
    pub async fn apply(&self, envelope: &Envelope) {
        // One counter for all shards leaves gaps, which the read side only remembers.
        let seq = self.seq.fetch_add(1, Ordering::Relaxed) + 1;
        let entry = Entry::of(&Envelope { seq: Some(seq), ..envelope.clone() }).unwrap();
        self.views.apply(&[entry]).await.unwrap();
    }

    /// Serves the API on a free port; the token ends it.
    pub async fn listen(&self) -> (String, CancellationToken, tokio::task::JoinHandle<anyhow::Result<()>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(api::serve(listener, self.api.clone(), shutdown.clone()));
        (url, shutdown, served)
    }
}

/// A request on its way.
pub struct Request<'a> {
    world: &'a World,
    inner: warp::test::RequestBuilder,
}

impl Request<'_> {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.inner = self.inner.header(name, value);
        self
    }

    pub fn key(self, secret: &str) -> Self {
        self.header("authorization", &format!("Bearer {secret}"))
    }

    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.inner = self.inner.body(body);
        self
    }

    pub fn form(self, file: &[u8], fields: &[(&str, &str)]) -> Self {
        self.header("content-type", "multipart/form-data; boundary=XX").body(form(file, fields))
    }

    pub async fn send(self) -> Reply {
        let response = self.inner.reply(&self.world.routes).await;
        let (parts, body) = response.into_parts();
        let reply = Reply {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(body.to_vec()).unwrap(),
        };
        assert!(reply.header("x-request-id").starts_with("req_"), "every reply has its id: {reply:?}");
        assert!(!reply.headers.contains_key("access-control-allow-origin"));
        reply
    }
}

/// A form whose boundary is `XX`: fields, then the file.
pub fn form(file: &[u8], fields: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in fields {
        body.extend(
            format!("--XX\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").as_bytes(),
        );
    }
    body.extend(b"--XX\r\ncontent-disposition: form-data; name=\"file\"; filename=\"talk.wav\"\r\ncontent-type: audio/wav\r\n\r\n");
    body.extend(file);
    body.extend(b"\r\n--XX--\r\n");
    body
}

/// Passes connections on to a server until it is dropped: then the server is away.
pub struct Passage {
    task: tokio::task::JoinHandle<()>,
}

impl Passage {
    /// A passage to the server at `url`, and the URL of that server through it.
    pub async fn to(url: &str) -> (Passage, String) {
        let parsed: url::Url = url.parse().unwrap();
        let target = (parsed.host_str().unwrap().to_owned(), parsed.port().expect("the URL names a port"));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            // The set ends its connections when the task ends.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let target = target.clone();
                connections.spawn(async move {
                    let mut far = tokio::net::TcpStream::connect(target).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        let mut through = parsed;
        through.set_host(Some("127.0.0.1")).unwrap();
        through.set_port(Some(port)).unwrap();
        (Passage { task }, through.to_string())
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.task.abort();
    }
}
