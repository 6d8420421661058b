//! The entries a worker holds: what the heartbeat renews, and what a full worker waits for.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use events::Lane;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::keys::Source;
use crate::log::Entry;

/// Everything in hand, delivered or waiting for a slot.
pub struct Hand {
    stage: &'static str,
    held: Mutex<HashMap<(Source, String), Held>>,
    changed: Notify,
}

struct Held {
    working: bool,
    /// Cancelled when the lease went to another worker.
    lost: CancellationToken,
}

impl Hand {
    pub fn new(stage: &'static str) -> Hand {
        Hand { stage, held: Mutex::default(), changed: Notify::new() }
    }

    /// Notes entries as ours, so that their leases are renewed while they wait for a slot.
    pub fn reserve(&self, entries: &[Entry]) {
        let mut held = self.lock();
        for entry in entries {
            let fresh = Held { working: false, lost: CancellationToken::new() };
            held.entry(key(entry)).or_insert(fresh);
        }
    }

    /// Notes that an entry is being worked on; returns the token that tells when it is lost.
    pub fn start(&self, entry: &Entry) -> CancellationToken {
        let mut held = self.lock();
        let fresh = Held { working: true, lost: CancellationToken::new() };
        let lost = {
            let held = held.entry(key(entry)).or_insert(fresh);
            held.working = true;
            held.lost.clone()
        };
        crate::metrics::in_hand(self.stage, held.len());
        lost
    }

    /// Forgets an entry that ended.
    pub fn release(&self, entry: &Entry) {
        let mut held = self.lock();
        held.remove(&key(entry));
        crate::metrics::in_hand(self.stage, held.len());
        drop(held);
        self.changed.notify_waiters();
    }

    /// Tells the worker of an entry that another one has it now.
    pub fn lose(&self, source: Source, id: &str) {
        if let Some(held) = self.lock().get(&(source, id.to_owned())) {
            held.lost.cancel();
        }
    }

    pub fn holds(&self, entry: &Entry) -> bool {
        self.lock().contains_key(&key(entry))
    }

    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// The number of entries being worked on.
    pub fn working(&self) -> usize {
        self.lock().values().filter(|held| held.working).count()
    }

    /// The number of entries of a lane in hand, worked on or waiting for a slot.
    pub fn in_lane(&self, lane: Lane) -> usize {
        self.lock().keys().filter(|(source, _)| source.lane() == lane).count()
    }

    pub fn by_source(&self) -> HashMap<Source, Vec<String>> {
        let mut sources: HashMap<Source, Vec<String>> = HashMap::new();
        for (source, id) in self.lock().keys() {
            sources.entry(*source).or_default().push(id.clone());
        }
        sources
    }

    /// Waits until some entry ended (or a moment, in case one ended just before).
    pub async fn freed(&self) {
        let changed = self.changed.notified();
        let _ = tokio::time::timeout(std::time::Duration::from_millis(50), changed).await;
    }

    /// Waits until nothing is being worked on.
    pub async fn rest(&self) {
        while self.working() > 0 {
            self.freed().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Source, String), Held>> {
        // The map is whole after every statement, so a panic elsewhere cannot have left it torn.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(entry: &Entry) -> (Source, String) {
    (entry.source, entry.id.clone())
}
