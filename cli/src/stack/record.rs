//! `stack.json`: what a stack tells other processes, and its own next start, about itself.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use servers::Identity;
use servers::process::Signal;

use super::Program;
use super::stage;

/// What is written. It holds the database's password, so the file is readable by its owner only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The process that started and watches the programs.
    pub keeper: Process,
    /// Where the API is.
    pub api_url: String,
    /// Where Redis is.
    pub redis_url: String,
    /// Where PostgreSQL is.
    pub database_url: String,
    /// Folder of the logs, one file for each program.
    pub logs: PathBuf,
    /// Folder of the models; stacks of other versions may not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<PathBuf>,
    /// The programs that were started.
    pub programs: BTreeMap<Program, Process>,
}

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its start, in clock ticks since boot: tells it from a later process with the same number.
    pub started: u64,
    /// Its address for health and metrics; servers have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<SocketAddr>,
}

impl Process {
    /// Describes a process.
    pub fn new(identity: Identity, admin: Option<SocketAddr>) -> Process {
        Process { pid: identity.pid, started: identity.started, admin }
    }

    /// Which process it is.
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid, started: self.started }
    }
}

/// How long a stage left behind may take to hand its work back.
const LEFTOVER_PATIENCE: Duration = Duration::from_secs(5);

impl Record {
    /// Reads the record of a data folder; `None` when there is none.
    pub fn read(data: &Path) -> Result<Option<Record>> {
        let file = file(data);
        let text = match std::fs::read(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("read {}", file.display())),
        };
        let record = serde_json::from_slice(&text)
            .with_context(|| format!("understand {}; remove it if no stack runs there", file.display()))?;
        Ok(Some(record))
    }

    /// Writes it whole or not at all.
    pub fn write(&self, data: &Path) -> Result<()> {
        let new = data.join("stack.json.new");
        let text = serde_json::to_vec_pretty(self).context("write the stack's record")?;
        let _ = std::fs::remove_file(&new);
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| std::fs::rename(&new, file(data)))
            .context("write the stack's record")
    }

    /// Forgets the processes, and keeps the addresses: the next start asks for the same ones.
    pub fn remove(data: &Path) -> Result<()> {
        let Some(mut record) = Record::read(data)? else { return Ok(()) };
        record.programs.clear();
        record.keeper = Process { pid: 0, started: 0, admin: None };
        record.write(data)
    }

    /// The process that keeps the stack.
    pub fn keeper(&self) -> Identity {
        self.keeper.identity()
    }

    /// The ports of Redis, PostgreSQL and the API.
    pub fn port(&self, program: Program) -> Option<u16> {
        let url = match program {
            Program::Redis => &self.redis_url,
            Program::Postgres => &self.database_url,
            Program::Api => &self.api_url,
            _ => return None,
        };
        let port = url.rsplit(':').next()?;
        port.split('/').next()?.parse().ok()
    }

    /// Programs that are not ready, each with the reason.
    pub fn not_ready(&self) -> Vec<(Program, String)> {
        let all = Program::SERVERS.into_iter().chain(Program::STAGES);
        all.filter_map(|program| Some((program, self.complaint(program)?))).collect()
    }

    fn complaint(&self, program: Program) -> Option<String> {
        let Some(process) = self.programs.get(&program) else { return Some("not started".to_owned()) };
        if !process.identity().is_alive() {
            return Some("not running".to_owned());
        }
        process.admin.and_then(|admin| stage::not_ready(admin).err())
    }

    /// Ends what an earlier keeper left running: stages first, so that the servers see no half-done work.
    pub fn end_leftovers(&self) {
        let stages: Vec<Identity> =
            Program::STAGES.iter().filter_map(|p| self.programs.get(p)).map(Process::identity).collect();
        for stage in &stages {
            stage.signal(Signal::SIGTERM);
        }
        for stage in &stages {
            stage.end(Signal::SIGTERM, LEFTOVER_PATIENCE);
        }
        if let Some(redis) = self.programs.get(&Program::Redis) {
            servers::redis::stop(redis.identity());
        }
        if let Some(postgres) = self.programs.get(&Program::Postgres) {
            servers::postgres::stop(postgres.identity());
        }
    }
}

fn file(data: &Path) -> PathBuf {
    data.join("stack.json")
}
