//! Two Redis servers, PostgreSQL, a faulty line to each, and several workers of every stage.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cli::stack::{Program, Signal};
use redis::InfoDict;
use redis::aio::MultiplexedConnection;
use servers::{Identity, Postgres, Redis, postgres, redis as redis_server};
use tokio::sync::Mutex;

use super::crew::{self, Crew, Launch};
use crate::proxy::Proxy;

/// How many workers of each stage there are.
pub const WORKERS: &[(Program, usize)] = &[
    (Program::Ingest, 2),
    (Program::Decode, 2),
    (Program::Infer, 2),
    (Program::Project, 2),
    (Program::Keeper, 1),
    (Program::Api, 1),
];
/// Segments that infer workers have in hand at most, all together.
pub const SEGMENTS_IN_HAND: u64 = 4;
/// Shards of the deployment.
pub const SHARDS: u16 = 2;
/// The lease of workers: short, so that many can be lost in a short time.
pub const LEASE: Duration = Duration::from_secs(3);
/// Sessions of PostgreSQL that projectors, keeper and API have at most: 8, 4 for questions by key, and a listener each.
pub const SESSIONS_MAX: usize = 52;
/// The longest segment on the rt lane: short, so that short recordings have several.
pub const RT_SEGMENT_MS: u32 = 5_000;

/// A deployment that can be harmed.
pub struct Deployment {
    /// The line to Redis.
    pub to_redis: Proxy,
    /// The line to PostgreSQL.
    pub to_postgres: Proxy,
    /// Whoever changes the weather on the line to Redis holds this.
    pub redis_weather: Mutex<()>,
    /// Whoever changes the weather on the line to PostgreSQL holds this.
    pub postgres_weather: Mutex<()>,
    /// The Redis servers. Whoever harms one holds this.
    pub redis: Mutex<Pair>,
    /// PostgreSQL. Whoever harms it holds this.
    pub postgres: Mutex<Database>,
    /// PostgreSQL's URL over the line.
    pub database_url: String,
    /// The workers.
    pub crew: Crew,
    /// Where the API is.
    pub api: String,
    folder: Folder,
}

/// A primary and its replica.
pub struct Pair {
    servers: [Redis; 2],
    options: [redis_server::Options; 2],
    primary: usize,
    processes: PathBuf,
}

/// PostgreSQL with how to start it.
pub struct Database {
    server: Postgres,
    options: postgres::Options,
    processes: PathBuf,
}

