//! The log in Redis 7.0 or newer.
//!
//! Commands share one multiplexed connection that reconnects by itself; what fails on the way is repeated with
//! back-off, which is safe because every script may run twice. Each blocking reader has a connection of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use events::{Lane, RecordingId, SegmentId, Shard};
use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, RedisError, Script, ServerErrorKind, Value,
};

use crate::append::{Append, Appended, Erased};
use crate::dead::{Dead, DeadPlace};
use crate::keys::{self, Source};
use crate::log::*;
use crate::survey::Survey;

mod acts;
mod check;
mod letters;
mod reply;
mod survey;

use reply::{entries_of, unexpected};

/// How to reach Redis and what to insist on.
#[derive(Clone, Debug)]
pub struct Config {
    /// `redis://host:port/db`, `rediss://...` or `redis+unix:///path`.
    pub url: String,
    /// Number of shards; must be what the deployment was started with.
    pub shards: u16,
    /// How long de-duplication claims and marks of admission are kept.
    pub keep: Duration,
}

impl Config {
    /// Returns the configuration for a server with `shards` shards, keeping claims for a week.
    pub fn new(url: impl Into<String>, shards: u16) -> Config {
        Config { url: url.into(), shards, keep: Duration::from_secs(7 * 24 * 3600) }
    }
}

/// The log in Redis.
pub struct RedisLog {
    config: Config,
    client: Client,
    connection: ConnectionManager,
    scripts: Arc<Scripts>,
}

struct Scripts {
    commit: Script,
    emit: Script,
    admit: Script,
    claim: Script,
    retry: Script,
    heartbeat: Script,
    hand_back: Script,
    leave: Script,
    settle: Script,
    announce: Script,
    lease: Script,
    append: Script,
    append_work: Script,
    unwant: Script,
    find: Script,
    erase: Script,
    compact: Script,
    facts: Script,
    dead: Script,
    revive: Script,
    revive_work: Script,
    resubmit: Script,
}

impl Scripts {
    fn new() -> Scripts {
        Scripts {
            commit: Script::new(include_str!("scripts/commit.lua")),
            emit: Script::new(include_str!("scripts/emit.lua")),
            admit: Script::new(include_str!("scripts/admit.lua")),
            claim: Script::new(include_str!("scripts/claim.lua")),
            retry: Script::new(include_str!("scripts/retry.lua")),
            heartbeat: Script::new(include_str!("scripts/heartbeat.lua")),
            hand_back: Script::new(include_str!("scripts/hand_back.lua")),
            leave: Script::new(include_str!("scripts/leave.lua")),
            settle: Script::new(include_str!("scripts/settle.lua")),
            announce: Script::new(include_str!("scripts/announce.lua")),
            lease: Script::new(include_str!("scripts/lease.lua")),
            append: Script::new(include_str!("scripts/append.lua")),
            append_work: Script::new(&strict(include_str!("scripts/append.lua"))),
            unwant: Script::new(include_str!("scripts/unwant.lua")),
            find: Script::new(include_str!("scripts/find.lua")),
            erase: Script::new(include_str!("scripts/erase.lua")),
            compact: Script::new(include_str!("scripts/compact.lua")),
            facts: Script::new(include_str!("scripts/facts.lua")),
            dead: Script::new(include_str!("scripts/dead.lua")),
            revive: Script::new(include_str!("scripts/revive.lua")),
            revive_work: Script::new(&strict(include_str!("scripts/revive.lua"))),
            resubmit: Script::new(include_str!("scripts/resubmit.lua")),
        }
    }
}

/// Returns a script that is refused whole at the memory limit, from one that is not.
fn strict(script: &str) -> String {
    script.replacen("#!lua flags=allow-oom", "#!lua", 1)
}

/// A reply may take this long; blocking reads have their own limit.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

