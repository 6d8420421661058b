//! What the environment says; flags of the commands win over it.

use std::path::PathBuf;

use anyhow::{Context, bail};
use service::env::{self, Env, Reader, Secret, Strings, Url};

use crate::stack::{Attached, Stack};
use crate::wishes;

/// Where the API is when nobody says: where `voiceforge-api` listens by default.
const SERVER: &str = "http://127.0.0.1:8080";

/// Values of `VOICEFORGE_*` variables and of a few others.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder of what `up` starts, and of what commands remember.
    pub data: PathBuf,
    /// Whether somebody chose that folder.
    pub data_is_chosen: bool,
    /// The folder with a folder for each model.
    pub models: PathBuf,
    /// The model to use unless another is named.
    pub model: Option<String>,
    /// Where the API is.
    pub server: Option<Url>,
    /// The key to show it.
    pub api_key: Option<Secret>,
    /// Where PostgreSQL is.
    pub database_url: Option<Url>,
    /// Where Redis is.
    pub redis_url: Option<Url>,
    /// How many shards the deployment has.
    pub shards: u16,
    /// Which messages of the stages `transcribe` shows.
    pub log: String,
    /// The hub that models are fetched from.
    pub hub: Url,
    /// The token to show the hub.
    pub hub_token: Option<String>,
}

impl Config {
    /// Reads the environment of this process.
    ///
    /// # Errors
    /// All mistakes in it.
    pub fn of_environment() -> anyhow::Result<Config> {
        Config::of(&Env)
    }

    /// Reads variables.
    ///
    /// # Errors
    /// All mistakes in them.
    pub fn of(strings: &dyn Strings) -> anyhow::Result<Config> {
        let none: &[&str] = &[];
        Ok(env::load("voiceforge", "", none, strings, Config::read)?.config)
    }

    fn read(from: &mut Reader) -> Config {
        let data = env::data_folder(from);
        let chosen = from.setting("data", "folder of what `up` starts").optional(data.display().to_string());
        let hub = from.foreign("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Config {
            data_is_chosen: chosen.is_some(),
            data: chosen.unwrap_or(data),
            models: env::models(from),
            model: from.setting("model", "model to use unless another is named").optional("tiny.en"),
            server: from
                .setting("server", "where the API is")
                .check(|url: &Url| {
                    wishes::is_address(url).then_some(()).ok_or("lacks http:// in front".to_owned())
                })
                .optional(SERVER),
            api_key: from.setting("api-key", "key for the API").optional("vf_..."),
            database_url: from
                .setting("database-url", "address of PostgreSQL")
                .optional("postgres://127.0.0.1/voiceforge"),
            redis_url: from.setting("redis-url", "address of Redis").optional("redis://127.0.0.1:6379"),
            shards: from.setting("shards", "number of shards of the deployment").within(1..=1024).or("1"),
            log: from.setting("log", "which messages of the stages to show").or("error"),
            hub: match env::Value::parse(&hub) {
                Ok(hub) => hub,
                Err(problem) => {
                    from.mistake("hub", format!("HF_ENDPOINT={hub:?} {problem}"));
                    env::Value::parse(SERVER).expect("the default address is a URL")
                }
            },
            hub_token: from.foreign("HF_TOKEN"),
        }
    }

    /// Where PostgreSQL is: as the flag says, else the variable, else where `up` has one running here.
    ///
    /// # Errors
    /// When nothing tells.
    pub fn database(&self, flag: Option<&str>) -> anyhow::Result<String> {
        let set =
            flag.map(str::to_owned).or_else(|| self.database_url.as_ref().map(|url| url.as_str().to_owned()));
        set.or_else(|| Some(self.running()?.record().database_url.clone())).context(
            "which database? give it with --database-url or VOICEFORGE_DATABASE_URL, or start `voiceforge up` here \
             first",
        )
    }

    /// Where Redis is: as the flag says, else the variable, else where `up` has one running here.
    ///
    /// # Errors
    /// When nothing tells.
    pub fn redis(&self, flag: Option<&str>) -> anyhow::Result<String> {
        let set =
            flag.map(str::to_owned).or_else(|| self.redis_url.as_ref().map(|url| url.as_str().to_owned()));
        set.or_else(|| Some(self.running()?.record().redis_url.clone())).context(
            "which Redis? give it with --redis-url or VOICEFORGE_REDIS_URL, or start `voiceforge up` here first",
        )
    }

