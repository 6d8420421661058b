//! Servers that stop, refuse, fill up and end transactions. No program may crash, give work up or lose any.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::faults::Fault;
use e2e::faults::history::{Observed, Reply, Way};
use events::Lane;

use crate::bench::on_a_bench;

fn survive(faults: impl FnOnce() -> Vec<Fault>, and: impl FnOnce(Observed) -> Result<()>) {
    on_a_bench(&[], |mut bench| async move {
        let observed = bench.survive(faults()).await?;
        and(observed)?;
        Ok(bench)
    });
}

fn nothing_is_given_up(observed: Observed) -> Result<()> {
    ensure!(observed.dead.is_empty(), "{:?}", observed.dead);
    Ok(())
}

/// F7: whoever drops through the API meanwhile is told to come again.
#[test]
fn f7_redis_is_away_for_a_while() {
    on_a_bench(&[], |mut bench| async move {
        bench.offer(1, Way::Raw, Lane::Rt).await?;
        let harm = bench.begin(Fault::RedisRestart { down_ms: 20_000 });
        // The first ones may come before it is away; then one is offered until it is back.
        while !harm.is_finished() {
            bench.offer(1, Way::Api, Lane::Batch).await?;
        }
        harm.await??;
        let attempts = bench.offers.iter().flat_map(|offer| &offer.attempts);
        let told: Vec<&String> = attempts
            .filter_map(|attempt| match &attempt.reply {
                Reply::Accepted(_) => None,
                Reply::Refused(told) | Reply::Unknown(told) => Some(told),
            })
            .collect();
        ensure!(!told.is_empty(), "nobody noticed that Redis was away: the test shows nothing");
        ensure!(told.iter().all(|told| told.starts_with("503") || told.starts_with("429")), "{told:?}");
        let observed = bench.survive(vec![Fault::RedisRestart { down_ms: 0 }]).await?;
        nothing_is_given_up(observed)?;
        Ok(bench)
    });
}

/// F11
#[test]
fn f11_redis_answers_readonly_loading_busy_noscript_and_nogroup() {
    let faults = || {
        let mut faults = vec![
            Fault::ReadOnly { ms: 3_000 },
            Fault::Loading { key_us: 1_000 },
            Fault::Busy { ms: 2_000 },
            Fault::ForgetScripts,
        ];
        // Some of each stage's.
        faults.extend((0..12).map(|which| Fault::RemoveGroup { which }));
        faults
    };
    survive(faults, nothing_is_given_up);
}

/// F12
#[test]
fn f12_redis_is_full_and_then_is_not() {
    survive(|| vec![Fault::Full { ms: 6_000 }, Fault::Full { ms: 2_000 }], nothing_is_given_up);
}

/// F14
#[test]
fn f14_postgres_stops_at_once_in_the_middle_of_batches() {
    let faults = || {
        vec![
            Fault::PostgresStop { down_ms: 5_000 },
            Fault::PostgresKill,
            Fault::PostgresStop { down_ms: 0 },
            Fault::PostgresKill,
        ]
    };
    survive(faults, nothing_is_given_up);
}

/// F15
#[test]
fn f15_transactions_fail_each_other_are_chosen_as_victims_and_cancelled() {
    on_a_bench(&[], |mut bench| async move {
        let faults = [
            Fault::Serialization { ms: 6_000 },
            Fault::Deadlock,
            Fault::Cancel { times: 30 },
            Fault::Deadlock,
        ];
        let count = faults.len() as u64;
        for fault in faults {
            let harm = bench.begin(fault);
            // There must be facts to write for as long as it takes.
            while !harm.is_finished() {
                bench.offer(1, Way::Api, Lane::Rt).await?;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            harm.await??;
        }
        nothing_is_given_up(bench.all_holds(count).await?)?;
        Ok(bench)
    });
}

/// F17
#[test]
fn f17_what_no_program_can_read_is_a_dead_letter_once_and_others_go_on() {
    let faults = || {
        let queues = ["decode:batch", "decode:rt", "segments:batch", "segments:rt"];
        queues.iter().flat_map(|queue| (0..4).map(|how| Fault::Poison { queue, how })).collect()
    };
    survive(faults, |observed| {
        ensure!(observed.dead.len() == 16, "{:?}", observed.dead);
        Ok(())
    });
}

/// F18 and F19
#[test]
fn f18_f19_an_operator_trims_what_is_done_and_the_clock_jumps() {
    let faults = || {
        let mut faults: Vec<Fault> = (0..16).map(|which| Fault::ClockJump { which }).collect();
        faults.insert(8, Fault::Trim);
        faults.push(Fault::Trim);
        faults
    };
    survive(faults, nothing_is_given_up);
}
