//! The chores of a deployment. Each runs under a lease of its own, so that any number of keepers may be up.

use std::time::Duration;

use service::store::AudioStore;
use streams::SharedLog;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use views::Views;

use self::lease::Lease;
use crate::config::KeeperConfig;
use crate::metrics;

pub mod erase;
pub mod gaps;
pub mod lease;
pub mod retain;
pub mod runs;
mod schedule;
pub mod strays;
pub mod survey;
pub mod sweep;
pub mod trim;

/// Does the chores.
pub struct Keeper {
    log: SharedLog,
    views: Views,
    sweeper: sweep::Sweeper,
    gaps: gaps::Gaps,
    strays: strays::Strays,
    runs: runs::Runs,
    eraser: erase::Eraser,
    retainer: retain::Retainer,
    config: KeeperConfig,
    name: String,
}

impl Keeper {
    /// Makes a keeper with a name of its own.
    pub fn new(log: SharedLog, views: Views, store: AudioStore, config: KeeperConfig) -> Keeper {
        // Process ids repeat: in containers they are all 1.
        let name = format!("keeper:{}", Uuid::new_v4());
        let options = runs::Options {
            every: config.runs_every,
            ahead: config.replay_ahead,
            missing_after: config.missing_after,
        };
        let shared = || SharedLog::clone(&log);
        let runs = runs::Runs::new(shared(), views.clone(), store.clone(), options, name.clone());
        let sweeper = sweep::Sweeper::new(shared(), views.clone(), store.clone(), config.missing_after);
        let strays = strays::Strays::new(shared(), views.clone(), store.clone(), config.missing_after);
        let eraser = erase::Eraser::new(shared(), views.clone(), store.clone(), config.rewrite_after.0);
        let retainer = retain::Retainer::new(shared(), views.clone(), store, config.retain_every);
        let gaps = gaps::Gaps::default();
        Keeper { log, views, sweeper, gaps, strays, runs, eraser, retainer, config, name }
    }

    /// Does the chores until `shutdown`, each again and again beside the others: one that takes long holds up none.
    pub async fn run(self, shutdown: CancellationToken) {
        let Keeper {
            log,
            views,
            mut sweeper,
            mut gaps,
            mut strays,
            runs,
            mut eraser,
            mut retainer,
            config,
            name,
        } = self;
        // In a task of its own: people watch a run, and what computes for long here would be seen in it.
        let runs = tokio::spawn(runs.run(shutdown.clone()));
        let turns = Turns { log: &log, name: &name, every: config.every, shutdown: &shutdown };
        let trim = async {
            if config.trim {
                turns.leased("trim", async || trim::archived(&log, &views).await).await;
            }
        };
        tokio::join!(
            turns.leased("sweep", async || sweeper.sweep().await),
            turns.leased("gaps", async || gaps.look(&log, &views).await),
            turns.leased("strays", async || strays.look().await.map(drop)),
            turns.leased("retain", async || retainer.retain().await),
            turns.leased("erase", async || eraser.erase().await),
            // Every keeper's numbers are its own.
            turns.each(async || report("survey", survey::survey(&log, &views).await)),
            trim,
        );
        if let Err(error) = runs.await {
            tracing::error!(%error, "the task that does the runs died");
        }
    }
}

/// The turns of one keeper's chores.
struct Turns<'a> {
    log: &'a SharedLog,
    name: &'a str,
    every: Duration,
    shutdown: &'a CancellationToken,
}

impl Turns<'_> {
    /// Gives a chore its turns while this keeper is the one that does it.
    async fn leased(&self, chore: &'static str, mut turn: impl AsyncFnMut() -> anyhow::Result<()>) {
        // Longer than the pause between two turns, so that the holder keeps it while it lives.
        let lease = Lease { chore, holder: self.name, length: self.every * 3 + Duration::from_secs(30) };
        self.each(async || {
            if let Some(done) = lease.hold(self.log, turn()).await {
                report(chore, done);
            }
        })
        .await;
    }

    /// Takes turns until the end.
    async fn each(&self, mut turn: impl AsyncFnMut()) {
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            turn().await;
        }
    }
}

fn report(chore: &'static str, done: anyhow::Result<()>) {
    metrics::chore(chore, done.is_ok());
    if let Err(error) = done {
        tracing::warn!(
            error = format!("{error:#}"),
            chore,
            "a chore failed and is done again in the next round"
        );
    }
}
