//! A whole deployment on this machine, private to one data folder: Redis, PostgreSQL and every stage as a process.
//!
//! [`Stack::start`] brings it up and watches it: what crashes is started again. [`Stack::attach`] finds one that another
//! process brought up. The folder survives a `kill -9` of everything: the next start ends what still runs and goes on
//! with the same data, ports and addresses.

mod crew;
mod program;
mod record;
mod stage;
#[cfg(test)]
mod tests;

pub use program::Program;
pub use record::{Process, Record};
pub use servers::Identity;
pub use servers::process::Signal;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crew::Crew;

/// Gets a line when something happens that a person should know: a program crashed, was started again.
pub type Notice = Arc<dyn Fn(&str) + Send + Sync>;

/// What to start and where.
#[derive(Clone)]
pub struct Options {
    /// Folder of everything this stack keeps: streams, database, audio, logs, `stack.json`.
    pub data: PathBuf,
    /// Folder of models.
    pub models: PathBuf,
    /// Folder with the programs of the stages.
    pub programs: PathBuf,
    /// Port of the API on loopback. `None`: the one it had before, else a free one.
    pub port: Option<u16>,
    /// Start again what ends by itself. Tests that kill a program and look at the gap turn it off.
    pub supervise: bool,
    /// False for tests: Redis and PostgreSQL keep nothing across a crash of the machine (they do across their own).
    pub durable: bool,
    /// More variables for the stages; they win over those set here.
    pub variables: Vec<(String, String)>,
    /// Gets news.
    pub notice: Notice,
}

impl Options {
    /// The usual choices: programs beside the current executable, watched and durable, news on standard error.
    pub fn new(data: impl Into<PathBuf>, models: impl Into<PathBuf>) -> Options {
        Options {
            data: data.into(),
            models: models.into(),
            programs: programs_folder(),
            port: None,
            supervise: true,
            durable: true,
            variables: Vec::new(),
            notice: Arc::new(|line| eprintln!("{line}")),
        }
    }
}

/// The folder of the current executable; for a test binary, the one above `deps`, where cargo puts programs.
pub fn programs_folder() -> PathBuf {
    let executable = std::env::current_exe().unwrap_or_default();
    let folder = executable.parent().unwrap_or(Path::new("."));
    match folder.file_name() {
        Some(name) if name == "deps" => folder.parent().unwrap_or(folder).to_owned(),
        _ => folder.to_owned(),
    }
}

/// A running stack; stopped, without grace, when dropped.
pub struct Stack {
    crew: Arc<Mutex<Crew>>,
    watch: Option<tokio::task::JoinHandle<()>>,
}

impl Stack {
    /// Starts everything and returns once every program says it is ready.
    ///
    /// Fails when another process keeps a stack in the same folder, when a server program is missing (the message names
    /// the command that installs it), or when a stage ends at once (the message holds the end of its log).
    /// Dropping the future ends what it had started.
    pub async fn start(options: Options) -> Result<Stack> {
        let supervise = options.supervise;
        let cancelled = Arc::new(AtomicBool::new(false));
        let _wanted = Wanted(Arc::clone(&cancelled));
        let crew = tokio::task::spawn_blocking(move || Crew::start(options, &cancelled))
            .await
            .context("start the stack")??;
        let crew = Arc::new(Mutex::new(crew));
        let watch = supervise.then(|| tokio::spawn(watch(crew.clone())));
        Ok(Stack { crew, watch })
    }

    /// Finds the stack of a data folder, whoever started it.
    pub fn attach(data: impl AsRef<Path>) -> Result<Attached> {
        let data = data.as_ref().to_owned();
        let Some(record) = Record::read(&data)? else {
            bail!(
                "no stack was ever started in {}; `voiceforge up` starts one there, and --data or VOICEFORGE_DATA names the folder of another",
                data.display()
            );
        };
        Ok(Attached { data, record })
    }

    /// Where the API is, such as `http://127.0.0.1:40123`.
    pub fn api_url(&self) -> String {
        self.lock().record().api_url
    }

    /// Where Redis is.
    pub fn redis_url(&self) -> String {
        self.lock().record().redis_url
    }

    /// Where PostgreSQL is, password included.
    pub fn database_url(&self) -> String {
        self.lock().record().database_url
    }

    /// What stands in `stack.json` now.
    pub fn record(&self) -> Record {
        self.lock().record()
    }

    /// Sends a signal to one program. A watched stack starts again what ends of it.
    pub fn kill(&self, program: Program, signal: Signal) {
        self.lock().signal(program, signal);
    }

    /// True while the program's process runs.
    pub fn is_running(&self, program: Program) -> bool {
        self.lock().is_running(program)
    }

    /// Stops the program, if it still runs, and starts it again at the same addresses; returns once it is ready.
    pub async fn restart(&self, program: Program) -> Result<()> {
        let crew = self.crew.clone();
        tokio::task::spawn_blocking(move || lock(&crew).restart(program))
            .await
            .context("restart a program")?
    }

    /// True when every program says that it is ready.
    pub async fn is_ready(&self) -> bool {
        let record = self.record();
        tokio::task::spawn_blocking(move || record.not_ready().is_empty()).await.unwrap_or(false)
    }

    /// Stops everything in order: the API first, the stages with grace, the servers last.
    pub async fn stop(mut self) {
        self.stop_watching();
        let crew = self.crew.clone();
        // A join error would mean that stopping panicked, and dropping ends what is left.
        let _ = tokio::task::spawn_blocking(move || lock(&crew).stop()).await;
    }

    fn stop_watching(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Crew> {
        lock(&self.crew)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.stop_watching();
        self.lock().end();
    }
}

/// Tells a start that runs on its own thread that nobody waits for it any more.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A crew is usable after a panic elsewhere: each of its steps leaves the processes and the record in agreement.
fn lock(crew: &Mutex<Crew>) -> MutexGuard<'_, Crew> {
    crew.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often the processes are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

async fn watch(crew: Arc<Mutex<Crew>>) {
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        let crew = crew.clone();
        if tokio::task::spawn_blocking(move || lock(&crew).revive()).await.is_err() {
            return;
        }
    }
}

/// A stack seen from outside.
#[derive(Debug, Clone)]
pub struct Attached {
    data: PathBuf,
    record: Record,
}

impl Attached {
    /// What its `stack.json` says.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// True while the process that keeps it runs.
    pub fn is_kept(&self) -> bool {
        self.record.keeper().is_alive()
    }

    /// True while its API can be asked: it is kept, or was left running by a keeper that was killed.
    pub fn is_used(&self) -> bool {
        let api = self.record.programs.get(&Program::Api);
        self.is_kept() || api.is_some_and(|api| api.identity().is_alive())
    }

    /// Programs that are not ready, each with the reason. Empty: all is well.
    pub fn not_ready(&self) -> Vec<(Program, String)> {
        self.record.not_ready()
    }

    /// Stops it: asks the process that keeps it, or where that one is gone, ends what it left running.
    pub async fn stop(self) -> Result<()> {
        tokio::task::spawn_blocking(move || {
            if self.is_kept() && !self.record.keeper().end(Signal::SIGTERM, crew::STOP_PATIENCE) {
                bail!(
                    "the process that keeps the stack did not end by itself and was killed; run this again"
                );
            }
            if let Some(left) = Record::read(&self.data)? {
                left.end_leftovers();
                Record::remove(&self.data)?;
            }
            Ok(())
        })
        .await
        .context("stop the stack")?
    }
}