    /// What `up` has running here.
    fn running(&self) -> Option<Attached> {
        Stack::attach(&self.data).ok().filter(Attached::is_kept)
    }

    /// Where the API is: as the flag says, else the variable, else where `up` has one running here, else at the
    /// default address.
    ///
    /// # Errors
    /// When somebody chose this folder, and the service in it is stopped.
    pub fn server(&self, flag: Option<&url::Url>) -> anyhow::Result<url::Url> {
        let set = flag.cloned().or_else(|| self.server.as_ref().map(|server| (**server).clone()));
        if let Some(set) = set {
            return Ok(set);
        }
        match Stack::attach(&self.data) {
            Ok(stack) if stack.is_used() => stack.record().api_url.parse().context("read where the API is"),
            Ok(_) if self.data_is_chosen => bail!(
                "the service in {} is stopped; `voiceforge up --detach` starts it again with its data, and --server or \
                 VOICEFORGE_SERVER names another",
                self.data.display()
            ),
            _ => Ok(SERVER.parse().expect("the default address is a URL")),
        }
    }
}

#[cfg(test)]
mod tests {
    use service::env::Map;

    use super::*;
    use crate::stack::{Identity, Process, Program, Record};

    #[test]
    fn a_flag_wins_over_a_variable_over_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().display().to_string();
        let bare = Config::of(&Map::from([("VOICEFORGE_DATA", data.as_str())])).unwrap();
        assert_eq!(bare.server(None).unwrap().as_str(), "http://127.0.0.1:8080/");
        let set = Map::from([
            ("VOICEFORGE_DATA", data.as_str()),
            ("VOICEFORGE_SERVER", "https://speech.example.com"),
        ]);
        let set = Config::of(&set).unwrap();
        assert_eq!(set.server(None).unwrap().as_str(), "https://speech.example.com/");
        let flag = "http://127.0.0.1:9/".parse().unwrap();
        assert_eq!(set.server(Some(&flag)).unwrap(), flag);
    }

    #[test]
    fn a_stopped_service_in_a_folder_that_was_chosen_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let stopped = Process { pid: 0, started: 0, admin: None };
        let mut record = Record {
            keeper: stopped,
            api_url: "http://127.0.0.1:4001".to_owned(),
            redis_url: "redis://127.0.0.1:4002".to_owned(),
            database_url: "postgres://127.0.0.1:4003/voiceforge".to_owned(),
            logs: folder.path().join("logs"),
            models: None,
            programs: [(Program::Api, stopped)].into(),
        };
        record.write(folder.path()).unwrap();
        let data = folder.path().display().to_string();
        let mut config = Config::of(&Map::from([("VOICEFORGE_DATA", data.as_str())])).unwrap();
        let told = config.server(None).unwrap_err().to_string();
        assert!(told.contains(&data) && told.contains("is stopped; `voiceforge up"), "{told}");
        let flag = "http://127.0.0.1:9/".parse().unwrap();
        assert_eq!(config.server(Some(&flag)).unwrap(), flag);
        config.data_is_chosen = false;
        assert_eq!(config.server(None).unwrap().as_str(), "http://127.0.0.1:8080/", "it is one of many");

        // What a killed keeper left running is used as long as it is there.
        record.programs = [(Program::Api, Process::new(Identity::of(std::process::id()), None))].into();
        record.write(folder.path()).unwrap();
        assert_eq!(config.server(None).unwrap().as_str(), "http://127.0.0.1:4001/");
    }

    #[test]
    fn mistakes_are_told_together() {
        let wrong = Map::from([("VOICEFORGE_SERVER", "no url"), ("HF_ENDPOINT", "nor this")]);
        let told = Config::of(&wrong).unwrap_err().to_string();
        assert!(told.contains("VOICEFORGE_SERVER") && told.contains("HF_ENDPOINT"), "{told}");
        let told = Config::of(&Map::from([("VOICEFORGE_SERVER", "localhost:8080")])).unwrap_err().to_string();
        assert!(told.contains("lacks http:// in front; expected a URL, such as http://127"), "{told}");
    }
}
