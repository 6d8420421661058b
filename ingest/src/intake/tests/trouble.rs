//! What becomes of drops when something fails: models, Redis, the store, the source, the worker itself.

use super::*;

#[tokio::test]
async fn a_drop_waits_for_the_first_model() {
    let bench = Bench::over(MemoryLog::new(1), |_| {});
    let good = bench.submit(&[("audio", &wav(1))]).await;
    let bad = bench.submit(&[("audio", &wav(1)), ("callback", b"x")]).await;
    let said_so = async |bench: &Bench| {
        bench.log.drop_outcome(&bad).await.unwrap().is_some() && !bench.readiness.is_ready()
    };
    bench.run_with(Options::new("ingest", Inlet::Drops), said_so).await;
    assert_eq!(bench.log.drop_outcome(&good).await.unwrap(), None);

    let note = ModelNote {
        name: "tiny.en".into(),
        sha256: "x".into(),
        multilingual: false,
        languages: vec!["en".into()],
    };
    bench.log.announce_model(&note, Duration::from_secs(60)).await.unwrap();
    bench.run().await;
    assert!(bench.outcome(&good).await.cause.is_none());
    assert!(bench.readiness.is_ready());
}

#[tokio::test]
async fn a_full_redis_makes_drops_wait_and_loses_none() {
    let bench = Bench::new().await;
    let id = bench.submit(&[("audio", &wav(1))]).await;
    bench.log.set_full(true);
    let stored = async |bench: &Bench| !bench.keys().await.is_empty();
    bench.run_with(Options::new("ingest", Inlet::Drops), stored).await;
    assert_eq!(bench.log.drop_outcome(&id).await.unwrap(), None);
    bench.log.set_full(false);
    bench.run().await;
    assert!(bench.outcome(&id).await.cause.is_none());
    assert_eq!(bench.tally(), "RecordingAdmitted 1, TranscriptionRequested 1");
    assert_eq!(bench.keys().await.len(), 1);
}

#[tokio::test]
async fn a_drop_that_kills_its_workers_is_rejected_and_kept() {
    let bench = Bench::new().await;
    let id = bench.submit(&[("audio", &wav(1))]).await;
    let source = Source::Ingest(Lane::Batch);
    bench.log.ensure_groups("ingest", &[source]).await.unwrap();
    bench.log.take("ingest", "worker 0", source, 1).await.unwrap();
    for worker in 1..=10 {
        let worker = format!("worker {worker}");
        let claimed = bench.log.claim("ingest", &worker, source, Duration::ZERO, 1).await.unwrap();
        assert_eq!(claimed.entries.len(), 1);
    }
    let options = Options { lease: Duration::ZERO, ..Options::new("ingest", Inlet::Drops) };
    bench.run_with(options, async |bench| bench.waiting().await == 0).await;
    assert_eq!(code(&bench.outcome(&id).await), "crash_loop");
    assert_eq!(bench.tally(), "RecordingRejected 1");
    assert_eq!(bench.log.dead_letters(source).await.unwrap(), 1);
}

#[tokio::test]
async fn a_store_that_is_down_makes_drops_wait_and_shows() {
    let bench = Bench::new().await;
    let folder = bench.folder.path().join("store");
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, "in the way").unwrap();
    let id = bench.submit(&[("audio", &wav(1))]).await;
    bench.run_with(Options::new("ingest", Inlet::Drops), async |bench| !bench.readiness.is_ready()).await;
    assert_eq!(bench.log.drop_outcome(&id).await.unwrap(), None);

    std::fs::remove_file(&folder).unwrap();
    std::fs::create_dir(&folder).unwrap();
    bench.run().await;
    assert!(bench.outcome(&id).await.cause.is_none());
    assert_eq!(bench.keys().await.len(), 1);
}

#[tokio::test]
async fn a_source_that_stays_away_is_given_up_with_a_reason() {
    let mut bench = Bench::new().await;
    let web_hosts = vec!["localhost".to_owned()];
    let roots = Roots { web: true, web_hosts, web_timeout: Duration::from_secs(5), ..Roots::default() };
    let stage = Arc::get_mut(&mut bench.stage).expect("nobody runs it yet");
    stage.sources = Sources::open(roots).unwrap();
    let id = bench.submit(&[("uri", b"http://localhost:1/a.mp3")]).await;
    let options = Options { max_attempts: 2, ..Options::new("ingest", Inlet::Drops) };
    bench.run_with(options, async |bench| bench.waiting().await == 0).await;
    let cause = bench.outcome(&id).await.cause.expect("a cause");
    assert_eq!(cause.code, "source_unavailable");
    assert!(cause.message.starts_with("cannot fetch http://localhost:1/a.mp3: "), "{}", cause.message);
    assert_eq!(bench.tally(), "RecordingRejected 1");
}

