//! Redis that goes back in time, forgets, is trimmed by hand, and entries that this release does not understand.

use std::time::Duration;

use anyhow::{Result, ensure};
use cli::stack::Program;
use e2e::faults::Fault;
use e2e::faults::deployment::SHARDS;
use e2e::faults::history::{Observed, RecordingRow, Way};
use e2e::faults::rebuild::PHASES;
use e2e::faults::survey;
use events::{Lane, Shard};
use sqlx::Connection;
use streams::redis::{Config, RedisLog};
use streams::{Log, Queue, Source};

use crate::bench::{Bench, on_a_bench, worker};

/// How often Redis is made to go back in time until facts go with it.
const LOSSES_MAX: usize = 5;

/// F9 and F10: what the API accepted is done all the same, and places that two events had are noted and counted.
#[test]
fn f9_f10_redis_goes_back_in_time() {
    on_a_bench(&[], |mut bench| async move {
        for fault in [Fault::PowerCut { lost_ms: 2_000 }, Fault::Failover { lost_ms: 2_000 }] {
            let mut gone = 0;
            for _ in 0..LOSSES_MAX {
                bench.offer(3, Way::Api, Lane::Batch).await?;
                let harm = bench.begin(fault.clone());
                tokio::time::sleep(Duration::from_millis(500)).await;
                // What is done now is lost to Redis.
                bench.offer(3, Way::Api, Lane::Batch).await?;
                harm.await??;
                bench.offer(3, Way::Api, Lane::Rt).await?;
                gone = bench.recorder.recorded().losses.last().map_or(0, |loss| loss.facts);
                if gone > 0 {
                    break;
                }
            }
            ensure!(gone > 0, "{LOSSES_MAX} times {fault:?} and not a fact was lost: the test shows nothing");
        }
        let losses = bench.recorder.recorded().losses.len() as u64;
        let observed = bench.all_holds(losses).await?;
        ensure!(!observed.conflicts.is_empty(), "places that were given again are noted");
        let mut told = 0;
        for number in 0..2 {
            let projector = worker(Program::Project, number);
            told += bench.metric(projector, "project_seq_conflicts_total", &[]).await?;
        }
        ensure!(told > 0, "and counted where an operator sees it");
        Ok(bench)
    });
}

/// F23: after a restart Redis does not know how far a group is behind; our number is right.
#[test]
fn f23_the_backlog_is_exact_where_lag_is_nil() {
    on_a_bench(&[], |mut bench| async move {
        let stopped =
            [(Program::Infer, 0), (Program::Infer, 1), (Program::Project, 0), (Program::Project, 1)];
        for (program, number) in stopped {
            bench.deployment.crew.freeze(worker(program, number));
        }
        bench.offer(6, Way::Api, Lane::Batch).await?;
        let expected: usize = bench.offers.iter().map(|offer| offer.said.len()).sum();
        let ms: u64 =
            bench.offers.iter().flat_map(|offer| &offer.said).map(|said| said.end_ms - said.start_ms).sum();
        bench
            .until("all is cut", || async { Ok(entries(&bench, "segments:batch").await? == expected as u64) })
            .await?;
        bench.harm(Fault::RedisRestart { down_ms: 0 }).await?;
        let nil = lags(&bench).await?.iter().filter(|lag| lag.is_none()).count();
        ensure!(nil > 0, "this server knows the lag after a restart: the test shows nothing");
        let url = bench.deployment.redis.lock().await.url();
        let log = RedisLog::connect(Config::new(url, SHARDS)).await?;
        let mut backlog = streams::Backlog::default();
        let mut unread = 0;
        for shard in (0..SHARDS).map(Shard) {
            backlog += log.backlog(Source::Queue(shard, Queue::Segments, Lane::Batch)).await?;
            unread += log.unread_facts("project", shard).await?;
        }
        ensure!(backlog.entries == expected as u64, "{backlog:?}, {expected} segments");
        ensure!(backlog.audio_ms == ms && backlog.bytes == ms * 32, "{backlog:?}, {ms} ms");
        // Facts that a frozen projector had taken are pending, and pending is unread.
        ensure!(unread == facts(&bench).await?, "{unread} facts unread");
        for (program, number) in stopped {
            bench.deployment.crew.thaw(worker(program, number));
        }
        bench.all_holds(1).await?;
        Ok(bench)
    });
}

