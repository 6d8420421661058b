//! F9: an append-only file that ends anywhere. A hop is in it whole or not at all.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use events::{Lane, RecordingId, Shard};
use streams::log::{Admission, Admit, Commit, Message, Outcome};
use streams::redis::{Config, RedisLog};
use streams::{Log, Queue, Source};

const SHARD: Shard = Shard(0);
const WORK: Source = Source::Queue(SHARD, Queue::Decode, Lane::Batch);
/// Every offset of so many bytes at the end.
const TAIL: u64 = 4096;
/// Recordings admitted and committed: enough that the tail is of hops only.
const RECORDINGS: u128 = 40;

#[test]
fn f9_a_file_cut_at_any_byte_of_its_end_holds_whole_hops() {
    let _machine = super::machine();
    let Ok(program) = servers::find::redis_server() else {
        println!("skipped: there is no redis-server");
        return;
    };
    let folder = tempfile::Builder::new().prefix("vf-aof-").tempdir().expect("a temporary folder");
    let written = folder.path().join("written");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(write(&program, &written)).unwrap_or_else(|error| panic!("{error:#}"));

    let incremental = "appendonlydir/appendonly.aof.1.incr.aof";
    let length = written.join(incremental).metadata().expect("the file that hops are in").len();
    assert!(length > TAIL, "{length} bytes are too few");
    let (next, whole) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (next, whole, program, written) = (&next, &whole, &program, &written);
            let folder = folder.path().join(worker.to_string());
            scope.spawn(move || {
                copy(written, &folder).expect("copy the folder");
                loop {
                    let cut = next.fetch_add(1, Ordering::SeqCst) as u64;
                    if cut > TAIL {
                        return;
                    }
                    let file = folder.join(incremental);
                    std::fs::copy(written.join(incremental), &file).expect("copy the file");
                    let file = std::fs::OpenOptions::new().write(true).open(file).expect("open the file");
                    file.set_len(length - cut).expect("cut the file");
                    let state = load(program, &folder);
                    let state = state.unwrap_or_else(|error| panic!("{cut} bytes cut off: {error:#}"));
                    let wrong = state.wrong();
                    assert!(wrong.is_empty(), "{cut} bytes cut off: {wrong}: {state:?}");
                    whole.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(whole.into_inner() as u64, TAIL + 1);
}

/// Writes a file of admissions, reads and commits.
async fn write(program: &Path, folder: &Path) -> Result<()> {
    std::fs::create_dir(folder)?;
    let server = Server::start(program, folder)?;
    let log = RedisLog::connect(Config::new(server.url(), 1)).await?;
    log.ensure_groups("decode", &[WORK]).await?;
    for number in 0..RECORDINGS {
        let recording = RecordingId::from(uuid::Uuid::from_u128(number));
        let work = Message { ms: 1_000, ..message(number, "work") };
        let admit = Admit {
            shard: SHARD,
            recording,
            claim: None,
            fingerprint: String::new(),
            facts: vec![message(number, "admitted")],
            work: Some((WORK, work)),
        };
        ensure!(log.admit(&admit).await? == Admission::Admitted);
    }
    for number in 0..RECORDINGS {
        let entry = log.take("decode", "worker", WORK, 1).await?.pop().context("there is work")?;
        let commit = Commit {
            source: WORK,
            group: "decode".to_owned(),
            identity: entry.identity().to_owned(),
            id: entry.id,
            recording: Some(RecordingId::from(uuid::Uuid::from_u128(number))),
            generation: Some(0),
            facts: vec![message(number, "done")],
            outputs: Vec::new(),
            dead: None,
            delete: Vec::new(),
            lapse: None,
        };
        ensure!(log.commit(&commit).await? == Outcome::Done);
    }
    Ok(())
}

fn message(number: u128, part: &str) -> Message {
    Message { event_id: format!("{number}-{part}"), json: format!("{{\"is\":\"{part}\"}}"), ms: 0, bytes: 0 }
}

/// What a server has after loading.
#[derive(Debug)]
struct State {
    seq: u64,
    facts: u64,
    admitted: u64,
    done: u64,
    work: u64,
    counted_ms: i64,
    marks: u64,
    pending: u64,
}

impl State {
    /// What does not fit together.
    fn wrong(&self) -> String {
        let State { seq, facts, admitted, done, work, counted_ms, marks, pending } = self;
        let fits = [
            (seq == facts, "seq is not the number of facts"),
            (admitted == marks, "marks of admission are not those of the facts"),
            (*work == admitted - done, "work is not what is admitted and not done"),
            (*counted_ms == *work as i64 * 1_000, "the counter is not that of the work"),
            (pending <= work, "something is pending that is no work"),
        ];
        fits.iter().filter(|(fits, _)| !fits).map(|(_, wrong)| *wrong).collect::<Vec<_>>().join(", ")
    }
}

fn load(program: &Path, folder: &Path) -> Result<State> {
    let server = Server::start(program, folder)?;
    let mut connection = redis::Client::open(server.url())?.get_connection()?;
    let connection = &mut connection;
    let log: redis::streams::StreamRangeReply =
        redis::cmd("XRANGE").arg(Source::Log(SHARD).key()).arg("-").arg("+").query(connection)?;
    let count = |part: &str| {
        let is = |id: &String| id.ends_with(part);
        log.ids.iter().filter(|entry| entry.get("event_id").as_ref().is_some_and(is)).count() as u64
    };
    let counted: BTreeMap<String, i64> = redis::cmd("HGETALL").arg(WORK.counter()).query(connection)?;
    let marks: Vec<String> = redis::cmd("KEYS").arg("vf:{00}:admitted:*").query(connection)?;
    let pending: redis::streams::StreamPendingReply =
        redis::cmd("XPENDING").arg(WORK.key()).arg("decode").query(connection)?;
    Ok(State {
        seq: redis::cmd("GET").arg(streams::keys::seq(SHARD)).query::<Option<u64>>(connection)?.unwrap_or(0),
        facts: log.ids.len() as u64,
        admitted: count("-admitted"),
        done: count("-done"),
        work: redis::cmd("XLEN").arg(WORK.key()).query(connection)?,
        counted_ms: counted.get("ms").copied().unwrap_or(0),
        marks: marks.len() as u64,
        pending: pending.count() as u64,
    })
}

/// A server on a socket of its own: thousands are started, and ports are few.
struct Server {
    child: Child,
    socket: std::path::PathBuf,
}

impl Server {
    fn start(program: &Path, folder: &Path) -> Result<Server> {
        let socket = folder.join("s");
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new(program);
        command.args(["--port", "0", "--save", "", "--appendonly", "yes", "--dir"]).arg(folder);
        command.arg("--unixsocket").arg(&socket).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().context("start redis-server")?;
        let mut server = Server { child, socket };
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let client = redis::Client::open(server.url())?;
            let answers =
                |mut connection: redis::Connection| redis::cmd("PING").query::<String>(&mut connection);
            if client.get_connection().and_then(answers).is_ok() {
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                bail!("redis-server refused the file ({status})");
            }
            ensure!(Instant::now() < until, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn url(&self) -> String {
        format!("redis+unix://{}", self.socket.display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing is to be written any more; what a kill leaves is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()))?;
        } else if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