#[tokio::test]
async fn a_fetch_is_broken_off_and_handed_back_when_the_program_ends() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://localhost:{}/a.wav", server.local_addr().unwrap().port());
    let mut bench = Bench::new().await;
    let web_hosts = vec!["localhost".to_owned()];
    let roots = Roots { web: true, web_hosts, web_timeout: Duration::from_secs(600), ..Roots::default() };
    let stage = Arc::get_mut(&mut bench.stage).expect("nobody runs it yet");
    stage.sources = Sources::open(roots).unwrap();
    bench.submit(&[("uri", uri.as_bytes())]).await;

    let asked = CancellationToken::new();
    let answering = {
        let asked = asked.clone();
        async move {
            use tokio::io::AsyncWriteExt;
            let (mut connection, _) = server.accept().await.unwrap();
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
            connection.write_all(&[&head[..], &wav(1), &vec![1; 100_000]].concat()).await.unwrap();
            asked.cancel();
            std::future::pending::<()>().await;
        }
    };
    let answering = tokio::spawn(answering);
    let start = Instant::now();
    bench.run_with(Options::new("ingest", Inlet::Drops), async |_| asked.is_cancelled()).await;
    answering.abort();
    assert!(start.elapsed() < Duration::from_secs(10), "nobody waits for the rest of the file");
    assert_eq!((bench.waiting().await, bench.tally().as_str()), (1, ""));
    assert_eq!(bench.keys().await, [""; 0], "no half a file is left");
}