impl RedisLog {
    /// Connects, waiting for a server that is starting, and checks that its settings cannot lose data.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] for an old version, an eviction policy that deletes keys, or another number of
    /// shards; [`Error::Unavailable`] when the address makes no sense. A server that is down is waited for.
    pub async fn connect(config: Config) -> Result<RedisLog, Error> {
        let client = Client::open(config.url.as_str()).map_err(|e| {
            Error::Misconfigured(format!("cannot use the Redis address {:?}: {e}", redacted(&config.url)))
        })?;
        let open = || async {
            let manager = ConnectionManagerConfig::new()
                .set_connection_timeout(Some(CONNECT_TIMEOUT))
                .set_response_timeout(Some(RESPONSE_TIMEOUT))
                .set_number_of_retries(3);
            ConnectionManager::new_with_config(client.clone(), manager).await
        };
        let connection = open
            .retry(patience())
            .when(is_transient)
            .notify(|error, pause| {
                tracing::warn!(%error, url = redacted(&config.url), ?pause, "redis does not answer, trying again");
            })
            .await
            .map_err(|e| failed("connect to redis", e))?;
        let log = RedisLog { config, client, connection, scripts: Arc::new(Scripts::new()) };
        check::server(&log).await?;
        Ok(log)
    }

    /// Runs a command until the server answers; see [`is_transient`].
    async fn run<T: FromRedisValue>(&self, action: &'static str, command: &redis::Cmd) -> Result<T, Error> {
        let attempt = || async {
            let mut connection = self.connection.clone();
            command.query_async::<T>(&mut connection).await
        };
        self.persist(action, attempt).await
    }

    /// Runs a command once. What gives entries away must not be repeated behind the caller's back: after a lost reply
    /// they are ours already, a second call gives others, and only the caller can read its own history.
    async fn once<T: FromRedisValue>(&self, action: &'static str, command: &redis::Cmd) -> Result<T, Error> {
        let mut connection = self.connection.clone();
        command.query_async::<T>(&mut connection).await.map_err(|e| failed(action, e))
    }

    /// Runs a script until the server answers. Each is written so that a second run changes nothing.
    async fn script<T: FromRedisValue>(
        &self,
        action: &'static str,
        invocation: &redis::ScriptInvocation<'_>,
    ) -> Result<T, Error> {
        let attempt = || async {
            let mut connection = self.connection.clone();
            invocation.invoke_async::<T>(&mut connection).await
        };
        self.persist(action, attempt).await
    }

    async fn persist<T, F, Fut>(&self, action: &'static str, attempt: F) -> Result<T, Error>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, RedisError>>,
    {
        attempt
            .retry(patience())
            .when(is_transient)
            .notify(|error, pause| {
                crate::metrics::redis_retried(action);
                tracing::warn!(%error, action, ?pause, "redis call failed, trying again");
            })
            .await
            .map_err(|e| failed(action, e))
    }

    async fn groups(&self, source: Source) -> Result<Vec<reply::Group>, Error> {
        self.groups_of(&source.key()).await
    }

    async fn groups_of(&self, key: &str) -> Result<Vec<reply::Group>, Error> {
        let mut command = redis::cmd("XINFO");
        command.arg("GROUPS").arg(key);
        match self.run::<Value>("read stream groups", &command).await {
            Ok(value) => reply::groups_of(value),
            Err(Error::NoGroup { .. }) => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }
}

/// Back-off from 50 ms to 5 s with jitter, for ever.
fn patience() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(5))
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
}

/// Tells whether the same call may succeed later without anybody changing anything about it: the connection broke,
/// or the server is loading, busy, failing over or a replica for the moment.
fn is_transient(error: &RedisError) -> bool {
    let code = error.code().unwrap_or("");
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_connection_refusal()
        || matches!(
            code,
            "LOADING" | "BUSY" | "READONLY" | "MASTERDOWN" | "TRYAGAIN" | "CLUSTERDOWN" | "NOSCRIPT"
        )
}

fn failed(action: &'static str, error: RedisError) -> Error {
    let code = error.code().unwrap_or("");
    let text = error.to_string();
    if code == "OOM" || text.contains("OOM command not allowed") || text.contains("used memory > 'maxmemory'")
    {
        Error::Full { action }
    } else if code == "NOGROUP" || text.contains("NOGROUP") || text.contains("no such key") {
        Error::NoGroup { action }
    } else if matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ResponseError))
        && !text.contains("NOAUTH")
    {
        Error::Reply { action, reply: text }
    } else {
        Error::Unavailable { action, source: Box::new(error) }
    }
}

