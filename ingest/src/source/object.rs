//! Objects within the buckets that uris may point into.

use std::sync::Arc;

use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use service::env::Strings;
use service::store::{BUCKET_SCHEMES, open_bucket};
use url::Url;

use super::{Incoming, SourceError, show_uri};
use service::chain;

/// A bucket, or a folder in it.
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    scheme: &'static str,
    /// What stands before the path: `bucket`, on Azure also `container@account...`.
    name: String,
    folder: Path,
}

impl Bucket {
    /// Opens the bucket that `root` names. Nothing is asked of it yet.
    pub fn open(root: &Url, strings: &dyn Strings) -> anyhow::Result<Bucket> {
        let known = BUCKET_SCHEMES.into_iter().find(|scheme| *scheme == root.scheme());
        let scheme = known.with_context(|| format!("{} names no bucket", show_uri(root)))?;
        let (store, folder) = open_bucket(root, strings)
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("open {}", show_uri(root)))?;
        Ok(Bucket { store, scheme, name: root.authority().to_owned(), folder })
    }

    /// The path of what `uri` names, if it lies in this bucket and folder.
    pub fn path_of(&self, uri: &Url) -> Option<Path> {
        // An object's name may hold dots as it likes; there is no folder above to climb to.
        let path = Path::from_url_path(uri.path()).ok()?;
        let same = uri.scheme() == self.scheme && uri.authority() == self.name;
        (same && path.prefix_matches(&self.folder)).then_some(path)
    }

    pub async fn fetch(&self, path: &Path, uri: &Url) -> Result<Incoming, SourceError> {
        let shown = show_uri(uri);
        let found = self.store.get(path).await.map_err(|error| match error {
            object_store::Error::NotFound { .. } => {
                SourceError::refused("not_found", format!("there is no {shown}; check the name"))
            }
            error => SourceError::Unavailable(format!("cannot read {shown}: {}", chain(&error))),
        })?;
        let bytes = Some(found.meta.size);
        let body = found.into_stream().map_err(Into::into).boxed();
        Ok(Incoming { scheme: self.scheme, body, bytes, shown })
    }
}
