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
use events::{Lane, RecordingId, SegmentId, Shard, Tenant};
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, Pipeline, RedisError, ServerErrorKind, Value,
};

use crate::append::{Append, Appended, Erased};
use crate::dead::{Dead, DeadPlace};
use crate::failpoint;
use crate::keys::{self, Source};
use crate::log::*;
use crate::survey::Survey;

mod acts;
mod care;
mod check;
mod commits;
mod drops;
mod letters;
mod line;
mod notes;
mod reading;
mod reply;
mod scripts;
mod survey;
mod writing;

use commits::Commits;
use line::{CONNECT_TIMEOUT, Line};
use scripts::Scripts;
use writing::add_drop;

/// How long claims, marks, and what became of drops are kept.
pub const KEEP: Duration = Duration::from_secs(7 * 24 * 3600);

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
        Config { url: url.into(), shards, keep: KEEP }
    }
}

/// The log in Redis. Clones share its connection.
#[derive(Clone)]
pub struct RedisLog {
    config: Config,
    client: Client,
    line: Arc<Line>,
    scripts: Arc<Scripts>,
    commits: Arc<Commits>,
}

impl RedisLog {
    /// Connects, waiting for a server that is starting, and checks that its settings cannot lose data.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] for an old version, an eviction policy that deletes keys, or another number of
    /// shards; [`Error::Unavailable`] when the address makes no sense. A server that is down is waited for.
    pub async fn connect(config: Config) -> Result<RedisLog, Error> {
        failpoint::check().map_err(Error::Misconfigured)?;
        RedisLog::open(config).await
    }

    async fn open(config: Config) -> Result<RedisLog, Error> {
        let client = Client::open(config.url.as_str()).map_err(|e| {
            Error::Misconfigured(format!("cannot use the Redis address {:?}: {e}", redacted(&config.url)))
        })?;
        let open = || Line::open(client.clone());
        let line = open
            .retry(patience())
            .when(is_transient)
            .notify(|error, pause| {
                tracing::warn!(%error, url = redacted(&config.url), ?pause, "redis does not answer, trying again");
            })
            .await
            .map_err(|e| failed("connect to redis", e))?;
        let log = RedisLog {
            config,
            client,
            line: Arc::new(line),
            scripts: Arc::new(Scripts::new()),
            commits: Arc::default(),
        };
        check::server(&log).await?;
        Ok(log)
    }

    /// Runs a command until the server answers; see [`is_transient`].
    async fn run<T: FromRedisValue>(&self, action: &'static str, command: &redis::Cmd) -> Result<T, Error> {
        let attempt = || {
            self.line.call(|mut connection| async move { command.query_async::<T>(&mut connection).await })
        };
        self.persist(action, attempt).await
    }

    /// Runs a command once. What gives entries away must not be repeated behind the caller's back: after a lost reply
    /// they are ours already, a second call gives others, and only the caller can read its own history.
    async fn once<T: FromRedisValue>(&self, action: &'static str, command: &redis::Cmd) -> Result<T, Error> {
        let asked =
            self.line.call(|mut connection| async move { command.query_async::<T>(&mut connection).await });
        asked.await.map_err(|e| failed(action, e))
    }

    /// Runs a script until the server answers. Each is written so that a second run changes nothing.
    async fn script<T: FromRedisValue>(
        &self,
        action: &'static str,
        invocation: &redis::ScriptInvocation<'_>,
    ) -> Result<T, Error> {
        let attempt = || {
            self.line
                .call(|mut connection| async move { invocation.invoke_async::<T>(&mut connection).await })
        };
        self.persist(action, attempt).await
    }

    /// Runs commands together; a stream or group that is not there is [`Value::Nil`] among the replies.
    async fn all(&self, action: &'static str, commands: Pipeline) -> Result<Vec<Value>, Error> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let mut commands = commands;
        commands.ignore_errors();
        let commands = &commands;
        let attempt = || {
            self.line.call(|mut connection| async move {
                commands.query_async::<Vec<Result<Value, RedisError>>>(&mut connection).await
            })
        };
        let replies = self.persist(action, attempt).await?;
        let value_of = |reply| match reply {
            Ok(value) => Ok(value),
            Err(error) => match failed(action, error) {
                Error::NoGroup { .. } => Ok(Value::Nil),
                error => Err(error),
            },
        };
        replies.into_iter().map(value_of).collect()
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
        .set_response_timeout(Some(line::RESPONSE_TIMEOUT));
    let opened = client.get_multiplexed_async_connection_with_config(&limits).await;
    let mut connection = opened.map_err(|e| failed("connect to redis", e))?;
    add_drop(lane, fields).query_async(&mut connection).await.map_err(|e| failed("hand in a drop", e))
}

#[async_trait]
impl Log for RedisLog {
    fn shards(&self) -> u16 {
        self.config.shards
    }