/// The address without its password.
fn redacted(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 < at => format!("{}***{}", &url[..scheme + 3], &url[at..]),
        _ => url.to_owned(),
    }
}

/// Hands in a drop for somebody who knows of the deployment only where its Redis is. Tried once: after a lost reply
/// the drop may stand there all the same.
///
/// # Errors
/// [`Error::Unavailable`] when Redis does not answer, [`Error::Full`] at its memory limit.
pub async fn submit(url: &str, lane: Lane, fields: &[(String, Bytes)]) -> Result<String, Error> {
    let client = Client::open(url).map_err(|e| {
        Error::Misconfigured(format!("cannot use the Redis address {:?}: {e}", redacted(url)))
    })?;
    let limits = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT));
    let opened = client.get_multiplexed_async_connection_with_config(&limits).await;
    let mut connection = opened.map_err(|e| failed("connect to redis", e))?;
    add_drop(lane, fields).query_async(&mut connection).await.map_err(|e| failed("hand in a drop", e))
}

fn add_drop(lane: Lane, fields: &[(String, Bytes)]) -> redis::Cmd {
    let mut command = redis::cmd("XADD");
    command.arg(Source::Ingest(lane).key()).arg("*");
    for (name, value) in fields {
        command.arg(name).arg(&value[..]);
    }
    command
}

struct RedisReader {
    client: Client,
    group: String,
    consumer: String,
    connection: Option<MultiplexedConnection>,
}

#[async_trait]
impl Reader for RedisReader {
    async fn read(&mut self, sources: &[Source], count: usize, block: Duration) -> Result<Vec<Entry>, Error> {
        const ACTION: &str = "wait for stream entries";
        let connection = match &mut self.connection {
            Some(connection) => connection,
            empty => {
                // The margin notices a dead peer: a healthy server answers a blocked read when its time is over.
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(CONNECT_TIMEOUT))
                    .set_response_timeout(Some(block * 2 + Duration::from_secs(2)));
                let opened = self.client.get_multiplexed_async_connection_with_config(&config).await;
                empty.insert(opened.map_err(|e| failed("connect a reader", e))?)
            }
        };
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(&self.group).arg(&self.consumer);
        command
            .arg("COUNT")
            .arg(count.max(1))
            .arg("BLOCK")
            .arg(block.as_millis().max(1) as u64)
            .arg("STREAMS");
        command.arg(sources.iter().map(|source| source.key()).collect::<Vec<_>>());
        command.arg(vec![">"; sources.len()]);
        match command.query_async::<Value>(connection).await {
            Ok(value) => entries_of(value, sources),
            Err(error) => {
                // The reply may be on its way still: only a new connection has a clean line.
                self.connection = None;
                Err(failed(ACTION, error))
            }
        }
    }
}

#[async_trait]
impl Log for RedisLog {
    fn shards(&self) -> u16 {
        self.config.shards
    }

    async fn fork(&self) -> Result<SharedLog, Error> {
        Ok(Arc::new(RedisLog::connect(self.config.clone()).await?))
    }

