//! The audio store: where recordings lie, in a local folder or in an object store by URL.
//!
//! What [`AudioStore::put_stream`] has taken in survives a crash: in a local folder the file and its directory are
//! synced before it returns, and a half-written file never stands under its key.

mod bucket;
mod key;
mod reader;
mod upload;

#[cfg(test)]
mod tests;

pub use bucket::{BUCKET_SCHEMES, open_bucket};
pub use key::Key;
pub use reader::RangeReader;
pub use upload::Stored;

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{self, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{BoxStream, Stream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::chain::chain;
use crate::env::{Env, Strings};

/// An error of somebody else's.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What the store says when it cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing lies under the key.
    #[error("{key} is not in the audio store")]
    NotFound {
        /// What was asked for.
        key: Key,
    },
    /// The disk or the quota of the store is full. It may have room again later.
    #[error("the audio store is full ({action})")]
    Full {
        /// What was tried.
        action: String,
        /// What the store says.
        source: BoxError,
    },
    /// The bytes are more than was allowed.
    #[error("larger than the limit of {limit} bytes")]
    TooLarge {
        /// How many bytes were allowed.
        limit: u64,
    },
    /// This is no key.
    #[error(
        "{part:?} cannot be part of a key; expected 1 to {} letters, digits, '-' or '_'",
        Key::PART_LEN_MAX
    )]
    BadKey {
        /// The part that is wrong.
        part: String,
    },
    /// This is no place for a store.
    #[error(
        "{location:?} cannot be an audio store: {problem}; expected a folder, or a URL such as s3://bucket/folder, gs://bucket/folder or az://container/folder"
    )]
    BadLocation {
        /// What was given, without a password.
        location: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The stream of bytes to be stored broke off; the store itself is fine.
    #[error("the incoming audio broke off")]
    Source(#[source] BoxError),
    /// The store failed. Trying again later may help.
    #[error("{action} in the audio store")]
    Failed {
        /// What was tried.
        action: String,
        /// What the store says.
        source: BoxError,
    },
}

impl StoreError {
    /// Whether the same call may succeed later without anybody changing the request.
    pub fn is_retryable(&self) -> bool {
        matches!(self, StoreError::Full { .. } | StoreError::Failed { .. })
    }

    /// Sorts an object store's error by what a caller can do about it.
    fn new(action: &str, key: &Key, error: object_store::Error) -> StoreError {
        let action = format!("{action} {key}");
        match error {
            object_store::Error::NotFound { .. } => StoreError::NotFound { key: key.clone() },
            error if is_full(&error) => StoreError::Full { action, source: Box::new(error) },
            error => StoreError::Failed { action, source: bucket::explain(error) },
        }
    }

    fn from_io(action: &str, key: &Key, error: io::Error) -> StoreError {
        let action = format!("{action} {key}");
        match error.kind() {
            io::ErrorKind::NotFound => StoreError::NotFound { key: key.clone() },
            _ if is_full(&error) => StoreError::Full { action, source: Box::new(error) },
            _ => StoreError::Failed { action, source: Box::new(error) },
        }
    }
}

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Its key.
    pub key: Key,
    /// Its bytes.
    pub size: u64,
    /// When it was written.
    pub modified: SystemTime,
}

/// The audio store. Clones share it.
#[derive(Clone)]
pub struct AudioStore {
    store: Arc<dyn ObjectStore>,
    /// What stands before every key, when the URL names a folder in a bucket.
    prefix: Path,
    /// The folder, where the store is one.
    root: Option<PathBuf>,
}

impl AudioStore {
    /// Opens the store at `location`: a folder (made if missing), `file://`, a folder in a bucket such as
    /// `s3://bucket/folder`, `gs://bucket/folder` or `az://container/folder`, or `memory:///` for one that ends with
    /// the process. Keys, regions and endpoints of buckets come from the environment, under the names their own tools
    /// use, such as `AWS_ACCESS_KEY_ID`, `GOOGLE_APPLICATION_CREDENTIALS` and `AZURE_STORAGE_ACCOUNT_NAME`.
    ///
    /// # Errors
    /// [`StoreError::BadLocation`], also when the folder cannot be made.
    pub fn open(location: &str) -> Result<AudioStore, StoreError> {
        AudioStore::open_with(location, &Env)
    }

