//! The life of a real process: its settings, its admin port, its signals and its exit code.
//!
//! This binary is both the tests and, when `LIFE` is set, the program they start.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use service::Service;
use service::env::{Reader, Redis};

/// What the program does: how its work ends.
struct Config {
    work: String,
    _redis: Redis,
}

fn main() -> ExitCode {
    if std::env::var_os("LIFE").is_some() {
        let read = |from: &mut Reader| Config {
            work: from
                .setting("work", "how the work ends")
                .one_of(&["done", "fails", "ends-on-request", "never"])
                .or("done"),
            _redis: Redis::read(from),
        };
        return service::run("voiceforge-x", "Lives and ends.", read, work);
    }
    let tests: [(&str, fn()); 7] = [
        ("mistakes_are_64_before_anything_is_bound", mistakes_are_64_before_anything_is_bound),
        ("help_is_no_failure", help_is_no_failure),
        ("work_done_is_0", work_done_is_0),
        ("failed_work_is_1_and_told_once", failed_work_is_1_and_told_once),
        ("a_signal_ends_the_work", a_signal_ends_the_work),
        ("grace_runs_out", grace_runs_out),
        ("a_second_signal_ends_at_once", a_second_signal_ends_at_once),
    ];
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    for (name, test) in tests.into_iter().filter(|(name, _)| name.contains(&wanted)) {
        test();
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

async fn work(config: Config, service: Service) -> anyhow::Result<()> {
    service.readiness.ok("work", "at it");
    match config.work.as_str() {
        "fails" => Err(anyhow::anyhow!("connection refused").context("connect to redis")),
        "ends-on-request" => {
            service.shutdown.wait().await;
            Ok(())
        }
        "never" => std::future::pending().await,
        _ => Ok(()),
    }
}

fn mistakes_are_64_before_anything_is_bound() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("admin");
    let output =
        run(&["--work=badly", "--shards=many", "--log=loud,x=y=z", "--admin-file", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(64));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.starts_with("voiceforge-x: 3 mistakes in the settings"), "{told}");
    assert!(!file.exists());
}

fn help_is_no_failure() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        told.contains("--shutdown-grace <DURATION>") && told.contains("[VOICEFORGE_SHUTDOWN_GRACE]"),
        "{told}"
    );
}

fn work_done_is_0() {
    assert_eq!(run(&[]).status.code(), Some(0));
}

fn failed_work_is_1_and_told_once() {
    let output = run(&["--work=fails", "--log-format=json"]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    let errors: Vec<serde_json::Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &serde_json::Value| line["level"] == "ERROR")
        .collect();
    assert_eq!(errors.len(), 1, "{told}");
    assert_eq!(errors[0]["message"], "connect to redis: connection refused");

    let quiet = run(&["--work=fails", "--log=off"]);
    assert_eq!(
        String::from_utf8_lossy(&quiet.stderr),
        "voiceforge-x: connect to redis: connection refused\n"
    );
}

fn a_signal_ends_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = start(&["--work=ends-on-request"], folder.path());
    let addr = admin_addr(folder.path());
    assert!(get(&addr, "/health/ready").contains("\"state\":\"ready\""));
    assert!(get(&addr, "/metrics").contains("voiceforge_build_info{program=\"voiceforge-x\""));
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn grace_runs_out() {
    let folder = tempfile::tempdir().unwrap();
    let child = start(&["--work=never", "--shutdown-grace=200ms"], folder.path());
    admin_addr(folder.path());
    signal(&child, "INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("did not end within"), "{told}");
}

fn a_second_signal_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = start(&["--work=never", "--shutdown-grace=1h"], folder.path());
    let addr = admin_addr(folder.path());
    signal(&child, "TERM");
    let asked = Instant::now();
    while !get(&addr, "/health").contains("\"state\":\"ending\"") {
        assert!(asked.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(10));
    }
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
}

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env_clear().env("LIFE", "1").args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(args: &[&str]) -> Output {
    program(args).output().unwrap()
}

fn start(args: &[&str], folder: &Path) -> Child {
    program(args).env("VOICEFORGE_ADMIN_FILE", folder.join("admin")).spawn().unwrap()
}

/// The address of the admin port, once the program has bound it.
fn admin_addr(folder: &Path) -> String {
    let asked = Instant::now();
    loop {
        if let Ok(addr) = std::fs::read_to_string(folder.join("admin")) {
            return addr.trim().to_owned();
        }
        assert!(asked.elapsed() < Duration::from_secs(10), "no admin port");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn get(addr: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}
