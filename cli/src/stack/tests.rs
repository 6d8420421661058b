use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use super::{Identity, Options, Process, Program, Record, Signal, Stack, crew, programs_folder};

fn record() -> Record {
    let process = Process { pid: 0, started: 0, admin: None };
    Record {
        keeper: process,
        api_url: "http://127.0.0.1:4001".to_owned(),
        redis_url: "redis://127.0.0.1:4002".to_owned(),
        database_url: "postgres://voiceforge:se:cret@127.0.0.1:4003/voiceforge".to_owned(),
        logs: PathBuf::from("logs"),
        models: Some(PathBuf::from("models")),
        programs: [(Program::Infer, process)].into(),
    }
}

#[test]
fn record_comes_back_as_it_was_written_and_is_private() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Record::read(folder.path()).unwrap(), None);
    record().write(folder.path()).unwrap();
    assert_eq!(Record::read(folder.path()).unwrap(), Some(record()));
    let mode = folder.path().join("stack.json").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_stopped_stack_keeps_its_addresses_and_forgets_its_processes() {
    let folder = tempfile::tempdir().unwrap();
    record().write(folder.path()).unwrap();
    Record::remove(folder.path()).unwrap();
    let left = Record::read(folder.path()).unwrap().unwrap();
    assert!(left.programs.is_empty());
    assert_eq!(left.port(Program::Api), Some(4001));
    assert_eq!(left.port(Program::Redis), Some(4002));
    assert_eq!(left.port(Program::Postgres), Some(4003));
    assert_eq!(left.port(Program::Infer), None);
}

#[test]
fn a_broken_record_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("stack.json"), "{").unwrap();
    let said = format!("{:#}", Record::read(folder.path()).unwrap_err());
    assert!(said.contains("stack.json"), "{said}");
}

#[test]
fn pauses_between_crashes_grow_and_begin_anew_after_health() {
    let mut history = crew::History::begin();
    let begun = history.started;
    let pauses: Vec<u128> = (0..8).map(|_| history.note_crash(begun).as_millis()).collect();
    assert_eq!(pauses, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    assert_eq!(history.note_crash(begun + Duration::from_secs(31)).as_millis(), 200);
}

#[tokio::test]
async fn attaching_where_nothing_was_started_says_how_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let said = format!("{:#}", Stack::attach(folder.path()).unwrap_err());
    for way in ["voiceforge up", "--data", "VOICEFORGE_DATA"] {
        assert!(said.contains(way), "{way} is missing in: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_revives_what_is_killed_and_leaves_nothing_behind() {
    let missing: Vec<&str> = Program::STAGES
        .iter()
        .filter(|program| !programs_folder().join(format!("voiceforge-{program}")).is_file())
        .map(|program| program.as_str())
        .collect();
    let Some(models) = std::env::var_os("VOICEFORGE_TEST_MODELS") else {
        eprintln!("skipped: VOICEFORGE_TEST_MODELS is not set");
        return;
    };
    if !missing.is_empty()
        || servers::find::redis_server().is_err()
        || servers::find::postgres_bins().is_empty()
    {
        eprintln!("skipped: Redis, PostgreSQL and built stages are needed; not built: {missing:?}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // Root's PostgreSQL runs as another user, who must pass through.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let options = Options { durable: false, ..Options::new(folder.path().join("data"), models) };
    let stack = Stack::start(options.clone()).await.unwrap();

    let said = format!("{:#}", Stack::start(options).await.err().expect("one folder has one keeper"));
    assert!(said.contains("voiceforge down"), "{said}");

    for program in [Program::Redis, Program::Postgres, Program::Ingest, Program::Api] {
        let before = stack.record().programs[&program];
        stack.kill(program, Signal::SIGKILL);
        let until = tokio::time::Instant::now() + Duration::from_secs(60);
        while stack.record().programs[&program].pid == before.pid || !stack.is_ready().await {
            assert!(tokio::time::Instant::now() < until, "{program} did not come back");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let attached = Stack::attach(folder.path().join("data")).unwrap();
    assert!(attached.is_kept());
    let processes: Vec<Identity> = stack.record().programs.values().map(Process::identity).collect();
    assert_eq!(processes.len(), Program::SERVERS.len() + Program::STAGES.len());
    stack.stop().await;
    assert!(processes.iter().all(|process| !process.is_alive()));
}
