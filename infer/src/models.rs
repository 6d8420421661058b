//! The models folder: `<models>/<name>/` holds one model each.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use crate::model::{self, LoadError, weights::Weights};
use crate::tokens::languages_of;

/// What a model is, known without loading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// Its folder's name.
    pub name: String,
    /// SHA-256 of the weights file in hexadecimal; of all of them one after another, in the order of their
    /// names, where there are several.
    pub sha256: String,
    /// Whether it knows languages beside English, and can translate.
    pub multilingual: bool,
    /// Mel bands it hears: 80 or 128.
    pub mels: usize,
    /// Codes of the languages it knows.
    pub languages: Vec<&'static str>,
}

/// What a models folder holds.
#[derive(Debug, Default)]
pub struct Models {
    /// Usable models by name.
    pub models: Vec<ModelInfo>,
    /// Folders that cannot be used, and why.
    pub broken: Vec<(String, LoadError)>,
}

/// Why a name is no model.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Nothing has this name.
    #[error("there is no model {name:?} in {}; there is: {present}", folder.display())]
    Unknown {
        /// The name asked for.
        name: String,
        /// The models folder.
        folder: PathBuf,
        /// The names that are there.
        present: String,
    },
    /// The models folder cannot be listed.
    #[error("list models folder {}: {source}", folder.display())]
    Folder {
        /// The models folder.
        folder: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Lists the models of a folder in the order of their names. Folders without weights are passed over.
pub fn scan(folder: &Path) -> Result<Models, ResolveError> {
    let mut found = Models::default();
    for name in names(folder)? {
        let folder = folder.join(&name);
        match Weights::open(&folder).and_then(|weights| info(&folder, &weights)) {
            Ok(info) => found.models.push(info),
            Err(LoadError::Missing { .. }) => {}
            Err(error) => found.broken.push((name, error)),
        }
    }
    Ok(found)
}

/// Finds the folder of a model by name.
pub fn resolve(folder: &Path, name: &str) -> Result<PathBuf, ResolveError> {
    let names = names(folder)?;
    if names.iter().any(|known| known == name) {
        return Ok(folder.join(name));
    }
    let present = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    Err(ResolveError::Unknown { name: name.to_owned(), folder: folder.to_owned(), present })
}

/// Describes an opened model.
pub(crate) fn info(folder: &Path, weights: &Weights) -> Result<ModelInfo, LoadError> {
    let dims = model::dims(weights)?;
    let full = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    Ok(ModelInfo {
        name: full.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        sha256: sha256(weights.files())?,
        multilingual: dims.multilingual(),
        mels: dims.mels,
        languages: languages_of(dims.vocabulary),
    })
}

fn names(folder: &Path) -> Result<Vec<String>, ResolveError> {
    let list = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.path().is_dir() {
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort();
        Ok(names)
    };
    list().map_err(|source| ResolveError::Folder { folder: folder.to_owned(), source })
}

/// Hashes weights, or takes the hash from the side file `<first weights file>.sha256` if it was written for
/// files of the same sizes and times of change.
fn sha256(files: &[PathBuf]) -> Result<String, LoadError> {
    let mut stamp = String::new();
    for file in files {
        let about = fs::metadata(file).map_err(|source| LoadError::io(file, source))?;
        let changed =
            about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        stamp += &format!(" {}@{}", about.len(), changed.as_nanos());
    }
    let side = side_file(&files[0]);
    if let Ok(text) = fs::read_to_string(&side)
        && let Some(hash) = text.trim_end().strip_suffix(&stamp)
        && hash.len() == 64
        && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        return Ok(hash.to_owned());
    }
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    for file in files {
        let io = |source| LoadError::io(file, source);
        let mut opened = fs::File::open(file).map_err(io)?;
        loop {
            match opened.read(&mut buffer).map_err(io)? {
                0 => break,
                count => hasher.update(&buffer[..count]),
            }
        }
    }
    let hash = hex::encode(hasher.finalize());
    // A models folder may be read-only; then the hash is computed each time.
    if let Err(error) = fs::write(&side, format!("{hash}{stamp}\n")) {
        tracing::debug!(file = %side.display(), %error, "cannot keep the hash of the weights");
    }
    Ok(hash)
}

fn side_file(weights: &Path) -> PathBuf {
    let mut name = weights.as_os_str().to_owned();
    name.push(".sha256");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests;
