//! Measures queues, logs and dead letters for those who watch. Every keeper does, so it needs no lease.

use anyhow::Context;
use events::Shard;
use streams::SharedLog;
use views::Views;

use crate::metrics;

/// Measures once.
///
/// # Errors
/// When Redis or the database does not answer.
pub async fn survey(log: &SharedLog, views: &Views) -> anyhow::Result<()> {
    let survey = log.survey().await.context("survey the streams")?;
    let archived = views.all_archived_through(log.shards()).await.context("read how far the archive is")?;
    let archived: Vec<(Shard, u64)> = (0..log.shards()).map(Shard).zip(archived).collect();
    metrics::surveyed(&survey, &archived, events::now());
    Ok(())
}
