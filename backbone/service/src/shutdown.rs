//! The end of a program: a signal asks for it, the work in hand gets some time, then it is over.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The wish to end, shared by all parts of a program. Clones share one wish.
#[derive(Debug, Clone)]
pub struct Shutdown {
    token: CancellationToken,
    grace: Duration,
}

impl Shutdown {
    /// A wish nobody has yet. `grace` is what the work in hand gets once it is [requested](Shutdown::request).
    pub fn new(grace: Duration) -> Shutdown {
        Shutdown { token: CancellationToken::new(), grace }
    }

    /// How long the program has to end once it shall.
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// Cancelled once the program shall end.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Asks the program to end. Asking again changes nothing.
    pub fn request(&self) {
        self.token.cancel();
    }

    /// Whether the program shall end.
    pub fn requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the program shall end.
    pub async fn wait(&self) {
        self.token.cancelled().await;
    }

    /// Runs `work` to its end, or until the grace after the request has passed: then `None`, and `work` is dropped.
    pub async fn within_grace<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let too_late = async {
            self.wait().await;
            tokio::time::sleep(self.grace).await;
        };
        tokio::select! {
            biased;
            done = work => Some(done),
            () = too_late => None,
        }
    }
}

/// Requests the shutdown on SIGTERM or SIGINT. A second signal ends the process at once, with 128 + its number.
///
/// Signals are taken on a thread of their own: they count also while every worker of the program is busy.
///
/// # Errors
/// When the handlers or the thread cannot be set up.
pub fn on_signal(grace: Duration) -> io::Result<Shutdown> {
    let shutdown = Shutdown::new(grace);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let requested = shutdown.clone();
    let wait = async move {
        loop {
            let (name, number) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 15),
                _ = interrupt.recv() => ("SIGINT", 2),
            };
            if requested.requested() {
                tracing::warn!(signal = name, "second signal, ending at once");
                std::process::exit(128 + number);
            }
            tracing::info!(signal = name, grace_s = grace.as_secs(), "ending; a second signal ends at once");
            requested.request();
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || runtime.block_on(wait))?;
    Ok(shutdown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_in_hand_gets_its_grace_and_no_more() {
        let shutdown = Shutdown::new(Duration::from_secs(10));
        let work = |seconds| {
            shutdown.within_grace(async move { tokio::time::sleep(Duration::from_secs(seconds)).await })
        };
        assert_eq!(work(3600).await, Some(()), "no limit before the request");
        shutdown.request();
        assert_eq!(work(9).await, Some(()));
        assert_eq!(work(11).await, None);
    }
}
