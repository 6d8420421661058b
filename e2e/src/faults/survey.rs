//! Reads the end state: streams, tables and logs of the workers.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use events::{EventId, Lane, RecordingId, Shard};
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamInfoGroupsReply, StreamRangeReply};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row};
use streams::{Queue, Source};

use super::deployment::{Deployment, SHARDS};
use super::history::{Dead, Fact, Observed, RecordingRow, Said, SegmentRow, Standing, TranscriptRow, Way};
use super::history::{Offer, Recorded};

/// Every stream that a group reads.
pub fn streams() -> Vec<String> {
    sources().into_iter().map(Source::key).collect()
}

fn sources() -> Vec<Source> {
    let mut all = vec![Source::Ingest(Lane::Rt), Source::Ingest(Lane::Batch)];
    for shard in (0..SHARDS).map(Shard) {
        for queue in [Queue::Decode, Queue::Segments] {
            all.extend(Lane::ALL.iter().map(|&lane| Source::Queue(shard, queue, lane)));
        }
        all.push(Source::Log(shard));
    }
    all
}

/// Waits until nothing is left to do and every accepted recording has ended that can; returns what is left when
/// `patience` is over, a line each.
///
/// # Errors
/// When a server does not answer though nothing harms it.
pub async fn settle(
    deployment: &Deployment,
    offers: &[Offer],
    recorded: &Recorded,
    patience: Duration,
) -> Result<Vec<String>> {
    let until = Instant::now() + patience;
    let must_end = |offer: &&Offer| match offer.accepted_ms() {
        Some(at_ms) => !offer.may_be_deleted() && (offer.way == Way::Api || !recorded.lost_at(at_ms)),
        None => false,
    };
    let deleted = offers.iter().filter(|offer| offer.deleted_ms().is_some());
    let unsaid: Vec<&str> = deleted
        .flat_map(|offer| offer.said.iter().chain(&offer.said_again))
        .map(|said| said.text.as_str())
        .collect();
    let names: Vec<String> = offers.iter().filter(must_end).map(|offer| offer.key.clone()).collect();
    loop {
        let mut left = left_in_redis(&mut deployment.redis.lock().await.connect().await?).await?;
        let mut sql = connect(deployment).await?;
        let rows = "SELECT count(*) FROM unnest($1::text[]) AS name WHERE NOT EXISTS \
                    (SELECT FROM read.recordings r WHERE r.name = name.name AND r.status = 'complete')";
        let waiting: i64 = sqlx::query_scalar(rows).bind(&names).fetch_one(&mut sql).await?;
        if waiting > 0 {
            left.push(format!("{waiting} accepted recordings are not complete"));
        }
        let rows =
            "SELECT count(*) FROM read.recordings WHERE status IN ('queued', 'decoding', 'transcribing')";
        let unfinished: i64 = sqlx::query_scalar(rows).fetch_one(&mut sql).await?;
        if unfinished > 0 {
            left.push(format!("{unfinished} recordings have no end"));
        }
        for (what, rows) in [
            (
                "deleted recordings are not erased",
                "SELECT count(*) FROM control.erasures WHERE completed_at IS NULL",
            ),
            (
                "recordings came of deleted drops",
                "SELECT count(*) FROM control.deleted_drops d JOIN read.recordings r ON r.drop_id = d.drop_id \
                 AND r.tenant = d.tenant WHERE r.status <> 'deleted'",
            ),
            ("runs have no end", "SELECT count(*) FROM control.runs WHERE ended_at IS NULL"),
        ] {
            let open: i64 = sqlx::query_scalar(rows).fetch_one(&mut sql).await?;
            if open > 0 {
                left.push(format!("{open} {what}"));
            }
        }
        // Where Redis went back in time what was erased is there again, until it is trimmed like any fact.
        let said = if unsaid.is_empty() { 0 } else { facts_that_say(deployment, &unsaid).await? };
        if said > 0 {
            left.push(format!("{said} facts in the logs say what was deleted"));
        }
        if left.is_empty() || Instant::now() > until {
            return Ok(left);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Reads everything. `left` is what [`settle`] returned.
///
/// # Errors
/// When a server does not answer though nothing harms it.
pub async fn observe(deployment: &Deployment, left: Vec<String>) -> Result<Observed> {
    let mut redis = deployment.redis.lock().await.connect().await?;
    let mut sql = connect(deployment).await?;
    let mut observed = Observed {
        left,
        crashes: deployment.crew.crashes(),
        work: work(deployment.folder())?,
        ..Observed::default()
    };
    observed.log = logs(&mut redis).await?;
    observed.stored = stored(&deployment.folder().join("audio"))?;
    for key in [Source::Ingest(Lane::Batch).dead()]
        .into_iter()
        .chain((0..SHARDS).map(|shard| Source::Log(Shard(shard)).dead()))
    {
        let letters: StreamRangeReply =
            redis::cmd("XRANGE").arg(key).arg("-").arg("+").query_async(&mut redis).await?;
        observed.dead.extend(letters.ids.iter().map(|entry| {
            let fields: BTreeMap<&String, String> = entry
                .map
                .iter()
                .map(|(name, value)| {
                    let bytes: Vec<u8> = redis::from_redis_value(value.clone()).unwrap_or_default();
                    (name, String::from_utf8_lossy(&bytes).chars().take(300).collect())
                })
                .collect();
            Dead {
                stage: entry.get("dead_stage").unwrap_or_default(),
                code: entry.get("dead_code").unwrap_or_default(),
                fields: format!("{fields:?}"),
            }
        }));
    }
    observed.archive = sqlx::query("SELECT shard, seq, event_id, event FROM log.events")
        .fetch_all(&mut sql)
        .await?
        .iter()
        .map(fact)
        .collect::<Result<_>>()?;
    let gaps =
        "SELECT shard, first_seq, last_seq, reason = 'erased with its recording' AS erased FROM control.gaps";
    for row in sqlx::query(gaps).fetch_all(&mut sql).await? {
        let gap = (shard(&row)?, number(&row, "first_seq")?, number(&row, "last_seq")?);
        if row.try_get("erased")? { &mut observed.erased } else { &mut observed.gaps }.push(gap);
    }
    let seen = "SELECT shard, lower(r) AS first, upper(r) - 1 AS last FROM control.checkpoints, unnest(seen) AS r \
                WHERE NOT lower_inf(r) AND NOT upper_inf(r)";
    for row in sqlx::query(seen).fetch_all(&mut sql).await? {
        let first: i64 = row.try_get("first")?;
        observed.seen.push((shard(&row)?, first.max(0) as u64, number(&row, "last")?));
    }
    for row in sqlx::query("SELECT shard, seq FROM control.conflicts").fetch_all(&mut sql).await? {
        observed.conflicts.push((shard(&row)?, number(&row, "seq")?));
    }
    for row in sqlx::query("SELECT * FROM read.recordings").fetch_all(&mut sql).await? {
        observed.recordings.push(RecordingRow {
            id: recording(&row, "id")?,
            drop_id: row.try_get("drop_id")?,
            name: row.try_get("name")?,
            generation: row.try_get::<Option<i64>, _>("generation")?.map(|generation| generation as u32),
            standing: standing(&row)?,
        });
    }
    for row in sqlx::query("SELECT * FROM read.transcripts").fetch_all(&mut sql).await? {
        observed.transcripts.push(TranscriptRow {
            recording: recording(&row, "recording")?,
            generation: number(&row, "generation")? as u32,
            standing: standing(&row)?,
        });
    }
    let segments = "SELECT recording, generation, channel, index, round, event_id, start_ms, end_ms, text, \
                    cause_code FROM read.segments";
    for row in sqlx::query(segments).fetch_all(&mut sql).await? {
        observed.segments.push(segment(&row)?);
    }
    Ok(observed)
}

async fn connect(deployment: &Deployment) -> Result<PgConnection> {
    let url = deployment.postgres.lock().await.url();
    PgConnection::connect(&url).await.context("connect to PostgreSQL")
}

/// The facts in all logs.
async fn logs(redis: &mut MultiplexedConnection) -> Result<Vec<Fact>> {
    let mut facts = Vec::new();
    for shard in 0..SHARDS {
        let key = Source::Log(Shard(shard)).key();
        let log: StreamRangeReply =
            redis::cmd("XRANGE").arg(key).arg("-").arg("+").query_async(redis).await?;
        facts.extend(log.ids.iter().filter_map(|entry| {
            let event_id: String = entry.get("event_id")?;
            let (seq, json) = (entry.get("seq")?, entry.get("event")?);
            Some(Fact { shard, seq, event_id: event_id.parse().ok()?, json })
        }));
    }
    Ok(facts)
}

async fn facts_that_say(deployment: &Deployment, texts: &[&str]) -> Result<usize> {
    let facts = logs(&mut deployment.redis.lock().await.connect().await?).await?;
    Ok(facts.iter().filter(|fact| texts.iter().any(|text| fact.json.contains(text))).count())
}

/// The keys of all files below a folder.
fn stored(folder: &Path) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    for entry in std::fs::read_dir(folder).context("list the audio store")? {
        let path = entry?.path();
        if path.is_dir() {
            keys.extend(stored(&path)?);
        } else {
            keys.push(path.display().to_string());
        }
    }
    Ok(keys)
}

async fn left_in_redis(redis: &mut MultiplexedConnection) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for source in sources() {
        let key = source.key();
        if source.deletes_done() {
            let entries: u64 = redis::cmd("XLEN").arg(&key).query_async(redis).await?;
            let mut counted: BTreeMap<String, i64> =
                redis::cmd("HGETALL").arg(source.counter()).query_async(redis).await?;
            // The others are of what waits; this one only grows.
            counted.remove("done");
            if entries > 0 {
                left.push(format!("{entries} entries in {key}"));
            } else if counted.values().any(|value| *value != 0) {
                left.push(format!("{key} is empty and counts {counted:?}"));
            }
        }
        let groups: StreamInfoGroupsReply =
            match redis::cmd("XINFO").arg("GROUPS").arg(&key).query_async(redis).await {
                Ok(groups) => groups,
                Err(error) if error.to_string().contains("no such key") => continue,
                Err(error) => return Err(error).context("list groups"),
            };
        let newest: StreamRangeReply = redis::cmd("XREVRANGE")
            .arg(&key)
            .arg("+")
            .arg("-")
            .arg("COUNT")
            .arg(1)
            .query_async(redis)
            .await?;
        for group in groups.groups {
            if group.pending > 0 {
                left.push(format!("{} pending in {key}", group.pending));
            }
            if let Some(newest) = newest.ids.first()
                && order(&group.last_delivered_id) < order(&newest.id)
            {
                left.push(format!("{key} has what {} has not read", group.name));
            }
        }
    }
    for pattern in ["vf:{*}:pcm:*", "vf:{*}:cursor:*"] {
        let keys: Vec<String> = redis::cmd("KEYS").arg(pattern).query_async(redis).await?;
        if let Some(first) = keys.first() {
            left.push(format!("{} keys such as {first}", keys.len()));
        }
    }
    Ok(left)
}

fn order(id: &str) -> (u64, u64) {
    let (ms, count) = id.split_once('-').unwrap_or((id, "0"));
    (ms.parse().unwrap_or(0), count.parse().unwrap_or(0))
}

/// How often the infer workers say that they transcribed each segment.
fn work(folder: &Path) -> Result<BTreeMap<String, u64>> {
    let mut work = BTreeMap::new();
    for entry in std::fs::read_dir(folder).context("list the logs")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !(name.starts_with("infer-") && name.ends_with(".log")) {
            continue;
        }
        let log = std::fs::read(&path).context("read a log")?;
        for line in String::from_utf8_lossy(&log).lines() {
            if !line.contains("\"transcribed\"") {
                continue;
            }
            let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            if let Some(segment) = line["span"]["segment"].as_str() {
                *work.entry(segment.to_owned()).or_default() += 1;
            }
        }
    }
    Ok(work)
}

