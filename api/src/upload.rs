//! A body on its way into the audio store: streamed, counted and hashed, raw or as a part of a form.

use std::error::Error as StdError;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::stream::{BoxStream, Stream, StreamExt, TryStreamExt};
use multer::{Constraints, Multipart, SizeLimit};
use service::env::ByteSize;
use service::store::{AudioStore, BoxError, Key, StoreError, Stored};
use warp::http::header::{CONTENT_LENGTH, CONTENT_TYPE};

use crate::call::Call;
use crate::config::Limits;
use crate::metrics;
use crate::params::Params;
use crate::reply::{Error, Kind};

/// The bytes of a request as they come.
pub type Body = BoxStream<'static, Result<Bytes, BoxError>>;

/// The largest text field of a form, in bytes.
const FIELD_BYTES_MAX: u64 = 64 * 1024;
/// A form may be this much larger than the audio in it.
const FORM_OVERHEAD_MAX: u64 = 1 << 20;
/// The most text fields of a form.
const FIELDS_MAX: usize = 256;

/// An upload that is in the audio store.
#[derive(Debug)]
pub struct Received {
    /// What was stored.
    pub stored: Stored,
    /// The file's name as the form told it.
    pub file_name: Option<String>,
    /// All other fields: those of the query, then those of the form.
    pub params: Params,
}

/// Which bodies a route takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// A form with the audio in `file`.
    Form,
    /// A form, or the audio itself with all fields in the query.
    FormOrRaw,
}

/// Makes a [`Body`] of what warp hands over.
pub fn body(stream: impl Stream<Item = Result<impl Buf, warp::Error>> + Send + 'static) -> Body {
    stream.map_ok(|mut piece| piece.copy_to_bytes(piece.remaining())).map_err(BoxError::from).boxed()
}

/// Streams the audio of a request into the store under `key`. When it fails, nothing is left there.
///
/// # Errors
/// As the client should read them: 400, 408, 413, 415, 429, 503.
pub async fn receive(
    store: &AudioStore,
    key: &Key,
    call: &Call,
    body: Body,
    takes: Takes,
    limits: &Limits,
) -> Result<Received, Error> {
    let announced =
        call.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let content_type = call.headers.get(CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or(""));
    let boundary = multer::parse_boundary(content_type).ok();
    let overhead = if boundary.is_some() { FORM_OVERHEAD_MAX } else { 0 };
    if let Some(bytes) = announced.filter(|&bytes| bytes > limits.upload.0.saturating_add(overhead)) {
        return Err(too_large(Some(bytes), limits.upload));
    }
    let target = Target { store, key, limits, announced };
    let params = call.params();
    let body = watch(body, limits.upload_idle);
    let received = match boundary {
        Some(boundary) => target.receive_form(body, boundary, params).await,
        None => {
            check_raw(content_type, takes)?;
            let stored = target.put(body).await?;
            Ok(Received { stored, file_name: None, params })
        }
    };
    match received {
        Ok(received) if received.stored.size > 0 => Ok(received),
        Ok(_) => {
            discard(store, key).await;
            let message = "there is no audio: the file is empty (0 bytes)";
            Err(Error { param: Some("file".to_owned()), ..Error::new(Kind::Bad, "empty_file", message) })
        }
        Err(error) => {
            discard(store, key).await;
            Err(error)
        }
    }
}

/// Removes what lies under `key`; that it fails is only worth a message, because the sweeper comes by.
pub async fn discard(store: &AudioStore, key: &Key) {
    if let Err(error) = store.delete(key).await {
        tracing::warn!(%key, %error, "cannot remove what an upload left");
    }
}

/// Where an upload goes and what holds for it.
struct Target<'a> {
    store: &'a AudioStore,
    key: &'a Key,
    limits: &'a Limits,
    announced: Option<u64>,
}

impl Target<'_> {
    async fn receive_form(
        &self,
        body: Body,
        boundary: String,
        mut params: Params,
    ) -> Result<Received, Error> {
        let sizes = SizeLimit::new().per_field(FIELD_BYTES_MAX).for_field("file", u64::MAX);
        let mut form = Multipart::with_constraints(body, boundary, Constraints::new().size_limit(sizes));
        let mut file: Option<(Stored, Option<String>)> = None;
        let mut fields = 0;
        while let Some(field) = form.next_field().await.map_err(|error| broken(&error))? {
            let name = field.name().unwrap_or_default().to_owned();
            if name == "file" {
                if file.is_some() {
                    return Err(Error::param(
                        "file",
                        "`file` is given more than once; send one file a request",
                    ));
                }
                let file_name = field.file_name().map(str::to_owned);
                file = Some((self.put(field).await?, file_name));
                continue;
            }
            fields += 1;
            if fields > FIELDS_MAX {
                return Err(Error::new(
                    Kind::Bad,
                    "too_many_fields",
                    format!("the form has more than {FIELDS_MAX} fields"),
                ));
            }
            if field.file_name().is_some() {
                return Err(Error::param(
                    name.clone(),
                    format!("`{name}` is a file; the audio goes in the field `file`"),
                ));
            }
            let text = field.text().await.map_err(|error| broken(&error))?;
            params.push(name, text);
        }
        match file {
            Some((stored, file_name)) => Ok(Received { stored, file_name, params }),
            None => Err(Error::param(
                "file",
                "`file` is missing: the form must have the audio in a field of that name",
            )),
        }
    }

    async fn put<E: Into<BoxError>>(
        &self,
        body: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<Stored, Error> {
        let stored = self.store.put_stream(self.key, body, self.limits.upload.0).await;
        stored.map_err(|error| match error {
            StoreError::TooLarge { .. } => too_large(self.announced, self.limits.upload),
            StoreError::Source(source) => broken(&*source),
            error => error.into(),
        })
    }
}

