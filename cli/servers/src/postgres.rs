//! A private PostgreSQL: one cluster, one superuser `voiceforge` with a random password, one database `voiceforge`.
//!
//! PostgreSQL refuses to run as root, so for root it runs as `postgres` or `nobody`, in a folder that user can reach.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::folder::{self, Servant};
use crate::process::{Identity, Running, Signal};

/// How to start it.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folders that may hold `initdb` and `postgres`, best first. The first of the cluster's version is used.
    pub bins: Vec<PathBuf>,
    /// Its folder; made when missing. As root it may become a link to a folder under /var/lib/voiceforge.
    pub folder: PathBuf,
    /// File that gets what the server says.
    pub log: PathBuf,
    /// Port to prefer, so that addresses stay the same from one start to the next.
    pub port: Option<u16>,
    /// False for tests: faster, and not safe against a crash of the machine.
    pub durable: bool,
}

/// A running PostgreSQL.
#[derive(Debug)]
pub struct Postgres {
    running: Running,
    port: u16,
    password: String,
    folder: PathBuf,
}

/// The superuser and the database.
pub const NAME: &str = "voiceforge";
const START_PATIENCE: Duration = Duration::from_secs(90);
const STOP_PATIENCE: Duration = Duration::from_secs(30);

impl Postgres {
    /// Makes the cluster when there is none, starts the server and returns once it lets clients in.
    /// One still running in the folder is stopped first.
    pub fn start(options: &Options) -> Result<Postgres> {
        let servant = folder::servant()?;
        let folder = folder::make(&options.folder, servant)?;
        let place =
            Place { cluster: folder.join("cluster"), password_file: folder.join("password"), servant };
        let bin = pick(&options.bins, &place.cluster)?;
        if let Some(servant) = servant
            && !folder::is_passable(&bin)
        {
            bail!(
                "{} is in a folder that user {} cannot enter, and PostgreSQL refuses to run as root; \
                 put it where every user can go (VOICEFORGE_CACHE, VOICEFORGE_POSTGRES_BIN)",
                bin.display(),
                servant.uid
            );
        }
        if !place.cluster.exists() {
            make_cluster(&bin, &place, &options.log)?;
        }
        let password = std::fs::read_to_string(&place.password_file).context("read PostgreSQL's password")?;
        stop_leftover(&place.cluster);

        let mut wished = options.port;
        let mut wait = Duration::from_millis(100);
        let mut said = String::new();
        let until = Instant::now() + START_PATIENCE;
        while Instant::now() < until {
            let port = crate::free_port(wished).context("find a free port for PostgreSQL")?;
            let log_before = crate::length_of(&options.log);
            let mut running = Running::new(spawn(&bin, &place, options, port)?);
            while running.ended().is_none() {
                if lets_in(port) {
                    return Ok(Postgres { running, port, password, folder });
                }
                if Instant::now() > until {
                    running.end(Signal::SIGQUIT, Duration::from_secs(5));
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            // After a kill -9 the old backends hold the shared memory for a moment, and a port may be taken under our
            // hands: both pass. Anything else does not.
            said = crate::tail_of(&options.log, log_before);
            if said.contains("could not bind") {
                wished = None;
            } else if !said.contains("shared memory block") {
                break;
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(Duration::from_secs(2));
        }
        bail!("PostgreSQL did not start; its log {} says:\n{said}", options.log.display())
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address clients use, password included.
    pub fn url(&self) -> String {
        self.url_of(NAME)
    }

    /// The address of another database of the same server.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://{NAME}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// Where its data really is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The process, to look at.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// The process, to watch and stop.
    pub fn process(&mut self) -> &mut Running {
        &mut self.running
    }

    /// Stops it: clients are cut off, everything is written to disk.
    pub fn stop(&mut self) {
        self.running.end(Signal::SIGINT, STOP_PATIENCE);
    }
}

/// Stops a PostgreSQL known only by its process.
pub fn stop(process: Identity) {
    process.end(Signal::SIGINT, STOP_PATIENCE);
}

struct Place {
    cluster: PathBuf,
    password_file: PathBuf,
    servant: Option<Servant>,
}

/// The folder whose version made the cluster; any when there is no cluster yet.
fn pick(bins: &[PathBuf], cluster: &Path) -> Result<PathBuf> {
    let Some(first) = bins.first() else {
        bail!(
            "PostgreSQL (initdb, postgres) was not found; install it with: {}",
            crate::find::remedy("postgresql")
        );
    };
    let Ok(version) = std::fs::read_to_string(cluster.join("PG_VERSION")) else { return Ok(first.clone()) };
    let version = version.trim();
    match bins
        .iter()
        .find(|bin| crate::find::postgres_major(bin).is_some_and(|major| major.to_string() == version))
    {
        Some(bin) => Ok(bin.clone()),
        None => bail!(
            "the data in {} was made by PostgreSQL {version}, which is not on this machine; \
             install it, or remove the folder to begin anew",
            cluster.display()
        ),
    }
}

fn make_cluster(bin: &Path, place: &Place, log: &Path) -> Result<()> {
    // Made under another name and then renamed: a half-made cluster is never taken for a whole one.
    let new = place.cluster.with_extension("new");
    if new.exists() {
        std::fs::remove_dir_all(&new).context("remove a half-made cluster")?;
    }
    let password = random_hex()?;
    let _ = std::fs::remove_file(&place.password_file);
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&place.password_file)
        .and_then(|mut file| file.write_all(password.as_bytes()))
        .context("write PostgreSQL's password")?;
    if let Some(servant) = place.servant {
        chown(&place.password_file, Some(servant.uid.as_raw()), Some(servant.gid.as_raw()))?;
    }
    let mut said = String::new();
    // Systems differ in which locales they have; the last one is always there.
    for locale in ["C.UTF-8", "en_US.UTF-8", "C"] {
        let mut initdb = as_servant(&bin.join("initdb"), place);
        initdb
            .args(["--username", NAME, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", locale])
            .arg("--pwfile")
            .arg(&place.password_file)
            .arg("--pgdata")
            .arg(&new)
            .arg("--no-sync");
        let output = initdb.output().context("run initdb")?;
        said.push_str(&String::from_utf8_lossy(&output.stderr));
        if output.status.success() {
            make_database(bin, place, &new, log)?;
            return std::fs::rename(&new, &place.cluster).context("put the new cluster in place");
        }
        let _ = std::fs::remove_dir_all(&new);
    }
    bail!("initdb failed:\n{said}")
}

/// Creates the database without a client program: the server itself reads SQL in its single-user mode.
fn make_database(bin: &Path, place: &Place, cluster: &Path, log: &Path) -> Result<()> {
    let log = crate::open_log(log)?;
    let mut single = as_servant(&bin.join("postgres"), place);
    single.arg("--single").arg("-D").arg(cluster).arg("postgres");
    single.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
    let mut child = single.spawn().context("run postgres --single")?;
    let mut stdin = child.stdin.take().context("write to postgres --single")?;
    stdin.write_all(format!("CREATE DATABASE {NAME};\n").as_bytes())?;
    drop(stdin);
    if !child.wait()?.success() {
        bail!("postgres --single could not create the database");
    }
    Ok(())
}

fn spawn(bin: &Path, place: &Place, options: &Options, port: u16) -> Result<std::process::Child> {
    let log = crate::open_log(&options.log)?;
    let mut command = as_servant(&bin.join("postgres"), place);
    command
        .arg("-D")
        .arg(&place.cluster)
        .args([
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "unix_socket_directories=",
            "-c",
            "max_connections=200",
        ])
        .args(["-p", &port.to_string()])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    if !options.durable {
        // Programs that cannot lose a commit ask for it to be synchronous themselves; here they are tested to do so.
        command.args(["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"]);
    }
    command.spawn().context("start postgres")
}

fn as_servant(program: &Path, place: &Place) -> Command {
    let mut command = Command::new(program);
    // The caller's own settings for PostgreSQL clients and locales have no business in here.
    for name in ["PGDATA", "PGPORT", "PGHOST", "PGUSER", "PGOPTIONS", "LC_ALL", "LANG"] {
        command.env_remove(name);
    }
    if let Some(servant) = place.servant {
        command.uid(servant.uid.as_raw()).gid(servant.gid.as_raw()).current_dir("/").env_remove("HOME");
    }
    command
}

/// True once a client would be asked for its password: during start and recovery the server answers with an error.
fn lets_in(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(500))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut startup = 196_608_u32.to_be_bytes().to_vec(); // protocol 3.0
        startup.extend(format!("user\0{NAME}\0database\0{NAME}\0\0").as_bytes());
        stream.write_all(&(startup.len() as u32 + 4).to_be_bytes())?;
        stream.write_all(&startup)?;
        let mut kind = [0];
        stream.read_exact(&mut kind)?;
        Ok(kind == *b"R")
    };
    ask().unwrap_or(false)
}

/// Stops a server that still runs on this cluster, or removes the pid file of one that does not: its number may by now
/// be another process's, and PostgreSQL would then refuse to start.
pub fn stop_leftover(cluster: &Path) {
    let file = cluster.join("postmaster.pid");
    let Ok(lines) = std::fs::read_to_string(&file) else { return };
    let Some(pid) = lines.lines().next().and_then(|line| line.trim().parse().ok()) else { return };
    let left = Identity::of(pid);
    // A postmaster works in its data folder.
    if left.is_alive() && left.working_folder().is_some_and(|folder| folder == cluster) {
        stop(left);
    } else {
        let _ = std::fs::remove_file(file);
    }
}

fn random_hex() -> Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .context("read random bytes")?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
