//! Brings the audio of a drop together: its first bytes, its size and its SHA-256, and where it lies now.
//! What is no audio by its first bytes is refused before the rest is fetched.

use bytes::{Bytes, BytesMut};
use events::Settings;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use service::chain;
use service::store::{BoxError, Key, StoreError};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::drop::{Head, Order, Origin};
use crate::intake::{FETCHING, Ingest, Setback, refused};
use crate::metrics;
use crate::sniff::{HEAD_BYTES, Sniffed, sniff};
use crate::source::{Incoming, SourceError};
use events::Cause;

/// Audio in reach.
pub(crate) struct Gathered {
    pub sha256: [u8; 32],
    /// Its size.
    pub bytes: u64,
    /// Its first bytes, at most [`HEAD_BYTES`].
    pub head: Bytes,
    /// Its container by its first bytes, else `unknown`.
    pub container: &'static str,
    /// Where it was fetched from, without what might be a secret.
    pub uri: Option<String>,
    pub place: Place,
}

/// Where gathered audio lies.
#[derive(Clone)]
pub(crate) enum Place {
    /// In memory.
    Memory(Bytes),
    /// In the store, under a key of this one attempt.
    Fetched(Key),
    /// In the store, where the API put it.
    Incoming(Key),
    /// In the store under its recording's own key: an earlier attempt came this far.
    Settled,
}

impl Ingest {
    /// Gathers the audio of a drop; `None` when the drop was ended before and nothing is left to do.
    pub(crate) async fn gather(
        &self,
        head: &Head,
        order: &Order,
        settings: &Settings,
    ) -> Result<Option<Gathered>, Setback> {
        match &order.origin {
            Origin::Inline(audio) => self.gather_inline(audio).await.map(Some),
            Origin::Uri(uri) => {
                let incoming = self.sources.open_uri(uri).await.map_err(source_setback)?;
                self.fetch(head, incoming).await.map(Some)
            }
            Origin::Store(key) => match self.inspect(key, Place::Incoming(key.clone())).await {
                Err(Gone::NotFound) => self.gather_settled(head, order, settings).await,
                Err(Gone::Setback(setback)) => Err(setback),
                Ok(gathered) => Ok(Some(gathered)),
            },
        }
    }

    async fn gather_inline(&self, audio: &Bytes) -> Result<Gathered, Setback> {
        let (bytes, max) = (audio.len() as u64, self.rules.inline_bytes_max);
        if bytes > max {
            let message = format!(
                "`audio` has {bytes} bytes, more than the {max} a drop may carry; use `uri`, or POST /v1/recordings"
            );
            return Err(refused("too_large", message));
        }
        let head = audio.slice(..audio.len().min(HEAD_BYTES));
        let container = container_of(&head)?;
        let all = audio.clone();
        let sha256 = tokio::task::spawn_blocking(move || Sha256::digest(&all).into()).await;
        let sha256 = sha256.map_err(|error| Setback::Failed(Cause::new("hash", error.to_string())))?;
        Ok(Gathered { sha256, bytes, head, container, uri: None, place: Place::Memory(audio.clone()) })
    }

    /// Streams audio from outside into the store, under a key that no other attempt uses.
    async fn fetch(&self, head: &Head, incoming: Incoming) -> Result<Gathered, Setback> {
        let max = self.rules.bytes_max;
        if let Some(bytes) = incoming.bytes.filter(|bytes| *bytes > max) {
            return Err(too_large(bytes, max));
        }
        let (start, first, rest) = peek(incoming.body).await.map_err(broke_off)?;
        let container = container_of(&first)?;
        let key = Key::new([FETCHING, &head.id, &Uuid::new_v4().to_string()])
            .map_err(|error| Setback::Failed(Cause::new("store", error.to_string())))?;
        let body = stream::iter(start.into_iter().map(Ok)).chain(rest);
        let stored = match self.store.put_stream(&key, body, max).await {
            Ok(stored) => stored,
            Err(StoreError::TooLarge { limit }) => return Err(too_large(limit + 1, limit)),
            Err(StoreError::Source(error)) => return Err(broke_off(error)),
            Err(error) => return Err(self.store_setback(error).await),
        };
        metrics::fetched(incoming.scheme, stored.size);
        Ok(Gathered {
            sha256: stored.sha256,
            bytes: stored.size,
            head: first,
            container,
            uri: Some(incoming.shown),
            place: Place::Fetched(key),
        })
    }

