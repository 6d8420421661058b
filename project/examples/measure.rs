//! Measures the read side with realistic segments: 75 words with times each, 20 to a recording, in four shards.
//!
//! usage: measure projection|rebuild --database URL [--shared] [--server PID] [--events N] [--batch N]
//!
//! `projection`: the project stage over a log in memory that is full, until everything is folded and archived.
//! `rebuild`: then a rebuild of all of it, step by step. `--shared`: use the database as it is, instead of a new one.
//! `--server`: the server's process on this machine, so that its processor time can be told. One line of JSON on standard
//! output.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use events::*;
use jiff::Timestamp;
use project::project::Project;
use project::reproject::{self, Progress};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use streams::memory::MemoryLog;
use streams::stage::{Inlet, Options};
use streams::{Append, Message, SharedLog};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use views::{Entry, Policies, Views};

struct Arguments {
    rebuild: bool,
    database: String,
    shared: bool,
    server: Option<u32>,
    events: u32,
    batch: usize,
}

fn arguments() -> anyhow::Result<Arguments> {
    let mut given = std::env::args().skip(1);
    let rebuild = match given.next().as_deref() {
        Some("projection") => false,
        Some("rebuild") => true,
        _ => bail!(
            "usage: measure projection|rebuild --database URL [--shared] [--server PID] [--events N] [--batch N]"
        ),
    };
    let mut arguments = Arguments {
        rebuild,
        database: String::new(),
        shared: false,
        server: None,
        events: 50_000,
        batch: 500,
    };
    while let Some(flag) = given.next() {
        let mut value = || given.next().with_context(|| format!("{flag} needs a value"));
        match flag.as_str() {
            "--database" => arguments.database = value()?,
            "--events" => arguments.events = value()?.parse()?,
            "--batch" => arguments.batch = value()?.parse()?,
            "--server" => arguments.server = Some(value()?.parse()?),
            "--shared" => arguments.shared = true,
            _ => bail!("{flag} is not known"),
        }
    }
    Ok(arguments)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = arguments()?;
    let mut admin = PgConnection::connect(&arguments.database).await.context("connect to the database")?;
    let name = format!("measure_{}", Uuid::new_v4().simple());
    let url = if arguments.shared {
        arguments.database.clone()
    } else {
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await?;
        let (server, _) = arguments.database.rsplit_once('/').context("the URL names a database")?;
        format!("{server}/{name}")
    };
    let measured = measure(&url, &arguments).await;
    if arguments.shared {
        let schemas = "DROP SCHEMA IF EXISTS read, read_v1, read_v2, log, control CASCADE";
        sqlx::raw_sql(schemas).execute(&mut admin).await?;
    } else {
        let sql = format!("DROP DATABASE {name} WITH (FORCE)");
        sqlx::query(AssertSqlSafe(sql)).execute(&mut admin).await?;
    }
    println!("{}", measured?);
    Ok(())
}

async fn measure(url: &str, arguments: &Arguments) -> anyhow::Result<String> {
    let views = Views::connect(url, &views::Options::default()).await?;
    let installed = views.migrate(&Policies { retain_events: None, ..Policies::default() }).await?;
    let mut report =
        BTreeMap::from([("server", json!(installed.to_string())), ("batch", json!(arguments.batch))]);
    match arguments.rebuild {
        false => project(&views, arguments, &mut report).await?,
        true => rebuild(&views, arguments, &mut report).await?,
    }
    views.close().await;
    Ok(json!(report).to_string())
}

type Report = BTreeMap<&'static str, Value>;

