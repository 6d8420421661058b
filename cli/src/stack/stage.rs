//! One stage as a process.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use servers::Running;

use super::Program;

/// How to start stages.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Folder with the programs.
    pub programs: PathBuf,
    /// Folder for their logs.
    pub logs: PathBuf,
    /// Folder for the files that tell their admin addresses.
    pub run: PathBuf,
    /// Their variables.
    pub variables: Vec<(String, String)>,
}

/// A stage just started.
#[derive(Debug)]
pub struct Stage {
    /// Its process.
    pub running: Running,
    admin_file: PathBuf,
}

const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

impl Launch {
    /// Where a stage's program is. Fails with the way to get it.
    pub fn program(&self, program: Program) -> Result<PathBuf> {
        let path = self.programs.join(format!("voiceforge-{program}"));
        if !path.is_file() {
            bail!(
                "{} is missing; `cargo build --release` builds all programs, and they belong in one folder",
                path.display()
            );
        }
        Ok(path)
    }

    /// Starts a stage; it is not ready yet.
    pub fn spawn(&self, program: Program) -> Result<Stage> {
        let path = self.program(program)?;
        let admin_file = self.run.join(format!("{program}.admin"));
        let _ = std::fs::remove_file(&admin_file);
        let log_file = self.log(program);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_file)
            .with_context(|| format!("open {}", log_file.display()))?;
        let child = Command::new(&path)
            .env("VOICEFORGE_ADMIN", "127.0.0.1:0")
            .env("VOICEFORGE_ADMIN_FILE", &admin_file)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("open the log twice")?)
            .stderr(log)
            // Ctrl-C at the terminal goes to the whole foreground group; stages are stopped in order instead.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", path.display()))?;
        Ok(Stage { running: Running::new(child), admin_file })
    }

    /// The log of a program.
    pub fn log(&self, program: Program) -> PathBuf {
        self.logs.join(format!("{program}.log"))
    }
}

impl Stage {
    /// The admin address, once the stage has bound it.
    pub fn admin(&self) -> Option<SocketAddr> {
        std::fs::read_to_string(&self.admin_file).ok()?.trim().parse().ok()
    }

    /// Waits until the stage is ready; fails when it ends before, is not ready by `until`, or nobody waits any more.
    pub fn wait(
        &mut self,
        program: Program,
        log: &Path,
        until: Instant,
        cancelled: &AtomicBool,
    ) -> Result<()> {
        let mut reason = "it has not opened its admin port".to_owned();
        loop {
            if let Some(status) = self.running.ended() {
                bail!(
                    "{program} ended at once ({status}); its log {} ends with:\n{}",
                    log.display(),
                    tail(log)
                );
            }
            if let Some(admin) = self.admin() {
                match not_ready(admin) {
                    Ok(()) => return Ok(()),
                    Err(why) => reason = why,
                }
            }
            if cancelled.load(Ordering::Relaxed) {
                bail!("stopped while {program} was not yet ready");
            }
            if Instant::now() > until {
                bail!("{program} did not become ready: {reason}; its log is {}", log.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Asks a program whether it is ready; the error is what it answered.
pub fn not_ready(admin: SocketAddr) -> Result<(), String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&admin, ANSWER_PATIENCE)?;
        stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
        stream.write_all(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(64 * 1024).read_to_string(&mut answer)?;
        Ok(answer)
    };
    match ask() {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => Ok(()),
        Ok(answer) => Err(answer.split("\r\n\r\n").nth(1).unwrap_or("no answer").trim().to_owned()),
        Err(e) => Err(format!("no answer from its admin port {admin}: {e}")),
    }
}

fn tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
