//! One file by HTTP: sent as a stream, and watched until it ends.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use reqwest::Body;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::io::ReaderStream;

use crate::client::{Client, Error, Recording};
use crate::input;
use crate::progress::Meter;

/// How long a busy service is waited for.
const BUSY_PATIENCE: Duration = Duration::from_secs(30 * 60);
/// How long a service that went silent is waited for: a restart, with the loading of a large model.
const SILENCE_PATIENCE: Duration = Duration::from_secs(180);
/// How long a drop may be unknown after it was handed in: raw drops are known once ingest has seen them.
const UNKNOWN_PATIENCE: Duration = Duration::from_secs(60);
/// Bytes read from the file at once.
const PIECE: usize = 256 * 1024;

/// Hands in the file at `path`, or standard input for `-`. While the service is busy or restarts, it waits and tries
/// again; what standard input gave is gone after the first try.
///
/// # Errors
/// When the file cannot be read, or as the API says.
pub async fn send(
    client: &Client,
    fields: &[(String, String)],
    path: &Path,
    meter: &Arc<Meter>,
) -> anyhow::Result<Recording> {
    if input::is_stdin(path) {
        return Ok(client.drop(fields, body(input::stdin()?, None, meter), None).await?);
    }
    let begun = Instant::now();
    let mut pause = Duration::from_secs(1);
    loop {
        let (file, length) = input::open(path).await?;
        // A file that grows meanwhile is sent as long as it was.
        let audio = body(file.take(length), Some(length), meter);
        let error = match client.drop(fields, audio, Some(length)).await {
            Ok(recording) => return Ok(recording),
            Err(error) => error,
        };
        let patience = match error {
            Error::Unreachable { .. } if client.has_answered() => SILENCE_PATIENCE,
            // A service that never answered is a wrong address.
            Error::Unreachable { .. } => Duration::ZERO,
            _ => BUSY_PATIENCE,
        };
        if !error.is_transient() || begun.elapsed() >= patience {
            return Err(error.into());
        }
        let wait = error.retry_after().unwrap_or(pause).min(Duration::from_secs(60));
        meter.activity(&format!("waits {} s: {error}", wait.as_secs().max(1)));
        tokio::time::sleep(wait).await;
        pause = (pause * 2).min(Duration::from_secs(30));
    }
}

fn body(audio: impl AsyncRead + Send + 'static, length: Option<u64>, meter: &Arc<Meter>) -> Body {
    let (meter, sent) = (Arc::clone(meter), AtomicU64::new(0));
    let pieces = ReaderStream::with_capacity(audio, PIECE).inspect_ok(move |piece| {
        let bytes = piece.len() as u64;
        meter.bytes("sent", sent.fetch_add(bytes, Ordering::Relaxed) + bytes, length);
    });
    Body::wrap_stream(pieces)
}

/// Watches a recording until it ends, asking again after at most `pause_max`; says its id once that is known.
///
/// # Errors
/// As the API says.
pub async fn wait(
    client: &Client,
    mut recording: Recording,
    pause_max: Duration,
    meter: &Meter,
) -> anyhow::Result<Recording> {
    let begun = Instant::now();
    let mut heard = Instant::now();
    let mut pause = Duration::from_millis(50);
    // The id of the drop stays its address; that of the recording may come to be another's, who brought the same.
    let address = recording.drop_id.clone().unwrap_or_else(|| recording.address().to_owned());
    let mut told = None;
    loop {
        if let Some(id) = recording.id.as_ref().filter(|&id| told.as_ref() != Some(id)) {
            meter.say(&format!("recording {id}"));
            told = Some(id.clone());
        }
        if recording.status.is_final() {
            return Ok(recording);
        }
        meter.standing(&recording.standing());
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(pause_max);
        match client.recording(&address).await {
            Ok(now) => {
                recording = now;
                heard = Instant::now();
            }
            Err(error) if error.is_not_found() && begun.elapsed() < UNKNOWN_PATIENCE => {
                heard = Instant::now()
            }
            Err(error) if error.is_transient() && heard.elapsed() < SILENCE_PATIENCE => {
                meter.activity(&format!("waits: {error}"));
                tokio::time::sleep(error.retry_after().unwrap_or(Duration::from_secs(1))).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
