//! The workers as processes: started, killed, frozen, and started again.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cli::stack::{Program, Signal};
use servers::Running;

/// Workers that are started again when they end.
pub struct Crew {
    workers: Arc<Mutex<Vec<Worker>>>,
    watch: tokio::task::JoinHandle<()>,
}

/// How workers are started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Folder with the programs.
    pub programs: PathBuf,
    /// Folder for their logs, admin addresses and the list of processes.
    pub folder: PathBuf,
    /// Their variables.
    pub variables: Vec<(String, String)>,
}

struct Worker {
    program: Program,
    number: usize,
    launch: Launch,
    running: Running,
    /// Variables of the next start only.
    next: Vec<(String, String)>,
    /// An end that somebody asked for, and how long it is to stay away.
    expected: Option<Duration>,
    due: Option<Instant>,
    crashes: Vec<String>,
    /// Times it ended by its own abort.
    aborts: u64,
}

/// One worker, as faults name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// Its program.
    pub program: Program,
    /// Which of them.
    pub number: usize,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.program, self.number)
    }
}

impl Crew {
    /// Starts `count` workers of each program and waits until all are ready.
    ///
    /// # Errors
    /// When one ends at once or does not become ready, with the end of its log.
    pub async fn start(launch: &Launch, counts: &[(Program, usize)]) -> Result<Crew> {
        let mut workers = Vec::new();
        for &(program, count) in counts {
            for number in 0..count {
                let running = spawn(launch, program, number, &[])?;
                workers.push(Worker {
                    program,
                    number,
                    launch: launch.clone(),
                    running,
                    next: Vec::new(),
                    expected: None,
                    due: None,
                    crashes: Vec::new(),
                    aborts: 0,
                });
            }
        }
        let workers = Arc::new(Mutex::new(workers));
        let watch = tokio::spawn(watch(Arc::clone(&workers)));
        let crew = Crew { workers, watch };
        crew.ready(Duration::from_secs(60)).await?;
        Ok(crew)
    }

    /// Every worker's name.
    pub fn names(&self) -> Vec<Name> {
        lock(&self.workers).iter().map(|w| Name { program: w.program, number: w.number }).collect()
    }

    /// Kills a worker the hard way; it comes back after `pause`.
    pub fn kill(&self, name: Name, pause: Duration) {
        self.end(name, pause, Signal::SIGKILL);
    }

    /// Asks a worker to stop; it comes back `pause` after it has.
    pub fn terminate(&self, name: Name, pause: Duration) {
        self.end(name, pause, Signal::SIGTERM);
    }

    /// Starts a worker again with `variables` beside its own. It may end by itself once without that being a crash,
    /// and comes back as it was.
    pub fn start_with(&self, name: Name, variables: &[(&str, &str)]) {
        self.with(name, |worker| {
            worker.next =
                variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        });
        self.end(name, Duration::ZERO, Signal::SIGKILL);
    }

    /// Stops a worker in the middle of whatever it does, without its knowing.
    pub fn freeze(&self, name: Name) {
        self.with(name, |worker| worker.running.identity().signal(Signal::SIGSTOP));
    }

    /// Lets a frozen worker go on.
    pub fn thaw(&self, name: Name) {
        self.with(name, |worker| worker.running.identity().signal(Signal::SIGCONT));
    }

