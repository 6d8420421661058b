//! Workers that die on both sides of putting work off and of reviving a dead letter: what no load leads a whole deployment
//! to. The worker that dies is this program, started again for one of the tests that are ignored.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use streams::redis::{Config, RedisLog};
use streams::{Backlog, DeadPlace, failpoint};

use super::*;

/// Names the server to the program that dies.
const SERVER: &str = "VOICEFORGE_TEST_DIES_ON";
const SIGABRT: i32 = 6;

/// Has one of the ignored tests die at a point.
async fn die_at(point: &str, test: &str, bench: &Bench) {
    let mut program = Command::new(std::env::current_exe().expect("this program has a path"));
    program.args(["--exact", &format!("contract::stage::points::{test}"), "--ignored"]);
    program.env(failpoint::VARIABLE, point).env(SERVER, bench.server().url());
    let output = tokio::task::spawn_blocking(move || program.output().expect("start this program again"));
    let output = output.await.expect("it ends");
    assert_eq!(output.status.signal(), Some(SIGABRT), "{point}: {}", String::from_utf8_lossy(&output.stdout));
}

async fn log_to_die_on() -> SharedLog {
    let url = std::env::var(SERVER).expect("started by the test that has it die");
    Arc::new(RedisLog::connect(Config::new(url, 1)).await.expect("connect to the private server"))
}

#[tokio::test]
#[ignore = "it dies: other tests start it"]
async fn puts_off() {
    let worker = Worker::new(1, |delivery| async {
        delivery.retry_after(Duration::from_millis(100), cause("test")).await;
    });
    let running = start(&log_to_die_on().await, &worker, &options());
    running.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_a_worker_dies_putting_off_is_done_once_by_another() {
    for point in ["retry.before", "retry.after"] {
        let Some(bench) = Bench::redis().await else { return };
        bench.add_work(0..1).await;
        die_at(point, "puts_off", &bench).await;
        assert_eq!(bench.backlog(DECODE).await.entries, 1, "{point}");
        let worker = Worker::new(1, finish);
        let running = start(&bench.log, &worker, &options());
        until_empty(&bench).await;
        running.stop().await;
        assert_eq!((bench.facts().len(), bench.dead(DECODE).len()), (1, 0), "{point}");
    }
}

const PLACE: DeadPlace = DeadPlace::Shard(SHARD);

/// What the letter's recording is asked for again by.
fn again() -> (Vec<Message>, Option<(Source, Message)>) {
    let again = requested(5);
    let facts = vec![Message::fact(&fact(&again, 3)).expect("a small fact")];
    (facts, Some((DECODE, Message::work(&again, 500, 0).expect("small work"))))
}

#[tokio::test]
#[ignore = "it dies: other tests start it"]
async fn revives() {
    let log = log_to_die_on().await;
    let (facts, work) = again();
    let dead = log.dead(PLACE, None, 1).await.unwrap().remove(0);
    log.revive(&dead, facts, work).await.unwrap();
}

#[tokio::test]
async fn a_letter_whose_reviver_dies_comes_back_to_life_once() {
    for (point, left) in [("revive.before", 1), ("revive.after", 0)] {
        let Some(bench) = Bench::redis().await else { return };
        let entry = bench.one_taken(1, "a").await;
        let mut commit = commit_of(&entry, &[]);
        commit.dead = Some(letter());
        bench.log.commit(&commit).await.unwrap();
        let dead = bench.log.dead(PLACE, None, 1).await.unwrap().remove(0);
        die_at(point, "revives", &bench).await;
        assert_eq!(bench.log.dead_letters(DECODE).await.unwrap(), left, "{point}");
        let (facts, work) = again();
        assert!(bench.log.revive(&dead, facts, work).await.unwrap(), "{point}: asked again");
        assert_eq!(bench.log.dead_letters(DECODE).await.unwrap(), 0, "{point}");
        assert_eq!(bench.facts().len(), 1, "{point}");
        assert_eq!(bench.backlog(DECODE).await, Backlog { entries: 1, audio_ms: 500, bytes: 0 }, "{point}");
    }
}