/// Has the project stage fold and archive a log that is full.
async fn project(views: &Views, arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let log: SharedLog = Arc::new(MemoryLog::new(SHARDS));
    let (mut talk, mut events, mut bytes) = (Talk::new(), 0, 0);
    while events < arguments.events {
        for envelope in talk.recording() {
            let fact = Message::fact(&envelope)?;
            bytes += fact.json.len();
            let append = Append {
                shard: envelope.shard,
                recording: envelope.recording,
                facts: vec![fact],
                work: None,
            };
            log.append(&append).await?;
            events += 1;
        }
    }
    let stop = CancellationToken::new();
    let stage = Arc::new(Project::start(views.clone(), arguments.batch));
    let (begun, before) = (Instant::now(), Spent::now(arguments.server));
    let running =
        tokio::spawn(streams::stage::run(log, stage, Options::new("project", Inlet::Facts), stop.clone()));
    for (shard, &seqs) in (0..).zip(&talk.seqs) {
        while views.archived_through(Shard(shard)).await? < seqs {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    report.insert("seconds", json!(begun.elapsed().as_secs_f64()));
    report.insert("processor_s", Spent::now(arguments.server).since(before));
    stop.cancel();
    running.await??;
    report.insert("events", json!(events));
    report.insert("bytes_per_event", json!(bytes / events as usize));
    Ok(())
}

/// Fills the archive, and has all of it folded again.
async fn rebuild(views: &Views, arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let (mut talk, mut events) = (Talk::new(), 0);
    let mut filling = tokio::task::JoinSet::new();
    while events < arguments.events {
        let mut batch = Vec::new();
        while batch.len() < 1_000 {
            batch.extend(talk.recording());
        }
        events += batch.len() as u32;
        let views = views.clone();
        filling.spawn(async move {
            let entries = batch.iter().map(Entry::of).collect::<Result<Vec<_>, _>>()?;
            views.apply(&entries).await?;
            anyhow::Ok(())
        });
        if filling.len() >= 2 {
            filling.join_next().await.context("two are under way")???;
        }
    }
    while let Some(filled) = filling.join_next().await {
        filled??;
    }
    let log: SharedLog = Arc::new(MemoryLog::new(SHARDS));
    let (tell, mut progress) = watch::channel(Progress::default());
    let server = arguments.server;
    let steps = tokio::spawn(async move {
        let mut steps: Vec<(&'static str, f64, Value)> = Vec::new();
        let mut since = (progress.borrow().step, Instant::now(), Spent::now(server));
        while progress.changed().await.is_ok() {
            let step = progress.borrow_and_update().step;
            if step != since.0 {
                let now = Spent::now(server);
                steps.push((since.0.as_str(), since.1.elapsed().as_secs_f64(), now.since(since.2)));
                since = (step, Instant::now(), now);
            }
        }
        steps
    });
    let begun = Instant::now();
    let rebuilt = reproject::run(views.clone(), log, reproject::Options::default(), tell).await?;
    if !rebuilt.serves {
        bail!("the rebuilt rows differ: {:?}", rebuilt.differences.first());
    }
    report.insert("seconds", json!(begun.elapsed().as_secs_f64()));
    report.insert("steps", json!(steps.await?));
    report.insert("events", json!(events));
    Ok(())
}

/// Processor time in clock ticks: on a machine that does other things too it says more than the clock.
#[derive(Clone, Copy)]
struct Spent {
    client: u64,
    server: u64,
}

impl Spent {
    fn now(server: Option<u32>) -> Spent {
        let numbers = |stat: &str| -> Vec<u64> {
            // The name, in brackets, may hold anything.
            let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            rest.split_whitespace().map(|number| number.parse().unwrap_or(0)).collect()
        };
        // From the parent's number on: utime, stime, and both of the children that ended.
        let spent = |numbers: &[u64]| numbers.get(11..15).map_or(0, |times| times.iter().sum());
        let own = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let mut sum = 0;
        let processes = server.and_then(|_| std::fs::read_dir("/proc").ok()).into_iter().flatten().flatten();
        for process in processes {
            let stat = numbers(&std::fs::read_to_string(process.path().join("stat")).unwrap_or_default());
            let id = process.file_name().to_str().and_then(|name| name.parse().ok());
            let parent = stat.get(1).and_then(|&parent| u32::try_from(parent).ok());
            if server.is_some() && (id == server || parent == server) {
                sum += spent(&stat);
            }
        }
        Spent { client: spent(&numbers(&own)), server: sum }
    }

    /// Seconds of client and server.
    fn since(self, before: Spent) -> Value {
        let seconds = |now: u64, then: u64| now.saturating_sub(then) as f64 / 100.0;
        json!([seconds(self.client, before.client), seconds(self.server, before.server)])
    }
}

/// Makes recordings out of made-up words that are as frequent as words are.
struct Talk {
    random: StdRng,
    words: Vec<String>,
    recordings: u32,
    seqs: [u64; SHARDS as usize],
}

const SHARDS: u16 = 4;
const SEGMENTS: u32 = 20;
const WORDS: usize = 75;

impl Talk {
    fn new() -> Talk {
        let mut random = StdRng::seed_from_u64(7);
        let syllables = [
            "ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu", "na", "pe", "qui", "ro", "su", "ta",
            "ve", "wi", "zen", "ing", "ment", "tion", "ler", "den",
        ];
        let mut word = || -> String {
            (0..random.random_range(1..=4)).filter_map(|_| syllables.choose(&mut random).copied()).collect()
        };
        let words = (0..20_000).map(|_| word()).collect();
        Talk { random, words, recordings: 0, seqs: [0; SHARDS as usize] }
    }

    /// A word: the nth is chosen about 1/n as often as the first.
    fn word(&mut self) -> String {
        let share: f64 = self.random.random();
        let at = (self.words.len() as f64).powf(share) as usize - 1;
        self.words[at.min(self.words.len() - 1)].clone()
    }

    fn recording(&mut self) -> Vec<Envelope> {
        self.recordings += 1;
        let id =
            Uuid::from_u128(self.random.random::<u128>() & !(0xf << 76) | (8 << 76) & !(3 << 62) | (2 << 62));
        let submitted_at = at(i64::from(self.recordings) * 2_000);
        let audio = Audio {
            key: format!("default/{id}"),
            bytes: 9_600_000,
            sha256: "c0de".repeat(16),
            container: "mp3".into(),
            estimated_ms: 600_000,
        };
        let settings = Settings {
            model: ModelRef { name: "base".into(), sha256: "1a5a".repeat(16) },
            task: Task::Transcribe,
            language: None,
            prompt: None,
            temperatures: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            channels: Channels::Mix,
            cutter: 1,
        };
        let mut events: Vec<Event> = vec![
            RecordingAdmitted {
                drop_id: format!("drop-{}", self.recordings),
                name: Some(format!("talk-{}.mp3", self.recordings)),
                uri: None,
                audio,
                settings,
                lane: Lane::Batch,
                metadata: BTreeMap::new(),
            }
            .into(),
        ];
        for index in 0..SEGMENTS {
            let segment = self.segment(index);
            events.push(segment.into());
        }
        let decoded = RecordingDecoded {
            segments: vec![SEGMENTS],
            audio_ms: 600_000,
            speech_ms: 560_000,
            channels: 1,
            sample_rate: 44_100,
            codec: "mp3".into(),
            truncated_at_ms: None,
            truncated_reason: None,
        };
        events.push(decoded.into());
        let shard = self.recordings as usize % self.seqs.len();
        let seq = &mut self.seqs[shard];
        let envelope = |event: Event| {
            *seq += 1;
            Envelope {
                event_id: EventId::derive(id.into(), event.kind(), &seq.to_string(), 0),
                shard: Shard(shard as u16),
                seq: Some(*seq),
                recording: id.into(),
                tenant: Tenant::default(),
                generation: 0,
                round: 0,
                submitted_at,
                occurred_at: at(*seq as i64 * 100),
                trace: None,
                causation_id: None,
                event,
            }
        };
        events.into_iter().map(envelope).collect()
    }

    fn segment(&mut self, index: u32) -> SegmentTranscribed {
        let begin_ms = u64::from(index) * 30_000;
        let mut now_ms = begin_ms;
        let mut spans: Vec<Span> = Vec::new();
        for _ in 0..WORDS / 15 {
            let start_ms = now_ms;
            let words: Vec<Word> = (0..15)
                .map(|_| {
                    let start_ms = now_ms;
                    now_ms += self.random.random_range(120..500);
                    let probability = self.random.random_range(0.3..1.0);
                    Word { text: format!(" {}", self.word()), start_ms, end_ms: now_ms, probability }
                })
                .collect();
            spans.push(Span {
                start_ms,
                end_ms: now_ms,
                text: words.iter().map(|word| word.text.as_str()).collect(),
                tokens: (0..22).map(|_| self.random.random_range(200..50_000)).collect(),
                avg_logprob: self.random.random_range(-0.6..-0.1),
                no_speech_prob: self.random.random_range(0.0..0.1),
                compression_ratio: self.random.random_range(1.1..1.8),
                temperature: 0.0,
                words,
            });
        }
        SegmentTranscribed {
            channel: 0,
            index,
            start_ms: begin_ms,
            end_ms: begin_ms + 29_000,
            language: "en".into(),
            text: spans.iter().map(|span| span.text.as_str()).collect::<String>().trim().to_owned(),
            spans,
            model: "base".into(),
            infer_ms: 900,
        }
    }
}

/// Milliseconds after a fixed time.
fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_767_225_600_000 + ms).expect("within this century")
}
