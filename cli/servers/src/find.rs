//! Finds the server programs on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The oldest Redis that will do: streams with auto-claim and the counters of consumer groups.
pub const REDIS_MAJOR_MIN: u32 = 7;

/// Finds an executable on PATH (and in the folders of system programs, which an ordinary user's PATH may lack).
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| is_executable(file))
}

/// Finds `redis-server` and checks that it is new enough.
pub fn redis_server() -> Result<PathBuf> {
    let Some(program) = on_path("redis-server") else {
        bail!("redis-server was not found; install it with: {}", remedy("redis-server"));
    };
    let output =
        Command::new(&program).arg("--version").output().context("ask redis-server for its version")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match redis_major(&said) {
        Some(major) if major < REDIS_MAJOR_MIN => {
            bail!(
                "{} is too old ({}); Redis {REDIS_MAJOR_MIN}.0 or newer is needed",
                program.display(),
                said.trim()
            )
        }
        _ => Ok(program),
    }
}

/// Folders that hold `initdb` and `postgres`, best first: `VOICEFORGE_POSTGRES_BIN`, PATH, Debian's, newest first.
pub fn postgres_bins() -> Vec<PathBuf> {
    let named = std::env::var_os("VOICEFORGE_POSTGRES_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut debian: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    debian.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    let mut found: Vec<PathBuf> = Vec::new();
    for folder in
        named.into_iter().chain(std::env::split_paths(&path)).chain(debian.into_iter().map(|(_, bin)| bin))
    {
        // A link into the real folder stands for that folder: initdb looks for its data files beside itself.
        let Ok(initdb) = folder.join("initdb").canonicalize() else { continue };
        let Some(real) = initdb.parent() else { continue };
        if is_executable(&initdb) && is_executable(&real.join("postgres")) && !found.iter().any(|f| f == real)
        {
            found.push(real.to_owned());
        }
    }
    found
}

/// The major version of the PostgreSQL in this folder, as `initdb --version` says it.
pub fn postgres_major(bin: &Path) -> Option<u32> {
    let output = Command::new(bin.join("initdb")).arg("--version").output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    said.split_whitespace().find_map(|word| word.split('.').next()?.parse().ok())
}

/// The one command that installs a Debian package here.
pub fn remedy(package: &str) -> String {
    let sudo = if nix::unistd::geteuid().is_root() { "" } else { "sudo " };
    if on_path("apt-get").is_some() {
        format!("{sudo}apt-get install -y {package}")
    } else {
        format!("your system's package manager (package {package})")
    }
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

fn redis_major(said: &str) -> Option<u32> {
    let version = said.split_whitespace().find_map(|word| word.strip_prefix("v="))?;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::redis_major;

    #[test]
    fn version_is_read_from_what_redis_says() {
        let said = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=ae4d7c971a948f0";
        assert_eq!(redis_major(said), Some(7));
        assert_eq!(redis_major("Redis server version 2.0"), None);
    }
}
