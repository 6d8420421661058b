//! How all streams stand at a moment.

use std::time::Duration;

use streams::{Backlog, DeadPlace, QueueState};

use super::fixture::*;

on_both_logs!(
    an_empty_deployment_is_surveyed_too,
    a_survey_tells_of_queues_logs_groups_and_workers,
    a_worker_that_waits_gives_a_sign_of_life,
);

async fn an_empty_deployment_is_surveyed_too(bench: Bench) {
    let survey = bench.log.survey().await.unwrap();
    assert_eq!((survey.queues.len(), survey.logs.len()), (8, 1));
    assert!(survey.queues.iter().all(|queue| queue.backlog == Backlog::default()));
    let log = &survey.logs[0];
    assert_eq!((log.length, log.first_seq, log.last_seq), (0, None, 0));
    assert_eq!((log.groups[0].name.as_str(), log.groups[0].unread), ("project", 0));
    assert_eq!(survey.dead, [(DeadPlace::Drops, 0), (DeadPlace::Shard(SHARD), 0)]);
}

async fn a_survey_tells_of_queues_logs_groups_and_workers(bench: Bench) {
    bench.add_work(0..5).await;
    let taken = bench.take("a", 2).await;
    bench.take("b", 1).await;
    let mut commit = commit_of(&taken[0], &[fact(&requested(0), 0), fact(&requested(0), 1)]);
    commit.dead = Some(letter());
    bench.log.commit(&commit).await.unwrap();
    for number in 2..6 {
        bench.add_fact(&fact(&requested(0), number)).await;
    }
    let read: Vec<String> =
        bench.log.take("project", "p", LOG, 4).await.unwrap().into_iter().map(|fact| fact.id).collect();
    bench.log.acknowledge("project", LOG, &read[..3]).await.unwrap();
    bench.log.trim(SHARD, 2).await.unwrap();

    let survey = bench.log.survey().await.unwrap();
    let decode: &QueueState = survey.queues.iter().find(|queue| queue.source == DECODE).unwrap();
    assert_eq!(decode.backlog, Backlog { entries: 4, audio_ms: 4000, bytes: 0 });
    assert_eq!(decode.done, 1);
    if bench.server.is_some() {
        let oldest = decode.oldest_at.expect("work waits");
        assert!(oldest.duration_until(jiff::Timestamp::now()).as_secs() < 60, "{oldest}");
    }
    let group = &decode.groups[0];
    assert_eq!((group.name.as_str(), group.pending, group.unread), (GROUP, 2, 2));
    let mut workers: Vec<(&str, u64)> =
        group.consumers.iter().map(|worker| (worker.name.as_str(), worker.pending)).collect();
    workers.sort_unstable();
    assert_eq!(workers, [("a", 1), ("b", 1)]);
    assert!(group.consumers.iter().all(|worker| worker.idle < Duration::from_secs(60)));
    let log = &survey.logs[0];
    assert_eq!((log.length, log.first_seq, log.last_seq), (4, Some(3), 6));
    let project = &log.groups[0];
    assert_eq!((project.name.as_str(), project.pending, project.unread), ("project", 1, 2));
    assert_eq!(survey.dead, [(DeadPlace::Drops, 0), (DeadPlace::Shard(SHARD), 1)]);
    if let Some(server) = &bench.server {
        assert!(survey.memory_bytes > 100_000 && survey.memory_limit_bytes.is_none());
        server.ask::<()>(&["CONFIG", "SET", "maxmemory", "200mb"]);
        assert_eq!(bench.log.survey().await.unwrap().memory_limit_bytes, Some(200 << 20));
    }
}

async fn a_worker_that_waits_gives_a_sign_of_life(bench: Bench) {
    bench.add_work(0..1).await;
    let taken = bench.take("busy", 1).await;
    assert!(bench.log.heartbeat(GROUP, "waits", DECODE, &[]).await.unwrap().is_empty());
    let survey = bench.log.survey().await.unwrap();
    let decode = survey.queues.iter().find(|queue| queue.source == DECODE).unwrap();
    assert_eq!((decode.backlog.entries, decode.groups[0].pending), (1, 1), "it takes nothing");
    // The log in memory knows workers by what they hold.
    if bench.server.is_some() {
        let idle = |name| {
            let groups = &decode.groups[0].consumers;
            groups.iter().find(|worker| worker.name == name).map(|worker| worker.idle)
        };
        assert!(idle("waits").is_some_and(|idle| idle < Duration::from_secs(30)), "{survey:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
        bench.log.heartbeat(GROUP, "waits", DECODE, &[]).await.unwrap();
        let survey = bench.log.survey().await.unwrap();
        let workers = survey.workers();
        let idle = |name| workers.iter().find(|worker| worker.name == name).unwrap().idle;
        assert!(idle("waits") < idle("busy"), "{workers:?}");
    }
    let mine = bench.log.heartbeat(GROUP, "busy", DECODE, &[taken[0].id.clone()]).await.unwrap();
    assert_eq!(mine, [true]);
}

/// Nobody of ours gives 0; whoever writes to a log by hand may.
#[tokio::test]
async fn a_log_that_begins_with_seq_zero_is_unread() {
    let Some(bench) = Bench::redis().await else { return };
    bench.server().ask::<String>(&["XADD", &LOG.key(), "*", "seq", "0", "event", "{}"]);
    bench.server().ask::<()>(&["SET", &streams::keys::seq(SHARD), "3"]);
    let survey = bench.log.survey().await.unwrap();
    assert_eq!((survey.logs[0].first_seq, survey.logs[0].groups[0].unread), (Some(0), 3));
}
