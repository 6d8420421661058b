//! What the programs keep in memory: at rest, under load, and while a million facts go by.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cli::stack::Program;
use events::Shard;
use rand::SeedableRng;
use rand::rngs::StdRng;
use streams::redis::{Config, RedisLog};
use streams::{Append, Appended, Log, Message};
use tokio_util::sync::CancellationToken;

use super::numbers::Sorted;
use super::private::Private;
use super::processes;
use crate::faults::sound::Voices;
use crate::talk::{Shape, Talk};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Facts that go through the log.
    pub facts: u64,
    /// How long the deployment is left alone before, and how long it is loaded with recordings.
    pub length: Duration,
    /// Clips of speech to make recordings of.
    pub clips: PathBuf,
}

/// Small facts: a dozen words each.
const SHAPE: Shape = Shape { segments: 20, words: 12, shards: 1 };
/// Facts that wait for the projector at most: whoever appends waits for it, as decode waits for infer.
const UNREAD_MAX: u64 = 4_000;
/// Clients that drop recordings meanwhile.
const CLIENTS: u64 = 2;
const SAMPLE_EVERY: Duration = Duration::from_millis(500);
/// 15 s of samples.
const WARM_UP_SAMPLES: usize = 30;
const SHARD: Shard = Shard(0);

/// Measures; returns the body of the page.
///
/// # Errors
/// When the deployment does not take what it is given.
pub async fn run(options: &Options) -> Result<String> {
    let voices = Arc::new(Voices::read(&options.clips)?);
    let private = Private::start(&[("API_RATE", "100000"), ("API_BURST", "100000")]).await?;
    let log = RedisLog::connect(Config::new(private.stack.redis_url(), 1)).await?;
    let watched = Watched::of(&private).await?;

    tokio::time::sleep(options.length).await;
    let rest = watched.sample().await?;

    eprintln!("  recordings through the whole pipeline");
    let clients = Clients::start(&private, &voices, Duration::ZERO);
    let loaded = watched.samples(options.length).await?;
    let recordings = clients.stop().await?;
    let per_second = recordings as f64 / options.length.as_secs_f64();

    eprintln!("  {} facts", options.facts);
    let clients = Clients::start(&private, &voices, Duration::from_millis(250));
    let over = CancellationToken::new();
    let sampling = tokio::spawn(watched.clone().sample_until(over.clone()));
    let begun = Instant::now();
    append(&log, options.facts).await?;
    let took = begun.elapsed();
    over.cancel();
    let flow = sampling.await??;
    let beside = clients.stop().await?;
    // Once the last facts are archived, the keeper trims them.
    tokio::time::sleep(Duration::from_secs(25)).await;
    let after = watched.sample().await?;
    private.stop().await;
    let page = Page { options, rest, loaded, per_second, flow, took, beside, after };
    Ok(page.text())
}