impl Deployment {
    /// Starts all of it; `more` are variables for the workers.
    ///
    /// # Errors
    /// When something does not start, with the end of its log.
    pub async fn start(more: &[(&str, &str)]) -> Result<Deployment> {
        service::install_tls();
        let folder = Folder::make()?;
        let path = folder.path.clone();
        let pair = Pair::start(&path).await?;
        let database = Database::start(&path).await?;
        let to_redis = Proxy::start(pair.address()).await.context("open the line to Redis")?;
        let to_postgres = Proxy::start(database.address()).await.context("open the line to PostgreSQL")?;
        let api = SocketAddr::from(([127, 0, 0, 1], servers::free_port(steady_port())?));
        let set = |name: &str, value: String| (format!("VOICEFORGE_{name}"), value);
        let database_url = database.url_at(to_postgres.address());
        let mut variables = vec![
            set("REDIS_URL", format!("redis://{}", to_redis.address())),
            set("DATABASE_URL", database_url.clone()),
            set("AUDIO_STORE", path.join("audio").display().to_string()),
            set("MODELS", path.join("models").display().to_string()),
            set("MODEL", infer::hash::NAME.to_owned()),
            set("HASH_MODEL", "120ms".to_owned()),
            set("SHARDS", SHARDS.to_string()),
            set("LEASE", format!("{}s", LEASE.as_secs())),
            set("RT_SEGMENT_MAX", format!("{RT_SEGMENT_MS}ms")),
            set("MISSING_AFTER", "4s".to_owned()),
            set("KEEPER_EVERY", "1s".to_owned()),
            set("API_ADDRESS", api.to_string()),
            set("LOG_FORMAT", "json".to_owned()),
            set("LOG", "info,infer=debug".to_owned()),
        ];
        variables.extend(more.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())));
        for name in ["audio", "models"] {
            std::fs::create_dir_all(path.join(name)).context("make a folder")?;
        }
        let launch = Launch { programs: cli::stack::programs_folder(), folder: path, variables };
        let crew = Crew::start(&launch, WORKERS).await?;
        Ok(Deployment {
            to_redis,
            to_postgres,
            redis_weather: Mutex::default(),
            postgres_weather: Mutex::default(),
            redis: Mutex::new(pair),
            postgres: Mutex::new(database),
            database_url,
            crew,
            api: format!("http://{api}"),
            folder,
        })
    }

    /// The folder with everything it writes.
    pub fn folder(&self) -> &Path {
        &self.folder.path
    }

    /// Stops everything, once nobody else has it any more, and removes its folder, unless it is to be `kept` for a look.
    pub async fn stop(self: Arc<Self>, kept: bool) {
        let mut shared = self;
        // Tasks of a run that broke off are on their way out.
        for _ in 0..200 {
            match Arc::try_unwrap(shared) {
                Ok(Deployment { crew, redis, postgres, mut folder, .. }) => {
                    crew.stop().await;
                    folder.kept = kept;
                    // Dropping them ends them, and takes its time. A task that dies leaves them to the next run.
                    let _ = tokio::task::spawn_blocking(move || drop((redis, postgres, folder))).await;
                    return;
                }
                Err(still) => shared = still,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A folder that is removed with its owner.
struct Folder {
    path: PathBuf,
    kept: bool,
}

const PREFIX: &str = "voiceforge-faults-";

/// What is kept has another name: folders of runs that ended are removed by the next.
const KEPT_PREFIX: &str = "voiceforge-kept-";

impl Folder {
    fn make() -> Result<Folder> {
        remove_forgotten();
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir().context("make a folder")?.keep();
        use std::os::unix::fs::PermissionsExt;
        // PostgreSQL may run as another user, who must pass through.
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755))?;
        Ok(Folder { path: folder, kept: false })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_dir_all(&self.path);
            return;
        }
        let name = self.path.file_name().and_then(|name| name.to_str()?.strip_prefix(PREFIX));
        let to = self.path.with_file_name(format!("{KEPT_PREFIX}{}", name.unwrap_or("run")));
        match std::fs::rename(&self.path, &to) {
            Ok(()) => eprintln!("what the programs logged is kept in {}", to.display()),
            Err(error) => eprintln!("what the programs logged is in {}: {error}", self.path.display()),
        }
    }
}

/// Ends what runs that were killed left running, and removes their folders.
pub fn remove_forgotten() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok());
        let Some(owner) = owner else { continue };
        if Identity::of(owner).is_alive() {
            continue;
        }
        let folder = entry.path();
        let list = std::fs::read_to_string(folder.join("processes")).unwrap_or_default();
        for line in list.lines() {
            let mut numbers = line.split(' ').map(str::parse::<u64>);
            if let (Some(Ok(pid)), Some(Ok(started))) = (numbers.next(), numbers.next()) {
                Identity { pid: pid as u32, started }.end(Signal::SIGKILL, Duration::ZERO);
            }
        }
        for number in 0..2 {
            servers::redis::stop_leftover(&folder.join(format!("redis-{number}")));
        }
        servers::postgres::stop_leftover(&folder.join("postgres/cluster"));
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// Settings of both Redis servers that make them quick to find each other again.
const REDIS_SETTINGS: &[(&str, &str)] = &[
    ("repl-diskless-sync-delay", "0"),
    ("repl-timeout", "10"),
    // What a script may take before others are told that the server is busy, ms.
    ("busy-reply-threshold", "50"),
    ("enable-debug-command", "yes"),
];

