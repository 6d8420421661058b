//! The processes of a stack and what is done with them. Blocking; the owner keeps it off the async threads.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use servers::process::{Identity, Running, Signal};
use servers::{Postgres, Redis, postgres, redis};

use super::record::{Process, Record};
use super::stage::{Launch, Stage};
use super::{Options, Program};

/// How long stopping everything may take before the keeper itself is killed.
pub const STOP_PATIENCE: Duration = Duration::from_secs(90);
/// How long a stage may take to become ready: loading a large model is the longest part.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// A little more than the grace that stages give themselves.
const STAGE_PATIENCE: Duration = Duration::from_secs(30);
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A program that ran this long is in health, and its next crash is its first.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// All processes of one stack.
pub struct Crew {
    options: Options,
    launch: Launch,
    redis_options: redis::Options,
    postgres_options: postgres::Options,
    redis: Redis,
    postgres: Postgres,
    stages: BTreeMap<Program, Stage>,
    history: BTreeMap<Program, History>,
    api_port: u16,
    stopped: bool,
    /// What was written last.
    saved: Option<Record>,
    /// Held for as long as this crew exists: one keeper for each folder.
    _lock: File,
}

/// When a program was last started, and how soon it may be again.
pub struct History {
    /// When it was started last.
    pub started: Instant,
    backoff: Duration,
    due: Option<Instant>,
}

impl Crew {
    /// Starts everything; returns once all is ready, or once it is `cancelled`.
    pub fn start(mut options: Options, cancelled: &AtomicBool) -> Result<Crew> {
        let folder = |path: &Path| {
            std::fs::create_dir_all(path).with_context(|| format!("make folder {}", path.display()))
        };
        folder(&options.data)?;
        options.data = options.data.canonicalize().context("find the data folder")?;
        let data = &options.data;
        let lock = claim(data)?;
        let launch = Launch {
            programs: options.programs.clone(),
            logs: data.join("logs"),
            run: data.join("run"),
            variables: Vec::new(),
        };
        for path in [&launch.logs, &launch.run, &data.join("audio")] {
            folder(path)?;
        }
        for program in Program::STAGES {
            launch.program(program)?;
        }
        let before = Record::read(data)?;
        if let Some(before) = &before {
            before.end_leftovers();
        }
        let port = |program| before.as_ref().and_then(|record| record.port(program));
        let redis_options = redis::Options {
            program: servers::find::redis_server()?,
            folder: data.join("redis"),
            log: launch.log(Program::Redis),
            port: port(Program::Redis),
            // Off means the data is gone when Redis is killed, which no test wants.
            durable: true,
            settings: Vec::new(),
        };
        let postgres_options = postgres::Options {
            bins: servers::find::postgres_bins(),
            folder: data.join("postgres"),
            log: launch.log(Program::Postgres),
            port: port(Program::Postgres),
            durable: options.durable,
        };
        let (redis, postgres) = std::thread::scope(|scope| {
            let postgres = scope.spawn(|| Postgres::start(&postgres_options));
            (Redis::start(&redis_options), postgres.join().expect("starting PostgreSQL does not panic"))
        });
        let (mut redis, mut postgres) = match (redis, postgres) {
            (Ok(redis), Ok(postgres)) => (redis, postgres),
            (redis, postgres) => {
                let mut failures = Vec::new();
                match redis {
                    Ok(mut redis) => redis.stop(),
                    Err(e) => failures.push(format!("{e:#}")),
                }
                match postgres {
                    Ok(mut postgres) => postgres.stop(),
                    Err(e) => failures.push(format!("{e:#}")),
                }
                bail!("{}", failures.join("\n"));
            }
        };
        if postgres.folder() != postgres_options.folder {
            (options.notice)(&format!(
                "PostgreSQL's data is in {}: its user cannot enter {}",
                postgres.folder().display(),
                data.display()
            ));
        }
        let wished = options.port.or(port(Program::Api));
        let api_port = match servers::free_port(wished).context("find a port for the API") {
            Ok(port) if options.port.is_none_or(|asked| asked == port) => port,
            other => {
                redis.stop();
                postgres.stop();
                other?;
                bail!(
                    "port {} is taken by another program; choose another with --port",
                    wished.unwrap_or_default()
                );
            }
        };
        let mut crew = Crew {
            redis_options: redis::Options { port: Some(redis.port()), ..redis_options },
            postgres_options: postgres::Options { port: Some(postgres.port()), ..postgres_options },
            redis,
            postgres,
            stages: BTreeMap::new(),
            history: BTreeMap::new(),
            api_port,
            stopped: false,
            saved: None,
            launch,
            options,
            _lock: lock,
        };
        crew.launch.variables = crew.variables();
        crew.save()?;
        // From here on an early return drops the crew, which ends all of it.
        for program in Program::STAGES {
            crew.spawn(program)?;
        }
        for program in Program::STAGES {
            crew.wait_ready(program, cancelled)?;
        }
        crew.save()?;
        Ok(crew)
    }

