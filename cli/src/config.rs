//! What the environment says; flags of the commands win over it.

use std::path::PathBuf;

use anyhow::Context;
use service::env::{self, Env, Reader, Secret, Strings, Url};

use crate::stack::{Attached, Stack};

/// Where the API is when nobody says: where `voiceforge-api` listens by default.
const SERVER: &str = "http://127.0.0.1:8080";

/// Values of `VOICEFORGE_*` variables and of a few others.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder of what `up` starts, and of what commands remember.
    pub data: PathBuf,
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
        let hub = from.foreign("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Config {
            data: from.setting("data", "folder of what `up` starts").or(data.display().to_string()),
            models: env::models(from),
            model: from.setting("model", "model to use unless another is named").optional("tiny.en"),
            server: from.setting("server", "where the API is").optional(SERVER),
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
    pub fn server(&self, flag: Option<&url::Url>) -> url::Url {
        let running = || self.running()?.record().api_url.parse().ok();
        let set = flag.cloned().or_else(|| self.server.as_ref().map(|server| (**server).clone()));
        set.or_else(running).unwrap_or_else(|| SERVER.parse().expect("the default address is a URL"))
    }
}

#[cfg(test)]
mod tests {
    use service::env::Map;

    use super::*;

    #[test]
    fn a_flag_wins_over_a_variable_over_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().display().to_string();
        let bare = Config::of(&Map::from([("VOICEFORGE_DATA", data.as_str())])).unwrap();
        assert_eq!(bare.server(None).as_str(), "http://127.0.0.1:8080/");
        let set = Map::from([
            ("VOICEFORGE_DATA", data.as_str()),
            ("VOICEFORGE_SERVER", "https://speech.example.com"),
        ]);
        let set = Config::of(&set).unwrap();
        assert_eq!(set.server(None).as_str(), "https://speech.example.com/");
        let flag = "http://127.0.0.1:9/".parse().unwrap();
        assert_eq!(set.server(Some(&flag)), flag);
    }

    #[test]
    fn mistakes_are_told_together() {
        let wrong = Map::from([("VOICEFORGE_SERVER", "no url"), ("HF_ENDPOINT", "nor this")]);
        let told = Config::of(&wrong).unwrap_err().to_string();
        assert!(told.contains("VOICEFORGE_SERVER") && told.contains("HF_ENDPOINT"), "{told}");
    }
}
