//! A private stack, and a user of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use cli::stack::{Options, Program, Signal, Stack};
use events::{Lane, Shard};
use serde_json::Value;
use streams::redis::{Config, RedisLog};
use streams::{Backlog, Log, Queue, Source};

use crate::clips::{self, Clip};

/// A running deployment and what is needed to use it.
pub struct Pipeline {
    /// The deployment.
    pub stack: Stack,
    /// A client for its API.
    pub http: reqwest::Client,
    /// Its streams.
    pub log: Arc<RedisLog>,
    /// Speech to drop into it.
    pub clips: Vec<Clip>,
    _folder: tempfile::TempDir,
}

/// States that nothing follows.
const FINAL: [&str; 5] = ["complete", "failed", "rejected", "cancelled", "deleted"];

impl Pipeline {
    /// Starts a deployment with `variables` set for its stages. `None`: no models or clips to test with, said plainly.
    ///
    /// # Errors
    /// When the stack does not start; the message holds the end of the guilty program's log.
    pub async fn start(variables: &[(&str, &str)]) -> Result<Option<Pipeline>> {
        let Some(models) = folder("VOICEFORGE_TEST_MODELS") else { return Ok(None) };
        let Some(clips) = folder("VOICEFORGE_TEST_CLIPS") else { return Ok(None) };
        service::install_tls();
        let clips = clips::in_folder(&clips);
        ensure!(clips.len() >= 3, "VOICEFORGE_TEST_CLIPS must name a folder with at least three clips");
        let folder = tempfile::Builder::new().prefix("voiceforge-e2e-").tempdir().context("make a folder")?;
        // PostgreSQL may run as another user, who must be able to reach its folder.
        open_to_others(folder.path())?;
        let options = Options {
            durable: false,
            variables: variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
            ..Options::new(folder.path().join("data"), models)
        };
        let stack = Stack::start(options).await.context("start the stack")?;
        let log =
            RedisLog::connect(Config::new(stack.redis_url(), 1)).await.context("connect to its Redis")?;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).build()?;
        Ok(Some(Pipeline { stack, http, log: Arc::new(log), clips, _folder: folder }))
    }

    /// Puts a drop straight into `vf:ingest`; returns its id.
    ///
    /// # Errors
    /// When Redis refuses it.
    pub async fn drop(&self, audio: &[u8], fields: &[(&str, &str)]) -> Result<String> {
        let mut all: Vec<(String, Bytes)> =
            fields.iter().map(|&(name, value)| (name.to_owned(), Bytes::from(value.to_owned()))).collect();
        all.push(("audio".to_owned(), Bytes::copy_from_slice(audio)));
        Ok(self.log.submit(Lane::Batch, &all).await?)
    }

    /// Sends a drop through the API as a raw body; returns its drop id.
    ///
    /// # Errors
    /// When the API does not accept it, with its answer.
    pub async fn post(&self, audio: Vec<u8>, query: &str) -> Result<String> {
        let url = format!("{}/v1/recordings?{query}", self.stack.api_url());
        let response = self.http.post(url).header("content-type", "audio/wav").body(audio).send().await?;
        let status = response.status();
        let body = response.text().await?;
        ensure!(status.as_u16() == 202, "{status}: {body}");
        let body: Value = serde_json::from_str(&body)?;
        Ok(body["drop_id"].as_str().context("the answer names the drop")?.to_owned())
    }

    /// Gets a path of the API: status and body.
    ///
    /// # Errors
    /// When there is no answer at all.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        let response = self.http.get(format!("{}{path}", self.stack.api_url())).send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    /// Waits until a recording (by its own or its drop's id) has ended, whatever is restarted meanwhile.
    ///
    /// # Errors
    /// When it has not ended within `limit`, with its last state.
    pub async fn ended(&self, id: &str, limit: Duration) -> Result<Value> {
        let until = Instant::now() + limit;
        let mut last = "never answered".to_owned();
        while Instant::now() < until {
            if let Ok((200, body)) = self.get(&format!("/v1/recordings/{id}")).await {
                let recording: Value = serde_json::from_str(&body)?;
                if recording["status"].as_str().is_some_and(|status| FINAL.contains(&status)) {
                    return Ok(recording);
                }
                last = body;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("{id} did not end within {limit:?}; last seen: {last}")
    }

    /// Returns the text of a recording's transcript.
    ///
    /// # Errors
    /// When the API does not give it.
    pub async fn text(&self, recording: &Value) -> Result<String> {
        let id = recording["id"].as_str().context("an ended recording has an id")?;
        let (status, text) = self.get(&format!("/v1/recordings/{id}/transcript?format=text")).await?;
        ensure!(status == 200, "{status}: {text}");
        Ok(text.trim().to_owned())
    }

    /// Waits until nothing is left in any queue and every fact is in SQL.
    ///
    /// # Errors
    /// When something is left after `limit`, with what it is.
    pub async fn settled(&self, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        loop {
            let mut left = Vec::new();
            let shard = Shard(0);
            let mut queues = vec![Source::Ingest(Lane::Rt), Source::Ingest(Lane::Batch)];
            for &lane in Lane::ALL {
                queues
                    .extend([Queue::Decode, Queue::Segments].map(|queue| Source::Queue(shard, queue, lane)));
            }
            for queue in queues {
                let backlog = self.log.backlog(queue).await?;
                if backlog != Backlog::default() {
                    left.push(format!("{}: {backlog:?}", queue.key()));
                }
            }
            let unread = self.log.unread_facts("project", shard).await?;
            if unread > 0 {
                left.push(format!("{unread} facts are not in SQL"));
            }
            if left.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < until, "left behind: {}", left.join("; "));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Returns the number of dead letters.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn dead_letters(&self) -> Result<u64> {
        let drops = self.log.dead_letters(Source::Ingest(Lane::Batch)).await?;
        Ok(drops + self.log.dead_letters(Source::Log(Shard(0))).await?)
    }

    /// Kills a program the hard way; the stack starts it again.
    pub fn kill(&self, program: Program) {
        self.stack.kill(program, Signal::SIGKILL);
    }
}

fn folder(variable: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: {variable} is not set");
    }
    folder
}

pub(crate) fn open_to_others(folder: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let permissions = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder, permissions).context("open the folder to the database's user")
}
