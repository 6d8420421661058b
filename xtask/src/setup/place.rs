//! Things of the cache: made once, whole or not at all.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// Returns `cache/name`, made by `make` in a temporary folder when it is not there yet.
pub fn folder(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let place = crate::cache().join(name);
    if place.exists() {
        return Ok(place);
    }
    temporary(|temporary| {
        let new = temporary.join("new");
        std::fs::create_dir(&new)?;
        make(&new)?;
        let above = place.parent().context("find the folder above")?;
        std::fs::create_dir_all(above)?;
        match std::fs::rename(&new, &place) {
            // Another run was quicker: what it made is as good.
            Err(_) if place.exists() => Ok(()),
            other => other.with_context(|| format!("put {} in place", place.display())),
        }
    })?;
    Ok(place)
}

/// Gives `work` an empty folder of the cache and removes it afterwards.
pub fn temporary<T>(work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = crate::cache().join(format!("tmp-{}-{number}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).with_context(|| format!("make folder {}", folder.display()))?;
    let result = work(&folder);
    let _ = std::fs::remove_dir_all(&folder);
    result
}

/// Refuses a file whose SHA-256 is not the expected one.
pub fn check_sha256(file: &Path, expected: &str) -> Result<()> {
    let mut digest = Sha256::new();
    let mut reader = std::fs::File::open(file).with_context(|| format!("open {}", file.display()))?;
    std::io::copy(&mut reader, &mut digest)?;
    let got: String = digest.finalize().iter().map(|b| format!("{b:02x}")).collect();
    if got != expected {
        bail!("{} is not the expected file: SHA-256 {got}, expected {expected}", file.display());
    }
    Ok(())
}