    /// [`AudioStore::open`] with settings of object stores from `strings`.
    pub fn open_with(location: &str, strings: &dyn Strings) -> Result<AudioStore, StoreError> {
        // Others repeat the location in their messages, password and all.
        let bad = |problem: String| StoreError::BadLocation {
            location: conceal(location),
            problem: problem.replace(location, &conceal(location)),
        };
        if !location.contains("://") {
            return open_folder(path::Path::new(location)).map_err(|error| bad(chain(error.as_ref())));
        }
        let url: url::Url = location.parse().map_err(|error: url::ParseError| bad(error.to_string()))?;
        if url.scheme() == "file" {
            let folder = url
                .to_file_path()
                .map_err(|()| bad("it is not an absolute path on this machine".to_owned()))?;
            return open_folder(&folder).map_err(|error| bad(chain(error.as_ref())));
        }
        let (store, prefix) = open_bucket(&url, strings).map_err(bad)?;
        Ok(AudioStore { store, prefix, root: None })
    }

    /// Stores what `body` yields under `key`, replacing what was there, and returns its size and SHA-256 once it is
    /// durable. At most a few parts are in memory at a time. When anything goes wrong, or the returned future is
    /// dropped, nothing is stored under the key.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] as soon as `body` exceeds `limit` bytes, [`StoreError::Source`] when `body` fails,
    /// [`StoreError::Full`] and [`StoreError::Failed`] by the store.
    pub async fn put_stream<E: Into<BoxError>>(
        &self,
        key: &Key,
        body: impl Stream<Item = Result<Bytes, E>>,
        limit: u64,
    ) -> Result<Stored, StoreError> {
        let shape = if self.root.is_some() { upload::LOCAL } else { upload::REMOTE };
        upload::put(&self.store, &self.path(key), key, shape, body, limit).await
    }

    /// [`AudioStore::put_stream`] for bytes at hand.
    ///
    /// # Errors
    /// By the store.
    pub async fn put_bytes(&self, key: &Key, bytes: Bytes) -> Result<Stored, StoreError> {
        let body = futures::stream::iter([Ok::<_, BoxError>(bytes)]);
        self.put_stream(key, body, u64::MAX).await
    }

    /// All bytes under `key`.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] before anything is read when they exceed `limit`, [`StoreError::NotFound`].
    pub async fn get_bytes(&self, key: &Key, limit: u64) -> Result<Bytes, StoreError> {
        let result =
            self.store.get(&self.path(key)).await.map_err(|error| StoreError::new("read", key, error))?;
        if result.meta.size > limit {
            return Err(StoreError::TooLarge { limit });
        }
        result.bytes().await.map_err(|error| StoreError::new("read", key, error))
    }

    /// The bytes under `key` as they come.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or by the store; the stream ends with its first error.
    pub async fn get_stream(
        &self,
        key: &Key,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let result =
            self.store.get(&self.path(key)).await.map_err(|error| StoreError::new("read", key, error))?;
        let key = key.clone();
        Ok(result.into_stream().map_err(move |error| StoreError::new("read", &key, error)).boxed())
    }

    /// Opens the bytes under `key` for blocking reads and seeks, as decoders want them.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or by the store.
    pub async fn open_range_reader(&self, key: &Key) -> Result<RangeReader, StoreError> {
        match self.local_path(key) {
            Some(path) => {
                RangeReader::open_file(path).await.map_err(|error| StoreError::from_io("open", key, error))
            }
            None => {
                let meta = self.head(key).await?;
                Ok(RangeReader::open_remote(Arc::clone(&self.store), self.path(key), meta.size))
            }
        }
    }

    /// Size and time of what lies under `key`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or by the store.
    pub async fn head(&self, key: &Key) -> Result<Meta, StoreError> {
        let meta =
            self.store.head(&self.path(key)).await.map_err(|error| StoreError::new("look up", key, error))?;
        Ok(Meta { key: key.clone(), size: meta.size, modified: meta.last_modified.into() })
    }

