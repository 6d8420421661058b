//! Workers that die, freeze, stop and lose their lines.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cli::stack::Program;
use e2e::faults::Fault;
use e2e::faults::fault::Line;
use e2e::faults::history::Way;
use events::Lane;

use crate::bench::{Bench, on_a_bench, worker};

const INFER: [usize; 2] = [0, 1];

/// Waits until both infer workers have segments in hand.
async fn both_at_work(bench: &Bench) -> Result<()> {
    bench
        .until("both infer workers have work", || async {
            Ok(bench.holders("segments:batch", "infer").await?.iter().filter(|(_, held)| *held > 0).count()
                >= 2)
        })
        .await
}

/// F2: its work is done by the other, and what it says when it goes on is thrown away and counted.
#[test]
fn f2_a_frozen_worker_that_goes_on_changes_nothing() {
    on_a_bench(&[("VOICEFORGE_HASH_MODEL", "1500ms")], |mut bench| async move {
        bench.offer(8, Way::Api, Lane::Batch).await?;
        both_at_work(&bench).await?;
        let frozen = worker(Program::Infer, 0);
        bench.deployment.crew.freeze(frozen);
        tokio::time::sleep(e2e::faults::deployment::LEASE * 3).await;
        bench.deployment.crew.thaw(frozen);
        bench.all_holds(1).await?;
        let lost = bench.metric(frozen, "streams_commits_total", &["outcome=\"lost\""]).await?;
        ensure!(lost > 0, "the frozen worker's results were thrown away");
        Ok(bench)
    });
}

/// F3: whoever is at work is not dead, however long the work takes.
#[test]
fn f3_work_that_takes_three_leases_is_done_once() {
    on_a_bench(&[("VOICEFORGE_HASH_MODEL", "9s")], |mut bench| async move {
        bench.offer(3, Way::Api, Lane::Batch).await?;
        let observed = bench.all_holds(0).await?;
        ensure!(!observed.work.is_empty(), "there was work");
        for number in INFER {
            let infer = worker(Program::Infer, number);
            ensure!(bench.metric(infer, "streams_commits_total", &["outcome=\"lost\""]).await? == 0);
        }
        Ok(bench)
    });
}

/// F4: what it cannot finish in its grace another has at once, and its failures are not counted.
#[test]
fn f4_sigterm_hands_work_back_at_once_and_at_no_cost() {
    let slow = [
        ("VOICEFORGE_HASH_MODEL", "6s"),
        ("VOICEFORGE_LEASE", "60s"),
        ("VOICEFORGE_INFER_SLOTS", "16"),
        ("VOICEFORGE_SHUTDOWN_GRACE", "1s"),
    ];
    on_a_bench(&slow, |mut bench| async move {
        bench.offer(4, Way::Api, Lane::Batch).await?;
        both_at_work(&bench).await?;
        let before: Vec<String> =
            bench.holders("segments:batch", "infer").await?.into_iter().map(|(name, _)| name).collect();
        bench.deployment.crew.terminate(worker(Program::Infer, 0), Duration::from_secs(30));
        let asked = Instant::now();
        bench
            .until("one worker has all the work", || async {
                let holders = bench.holders("segments:batch", "infer").await?;
                let held = |name: &String| holders.iter().any(|(n, held)| n == name && *held > 0);
                Ok(before.iter().filter(|name| held(name)).count() < 2 && !held(&"handoff".to_owned()))
            })
            .await?;
        // A lease takes 60 s; a second is the grace, the rest is for a machine that others use too.
        ensure!(asked.elapsed() < Duration::from_secs(20), "taken over after {:?}", asked.elapsed());
        let observed = bench.all_holds(1).await?;
        ensure!(observed.dead.is_empty());
        Ok(bench)
    });
}

/// F5 and F6: whoever asked asks again, and has at once what is its own; nothing counts twice. The lease is so long
/// that nothing is won by waiting for it.
#[test]
fn f5_f6_lost_replies_cost_no_lease_and_have_no_second_effect() {
    on_a_bench(&[("VOICEFORGE_LEASE", "300s")], |mut bench| async move {
        let harms = [
            Fault::LoseRead { count: 8 },
            Fault::LoseScript { count: 8, on_reply: true },
            Fault::LoseScript { count: 8, on_reply: false },
            Fault::LoseSql { count: 4, on_reply: true, commits: true },
            Fault::LoseSql { count: 4, on_reply: false, commits: true },
        ];
        for fault in harms {
            for lane in [Lane::Rt, Lane::Batch] {
                // The requests to be lost are those of this load.
                let harm = bench.begin(fault.clone());
                tokio::time::sleep(Duration::from_millis(100)).await;
                bench.offer(2, Way::Raw, lane).await?;
                harm.await??;
            }
        }
        let lost = bench.deployment.to_redis.lost() + bench.deployment.to_postgres.lost();
        ensure!(lost > 0, "replies were lost");
        bench.all_holds(u64::from(lost)).await?;
        Ok(bench)
    });
}

/// F13: bad lines make no dead letters, and connections do not pile up.
#[test]
fn f13_slow_trickling_and_half_open_lines_leak_nothing() {
    on_a_bench(&[], |mut bench| async move {
        bench.offer(2, Way::Api, Lane::Rt).await?;
        bench.all_holds(0).await?;
        let before = bench.deployment.to_redis.open();
        for line in [Line::Redis, Line::Postgres] {
            bench.offer(3, Way::Raw, Lane::Batch).await?;
            bench.harm(Fault::Slow { line, latency_ms: 500, jitter_ms: 200, ms: 5_000 }).await?;
            bench.harm(Fault::Trickle { line, ms: 5_000 }).await?;
            for (up, down) in [(true, false), (false, true), (true, true)] {
                bench.offer(1, Way::Raw, Lane::Rt).await?;
                bench.harm(Fault::HalfOpen { line, up, down, ms: 5_000 }).await?;
            }
        }
        bench.all_holds(10).await?;
        let after = bench.deployment.to_redis.open();
        ensure!(after <= before + 4, "{before} connections to Redis became {after}");
        let sessions = bench.deployment.to_postgres.open();
        ensure!(sessions <= e2e::faults::deployment::SESSIONS_MAX, "{sessions} sessions of PostgreSQL");
        Ok(bench)
    });
}
