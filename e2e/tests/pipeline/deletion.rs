//! Deletion means gone, whatever stage a recording is in: its words, its marks and its bytes are nowhere any more.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cli::stack::{Program, Signal};
use e2e::Pipeline;
use e2e::faults::deployment::connect;
use e2e::faults::sound::expected;
use events::{Lane, Shard};
use sqlx::Connection;
use streams::{Log, Queue, Source};

use crate::{PATIENCE, on_a_stack};

/// What stands in the name and the metadata of everything that is deleted.
const MARK: &str = "zqxjmark";

/// Which clips are spoken: the one that is deleted has the richer vocabulary.
const KEPT: usize = 0;
const DELETED: usize = 1;

/// One recording to delete: what was going on, and the id to delete it by.
type Victim = (&'static str, String);

#[test]
fn what_is_deleted_is_nowhere_whatever_stage_it_was_in() {
    let quick = [
        ("VOICEFORGE_KEEPER_EVERY", "1s"),
        // What leaves a log leaves its memory when the log is trimmed: that has to come first.
        ("VOICEFORGE_REWRITE_AFTER", "10s"),
        // Beside the real one: work of this model is long enough to be found in somebody's hands.
        ("VOICEFORGE_HASH_MODEL", "5s"),
    ];
    on_a_stack(&quick, |pipeline| async move {
        redis(&pipeline, &["CONFIG", "SET", "appendonly", "yes"]).await?;
        // A compressed dump could hide the words.
        redis(&pipeline, &["CONFIG", "SET", "rdbcompression", "no"]).await?;
        let kept = pipeline.post(pipeline.clips[KEPT].bytes(), "name=kept").await?;
        let kept = pipeline.ended(&kept, PATIENCE).await?;
        let kept_text = pipeline.text(&kept).await?;
        let before = dump(&pipeline.stack.database_url()).await?;

        let mut victims: Vec<Victim> = Vec::new();
        let complete = post(&pipeline, "complete").await?;
        let recording = pipeline.ended(&complete, PATIENCE).await?;
        let text = pipeline.text(&recording).await?;
        let words = telling_words(&text, &String::from_utf8_lossy(&before));
        ensure!(words.len() >= 3, "{text:?} has words of its own");
        let found = traces(&pipeline, &words).await?;
        ensure!(found.len() >= 3, "before, they are in the database, in the store and in Redis: {found:?}");
        victims.push(("complete", recording["id"].as_str().context("it has an id")?.to_owned()));

        victims.push(("dead", dead_work(&pipeline).await?));
        victims.extend(waiting_for_ingest(&pipeline).await?);
        victims.extend(in_hand(&pipeline).await?);
        victims.push(("queued for decode", queued(&pipeline, Program::Decode, Queue::Decode).await?));
        victims.push(("queued for infer", queued(&pipeline, Program::Infer, Queue::Segments).await?));
        victims.push(("not folded", unfolded(&pipeline).await?));
        victims.push(("being folded", being_folded(&pipeline).await?));
        for (what, id) in &victims[..2] {
            let status = delete(&pipeline, id).await?;
            ensure!(status == 202, "{what}: {status}");
        }

        let until = Instant::now() + PATIENCE;
        for (what, id) in &victims {
            while delete(&pipeline, id).await? != 204 {
                ensure!(Instant::now() < until, "{what} ({id}) is not erased");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            let told = pipeline.ended(id, PATIENCE).await?;
            ensure!(told["status"] == "deleted" && told["name"].is_null(), "{what}: {told}");
        }
        pipeline.settled(PATIENCE).await?;
        ensure!(pipeline.dead_letters().await? == 0, "a dead letter of a deleted recording goes with it");
        let mut words = words;
        // What the stand-in would have said of them.
        let hashed = expected(&pipeline.clips[DELETED].bytes(), Lane::Batch)?;
        words.extend(hashed.into_iter().map(|said| said.text));
        nothing_left(&pipeline, &words).await?;
        ensure!(pipeline.text(&kept).await? == kept_text, "others are as they were");

        // The same audio again is a recording of its own: nothing remembers the one that was deleted.
        let again = post(&pipeline, "complete").await?;
        let again = pipeline.ended(&again, PATIENCE).await?;
        ensure!(again["status"] == "complete" && again["id"] != recording["id"], "{again}");
        Ok(pipeline)
    });
}

async fn post(pipeline: &Pipeline, key: &str) -> Result<String> {
    let query = format!("name={MARK}&key={key}&meta.note={MARK}&prompt={MARK}");
    pipeline.post(pipeline.clips[DELETED].bytes(), &query).await
}

async fn delete(pipeline: &Pipeline, id: &str) -> Result<u16> {
    let url = format!("{}/v1/recordings/{id}", pipeline.stack.api_url());
    let response = pipeline.http.delete(url).send().await?;
    let status = response.status().as_u16();
    ensure!(matches!(status, 202 | 204), "{id}: {status} {}", response.text().await?);
    Ok(status)
}

/// Two drops that nobody has taken in, one through the API and one made straight into Redis.
async fn waiting_for_ingest(pipeline: &Pipeline) -> Result<Vec<Victim>> {
    pipeline.stack.kill(Program::Ingest, Signal::SIGSTOP);
    let posted = post(pipeline, "waiting").await?;
    let raw = pipeline.drop(&pipeline.clips[DELETED].bytes(), &[("name", MARK), ("key", "raw")]).await?;
    for id in [&posted, &raw] {
        ensure!(delete(pipeline, id).await? == 202);
    }
    pipeline.stack.kill(Program::Ingest, Signal::SIGCONT);
    Ok(vec![("waiting for ingest", posted), ("waiting for ingest, raw", raw)])
}

/// A recording whose work waits before `program` when it is deleted.
async fn queued(pipeline: &Pipeline, program: Program, queue: Queue) -> Result<String> {
    let source = Source::Queue(Shard(0), queue, Lane::Batch);
    pipeline.stack.kill(program, Signal::SIGSTOP);
    let id = post(pipeline, &format!("queued-{program}")).await?;
    until("work waits", async || Ok(pipeline.log.backlog(source).await?.entries > 0)).await?;
    ensure!(delete(pipeline, &id).await? == 202);
    pipeline.stack.kill(program, Signal::SIGCONT);
    Ok(id)
}

/// Recordings that a worker of each stage has in hand when they are deleted, on every lane.
async fn in_hand(pipeline: &Pipeline) -> Result<Vec<Victim>> {
    let long = long(&pipeline.clips[DELETED].bytes())?;
    let ingest = caught(pipeline, Program::Ingest, Source::Ingest(Lane::Batch), async |key| {
        pipeline.drop(&long, &[("name", MARK), ("key", key)]).await
    });
    let mut victims = vec![("in ingest", ingest.await?)];
    let decode = |lane| Source::Queue(Shard(0), Queue::Decode, lane);
    for (what, lane) in [("in decode", Lane::Batch), ("in decode, rt", Lane::Rt)] {
        let caught = caught(pipeline, Program::Decode, decode(lane), async |key| {
            let query = format!("name={MARK}&key={key}&lane={lane}&model=hash");
            pipeline.post(long.clone(), &query).await
        });
        victims.push((what, caught.await?));
    }
    let segments = |lane| Source::Queue(Shard(0), Queue::Segments, lane);
    for (what, lane) in [("in infer", Lane::Batch), ("in infer, rt", Lane::Rt)] {
        let caught = caught(pipeline, Program::Infer, segments(lane), async |key| {
            let query = format!("name={MARK}&key={key}&lane={lane}&model=hash&prompt={MARK}");
            pipeline.post(pipeline.clips[DELETED].bytes(), &query).await
        });
        victims.push((what, caught.await?));
    }
    let again = caught(pipeline, Program::Infer, segments(Lane::Replay), async |key| {
        let id = post(pipeline, key).await?;
        let recording = pipeline.ended(&id, PATIENCE).await?;
        let wanted = serde_json::json!({"ids": [recording["id"]], "model": "hash"});
        let url = format!("{}/v1/generations", pipeline.stack.api_url());
        let response = pipeline.http.post(url).json(&wanted).send().await?;
        ensure!(response.status().as_u16() == 202, "{}", response.text().await?);
        Ok(id)
    });
    victims.push(("in infer, again", again.await?));
    Ok(victims)
}

/// How often a recording is made until it is found in somebody's hands.
const CATCHES_MAX: usize = 10;

/// Deletes a recording while a worker has it in hand: the worker is stopped as soon as it has taken an entry of `source`,
/// and goes on with it once the recording is deleted. Where the worker was faster, it is tried with another.
async fn caught(
    pipeline: &Pipeline,
    program: Program,
    source: Source,
    make: impl AsyncFn(&str) -> Result<String>,
) -> Result<String> {
    let mut redis = connect(&pipeline.stack.redis_url()).await?;
    let mut pending = async || -> Result<bool> {
        let mut command = ::redis::cmd("XPENDING");
        let reply: ::redis::streams::StreamPendingReply =
            command.arg(source.key()).arg(program.as_str()).query_async(&mut redis).await?;
        Ok(reply.count() > 0)
    };
    for number in 0..CATCHES_MAX {
        let idle = Instant::now() + PATIENCE;
        while pending().await? {
            ensure!(Instant::now() < idle, "{program} is still at work on {}", source.key());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let key = format!("{}-{number}", source.key().replace([':', '{', '}'], "-"));
        let making = make(&key);
        tokio::pin!(making);
        let mut made = None;
        let late = Instant::now() + PATIENCE;
        // Whoever takes it may have it before its maker has the answer.
        let is_caught = loop {
            if pending().await? {
                pipeline.stack.kill(program, Signal::SIGSTOP);
                if pending().await? {
                    break true;
                }
                pipeline.stack.kill(program, Signal::SIGCONT);
                break false;
            }
            ensure!(Instant::now() < late, "{program} takes nothing of {}", source.key());
            if made.is_none() {
                made = tokio::time::timeout(Duration::from_millis(1), &mut making).await.ok().transpose()?;
            }
        };
        let id = match made {
            Some(id) => id,
            None => making.await?,
        };
        ensure!(delete(pipeline, &id).await? == 202, "{id} is not erased yet");
        if is_caught {
            ensure!(pending().await?, "{program} has it in hand");
            pipeline.stack.kill(program, Signal::SIGCONT);
            return Ok(id);
        }
    }
    anyhow::bail!("{program} was faster {CATCHES_MAX} times: nothing was deleted in its hands")
}

/// The same speech many times over: work that takes a while.
fn long(wav: &[u8]) -> Result<Vec<u8>> {
    const TIMES: usize = 60;
    let at = wav.windows(4).position(|window| window == b"data").context("a wav file has its data")? + 8;
    let mut long = wav[..at].to_vec();
    (0..TIMES).for_each(|_| long.extend(&wav[at..]));
    let length = u32::try_from(long.len()).context("a wav file is not that large")?;
    long[4..8].copy_from_slice(&(length - 8).to_le_bytes());
    long[at - 4..at].copy_from_slice(&(length - at as u32).to_le_bytes());
    Ok(long)
}

/// A recording that is done while the projector has not heard of it.
async fn unfolded(pipeline: &Pipeline) -> Result<String> {
    pipeline.stack.kill(Program::Project, Signal::SIGSTOP);
    let id = post(pipeline, "unfolded").await?;
    let segments = Source::Queue(Shard(0), Queue::Segments, Lane::Batch);
    let decode = Source::Queue(Shard(0), Queue::Decode, Lane::Batch);
    until("its facts wait for the projector", async || {
        let waits =
            pipeline.log.backlog(segments).await?.entries + pipeline.log.backlog(decode).await?.entries;
        Ok(waits == 0 && pipeline.log.unread_facts("project", Shard(0)).await? >= 4)
    })
    .await?;
    ensure!(delete(pipeline, &id).await? == 202);
    pipeline.stack.kill(Program::Project, Signal::SIGCONT);
    Ok(id)
}

/// A recording whose facts the projector has in hand when it is deleted: it waits for a lock.
async fn being_folded(pipeline: &Pipeline) -> Result<String> {
    let url = pipeline.stack.database_url();
    let mut sql = sqlx::postgres::PgConnection::connect(&url).await?;
    let mut transaction = sql.begin().await?;
    sqlx::query("LOCK TABLE control.checkpoints IN EXCLUSIVE MODE").execute(&mut *transaction).await?;
    let id = post(pipeline, "being-folded").await?;
    let log = Source::Log(Shard(0)).key();
    until("the projector has facts in hand and waits", async || {
        let pending = redis(pipeline, &["XPENDING", &log, "project"]).await?;
        Ok(pending.lines().next().is_some_and(|count| count != "0"))
    })
    .await?;
    ensure!(delete(pipeline, &id).await? == 202);
    transaction.rollback().await?;
    Ok(id)
}

/// A recording with a dead letter: work of a type that no program knows.
async fn dead_work(pipeline: &Pipeline) -> Result<String> {
    let segments = Source::Queue(Shard(0), Queue::Segments, Lane::Batch);
    pipeline.stack.kill(Program::Infer, Signal::SIGSTOP);
    let id = post(pipeline, "dead").await?;
    until("a segment is cut", async || Ok(pipeline.log.backlog(segments).await?.entries > 0)).await?;
    let waiting = redis(pipeline, &["XRANGE", &segments.key(), "-", "+", "COUNT", "1"]).await?;
    let event = waiting.lines().skip_while(|line| *line != "event").nth(1).context("work has an event")?;
    ensure!(event.contains(MARK), "the prompt goes along: {event}");
    let event = event.replace("\"SegmentCut\"", "\"SegmentDreamt\"");
    redis(pipeline, &["XADD", &segments.key(), "*", "event_id", "dreamt", "event", &event]).await?;
    pipeline.stack.kill(Program::Infer, Signal::SIGCONT);
    until("it is given up", async || Ok(pipeline.dead_letters().await? > 0)).await?;
    Ok(id)
}

async fn until(what: &str, done: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while !done().await? {
        ensure!(Instant::now() < until, "it does not come to this: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Words of `text` that stood nowhere before, not in another text nor in the name of a column.
fn telling_words(text: &str, before: &str) -> Vec<String> {
    let word = |word: &str| word.chars().filter(|c| c.is_alphabetic()).collect::<String>();
    let common = before.to_lowercase();
    let words = text.split_whitespace().map(word);
    words.filter(|word| word.len() >= 6 && !common.contains(&word.to_lowercase())).collect()
}

/// Waits until no trace is left: after an erasure the keeper has Redis write its append-only file anew.
async fn nothing_left(pipeline: &Pipeline, words: &[String]) -> Result<()> {
    let mut sql = sqlx::postgres::PgConnection::connect(&pipeline.stack.database_url()).await?;
    let open = "SELECT count(*) FROM control.erasures WHERE rewritten_at IS NULL";
    let until = Instant::now() + PATIENCE;
    loop {
        let open: i64 = sqlx::query_scalar(open).fetch_one(&mut sql).await?;
        let info = redis(pipeline, &["INFO", "persistence"]).await?;
        let busy = ["aof_rewrite_in_progress:1", "aof_rewrite_scheduled:1"];
        if open == 0 && !busy.iter().any(|busy| info.contains(busy)) {
            break;
        }
        ensure!(Instant::now() < until, "{open} erasures wait for Redis to write its file anew: {info}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let found = traces(pipeline, words).await?;
        if found.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < until, "traces are left: {found:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Where words, marks or bytes of the deleted recordings stand: in a dump of the database, in the files of Redis, in the
/// audio store.
async fn traces(pipeline: &Pipeline, words: &[String]) -> Result<Vec<String>> {
    let audio = pipeline.clips[DELETED].bytes();
    let middle = audio.len() / 2;
    let mut needles: Vec<(&str, &[u8])> =
        vec![("the mark", MARK.as_bytes()), ("the audio", &audio[middle..middle + 64])];
    needles.extend(words.iter().map(|word| (word.as_str(), word.as_bytes())));

    // A copy may be under way: then the next look has a newer one. The keeper has the other file written anew.
    let asked = redis(pipeline, &["SAVE"]).await;
    let busy = asked.as_ref().is_err_and(|error| error.to_string().contains("already in progress"));
    ensure!(asked.is_ok() || busy, "{asked:?}");
    let mut texts = vec![("a dump of the database".to_owned(), dump(&pipeline.stack.database_url()).await?)];
    let folder = redis(pipeline, &["CONFIG", "GET", "dir"]).await?;
    let folder = PathBuf::from(folder.lines().nth(1).context("Redis has a folder")?);
    let logs = pipeline.stack.record().logs;
    let store = logs.parent().context("the logs lie in the stack's folder")?.join("audio");
    for folder in [folder, store] {
        ensure!(folder.is_dir(), "{} is there", folder.display());
        for file in files(&folder)? {
            texts.push((file.display().to_string(), std::fs::read(&file)?));
        }
    }
    let mut found = Vec::new();
    for (place, bytes) in &texts {
        for (what, needle) in &needles {
            if bytes.windows(needle.len()).any(|window| window == *needle) {
                found.push(format!("{what} in {place}"));
            }
        }
    }
    Ok(found)
}

async fn dump(url: &str) -> Result<Vec<u8>> {
    let bins = servers::find::postgres_bins();
    let program = bins.iter().map(|bin| bin.join("pg_dump")).find(|program| program.is_file());
    let program = program.context("pg_dump lies beside the server that is tested with")?;
    let output = tokio::process::Command::new(program).arg(url).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(self::files(&path)?);
        } else if path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

async fn redis(pipeline: &Pipeline, command: &[&str]) -> Result<String> {
    let url = pipeline.stack.redis_url();
    let output = tokio::process::Command::new("redis-cli").args(["-u", &url]).args(command).output().await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() || said.starts_with("ERR") {
        bail!("{command:?}: {said}");
    }
    Ok(said)
}