    /// Everything below `prefix`, or everything, in no order. What has no key of ours is left out.
    pub fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<Meta, StoreError>> {
        let below = prefix.map_or_else(|| self.prefix.clone(), |key| self.path(key));
        let skip = self.prefix.parts().count();
        let named = prefix.cloned();
        let metas = self.store.list(Some(&below)).filter_map(move |result| {
            let item = match result {
                Ok(meta) => Key::new(meta.location.parts().skip(skip))
                    .ok()
                    .map(|key| Ok(Meta { key, size: meta.size, modified: meta.last_modified.into() })),
                // A file that went away while its folder was being read.
                Err(object_store::Error::NotFound { .. }) => None,
                Err(source) => {
                    let action =
                        named.as_ref().map_or("list everything".to_owned(), |key| format!("list {key}"));
                    Some(Err(StoreError::Failed { action, source: Box::new(source) }))
                }
            };
            std::future::ready(item)
        });
        metas.boxed()
    }

    /// Moves what lies under `from` to `to`, replacing what was there; durable on return. In object stores this is a
    /// copy and a delete: a crash between them leaves both.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is nothing under `from`, or by the store.
    pub async fn rename(&self, from: &Key, to: &Key) -> Result<(), StoreError> {
        let renamed = self.store.rename(&self.path(from), &self.path(to)).await;
        renamed.map_err(|error| StoreError::new("rename", from, error))?;
        if let Some(folder) = self.local_path(from).as_deref().and_then(path::Path::parent) {
            // Only an empty folder goes, and never a tenant's: others come and go under it all the time.
            if from.parts().count() > 2 {
                let _ = std::fs::remove_dir(folder);
            }
        }
        Ok(())
    }

    /// Removes what lies under `key`. That there is nothing is fine.
    ///
    /// # Errors
    /// By the store.
    pub async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        match self.store.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(StoreError::new("delete", key, error)),
        }
    }

    /// The file under `key`, where the store is a local folder; it need not exist.
    pub fn local_path(&self, key: &Key) -> Option<PathBuf> {
        let root = self.root.as_ref()?;
        Some(key.parts().fold(root.clone(), |path, part| path.join(part)))
    }

    /// Removes what uploads left behind that were cut off by a crash more than `age` ago; returns how many there were.
    /// Object stores do this by their own rules for unfinished multipart uploads: then there is nothing to do.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn remove_unfinished(&self, age: Duration) -> Result<usize, StoreError> {
        let Some(root) = self.root.clone() else { return Ok(0) };
        let work = move || upload::remove_unfinished(&root, age);
        let removed = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten();
        removed.map_err(|source| StoreError::Failed {
            action: "remove unfinished uploads".to_owned(),
            source: Box::new(source),
        })
    }

    fn path(&self, key: &Key) -> Path {
        self.prefix.parts().chain(key.parts().map(Into::into)).collect()
    }
}

impl fmt::Debug for AudioStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AudioStore({}/{})", self.store, self.prefix)
    }
}

fn open_folder(folder: &path::Path) -> Result<AudioStore, BoxError> {
    let folder = path::absolute(folder)?;
    let missing: Vec<_> = folder.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    std::fs::create_dir_all(&folder)?;
    for made in missing.iter().filter_map(|made| made.parent()) {
        std::fs::File::open(made)?.sync_all()?;
    }
    let root = std::fs::canonicalize(&folder)?;
    let store = LocalFileSystem::new_with_prefix(&root)?.with_fsync(true).with_automatic_cleanup(true);
    Ok(AudioStore { store: Arc::new(store), prefix: Path::default(), root: Some(root) })
}

/// Whether an error, or one it stems from, says that there is no room.
fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            if matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                return true;
            }
            // What an io::Error wraps is not its source: its source is the source of what it wraps.
            if io.get_ref().is_some_and(|inner| is_full(inner)) {
                return true;
            }
        }
        // Object stores answer in text: MinIO and Ceph by code, others by the HTTP status.
        let text = error.to_string();
        if ["507 Insufficient Storage", "XMinioStorageFull", "QuotaExceeded"]
            .iter()
            .any(|sign| text.contains(sign))
        {
            return true;
        }
        next = error.source();
    }
    false
}

fn conceal(location: &str) -> String {
    <crate::env::Url as crate::env::Value>::conceal(location)
}
