//! `voiceforge reproject` as it is typed, killed at every step, on a real Redis and a real PostgreSQL:
//! `VOICEFORGE_TEST_REDIS`, `VOICEFORGE_TEST_POSTGRES`.

#[allow(dead_code, reason = "made for the tests of views")]
#[path = "../../backbone/views/tests/views/given.rs"]
mod given;
#[allow(dead_code, reason = "made for the tests of views")]
#[path = "../../backbone/views/tests/views/support.rs"]
mod support;

use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use events::*;
use given::*;
use serde_json::Value;
use streams::redis::{Config, RedisLog};
use streams::{Append, Appended, Log as _, Message};
use support::{Database, with_database};
use views::{Entry, Filter, Views};

/// Types a command, with a point at which it is to abort.
async fn type_command(redis: &str, db: &Database, words: &[&str], fail_at: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_voiceforge"));
    command
        .arg("reproject")
        .args(words)
        .env("VOICEFORGE_DATABASE_URL", &db.url)
        .env("VOICEFORGE_REDIS_URL", redis);
    command.env("VOICEFORGE_SHARDS", "1");
    if let Some(point) = fail_at {
        command.env("VOICEFORGE_FAIL_AT", point);
    }
    tokio::task::spawn_blocking(move || command.output().expect("the program starts")).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The place of a fact in its log.
fn seq(fact: &streams::Entry) -> u64 {
    fact.text("seq").and_then(|seq| seq.parse().ok()).expect("facts are numbered")
}

/// Who died leaves a lease that ends by itself; here it is taken away, to save the time.
async fn forget_lease(redis: &str) {
    let log = RedisLog::connect(Config::new(redis, 1)).await.unwrap();
    while !log.lease("reproject", "the test", Duration::from_millis(1)).await.unwrap() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn a_rebuild_goes_on_after_a_crash_at_any_step() {
    let Ok(redis) = std::env::var("VOICEFORGE_TEST_REDIS") else {
        eprintln!("skipped: VOICEFORGE_TEST_REDIS names no Redis server");
        return;
    };
    with_database(|db| async move {
        let log = RedisLog::connect(Config::new(&redis, 1)).await.unwrap();
        // In a Redis that others used before, the log's numbers go on from theirs.
        let mut last = 0;
        while let Some(fact) = log.facts(Shard(0), last, 1_000).await.unwrap().pop() {
            last = seq(&fact);
        }
        db.views.declare_gap(Shard(0), 1, last, "of another test").await.unwrap();
        // Events that no earlier run of this test appended: their ids follow from this number.
        let mut writer = Log { shard: Shard(0), seq: rand::random::<u32>().into() };
        let mut written: Vec<Entry> =
            (0..400).flat_map(|n| writer.whole(n, &["The cats ran.", "A dog barked."])).collect();
        written.push(writer.entry(7, RecordingDeleted { by: "api".into(), drop_id: None }));
        for entry in &written {
            let envelope = entry.envelope().unwrap();
            let (shard, recording) = (envelope.shard, envelope.recording);
            let facts = vec![Message::fact(&envelope).unwrap()];
            let appended = log.append(&Append { shard, recording, facts, work: None }).await.unwrap();
            assert_eq!(appended, Appended::Done);
        }
        let entries: Vec<Entry> = log
            .facts(Shard(0), last, written.len())
            .await
            .unwrap()
            .iter()
            .map(|fact| Entry::read(Shard(0), seq(fact), fact.field("event").unwrap()).unwrap())
            .collect();
        assert_eq!(entries.len(), written.len());
        for batch in entries[..entries.len() - 40].chunks(200) {
            db.apply(batch).await;
        }
        let (looks, reading) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(true)));
        let reader = {
            let (url, looks, reading) = (db.url.clone(), looks.clone(), reading.clone());
            tokio::spawn(async move {
                let views = Views::connect(&url, &support::options()).await.unwrap();
                while reading.load(Ordering::Relaxed) {
                    let page = views.recordings(&Filter::default(), None, 1_000).await.unwrap();
                    assert!(page.items.len() >= 386, "{}", page.items.len());
                    let transcript = views.transcript(recording(1), None).await.unwrap().unwrap();
                    assert_eq!(transcript.text(), "The cats ran. A dog barked.");
                    looks.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            })
        };

        let dump = db.dump().await;
        for (point, serving) in [
            ("reproject.archive", "read_v1"),
            ("reproject.log", "read_v1"),
            ("reproject.verify", "read_v1"),
            ("reproject.switch", "read_v1"),
            ("reproject.switched", "read_v2"),
        ] {
            let died = type_command(&redis, &db, &[], Some(point)).await;
            assert!(!died.status.success(), "{point}");
            assert!(text(&died.stderr).contains("aborting at"), "{point}: {}", text(&died.stderr));
            assert_eq!(db.views.serving().await.unwrap().to_string(), serving, "{point}");
            forget_lease(&redis).await;
            let status = type_command(&redis, &db, &["--status", "--json"], None).await;
            let status: Value = serde_json::from_slice(&status.stdout).unwrap();
            assert_eq!(status["running"], false);
            assert_eq!(
                status["versions"].as_array().map(Vec::len),
                Some(2),
                "{point}: it goes on with one version"
            );
        }
        let after = db.dump().await;
        let last = recording(399).to_string();
        assert!(
            after.contains(&last) && !dump.contains(&last),
            "the new version has the facts of the log too"
        );
        db.apply(&entries).await;
        let live = db.dump().await;

        let died = type_command(&redis, &db, &["drop", "read_v1"], Some("reproject.drop")).await;
        assert!(!died.status.success());
        assert!(db.views.is_there(&"read_v1".parse().unwrap()).await.unwrap());
        forget_lease(&redis).await;
        let dropped = type_command(&redis, &db, &["drop", "read_v1"], None).await;
        assert!(dropped.status.success(), "{}", text(&dropped.stderr));
        let refused = type_command(&redis, &db, &["drop", "read_v2"], None).await;
        assert!(text(&refused.stderr).contains("read_v2 serves"), "{}", text(&refused.stderr));

        let whole = type_command(&redis, &db, &["--json"], None).await;
        assert!(whole.status.success(), "{}", text(&whole.stderr));
        let report: Value = serde_json::from_slice(&whole.stdout).unwrap();
        assert_eq!((&report["version"], &report["serves"]), (&"read_v3".into(), &true.into()));
        assert_eq!((&report["folded"], &report["different"]), (&entries.len().into(), &0.into()));
        assert!(db.dump().await == live, "the dumps differ");

        reading.store(false, Ordering::Relaxed);
        reader.await.unwrap();
        assert!(looks.load(Ordering::Relaxed) > 10);
    });
}
