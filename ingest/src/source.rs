//! Where audio arrives from when a drop names a place: files, object stores and the web, each only as far as the
//! operator allows. Without a setting nothing is allowed, because whoever may write drops must not read our disk.

mod address;
mod file;
mod object;
mod web;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use events::Cause;
use futures::stream::BoxStream;
use service::env::{self, Env, Reader, Strings};
use service::store::{BUCKET_SCHEMES, BoxError};
use url::Url;

use crate::drop::shown;

/// What a drop's uri may name.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    /// Folders (`file:`) and buckets (`s3:`, `gs:`, `az:`, `abfs:`, `abfss:`) that uris may point into.
    pub uris: Vec<Url>,
    /// Whether `http:` and `https:` uris are fetched.
    pub web: bool,
    /// Hosts that are fetched from although their addresses are private.
    pub web_hosts: Vec<String>,
    /// How long one fetch from the web may take.
    pub web_timeout: Duration,
}

impl Roots {
    /// Reads `uri-roots`, `uri-web`, `uri-web-hosts` and `uri-web-timeout`.
    pub fn read(from: &mut Reader) -> Roots {
        let uris: Option<Vec<env::Url>> = from
            .setting(
                "uri-roots",
                "folders and buckets that the uri of a drop may point into; none if not set",
            )
            .check(|roots: &Vec<env::Url>| roots.iter().try_for_each(|root| check_root(root.as_str())))
            .optional("file:///srv/audio,s3://bucket/calls");
        let uris = uris.into_iter().flatten().filter_map(|root| root.as_str().parse().ok()).collect();
        let web_hosts: Option<Vec<String>> = from
            .setting(
                "uri-web-hosts",
                "hosts of http uris that are fetched from although their addresses are private",
            )
            .optional("media.internal");
        Roots {
            uris,
            web: from.setting("uri-web", "fetch http and https uris").or("false"),
            web_hosts: web_hosts.unwrap_or_default(),
            web_timeout: from
                .setting("uri-web-timeout", "how long one fetch of an http uri may take")
                .or("10min"),
        }
    }
}

fn check_root(root: &str) -> Result<(), String> {
    let url: Url = root.parse().map_err(|error| format!("is not a URL ({error})"))?;
    match url.scheme() {
        "file" if url.to_file_path().is_ok() => Ok(()),
        scheme if BUCKET_SCHEMES.contains(&scheme) && url.host_str().is_some() => Ok(()),
        _ => {
            Err("is neither a folder such as file:///srv/audio nor a bucket such as s3://bucket/calls"
                .to_owned())
        }
    }
}

/// Everything audio may be fetched from.
pub struct Sources {
    folders: Vec<PathBuf>,
    buckets: Vec<object::Bucket>,
    web: Option<web::Web>,
    allowed: String,
}

/// Audio on its way.
pub struct Incoming {
    /// The scheme of its uri.
    pub scheme: &'static str,
    /// Its bytes as they come.
    pub body: BoxStream<'static, Result<Bytes, BoxError>>,
    /// Its size, where the other side says it.
    pub bytes: Option<u64>,
    /// Its uri without user, password and query, which may be secrets.
    pub shown: String,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incoming({}, {:?} bytes)", self.shown, self.bytes)
    }
}

/// Why audio does not arrive.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum SourceError {
    /// It never will.
    #[error("{0}")]
    Refused(Cause),
    /// It may, later.
    #[error("{0}")]
    Unavailable(String),
}

impl SourceError {
    fn refused(code: &str, message: impl Into<String>) -> SourceError {
        SourceError::Refused(Cause::new(code, message))
    }
}

impl Sources {
    /// Opens what `roots` allows. Buckets find their keys in the variables their own tools use, such as
    /// `AWS_ACCESS_KEY_ID`.
    ///
    /// # Errors
    /// For a root that no store can be made of, and where there are no certificates to trust.
    pub fn open(roots: Roots) -> anyhow::Result<Sources> {
        Sources::open_with(roots, &Env)
    }

    /// [`Sources::open`] with the settings of buckets from `strings`.
    ///
    /// # Errors
    /// As [`Sources::open`].
    pub fn open_with(roots: Roots, strings: &dyn Strings) -> anyhow::Result<Sources> {
        let (mut folders, mut buckets) = (Vec::new(), Vec::new());
        for root in &roots.uris {
            match root.to_file_path() {
                Ok(folder) if root.scheme() == "file" => folders.push(folder),
                _ => buckets.push(object::Bucket::open(root, strings)?),
            }
        }
        let mut allowed: Vec<String> = roots.uris.iter().map(show_uri).collect();
        if roots.web {
            allowed.push("http and https".to_owned());
        }
        let allowed = if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") };
        let web = roots.web.then(|| web::Web::new(roots.web_hosts, roots.web_timeout));
        Ok(Sources { folders, buckets, web, allowed })
    }

    /// Begins to read what a uri names.
    ///
    /// # Errors
    /// [`SourceError::Refused`] for what is not allowed or not there; the message never tells what lies outside the
    /// roots.
    pub async fn open_uri(&self, uri: &Url) -> Result<Incoming, SourceError> {
        match (uri.scheme(), &self.web) {
            ("file", _) => file::open(&self.folders, uri).await.map_err(|error| self.explain(error, uri)),
            (scheme, _) if BUCKET_SCHEMES.contains(&scheme) => {
                match self.buckets.iter().find_map(|bucket| Some((bucket, bucket.path_of(uri)?))) {
                    Some((bucket, path)) => bucket.fetch(&path, uri).await,
                    None => Err(self.not_allowed(uri)),
                }
            }
            ("http" | "https", Some(web)) => web.fetch(uri.clone()).await,
            ("http" | "https", None) => Err(SourceError::refused(
                "uri_not_allowed",
                "fetching from the web is switched off here; send the bytes, or start ingest with VOICEFORGE_URI_WEB=true",
            )),
            (scheme, _) => Err(SourceError::refused(
                "uri_not_allowed",
                format!(
                    "uris of scheme {} are not fetched here; use file, s3, gs, az, http or https",
                    shown(scheme)
                ),
            )),
        }
    }

    fn explain(&self, error: file::Error, uri: &Url) -> SourceError {
        match error {
            file::Error::Outside => self.not_allowed(uri),
            file::Error::Source(error) => error,
        }
    }

    fn not_allowed(&self, uri: &Url) -> SourceError {
        let message = format!(
            "{} lies outside of what uris may name here, which is {}; put the file there, or change VOICEFORGE_URI_ROOTS",
            show_uri(uri),
            self.allowed
        );
        SourceError::refused("uri_not_allowed", message)
    }
}

/// A uri without user, password, query and fragment, cut to a bearable length. On Azure what stands for the user is
/// the container.
fn show_uri(uri: &Url) -> String {
    let mut plain = uri.clone();
    plain.set_query(None);
    plain.set_fragment(None);
    // Both fail only for uris that cannot have them.
    if !matches!(uri.scheme(), "az" | "abfs" | "abfss") {
        let _ = plain.set_username("");
    }
    let _ = plain.set_password(None);
    plain.as_str().chars().take(512).collect()
}

#[cfg(test)]
mod tests;