/// A raw body may be of any audio or video type, of none, or what curl says when it is not told.
fn check_raw(content_type: &str, takes: Takes) -> Result<(), Error> {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if takes == Takes::Form {
        let message = format!(
            "the body is {essence:?}; expected multipart/form-data with the audio in the field `file`"
        );
        return Err(Error::new(Kind::MediaType, "unsupported_media_type", message));
    }
    let family = essence.split('/').next().unwrap_or_default();
    let curls_default = essence == "application/x-www-form-urlencoded";
    let other_text = ["json", "xml", "html", "javascript"].iter().any(|word| essence.contains(word));
    if !curls_default && (matches!(family, "text" | "image" | "font" | "multipart") || other_text) {
        let message = format!(
            "the body is {essence:?}; expected audio or video, application/octet-stream, or multipart/form-data with the audio in the field `file`"
        );
        return Err(Error::new(Kind::MediaType, "unsupported_media_type", message));
    }
    Ok(())
}

fn too_large(announced: Option<u64>, limit: ByteSize) -> Error {
    let received = match announced {
        Some(bytes) if bytes > limit.0 => format!("{bytes} bytes"),
        _ => format!("more than {} bytes", limit.0),
    };
    let message = format!(
        "the upload is too large: {received}, and the limit is {} bytes ({limit}). Send it compressed or in pieces; the operator sets the limit by VOICEFORGE_API_UPLOAD_LIMIT",
        limit.0
    );
    metrics::refused("upload_too_large".to_owned());
    Error { param: Some("file".to_owned()), ..Error::new(Kind::TooLarge, "upload_too_large", message) }
}

/// Nothing came for as long as an upload may stand still.
#[derive(Debug, thiserror::Error)]
#[error("nothing came for {} s", .0.as_secs_f64())]
struct Idle(Duration);

/// The body, ended by [`Idle`] when nothing comes for `idle`.
fn watch(body: Body, idle: Duration) -> Body {
    let next = move |body: Option<Body>| async move {
        let mut body = body?;
        match tokio::time::timeout(idle, body.next()).await {
            Ok(piece) => piece.map(|piece| (piece, Some(body))),
            Err(_) => Some((Err(BoxError::from(Idle(idle))), None)),
        }
    };
    futures::stream::unfold(Some(body), next).boxed()
}

/// What a client should read when its body ended before it was whole, or made no sense.
fn broken(error: &(dyn StdError + 'static)) -> Error {
    let causes = causes(error);
    if let Some(Idle(idle)) = causes.iter().find_map(|cause| cause.downcast_ref::<Idle>()) {
        metrics::broken_upload("idle");
        let message =
            format!("the upload stood still for {} s and was given up; send it again", idle.as_secs_f64());
        return Error::new(Kind::Slow, "upload_idle", message);
    }
    match causes.iter().find_map(|cause| cause.downcast_ref::<multer::Error>()) {
        Some(multer::Error::FieldSizeExceeded { field_name, limit }) => {
            let name = field_name.clone().unwrap_or_default();
            Error::param(name.clone(), format!("`{name}` is longer than {limit} bytes"))
        }
        Some(multer::Error::StreamReadFailed(_)) | None => {
            metrics::broken_upload("disconnected");
            Error::new(
                Kind::Bad,
                "upload_incomplete",
                "the upload broke off before it was whole; send it again",
            )
        }
        Some(multer::Error::IncompleteStream | multer::Error::IncompleteFieldData { .. }) => {
            metrics::broken_upload("incomplete");
            Error::new(
                Kind::Bad,
                "upload_incomplete",
                "the form ends before its last boundary; send it again",
            )
        }
        Some(other) => Error::new(Kind::Bad, "bad_form", format!("the form cannot be read: {other}")),
    }
}

/// An error and all that it stems from.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> Vec<&'a (dyn StdError + 'static)> {
    let mut all = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        all.push(error);
        next = error.source();
    }
    all
}
