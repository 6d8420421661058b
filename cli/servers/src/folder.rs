//! Folders that a server's user can reach, even where the caller is root and the server may not be.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::unistd::{Gid, Uid, User};

/// The user who runs a server that refuses root.
#[derive(Debug, Clone, Copy)]
pub struct Servant {
    pub uid: Uid,
    pub gid: Gid,
}

/// Picks `postgres`, else `nobody`, when the caller is root; an ordinary user runs the server as herself: `None`.
pub fn servant() -> Result<Option<Servant>> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name).context("look up a user for PostgreSQL")? {
            return Ok(Some(Servant { uid: user.uid, gid: user.gid }));
        }
    }
    Err(anyhow!("PostgreSQL refuses to run as root and there is neither a user `postgres` nor `nobody`"))
}

/// Makes `wished` for the servant (mode 0700) and returns where it really is.
///
/// Where the servant may not pass a parent of `wished` (a checkout under /root), the folder goes under /var/lib and
/// `wished` becomes a link to it.
pub fn make(wished: &Path, servant: Option<Servant>) -> Result<PathBuf> {
    let parent = wished.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).with_context(|| format!("make folder {}", parent.display()))?;
    let Some(servant) = servant else {
        make_private(wished)?;
        return wished.canonicalize().with_context(|| format!("find {}", wished.display()));
    };
    let real = if wished.is_symlink() {
        std::fs::read_link(wished)?
    } else if is_passable(parent) {
        wished.to_owned()
    } else {
        let real = Path::new("/var/lib/voiceforge").join(flat_name(wished));
        symlink(&real, wished).with_context(|| format!("link {}", wished.display()))?;
        real
    };
    if let Some(above) = real.parent() {
        std::fs::create_dir_all(above).with_context(|| format!("make folder {}", above.display()))?;
    }
    make_private(&real)?;
    chown(&real, Some(servant.uid.as_raw()), Some(servant.gid.as_raw()))
        .with_context(|| format!("give {} to PostgreSQL's user", real.display()))?;
    Ok(real)
}

/// True when every user may pass through `folder` and all folders above it.
pub fn is_passable(folder: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else { return false };
    folder.ancestors().all(|f| f.metadata().is_ok_and(|m| m.permissions().mode() & 0o001 != 0))
}

fn make_private(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let mut builder = std::fs::DirBuilder::new();
    builder.mode(0o700).create(folder).with_context(|| format!("make folder {}", folder.display()))
}

/// One name for a whole path, so that two folders never share a place under /var/lib.
fn flat_name(path: &Path) -> String {
    let text = path.display().to_string();
    text.trim_start_matches('/').replace('%', "%25").replace('/', "%2F")
}

#[cfg(test)]
mod tests {
    use super::flat_name;
    use std::path::Path;

    #[test]
    fn different_paths_keep_different_names() {
        assert_eq!(flat_name(Path::new("/root/a/b")), "root%2Fa%2Fb");
        assert_ne!(flat_name(Path::new("/a/b")), flat_name(Path::new("/a%2Fb")));
    }
}