fn fact(row: &PgRow) -> Result<Fact> {
    let event_id: uuid::Uuid = row.try_get("event_id")?;
    Ok(Fact {
        shard: shard(row)?,
        seq: number(row, "seq")?,
        event_id: EventId::from(event_id),
        json: row.try_get("event")?,
    })
}

fn standing(row: &PgRow) -> Result<Standing> {
    Ok(Standing {
        status: row.try_get("status")?,
        reason_code: row.try_get("reason_code")?,
        audio_ms: number(row, "audio_ms")?,
        decoded_ms: number(row, "decoded_ms")?,
        transcribed_ms: number(row, "transcribed_ms")?,
        segments: row.try_get::<Option<i64>, _>("segments")?.map(|segments| segments as u64),
        transcribed_segments: number(row, "transcribed_segments")?,
        failed_segments: number(row, "failed_segments")?,
        language: row.try_get("language")?,
    })
}

fn segment(row: &PgRow) -> Result<SegmentRow> {
    let event_id: uuid::Uuid = row.try_get("event_id")?;
    let channel: i32 = row.try_get("channel")?;
    Ok(SegmentRow {
        recording: recording(row, "recording")?,
        generation: number(row, "generation")? as u32,
        round: number(row, "round")? as u32,
        event_id: EventId::from(event_id),
        said: Said {
            channel: channel as u16,
            index: number(row, "index")? as u32,
            start_ms: number(row, "start_ms")?,
            end_ms: number(row, "end_ms")?,
            text: row.try_get::<Option<String>, _>("text")?.unwrap_or_default(),
        },
        cause_code: row.try_get("cause_code")?,
    })
}

fn recording(row: &PgRow, column: &str) -> Result<RecordingId> {
    Ok(RecordingId::from(row.try_get::<uuid::Uuid, _>(column)?))
}

fn shard(row: &PgRow) -> Result<u16> {
    let shard: i32 = row.try_get("shard")?;
    u16::try_from(shard).context("a shard is a small number")
}

fn number(row: &PgRow, column: &str) -> Result<u64> {
    let number: i64 = row.try_get(column)?;
    u64::try_from(number).with_context(|| format!("{column} is not negative"))
}
