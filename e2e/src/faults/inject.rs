//! Does a fault: harms, waits, heals.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cli::stack::{Program, Signal};
use events::{Envelope, EventId, GenerationActivated, RecordingId, Shard, Tenant};
use redis::aio::MultiplexedConnection;
use sqlx::Connection;
use sqlx::postgres::PgConnection;

use super::crew::Name;
use super::deployment::{Deployment, Pair, SHARDS};
use super::fault::{DEAD, Fault, Line, is_of_handing_back};
use super::history::{Loss, Planted, Recorded};
use super::rebuild::{self, Way};
use crate::figures::scrape::total;
use crate::proxy::{Cut, Proxy, Weather};

/// Notes what faults did that a checker must know of.
pub struct Recorder {
    /// When the run began.
    pub began: Instant,
    recorded: Mutex<Recorded>,
}

/// What came of a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Injected {
    /// It was done and is over.
    Done,
    /// It could not be done just now, for this reason.
    Skipped(String),
}

impl Recorder {
    /// Begins now.
    pub fn new() -> Recorder {
        Recorder { began: Instant::now(), recorded: Mutex::default() }
    }

    /// Milliseconds since the beginning.
    pub fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// What was noted.
    pub fn recorded(&self) -> Recorded {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, note: impl FnOnce(&mut Recorded)) {
        note(&mut self.recorded.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder::new()
    }
}

/// Does a fault and returns when it is over. What it touches is locked: faults of one server take turns.
///
/// # Errors
/// When the harness itself cannot do it.
pub async fn inject(fault: &Fault, deployment: &Deployment, recorder: &Recorder) -> Result<Injected> {
    let crew = &deployment.crew;
    let pause = Duration::from_millis;
    match *fault {
        Fault::Kill { worker, pause_ms } => crew.kill(worker, pause(pause_ms)),
        Fault::Terminate { worker, pause_ms } => crew.terminate(worker, pause(pause_ms)),
        Fault::FailAt { worker, point, nth } => {
            return fail_at(deployment, recorder, worker, point, nth).await;
        }
        Fault::Silence { worker, ms } => {
            let silent = [("VOICEFORGE_FAIL_AT", "heartbeat.skip"), ("VOICEFORGE_HASH_MODEL", "5s")];
            crew.start_with(worker, &silent);
            tokio::time::sleep(pause(ms)).await;
            crew.terminate(worker, Duration::ZERO);
        }
        Fault::Freeze { worker, ms } => {
            crew.freeze(worker);
            tokio::time::sleep(pause(ms)).await;
            crew.thaw(worker);
        }
        Fault::LoseRead { count } => {
            let _weather = deployment.redis_weather.lock().await;
            return Ok(lose(&deployment.to_redis, count, Cut::OnReply, |request| {
                contains(request, b"XREADGROUP") && contains(request, b"BLOCK")
            })
            .await);
        }
        Fault::LoseScript { count, on_reply } => {
            let _weather = deployment.redis_weather.lock().await;
            let wants = |request: &[u8]| contains(request, b"EVALSHA");
            return Ok(lose(&deployment.to_redis, count, cut(on_reply), wants).await);
        }
        Fault::LoseSql { count, on_reply, commits } => {
            let _weather = deployment.postgres_weather.lock().await;
            let wanted: &[u8] = if commits { b"COMMIT" } else { b"" };
            let wants = move |request: &[u8]| contains(request, wanted);
            return Ok(lose(&deployment.to_postgres, count, cut(on_reply), wants).await);
        }
        Fault::Slow { line, latency_ms, jitter_ms, ms } => {
            let weather =
                Weather { latency: pause(latency_ms), jitter: pause(jitter_ms), ..Weather::default() };
            endure(deployment, line, weather, ms).await;
        }
        Fault::Trickle { line, ms } => {
            let weather = Weather { bytes_per_second: Some(10_000), slice: Some(512), ..Weather::default() };
            endure(deployment, line, weather, ms).await;
        }
        Fault::HalfOpen { line, up, down, ms } => {
            let weather = Weather { silent_up: up, silent_down: down, ..Weather::default() };
            endure(deployment, line, weather, ms).await;
        }
        Fault::Refuse { line, ms } => {
            endure(deployment, line, Weather { refuses: true, ..Weather::default() }, ms).await;
        }
        Fault::Rebuild { dies_at } => {
            return interrupt_rebuild(deployment, dies_at).await;
        }
        Fault::PostgresStop { down_ms } => {
            deployment.postgres.lock().await.restart(Signal::SIGQUIT, pause(down_ms)).await?;
        }
        Fault::PostgresKill | Fault::Serialization { .. } | Fault::Deadlock | Fault::Cancel { .. } => {
            return harm_postgres(fault, deployment).await;
        }
        _ => return harm_redis(fault, deployment, recorder).await,
    }
    Ok(Injected::Done)
}

fn cut(on_reply: bool) -> Cut {
    if on_reply { Cut::OnReply } else { Cut::AfterRequest }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
}

/// How long a worker may take to get to the step at which it is to die.
const POINT_PATIENCE: Duration = Duration::from_secs(15);

/// Makes a worker die at a step, and waits until it has.
async fn fail_at(
    deployment: &Deployment,
    recorder: &Recorder,
    worker: Name,
    point: &str,
    nth: u32,
) -> Result<Injected> {
    let crew = &deployment.crew;
    let before = crew.aborts(worker);
    let at = format!("{point}:{nth}");
    let mut variables = vec![("VOICEFORGE_FAIL_AT", at.as_str())];
    if is_of_handing_back(point) {
        // It has work that it cannot finish when it is asked to stop.
        variables.extend([("VOICEFORGE_HASH_MODEL", "5s"), ("VOICEFORGE_SHUTDOWN_GRACE", "1s")]);
    }
    crew.start_with(worker, &variables);
    let until = Instant::now() + POINT_PATIENCE;
    if is_of_handing_back(point) {
        tokio::time::sleep(POINT_PATIENCE / 3).await;
        crew.terminate(worker, Duration::ZERO);
    }
    let mut second = 0;
    while crew.aborts(worker) == before {
        if Instant::now() > until {
            return Ok(Injected::Skipped(format!("it did not get there within {POINT_PATIENCE:?}")));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        second += 1;
        if point == DEAD && second % 10 == 0 {
            // Whichever worker takes it.
            let queue = if worker.program == Program::Decode { "decode:batch" } else { "segments:batch" };
            let pair = deployment.redis.lock().await;
            plant(&mut pair.connect().await?, queue, 0, recorder).await?;
        }
    }
    Ok(Injected::Done)
}

/// Has a rebuild die at a phase, and the next one go on with it.
async fn interrupt_rebuild(deployment: &Deployment, dies_at: &str) -> Result<Injected> {
    let is_of_drop = dies_at == "reproject.drop";
    let before = rebuild::serving(deployment, Way::Lines).await?;
    let mut outputs =
        vec![rebuild::reproject(deployment, Way::Lines, (!is_of_drop).then_some(dies_at)).await?];
    // Whatever came of it, the next goes on.
    let next = rebuild::reproject(deployment, Way::Lines, None).await?;
    let after = rebuild::serving(deployment, Way::Lines).await?;
    outputs.extend(rebuild::drop_old(deployment, Way::Lines, is_of_drop.then_some(dies_at)).await?);
    let died = outputs.iter().any(|output| output.status.signal() == Some(Signal::SIGABRT as i32));
    Ok(if !died {
        Injected::Skipped(format!("it did not get to {dies_at}"))
    } else if !next.status.success() {
        Injected::Skipped(format!("the next one did not end well: {}", String::from_utf8_lossy(&next.stderr)))
    } else if after.is_none() || after == before {
        Injected::Skipped(format!("{before:?} served before and {after:?} serves now"))
    } else {
        Injected::Done
    })
}

/// How long requests are looked out for.
const LOSING: Duration = Duration::from_secs(6);

/// Loses requests until `count` are lost or the time for it is over.
async fn lose(
    proxy: &Proxy,
    count: u32,
    cut: Cut,
    wants: impl Fn(&[u8]) -> bool + Send + 'static,
) -> Injected {
    let before = proxy.lost();
    proxy.lose(count, cut, wants);
    let until = Instant::now() + LOSING;
    while proxy.lost() < before + count && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    proxy.lose_none();
    if proxy.lost() > before {
        Injected::Done
    } else {
        Injected::Skipped(format!("no such request within {LOSING:?}"))
    }
}

async fn endure(deployment: &Deployment, line: Line, weather: Weather, ms: u64) {
    let (proxy, lock) = match line {
        Line::Redis => (&deployment.to_redis, &deployment.redis_weather),
        Line::Postgres => (&deployment.to_postgres, &deployment.postgres_weather),
    };
    let _weather = lock.lock().await;
    proxy.set(weather);
    tokio::time::sleep(Duration::from_millis(ms)).await;
    proxy.set(Weather::default());
}

/// How long programs may take to notice that their connections are gone.
const RECONNECTING: Duration = Duration::from_secs(1);

/// The recordings whose facts come now.
macro_rules! newest {
    ($before:literal) => {
        concat!($before, " IN (SELECT id FROM read.recordings ORDER BY submitted_at DESC, id DESC LIMIT 12)")
    };
}
/// Writes what projectors write most, as it is.
const WRITE_NEWEST: &str = newest!("UPDATE read.recordings SET submitted_at = submitted_at WHERE id");
const LOCK_TRANSCRIPTS: &str =
    concat!(newest!("SELECT FROM read.transcripts WHERE recording"), " FOR UPDATE");
const LOCK_RECORDINGS: &str = concat!(newest!("SELECT FROM read.recordings WHERE id"), " FOR UPDATE");

/// How long a projector's transaction to fail is waited for.
const CONFLICT_PATIENCE: Duration = Duration::from_secs(15);

const NO_TRANSACTION_FAILED: &str = "no projector's transaction failed";

/// How often projectors had to try a transaction again, as those that run now tell.
async fn retries(deployment: &Deployment) -> f64 {
    let mut sum = 0.0;
    for name in deployment.crew.names() {
        if name.program == Program::Project {
            sum += total(&deployment.crew.metrics(name).await, "project_retries_total");
        }
    }
    sum
}

/// How long a statement to cancel is looked for.
const CANCEL_PATIENCE: Duration = Duration::from_secs(5);

async fn harm_postgres(fault: &Fault, deployment: &Deployment) -> Result<Injected> {
    let database = deployment.postgres.lock().await;
    let mut connection = PgConnection::connect(&database.url()).await.context("connect to PostgreSQL")?;
    const SESSIONS: &str = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() \
                            AND datname = current_database() AND backend_type = 'client backend'";
    match *fault {
        Fault::PostgresKill => {
            let pid: Option<i32> = sqlx::query_scalar(SESSIONS)
                .fetch_optional(&mut connection)
                .await
                .context("list sessions")?;
            let Some(pid) = pid else {
                return Ok(Injected::Skipped("nobody has a session".to_owned()));
            };
            servers::Identity::of(pid as u32).signal(Signal::SIGKILL);
            // Everything on the server is at an end for a moment.
            for _ in 0..300 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if PgConnection::connect(&database.url()).await.is_ok() {
                    break;
                }
            }
        }
        Fault::Serialization { ms } => {
            let end = format!("SELECT pg_terminate_backend(pid) FROM ({SESSIONS}) AS others");
            let level = "ALTER DATABASE voiceforge SET default_transaction_isolation TO 'repeatable read'";
            sqlx::query(level).execute(&mut connection).await?;
            sqlx::query(sqlx::AssertSqlSafe(end.clone())).execute(&mut connection).await?;
            // What was in hand is tried again on new connections, which is none of the failures that are wanted.
            tokio::time::sleep(RECONNECTING).await;
            let before = retries(deployment).await;
            let least = Instant::now() + Duration::from_millis(ms);
            let most = least + CONFLICT_PATIENCE;
            while Instant::now() < least || retries(deployment).await <= before && Instant::now() < most {
                let mut transaction = connection.begin().await?;
                sqlx::query(WRITE_NEWEST).execute(&mut *transaction).await?;
                // Whoever began meanwhile and waits for these rows cannot be put in an order with this one.
                tokio::time::sleep(Duration::from_millis(150)).await;
                transaction.commit().await?;
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            let failed = retries(deployment).await > before;
            let level = "ALTER DATABASE voiceforge RESET default_transaction_isolation";
            sqlx::query(level).execute(&mut connection).await?;
            sqlx::query(sqlx::AssertSqlSafe(end)).execute(&mut connection).await?;
            if !failed {
                return Ok(Injected::Skipped(NO_TRANSACTION_FAILED.to_owned()));
            }
        }
        Fault::Deadlock => {
            let before = retries(deployment).await;
            let until = Instant::now() + CONFLICT_PATIENCE;
            while retries(deployment).await <= before {
                if Instant::now() > until {
                    return Ok(Injected::Skipped(NO_TRANSACTION_FAILED.to_owned()));
                }
                let mut transaction = connection.begin().await?;
                // Whoever looks for a deadlock first is its victim: never this one.
                sqlx::query("SET LOCAL deadlock_timeout = '1min'").execute(&mut *transaction).await?;
                // Projectors lock a recording before its transcripts.
                sqlx::query(LOCK_TRANSCRIPTS).execute(&mut *transaction).await?;
                tokio::time::sleep(Duration::from_millis(300)).await;
                sqlx::query(LOCK_RECORDINGS).execute(&mut *transaction).await?;
                transaction.rollback().await?;
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        }
        Fault::Cancel { times } => {
            let cancel =
                format!("SELECT pg_cancel_backend(pid) FROM ({SESSIONS} AND state = 'active') AS others");
            let mut cancelled = 0;
            let until = Instant::now() + CANCEL_PATIENCE;
            for time in 0.. {
                if (time >= times && cancelled > 0) || Instant::now() > until {
                    break;
                }
                let done = sqlx::query(sqlx::AssertSqlSafe(cancel.clone())).execute(&mut connection).await?;
                cancelled += done.rows_affected();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if cancelled == 0 {
                return Ok(Injected::Skipped("no statement was running".to_owned()));
            }
        }
        _ => unreachable!("inject() sends only these here"),
    }
    Ok(Injected::Done)
}

async fn harm_redis(fault: &Fault, deployment: &Deployment, recorder: &Recorder) -> Result<Injected> {
    let mut pair = deployment.redis.lock().await;
    let mut connection = pair.connect().await?;
    let pause = Duration::from_millis;
    match *fault {
        Fault::RedisRestart { down_ms } => {
            pair.end(Signal::SIGTERM).await?;
            tokio::time::sleep(pause(down_ms)).await;
            pair.revive(&[]).await?;
        }
        Fault::RedisKill { down_ms } => {
            pair.end(Signal::SIGKILL).await?;
            tokio::time::sleep(pause(down_ms)).await;
            pair.revive(&[]).await?;
        }
        Fault::Loading { key_us } => {
            pair.end(Signal::SIGTERM).await?;
            // Below zero it is so many keys a microsecond; above, so many microseconds a key.
            pair.revive(&[("key-load-delay", &key_us.to_string())]).await?;
        }
        Fault::PowerCut { lost_ms } => {
            cut_power(&mut pair, &mut connection, pause(lost_ms), recorder).await?
        }
        Fault::Failover { lost_ms } => {
            let from_ms = recorder.now_ms();
            if let Err(error) = pair.in_step().await {
                return Ok(Injected::Skipped(error.to_string()));
            }
            fail_over(deployment, &mut pair, &mut connection, pause(lost_ms), from_ms, recorder).await?;
        }
        Fault::ReadOnly { ms } => {
            // A primary that nobody can reach: the data stays as it is.
            redis::cmd("REPLICAOF").arg("127.0.0.1").arg(1).exec_async(&mut connection).await?;
            tokio::time::sleep(pause(ms)).await;
            redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec_async(&mut connection).await?;
        }
        Fault::ForgetScripts => redis::cmd("SCRIPT").arg("FLUSH").exec_async(&mut connection).await?,
        Fault::RemoveGroup { which } => {
            let groups = groups(&mut connection).await?;
            let Some((stream, group)) = groups.get(which % groups.len().max(1)) else {
                return Ok(Injected::Skipped("there is no group".to_owned()));
            };
            let mut command = redis::cmd("XGROUP");
            command.arg("DESTROY").arg(stream).arg(group).exec_async(&mut connection).await?;
            recorder.note(|recorded| recorded.groups_removed += 1);
        }
        Fault::Busy { ms } => {
            // Scripts have no clock. A turn takes some 10 ns, and much longer where the machine is busy.
            let spin = "for _ = 1, tonumber(ARGV[1]) do end return 1";
            let mut command = redis::cmd("EVAL");
            command.arg(spin).arg(0).arg(ms * 30_000).exec_async(&mut connection).await?;
        }
        Fault::Full { ms } => {
            let info: String = redis::cmd("INFO").arg("memory").query_async(&mut connection).await?;
            let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok());
            let limit: u64 = used.unwrap_or(0) + 64 * 1024;
            set(&mut connection, "maxmemory", &limit.to_string()).await?;
            tokio::time::sleep(pause(ms)).await;
            set(&mut connection, "maxmemory", "0").await?;
        }
        Fault::Poison { queue, how } => plant(&mut connection, queue, how, recorder).await?,
        Fault::UnknownType => add_unknown(&mut connection).await?,
        Fault::Trim => {
            // The keeper trims, too: there is something when it has just not.
            let until = Instant::now() + TRIM_PATIENCE;
            while trim(&mut connection).await? == 0 {
                if Instant::now() > until {
                    return Ok(Injected::Skipped("there is nothing to trim".to_owned()));
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Fault::ClockJump { which } => {
            let mut streams: Vec<String> =
                groups(&mut connection).await?.into_iter().map(|(stream, _)| stream).collect();
            streams.dedup();
            let Some(stream) = streams.get(which % streams.len().max(1)) else {
                return Ok(Injected::Skipped("there is no stream".to_owned()));
            };
            let jump = "local last = redis.call('XINFO', 'STREAM', KEYS[1])[8] \
                        local ms = string.match(last, '^%d+') + 3600000 \
                        return redis.call('XSETID', KEYS[1], string.format('%.0f-0', ms))";
            redis::cmd("EVAL").arg(jump).arg(1).arg(stream).exec_async(&mut connection).await?;
        }
        _ => unreachable!("inject() sends only these here"),
    }
    Ok(Injected::Done)
}

/// What was acknowledged so long before the append-only file was copied may not be in the copy: while a sync of the file is
/// under way, Redis puts off writing to it for up to two seconds (`flushAppendOnlyFile`), and a moment is for the clocks.
const UNWRITTEN_MS: u64 = 2500;

/// Takes the append-only file as it is, lets Redis go on for a while, and gives it that file back: what was written in
/// between is gone, as when a machine loses power before it has synced.
async fn cut_power(
    pair: &mut Pair,
    connection: &mut MultiplexedConnection,
    lost: Duration,
    recorder: &Recorder,
) -> Result<()> {
    let kept = pair.append_only().with_extension("kept");
    // While the file is rewritten its parts do not belong together.
    for _ in 0..100 {
        let info: String = redis::cmd("INFO").arg("persistence").query_async(connection).await?;
        if info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let from_ms = recorder.now_ms().saturating_sub(UNWRITTEN_MS);
    copy(&pair.append_only(), &kept)?;
    tokio::time::sleep(lost).await;
    let before = facts(connection).await?;
    pair.end(Signal::SIGKILL).await?;
    copy(&kept, &pair.append_only())?;
    pair.revive(&[]).await?;
    note_loss(pair, before, from_ms, recorder).await
}

/// The recipe of a failover with a lost tail: the replica is cut off and misses the last writes, the primary dies, the
/// replica becomes the primary. What was acknowledged before `from_ms` it has.
async fn fail_over(
    deployment: &Deployment,
    pair: &mut Pair,
    connection: &mut MultiplexedConnection,
    lost: Duration,
    from_ms: u64,
    recorder: &Recorder,
) -> Result<()> {
    pair.signal_replica(Signal::SIGSTOP);
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("replica").exec_async(connection).await?;
    tokio::time::sleep(lost).await;
    let before = facts(connection).await?;
    pair.end(Signal::SIGKILL).await?;
    pair.signal_replica(Signal::SIGCONT);
    pair.promote().await?;
    deployment.to_redis.lead_to(pair.address());
    note_loss(pair, before, from_ms, recorder).await?;
    pair.revive_replica().await
}

async fn note_loss(pair: &Pair, before: u64, from_ms: u64, recorder: &Recorder) -> Result<()> {
    let after = facts(&mut pair.connect().await?).await?;
    let to_ms = recorder.now_ms();
    let loss = Loss { from_ms, to_ms, facts: before.saturating_sub(after) };
    recorder.note(|recorded| recorded.losses.push(loss));
    Ok(())
}

/// How many facts were ever appended.
async fn facts(connection: &mut MultiplexedConnection) -> Result<u64> {
    let mut sum = 0;
    for shard in 0..SHARDS {
        let seq: Option<u64> =
            redis::cmd("GET").arg(streams::keys::seq(Shard(shard))).query_async(connection).await?;
        sum += seq.unwrap_or(0);
    }
    Ok(sum)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir(to).context("make a folder")?;
    for entry in std::fs::read_dir(from).context("list the append-only files")? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name())).context("copy an append-only file")?;
    }
    Ok(())
}

async fn set(connection: &mut MultiplexedConnection, name: &str, value: &str) -> Result<()> {
    redis::cmd("CONFIG").arg("SET").arg(name).arg(value).exec_async(connection).await.context("set")
}

/// Every stream with each of its groups, in order.
async fn groups(connection: &mut MultiplexedConnection) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for stream in super::survey::streams() {
        let groups: redis::streams::StreamInfoGroupsReply =
            match redis::cmd("XINFO").arg("GROUPS").arg(&stream).query_async(connection).await {
                Ok(groups) => groups,
                Err(error) if error.to_string().contains("no such key") => continue,
                Err(error) => return Err(error).context("list groups"),
            };
        found.extend(groups.groups.into_iter().map(|group| (stream.clone(), group.name)));
    }
    Ok(found)
}

async fn plant(
    connection: &mut MultiplexedConnection,
    queue: &str,
    how: usize,
    recorder: &Recorder,
) -> Result<()> {
    let at_ms = recorder.now_ms();
    let mark = format!("planted-{at_ms}-{}", uuid::Uuid::new_v4().simple());
    let envelope = nobody(Shard(0));
    let json = events::encode(&envelope)?;
    let event = match how {
        0 => "{\"type\":\"RecordingAdmitted\"".to_owned(),
        1 => "\u{0}\u{1}not json".to_owned(),
        2 => json.replace(envelope.event.kind(), "RecordingPraised"),
        _ => json,
    };
    let stream = format!("vf:{{00}}:{queue}");
    let mut command = redis::cmd("XADD");
    command.arg(stream).arg("*").arg("event_id").arg(&mark).arg("event").arg(event);
    command.exec_async(connection).await?;
    recorder.note(|recorded| recorded.planted.push(Planted { mark, at_ms }));
    Ok(())
}

async fn add_unknown(connection: &mut MultiplexedConnection) -> Result<()> {
    let envelope = nobody(Shard(0));
    let json = events::encode(&envelope)?.replace(envelope.event.kind(), "RecordingPraised");
    let add = "local seq = redis.call('INCR', KEYS[2]) \
               return redis.call('XADD', KEYS[1], '*', 'seq', seq, 'event_id', ARGV[1], 'event', ARGV[2])";
    let (log, seq) = (streams::Source::Log(Shard(0)).key(), streams::keys::seq(Shard(0)));
    let mut command = redis::cmd("EVAL");
    command.arg(add).arg(2).arg(log).arg(seq).arg(envelope.event_id.to_string()).arg(json);
    command.exec_async(connection).await.context("add a fact")
}

/// An event of a recording that does not exist.
fn nobody(shard: Shard) -> Envelope {
    let now = events::now();
    Envelope {
        event_id: EventId::from(uuid::Uuid::new_v4()),
        shard,
        seq: None,
        recording: RecordingId::from(uuid::Uuid::new_v4()),
        tenant: Tenant::default(),
        generation: 0,
        round: 0,
        submitted_at: now,
        occurred_at: now,
        trace: None,
        causation_id: None,
        event: GenerationActivated { by: "nobody".to_owned() }.into(),
    }
}

/// How long something to trim is waited for.
const TRIM_PATIENCE: Duration = Duration::from_secs(5);

/// Trims each log to its first fact that is not acknowledged, archived or not; returns how many facts went.
async fn trim(connection: &mut MultiplexedConnection) -> Result<u64> {
    let trim = "local group = redis.call('XINFO', 'GROUPS', KEYS[1])[1] \
                if not group then return 0 end \
                local keep = group[8] \
                local pending = redis.call('XPENDING', KEYS[1], group[2], '-', '+', 1)[1] \
                if pending then keep = pending[1] end \
                return redis.call('XTRIM', KEYS[1], 'MINID', keep)";
    let mut trimmed = 0;
    for shard in 0..SHARDS {
        let log = streams::Source::Log(Shard(shard)).key();
        let mut command = redis::cmd("EVAL");
        trimmed += command.arg(trim).arg(1).arg(log).query_async::<u64>(connection).await.context("trim")?;
    }
    Ok(trimmed)
}
