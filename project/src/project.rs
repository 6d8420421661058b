//! The stage: facts in, rows out, in batches of one transaction each.
//!
//! The loop hands over whatever arrives; here it gathers while the transaction before is under way, so that the
//! batch grows with the load and a lone fact does not wait. Acknowledged only after COMMIT: what is delivered twice
//! is found in the inbox and changes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use async_trait::async_trait;
use events::{Cause, Shard};
use service::env::Database;
use streams::{Delivery, Stage, failpoint};
use tokio::sync::{Mutex, mpsc};
use views::{ApplyError, Entry, EntryError, Installed, Views};

use crate::config::Config;
use crate::metrics;

/// The project stage.
pub struct Project {
    views: Views,
    gathered: mpsc::UnboundedSender<Delivery>,
    slots: usize,
}

impl Project {
    /// Starts the tasks that apply batches of at most `batch` facts.
    pub fn start(views: Views, batch: usize) -> Project {
        let (gathered, inbox) = mpsc::unbounded_channel();
        let inbox = Arc::new(Mutex::new(inbox));
        for _ in 0..APPLIERS {
            tokio::spawn(apply_all(views.clone(), Arc::clone(&inbox), batch));
        }
        // A batch in each transaction, one gathering: the stage loop's slots bound the channel.
        Project { views, gathered, slots: batch * (APPLIERS + 1) }
    }
}

#[async_trait]
impl Stage for Project {
    fn slots(&self) -> usize {
        self.slots
    }

    async fn process(&self, deliveries: Vec<Delivery>) {
        for delivery in deliveries {
            if let Err(unsent) = self.gathered.send(delivery) {
                // The applying task is gone with a panic: dropping the delivery has it tried again.
                drop(unsent);
            }
        }
    }

    async fn give_up(&self, delivery: Delivery, cause: Cause) {
        refuse(&self.views, delivery, cause).await;
    }
}

/// Connects to the database and prepares it, waiting for a server that is starting.
///
/// # Errors
/// What waiting does not mend: a wrong address, a newer schema, missing rights.
pub async fn connect(config: &Config) -> anyhow::Result<(Views, Installed)> {
    let views = open(&config.database).await?;
    loop {
        match views.migrate(&config.policies).await {
            Ok(installed) => return Ok((views, installed)),
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "cannot prepare the database yet, trying again");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(error) => return Err(error).context("prepare the database"),
        }
    }
}

/// Connects to the database, waiting for a server that is starting.
///
/// # Errors
/// What waiting does not mend, such as a wrong address.
pub async fn open(database: &Database) -> anyhow::Result<Views> {
    loop {
        match Views::connect(database.url.as_str(), &views::Options::default()).await {
            Ok(views) => return Ok(views),
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, url = %database.url, "the database does not answer, trying again");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(error) => return Err(error).context("connect to the database"),
        }
    }
}

const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Batches in hand at once: one is read and encoded here while the server writes the other. The fold does not depend on
/// order.
const APPLIERS: usize = 2;

type Inbox = Arc<Mutex<mpsc::UnboundedReceiver<Delivery>>>;

async fn apply_all(views: Views, inbox: Inbox, batch: usize) {
    let mut deliveries = Vec::new();
    while inbox.lock().await.recv_many(&mut deliveries, batch).await > 0 {
        let mut entries = Vec::with_capacity(deliveries.len());
        let mut readable = Vec::with_capacity(deliveries.len());
        for delivery in deliveries.drain(..) {
            match read(&delivery) {
                Ok(entry) => {
                    entries.push(entry);
                    readable.push(delivery);
                }
                Err(EntryError::Newer { .. }) => drop(tokio::spawn(delivery.put_off(NEWER_PAUSE))),
                Err(error) => refuse(&views, delivery, not_projectable(error.to_string())).await,
            }
        }
        apply(&views, entries, readable).await;
    }
}

/// The place of a fact in its shard's log; `None` for an entry that somebody else wrote there.
fn place(delivery: &Delivery) -> Option<(Shard, u64)> {
    let entry = delivery.entry();
    Some((entry.source.shard()?, entry.text("seq")?.parse().ok()?))
}

fn read(delivery: &Delivery) -> Result<Entry, EntryError> {
    let (shard, seq) = place(delivery).unwrap_or((Shard::default(), u64::MAX));
    Entry::read(shard, seq, delivery.entry().field("event").map_or(&[][..], |json| json))
}

/// Applies a batch, however long the database takes to be there; a batch it refuses is applied one by one, so that
/// one bad event does not hold the others.
async fn apply(views: &Views, entries: Vec<Entry>, deliveries: Vec<Delivery>) {
    let mut batches = vec![(entries, deliveries)];
    while let Some((entries, deliveries)) = batches.pop() {
        match persist(views, &entries, &deliveries).await {
            // Dropping them instead would count as a failure of theirs.
            None => {
                futures::future::join_all(deliveries.into_iter().map(Delivery::hand_back)).await;
            }
            Some(Ok(())) => Delivery::finish_all(deliveries).await,
            Some(Err(error)) if entries.len() == 1 => {
                for delivery in deliveries {
                    refuse(views, delivery, not_projectable(error.clone())).await;
                }
            }
            Some(Err(error)) => {
                let facts = entries.len();
                tracing::warn!(error, facts, "a batch was refused: applying its facts one by one");
                let alone = entries.into_iter().zip(deliveries).rev();
                batches.extend(alone.map(|(entry, delivery)| (vec![entry], vec![delivery])));
            }
        }
    }
}

/// Applies facts until the database answers. `None`: the program stops first, or there are no facts.
async fn persist(views: &Views, entries: &[Entry], deliveries: &[Delivery]) -> Option<Result<(), String>> {
    let stopping = deliveries.first()?.stopping().clone();
    let started = Instant::now();
    loop {
        failpoint::reach("apply.before");
        match views.apply(entries).await {
            Ok(applied) => {
                failpoint::reach("apply.after");
                metrics::applied(&applied, started.elapsed().as_secs_f64());
                for conflict in &applied.conflicts {
                    tracing::error!(
                        ?conflict,
                        "one place in the log had two events: redis lost acknowledged writes in a failover"
                    );
                }
                return Some(Ok(()));
            }
            Err(ApplyError::Retry(error)) => {
                metrics::retried();
                tracing::warn!(%error, facts = entries.len(), "the database cannot take facts now, trying again");
                if stopping.is_cancelled() {
                    return None;
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(ApplyError::Fatal(error)) => return Some(Err(error.to_string())),
        }
    }
}

fn not_projectable(error: String) -> Cause {
    Cause::new("not_projectable", error)
}

/// Notes the place of a fact that can never be applied as a known gap, without which nothing behind it would ever count
/// as archived, and sends it to the dead letters.
async fn refuse(views: &Views, delivery: Delivery, cause: Cause) {
    if let Some((shard, seq)) = place(&delivery)
        && let Err(error) = views.declare_gap(shard, seq, seq, &cause.message).await
    {
        tracing::error!(%error, %shard, seq, "cannot note a gap now: the fact is given up later");
        delivery.put_off(GAP_PAUSE).await;
        return;
    }
    metrics::refused();
    delivery.fail(cause).await;
}

/// How long a fact waits that is given up while the database does not answer.
const GAP_PAUSE: Duration = Duration::from_secs(5);

/// How long a fact of a newer version waits before it is looked at again.
const NEWER_PAUSE: Duration = Duration::from_secs(30);
