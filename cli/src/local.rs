//! The stages in this process: ingest, decode and infer over a log in memory, and a fold of their facts. No server is
//! needed, and nothing stays behind.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use decode::decode::Decode;
use events::{Lane, Manifest, RecordingId};
use infer::infer::Infer;
use ingest::{Ingest, Sources};
use service::Readiness;
use service::env::{self, Map, Reader};
use service::store::{AudioStore, Key};
use streams::memory::MemoryLog;
use streams::stage::Inlet;
use streams::{Delivery, SharedLog, Stage};
use tokio::io::AsyncRead;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;
use transcript::{Recording, State, Transcript};

/// What to run with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder of models.
    pub models: PathBuf,
    /// The model of drops that name none; it is loaded at once.
    pub model: String,
    /// `off`, `auto` or the path of ffmpeg.
    pub ffmpeg: String,
    /// Threads of the engine, 0 for one per processor.
    pub threads: usize,
    /// Where the model runs.
    pub backend: Backend,
    /// Which GPU, counted from 0.
    pub device: usize,
}

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// The processor
    #[default]
    Cpu,
    /// A GPU
    Cuda,
    /// A GPU if one can be used, else the processor
    Auto,
}

impl Backend {
    /// As `--infer-backend` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Cpu => "cpu",
            Backend::Cuda => "cuda",
            Backend::Auto => "auto",
        }
    }
}

/// Running stages.
pub struct Local {
    log: SharedLog,
    store: AudioStore,
    fold: Arc<Fold>,
    stages: JoinSet<Result<(), streams::Error>>,
    shutdown: CancellationToken,
    /// Holds the audio; goes with this value.
    _folder: tempfile::TempDir,
}

/// Whoever runs this on their own files needs no limits.
const UNLIMITED: &[(&str, &str)] = &[
    ("VOICEFORGE_MAX_DURATION", "365d"),
    ("VOICEFORGE_MAX_BYTES", "1TiB"),
    ("VOICEFORGE_INGEST_SLOTS", "1"),
];

impl Local {
    /// Starts the stages; the model is loaded when this returns.
    ///
    /// # Errors
    /// When there is no such model, or it cannot be loaded.
    pub async fn start(options: Options) -> anyhow::Result<Local> {
        let folder =
            tempfile::Builder::new().prefix("voiceforge-").tempdir().context("make a temporary folder")?;
        let audio =
            folder.path().to_str().context("the path of the temporary folder is not UTF-8; set TMPDIR")?;
        let store = AudioStore::open(audio).context("open a temporary audio store")?;
        let variables = variables(&options);
        let log: SharedLog = Arc::new(MemoryLog::new(1));
        let fold = Arc::new(Fold::default());
        let shutdown = CancellationToken::new();

        let config = load(&variables, infer::config::Config::read)?;
        let infer_options = config.stage();
        let infer = Infer::start(Arc::clone(&log), config).await?;
        let config = load(&variables, decode::config::Config::read)?;
        let decode_options = config.stage();
        let decode = Decode::new(Arc::clone(&log), store.clone(), config);
        let config = load(&variables, ingest::config::Config::read)?;
        let ingest_options = config.stage();
        let sources = Sources::open_with(config.roots, &Map::new())?;
        let ingest = Ingest::new(Arc::clone(&log), store.clone(), sources, config.rules, Readiness::new());

        let mut stages = JoinSet::new();
        let run = |log: &SharedLog| (Arc::clone(log), shutdown.clone());
        let (at, until) = run(&log);
        stages.spawn(streams::stage::run(at, Arc::new(infer), infer_options, until));
        let (at, until) = run(&log);
        stages.spawn(streams::stage::run(at, Arc::new(decode), decode_options, until));
        let (at, until) = run(&log);
        stages.spawn(streams::stage::run(at, Arc::new(ingest), ingest_options, until));
        let (at, until) = run(&log);
        let options = streams::stage::Options::new("transcribe", Inlet::Facts);
        stages.spawn(streams::stage::run(at, Arc::clone(&fold), options, until));
        Ok(Local { log, store, fold, stages, shutdown, _folder: folder })
    }

