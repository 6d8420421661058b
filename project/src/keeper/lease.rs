//! Which of several keepers does a chore.

use std::time::Duration;

use streams::SharedLog;
use tokio::time::Instant;

/// The right to do a chore, held by one keeper at a time.
#[derive(Clone, Copy, Debug)]
pub struct Lease<'a> {
    /// The chore.
    pub chore: &'static str,
    /// The keeper.
    pub holder: &'a str,
    /// How long it is kept without a sign of life.
    pub length: Duration,
}

/// The lease is renewed this many times before it would end.
const RENEWALS: u32 = 3;

impl Lease<'_> {
    /// Does the work while the lease is held, which is renewed for as long as that takes. `None` where another keeper holds
    /// it, or where it was lost on the way: then the work is dropped where it stands, as if this keeper had died.
    pub async fn hold<T>(&self, log: &SharedLog, work: impl Future<Output = T>) -> Option<T> {
        if !self.take(log).await? {
            return None;
        }
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.lost(log) => {
                tracing::warn!(chore = self.chore, "the lease is lost: another keeper goes on with the chore");
                None
            }
        }
    }

    /// Renews the lease; returns once it is another's, or may be.
    async fn lost(&self, log: &SharedLog) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.length / RENEWALS).await;
            match self.take(log).await {
                Some(true) => renewed = Instant::now(),
                None if renewed.elapsed() < self.length => {}
                Some(false) | None => return,
            }
        }
    }

    /// Whether it is this keeper's from now on; `None` without an answer.
    async fn take(&self, log: &SharedLog) -> Option<bool> {
        let taken = log.lease(self.chore, self.holder, self.length).await;
        taken.inspect_err(|error| tracing::warn!(%error, chore = self.chore, "cannot take the lease")).ok()
    }
}