    async fn fork(&self) -> Result<SharedLog, Error> {
        Ok(Arc::new(RedisLog::open(self.config.clone()).await?))
    }

    async fn ensure_groups(&self, group: &str, sources: &[Source]) -> Result<(), Error> {
        RedisLog::ensure_groups(self, group, sources).await
    }

    async fn reader(&self, group: &str, consumer: &str) -> Result<Box<dyn Reader>, Error> {
        RedisLog::reader(self, group, consumer).await
    }

    async fn take(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        count: usize,
    ) -> Result<Vec<Entry>, Error> {
        RedisLog::take(self, group, consumer, source, count).await
    }

    async fn own_pending(&self, group: &str, consumer: &str, source: Source) -> Result<Vec<Entry>, Error> {
        RedisLog::own_pending(self, group, consumer, source).await
    }

    async fn unsettled(&self, group: &str, consumer: &str, sources: &[Source]) -> Result<Vec<Source>, Error> {
        RedisLog::unsettled(self, group, consumer, sources).await
    }

    async fn claim(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        lease: Duration,
        count: usize,
    ) -> Result<Claimed, Error> {
        RedisLog::claim(self, group, consumer, source, lease, count).await
    }

    async fn heartbeat(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        ids: &[String],
    ) -> Result<Vec<bool>, Error> {
        RedisLog::heartbeat(self, group, consumer, source, ids).await
    }

    async fn hand_back(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        ids: &[String],
    ) -> Result<(), Error> {
        RedisLog::hand_back(self, group, consumer, source, ids).await
    }

    async fn retry(
        &self,
        group: &str,
        consumer: &str,
        entry: &Entry,
        attempts: u32,
        delay: Duration,
    ) -> Result<bool, Error> {
        RedisLog::retry(self, group, consumer, entry, attempts, delay).await
    }

    async fn leave(&self, group: &str, consumer: &str, sources: &[Source]) -> Result<(), Error> {
        RedisLog::leave(self, group, consumer, sources).await
    }

    async fn commit(&self, commit: &Commit) -> Result<Outcome, Error> {
        RedisLog::commit(self, commit).await
    }

    async fn acknowledge(&self, group: &str, source: Source, ids: &[String]) -> Result<(), Error> {
        RedisLog::acknowledge(self, group, source, ids).await
    }

    async fn emit(&self, emit: &Emit) -> Result<Emitted, Error> {
        RedisLog::emit(self, emit).await
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
        RedisLog::cursor(self, key).await
    }

    async fn admit(&self, admit: &Admit) -> Result<Admission, Error> {
        RedisLog::admit(self, admit).await
    }

    async fn submit(&self, lane: Lane, fields: &[(String, Bytes)]) -> Result<String, Error> {
        RedisLog::submit(self, lane, fields).await
    }

    async fn set_drop_outcome(&self, drop_id: &str, outcome: &DropOutcome) -> Result<(), Error> {
        RedisLog::set_drop_outcome(self, drop_id, outcome).await
    }

    async fn drop_outcome(&self, drop_id: &str) -> Result<Option<DropOutcome>, Error> {
        RedisLog::drop_outcome(self, drop_id).await
    }

    async fn mark_drop_deleted(&self, drop_id: &str, tenant: &Tenant) -> Result<(), Error> {
        RedisLog::mark_drop_deleted(self, drop_id, tenant).await
    }

    async fn is_drop_deleted(&self, drop_id: &str, tenant: &Tenant) -> Result<bool, Error> {
        RedisLog::is_drop_deleted(self, drop_id, tenant).await
    }

    async fn waiting_drop(&self, drop_id: &str) -> Result<Option<String>, Error> {
        RedisLog::waiting_drop(self, drop_id).await
    }

    async fn erase_drop(&self, drop_id: &str) -> Result<u64, Error> {
        RedisLog::erase_drop(self, drop_id).await
    }

    async fn rewrite_file(&self) -> Result<(), Error> {
        self.run::<Value>("rewrite the append-only file", &redis::cmd("BGREWRITEAOF")).await.map(drop)
    }

