//! Drops that are not wanted any more before they are recordings.

use events::Tenant;

use super::RedisLog;
use crate::dead::DeadPlace;
use crate::keys;
use crate::log::{Error, Log};

impl RedisLog {
    pub(super) async fn mark_drop_deleted(&self, drop_id: &str, tenant: &Tenant) -> Result<(), Error> {
        let mut command = redis::cmd("SET");
        command.arg(keys::drop_deleted(drop_id)).arg(tenant.as_str());
        command.arg("EX").arg(self.config.keep.as_secs());
        self.run("mark a drop deleted", &command).await
    }

    pub(super) async fn is_drop_deleted(&self, drop_id: &str, tenant: &Tenant) -> Result<bool, Error> {
        let key = keys::drop_deleted(drop_id);
        let by: Option<String> =
            self.run("ask whether a drop is deleted", redis::cmd("GET").arg(key)).await?;
        Ok(by.is_some_and(|by| by == tenant.as_str()))
    }

    pub(super) async fn erase_drop(&self, drop_id: &str) -> Result<u64, Error> {
        const PAGE: usize = 100;
        let (mut removed, mut after) = (0, None);
        loop {
            let page = self.list_dead_after(DeadPlace::Drops, after.as_deref(), PAGE).await?;
            for dead in page.iter().filter(|dead| dead.is_of_drop(drop_id)) {
                removed += u64::from(self.drop_dead(DeadPlace::Drops, &dead.id).await?);
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.id.clone()),
                _ => break,
            }
        }
        if removed > 0 {
            self.compact_dead(DeadPlace::Drops).await?;
        }
        Ok(removed)
    }

    pub(super) async fn waiting_drop(&self, drop_id: &str) -> Result<Option<String>, Error> {
        // Any other id is none that a queue gave.
        let Some((queue, entry)) = keys::entry_of_drop(drop_id) else { return Ok(None) };
        let mut invocation = self.scripts.waiting.prepare_invoke();
        invocation.key(queue.key()).arg(entry).arg(keys::DROP_ID_BYTES_MAX);
        self.script("look for a waiting drop", &invocation).await
    }
}
