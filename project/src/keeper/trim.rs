//! Removes facts from the logs that are archived and acknowledged by every group.

use anyhow::Context;
use events::Shard;
use streams::SharedLog;
use views::Views;

use crate::metrics;

/// Trims every shard below its archive.
///
/// # Errors
/// When the database or Redis does not answer.
pub async fn archived(log: &SharedLog, views: &Views) -> anyhow::Result<()> {
    let mut held_back = 0;
    for shard in (0..log.shards()).map(Shard) {
        let archived = views.archived_through(shard).await.context("read how far the archive reaches")?;
        if archived == 0 {
            continue;
        }
        let trimmed = log.trim(shard, archived).await.context("trim the log")?;
        metrics::trimmed(trimmed.facts);
        if trimmed.facts > 0 {
            tracing::info!(%shard, archived, trimmed = trimmed.facts, "trimmed the log");
        }
        if let Some(group) = trimmed.held_by {
            tracing::debug!(%shard, group, "a group has not acknowledged what is archived");
            held_back += 1;
        }
    }
    metrics::held_back(held_back);
    Ok(())
}
