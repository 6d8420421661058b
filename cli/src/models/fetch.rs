//! One file from a server: resumed where it broke off, checked, and put in its place whole.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Client, StatusCode};
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;
use url::Url;

use super::manifest::{self, Wanted};
use crate::progress::Meter;

/// How often a download that breaks off is taken up again without having brought anything.
const FRUITLESS_MAX: u32 = 5;

/// Fetches a file into `folder`, through `<name>.part`, and returns its SHA-256. A file that is there already is
/// checked and kept.
///
/// # Errors
/// When the server has none, goes silent again and again, or sends something else than announced.
pub async fn fetch(
    http: &Client,
    url: &Url,
    token: Option<&str>,
    wanted: &Wanted,
    folder: &Path,
    meter: &Meter,
) -> anyhow::Result<String> {
    let target = folder.join(&wanted.name);
    if target.is_file()
        && let Ok(sha256) = check(&target, wanted).await
    {
        return Ok(sha256);
    }
    let part = folder.join(format!("{}.part", wanted.name));
    let (mut pause, mut fruitless) = (Duration::from_millis(500), 0);
    loop {
        let before = size(&part).await;
        let error = match take_up(http, url, token, wanted, &part, meter).await {
            Ok(()) => break,
            Err(Broken::Final(error)) => return Err(error),
            Err(Broken::Passing(error)) => error,
        };
        fruitless = if size(&part).await > before { 0 } else { fruitless + 1 };
        if fruitless >= FRUITLESS_MAX {
            return Err(
                error.context(format!("fetch {}; run this again to go on where it stopped", wanted.name))
            );
        }
        meter.activity(&format!("{error:#}; going on"));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(10));
    }
    let sha256 = match check(&part, wanted).await {
        Ok(sha256) => sha256,
        Err(error) => {
            // What is wrong as a whole cannot be mended at its end.
            fs::remove_file(&part).await.context("remove what was fetched")?;
            return Err(error);
        }
    };
    fs::rename(&part, &target).await.with_context(|| format!("put {} in its place", target.display()))?;
    Ok(sha256)
}

enum Broken {
    /// Trying again may help.
    Passing(anyhow::Error),
    Final(anyhow::Error),
}

/// Fetches what is missing of a file.
async fn take_up(
    http: &Client,
    url: &Url,
    token: Option<&str>,
    wanted: &Wanted,
    part: &Path,
    meter: &Meter,
) -> Result<(), Broken> {
    let have = size(part).await;
    if have > 0 && wanted.bytes == Some(have) {
        return Ok(());
    }
    let mut request = http.get(url.clone());
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if have > 0 {
        request = request.header(RANGE, format!("bytes={have}-"));
    }
    let passing = |error: reqwest::Error| Broken::Passing(anyhow::Error::from(error.without_url()));
    let mut response = request.send().await.map_err(passing)?;
    let status = response.status();
    let mut file = match status {
        StatusCode::PARTIAL_CONTENT if begins_at(&response) == Some(have) => {
            File::options().append(true).open(part).await.context("open the part").map_err(Broken::Final)?
        }
        // The server knows no ranges, or begins elsewhere: from the start.
        StatusCode::OK => File::create(part).await.context("make the part").map_err(Broken::Final)?,
        StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT => {
            let removed = fs::remove_file(part).await.context("remove the part");
            removed.map_err(Broken::Final)?;
            return Err(Broken::Passing(anyhow::anyhow!("the part that was there does not fit")));
        }
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            return Err(Broken::Passing(anyhow::anyhow!("the server answers {status}")));
        }
        status => return Err(Broken::Final(anyhow::anyhow!("{url} is not to be had: {status}"))),
    };
    let mut have = if status == StatusCode::OK { 0 } else { have };
    let total = wanted.bytes.or_else(|| response.content_length().map(|rest| have + rest));
    loop {
        match response.chunk().await {
            Ok(Some(piece)) => {
                have += piece.len() as u64;
                file.write_all(&piece).await.context("write the part").map_err(Broken::Final)?;
                meter.bytes("fetched", have, total);
            }
            ended => {
                // Whatever came is kept for the next try.
                file.flush().await.context("write the part").map_err(Broken::Final)?;
                file.sync_all().await.context("write the part").map_err(Broken::Final)?;
                return ended.map(drop).map_err(passing);
            }
        }
    }
}

/// Checks a file against what is announced, and returns its SHA-256.
async fn check(path: &Path, wanted: &Wanted) -> anyhow::Result<String> {
    let have = size(path).await;
    if let Some(bytes) = wanted.bytes.filter(|&bytes| bytes != have) {
        bail!(
            "{} has {have} bytes and should have {bytes}: the download is damaged; run this again",
            wanted.name
        );
    }
    let at = path.to_owned();
    let sha256 = tokio::task::spawn_blocking(move || manifest::sha256(&at)).await.context("hash the file")?;
    let sha256 = sha256.with_context(|| format!("read {}", path.display()))?;
    if let Some(expected) = wanted.sha256.as_ref().filter(|expected| **expected != sha256) {
        bail!(
            "{} has SHA-256 {sha256} and should have {expected}: it is damaged or not what it says it is; run this again, or fetch it --from elsewhere",
            wanted.name
        );
    }
    Ok(sha256)
}

fn begins_at(response: &reqwest::Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

async fn size(path: &Path) -> u64 {
    fs::metadata(path).await.map_or(0, |about| about.len())
}

#[cfg(test)]
mod tests;