/// Appends the facts of recordings, each recording's at once, as admission and commits append theirs.
async fn append(log: &RedisLog, facts: u64) -> Result<()> {
    let mut talk = Talk::new(SHAPE);
    let mut appended = 0;
    while appended < facts {
        for _ in 0..20 {
            let envelopes = talk.recording();
            let recording = envelopes.first().context("a recording has facts")?.recording;
            let facts = envelopes.iter().map(Message::fact).collect::<Result<Vec<_>, _>>()?;
            appended += facts.len() as u64;
            let done = log.append(&Append { shard: SHARD, recording, facts, work: None }).await?;
            ensure!(done == Appended::Done, "{recording} was there before");
        }
        while log.unread_facts("project", SHARD).await? > UNREAD_MAX {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    while log.unread_facts("project", SHARD).await? > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Clients that drop short recordings and wait for their transcripts.
struct Clients {
    stop: CancellationToken,
    done: Arc<AtomicU64>,
    clients: tokio::task::JoinSet<Result<()>>,
}

impl Clients {
    fn start(private: &Private, voices: &Arc<Voices>, pause: Duration) -> Clients {
        let (stop, done) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let mut clients = tokio::task::JoinSet::new();
        static SEED: AtomicU64 = AtomicU64::new(0);
        for _ in 0..CLIENTS {
            // Recordings that are equal would be one.
            let mut random = StdRng::seed_from_u64(SEED.fetch_add(1, Ordering::Relaxed));
            let url = format!("{}/v1/recordings?lane=rt&wait=60s", private.stack.api_url());
            let (voices, stop, done) = (Arc::clone(voices), stop.clone(), Arc::clone(&done));
            clients.spawn(async move {
                let http = reqwest::Client::builder().timeout(Duration::from_secs(90)).build()?;
                while !stop.is_cancelled() {
                    let wav = voices.make_of(&mut random, 2..=5);
                    let sent = http.post(&url).header("content-type", "audio/wav").body(wav).send().await?;
                    let status = sent.status();
                    let body = sent.text().await?;
                    ensure!(status.as_u16() == 200 && body.contains("\"complete\""), "{status}: {body}");
                    done.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(pause).await;
                }
                Ok(())
            });
        }
        Clients { stop, done, clients }
    }

    /// Waits for the recordings under way; returns how many went through.
    async fn stop(mut self) -> Result<u64> {
        self.stop.cancel();
        while let Some(client) = self.clients.join_next().await {
            client??;
        }
        Ok(self.done.load(Ordering::Relaxed))
    }
}

/// What there is at one time.
#[derive(Clone, Debug)]
struct Sample {
    /// Bytes of each program by its name, and what Redis says that its data takes.
    bytes: BTreeMap<&'static str, u64>,
    /// Keys in Redis.
    keys: u64,
}

const REDIS_DATA: &str = "Redis' data (`used_memory`)";
/// Its memory follows what its data once took, and no program's.
const REDIS: &str = "redis";

/// Whose memory is looked at.
#[derive(Clone)]
struct Watched {
    programs: Vec<(&'static str, u32)>,
    redis: redis::aio::MultiplexedConnection,
}

impl Watched {
    async fn of(private: &Private) -> Result<Watched> {
        let client = redis::Client::open(private.stack.redis_url())?;
        let redis = client.get_multiplexed_async_connection().await.context("connect to Redis")?;
        let mut programs = Vec::new();
        for program in Program::STAGES.into_iter().chain([Program::Redis]) {
            programs.push((program.as_str(), private.pid(program)?));
        }
        Ok(Watched { programs, redis })
    }

    async fn sample(&self) -> Result<Sample> {
        let mut bytes = BTreeMap::new();
        for &(name, pid) in &self.programs {
            bytes.insert(name, processes::resident_bytes(pid).with_context(|| format!("{name} is gone"))?);
        }
        let mut redis = self.redis.clone();
        let info: String = redis::cmd("INFO").arg("memory").query_async(&mut redis).await?;
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok());
        bytes.insert(REDIS_DATA, used.context("Redis tells its memory")?);
        let keys = redis::cmd("DBSIZE").query_async(&mut redis).await?;
        Ok(Sample { bytes, keys })
    }

    async fn samples(&self, length: Duration) -> Result<Vec<Sample>> {
        let over = CancellationToken::new();
        let sampling = tokio::spawn(self.clone().sample_until(over.clone()));
        tokio::time::sleep(length).await;
        over.cancel();
        sampling.await?
    }

    async fn sample_until(self, over: CancellationToken) -> Result<Vec<Sample>> {
        let mut samples = Vec::new();
        let mut ticks = tokio::time::interval(SAMPLE_EVERY);
        while over.run_until_cancelled(ticks.tick()).await.is_some() {
            samples.push(self.sample().await?);
        }
        Ok(samples)
    }
}

struct Page<'a> {
    options: &'a Options,
    rest: Sample,
    loaded: Vec<Sample>,
    per_second: f64,
    flow: Vec<Sample>,
    took: Duration,
    beside: u64,
    after: Sample,
}

impl Page<'_> {
    fn text(&self) -> String {
        let Page { options, rest, loaded, per_second, flow, took, beside, after } = self;
        let seconds = options.length.as_secs();
        let mut text = format!(
            "Resident memory of each program, in MiB: after {seconds} s at rest, and over {seconds} s in which {CLIENTS} \
             clients drop recordings of\n2 to 5 s and wait for each transcript ({per_second:.1} recordings a second through \
             every program; the model hashes the speech).\n\n\
             | program | at rest | under load, mean | highest |\n|---|--:|--:|--:|\n"
        );
        for (name, &bytes) in &rest.bytes {
            let under = of(loaded, name);
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {} |",
                mib(bytes as f64),
                mib(under.mean()),
                mib(under.at(1.0))
            );
        }
        let _ = write!(
            text,
            "\nThen {} facts in {:.0} s ({:.0} a second): recordings of {} segments with {} words each, appended to the log by the \
             script that acts\nuse, read, folded and archived by `voiceforge-project`, trimmed from the log by \
             `voiceforge-keeper` every 10 s. Ingest, decode, infer\nand the API do not see these facts; so the clients go on \
             beside it, with a pause: {beside} recordings more through every program.\nMemory was looked at every {} ms, from 15 s after the beginning.\n\n\
             | program | first quarter, mean | last quarter, mean | change | lowest of the first | of the last | change | highest \
             | after it |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
            options.facts,
            took.as_secs_f64(),
            options.facts as f64 / took.as_secs_f64(),
            SHAPE.segments,
            SHAPE.words,
            SAMPLE_EVERY.as_millis(),
        );
        // Until the keeper's first round nothing is trimmed.
        let flow = &flow[WARM_UP_SAMPLES.min(flow.len() / 2)..];
        let quarter = flow.len() / 4;
        let (early, late) = (&flow[..quarter], &flow[flow.len() - quarter..]);
        // What Redis keeps on purpose: marks that a thing was done.
        let keys = after.keys.saturating_sub(rest.keys);
        let data = |sample: &Sample| sample.bytes.get(REDIS_DATA).copied().unwrap_or(0) as f64;
        let key_bytes = (data(after) - data(rest)) / keys.max(1) as f64;
        let more_keys = |samples: &[Sample]| samples.last().map_or(0, |sample| sample.keys) as f64;
        let kept = (more_keys(late) - more_keys(early)).max(0.0) * key_bytes;
        let mut grew = Vec::new();
        for (&name, &bytes) in &after.bytes {
            let (first, last) = (of(early, name), of(late, name));
            let (mean, lowest) = (last.mean() - first.mean(), last.at(0.0) - first.at(0.0));
            let growth = match name {
                REDIS => 0.0,
                REDIS_DATA => lowest - kept,
                _ => mean,
            };
            if growth > GROWTH_BYTES {
                grew.push(name);
            }
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {:+.1} | {} | {} | {:+.1} | {} | {} |",
                mib(first.mean()),
                mib(last.mean()),
                mean / MIB,
                mib(first.at(0.0)),
                mib(last.at(0.0)),
                lowest / MIB,
                mib(of(flow, name).at(1.0)),
                mib(bytes as f64)
            );
        }
        let _ = writeln!(
            text,
            "\nRedis holds what is not trimmed yet, so its memory goes up and down with every round of the keeper; its lowest tells \
             whether it\ngrows. What stays are {keys} keys of {key_bytes:.0} bytes each: marks that an act or a drop was done, \
             kept for a week ({:.1} MiB of the change).",
            kept / MIB
        );
        let said = match grew.is_empty() {
            true => "met by all".to_owned(),
            false => format!("missed by {}", grew.join(", ")),
        };
        let _ = writeln!(
            text,
            "\nTarget, no growth (less than {:.0} MiB from the first quarter to the last; of Redis' data its lowest, without \
             those marks):\n{said}.",
            GROWTH_BYTES / MIB
        );
        text
    }
}

const MIB: f64 = 1_048_576.0;
/// What an allocator may keep more or less from one minute to the next without meaning anything.
const GROWTH_BYTES: f64 = 4.0 * MIB;

fn of(samples: &[Sample], name: &str) -> Sorted {
    Sorted::of(
        samples.iter().filter_map(|sample| sample.bytes.get(name)).map(|&bytes| bytes as f64).collect(),
    )
}

fn mib(bytes: f64) -> String {
    format!("{:.1}", bytes / MIB)
}
