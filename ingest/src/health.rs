//! Whether the store and Redis can be worked with, looked at now and then for `/health/ready`.

use std::time::Duration;

use bytes::Bytes;
use service::Readiness;
use service::chain;
use service::store::{AudioStore, Key, StoreError};
use streams::SharedLog;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::intake::FETCHING;

/// Time between looks.
const EVERY: Duration = Duration::from_secs(15);
/// What was being fetched so long ago is fetched by nobody any more.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 3600);

/// Keeps `redis` and `store` of `readiness` up to date until `ended`.
pub async fn watch(log: SharedLog, store: AudioStore, readiness: Readiness, ended: CancellationToken) {
    let mut tick = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = ended.cancelled() => return,
        }
        match probe_store(&store).await {
            Ok(()) => readiness.ok("store", "takes audio in"),
            Err(error) => readiness.failed("store", chain(&error)),
        }
        match log.health().await {
            Ok(health) => {
                let percent = (health.memory_share * 100.0) as u64;
                readiness.ok("redis", format!("answers, {percent} % of its memory limit in use"));
            }
            Err(error) => readiness.failed("redis", error.to_string()),
        }
    }
}

/// Writes a small object and removes it again: only writing shows whether a store has room and lets us in.
///
/// # Errors
/// By the store.
pub async fn probe_store(store: &AudioStore) -> Result<(), StoreError> {
    let key = Key::new([FETCHING, "probe", &Uuid::new_v4().to_string()])?;
    store.put_bytes(&key, Bytes::from_static(b"probe")).await?;
    store.delete(&key).await
}

/// Removes what fetches left in the store that a crash cut off, as seen by their age.
///
/// # Errors
/// By the store.
pub async fn remove_leftovers(store: &AudioStore) -> Result<usize, StoreError> {
    use futures::TryStreamExt;
    let listed: Vec<_> = store.list(Some(&Key::new([FETCHING])?)).try_collect().await?;
    let old = listed.into_iter().filter(|meta| meta.modified.elapsed().is_ok_and(|age| age > LEFTOVER_AGE));
    let mut removed = 0;
    for meta in old {
        store.delete(&meta.key).await?;
        removed += 1;
    }
    Ok(removed + store.remove_unfinished(LEFTOVER_AGE).await?)
}
