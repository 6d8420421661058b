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
use e2e::figures::processes;
use e2e::talk::{Shape, Talk};
use events::Shard;
use project::project::Project;
use project::reproject::{self, Progress};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use streams::memory::MemoryLog;
use streams::stage::{Inlet, Options};
use streams::{Append, Message, SharedLog};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use views::{Entry, Policies, Views};

const SHAPE: Shape = Shape { segments: 20, words: 75, shards: 4 };

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
    let log: SharedLog = Arc::new(MemoryLog::new(SHAPE.shards));
    let (mut talk, mut events, mut bytes) = (Talk::new(SHAPE), 0, 0);
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
    for (shard, &seqs) in (0..).zip(talk.seqs()) {
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
    let (mut talk, mut events) = (Talk::new(SHAPE), 0);
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
    let log: SharedLog = Arc::new(MemoryLog::new(SHAPE.shards));
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

/// Processor time in seconds: on a machine that does other things too it says more than the clock.
#[derive(Clone, Copy)]
struct Spent {
    client: f64,
    server: f64,
}

impl Spent {
    fn now(server: Option<u32>) -> Spent {
        Spent {
            client: processes::spent_s(std::process::id()),
            server: server.map_or(0.0, processes::spent_with_children_s),
        }
    }

    /// Seconds of client and server.
    fn since(self, before: Spent) -> Value {
        json!([self.client - before.client, self.server - before.server])
    }
}
