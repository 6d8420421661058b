//! Files within the folders that uris may point into.

use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

use futures::StreamExt;
use tokio_util::io::ReaderStream;
use url::Url;

use super::{Incoming, SourceError, show_uri};

/// Bytes read at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// Why a file cannot be read.
#[derive(Debug)]
pub enum Error {
    /// It is in none of the folders.
    Outside,
    /// It is, and yet.
    Source(SourceError),
}

/// Opens the file behind a `file:` uri, if it really lies in one of `folders`: links are followed before looking.
pub async fn open(folders: &[PathBuf], uri: &Url) -> Result<Incoming, Error> {
    let path = uri.to_file_path().map_err(|()| Error::Outside)?;
    let (folders, shown) = (folders.to_vec(), show_uri(uri));
    // Looking at paths may block for long on a network share.
    let opened = tokio::task::spawn_blocking(move || open_within(&folders, &path)).await;
    let opened = opened.unwrap_or_else(|error| Err(Problem::Io(io::Error::other(error))));
    let (file, bytes) = opened.map_err(|problem| match problem {
        Problem::Outside => Error::Outside,
        Problem::NoFile => refused("not_audio", format!("{shown} is not a regular file; name a file")),
        Problem::Io(error) => explain(&error, &shown),
    })?;
    let body = ReaderStream::with_capacity(tokio::fs::File::from_std(file), CHUNK_BYTES);
    let body = body.map(|chunk| chunk.map_err(Into::into)).boxed();
    Ok(Incoming { scheme: "file", body, bytes: Some(bytes), shown })
}

enum Problem {
    Outside,
    NoFile,
    Io(io::Error),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        Problem::Io(error)
    }
}

fn open_within(folders: &[PathBuf], path: &Path) -> Result<(std::fs::File, u64), Problem> {
    // What lies outside is refused before it is looked for, so that answers do not tell what is there.
    let within = |path: &Path, folders: &[PathBuf]| folders.iter().any(|folder| path.starts_with(folder));
    let climbs = path.components().any(|part| part == Component::ParentDir);
    let real: Vec<PathBuf> = folders.iter().filter_map(|folder| folder.canonicalize().ok()).collect();
    if climbs || !(within(path, folders) || within(path, &real)) {
        return Err(Problem::Outside);
    }
    let path = path.canonicalize()?;
    if !within(&path, &real) {
        return Err(Problem::Outside);
    }
    // Opening anything else, such as a pipe, could wait for ever.
    if !path.metadata()?.is_file() {
        return Err(Problem::NoFile);
    }
    let file = std::fs::File::open(&path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

fn explain(error: &io::Error, shown: &str) -> Error {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            refused("not_found", format!("there is no {shown}; check the name"))
        }
        ErrorKind::PermissionDenied => {
            refused("not_readable", format!("ingest may not read {shown}; let its user read the file"))
        }
        _ => Error::Source(SourceError::Unavailable(format!("cannot read {shown}: {error}"))),
    }
}

fn refused(code: &str, message: String) -> Error {
    Error::Source(SourceError::refused(code, message))
}
