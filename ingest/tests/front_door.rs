//! The program itself, a real Redis and the line from the manual.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use streams::keys::{Queue, Source};
use streams::redis::{Config, RedisLog};
use streams::{DropOutcome, Log, ModelNote};

/// A second of wav, 16 kHz mono: whatever its name says.
fn wav() -> Vec<u8> {
    let mut wav =
        b"RIFF\x24\x7d\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data\0\x7d\0\0"
            .to_vec();
    wav.resize(wav.len() + 32_000, 7);
    wav
}

/// How redis-cli is told which server, for a URL such as `redis://127.0.0.1:6379/5` or `redis+unix:///socket?db=5`.
fn server_arguments(url: &str) -> String {
    match url.strip_prefix("redis+unix://").or_else(|| url.strip_prefix("unix://")) {
        None => format!("-u {url}"),
        Some(path) => {
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            let db = query.split('&').find_map(|pair| pair.strip_prefix("db=")).unwrap_or("0");
            format!("-s {path} -n {db}")
        }
    }
}

fn redis_cli(url: &str, command: &str, folder: &Path) -> String {
    let line = format!("redis-cli {} {command}", server_arguments(url));
    let output = Command::new("sh").arg("-c").arg(&line).current_dir(folder).output().expect("sh runs");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("redis-cli answers in text").trim().to_owned()
}

fn start(url: &str, folder: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_voiceforge-ingest"))
        .env_clear()
        .env("VOICEFORGE_REDIS_URL", url)
        .env("VOICEFORGE_AUDIO_STORE", folder.join("store"))
        .env("VOICEFORGE_ADMIN", "127.0.0.1:0")
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts")
}

async fn wait_for(log: &RedisLog, drop: &str) -> DropOutcome {
    let start = Instant::now();
    loop {
        if let Some(outcome) = log.drop_outcome(drop).await.unwrap() {
            return outcome;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "drop {drop} has no outcome after 20 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_line_from_the_manual_works() {
    let Ok(url) = std::env::var("VOICEFORGE_TEST_REDIS") else {
        eprintln!("skipped: VOICEFORGE_TEST_REDIS is not set");
        return;
    };
    if Command::new("redis-cli").arg("--version").output().is_err() {
        eprintln!("skipped: redis-cli is not on PATH");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("talk.mp3"), wav()).unwrap();
    redis_cli(&url, "FLUSHDB", folder.path());
    let log = RedisLog::connect(Config::new(url.as_str(), 1)).await.unwrap();
    let languages = vec!["en".to_owned()];
    let note = ModelNote { name: "tiny.en".into(), sha256: "ab".into(), multilingual: false, languages };
    log.announce_model(&note, std::time::Duration::from_secs(60)).await.unwrap();

    let mut program = start(&url, folder.path());
    let good = redis_cli(&url, "-x XADD vf:ingest '*' name talk.mp3 audio < talk.mp3", folder.path());
    let again = redis_cli(&url, "-x XADD vf:ingest '*' name talk.mp3 audio < talk.mp3", folder.path());
    // Whatever stands in the queue must leave it: fields twice, not text, of nobody's making.
    let lines = [
        "XADD vf:ingest '*' ms many bytes few event_id '' drop a drop b",
        "XADD vf:ingest '*' drop \"$(printf '\\377\\376')\" audio x",
        "XADD vf:ingest '*' \"$(printf '\\377')\" x",
    ];
    let odd = lines.map(|line| redis_cli(&url, line, folder.path()));

    let (first, second) = (wait_for(&log, &good).await, wait_for(&log, &again).await);
    let recordings = [&first, &second].map(|outcome| outcome.recording.expect("a recording"));
    assert_eq!(recordings[0], recordings[1]);
    assert_ne!(first.duplicate, second.duplicate, "one of them was first");
    let stored = folder.path().join("store/default").join(recordings[0].to_string());
    assert_eq!(std::fs::read(stored).unwrap(), wav());
    for id in ["a", &odd[1], &odd[2]] {
        let outcome = wait_for(&log, id).await;
        assert_eq!(outcome.cause.map(|cause| cause.code).as_deref(), Some("invalid_drop"), "{id}");
    }
    let shard = events::Shard(0);
    let work = log.backlog(Source::Queue(shard, Queue::Decode, events::Lane::Batch)).await.unwrap();
    assert_eq!((work.entries, work.audio_ms), (1, 1000));
    let start = Instant::now();
    while redis_cli(&url, "XLEN vf:ingest", folder.path()) != "0" {
        assert!(start.elapsed() < Duration::from_secs(10), "the queue does not empty");
    }
    assert!(
        redis_cli(&url, "XPENDING vf:ingest ingest", folder.path()).starts_with('0'),
        "nothing is left pending"
    );

    Command::new("kill").arg(program.id().to_string()).status().unwrap();
    let mut messages = String::new();
    program.stderr.take().unwrap().read_to_string(&mut messages).unwrap();
    assert_eq!(program.wait().unwrap().code(), Some(0), "{messages}");
    redis_cli(&url, "FLUSHDB", folder.path());
}