    /// Hands audio in; `fields` are those of a drop. Returns the drop's id.
    ///
    /// # Errors
    /// When `audio` cannot be read or the disk is full.
    pub async fn submit(
        &self,
        audio: impl AsyncRead + Send + 'static,
        fields: Vec<(String, String)>,
    ) -> anyhow::Result<String> {
        let drop = uuid::Uuid::new_v4().simple().to_string();
        let key = Key::parse(&Manifest::audio_key(&drop))?;
        let audio = ReaderStream::with_capacity(audio, 256 * 1024);
        let stored = self.store.put_stream(&key, audio, u64::MAX).await.context("read the audio")?;
        // Two files of the same content are two transcripts here, so each has a key of its own.
        let own = [("key".to_owned(), drop.clone())];
        let manifest = Manifest::new(
            &drop,
            Lane::Batch,
            &stored.sha256_hex(),
            fields.into_iter().chain(own),
            events::now(),
        );
        let fields: Vec<(String, Bytes)> =
            manifest.fields.into_iter().map(|(name, value)| (name, Bytes::from(value))).collect();
        self.log.submit(Lane::Batch, &fields).await.context("hand the audio in")?;
        Ok(drop)
    }

    /// Where a drop stands; `None` before ingest has looked at it.
    pub fn state(&self, drop: &str) -> Option<State> {
        self.fold.of_drop(drop, Recording::state)
    }

    /// A drop's transcript as far as it is.
    pub fn transcript(&self, drop: &str) -> Option<Transcript> {
        self.fold.of_drop(drop, |recording| recording.transcript(None)).flatten()
    }

    /// Waits until some fact arrives, at most half a second.
    ///
    /// # Errors
    /// When a stage ended, which none does by itself.
    pub async fn changed(&mut self) -> anyhow::Result<()> {
        tokio::select! {
            () = self.fold.changed.notified() => Ok(()),
            () = tokio::time::sleep(Duration::from_millis(500)) => Ok(()),
            Some(ended) = self.stages.join_next() => match ended.context("run a stage")? {
                Ok(()) => anyhow::bail!("a stage ended before its work was done"),
                Err(error) => Err(error).context("run a stage"),
            },
        }
    }

    /// Ends the stages.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        while self.stages.join_next().await.is_some() {}
    }
}

fn variables(options: &Options) -> Map {
    let of = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let [duration, bytes, slots] = [of(&UNLIMITED[0]), of(&UNLIMITED[1]), of(&UNLIMITED[2])];
    Map::from([
        duration,
        bytes,
        slots,
        ("VOICEFORGE_MODELS".to_owned(), options.models.display().to_string()),
        ("VOICEFORGE_MODEL".to_owned(), options.model.clone()),
        ("VOICEFORGE_FFMPEG".to_owned(), options.ffmpeg.clone()),
        ("VOICEFORGE_INFER_THREADS".to_owned(), options.threads.to_string()),
        ("VOICEFORGE_INFER_BACKEND".to_owned(), options.backend.name().to_owned()),
        ("VOICEFORGE_INFER_DEVICE".to_owned(), options.device.to_string()),
    ])
}

fn load<C>(variables: &Map, read: impl Fn(&mut Reader) -> C) -> anyhow::Result<C> {
    let none: &[&str] = &[];
    Ok(env::load("voiceforge", "", none, variables, read)?.config)
}

/// The last stage: facts in, recordings in memory.
#[derive(Default)]
struct Fold {
    recordings: Mutex<HashMap<RecordingId, Recording>>,
    changed: Notify,
}

impl Fold {
    fn of_drop<T>(&self, drop: &str, read: impl FnOnce(&Recording) -> T) -> Option<T> {
        let recordings = self.lock();
        let is_of_drop =
            |recording: &&Recording| recording.facts.drop_id.as_ref().is_some_and(|known| known.fact == drop);
        recordings.values().find(is_of_drop).map(read)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RecordingId, Recording>> {
        // Taking in one event leaves the map whole, or panics before it writes.
        self.recordings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Stage for Fold {
    fn slots(&self) -> usize {
        256
    }

    async fn process(&self, deliveries: Vec<Delivery>) {
        {
            let mut recordings = self.lock();
            for envelope in deliveries.iter().filter_map(Delivery::known) {
                match recordings.get_mut(&envelope.recording) {
                    Some(recording) => recording.absorb(envelope),
                    None => drop(recordings.insert(envelope.recording, Recording::new(envelope))),
                }
            }
        }
        self.changed.notify_one();
        Delivery::finish_all(deliveries).await;
    }
}
