//! One file straight into the queue, as any sender may write it.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use tokio::io::AsyncReadExt;
use transcript::Status;

use crate::client::{Recording, Share};
use crate::input;
use crate::progress::Meter;
use crate::wishes::Lane;

/// The largest audio that may travel in a drop, in bytes.
const BYTES_MAX: u64 = 64 << 20;

/// Writes a drop with the file's bytes. The id is chosen here, so that what becomes of it can be asked.
///
/// # Errors
/// When the file is too large or cannot be read, or as Redis says.
pub async fn send(
    redis: &str,
    lane: Lane,
    mut fields: Vec<(String, String)>,
    path: &Path,
    meter: &Arc<Meter>,
) -> anyhow::Result<Recording> {
    let mut audio = Vec::new();
    let source = if input::is_stdin(path) { input::stdin()? } else { input::open(path).await?.0 };
    source
        .take(BYTES_MAX + 1)
        .read_to_end(&mut audio)
        .await
        .with_context(|| format!("read {}", path.display()))?;
    anyhow::ensure!(
        audio.len() as u64 <= BYTES_MAX,
        "{} is larger than 64 MiB, which is the most a drop may carry; leave --redis out to send it through the API",
        path.display()
    );
    let total = audio.len() as u64;
    meter.bytes("sending", 0, Some(total));
    let drop = uuid::Uuid::new_v4().simple().to_string();
    fields.push(("drop".to_owned(), drop.clone()));
    let mut entry: Vec<(String, Bytes)> =
        fields.into_iter().map(|(name, value)| (name, Bytes::from(value))).collect();
    entry.push(("audio".to_owned(), Bytes::from(audio)));
    streams::redis::submit(redis, lane.into(), &entry).await?;
    meter.bytes("sent", total, Some(total));
    Ok(Recording {
        id: None,
        drop_id: Some(drop),
        name: None,
        status: Status::Queued,
        reason: None,
        submitted_at: None,
        progress: Share::default(),
        language: None,
    })
}
