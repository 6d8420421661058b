//! The chores of a deployment. Each runs under a lease of its own, so that any number of keepers may be up.

use std::time::Duration;

use service::store::AudioStore;
use streams::SharedLog;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use views::Views;

use crate::config::KeeperConfig;
use crate::metrics;

pub mod erase;
pub mod gaps;
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
    runs: Option<runs::Runs>,
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
        Keeper { log, views, sweeper, gaps, strays, runs: Some(runs), eraser, retainer, config, name }
    }

    /// Does the chores again and again until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        // In a task of its own: people watch a run, and other chores may take long.
        let runs = self.runs.take().map(|runs| tokio::spawn(runs.run(shutdown.clone())));
        let mut ticks = tokio::time::interval(self.config.every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            if self.has_lease("sweep").await {
                report("sweep", self.sweeper.sweep().await);
            }
            if self.has_lease("gaps").await {
                report("gaps", self.gaps.look(&self.log, &self.views).await);
            }
            if self.has_lease("strays").await {
                report("strays", self.strays.look().await.map(drop));
            }
            report("survey", survey::survey(&self.log, &self.views).await);
            if self.has_lease("retain").await {
                report("retain", self.retainer.retain().await);
            }
            if self.has_lease("erase").await {
                report("erase", self.eraser.erase().await);
            }
            if self.config.trim && self.has_lease("trim").await {
                report("trim", trim::archived(&self.log, &self.views).await);
            }
        }
        if let Some(runs) = runs
            && let Err(error) = runs.await
        {
            tracing::error!(%error, "the task that does the runs died");
        }
    }

    async fn has_lease(&self, chore: &str) -> bool {
        // Longer than a round, so that the holder keeps it while it lives.
        let length = self.config.every * 3 + Duration::from_secs(30);
        self.log.lease(chore, &self.name, length).await.unwrap_or_else(|error| {
            tracing::warn!(%error, chore, "cannot take the lease");
            false
        })
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
