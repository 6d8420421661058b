//! Which model to use, of those that are there.

use std::path::{Path, PathBuf};

use anyhow::bail;

use super::bytes_of;
use crate::config::Config;
use crate::stack::Stack;

/// A model that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The folder of models that it is in.
    pub folder: PathBuf,
    /// Its name.
    pub name: String,
}

/// Where models may be, the first place first: where a flag says, and nowhere else; without one in the folder of this
/// machine, and in that of what `up` started in `data`.
pub fn folders(flag: Option<&Path>, config: &Config, data: &Path) -> Vec<PathBuf> {
    if let Some(folder) = flag {
        return vec![folder.to_owned()];
    }
    let started = Stack::attach(data).ok().and_then(|stack| stack.record().models.clone());
    let started = started.filter(|folder| *folder != config.models);
    std::iter::once(config.models.clone()).chain(started).collect()
}

/// Chooses the model by name; without a wish it is tiny.en where that is there, else the first one, of the first folder
/// that holds any.
///
/// # Errors
/// When there is none, or not the one wished for, with the line that fetches it.
pub fn choose(folders: &[PathBuf], wished: Option<&str>) -> anyhow::Result<Choice> {
    let all: Vec<(&PathBuf, Vec<String>)> = folders.iter().map(|folder| (folder, names(folder))).collect();
    let chosen = all.iter().find_map(|(folder, names)| {
        let is_there = |name: &&str| names.iter().any(|known| known == name);
        let name = match wished {
            Some(wished) => is_there(&wished).then_some(wished),
            None => Some("tiny.en").filter(is_there).or(names.first().map(String::as_str)),
        };
        Some(Choice { folder: folder.to_path_buf(), name: name?.to_owned() })
    });
    if let Some(chosen) = chosen {
        return Ok(chosen);
    }
    let places: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    let places = places.join(" or ");
    let name = wished.unwrap_or("tiny.en");
    let known: Vec<String> = all.into_iter().flat_map(|(_, names)| names).collect();
    if known.is_empty() {
        bail!(
            "there is no model in {places}; `voiceforge models pull {name}` fetches one, --models names another folder"
        )
    }
    bail!(
        "there is no model {name:?} in {places}, only {}; `voiceforge models pull {name}` fetches it",
        known.join(", ")
    )
}

/// The models in a folder, by their names in order.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| bytes_of(&entry.path()) > 0)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use service::env::Map;

    use super::*;
    use crate::stack::{Process, Record};

    fn put(folder: &Path, name: &str, file: &str) {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        std::fs::write(folder.join(name).join(file), "x").unwrap();
    }

    #[test]
    fn a_model_is_chosen_by_wish_then_by_habit_then_by_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let at = [folder.path().to_owned()];
        let told = choose(&[at[0].join("nowhere")], None).unwrap_err().to_string();
        assert!(told.contains("`voiceforge models pull tiny.en`"), "{told}");
        put(&at[0], "small", "model.safetensors");
        put(&at[0], "base", "model.bin");
        put(&at[0], "notes", "readme.txt");
        assert_eq!(choose(&at, None).unwrap().name, "base");
        assert_eq!(choose(&at, Some("small")).unwrap().name, "small");
        let told = choose(&at, Some("tiny.en")).unwrap_err().to_string();
        assert!(told.contains("only base, small; `voiceforge models pull tiny.en`"), "{told}");
        put(&at[0], "tiny.en", "model.bin");
        assert_eq!(choose(&at, None).unwrap().name, "tiny.en");
    }

    #[test]
    fn what_is_not_here_may_be_where_up_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let [data, own, other] = ["data", "own", "other"].map(|name| folder.path().join(name));
        put(&other, "base", "model.bin");
        std::fs::create_dir(&data).unwrap();
        let process = Process { pid: 0, started: 0, admin: None };
        let record = Record {
            keeper: process,
            api_url: "http://127.0.0.1:4001".to_owned(),
            redis_url: "redis://127.0.0.1:4002".to_owned(),
            database_url: "postgres://127.0.0.1:4003/voiceforge".to_owned(),
            logs: data.join("logs"),
            models: Some(other.clone()),
            programs: [].into(),
        };
        record.write(&data).unwrap();
        let path = |path: &Path| path.display().to_string();
        let variables = [("VOICEFORGE_DATA", path(&data)), ("VOICEFORGE_MODELS", path(&own))];
        let config = Config::of(&Map::from(variables)).unwrap();
        let places = folders(None, &config, &config.data);
        assert_eq!(places, [own.clone(), other.clone()]);
        assert_eq!(folders(Some(&data), &config, &config.data), [data]);

        let found = Choice { folder: other.clone(), name: "base".to_owned() };
        assert_eq!(choose(&places, None).unwrap(), found);
        put(&own, "small", "model.bin");
        assert_eq!(choose(&places, Some("base")).unwrap(), found);
        let told = choose(&places, Some("tiny.en")).unwrap_err().to_string();
        let both = format!("in {} or {}, only small, base;", own.display(), other.display());
        assert!(told.contains(&both), "{told}");
    }
}
