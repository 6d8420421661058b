//! A private redis-server on a unix socket: it can be filled, cut off, killed and started again.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use streams::redis::{Config, RedisLog};

pub struct Server {
    folder: tempfile::TempDir,
    child: Child,
    durable: bool,
}

impl Server {
    /// Starts a server that keeps nothing, or says that this machine has none.
    pub fn start() -> Option<Server> {
        Server::start_with(false)
    }

    /// Starts a server with an append-only file, so that it may be killed and started again.
    pub fn start_durable() -> Option<Server> {
        Server::start_with(true)
    }

    fn start_with(durable: bool) -> Option<Server> {
        let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
        if found.is_err() {
            eprintln!("skipped: redis-server is not on PATH");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("vf-redis-").tempdir().expect("a temporary folder");
        let child = spawn(&folder.path().join("s"), &folder, durable);
        let server = Server { folder, child, durable };
        server.wait();
        Some(server)
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    pub async fn log(&self, shards: u16) -> RedisLog {
        RedisLog::connect(Config::new(self.url(), shards)).await.expect("connect to the private server")
    }

    /// Kills the server as a crash would. What is written by then is in its file.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill the server");
        self.child.wait().expect("wait for the server");
    }

    /// Starts the server again on what it left.
    pub fn restart(&mut self) {
        let _ = std::fs::remove_file(self.socket());
        self.child = spawn(&self.socket(), &self.folder, self.durable);
        self.wait();
    }

    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// A connection for looking and for making trouble.
    pub fn raw(&self) -> redis::Connection {
        let client = redis::Client::open(self.url()).expect("the address of a unix socket");
        client.get_connection().expect("connect to the private server")
    }

    /// Runs one command given as words and returns its reply.
    pub fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_ask(words).unwrap_or_else(|e| panic!("{words:?}: {e}"))
    }

    pub fn try_ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query(&mut self.raw())
    }

    /// Sets the memory limit just above what is used, so that whatever adds is refused.
    pub fn fill_up(&self) {
        self.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    }

    pub fn make_room(&self) {
        self.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    }

    /// Everything that stands in the server, to compare before and after: key to its serialized value.
    pub fn snapshot(&self) -> std::collections::BTreeMap<String, Vec<u8>> {
        let keys: Vec<String> = self.ask(&["KEYS", "*"]);
        keys.into_iter()
            .map(|key| {
                let value: Vec<u8> = self.ask(&["DUMP", &key]);
                (key, value)
            })
            .collect()
    }

    fn wait(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            let client = redis::Client::open(self.url()).expect("the address of a unix socket");
            let answered =
                client.get_connection().and_then(|mut c| redis::cmd("PING").query::<String>(&mut c));
            if answered.is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the private redis-server does not answer");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(socket: &std::path::Path, folder: &tempfile::TempDir, durable: bool) -> Child {
    Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--appendfsync", "always", "--enable-debug-command", "yes"])
        .args(["--appendonly", if durable { "yes" } else { "no" }])
        .arg("--unixsocket")
        .arg(socket)
        .arg("--dir")
        .arg(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server was found on PATH")
}

/// Listens to what clients ask of a server.
pub struct Watched(std::io::BufReader<std::os::unix::net::UnixStream>);

impl Server {
    pub fn watch(&self) -> Watched {
        use std::io::{BufRead, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(self.socket()).expect("connect");
        stream.write_all(b"MONITOR\r\n").expect("ask to listen");
        let mut lines = std::io::BufReader::new(stream);
        let mut line = String::new();
        lines.read_line(&mut line).expect("an answer");
        assert_eq!(line.trim_end(), "+OK");
        Watched(lines)
    }
}

impl Watched {
    /// Returns the keys of every call with several of them: scripts and reads.
    pub fn finish(self, server: &Server) -> Vec<Vec<String>> {
        self.words(server).iter().filter_map(|words| keys_of(words)).collect()
    }

    /// Returns every call from outside, in words.
    pub fn words(self, server: &Server) -> Vec<Vec<String>> {
        use std::io::BufRead;
        server.ask::<String>(&["ECHO", "that is all"]);
        let lines = self.0.lines().map(|line| line.expect("a line"));
        let until = lines.take_while(|line| !line.contains("\"that is all\""));
        until.filter(|line| !line.contains(" lua] ")).map(|line| words_of(&line)).collect()
    }
}

fn words_of(line: &str) -> Vec<String> {
    line.split_once('"')
        .map_or("", |(_, rest)| rest.trim_end_matches('"'))
        .split("\" \"")
        .map(str::to_owned)
        .collect()
}

fn keys_of(words: &[String]) -> Option<Vec<String>> {
    match words[0].as_str() {
        "EVALSHA" => Some(words[3..3 + words[2].parse::<usize>().expect("a number of keys")].to_vec()),
        "XREADGROUP" => {
            let at = words.iter().position(|word| word == "STREAMS")? + 1;
            Some(words[at..at + (words.len() - at) / 2].to_vec())
        }
        _ => None,
    }
}