impl Drop for Pair {
    fn drop(&mut self) {
        for server in &mut self.servers {
            server.process().kill();
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // At once, and its children with it.
        self.server.process().end(Signal::SIGQUIT, Duration::from_secs(10));
    }
}

impl Pair {
    async fn start(folder: &Path) -> Result<Pair> {
        let program = servers::find::redis_server()?;
        let options = [0, 1].map(|number| redis_server::Options {
            program: program.clone(),
            folder: folder.join(format!("redis-{number}")),
            log: folder.join(format!("redis-{number}.log")),
            port: steady_port(),
            durable: true,
            settings: REDIS_SETTINGS.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect(),
        });
        let (first, second) = (options[0].clone(), options[1].clone());
        let servers = blocking(move || Ok([Redis::start(&first)?, Redis::start(&second)?])).await?;
        let mut pair = Pair { servers, options, primary: 0, processes: folder.to_owned() };
        for (server, options) in pair.servers.iter().zip(&mut pair.options) {
            options.port = Some(server.port());
            crew::note(folder, server.running().identity())?;
        }
        pair.follow().await?;
        Ok(pair)
    }

    /// The primary's own address, past the line.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.servers[self.primary].port()))
    }

    /// The primary's own URL, past the line.
    pub fn url(&self) -> String {
        self.servers[self.primary].url()
    }

    /// The folder of the primary's append-only file.
    pub fn append_only(&self) -> PathBuf {
        self.options[self.primary].folder.join("appendonlydir")
    }

    /// Connects to the primary, past the line.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn connect(&self) -> Result<MultiplexedConnection> {
        connect(&self.url()).await
    }

    /// Connects to the replica.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn connect_replica(&self) -> Result<MultiplexedConnection> {
        connect(&self.servers[1 - self.primary].url()).await
    }

    /// Sends a signal to the primary.
    pub fn signal(&self, signal: Signal) {
        self.servers[self.primary].running().identity().signal(signal);
    }

    /// Sends a signal to the replica.
    pub fn signal_replica(&self, signal: Signal) {
        self.servers[1 - self.primary].running().identity().signal(signal);
    }

    /// Ends the primary, by `signal`; waits for its end.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn end(&mut self, signal: Signal) -> Result<()> {
        let identity = self.servers[self.primary].running().identity();
        blocking(move || {
            identity.signal(signal);
            ensure!(identity.wait(Duration::from_secs(30)), "redis-server did not end");
            Ok(())
        })
        .await?;
        // Reaped, so that its number can be used again.
        self.servers[self.primary].process().ended();
        Ok(())
    }

    /// Starts the primary that ended, with `more` settings for this time.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn revive(&mut self, more: &[(&str, &str)]) -> Result<()> {
        self.start_again(self.primary, more).await?;
        self.follow().await
    }

    /// Makes the replica the primary, and starts the old primary as its replica.
    ///
    /// # Errors
    /// When one of them does not answer.
    pub async fn promote(&mut self) -> Result<()> {
        self.primary = 1 - self.primary;
        let mut connection = self.connect().await?;
        redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec_async(&mut connection).await?;
        Ok(())
    }

    /// Starts the former primary as the replica.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn revive_replica(&mut self) -> Result<()> {
        self.start_again(1 - self.primary, &[]).await?;
        self.follow().await
    }

    /// Waits until the replica has all that the primary had when this was asked. A link that is up does not tell: after a
    /// whole copy the replica is up with what the primary had when the copy began, and the rest is still on its way.
    ///
    /// # Errors
    /// When it does not within 20 s.
    pub async fn in_step(&self) -> Result<()> {
        let wanted = replication(&mut self.connect().await?).await?;
        for _ in 0..200 {
            if let Ok(mut replica) = self.connect_replica().await
                && replication(&mut replica).await.is_ok_and(|found| has_all(&found, &wanted))
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("the replica does not follow the primary")
    }

    async fn follow(&self) -> Result<()> {
        let mut replica = self.connect_replica().await?;
        let port = self.servers[self.primary].port();
        redis::cmd("REPLICAOF").arg("127.0.0.1").arg(port).exec_async(&mut replica).await?;
        Ok(())
    }

    async fn start_again(&mut self, number: usize, more: &[(&str, &str)]) -> Result<()> {
        let mut options = self.options[number].clone();
        options.settings.extend(more.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())));
        let wished = options.port;
        let start = move || {
            // A child that was writing a snapshot has the port for a moment longer than a server that was killed.
            for _ in 0..100 {
                if wished.is_some() && servers::free_port(wished).ok() == wished {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            Redis::start(&options)
        };
        let server = blocking(start).await?;
        crew::note(&self.processes, server.running().identity())?;
        ensure!(Some(server.port()) == wished, "Redis did not get its port back");
        self.servers[number] = server;
        Ok(())
    }
}