    /// What stands in `stack.json`.
    pub fn record(&self) -> Record {
        let server = |running: &Running| Process::new(running.identity(), None);
        let mut programs = BTreeMap::from([
            (Program::Redis, server(self.redis.running())),
            (Program::Postgres, server(self.postgres.running())),
        ]);
        for (program, stage) in &self.stages {
            programs.insert(*program, Process::new(stage.running.identity(), stage.admin()));
        }
        Record {
            keeper: Process::new(Identity::of(std::process::id()), None),
            api_url: format!("http://127.0.0.1:{}", self.api_port),
            redis_url: self.redis.url(),
            database_url: self.postgres.url(),
            logs: self.launch.logs.clone(),
            models: Some(self.options.models.clone()),
            programs,
        }
    }

    /// Sends a signal to a program.
    pub fn signal(&self, program: Program, signal: Signal) {
        if let Some(running) = self.running(program) {
            running.identity().signal(signal);
        }
    }

    /// True while the program's process runs.
    pub fn is_running(&self, program: Program) -> bool {
        self.running(program).is_some_and(|running| running.identity().is_alive())
    }

    /// Stops a program if it still runs, starts it and waits until it is ready.
    pub fn restart(&mut self, program: Program) -> Result<()> {
        self.start_again(program)?;
        self.wait_ready(program, &AtomicBool::new(false))?;
        self.save()
    }

    /// Starts again what ended by itself, each after its pause.
    pub fn revive(&mut self) {
        if self.stopped {
            return;
        }
        for program in Program::SERVERS.into_iter().chain(Program::STAGES) {
            if self.is_running(program) {
                continue;
            }
            let now = Instant::now();
            let history = self.history.entry(program).or_insert_with(History::begin);
            match history.due {
                None => {
                    let pause = history.note_crash(now);
                    let status = self.ended(program).unwrap_or_else(|| "gone".to_owned());
                    (self.options.notice)(&format!(
                        "{program} ended ({status}); starting it again in {:.1} s; its log is {}",
                        pause.as_secs_f64(),
                        self.launch.log(program).display()
                    ));
                }
                Some(due) if due <= now => {
                    if let Err(e) = self.start_again(program).and_then(|()| self.save()) {
                        (self.options.notice)(&format!("{program} could not be started: {e:#}"));
                        // Counted as one more crash, so that the pause grows.
                        self.history.entry(program).or_insert_with(History::begin).note_crash(now);
                    }
                }
                Some(_) => {}
            }
        }
        if self.has_news()
            && let Err(e) = self.save()
        {
            (self.options.notice)(&format!("{e:#}"));
        }
    }

    /// Stops everything in order and with grace.
    pub fn stop(&mut self) {
        self.stopped = true;
        // No new work first; then all stages at once, since none waits for another to hand its work back.
        self.end_stage(Program::Api, STAGE_PATIENCE);
        for program in Program::STAGES {
            self.signal(program, Signal::SIGTERM);
        }
        for program in Program::STAGES {
            self.end_stage(program, STAGE_PATIENCE);
        }
        self.postgres.stop();
        self.redis.stop();
        // Nothing more can be done about a record that cannot be written; the next start copes with a stale one.
        let _ = Record::remove(&self.options.data);
    }

    /// Ends everything without grace, unless it has been stopped.
    pub fn end(&mut self) {
        if self.stopped {
            return;
        }
        for stage in self.stages.values_mut() {
            stage.running.kill();
        }
        self.stop();
    }

