//! The Hugging Face hub, or a mirror of it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use url::Url;

use super::fetch::fetch;
use super::manifest::{Pulled, Wanted, known};
use crate::config::Config;
use crate::progress::Progress;

/// The repository a name stands for; a name with a slash is one.
pub fn repository(name: &str) -> String {
    match name {
        "turbo" | "large-v3-turbo" => "mobiuslabsgmbh/faster-whisper-large-v3-turbo".to_owned(),
        "large" => "Systran/faster-whisper-large-v3".to_owned(),
        name if name.contains('/') => name.to_owned(),
        name => match name.strip_prefix("distil-") {
            Some(size) => format!("Systran/faster-distil-whisper-{size}"),
            None => format!("Systran/faster-whisper-{name}"),
        },
    }
}

/// Fetches a model into `folder`.
///
/// # Errors
/// When the hub does not answer, or has no such model.
pub async fn pull(name: &str, folder: &Path, config: &Config, progress: &Progress) -> anyhow::Result<Pulled> {
    let hub: &Url = &config.hub;
    let repository = repository(name);
    let http = client(hub)?;
    let token = config.hub_token.as_deref();
    let listing = list(&http, hub, token, &repository).await?;
    let mut wanted = choose(&listing)
        .with_context(|| format!("{repository} holds no model: neither model.bin nor safetensors"))?;
    for file in wanted.iter_mut().filter(|file| file.name == "model.bin") {
        file.sha256 = known(name).map(str::to_owned).or(file.sha256.take());
    }
    let mut pulled = Pulled {
        from: "hub".to_owned(),
        what: repository.clone(),
        revision: listing.sha.clone(),
        verified: wanted
            .iter()
            .filter(|file| super::is_weights(&file.name))
            .all(|file| file.sha256.is_some()),
        sha256: Default::default(),
    };
    let revision = listing.sha.as_deref().unwrap_or("main");
    for file in &wanted {
        let url = join(hub, &format!("{repository}/resolve/{revision}/{}", file.name));
        let meter = progress.begin(&format!("{name} {}", file.name));
        let sha256 = fetch(&http, &url, token, file, folder, &meter).await?;
        pulled.sha256.insert(file.name.clone(), sha256);
    }
    Ok(pulled)
}

/// A client for the hub.
///
/// # Errors
/// When this machine has no certificates to trust, and the hub needs some.
pub fn client(hub: &Url) -> anyhow::Result<Client> {
    service::install_tls();
    let builder = Client::builder()
        .user_agent(concat!("voiceforge/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(Duration::from_secs(60));
    // No certificates are needed without https, so a machine without any is fine.
    let builder = if hub.scheme() == "http" { builder.tls_certs_only([]) } else { builder };
    builder.build().context("prepare for https (is the package ca-certificates installed?)")
}

/// What the hub tells of a repository.
#[derive(Debug, Deserialize)]
pub struct Listing {
    /// The revision.
    pub sha: Option<String>,
    /// Its files.
    pub siblings: Vec<Sibling>,
}

/// One file of a repository.
#[derive(Debug, Deserialize)]
pub struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

async fn list(http: &Client, hub: &Url, token: Option<&str>, repository: &str) -> anyhow::Result<Listing> {
    let mut url = join(hub, &format!("api/models/{repository}"));
    url.set_query(Some("blobs=true"));
    let mut request = http.get(url);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await.map_err(|error| {
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        let last = causes.last().map(ToString::to_string).unwrap_or_default();
        anyhow::anyhow!("cannot reach the hub at {hub}: {last}")
    })?;
    match response.status() {
        status if status.is_success() => {
            response.json().await.context("read what the hub tells of the model")
        }
        StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => bail!(
            "the hub has no {repository}, or it needs a token in HF_TOKEN; names are tiny, tiny.en, base, base.en, small, small.en, medium, medium.en, large-v2, large-v3, turbo, distil-large-v3, or OWNER/NAME"
        ),
        status => bail!("the hub at {hub} answers {status}"),
    }
}

/// Chooses the files that a model consists of; `None` where there are no weights.
pub fn choose(listing: &Listing) -> Option<Vec<Wanted>> {
    let names: Vec<&str> = listing.siblings.iter().map(|sibling| sibling.rfilename.as_str()).collect();
    let is_wanted: fn(&str) -> bool = if names.contains(&"model.bin") {
        |name| {
            matches!(name, "model.bin" | "config.json" | "tokenizer.json" | "preprocessor_config.json")
                || name.starts_with("vocabulary.")
        }
    } else if names.iter().any(|name| is_tensors(name)) {
        |name| is_tensors(name) || (name.ends_with(".json") && !name.contains("fp32"))
    } else {
        return None;
    };
    let wanted = listing.siblings.iter().filter(|sibling| {
        // Names are of the server's choosing, and become names of files.
        let plain = !sibling.rfilename.starts_with('.') && !sibling.rfilename.contains(['/', '\\']);
        plain && is_wanted(&sibling.rfilename)
    });
    let mut wanted: Vec<Wanted> = wanted
        .map(|sibling| {
            let lfs = sibling.lfs.as_ref();
            Wanted {
                name: sibling.rfilename.clone(),
                bytes: sibling.size.or_else(|| lfs.and_then(|lfs| lfs.size)),
                sha256: lfs.and_then(|lfs| lfs.sha256.clone()),
            }
        })
        .collect();
    // The small ones first: what is missing shows at once.
    wanted.sort_by_key(|file| (super::is_weights(&file.name), file.name.clone()));
    Some(wanted)
}

fn is_tensors(name: &str) -> bool {
    name.ends_with(".safetensors") && !name.contains("fp32")
}

fn join(hub: &Url, path: &str) -> Url {
    let mut url = hub.clone();
    url.set_path(&format!("{}/{path}", hub.path().trim_end_matches('/')));
    url
}