    /// Finds audio that an earlier attempt moved from `incoming` to its recording's own key.
    async fn gather_settled(
        &self,
        head: &Head,
        order: &Order,
        settings: &Settings,
    ) -> Result<Option<Gathered>, Setback> {
        if let Some(sha256) = &order.sha256 {
            let own = self.name_recording(head, order, settings, sha256).audio;
            match self.inspect(&own, Place::Settled).await {
                Err(Gone::NotFound) => {}
                Err(Gone::Setback(setback)) => return Err(setback),
                Ok(gathered) => return Ok(Some(gathered)),
            }
        }
        match self.log.drop_outcome(&head.id).await.map_err(crate::intake::setback)? {
            Some(_) => Ok(None),
            None => {
                let message = "its audio is not in the audio store any more; send it again";
                Err(refused("audio_gone", message))
            }
        }
    }

    /// Reads audio in the store from end to end.
    async fn inspect(&self, key: &Key, place: Place) -> Result<Gathered, Gone> {
        let failed = |error| async move {
            match error {
                StoreError::NotFound { .. } => Gone::NotFound,
                error => Gone::Setback(self.store_setback(error).await),
            }
        };
        let mut body = match self.store.get_stream(key).await {
            Ok(body) => body,
            Err(error) => return Err(failed(error).await),
        };
        let (mut hash, mut bytes, mut head) = (Sha256::new(), 0, BytesMut::new());
        while let Some(chunk) = body.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => return Err(failed(error).await),
            };
            hash.update(&chunk);
            bytes += chunk.len() as u64;
            head.extend_from_slice(&chunk[..chunk.len().min(HEAD_BYTES - head.len())]);
        }
        let (head, max) = (head.freeze(), self.rules.bytes_max);
        let container = container_of(&head).map_err(Gone::Setback)?;
        if bytes > max {
            return Err(Gone::Setback(too_large(bytes, max)));
        }
        Ok(Gathered { sha256: hash.finalize().into(), bytes, head, container, uri: None, place })
    }
}

/// Why audio in the store could not be inspected.
enum Gone {
    NotFound,
    Setback(Setback),
}

/// Reads until the head is complete; returns what was read, the head, and what is left to read.
async fn peek<E>(
    mut body: BoxStream<'static, Result<Bytes, E>>,
) -> Result<(Vec<Bytes>, Bytes, impl Stream<Item = Result<Bytes, E>>), E> {
    let (mut start, mut head) = (Vec::new(), BytesMut::new());
    while head.len() < HEAD_BYTES
        && let Some(chunk) = body.next().await
    {
        let chunk = chunk?;
        head.extend_from_slice(&chunk[..chunk.len().min(HEAD_BYTES - head.len())]);
        start.push(chunk);
    }
    Ok((start, head.freeze(), body))
}

fn container_of(head: &[u8]) -> Result<&'static str, Setback> {
    if head.is_empty() {
        return Err(refused("empty_audio", "the audio has no bytes; check what was sent"));
    }
    match sniff(head) {
        Sniffed::Container(name) => Ok(name),
        Sniffed::Unknown => Ok("unknown"),
        Sniffed::NotAudio(kind) => {
            Err(refused("not_audio", format!("this is {kind}, not audio; send the recording itself")))
        }
    }
}

fn too_large(bytes: u64, max: u64) -> Setback {
    let message = format!(
        "the audio has {bytes} bytes or more, and at most {max} are accepted; compress it, or raise VOICEFORGE_MAX_BYTES"
    );
    refused("too_large", message)
}

fn source_setback(error: SourceError) -> Setback {
    match error {
        SourceError::Refused(cause) => Setback::Refused { cause, leftover: None },
        SourceError::Unavailable(message) => Setback::Failed(Cause::new("source_unavailable", message)),
    }
}

fn broke_off(error: BoxError) -> Setback {
    match error.downcast::<SourceError>() {
        Ok(error) => source_setback(*error),
        Err(error) => {
            let message = format!("reading the audio broke off: {}", chain(error.as_ref()));
            Setback::Failed(Cause::new("source_unavailable", message))
        }
    }
}