    fn variables(&self) -> Vec<(String, String)> {
        let path = |path: &Path| path.display().to_string();
        let ours = [
            ("VOICEFORGE_REDIS_URL", self.redis.url()),
            ("VOICEFORGE_DATABASE_URL", self.postgres.url()),
            ("VOICEFORGE_AUDIO_STORE", path(&self.options.data.join("audio"))),
            ("VOICEFORGE_MODELS", path(&self.options.models)),
            ("VOICEFORGE_API_ADDRESS", format!("127.0.0.1:{}", self.api_port)),
        ];
        let ours = ours.map(|(name, value)| (name.to_owned(), value));
        ours.into_iter().chain(self.options.variables.iter().cloned()).collect()
    }

    fn start_again(&mut self, program: Program) -> Result<()> {
        match program {
            Program::Redis => {
                self.redis.stop();
                self.redis = Redis::start(&self.redis_options)?;
            }
            Program::Postgres => {
                self.postgres.stop();
                self.postgres = Postgres::start(&self.postgres_options)?;
            }
            stage => {
                self.end_stage(stage, STAGE_PATIENCE);
                return self.spawn(stage);
            }
        }
        self.note_start(program);
        let record = self.record();
        // Stages know the servers by address; one that had to move needs them all to be told.
        if self.launch.variables != self.variables() {
            bail!(
                "{program} could not get its port back; stop everything and start it again ({})",
                record.redis_url
            );
        }
        Ok(())
    }

    fn spawn(&mut self, program: Program) -> Result<()> {
        let stage = self.launch.spawn(program)?;
        self.stages.insert(program, stage);
        self.note_start(program);
        // Recorded at once: a keeper killed now must leave nothing behind that nobody knows of.
        self.save()
    }

    fn note_start(&mut self, program: Program) {
        let history = self.history.entry(program).or_insert_with(History::begin);
        history.started = Instant::now();
        history.due = None;
    }

    fn wait_ready(&mut self, program: Program, cancelled: &AtomicBool) -> Result<()> {
        let log = self.launch.log(program);
        match self.stages.get_mut(&program) {
            Some(stage) => stage.wait(program, &log, Instant::now() + START_PATIENCE, cancelled),
            // A server is ready when it is started.
            None => Ok(()),
        }
    }

    fn end_stage(&mut self, program: Program, patience: Duration) {
        if let Some(stage) = self.stages.get_mut(&program) {
            stage.running.end(Signal::SIGTERM, patience);
        }
    }

    fn running(&self, program: Program) -> Option<&Running> {
        match program {
            Program::Redis => Some(self.redis.running()),
            Program::Postgres => Some(self.postgres.running()),
            stage => self.stages.get(&stage).map(|stage| &stage.running),
        }
    }

    fn ended(&mut self, program: Program) -> Option<String> {
        match program {
            Program::Redis => self.redis.process().ended(),
            Program::Postgres => self.postgres.process().ended(),
            stage => self.stages.get_mut(&stage)?.running.ended(),
        }
    }

    fn save(&mut self) -> Result<()> {
        let record = self.record();
        record.write(&self.options.data)?;
        self.saved = Some(record);
        Ok(())
    }

    /// True when a stage's admin address was not yet known as the record was written.
    fn has_news(&self) -> bool {
        let known = |program| self.saved.as_ref().and_then(|record| record.programs.get(program)?.admin);
        self.stages.iter().any(|(program, stage)| known(program).is_none() && stage.admin().is_some())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.end();
    }
}

impl History {
    /// A program that has just been started for the first time.
    pub fn begin() -> History {
        History { started: Instant::now(), backoff: BACKOFF_MIN, due: None }
    }

    /// Returns the pause before the next start.
    pub fn note_crash(&mut self, now: Instant) -> Duration {
        if now.duration_since(self.started) >= HEALTHY_AFTER {
            self.backoff = BACKOFF_MIN;
        }
        let pause = self.backoff;
        self.due = Some(now + pause);
        self.backoff = (pause * 2).min(BACKOFF_MAX);
        pause
    }
}

/// Makes this process the only keeper of the folder; the system lets go of the claim when it ends, however it ends.
fn claim(data: &Path) -> Result<File> {
    let lock = File::create(data.join("lock")).context("open the stack's lock")?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!("a stack runs in {} already; `voiceforge down` stops it", data.display())
        }
        Err(std::fs::TryLockError::Error(e)) => Err(e).context("lock the stack's folder"),
    }
}