    async fn file(&self) -> Result<AppendOnlyFile, Error> {
        RedisLog::file(self).await
    }

    async fn speech(&self, shard: Shard, segment: &SegmentId, round: u32) -> Result<Option<Bytes>, Error> {
        RedisLog::speech(self, shard, segment, round).await
    }

    async fn settle_language(
        &self,
        shard: Shard,
        recording: RecordingId,
        generation: u32,
        language: &str,
    ) -> Result<String, Error> {
        RedisLog::settle_language(self, shard, recording, generation, language).await
    }

    async fn hear_language(
        &self,
        shard: Shard,
        recording: RecordingId,
        generation: u32,
        segment: &str,
        heard: &str,
    ) -> Result<Heard, Error> {
        RedisLog::hear_language(self, shard, recording, generation, segment, heard).await
    }

    async fn language(
        &self,
        shard: Shard,
        recording: RecordingId,
        generation: u32,
    ) -> Result<Option<String>, Error> {
        RedisLog::language(self, shard, recording, generation).await
    }

    async fn before(&self, shard: Shard, segment: &SegmentId, round: u32) -> Result<Before, Error> {
        RedisLog::before(self, shard, segment, round).await
    }

    async fn leave_tail(
        &self,
        shard: Shard,
        segment: &SegmentId,
        round: u32,
        tail: &str,
    ) -> Result<(), Error> {
        RedisLog::leave_tail(self, shard, segment, round, tail).await
    }

    async fn is_unread(&self, shard: Shard, segment: &SegmentId, round: u32) -> Result<bool, Error> {
        RedisLog::is_unread(self, shard, segment, round).await
    }

    async fn announce_model(&self, note: &ModelNote, lasts: Duration) -> Result<(), Error> {
        RedisLog::announce_model(self, note, lasts).await
    }

    async fn has_model(&self, name: &str, sha256: &str) -> Result<bool, Error> {
        RedisLog::has_model(self, name, sha256).await
    }

    async fn models(&self) -> Result<BTreeMap<String, ModelNote>, Error> {
        RedisLog::models(self).await
    }

    async fn backlogs(&self, sources: &[Source]) -> Result<Vec<Backlog>, Error> {
        RedisLog::backlogs(self, sources).await
    }

    async fn unread_facts(&self, group: &str, shard: Shard) -> Result<u64, Error> {
        RedisLog::unread_facts(self, group, shard).await
    }

    async fn facts(&self, shard: Shard, after: u64, count: usize) -> Result<Vec<Entry>, Error> {
        RedisLog::facts(self, shard, after, count).await
    }

    async fn health(&self) -> Result<Health, Error> {
        RedisLog::health(self).await
    }

    async fn last_seq(&self, shard: Shard) -> Result<u64, Error> {
        let seq: Option<u64> = self.run("read the last seq", redis::cmd("GET").arg(keys::seq(shard))).await?;
        Ok(seq.unwrap_or(0))
    }

    async fn trim(&self, shard: Shard, archived: u64) -> Result<Trimmed, Error> {
        RedisLog::trim(self, shard, archived).await
    }

    async fn dead_letters(&self, source: Source) -> Result<u64, Error> {
        RedisLog::dead_letters(self, source).await
    }

    async fn dead(&self, place: DeadPlace, after: Option<&str>, count: usize) -> Result<Vec<Dead>, Error> {
        self.list_dead_after(place, after, count).await
    }

    async fn dead_letter(&self, place: DeadPlace, id: &str) -> Result<Option<Dead>, Error> {
        RedisLog::show_dead(self, place, id).await
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
        RedisLog::revive(self, dead, facts, work).await
    }

    async fn survey(&self) -> Result<Survey, Error> {
        self.survey_all().await
    }

    async fn lease(&self, chore: &str, holder: &str, length: Duration) -> Result<bool, Error> {
        RedisLog::lease(self, chore, holder, length).await
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
    fn ids_are_two_numbers() {
        for id in ["0-0", "17", "1795417200000-12"] {
            assert!(reply::is_id(id), "{id}");
        }
        for other in ["", "-", "1-", "-1", "1-2-3", "x", "99999999999999999999-0"] {
            assert!(!reply::is_id(other), "{other}");
        }
        assert!(reply::entry_of(Value::Nil, Source::Ingest(Lane::Batch)).is_none());
    }
}
