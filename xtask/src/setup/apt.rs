//! Debian's packages: installed when the caller is root, else named in one command to run.
//!
//! Nothing is started and no database cluster is made: only the programs are wanted.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::say;

/// Installs packages a chore cannot do without; `why` names what was looked for.
pub fn need(why: &str, packages: &[&str]) -> Result<()> {
    if may_install() {
        return say::step(format_args!("installing {} (apt)", packages.join(", ")), || install(packages));
    }
    if servers::find::on_path("apt-get").is_some() {
        bail!(
            "{why} was not found; run: sudo apt-get install -y --no-install-recommends {}",
            packages.join(" ")
        );
    }
    bail!("{why} was not found; install it with your system's package manager ({})", packages.join(" "));
}

/// Installs what is missing of pairs (program, package) when root; otherwise says which tests will skip.
pub fn wish(pairs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> =
        pairs.iter().filter(|(program, _)| servers::find::on_path(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    if may_install() {
        return need(missing[0].0, &packages);
    }
    say::note(format_args!("without {} some tests will skip", packages.join(", ")));
    Ok(())
}

/// Downloads a package without installing it and unpacks it into `folder`. Needs no root.
pub fn unpack(package: &str, folder: &Path) -> Result<()> {
    let download = || run(Command::new("apt-get").args(["download", package]).current_dir(folder));
    if download().is_err() {
        if !is_root() {
            bail!("apt-get does not know {package}");
        }
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        download()?;
    }
    let deb = std::fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .with_context(|| format!("find the downloaded package {package}"))?;
    run(Command::new("dpkg").arg("-x").arg(&deb).arg(folder))
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn may_install() -> bool {
    is_root() && servers::find::on_path("apt-get").is_some()
}

fn install(packages: &[&str]) -> Result<()> {
    // Debian's own switches: services stay down, and PostgreSQL makes no cluster of its own.
    let _no_services = Temporary::script("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n")?;
    let _no_cluster = Temporary::text(
        "/etc/postgresql-common/createcluster.d/voiceforge-setup.conf",
        "create_main_cluster = false\n",
    )?;
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"])
            .args(packages);
        run(&mut apt)
    };
    if install().is_err() {
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        install()?;
    }
    Ok(())
}

/// Runs a command quietly; what it said is shown only when it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}").replace('"', "");
    let output =
        command.stdin(std::process::Stdio::null()).output().with_context(|| format!("run {shown}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().collect();
    bail!("{shown} failed ({}):\n{}", output.status, lines[lines.len().saturating_sub(15)..].join("\n"))
}

/// A file that exists only while packages are installed. One that was there before is left alone.
struct Temporary(Option<PathBuf>);

impl Temporary {
    fn text(path: &str, text: &str) -> Result<Temporary> {
        let path = PathBuf::from(path);
        if path.exists() {
            return Ok(Temporary(None));
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("make folder {}", folder.display()))?;
        }
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(Temporary(Some(path)))
    }

    fn script(path: &str, text: &str) -> Result<Temporary> {
        use std::os::unix::fs::PermissionsExt;
        let file = Temporary::text(path, text)?;
        if file.0.is_some() {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
        }
        Ok(file)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}
