//! Taking bytes in: parts of one size, a few at a time, hashed and counted on the way.

use std::io;
use std::path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{Stream, StreamExt};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use super::{BoxError, Key, StoreError};

/// What was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// How many bytes.
    pub size: u64,
    /// Their SHA-256.
    pub sha256: [u8; 32],
}

impl Stored {
    /// The SHA-256 as 64 hexadecimal digits.
    pub fn sha256_hex(&self) -> String {
        hex::encode(self.sha256)
    }
}

/// How an upload is cut up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    part_bytes: usize,
    parts_max: usize,
}

/// Files take parts of any size: small ones keep memory low when many uploads run.
pub(super) const LOCAL: Shape = Shape { part_bytes: 1 << 20, parts_max: 2 };

/// S3 takes 10,000 parts of at least 5 MiB, some kinds of it only parts of one size: this gives 80 GB.
pub(super) const REMOTE: Shape = Shape { part_bytes: 8 << 20, parts_max: 4 };

/// The work of [`put_stream`](super::AudioStore::put_stream).
pub(super) async fn put<E: Into<BoxError>>(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
    key: &Key,
    shape: Shape,
    body: impl Stream<Item = Result<Bytes, E>>,
    limit: u64,
) -> Result<Stored, StoreError> {
    let failed = |error| StoreError::new("write", key, error);
    let mut upload = Upload {
        store,
        path,
        shape,
        parts: JoinSet::new(),
        multipart: None,
        buffer: Vec::new(),
        buffered: 0,
    };
    match upload.take_in(body, limit, failed).await {
        Ok(stored) => upload.complete().await.map_err(failed).map(|()| stored),
        Err(error) => {
            upload.abort().await;
            Err(error)
        }
    }
}

/// An upload under way. A body smaller than one part is put in a single request.
struct Upload<'a> {
    store: &'a Arc<dyn ObjectStore>,
    path: &'a Path,
    shape: Shape,
    multipart: Option<Box<dyn MultipartUpload>>,
    /// Parts on their way. They go on while the body is waited for.
    parts: JoinSet<object_store::Result<()>>,
    /// The part being gathered, and its bytes.
    buffer: Vec<Bytes>,
    buffered: usize,
}

impl Upload<'_> {
    async fn take_in<E: Into<BoxError>>(
        &mut self,
        body: impl Stream<Item = Result<Bytes, E>>,
        limit: u64,
        failed: impl Fn(object_store::Error) -> StoreError,
    ) -> Result<Stored, StoreError> {
        let mut body = pin!(body);
        let (mut size, mut sha256) = (0_u64, Sha256::new());
        while let Some(chunk) = body.next().await {
            let mut chunk = chunk.map_err(|error| StoreError::Source(error.into()))?;
            size += chunk.len() as u64;
            if size > limit {
                return Err(StoreError::TooLarge { limit });
            }
            while !chunk.is_empty() {
                let room = self.shape.part_bytes - self.buffered;
                let piece = chunk.split_to(room.min(chunk.len()));
                sha256.update(&piece);
                self.buffered += piece.len();
                self.buffer.push(piece);
                if self.buffered == self.shape.part_bytes {
                    self.send_part().await.map_err(&failed)?;
                }
            }
        }
        Ok(Stored { size, sha256: sha256.finalize().into() })
    }

    async fn send_part(&mut self) -> object_store::Result<()> {
        while self.parts.len() >= self.shape.parts_max {
            self.join_part().await?;
        }
        let multipart = match &mut self.multipart {
            Some(multipart) => multipart,
            none => none.insert(self.store.put_multipart(self.path).await?),
        };
        self.buffered = 0;
        self.parts.spawn(multipart.put_part(self.buffer.drain(..).collect::<PutPayload>()));
        Ok(())
    }

    async fn join_part(&mut self) -> object_store::Result<()> {
        match self.parts.join_next().await {
            Some(joined) => joined?,
            None => Ok(()),
        }
    }

    async fn complete(mut self) -> object_store::Result<()> {
        if self.multipart.is_none() {
            let payload = self.buffer.drain(..).collect::<PutPayload>();
            return self.store.put(self.path, payload).await.map(drop);
        }
        match self.finish_parts().await {
            Ok(()) => Ok(()),
            Err(error) => {
                self.abort().await;
                Err(error)
            }
        }
    }

    async fn finish_parts(&mut self) -> object_store::Result<()> {
        if self.buffered > 0 {
            self.send_part().await?;
        }
        while !self.parts.is_empty() {
            self.join_part().await?;
        }
        match &mut self.multipart {
            Some(multipart) => multipart.complete().await.map(drop),
            None => Ok(()),
        }
    }

    /// Takes back what was sent. The upload has failed already: that this fails too is only worth a message.
    async fn abort(mut self) {
        self.parts.shutdown().await;
        let Some(mut multipart) = self.multipart else { return };
        if let Err(error) = multipart.abort().await {
            tracing::debug!(path = %self.path, "abort upload: {error}");
        }
    }
}

/// Removes files of [`LOCAL`] uploads, `<name>#<number>`, that nobody has written to for `age`.
pub(super) fn remove_unfinished(folder: &path::Path, age: Duration) -> io::Result<usize> {
    let mut removed = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // Anything may go away meanwhile: then it needs no removing.
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            removed += remove_unfinished(&entry.path(), age).unwrap_or(0);
            continue;
        }
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.rsplit_once('#')).map_or("", |(_, number)| number);
        let unfinished = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let old = SystemTime::now().duration_since(meta.modified()?).is_ok_and(|since| since >= age);
        if unfinished && old && std::fs::remove_file(entry.path()).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}
