//! Throw-away servers for tests: Redis, PostgreSQL, and TimescaleDB behind its front.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use servers::process::{Identity, Signal};
use servers::{Postgres, Redis, Running, postgres, redis};

use crate::setup::{self, ForTests};
use crate::{say, stop};

const FRONT: &str = include_str!("timescale/front.mjs");
const FRONT_PATIENCE: Duration = Duration::from_secs(90);

/// Running servers; all stop, and their data is removed, when this is dropped.
pub struct Services {
    folder: PathBuf,
    redis: Redis,
    postgres: Postgres,
    timescale: Running,
    timescale_port: u16,
}

/// The chore: start, print the variables, stay until Ctrl-C.
pub fn run() -> Result<ExitCode> {
    stop::on_signal()?;
    let tools = setup::for_tests()?;
    let services = Services::start(&tools)?;
    for (name, value) in services.variables(&tools) {
        println!("export {name}='{value}'");
    }
    say::note("running until Ctrl-C");
    stop::wait();
    Ok(ExitCode::SUCCESS)
}

impl Services {
    /// Starts all three, each on a free port, with their data in one temporary folder.
    pub fn start(tools: &ForTests) -> Result<Services> {
        Services::start_with(tools, false)
    }

    /// The same, with servers that are as careful as they are for users.
    pub fn start_durable(tools: &ForTests) -> Result<Services> {
        Services::start_with(tools, true)
    }

    fn start_with(tools: &ForTests, durable: bool) -> Result<Services> {
        say::title("starting Redis, PostgreSQL and TimescaleDB for the tests");
        remove_forgotten();
        let folder = std::env::temp_dir().join(format!("{FOLDER_PREFIX}{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("make folder {}", folder.display()))?;
        // PostgreSQL may run as another user, who must pass through.
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o711))?;
        let (redis, postgres, timescale) = std::thread::scope(|scope| {
            let timescale = scope.spawn(|| start_timescale(tools, &folder));
            let postgres = scope.spawn(|| {
                Postgres::start(&postgres::Options {
                    bins: tools.postgres.clone(),
                    folder: folder.join("postgres"),
                    log: folder.join("postgres.log"),
                    port: None,
                    durable,
                })
            });
            let redis = Redis::start(&redis::Options {
                program: tools.redis.clone(),
                folder: folder.join("redis"),
                log: folder.join("redis.log"),
                port: None,
                durable,
                settings: Vec::new(),
            });
            (
                redis,
                postgres.join().expect("starting does not panic"),
                timescale.join().expect("starting does not panic"),
            )
        });
        // Each is taken apart from the others, so that one's failure still stops the rest.
        match (redis, postgres, timescale) {
            (Ok(redis), Ok(postgres), Ok((timescale, timescale_port))) => {
                say::note(format_args!("running, in {}", folder.display()));
                Ok(Services { folder, redis, postgres, timescale, timescale_port })
            }
            (redis, postgres, timescale) => {
                let failures = [
                    redis.map(|mut redis| redis.stop()).err(),
                    postgres.map(|mut postgres| postgres.stop()).err(),
                    timescale.map(|(mut front, _)| front.kill()).err(),
                ];
                let failures: Vec<String> = failures.iter().flatten().map(|e| format!("{e:#}")).collect();
                bail!("{}", failures.join("\n"))
            }
        }
    }

    /// The process of PostgreSQL.
    pub fn postgres_pid(&self) -> u32 {
        self.postgres.running().identity().pid
    }

    /// The process of TimescaleDB.
    pub fn timescale_pid(&self) -> u32 {
        self.timescale.identity().pid
    }

    /// Where PostgreSQL is.
    pub fn postgres_url(&self) -> String {
        self.postgres.url()
    }

    /// Where TimescaleDB is.
    pub fn timescale_url(&self) -> String {
        format!("postgres://{}@127.0.0.1:{}/postgres", postgres::NAME, self.timescale_port)
    }

    /// What tests read to find the servers, the models, the recordings and python.
    pub fn variables(&self, tools: &ForTests) -> Vec<(&'static str, String)> {
        let path = |path: &Path| path.display().to_string();
        vec![
            ("VOICEFORGE_TEST_REDIS", self.redis.url()),
            ("VOICEFORGE_TEST_POSTGRES", self.postgres.url()),
            ("VOICEFORGE_TEST_TIMESCALE", self.timescale_url()),
            ("VOICEFORGE_TEST_MODELS", path(&tools.models)),
            ("VOICEFORGE_TEST_CLIPS", path(&tools.clips)),
            ("VOICEFORGE_TEST_PYTHON", path(&tools.python)),
            // Where whole-pipeline tests find the programs of their own PostgreSQL.
            ("VOICEFORGE_POSTGRES_BIN", path(&tools.postgres[0])),
        ]
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.timescale.kill();
        self.redis.stop();
        self.postgres.stop();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn start_timescale(tools: &ForTests, folder: &Path) -> Result<(Running, u16)> {
    let script = folder.join("front.mjs");
    std::fs::write(&script, FRONT)?;
    let log_file = folder.join("timescale.log");
    let log = std::fs::File::create(&log_file)?;
    let mut child = Command::new(&tools.timescale.node)
        .args([&script, &tools.timescale.package])
        .arg("0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("start node")?;
    let stdout = child.stdout.take().context("read what the front says")?;
    let mut running = Running::new(child);
    std::fs::write(folder.join("timescale.pid"), running.identity().pid.to_string())?;
    let until = Instant::now() + FRONT_PATIENCE;
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = tell.send(line);
        }
    });
    while let Ok(line) = told.recv_timeout(until.saturating_duration_since(Instant::now())) {
        if let Some(port) = line.strip_prefix("ready ").and_then(|port| port.parse().ok()) {
            return Ok((running, port));
        }
    }
    running.kill();
    bail!("TimescaleDB did not start; it said:\n{}", std::fs::read_to_string(&log_file).unwrap_or_default())
}

const FOLDER_PREFIX: &str = "voiceforge-services-";

/// Stops and removes what a run that was killed left behind.
fn remove_forgotten() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner =
            name.to_str().and_then(|name| name.strip_prefix(FOLDER_PREFIX)).and_then(|pid| pid.parse().ok());
        let Some(owner) = owner else { continue };
        if Identity::of(owner).is_alive() {
            continue;
        }
        let folder = entry.path();
        servers::redis::stop_leftover(&folder.join("redis"));
        servers::postgres::stop_leftover(&folder.join("postgres/cluster"));
        let front =
            std::fs::read_to_string(folder.join("timescale.pid")).ok().and_then(|pid| pid.parse().ok());
        if let Some(front) = front.map(Identity::of)
            && front.has_argument(&folder.join("front.mjs"))
        {
            front.end(Signal::SIGKILL, Duration::ZERO);
        }
        let _ = std::fs::remove_dir_all(folder);
    }
}
