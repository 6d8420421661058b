//! A private redis-server: every write in an append-only file, synced each second, nothing ever evicted.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;

use crate::process::{Identity, Running, Signal};

/// How to start it.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `redis-server` executable.
    pub program: PathBuf,
    /// Its folder; made when missing. Holds the append-only file, the socket and nothing else.
    pub folder: PathBuf,
    /// File that gets what the server says.
    pub log: PathBuf,
    /// Port to prefer, so that addresses stay the same from one start to the next.
    pub port: Option<u16>,
    /// False for tests: nothing is written to disk.
    pub durable: bool,
    /// More settings, by their names in redis.conf.
    pub settings: Vec<(String, String)>,
}

/// A running redis-server.
#[derive(Debug)]
pub struct Redis {
    running: Running,
    port: u16,
}

/// Unix socket paths are at most this long, by the size of the kernel's address structure.
const SOCKET_PATH_MAX: usize = 100;
const START_PATIENCE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(20);

impl Redis {
    /// Starts the server and returns once it answers. One still running in the folder is stopped first.
    pub fn start(options: &Options) -> Result<Redis> {
        std::fs::create_dir_all(&options.folder)
            .with_context(|| format!("make folder {}", options.folder.display()))?;
        let folder = options.folder.canonicalize()?;
        stop_leftover(&folder);
        let mut wished = options.port;
        let log_before = crate::length_of(&options.log);
        for _ in 0..3 {
            let port = crate::free_port(wished.take()).context("find a free port for Redis")?;
            let mut running = Running::new(spawn(options, &folder, port)?);
            let until = Instant::now() + START_PATIENCE;
            loop {
                if answers(port) {
                    std::fs::write(folder.join("redis.pid"), identity_line(running.identity()))
                        .context("write Redis' pid file")?;
                    return Ok(Redis { running, port });
                }
                if running.ended().is_some() {
                    break;
                }
                if Instant::now() > until {
                    running.kill();
                    bail!(
                        "redis-server did not answer within {START_PATIENCE:?}; its log: {}",
                        options.log.display()
                    );
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        bail!(
            "redis-server ended at once; its log {} says:\n{}",
            options.log.display(),
            crate::tail_of(&options.log, log_before)
        )
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address clients use.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The process, to look at.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// The process, to watch and stop.
    pub fn process(&mut self) -> &mut Running {
        &mut self.running
    }

    /// Stops it, with everything written to disk first.
    pub fn stop(&mut self) {
        stop(self.running.identity());
        self.running.end(Signal::SIGTERM, STOP_PATIENCE);
    }
}

/// Stops a redis-server known only by its process.
pub fn stop(process: Identity) {
    process.end(Signal::SIGTERM, STOP_PATIENCE);
}

fn spawn(options: &Options, folder: &Path, port: u16) -> Result<std::process::Child> {
    let log = crate::open_log(&options.log)?;
    let mut command = Command::new(&options.program);
    command
        .args(["--bind", "127.0.0.1", "--daemonize", "no", "--save", "", "--maxmemory-policy", "noeviction"])
        .args(["--port", &port.to_string(), "--appendfsync", "everysec"])
        .args(["--appendonly", if options.durable { "yes" } else { "no" }])
        .arg("--dir")
        .arg(folder)
        .args(options.settings.iter().flat_map(|(name, value)| [format!("--{name}"), value.clone()]))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C at the terminal goes to the whole foreground group: servers must outlive their clients.
        .process_group(0);
    let socket = folder.join("redis.sock");
    if socket.as_os_str().len() <= SOCKET_PATH_MAX {
        command.arg("--unixsocket").arg(socket).args(["--unixsocketperm", "700"]);
    }
    command.spawn().with_context(|| format!("start {}", options.program.display()))
}

fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(500))?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        // While it loads its file it answers -LOADING.
        Ok(&answer == b"+PONG")
    };
    ask().unwrap_or(false)
}

fn identity_line(identity: Identity) -> String {
    format!("{} {}\n", identity.pid, identity.started)
}

/// Stops a redis-server that an earlier run left in `folder`, if it still runs.
pub fn stop_leftover(folder: &Path) {
    let Ok(line) = std::fs::read_to_string(folder.join("redis.pid")) else { return };
    let mut numbers = line.split_whitespace().map(str::parse::<u64>);
    if let (Some(Ok(pid)), Some(Ok(started))) = (numbers.next(), numbers.next()) {
        let left = Identity { pid: pid as u32, started };
        if left.is_alive() {
            stop(left);
        }
    }
    let _ = std::fs::remove_file(folder.join("redis.pid"));
}