    async fn ensure_groups(&self, group: &str, sources: &[Source]) -> Result<(), Error> {
        for source in sources {
            // Looked for first, because at the memory limit XGROUP CREATE is refused even where it would change
            // nothing, and those who start then are those who free memory.
            if self.groups(*source).await?.iter().any(|known| known.name == group) {
                continue;
            }
            let mut command = redis::cmd("XGROUP");
            command.arg("CREATE").arg(source.key()).arg(group).arg("0").arg("MKSTREAM");
            match self.run::<Value>("create stream group", &command).await {
                Ok(_) => {}
                Err(Error::Reply { reply, .. }) if reply.contains("BUSYGROUP") => {}
                Err(Error::Unavailable { source: e, .. }) if e.to_string().contains("BUSYGROUP") => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    async fn reader(&self, group: &str, consumer: &str) -> Result<Box<dyn Reader>, Error> {
        Ok(Box::new(RedisReader {
            client: self.client.clone(),
            group: group.to_owned(),
            consumer: consumer.to_owned(),
            connection: None,
        }))
    }

    async fn take(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        count: usize,
    ) -> Result<Vec<Entry>, Error> {
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(group).arg(consumer).arg("COUNT").arg(count);
        command.arg("STREAMS").arg(source.key()).arg(">");
        entries_of(self.once("take stream entries", &command).await?, &[source])
    }

    async fn own_pending(&self, group: &str, consumer: &str, source: Source) -> Result<Vec<Entry>, Error> {
        let mut all = Vec::new();
        let mut from = "0".to_owned();
        loop {
            let mut command = redis::cmd("XREADGROUP");
            command.arg("GROUP").arg(group).arg(consumer).arg("COUNT").arg(64);
            command.arg("STREAMS").arg(source.key()).arg(&from);
            let page = entries_of(self.run("read own history", &command).await?, &[source])?;
            let Some(last) = page.last() else { return Ok(all) };
            from.clone_from(&last.id);
            // An entry whose data is gone comes back without fields: a commit finds that out and acknowledges it.
            all.extend(self.with_attempts(group, source, page).await?);
        }
    }

    async fn claim(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        lease: Duration,
        count: usize,
    ) -> Result<Claimed, Error> {
        let mut invocation = self.scripts.claim.prepare_invoke();
        invocation.key(source.key()).key(source.attempts(group));
        invocation.arg(group).arg(consumer).arg(lease.as_millis() as u64).arg(count);
        const ACTION: &str = "claim stream entries";
        let mut connection = self.connection.clone();
        // Once, for the reason that once() gives.
        let value = invocation.invoke_async::<Value>(&mut connection).await.map_err(|e| failed(ACTION, e))?;
        reply::claimed_of(value, source)
    }

    async fn heartbeat(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        ids: &[String],
    ) -> Result<Vec<bool>, Error> {
        let mut invocation = self.scripts.heartbeat.prepare_invoke();
        invocation.key(source.key()).arg(group).arg(consumer);
        for id in ids {
            invocation.arg(id);
        }
        let mine: Vec<u8> = self.script("renew leases", &invocation).await?;
        Ok(mine.into_iter().map(|mine| mine == 1).collect())
    }

    async fn hand_back(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        ids: &[String],
    ) -> Result<(), Error> {
        let mut invocation = self.scripts.hand_back.prepare_invoke();
        invocation.key(source.key()).arg(group).arg(consumer);
        for id in ids {
            invocation.arg(id);
        }
        self.script("hand work back", &invocation).await
    }

    async fn retry(
        &self,
        group: &str,
        consumer: &str,
        entry: &Entry,
        attempts: u32,
        delay: Duration,
    ) -> Result<bool, Error> {
        let mut invocation = self.scripts.retry.prepare_invoke();
        invocation.key(entry.source.key()).key(entry.source.attempts(group));
        invocation.arg(group).arg(consumer).arg(&entry.id).arg(entry.attempts_field()).arg(attempts);
        invocation.arg(delay.as_millis() as u64);
        Ok(self.script::<u8>("put an entry off", &invocation).await? == 1)
    }

    async fn leave(&self, group: &str, consumer: &str, sources: &[Source]) -> Result<(), Error> {
        for source in sources {
            let mut invocation = self.scripts.leave.prepare_invoke();
            invocation.key(source.key()).arg(group).arg(consumer);
            self.script::<Value>("remove the consumer", &invocation).await?;
        }
        Ok(())
    }

    async fn commit(&self, commit: &Commit) -> Result<Outcome, Error> {
        let Commit { source, facts, outputs, .. } = commit;
        let shard = source.shard().unwrap_or(Shard(0));
        let lapse = commit.lapse.as_ref().zip(commit.recording);
        let mut invocation = self.scripts.commit.prepare_invoke();
        invocation.key(source.key()).key(source.attempts(&commit.group)).key(source.counter());
        match source.shard() {
            Some(shard) => invocation.key(Source::Log(shard).key()).key(keys::seq(shard)),
            // A drop has neither log nor seq; these names keep the script's keys in its slot.
            None => invocation.key("{vf:ingest}:log").key("{vf:ingest}:seq"),
        };
        let mark = match commit.recording {
            Some(recording) => keys::deleted(shard, recording),
            None => format!("{}:none", source.dead()),
        };
        invocation.key(&mark);
        match (commit.recording, commit.generation) {
            (Some(recording), Some(generation)) => {
                invocation.key(keys::cancelled(shard, recording, generation))
            }
            _ => invocation.key(&mark),
        };
        invocation.key(source.dead());
        match lapse {
            Some((claim, _)) => invocation.key(keys::claim(shard, claim)),
            None => invocation.key(&mark),
        };
        for (queue, _) in outputs {
            invocation.key(queue.key()).key(queue.counter());
        }
        for key in &commit.delete {
            invocation.key(key);
        }

        let letter = commit.dead.as_ref().map(|letter| letter.fields(*source, &commit.id));
        let letter = letter.as_ref().map_or(&[][..], |fields| fields);
        invocation.arg(&commit.group).arg(&commit.id).arg(&commit.identity);
        invocation.arg(u8::from(source.deletes_done()));
        invocation.arg(facts.len()).arg(outputs.len()).arg(letter.len() * 2);
        invocation.arg(lapse.map_or_else(String::new, |(_, recording)| recording.to_string()));
        for fact in facts {
            invocation.arg(&fact.event_id).arg(&fact.json);
        }
        for (_, message) in outputs {
            invocation.arg(&message.event_id).arg(&message.json).arg(message.ms).arg(message.bytes);
        }
        for (field, value) in letter {
            invocation.arg(*field).arg(value);
        }
        let outcome: String = self.script("commit", &invocation).await?;
        reply::outcome_of(&outcome).ok_or_else(|| unexpected("commit", &outcome))
    }

    async fn acknowledge(&self, group: &str, source: Source, ids: &[String]) -> Result<(), Error> {
        for ids in ids.chunks(1000) {
            let mut command = redis::cmd("XACK");
            command.arg(source.key()).arg(group).arg(ids);
            self.run::<u64>("acknowledge facts", &command).await?;
        }
        Ok(())
    }

    async fn emit(&self, emit: &Emit) -> Result<Emitted, Error> {
        let shard = emit.source.shard().unwrap_or(Shard(0));
        let mut invocation = self.scripts.emit.prepare_invoke();
        invocation.key(emit.source.key()).key(keys::deleted(shard, emit.recording));
        invocation.key(keys::cancelled(shard, emit.recording, emit.generation)).key(&emit.cursor);
        invocation.key(emit.queue.key()).key(emit.queue.counter()).key(&emit.speech_key);
        invocation.arg(&emit.group).arg(&emit.id).arg(&emit.identity).arg(&emit.expected).arg(&emit.next);
        let Message { event_id, json, ms, bytes } = &emit.message;
        invocation.arg(event_id).arg(json).arg(ms).arg(bytes).arg(&emit.speech[..]);
        let outcome: String = self.script("emit a part", &invocation).await?;
        Ok(match outcome.as_str() {
            "done" => Emitted::Done,
            "repeated" => Emitted::Repeated,
            "stale" => Emitted::Stale,
            other => {
                Emitted::Ended(reply::outcome_of(other).ok_or_else(|| unexpected("emit a part", other))?)
            }
        })
    }

    async fn append(&self, append: &Append) -> Result<Appended, Error> {
        self.append_act(append).await
    }

    async fn delete(&self, shard: Shard, recording: RecordingId, fact: &Message) -> Result<Appended, Error> {
        self.unwant(shard, recording, keys::deleted(shard, recording), fact).await
    }

    async fn cancel(
        &self,
        shard: Shard,
        recording: RecordingId,
        generation: u32,
        fact: &Message,
    ) -> Result<Appended, Error> {
        self.unwant(shard, recording, keys::cancelled(shard, recording, generation), fact).await
    }

    async fn erase(&self, shard: Shard, recording: RecordingId) -> Result<Erased, Error> {
        self.erase_recording(shard, recording).await
    }

    async fn cursor(&self, key: &str) -> Result<String, Error> {
        let cursor: Option<String> = self.run("read the decode cursor", redis::cmd("GET").arg(key)).await?;
        Ok(cursor.unwrap_or_default())
    }

    async fn admit(&self, admit: &Admit) -> Result<Admission, Error> {
        let mark = keys::admitted(admit.shard, admit.recording);
        let mut invocation = self.scripts.admit.prepare_invoke();
        invocation.key(&mark);
        match &admit.claim {
            Some(claim) => invocation.key(keys::claim(admit.shard, claim)),
            None => invocation.key(&mark),
        };
        invocation.key(Source::Log(admit.shard).key()).key(keys::seq(admit.shard));
        match &admit.work {
            Some((queue, _)) => invocation.key(queue.key()).key(queue.counter()),
            None => invocation.key(&mark).key(&mark),
        };
        invocation.arg(admit.recording.to_string()).arg(&admit.fingerprint);
        invocation.arg(u8::from(admit.claim.is_some())).arg(self.config.keep.as_secs());
        invocation.arg(admit.facts.len()).arg(u8::from(admit.work.is_some()));
        for fact in &admit.facts {
            invocation.arg(&fact.event_id).arg(&fact.json);
        }
        if let Some((_, Message { event_id, json, ms, bytes })) = &admit.work {
            invocation.arg(event_id).arg(json).arg(ms).arg(bytes);
        }
        let reply: Vec<String> = self.script("admit a recording", &invocation).await?;
        reply::admission_of(&reply).ok_or_else(|| unexpected("admit a recording", &reply.join(" ")))
    }

    async fn submit(&self, lane: Lane, fields: &[(String, Bytes)]) -> Result<String, Error> {
        self.run("hand in a drop", &add_drop(lane, fields)).await
    }

    async fn set_drop_outcome(&self, drop_id: &str, outcome: &DropOutcome) -> Result<(), Error> {
        let json = serde_json::to_string(outcome).expect("an outcome is plain data");
        let mut command = redis::cmd("SET");
        command.arg(keys::drop_outcome(drop_id)).arg(json).arg("EX").arg(7 * 24 * 3600);
        self.run("keep what became of a drop", &command).await
    }

    async fn drop_outcome(&self, drop_id: &str) -> Result<Option<DropOutcome>, Error> {
        const ACTION: &str = "read what became of a drop";
        let json: Option<String> =
            self.run(ACTION, redis::cmd("GET").arg(keys::drop_outcome(drop_id))).await?;
        json.map(|json| serde_json::from_str(&json).map_err(|_| unexpected(ACTION, &json))).transpose()
    }

    async fn speech(&self, shard: Shard, segment: &SegmentId, round: u32) -> Result<Option<Bytes>, Error> {
        let speech: Option<Vec<u8>> =
            self.run("fetch speech", redis::cmd("GET").arg(keys::speech(shard, segment, round))).await?;
        Ok(speech.map(Bytes::from))
    }

    async fn settle_language(
        &self,
        shard: Shard,
        recording: RecordingId,
        generation: u32,
        language: &str,
    ) -> Result<String, Error> {
        let mut invocation = self.scripts.settle.prepare_invoke();
        invocation.key(keys::language(shard, recording, generation));
        invocation.arg(language).arg(self.config.keep.as_secs());
        self.script("settle the language", &invocation).await
    }

    async fn language(
        &self,
        shard: Shard,
        recording: RecordingId,
        generation: u32,
    ) -> Result<Option<String>, Error> {
        let key = keys::language(shard, recording, generation);
        self.run("read the language", redis::cmd("GET").arg(key)).await
    }

    async fn announce_model(&self, note: &ModelNote) -> Result<(), Error> {
        let json = serde_json::to_string(note).expect("a note is plain data");
        let mut invocation = self.scripts.announce.prepare_invoke();
        invocation.key(keys::MODELS).arg(&note.name).arg(json);
        self.script::<Value>("announce a model", &invocation).await.map(drop)
    }

    async fn models(&self) -> Result<BTreeMap<String, ModelNote>, Error> {
        const ACTION: &str = "list models";
        let notes: BTreeMap<String, String> =
            self.run(ACTION, redis::cmd("HGETALL").arg(keys::MODELS)).await?;
        notes
            .into_iter()
            .map(|(name, json)| {
                Ok((name, serde_json::from_str(&json).map_err(|_| unexpected(ACTION, &json))?))
            })
            .collect()
    }

    async fn backlog(&self, source: Source) -> Result<Backlog, Error> {
        let entries = self.run("measure a queue", redis::cmd("XLEN").arg(source.key())).await?;
        let mut command = redis::cmd("HMGET");
        command.arg(source.counter()).arg("ms").arg("bytes");
        let (ms, bytes): (Option<i64>, Option<i64>) = self.run("measure a queue", &command).await?;
        let count = |value: Option<i64>| value.unwrap_or(0).max(0) as u64;
        Ok(Backlog { entries, audio_ms: count(ms), bytes: count(bytes) })
    }

    async fn unread_facts(&self, group: &str, shard: Shard) -> Result<u64, Error> {
        let source = Source::Log(shard);
        let groups = self.groups(source).await?;
        let Some(group) = groups.iter().find(|g| g.name == group) else {
            return self.run("measure the log", redis::cmd("XLEN").arg(source.key())).await;
        };
        // Contiguous seq makes this exact where the server's own `lag` is not (it is nil after a restart).
        let Some(newest) = reply::seq_of(self.xrange(source, "+", "-").await?) else {
            return Ok(group.pending);
        };
        let read = match reply::seq_of(self.xrange(source, &group.last_delivered, "-").await?) {
            Some(read) => read,
            // All it was given is trimmed, or it was given nothing yet: what is left is unread.
            None => reply::seq_of(self.oldest(source).await?).unwrap_or(newest).saturating_sub(1),
        };
        Ok(newest.saturating_sub(read) + group.pending)
    }

    async fn facts(&self, shard: Shard, after: u64, count: usize) -> Result<Vec<Entry>, Error> {
        let source = Source::Log(shard);
        let mut invocation = self.scripts.facts.prepare_invoke();
        invocation.key(source.key()).arg(after).arg(count.max(1));
        reply::range_of(self.script("read facts", &invocation).await?, source)
    }

    async fn health(&self) -> Result<Health, Error> {
        let info: String = self.run("ask for memory use", redis::cmd("INFO").arg("memory")).await?;
        let number =
            |name: &str| check::info_field(&info, name).and_then(|v| v.parse::<f64>().ok()).unwrap_or(0.0);
        let (used, limit) = (number("used_memory"), number("maxmemory"));
        Ok(Health { memory_share: if limit > 0.0 { used / limit } else { 0.0 } })
    }

    async fn trim(&self, shard: Shard, archived: u64) -> Result<u64, Error> {
        let source = Source::Log(shard);
        let mut keep_from: Option<String> = None;
        let mut lowest = |id: String| match &keep_from {
            Some(kept) if reply::id_order(kept) <= reply::id_order(&id) => {}
            _ => keep_from = Some(id),
        };
        for group in self.groups(source).await? {
            let mut command = redis::cmd("XPENDING");
            command.arg(source.key()).arg(&group.name).arg("-").arg("+").arg(1);
            let pending: Value = self.run("read pending facts", &command).await?;
            lowest(reply::first_pending(pending).unwrap_or_else(|| reply::next_id(&group.last_delivered)));
        }
        // The first fact above the archive's mark stays, and so does all that follows it.
        let mut from = "-".to_owned();
        let mut first_kept = None;
        'pages: loop {
            let mut command = redis::cmd("XRANGE");
            command.arg(source.key()).arg(&from).arg("+").arg("COUNT").arg(1000);
            let page: Value = self.run("read the log", &command).await?;
            let page = reply::range_of(page, source)?;
            let Some(last) = page.last().map(|entry| entry.id.clone()) else { break };
            for entry in page {
                if reply::seq_of(Some(entry.clone())).is_none_or(|seq| seq > archived) {
                    first_kept = Some(entry.id);
                    break 'pages;
                }
            }
            from = format!("({last}");
        }
        let newest = self.xrange(source, "+", "-").await?.map(|entry| reply::next_id(&entry.id));
        if let Some(id) = first_kept.or(newest) {
            lowest(id);
        }
        let Some(keep_from) = keep_from else { return Ok(0) };
        let mut command = redis::cmd("XTRIM");
        command.arg(source.key()).arg("MINID").arg(keep_from);
        self.run("trim the log", &command).await
    }

    async fn dead_letters(&self, source: Source) -> Result<u64, Error> {
        self.run("count dead letters", redis::cmd("XLEN").arg(source.dead())).await
    }

    async fn dead(&self, place: DeadPlace, after: Option<&str>, count: usize) -> Result<Vec<Dead>, Error> {
        self.list_dead_after(place, after, count).await
    }

    async fn dead_letter(&self, place: DeadPlace, id: &str) -> Result<Option<Dead>, Error> {
        Ok(self.list_dead(place, id, id, 1, u64::MAX).await?.pop())
    }

    async fn drop_dead(&self, place: DeadPlace, id: &str) -> Result<bool, Error> {
        self.remove_dead(place, id).await
    }

    async fn revive(
        &self,
        dead: &Dead,
        facts: Vec<Message>,
        work: Option<(Source, Message)>,
    ) -> Result<bool, Error> {
        self.revive_dead(dead, facts, work).await
    }

    async fn survey(&self) -> Result<Survey, Error> {
        self.survey_all().await
    }

    async fn lease(&self, chore: &str, holder: &str, length: Duration) -> Result<bool, Error> {
        let mut invocation = self.scripts.lease.prepare_invoke();
        invocation.key(keys::lease(chore)).arg(holder).arg(length.as_millis() as u64);
        Ok(self.script::<u8>("take a lease", &invocation).await? == 1)
    }
}

impl RedisLog {
    /// Fills in how often processing each entry failed.
    async fn with_attempts(
        &self,
        group: &str,
        source: Source,
        mut entries: Vec<Entry>,
    ) -> Result<Vec<Entry>, Error> {
        let mut command = redis::cmd("HMGET");
        command.arg(source.attempts(group));
        command.arg(entries.iter().map(|entry| entry.attempts_field()).collect::<Vec<_>>());
        let kept: Vec<Option<String>> = self.run("read attempts", &command).await?;
        for (entry, kept) in entries.iter_mut().zip(kept) {
            let attempts = kept.as_deref().and_then(|kept| kept.split(':').next()?.parse().ok());
            entry.attempts = attempts.unwrap_or(0);
        }
        Ok(entries)
    }

    async fn oldest(&self, source: Source) -> Result<Option<Entry>, Error> {
        let mut command = redis::cmd("XRANGE");
        command.arg(source.key()).arg("-").arg("+").arg("COUNT").arg(1);
        Ok(reply::range_of(self.run("read the log", &command).await?, source)?.pop())
    }

    /// Returns the newest entry between two ids.
    async fn xrange(&self, source: Source, from: &str, to: &str) -> Result<Option<Entry>, Error> {
        let mut command = redis::cmd("XREVRANGE");
        command.arg(source.key()).arg(from).arg(to).arg("COUNT").arg(1);
        Ok(reply::range_of(self.run("read the log", &command).await?, source)?.pop())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_stay_out_of_messages() {
        assert_eq!(redacted("redis://user:secret@host:6379/0"), "redis://***@host:6379/0");
        assert_eq!(redacted("redis://127.0.0.1:6379"), "redis://127.0.0.1:6379");
    }

    #[test]
    fn entry_order_is_numeric() {
        assert!(reply::id_order("9-5") < reply::id_order("10-0"));
        assert!(reply::id_order("9-5") < reply::id_order("9-10"));
        assert_eq!(reply::next_id("9-5"), "9-6");
        assert!(reply::entry_of(Value::Nil, Source::Ingest(Lane::Batch)).is_none());
    }
}