#[tokio::test]
async fn a_file_behind_a_uri_is_held_to_the_rules_and_leaves_nothing_behind() {
    let bench = Bench::new().await;
    let put = |name: &str, bytes: &[u8]| {
        let path = bench.folder.path().join("outside").join(name);
        std::fs::write(&path, bytes).unwrap();
        url::Url::from_file_path(path).unwrap().to_string()
    };
    let mut long = wav(0);
    long[28..32].copy_from_slice(&8000_u32.to_le_bytes());
    long[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
    long.resize(1 << 20, 0);
    let sha256: (&str, &[u8]) = ("sha256", &[b'0'; 64]);
    let good = put("good.wav", &wav(1));
    for (fields, expected) in [
        (vec![("uri", put("large.wav", &[&wav(1)[..], &vec![0; 2 << 20]].concat()).as_bytes())], "too_large"),
        (vec![("uri", put("page.wav", b"<html>gone").as_bytes())], "not_audio"),
        (vec![("uri", put("empty.wav", b"").as_bytes())], "empty_audio"),
        (vec![("uri", put("long.wav", &long).as_bytes())], "too_long"),
        (vec![("uri", good.as_bytes()), sha256], "sha256_mismatch"),
        (vec![("uri", good.replace("good", "none").as_bytes())], "not_found"),
    ] {
        let outcome = bench.take(&fields).await;
        assert_eq!(code(&outcome), expected, "{outcome:?}");
    }
    assert_eq!(bench.keys().await, [""; 0]);

    let outcome = bench.take(&[("uri", good.as_bytes())]).await;
    let facts = bench.facts();
    let admitted = facts.iter().find(|fact| Some(fact.recording) == outcome.recording).unwrap();
    let Event::RecordingAdmitted(fact) = &admitted.event else { panic!("{admitted:?}") };
    assert_eq!(fact.uri.as_deref(), Some(good.as_str()));
    assert_eq!(bench.keys().await, std::slice::from_ref(&fact.audio.key));
}

#[tokio::test]
async fn broken_off_fetches_are_removed_once_they_are_old() {
    let bench = Bench::new().await;
    let key = Key::parse("fetching/d/old").unwrap();
    bench.store.put_bytes(&key, Bytes::from_static(b"half")).await.unwrap();
    assert_eq!(crate::health::remove_leftovers(&bench.store).await.unwrap(), 0, "somebody may be at it");
    let day_before = std::time::SystemTime::now() - Duration::from_secs(25 * 3600);
    let file = std::fs::File::open(bench.store.local_path(&key).unwrap()).unwrap();
    file.set_modified(day_before).unwrap();
    assert_eq!(crate::health::remove_leftovers(&bench.store).await.unwrap(), 1);
    assert_eq!(bench.keys().await, [""; 0]);
}

/// Where a worker dies with a drop in hand.
#[derive(Clone, Copy, Debug)]
enum Death {
    BeforeAnything,
    AfterStoring,
    AfterConcluding,
}

/// Lets a worker die at some point, lets another take over, and tells what is left.
async fn die_and_take_over(bench: &Bench, source: Source, death: Death) {
    bench.log.ensure_groups("ingest", &[source]).await.unwrap();
    let entry = bench.log.take("ingest", "dead worker", source, 1).await.unwrap().remove(0);
    let read = drop::read(&entry);
    let stage = &bench.stage;
    if !matches!(death, Death::BeforeAnything) {
        let (order, settings) = stage.understand(&read).await.unwrap();
        let gathered = stage.gather(&read.head, order, &settings).await.unwrap().unwrap();
        match death {
            Death::AfterStoring => {
                let named = stage.name_recording(&read.head, order, &settings, &gathered.sha256);
                stage.settle(&gathered.place, &named.audio).await.unwrap();
            }
            _ => drop(stage.admit(entry.source.lane(), &read.head, order, settings, gathered).await),
        }
    }
    let options = Options { lease: Duration::ZERO, ..Options::new("ingest", Inlet::Drops) };
    bench.run_with(options, async |bench| bench.waiting().await == 0).await;
}

#[tokio::test]
async fn wherever_a_worker_dies_the_drop_ends_once() {
    let file = |bench: &Bench| {
        let path = bench.folder.path().join("outside/talk.wav");
        std::fs::write(&path, wav(1)).unwrap();
        url::Url::from_file_path(path).unwrap().to_string()
    };
    for death in [Death::BeforeAnything, Death::AfterStoring, Death::AfterConcluding] {
        for origin in ["audio", "uri", "store"] {
            let bench = Bench::new().await;
            match origin {
                "audio" => bench.submit(&[("drop", b"d"), ("audio", &wav(1))]).await,
                "uri" => bench.submit(&[("drop", b"d"), ("uri", file(&bench).as_bytes())]).await,
                _ => bench.upload("d", &wav(1), &[]).await,
            };
            let lane = if origin == "store" { Lane::Rt } else { Lane::Batch };
            die_and_take_over(&bench, Source::Ingest(lane), death).await;
            let at = format!("{origin} {death:?}");
            let outcome = bench.outcome("d").await;
            assert_eq!((outcome.duplicate, &outcome.cause), (false, &None), "{at}");
            assert_eq!(bench.tally(), "RecordingAdmitted 1, TranscriptionRequested 1", "{at}");
            assert_eq!(bench.work().await, 1, "{at}");
            assert_eq!(bench.keys().await, [format!("default/{}", recording(&outcome))], "{at}");
        }
    }
}

#[tokio::test]
async fn wherever_a_worker_dies_a_duplicate_stays_one_and_a_reused_key_too() {
    for death in [Death::BeforeAnything, Death::AfterStoring, Death::AfterConcluding] {
        let bench = Bench::new().await;
        bench.upload("first", &wav(1), &[("key", "k")]).await;
        bench.run().await;
        let first = recording(&bench.outcome("first").await);
        bench.upload("same", &wav(1), &[("key", "k")]).await;
        die_and_take_over(&bench, Source::Ingest(Lane::Rt), death).await;
        let same = bench.outcome("same").await;
        assert_eq!((recording(&same), same.duplicate), (first, true), "{death:?}");
        bench.upload("other", &wav(2), &[("key", "k")]).await;
        die_and_take_over(&bench, Source::Ingest(Lane::Rt), death).await;
        assert_eq!(code(&bench.outcome("other").await), "key_reused", "{death:?}");
        assert_eq!(
            bench.tally(),
            "RecordingAdmitted 1, RecordingRejected 1, TranscriptionRequested 1",
            "{death:?}"
        );
        assert_eq!(bench.keys().await, [format!("default/{first}")], "{death:?}");
    }
}
