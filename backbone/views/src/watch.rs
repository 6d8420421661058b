//! Waiting until something happens to a recording.
//!
//! Every transaction that changes recordings names them in one NOTIFY. One connection per [`Views`] listens, from the
//! first wait on. A notification can be lost with its connection, so those who wait read again after every
//! reconnection, and once a second as a net.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use events::RecordingId;
use sqlx::PgConnection;
use sqlx::postgres::{PgListener, PgPool};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::database::Views;
use crate::error::Error;
use crate::recordings::RecordingRow;

/// The channel of all notifications.
const CHANNEL: &str = "voiceforge";

/// The longest payload PostgreSQL takes is 7999 bytes; a longer list is left out, which means "anything".
const PAYLOAD_LEN_MAX: usize = 7_900;

/// How long a watcher sleeps at most: the net under lost notifications.
const NET: Duration = Duration::from_secs(1);

/// How long the listener waits before it connects again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Says in the transaction that these recordings change when it commits.
pub(crate) async fn notify(
    connection: &mut PgConnection,
    recordings: &BTreeSet<RecordingId>,
) -> Result<(), Error> {
    let names: Vec<String> = recordings.iter().map(|id| id.as_uuid().simple().to_string()).collect();
    let names = names.join(",");
    let payload = if names.len() <= PAYLOAD_LEN_MAX { names } else { String::new() };
    sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(payload).execute(connection).await?;
    Ok(())
}

/// Those who wait, by recording; each is told by a counter that goes up.
type Watchers = Arc<Mutex<HashMap<RecordingId, watch::Sender<u64>>>>;

/// The one listener of a [`Views`] and those who wait for it.
pub(crate) struct Notifier {
    watchers: Watchers,
    pool: PgPool,
    listener: Mutex<Option<JoinHandle<()>>>,
}

impl Notifier {
    /// Makes a notifier that will listen on a connection of `pool`.
    pub fn new(pool: PgPool) -> Notifier {
        Notifier { watchers: Watchers::default(), pool, listener: Mutex::new(None) }
    }

    /// Stops listening.
    pub async fn close(&self) {
        if let Some(listener) = lock(&self.listener).take() {
            listener.abort();
        }
        self.pool.close().await;
    }

    fn watch(&self, recording: RecordingId) -> Watch {
        let mut listener = lock(&self.listener);
        if listener.as_ref().is_none_or(JoinHandle::is_finished) && !self.pool.is_closed() {
            *listener = Some(tokio::spawn(listen(self.pool.clone(), self.watchers.clone())));
        }
        drop(listener);
        let changes = lock(&self.watchers).entry(recording).or_default().subscribe();
        Watch { recording, changes: Some(changes), watchers: self.watchers.clone() }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        if let Some(listener) = lock(&self.listener).take() {
            listener.abort();
        }
    }
}

/// What is locked is whole at every moment, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Listens for ever.
async fn listen(pool: PgPool, watchers: Watchers) {
    loop {
        if let Err(error) = listen_once(&pool, &watchers).await {
            tracing::debug!(%error, "lost the connection that listens");
        }
        sleep(RECONNECT_PAUSE).await;
    }
}

async fn listen_once(pool: &PgPool, watchers: &Watchers) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    // What happened while nobody listened may concern everyone.
    tell(watchers, "");
    while let Some(notification) = listener.try_recv().await? {
        tell(watchers, notification.payload());
    }
    Ok(())
}

/// Tells those who wait for the recordings in `payload`; an empty one concerns everyone.
fn tell(watchers: &Watchers, payload: &str) {
    let watchers = lock(watchers);
    if payload.is_empty() {
        watchers.values().for_each(|watcher| watcher.send_modify(|count| *count += 1));
    }
    for id in payload.split(',').filter_map(|id| Uuid::try_parse(id).ok()) {
        if let Some(watcher) = watchers.get(&id.into()) {
            watcher.send_modify(|count| *count += 1);
        }
    }
}

/// Tells when something happened to one recording.
#[derive(Debug)]
pub struct Watch {
    recording: RecordingId,
    changes: Option<watch::Receiver<u64>>,
    watchers: Watchers,
}

impl Watch {
    /// Returns when something happened since the last call, after a second at the latest. Read the recording then.
    /// May be dropped at any time.
    pub async fn changed(&mut self) {
        if let Some(changes) = &mut self.changes {
            let _ = timeout(NET, changes.changed()).await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watchers = lock(&self.watchers);
        self.changes = None;
        if watchers.get(&self.recording).is_some_and(|watcher| watcher.receiver_count() == 0) {
            watchers.remove(&self.recording);
        }
    }
}

impl Views {
    /// Watches a recording, known yet or not.
    pub fn watch(&self, recording: RecordingId) -> Watch {
        self.notifier.watch(recording)
    }

    /// Returns the recording once nothing more will happen to it, or as it stands after `limit`; `None` when it is
    /// not there by then. Passing trouble with the database is waited out.
    ///
    /// # Errors
    /// What the database says, if it will not pass.
    pub async fn wait(&self, recording: RecordingId, limit: Duration) -> Result<Option<RecordingRow>, Error> {
        let deadline = Instant::now() + limit;
        let mut watch = self.watch(recording);
        loop {
            let row = self.recording(recording).await;
            let rest = deadline.saturating_duration_since(Instant::now());
            match row {
                Ok(Some(row)) if row.state.status.is_final() => return Ok(Some(row)),
                Err(error) if !error.is_transient() => return Err(error),
                row if rest.is_zero() => return row,
                _ => {
                    let _ = timeout(rest, watch.changed()).await;
                }
            }
        }
    }
}
