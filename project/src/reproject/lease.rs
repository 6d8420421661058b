//! The right to rebuild: one program at a time has it.

use std::time::Duration;

use anyhow::{Context, bail};
use streams::SharedLog;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// How long the lease on rebuilding is taken for, and how often it is renewed.
const LEASE: Duration = Duration::from_secs(8);
const LEASE_EVERY: Duration = Duration::from_secs(2);

/// The name of the lease, and who gets it.
const CHORE: &str = "reproject";

/// How often it is asked for while another has it.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Says whether a rebuild runs just now.
///
/// # Errors
/// When the log does not answer.
pub async fn is_running(log: &SharedLog) -> anyhow::Result<bool> {
    let probe = format!("probe:{}", uuid::Uuid::new_v4());
    // A lease of a moment: whoever comes after it finds it free.
    let free = log.lease(CHORE, &probe, Duration::from_millis(1)).await.context("ask for the lease")?;
    Ok(!free)
}

/// The right to rebuild, renewed in the background.
pub(super) struct Lease {
    lost: watch::Receiver<bool>,
    log: SharedLog,
    holder: String,
    renewing: tokio::task::JoinHandle<()>,
}

impl Lease {
    /// Takes the right, or waits until that of a program that died has ended.
    pub async fn take(log: &SharedLog) -> anyhow::Result<Lease> {
        let holder = format!("reproject:{}:{}", std::process::id(), uuid::Uuid::new_v4());
        let until = Instant::now() + LEASE;
        while !log.lease(CHORE, &holder, LEASE).await.context("take the lease on rebuilding")? {
            if Instant::now() > until {
                bail!("another rebuild runs; `voiceforge reproject --status` shows how far it is");
            }
            sleep(RETRY_PAUSE).await;
        }
        let (tell, lost) = watch::channel(false);
        let (renewed, name) = (SharedLog::clone(log), holder.clone());
        let renewing = tokio::spawn(async move {
            loop {
                sleep(LEASE_EVERY).await;
                match renewed.lease(CHORE, &name, LEASE).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    // Whoever takes it meanwhile is noticed by the positions in the database.
                    Err(error) => tracing::warn!(%error, "cannot renew the lease on rebuilding"),
                }
            }
            let _ = tell.send(true);
        });
        Ok(Lease { lost, log: SharedLog::clone(log), holder, renewing })
    }

    /// Gives it back, so that the next one need not wait for its end.
    pub async fn give_back(self) {
        self.renewing.abort();
        let _ = self.log.lease(CHORE, &self.holder, Duration::from_millis(1)).await;
    }

    /// Returns when the right is gone.
    pub async fn lost(&self) -> anyhow::Error {
        let _ = self.lost.clone().wait_for(|lost| *lost).await;
        anyhow::anyhow!(
            "another rebuild took over while this one was silent; `voiceforge reproject --status` shows how far it is"
        )
    }
}
