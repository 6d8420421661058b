//! Where audio is read: a file, or standard input.

use std::os::fd::AsFd;
use std::path::Path;

use anyhow::Context;
use tokio::fs::File;

/// Whether this path means standard input.
pub fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// Standard input, without the lock and the buffer that come with it elsewhere.
///
/// # Errors
/// By the system.
pub fn stdin() -> anyhow::Result<File> {
    let own = std::io::stdin().as_fd().try_clone_to_owned().context("open standard input")?;
    Ok(File::from_std(std::fs::File::from(own)))
}

/// Opens a file and tells its size.
///
/// # Errors
/// When it cannot be opened or is no file.
pub async fn open(path: &Path) -> anyhow::Result<(File, u64)> {
    let opened = async {
        let file = File::open(path).await?;
        let about = file.metadata().await?;
        std::io::Result::Ok((file, about))
    };
    let (file, about) = opened.await.with_context(|| format!("open {}", path.display()))?;
    anyhow::ensure!(!about.is_dir(), "{} is a folder", path.display());
    Ok((file, about.len()))
}

/// The last part of a path, as the name of what is in it.
pub fn name(path: &Path) -> String {
    match is_stdin(path) {
        true => "stdin".to_owned(),
        false => path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
    }
}