impl Database {
    async fn start(folder: &Path) -> Result<Database> {
        let mut options = postgres::Options {
            bins: servers::find::postgres_bins(),
            folder: folder.join("postgres"),
            log: folder.join("postgres.log"),
            port: steady_port(),
            durable: false,
        };
        let first = options.clone();
        let server = blocking(move || Postgres::start(&first)).await?;
        options.port = Some(server.port());
        crew::note(folder, server.running().identity())?;
        Ok(Database { server, options, processes: folder.to_owned() })
    }

    /// Its own URL, past the line.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Ends it by `signal` and starts it again after `pause`. SIGQUIT is `pg_ctl stop -m immediate`.
    ///
    /// # Errors
    /// When it does not start again.
    pub async fn restart(&mut self, signal: Signal, pause: Duration) -> Result<()> {
        let identity = self.server.running().identity();
        let options = self.options.clone();
        let server = blocking(move || {
            identity.signal(signal);
            ensure!(identity.wait(Duration::from_secs(60)), "PostgreSQL did not end");
            std::thread::sleep(pause);
            Postgres::start(&options)
        })
        .await?;
        crew::note(&self.processes, server.running().identity())?;
        ensure!(Some(server.port()) == self.options.port, "PostgreSQL did not get its port back");
        self.server.process().ended();
        self.server = server;
        Ok(())
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.server.port()))
    }

    fn url_at(&self, address: SocketAddr) -> String {
        self.server.url().replace(&self.address().to_string(), &address.to_string())
    }
}

/// A free port that the system gives nobody's outgoing connection, so that it is still free when a server that was
/// killed wants it back. `None`: found none.
fn steady_port() -> Option<u16> {
    let free = |port: &u16| servers::free_port(Some(*port)).is_ok_and(|found| found == *port);
    (0..100).map(|_| rand::random_range(15_000..32_000)).find(free)
}

/// Connects to a Redis server, with a limit on every answer.
///
/// # Errors
/// When it does not answer.
pub async fn connect(url: &str) -> Result<MultiplexedConnection> {
    let limits = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(10)))
        .set_response_timeout(Some(Duration::from_secs(60)));
    let client = redis::Client::open(url).context("read a Redis address")?;
    client.get_multiplexed_async_connection_with_config(&limits).await.context("connect to Redis")
}

async fn replication(connection: &mut MultiplexedConnection) -> Result<InfoDict> {
    redis::cmd("INFO").arg("replication").query_async(connection).await.context("ask how replication stands")
}

/// Whether a replica has what its primary had, by what both say of their replication: a primary that came back with
/// another history counts its bytes anew, under another id.
fn has_all(replica: &InfoDict, primary: &InfoDict) -> bool {
    let history = |of: &InfoDict| of.get::<String>("master_replid");
    let is_up = replica.get("master_link_status").is_some_and(|status: String| status == "up");
    let bytes: (Option<u64>, Option<u64>) =
        (replica.get("slave_repl_offset"), primary.get("master_repl_offset"));
    is_up && history(replica) == history(primary) && matches!(bytes, (Some(has), Some(had)) if has >= had)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("wait for a server")?
}

#[cfg(test)]
mod tests {
    use redis::InfoDict;

    use super::has_all;

    #[test]
    fn a_replica_is_in_step_only_with_all_bytes_of_the_same_history() {
        let primary = InfoDict::new("role:master\r\nmaster_replid:5e8a\r\nmaster_repl_offset:2928\r\n");
        let replica = |id: &str, link: &str, offset: u64| {
            InfoDict::new(&format!(
                "role:slave\r\nmaster_link_status:{link}\r\nslave_repl_offset:{offset}\r\nmaster_replid:{id}\r\n"
            ))
        };
        assert!(has_all(&replica("5e8a", "up", 2928), &primary));
        assert!(has_all(&replica("5e8a", "up", 3000), &primary));
        assert!(!has_all(&replica("5e8a", "up", 2927), &primary), "the tail is on its way");
        assert!(!has_all(&replica("5e8a", "down", 2928), &primary));
        assert!(!has_all(&replica("5117", "up", 362_625), &primary), "another history's bytes");
    }
}