/// F21: a fact of an unknown type is archived and nothing else; one of a newer version waits and holds nobody up.
#[test]
fn f21_events_of_a_later_release() {
    on_a_bench(&[], |mut bench| async move {
        bench.harm(Fault::UnknownType).await?;
        bench.offer(2, Way::Api, Lane::Rt).await?;
        let observed = bench.all_holds(0).await?;
        ensure!(observed.archive.iter().any(|fact| fact.json.contains("RecordingPraised")));

        let newer = observed.archive.iter().find(|fact| fact.json.contains("RecordingAdmitted"));
        let newer = newer.map(|fact| fact.json.replace("\"version\":1", "\"version\":9")).unwrap_or_default();
        let mut connection = bench.redis().await?;
        let queue = Source::Queue(Shard(0), Queue::Decode, Lane::Batch).key();
        let mut command = redis::cmd("XADD");
        command.arg(&queue).arg("*").arg("event_id").arg("of-tomorrow").arg("event").arg(&newer);
        let id: String = command.query_async(&mut connection).await?;
        bench.offer(2, Way::Api, Lane::Batch).await?;
        let last = bench.offers.len() - 2;
        bench
            .until("those behind it are done", || async {
                let observed = bench.observe(Duration::from_secs(1)).await?;
                let done = |key: &str| {
                    let row = observed.recordings.iter().find(|row| row.name.as_deref() == Some(key));
                    row.is_some_and(|row| row.standing.status == "complete")
                };
                Ok(bench.offers[last..].iter().all(|offer| done(&offer.key)))
            })
            .await?;
        ensure!(entries(&bench, "decode:batch").await? == 1, "it waits");
        ensure!(bench.observe(Duration::from_secs(1)).await?.dead.is_empty(), "it is no dead letter");
        // The operator takes it out by hand here; a program of its release would do it.
        redis::cmd("XACK").arg(&queue).arg("decode").arg(&id).exec_async(&mut connection).await?;
        redis::cmd("XDEL").arg(&queue).arg(&id).exec_async(&mut connection).await?;
        bench.all_holds(0).await?;
        Ok(bench)
    });
}

/// F21: a fact of a newer version in the log waits for the projector of its release, and those behind it are projected.
#[test]
fn f21_a_fact_of_a_newer_version_waits_in_the_log() {
    on_a_bench(&[], |mut bench| async move {
        bench.offer(1, Way::Api, Lane::Rt).await?;
        let first = bench.all_holds(0).await?;
        let known = first.archive.iter().find(|fact| fact.json.contains("RecordingAdmitted"));
        let newer = known.map(|fact| fact.json.replace("\"version\":1", "\"version\":9")).unwrap_or_default();
        ensure!(newer.contains("\"version\":9"), "a fact says its version: {newer}");
        let mut connection = bench.redis().await?;
        let (log, seq) = (Source::Log(Shard(0)).key(), streams::keys::seq(Shard(0)));
        let place: u64 = redis::cmd("INCR").arg(seq).query_async(&mut connection).await?;
        let id = uuid::Uuid::new_v4().to_string();
        let mut command = redis::cmd("XADD");
        command.arg(&log).arg("*").arg("seq").arg(place).arg("event_id").arg(id).arg("event").arg(&newer);
        command.exec_async(&mut connection).await?;
        bench.offer(4, Way::Api, Lane::Rt).await?;
        bench
            .until("those behind it are done", || async {
                let observed = bench.observe(Duration::from_secs(1)).await?;
                let complete = |row: &&RecordingRow| row.standing.status == "complete";
                Ok(observed.recordings.iter().filter(complete).count() == bench.offers.len())
            })
            .await?;
        let observed = bench.observe(Duration::from_secs(1)).await?;
        ensure!(observed.dead.is_empty(), "it is no dead letter: {:?}", observed.dead);
        ensure!(observed.log.iter().any(|fact| (fact.shard, fact.seq) == (0, place)), "it stays in the log");
        ensure!(
            !observed.archive.iter().any(|fact| (fact.shard, fact.seq) == (0, place)),
            "nobody archived it"
        );
        Ok(bench)
    });
}