    /// Waits until every worker says that it is ready.
    ///
    /// # Errors
    /// When one is not within `patience`, with what it says.
    pub async fn ready(&self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
        for name in self.names() {
            loop {
                let said = match self.with(name, |worker| worker.admin()) {
                    Some(admin) => match http.get(format!("http://{admin}/health/ready")).send().await {
                        Ok(answer) if answer.status().is_success() => break,
                        Ok(answer) => answer.text().await.unwrap_or_default(),
                        Err(error) => error.to_string(),
                    },
                    None => "it has no admin address".to_owned(),
                };
                if Instant::now() > until {
                    let log = self.with(name, |worker| tail(&worker.launch.log(name), 15));
                    bail!("{name} is not ready: {said}; its log ends with:\n{log}");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Ends by themselves that nobody made, a line each.
    pub fn crashes(&self) -> Vec<String> {
        lock(&self.workers).iter().flat_map(|worker| worker.crashes.clone()).collect()
    }

    /// How often a worker has aborted, as it does at a step where it was told to die.
    pub fn aborts(&self, name: Name) -> u64 {
        self.with(name, |worker| worker.aborts)
    }

    /// The metrics of a worker as `name{labels} value` lines; empty when it does not answer.
    pub async fn metrics(&self, name: Name) -> String {
        let Some(admin) = self.with(name, |worker| worker.admin()) else { return String::new() };
        match reqwest::get(format!("http://{admin}/metrics")).await {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// Stops all of them, with grace.
    pub async fn stop(self) {
        self.watch.abort();
        let workers = Arc::clone(&self.workers);
        let stop = move || {
            let mut workers = lock(&workers);
            for worker in workers.iter() {
                worker.running.identity().signal(Signal::SIGCONT);
                worker.running.identity().signal(Signal::SIGTERM);
            }
            for worker in workers.iter_mut() {
                worker.running.end(Signal::SIGTERM, Duration::from_secs(30));
            }
        };
        // It does not panic, and a runtime that is shutting down drops the crew, which kills it.
        let _ = tokio::task::spawn_blocking(stop).await;
    }

    fn end(&self, name: Name, pause: Duration, signal: Signal) {
        self.with(name, |worker| {
            worker.expected = Some(pause);
            let identity = worker.running.identity();
            identity.signal(signal);
            // A frozen one hears of it when it goes on.
            identity.signal(Signal::SIGCONT);
        });
    }

    fn with<T>(&self, name: Name, act: impl FnOnce(&mut Worker) -> T) -> T {
        let mut workers = lock(&self.workers);
        let found = workers.iter_mut().find(|w| w.program == name.program && w.number == name.number);
        act(found.expect("names come from names()"))
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.watch.abort();
        for worker in lock(&self.workers).iter_mut() {
            worker.running.kill();
        }
    }
}

impl Launch {
    fn log(&self, name: Name) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    fn admin(&self, name: Name) -> PathBuf {
        self.folder.join(format!("{name}.admin"))
    }
}

impl Worker {
    fn name(&self) -> Name {
        Name { program: self.program, number: self.number }
    }

    fn admin(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.launch.admin(self.name())).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// Starts it again if it ended and its time has come.
    fn revive(&mut self) {
        match self.due {
            None => {
                let Some(status) = self.running.ended() else { return };
                self.aborts += u64::from(status.contains("SIGABRT"));
                let pause = self.expected.take().unwrap_or_else(|| {
                    self.crashes.push(format!("{} ended by itself ({status})", self.name()));
                    Duration::from_secs(1)
                });
                self.due = Some(Instant::now() + pause);
            }
            Some(due) if due <= Instant::now() => {
                let next = std::mem::take(&mut self.next);
                match spawn(&self.launch, self.program, self.number, &next) {
                    Ok(running) => {
                        self.running = running;
                        // One that was told to fail somewhere may.
                        self.expected = (!next.is_empty()).then_some(Duration::ZERO);
                        self.due = None;
                    }
                    Err(error) => self.crashes.push(format!("{}: {error:#}", self.name())),
                }
            }
            Some(_) => {}
        }
    }
}

async fn watch(workers: Arc<Mutex<Vec<Worker>>>) {
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        lock(&workers).iter_mut().for_each(Worker::revive);
    }
}

fn spawn(launch: &Launch, program: Program, number: usize, more: &[(String, String)]) -> Result<Running> {
    let path = launch.programs.join(format!("voiceforge-{program}"));
    let name = Name { program, number };
    let admin = launch.admin(name);
    let _ = std::fs::remove_file(&admin);
    let log = append(&launch.log(name))?;
    let variables: BTreeMap<&str, &str> =
        launch.variables.iter().chain(more).map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let child = Command::new(&path)
        .envs(variables)
        .env("VOICEFORGE_ADMIN", "127.0.0.1:0")
        .env("VOICEFORGE_ADMIN_FILE", &admin)
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("open the log twice")?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {}; build all programs first", path.display()))?;
    let running = Running::new(child);
    note(&launch.folder, running.identity())?;
    Ok(running)
}

/// Writes a process down, so that a later run can end it should this one be killed.
pub fn note(folder: &Path, process: servers::Identity) -> Result<()> {
    let mut list = append(&folder.join("processes"))?;
    writeln!(list, "{} {}", process.pid, process.started).context("write the list of processes")
}

fn append(file: &Path) -> Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true).open(file).with_context(|| format!("open {}", file.display()))
}

fn tail(file: &Path, lines: usize) -> String {
    let bytes = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn lock(workers: &Mutex<Vec<Worker>>) -> MutexGuard<'_, Vec<Worker>> {
    // The list is whole after every statement.
    workers.lock().unwrap_or_else(PoisonError::into_inner)
}
