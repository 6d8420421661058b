//! Renews leases, or gives a sign of life, from a thread of its own, with connections of its own, so that busy work
//! cannot starve it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Options;
use super::hand::Hand;
use crate::failpoint;
use crate::keys::Source;
use crate::log::SharedLog;

/// However long the lease: well within [`SILENCE_MAX`](crate::survey::SILENCE_MAX).
const SIGN_EVERY: Duration = Duration::from_secs(20);

/// Starts the thread; it ends when `over` is cancelled. Who has nothing in hand shows life in `source`.
pub fn start(
    log: SharedLog,
    options: Options,
    hand: Arc<Hand>,
    source: Source,
    over: CancellationToken,
) -> JoinHandle<()> {
    std::thread::Builder::new()
        .name(format!("{}-heartbeat", options.name))
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a current-thread runtime needs only a few file descriptors");
            runtime.block_on(over.clone().run_until_cancelled(beat(log, options, hand, source)));
        })
        .expect("a thread can be started while a program starts")
}

async fn beat(log: SharedLog, options: Options, hand: Arc<Hand>, source: Source) {
    let log = loop {
        match log.fork().await {
            Ok(log) => break log,
            Err(error) => {
                tracing::error!(%error, "cannot open the heartbeat's connection");
                tokio::time::sleep(options.beat / 4).await;
            }
        }
    };
    let mut ticks = tokio::time::interval(options.beat.min(SIGN_EVERY));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        failpoint::reach("heartbeat.before");
        if failpoint::skips("heartbeat.skip") {
            continue;
        }
        let work = hand.by_source();
        if work.is_empty()
            && let Err(error) = log.heartbeat(options.name, &options.worker, source, &[]).await
        {
            tracing::debug!(%error, source = source.key(), "cannot give a sign of life");
        }
        for (source, ids) in work {
            match log.heartbeat(options.name, &options.worker, source, &ids).await {
                Ok(mine) => {
                    for (id, _) in ids.iter().zip(mine).filter(|(_, mine)| !mine) {
                        hand.lose(source, id);
                    }
                }
                Err(error) => tracing::warn!(%error, source = source.key(), "cannot renew leases"),
            }
        }
    }
}