/// F18: facts that an operator trimmed before they were projected are lost, and noted as a gap; what comes after them is
/// not held up.
#[test]
fn f18_facts_trimmed_unread_are_noted_as_a_gap() {
    on_a_bench(&[], |mut bench| async move {
        let projectors = [worker(Program::Project, 0), worker(Program::Project, 1)];
        bench.offer(2, Way::Api, Lane::Rt).await?;
        bench.all_holds(0).await?;
        let before = facts(&bench).await?;
        projectors.iter().for_each(|&projector| bench.deployment.crew.freeze(projector));
        bench.offer(2, Way::Api, Lane::Batch).await?;
        let said: usize = bench.offers[2..].iter().map(|offer| offer.said.len()).sum();
        // Each recording: admitted, requested, decoded, and its segments.
        let all = before + 6 + said as u64;
        bench.until("all facts are there", || async { Ok(facts(&bench).await? == all) }).await?;
        let mut connection = bench.redis().await?;
        // Without waiting for programs to be ready, which a frozen one is not.
        let there = survey::observe(&bench.deployment, Vec::new()).await?.log;
        let trimmed: Vec<(u16, u64)> = there.iter().map(|fact| (fact.shard, fact.seq)).collect();
        for shard in 0..SHARDS {
            let log = Source::Log(Shard(shard)).key();
            redis::cmd("XTRIM").arg(log).arg("MAXLEN").arg(0).exec_async(&mut connection).await?;
        }
        projectors.iter().for_each(|&projector| bench.deployment.crew.thaw(projector));
        let lost: Vec<_> = bench.offers.drain(2..).collect();
        bench.offer(2, Way::Api, Lane::Rt).await?;
        // What was in a frozen projector's hands may have come through.
        let observed = bench.observe(Duration::from_secs(60)).await?;
        let done = |key: &str| {
            let row = observed.recordings.iter().find(|row| row.name.as_deref() == Some(key));
            row.is_some_and(|row| row.standing.status == "complete")
        };
        let later = bench.offers[2..].iter().find(|offer| !done(&offer.key));
        ensure!(later.is_none(), "{later:?} came later and is not complete");
        let gone = move |observed: &Observed| -> Vec<(u16, u64)> {
            let archived = |place| observed.archive.iter().any(|fact| (fact.shard, fact.seq) == place);
            let noted = |(shard, seq): (u16, u64)| {
                observed.gaps.iter().any(|gap| gap.0 == shard && (gap.1..=gap.2).contains(&seq))
            };
            trimmed.iter().copied().filter(|&place| !archived(place) && !noted(place)).collect()
        };
        bench
            .until("every lost place is noted", || async {
                Ok(gone(&bench.observe(Duration::from_millis(1)).await?).is_empty())
            })
            .await?;
        let complete = lost.iter().filter(|offer| done(&offer.key)).count();
        ensure!(complete < lost.len(), "what was trimmed was projected before: the test shows nothing");
        Ok(bench)
    });
}

/// F8: a killed Redis has everything that it acknowledged, since its file was written to, only not synced.
#[test]
fn f8_a_killed_redis_forgets_nothing() {
    on_a_bench(&[], |mut bench| async move {
        bench.offer(4, Way::Raw, Lane::Rt).await?;
        let before = facts(&bench).await?;
        bench.harm(Fault::RedisKill { down_ms: 500 }).await?;
        ensure!(facts(&bench).await? >= before, "facts are gone");
        bench.offer(4, Way::Raw, Lane::Batch).await?;
        bench.all_holds(1).await?;
        Ok(bench)
    });
}

/// Facts ever appended.
async fn facts(bench: &Bench) -> Result<u64> {
    let mut connection = bench.redis().await?;
    let mut sum = 0;
    for shard in 0..SHARDS {
        let key = streams::keys::seq(Shard(shard));
        sum += redis::cmd("GET").arg(key).query_async::<Option<u64>>(&mut connection).await?.unwrap_or(0);
    }
    Ok(sum)
}

async fn entries(bench: &Bench, queue: &str) -> Result<u64> {
    let mut connection = bench.redis().await?;
    let mut sum = 0;
    for shard in 0..SHARDS {
        let key = format!("vf:{{{shard:02}}}:{queue}");
        sum += redis::cmd("XLEN").arg(key).query_async::<u64>(&mut connection).await?;
    }
    Ok(sum)
}

/// What Redis says that each group of each stream is behind.
async fn lags(bench: &Bench) -> Result<Vec<Option<usize>>> {
    let mut connection = bench.redis().await?;
    let mut lags = Vec::new();
    for stream in e2e::faults::survey::streams() {
        let mut command = redis::cmd("XINFO");
        command.arg("GROUPS").arg(stream);
        let groups: redis::streams::StreamInfoGroupsReply = command.query_async(&mut connection).await?;
        lags.extend(groups.groups.into_iter().map(|group| group.lag));
    }
    Ok(lags)
}

/// F20: a rebuild that dies in each phase, under live traffic, is gone on with, and readers never see anything else than
/// one version or the other.
#[test]
fn f20_a_rebuild_dies_in_each_phase_and_is_gone_on_with() {
    on_a_bench(&[], |mut bench| async move {
        bench.offer(4, Way::Api, Lane::Rt).await?;
        let first = bench.all_holds(0).await?;
        let watched = first.recordings.len();
        let url = bench.deployment.postgres.lock().await.url();
        let over = tokio_util::sync::CancellationToken::new();
        let readers = tokio::spawn({
            let over = over.clone();
            async move {
                let mut sql = sqlx::postgres::PgConnection::connect(&url).await?;
                while !over.is_cancelled() {
                    let complete: i64 =
                        sqlx::query_scalar("SELECT count(*) FROM read.recordings WHERE status = 'complete'")
                            .fetch_one(&mut sql)
                            .await?;
                    ensure!(complete >= watched as i64, "{complete} of {watched} recordings are readable");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                anyhow::Ok(())
            }
        });
        for dies_at in PHASES {
            bench.offer(1, Way::Raw, Lane::Batch).await?;
            let harm = bench.begin(Fault::Rebuild { dies_at });
            bench.offer(2, Way::Api, Lane::Rt).await?;
            harm.await??;
        }
        over.cancel();
        readers.await??;
        bench.all_holds(0).await?;
        Ok(bench)
    });
}
