//! The scripts at the edges only a real server has: the memory limit, missing groups, failing over, cluster slots.

use std::future::Future;
use std::time::Duration;

use events::{Claim, Lane, Shard, Tenant};
use streams::redis::{Config, RedisLog};
use streams::{
    Admission, Admit, Append, Appended, Backlog, DeadPlace, DropOutcome, Emitted, Error, Log, Message,
    ModelNote, Outcome, Queue, Source, keys,
};

use super::fixture::*;
use super::server::Server;

mod commit_lua {
    use super::*;

    #[tokio::test]
    async fn runs_at_the_memory_limit() {
        let Some(bench) = Bench::redis().await else { return };
        let entry = bench.one_taken(1, "a").await;
        bench.server().fill_up();
        assert_eq!(bench.commit(&entry, &[fact(&requested(1), 0)]).await, Outcome::Done);
        assert_eq!(bench.seqs(), [1]);
        assert_eq!(bench.backlog(DECODE).await.entries, 0);
    }

    /// Whatever stands under the claim, only what names this very recording goes.
    #[tokio::test]
    async fn spares_claims_that_name_others() {
        let Some(bench) = Bench::redis().await else { return };
        let key = keys::claim(SHARD, &content_claim().to_hex());
        let mine = recording(1).to_string();
        for (held, then) in [
            (format!("{mine}|f|with|bars"), None),
            (format!("{}|f", recording(2)), Some(format!("{}|f", recording(2)))),
            (format!("{mine}0|f"), Some(format!("{mine}0|f"))),
            (mine.clone(), Some(mine.clone())),
        ] {
            bench.server().ask::<()>(&["SET", &key, &held]);
            let entry = bench.one_taken(1, "a").await;
            bench.server().fill_up();
            let commit = streams::Commit { lapse: Some(content_claim()), ..commit_of(&entry, &[]) };
            assert_eq!(bench.log.commit(&commit).await.unwrap(), Outcome::Done);
            bench.server().make_room();
            assert_eq!(bench.server().ask::<Option<String>>(&["GET", &key]), then, "{held}");
        }
    }

    /// Commits that share a call end as each would alone.
    #[tokio::test]
    async fn ends_each_of_many_as_if_alone() {
        let Some(bench) = Bench::redis().await else { return };
        bench.add_work(0..70).await;
        let entries = bench.take("a", 70).await;
        bench.remove(&entries[10]);
        bench.mark_deleted(recording(11)).await;
        let cancelled = super::super::acts::cancellation(&requested(12));
        bench.log.cancel(SHARD, recording(12), 0, &cancelled).await.unwrap();
        let mut commits: Vec<_> = entries
            .iter()
            .zip(0..)
            .map(|(entry, number)| {
                let mut commit =
                    commit_of(entry, &[fact(&requested(number), 0), fact(&requested(number), 1)]);
                commit.generation = Some(0);
                commit.outputs = vec![(SEGMENTS, Message::work(&cut(&requested(number), 0), 3, 2).unwrap())];
                commit
            })
            .collect();
        commits[13].identity = "another".to_owned();
        commits[14].dead = Some(letter());
        commits.push(commits[15].clone());
        let before = bench.server().ask::<String>(&["INFO", "commandstats"]);
        let outcomes = futures::future::join_all(commits.iter().map(|commit| bench.log.commit(commit))).await;
        let outcomes: Vec<Outcome> = outcomes.into_iter().map(Result::unwrap).collect();
        let expected = |number| match number {
            10 => Outcome::Gone,
            11 => Outcome::Deleted,
            12 => Outcome::Cancelled,
            13 => Outcome::Mismatch,
            70 => Outcome::Lost,
            _ => Outcome::Done,
        };
        assert_eq!(outcomes, (0..71).map(expected).collect::<Vec<_>>());
        let calls = |stats: &str| {
            let line = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:")).unwrap().to_owned();
            line.split(['=', ',']).nth(1).unwrap().parse::<u64>().unwrap()
        };
        let asked = calls(&bench.server().ask::<String>(&["INFO", "commandstats"])) - calls(&before);
        assert!(asked <= 4, "71 commits in {asked} calls");

        let done = 70 - 4;
        assert_eq!(bench.seqs(), (1..=2 + 2 * done).collect::<Vec<u64>>());
        let passed = Backlog { entries: done, audio_ms: 3 * done, bytes: 2 * done };
        assert_eq!(bench.backlog(SEGMENTS).await, passed);
        // The one under another identity is left; the one an operator removed is still counted.
        assert_eq!(bench.backlog(DECODE).await, Backlog { entries: 1, audio_ms: 2000, bytes: 0 });
        assert_eq!(bench.dead(DECODE).len(), 1);
        let left = bench.log.own_pending(GROUP, "a", DECODE).await.unwrap();
        assert_eq!(left.iter().map(|entry| &entry.id).collect::<Vec<_>>(), [&entries[13].id]);
    }

    #[tokio::test]
    async fn misses_its_group() {
        let Some(bench) = Bench::redis().await else { return };
        let entry = bench.one_taken(1, "a").await;
        bench.server().ask::<()>(&["FLUSHALL"]);
        let error = bench.log.commit(&commit_of(&entry, &[fact(&requested(1), 0)])).await.unwrap_err();
        assert!(matches!(error, Error::NoGroup { .. }), "{error}");
        assert!(bench.seqs().is_empty());
    }

    /// A failover may rewind a stream; the same place then holds other work, which this commit must not end.
    #[tokio::test]
    async fn spares_other_work_that_stands_in_its_place() {
        let Some(bench) = Bench::redis().await else { return };
        let entry = bench.one_taken(1, "a").await;
        let key = DECODE.key();
        bench.server().ask::<()>(&["DEL", &key]);
        bench.server().ask::<String>(&["XADD", &key, &entry.id, "event_id", "other"]);
        bench.log.ensure_groups(GROUP, &[DECODE]).await.unwrap();
        bench.take("a", 1).await;
        assert_eq!(bench.commit(&entry, &[fact(&requested(1), 0)]).await, Outcome::Mismatch);
        assert_eq!((bench.seqs().len(), bench.backlog(DECODE).await.entries), (0, 1));
    }
}

mod emit_lua {
    use super::*;

    #[tokio::test]
    async fn is_refused_whole_at_the_memory_limit() {
        let Some(bench) = Bench::redis().await else { return };
        let entry = bench.one_taken(1, "a").await;
        let emit = emit_of(&entry, &requested(1), 0);
        bench.server().fill_up();
        let before = bench.server().snapshot();
        let error = bench.log.emit(&emit).await.unwrap_err();
        assert!(matches!(error, Error::Full { .. }), "{error}");
        assert_eq!(bench.server().snapshot(), before);
        bench.server().make_room();
        assert_eq!(bench.log.emit(&emit).await.unwrap(), Emitted::Done);
    }

    #[tokio::test]
    async fn misses_its_group() {
        let Some(bench) = Bench::redis().await else { return };
        let entry = bench.one_taken(1, "a").await;
        bench.server().ask::<()>(&["FLUSHALL"]);
        let error = bench.log.emit(&emit_of(&entry, &requested(1), 0)).await.unwrap_err();
        assert!(matches!(error, Error::NoGroup { .. }), "{error}");
        let left: Vec<String> = bench.server().ask(&["KEYS", "*"]);
        assert!(left.iter().all(|key| key.contains(":pcm:")), "only speech that went ahead: {left:?}");
        assert!(left.iter().all(|key| bench.server().ask::<i64>(&["TTL", key]) > 0), "and goes by itself");
    }
}

mod speech {
    use super::*;

    fn keys_with(bench: &Bench, text: &str) -> Vec<String> {
        bench.server().ask(&["KEYS", &format!("*{text}*")])
    }

    #[tokio::test]
    async fn is_in_its_place_for_good_and_nowhere_else() {
        let Some(bench) = Bench::redis().await else { return };
        let (entry, work) = (bench.one_taken(1, "a").await, requested(1));
        let emit = emit_of(&entry, &work, 0);
        for expected in [Emitted::Done, Emitted::Repeated] {
            assert_eq!(bench.log.emit(&emit).await.unwrap(), expected);
            assert_eq!(keys_with(&bench, ":pcm:"), std::slice::from_ref(&emit.speech_key));
            assert_eq!(bench.server().ask::<i64>(&["TTL", &emit.speech_key]), -1);
        }
        bench.mark_deleted(work.recording).await;
        let late = emit_of(&entry, &work, 1);
        assert_eq!(bench.log.emit(&late).await.unwrap(), Emitted::Ended(Outcome::Deleted));
        bench.log.erase(SHARD, work.recording).await.unwrap();
        assert_eq!(keys_with(&bench, ":pcm:"), [] as [String; 0]);
    }

    /// A worker that fell silent between the two steps leaves speech that goes by itself.
    #[tokio::test]
    async fn that_no_part_came_for_goes_by_itself() {
        let Some(bench) = Bench::redis().await else { return };
        let entry = bench.one_taken(1, "a").await;
        let emit = emit_of(&entry, &requested(1), 0);
        bench.server().ask::<()>(&["SCRIPT", "FLUSH"]);
        let watched = bench.server().watch();
        bench.log.emit(&emit).await.unwrap();
        let ahead =
            watched.words(bench.server()).into_iter().find(|words| words[0] == "SET").expect("it goes ahead");
        assert!(ahead[1].starts_with(&emit.speech_key) && ahead[1] != emit.speech_key, "{ahead:?}");
        assert_eq!(ahead[ahead.len() - 2..], ["EX", "60"]);
    }
}

mod admit_lua {
    use super::*;

    fn admit(number: u32) -> Admit {
        let work = requested(number);
        Admit {
            shard: SHARD,
            recording: work.recording,
            claim: Some(Claim::by_key(&Tenant::default(), "k")),
            fingerprint: "f|with|bars".to_owned(),
            facts: vec![Message::fact(&fact(&work, 0)).unwrap()],
            work: Some((DECODE, Message::work(&work, 1000, 0).unwrap())),
        }
    }

    #[tokio::test]
    async fn is_refused_whole_at_the_memory_limit() {
        let Some(bench) = Bench::redis().await else { return };
        bench.server().fill_up();
        let before = bench.server().snapshot();
        let error = bench.log.admit(&admit(1)).await.unwrap_err();
        assert!(matches!(error, Error::Full { .. }), "{error}");
        let error = bench.log.submit(Lane::Batch, &[("audio".to_owned(), "x".into())]).await.unwrap_err();
        assert!(matches!(error, Error::Full { .. }), "{error}");
        assert_eq!(bench.server().snapshot(), before);
        bench.server().make_room();
        assert_eq!(bench.log.admit(&admit(1)).await.unwrap(), Admission::Admitted);
    }

    #[tokio::test]
    async fn keeps_its_marks_for_a_time_and_no_longer() {
        let Some(server) = Server::start() else { return };
        let config = Config { keep: Duration::from_secs(1), ..Config::new(server.url(), 1) };
        let log = RedisLog::connect(config).await.unwrap();
        assert_eq!(log.admit(&admit(1)).await.unwrap(), Admission::Admitted);
        let held = log.admit(&admit(2)).await.unwrap();
        assert_eq!(
            held,
            Admission::Duplicate { recording: recording(1), fingerprint: "f|with|bars".to_owned() }
        );
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(log.admit(&admit(2)).await.unwrap(), Admission::Admitted);
    }
}

mod claim_lua {
    use super::*;

    #[tokio::test]
    async fn runs_at_the_memory_limit_and_misses_its_group() {
        let Some(bench) = Bench::redis().await else { return };
        bench.one_taken(1, "a").await;
        bench.server().fill_up();
        assert_eq!(bench.claim("b", Duration::ZERO).await.len(), 1);
        bench.server().ask::<()>(&["FLUSHALL"]);
        let error = bench.log.claim(GROUP, "b", DECODE, Duration::ZERO, 1).await.unwrap_err();
        assert!(matches!(error, Error::NoGroup { .. }), "{error}");
    }
}

mod lease_keeping_lua {
    use super::*;

    #[tokio::test]
    async fn runs_at_the_memory_limit() {
        let Some(bench) = Bench::redis().await else { return };
        let entry = bench.one_taken(1, "a").await;
        let ids = [entry.id.clone()];
        bench.server().fill_up();
        assert_eq!(bench.log.heartbeat(GROUP, "a", DECODE, &ids).await.unwrap(), [true]);
        assert!(bench.log.retry(GROUP, "a", &entry, 2, Duration::ZERO).await.unwrap());
        assert_eq!(bench.claim("a", LONG).await[0].attempts, 2);
        bench.log.hand_back(GROUP, "a", DECODE, &ids).await.unwrap();
        bench.log.leave(GROUP, "a", &[DECODE]).await.unwrap();
        assert_eq!(bench.claim("b", LONG).await[0].attempts, 2);
        bench.log.acknowledge(GROUP, DECODE, &ids).await.unwrap();
        assert!(bench.claim("c", Duration::ZERO).await.is_empty());
    }

    #[tokio::test]
    async fn misses_its_group() {
        let Some(bench) = Bench::redis().await else { return };
        let entry = bench.one_taken(1, "a").await;
        let ids = [entry.id.clone()];
        bench.server().ask::<()>(&["FLUSHALL"]);
        let log = &bench.log;
        let mut reader = log.reader(GROUP, "a").await.unwrap();
        let errors = [
            log.heartbeat(GROUP, "a", DECODE, &ids).await.unwrap_err(),
            log.retry(GROUP, "a", &entry, 2, Duration::ZERO).await.unwrap_err(),
            log.hand_back(GROUP, "a", DECODE, &ids).await.unwrap_err(),
            log.leave(GROUP, "a", &[DECODE]).await.unwrap_err(),
            log.unsettled(GROUP, "a", &[DECODE]).await.unwrap_err(),
            log.take(GROUP, "a", DECODE, 1).await.unwrap_err(),
            log.own_pending(GROUP, "a", DECODE).await.unwrap_err(),
            reader.read(&[DECODE], 1, SHORT).await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, Error::NoGroup { .. }), "{error}");
        }
        assert_eq!(log.unread_facts("project", SHARD).await.unwrap(), 0);
        assert_eq!(log.trim(SHARD, 9).await.unwrap().facts, 0);
    }
}

mod acts_lua {
    use super::super::acts::{act, cancellation};
    use super::*;

    #[tokio::test]
    async fn only_what_brings_work_is_refused_at_the_memory_limit() {
        let Some(bench) = Bench::redis().await else { return };
        let entry = bench.one_taken(1, "a").await;
        let mut commit = commit_of(&entry, &[]);
        commit.dead = Some(letter());
        bench.log.commit(&commit).await.unwrap();
        bench.log.submit(Lane::Batch, &[("audio".to_owned(), "x".into())]).await.unwrap();
        let drop = bench.log.take("ingest", "a", Source::Ingest(Lane::Batch), 1).await.unwrap().remove(0);
        let mut commit = commit_of(&drop, &[]);
        (commit.group, commit.dead) = ("ingest".to_owned(), Some(letter()));
        bench.log.commit(&commit).await.unwrap();
        let place = DeadPlace::Shard(SHARD);
        let dead = bench.log.dead(place, None, 1).await.unwrap().remove(0);
        let dead_drop = bench.log.dead(DeadPlace::Drops, None, 1).await.unwrap().remove(0);
        bench.server().fill_up();

        let before = bench.server().snapshot();
        let work = act(5).work;
        for error in [
            bench.log.append(&act(5)).await.unwrap_err(),
            bench.log.revive(&dead, Vec::new(), work).await.unwrap_err(),
            bench.log.revive(&dead_drop, Vec::new(), None).await.unwrap_err(),
        ] {
            assert!(matches!(error, Error::Full { .. }), "{error}");
        }
        assert_eq!(bench.server().snapshot(), before, "refused whole");

        let facts = Append { work: None, ..act(5) };
        assert_eq!(bench.log.append(&facts).await.unwrap(), Appended::Done);
        let cancelled = cancellation(&requested(6));
        assert_eq!(bench.log.cancel(SHARD, recording(6), 0, &cancelled).await.unwrap(), Appended::Done);
        bench.mark_deleted(recording(5)).await;
        assert_eq!(bench.log.erase(SHARD, recording(5)).await.unwrap().seqs, [1, 2]);
        let revived = vec![Message::fact(&fact(&requested(1), 0)).unwrap()];
        assert!(bench.log.revive(&dead, revived, None).await.unwrap());
        assert!(bench.log.drop_dead(DeadPlace::Drops, &dead_drop.id).await.unwrap());
        assert_eq!(bench.log.facts(SHARD, 0, 9).await.unwrap().len(), 3);
        assert!(bench.log.survey().await.unwrap().memory_limit_bytes.is_some());
    }

    #[tokio::test]
    async fn marks_lapse_after_their_time() {
        let Some(server) = Server::start() else { return };
        let config = Config { keep: Duration::from_secs(100), ..Config::new(server.url(), 1) };
        let log = RedisLog::connect(config).await.unwrap();
        let act = act(1);
        log.append(&act).await.unwrap();
        log.cancel(SHARD, recording(2), 3, &cancellation(&requested(2))).await.unwrap();
        log.delete(SHARD, recording(1), &deletion(recording(1))).await.unwrap();
        log.erase(SHARD, recording(1)).await.unwrap();
        let marks = [
            keys::appended(SHARD, act.identity()),
            keys::cancelled(SHARD, recording(2), 3),
            keys::deleted(SHARD, recording(1)),
            keys::erased(SHARD, recording(1)),
        ];
        for mark in marks {
            let left: i64 = server.ask(&["TTL", &mark]);
            assert!((90..=100).contains(&left), "{mark}: {left} s");
        }
    }

    /// A deleted entry leaves its bytes in the stream until its neighbours go; dead letters have no other way to go.
    #[tokio::test]
    async fn an_erased_letter_leaves_no_bytes() {
        let Some(bench) = Bench::redis().await else { return };
        for number in 1..4 {
            let entry = bench.one_taken(number, "a").await;
            let mut commit = commit_of(&entry, &[]);
            commit.dead = Some(letter());
            bench.log.commit(&commit).await.unwrap();
        }
        let place = DeadPlace::Shard(SHARD);
        let before = bench.log.dead(place, None, 9).await.unwrap();
        let holds = |number: u32| {
            let dump: Vec<u8> = bench.server().ask(&["DUMP", &place.key()]);
            let name = format!("default/{number}\"");
            dump.windows(name.len()).any(|window| window == name.as_bytes())
        };
        bench.server().ask::<()>(&["CONFIG", "SET", "rdbcompression", "no"]);
        assert!(holds(1) && holds(2) && holds(3));
        bench.mark_deleted(recording(2)).await;
        assert_eq!(bench.log.erase(SHARD, recording(2)).await.unwrap().dead, 1);
        assert!(holds(1) && !holds(2) && holds(3));
        let after = bench.log.dead(place, None, 9).await.unwrap();
        assert_eq!(after, [before[0].clone(), before[2].clone()], "ids are kept");
        let next = bench.one_taken(4, "a").await;
        let mut commit = commit_of(&next, &[]);
        commit.dead = Some(letter());
        assert_eq!(bench.log.commit(&commit).await.unwrap(), Outcome::Done, "and letters go on");
        // An erasure that died before it wrote the letters anew is repeated.
        bench.server().ask::<u64>(&["XDEL", &place.key(), &before[0].id]);
        assert!(holds(1));
        assert_eq!(bench.log.erase(SHARD, recording(1)).await.unwrap().dead, 0);
        assert!(!holds(1) && holds(3) && holds(4));
    }

    /// Dead drops are written anew page by page; in between, letters may come and go.
    #[tokio::test]
    async fn erasures_at_the_same_time_come_to_an_end() {
        let Some(bench) = Bench::redis().await else { return };
        for number in 0..12 {
            let entry = bench.one_taken(number, "a").await;
            let mut commit = commit_of(&entry, &[]);
            let cause = events::Cause::new("test", "x".repeat(400_000));
            commit.dead = Some(streams::DeadLetter { cause, ..letter() });
            bench.log.commit(&commit).await.unwrap();
        }
        let bench = &bench;
        let erasures = futures::future::join_all((0..6).map(|number| async move {
            bench.mark_deleted(recording(number)).await;
            bench.log.erase(SHARD, recording(number)).await.unwrap().dead
        }));
        let erased = tokio::time::timeout(Duration::from_secs(60), erasures).await.expect("they end");
        assert_eq!(erased, [1; 6]);
        let key = DeadPlace::Shard(SHARD).key();
        let told: std::collections::HashMap<String, redis::Value> =
            bench.server().ask(&["XINFO", "STREAM", &key]);
        assert_eq!(told["entries-added"], told["length"], "nothing of the removed is left");
        assert_eq!(told["length"], redis::Value::Int(6));
    }

    #[tokio::test]
    async fn an_erased_drop_leaves_no_bytes() {
        let Some(bench) = Bench::redis().await else { return };
        bench.server().ask::<()>(&["CONFIG", "SET", "rdbcompression", "no"]);
        for number in 0..6 {
            let name = format!("secret-{number}");
            let mut fields = vec![("drop".to_owned(), name.clone().into()), ("name".to_owned(), name.into())];
            if number > 2 {
                fields.push(("audio".to_owned(), vec![7; 700_000].into()));
            }
            bench.log.submit(Lane::Batch, &fields).await.unwrap();
            let drops = Source::Ingest(Lane::Batch);
            let drop = bench.log.take("ingest", "a", drops, 1).await.unwrap().remove(0);
            let mut commit = commit_of(&drop, &[]);
            (commit.group, commit.dead) = ("ingest".to_owned(), Some(letter()));
            bench.log.commit(&commit).await.unwrap();
        }
        let place = DeadPlace::Drops;
        let before = bench.log.dead(place, None, 9).await.unwrap();
        let holds = |number: u32| {
            let dump: Vec<u8> = bench.server().ask(&["DUMP", &place.key()]);
            let name = format!("secret-{number}");
            dump.windows(name.len()).any(|window| window == name.as_bytes())
        };
        // A copy that somebody left, of what is erased by now.
        bench.server().ask::<String>(&["XADD", &format!("{}:copy", place.key()), "1-0", "name", "secret-1"]);
        assert!((0..6).all(holds));
        assert_eq!(bench.log.erase_drop("secret-1").await.unwrap(), 1);
        assert!([0, 2, 3, 4, 5].into_iter().all(holds) && !holds(1));
        let after = bench.log.dead(place, None, 9).await.unwrap();
        assert_eq!(after, [&before[..1], &before[2..]].concat(), "ids are kept");
        assert!(!bench.server().ask::<bool>(&["EXISTS", &format!("{}:copy", place.key())]));
        assert_eq!(bench.server().ask::<i64>(&["TTL", &place.key()]), -1, "letters stay");
    }
}

mod server_state {
    use super::*;

    /// Those who start at the memory limit are those who free some; they must get to work.
    #[tokio::test]
    async fn a_worker_can_start_at_the_memory_limit() {
        let Some(bench) = Bench::redis().await else { return };
        bench.server().fill_up();
        let log = bench.server().log(1).await;
        log.ensure_groups(GROUP, &[DECODE, SEGMENTS]).await.unwrap();
        let note = ModelNote {
            name: "tiny.en".to_owned(),
            sha256: "ab".to_owned(),
            multilingual: false,
            languages: vec!["en".to_owned()],
        };
        log.announce_model(&note, std::time::Duration::from_secs(60)).await.unwrap();
        assert!(!log.hear_language(SHARD, recording(1), 0, "0.0", "de").await.unwrap().again);
        assert_eq!(log.settle_language(SHARD, recording(1), 0, "de").await.unwrap(), "de");
        let next = segment_of(&requested(1), 1);
        log.leave_tail(SHARD, &segment_of(&requested(1), 0), 0, "[1]").await.unwrap();
        assert_eq!(
            log.before(SHARD, &next, 0).await.unwrap(),
            streams::Before::Ended(Some("[1]".to_owned()))
        );
        assert!(log.fork().await.is_ok());
        assert!(log.health().await.unwrap().memory_share > 1.0);
        let error = log.ensure_groups("new", &[DECODE]).await.unwrap_err();
        assert!(matches!(error, Error::Full { .. }), "{error}");
    }

    #[tokio::test]
    async fn settings_that_lose_data_are_refused() {
        let Some(server) = Server::start() else { return };
        server.log(4).await;
        let error = RedisLog::connect(Config::new(server.url(), 2)).await.err().expect("other shards");
        assert!(error.to_string().contains("VOICEFORGE_SHARDS=4"), "{error}");
        server.ask::<()>(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
        let error = RedisLog::connect(Config::new(server.url(), 4)).await.err().expect("an evicting server");
        assert!(matches!(error, Error::Misconfigured(_)), "{error}");
    }

    /// Runs a commit that is made while the server is in a bad state, and that must succeed once it is over.
    async fn outlasts<F: Future<Output = ()>>(bench: &Bench, heal: F) {
        let entry = bench.one_taken(1, "a").await;
        let commit = bench.commit(&entry, &[]);
        let heal = async {
            tokio::time::sleep(SHORT * 2).await;
            heal.await;
        };
        let (outcome, ()) = tokio::join!(commit, heal);
        assert!(matches!(outcome, Outcome::Done | Outcome::Lost), "{outcome:?}");
        assert_eq!(bench.backlog(DECODE).await.entries, 0);
    }

    #[tokio::test]
    async fn a_call_outlasts_a_failover() {
        let Some(bench) = Bench::redis().await else { return };
        let entry = bench.one_taken(1, "a").await;
        bench.server().ask::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
        let heal = async {
            tokio::time::sleep(SHORT * 2).await;
            bench.server().ask::<()>(&["REPLICAOF", "NO", "ONE"]);
        };
        let (outcome, ()) = tokio::join!(bench.commit(&entry, &[]), heal);
        assert_eq!(outcome, Outcome::Done);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_call_outlasts_a_script_that_hangs() {
        let Some(bench) = Bench::redis().await else { return };
        bench.server().ask::<()>(&["CONFIG", "SET", "busy-reply-threshold", "50"]);
        let entry = bench.one_taken(1, "a").await;
        let client = redis::Client::open(bench.server().url()).unwrap();
        let hanging = std::thread::spawn(move || {
            let mut connection = client.get_connection().unwrap();
            redis::cmd("EVAL").arg("while true do end").arg(0).query::<()>(&mut connection).unwrap_err()
        });
        tokio::time::sleep(SHORT).await;
        let heal = async {
            tokio::time::sleep(SHORT * 2).await;
            bench.server().ask::<()>(&["SCRIPT", "KILL"]);
        };
        let (outcome, ()) = tokio::join!(bench.commit(&entry, &[]), heal);
        assert_eq!(outcome, Outcome::Done);
        hanging.join().unwrap();
    }

    #[tokio::test]
    async fn a_call_outlasts_forgotten_scripts_and_cut_connections() {
        let Some(bench) = Bench::redis().await else { return };
        bench.server().ask::<()>(&["SCRIPT", "FLUSH"]);
        outlasts(&bench, async {}).await;
        bench.server().ask::<()>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        outlasts(&bench, async {}).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_call_outlasts_a_restart() {
        let Some(mut bench) = Bench::durable_redis().await else { return };
        let entry = bench.one_taken(1, "a").await;
        let mut server = bench.server.take().unwrap();
        server.kill();
        let heal = async {
            tokio::time::sleep(SHORT * 2).await;
            tokio::task::block_in_place(|| server.restart());
        };
        let commit = commit_of(&entry, &[fact(&requested(1), 0)]);
        let (outcome, ()) = tokio::join!(bench.log.commit(&commit), heal);
        assert_eq!(outcome.unwrap(), Outcome::Done);
        assert_eq!(bench.log.commit(&commit).await.unwrap(), Outcome::Lost);
    }
}

/// In a cluster the keys of one call must lie in one slot. The server tells which keys each call really named.
#[tokio::test]
async fn all_keys_of_a_call_share_a_slot() {
    let Some(server) = Server::start() else { return };
    let watched = server.watch();
    let log = server.log(8).await;
    let work = requested(1);
    let shard = Shard(5);
    let queue = |queue| Source::Queue(shard, queue, Lane::Rt);
    let (decode, segments) = (queue(Queue::Decode), queue(Queue::Segments));
    log.ensure_groups(GROUP, &[decode, segments, Source::Log(shard)]).await.unwrap();
    let mut work = work;
    work.shard = shard;
    let admit = Admit {
        shard,
        recording: work.recording,
        claim: Some(Claim::by_key(&Tenant::default(), "k")),
        fingerprint: String::new(),
        facts: vec![Message::fact(&fact(&work, 0)).unwrap()],
        work: Some((decode, Message::work(&work, 1, 1).unwrap())),
    };
    log.admit(&admit).await.unwrap();
    log.admit(&Admit { recording: recording(2), claim: None, work: None, ..admit }).await.unwrap();
    let entry = log.take(GROUP, "a", decode, 1).await.unwrap().remove(0);
    let mut emit = emit_of(&entry, &work, 0);
    emit.queue = segments;
    assert_eq!(log.emit(&emit).await.unwrap(), Emitted::Done);
    log.heartbeat(GROUP, "a", decode, std::slice::from_ref(&entry.id)).await.unwrap();
    log.retry(GROUP, "a", &entry, 1, Duration::ZERO).await.unwrap();
    let entry = log.claim(GROUP, "a", decode, LONG, 1).await.unwrap().entries.remove(0);
    let mut commit = commit_of(&entry, &[fact(&work, 1)]);
    commit.outputs = vec![(segments, Message::work(&cut(&work, 2), 1, 1).unwrap())];
    commit.delete = vec![emit.speech_key, keys::cursor(shard, work.recording, 0, 0)];
    commit.lapse = Some(Claim::by_key(&Tenant::default(), "k"));
    assert_eq!(log.commit(&commit).await.unwrap(), Outcome::Done);
    log.leave(GROUP, "a", &[decode]).await.unwrap();
    let mut reader = log.reader(GROUP, "a").await.unwrap();
    reader.read(&[decode, segments], 1, SHORT).await.unwrap();
    log.hear_language(shard, work.recording, 0, "0.0", "de").await.unwrap();
    log.settle_language(shard, work.recording, 0, "de").await.unwrap();
    let next = segment_of(&work, 1);
    log.before(shard, &next, 0).await.unwrap();
    log.leave_tail(shard, &next, 0, "[1]").await.unwrap();

    // Drops live in a slot of their own.
    let drops = [Source::Ingest(Lane::Rt), Source::Ingest(Lane::Batch)];
    log.ensure_groups("ingest", &drops).await.unwrap();
    log.submit(Lane::Batch, &[("audio".to_owned(), "x".into())]).await.unwrap();
    let mut reader = log.reader("ingest", "a").await.unwrap();
    let drop = reader.read(&drops, 1, SHORT).await.unwrap().remove(0);
    let mut commit = commit_of(&drop, &[]);
    commit.group = "ingest".to_owned();
    assert_eq!(log.commit(&commit).await.unwrap(), Outcome::Done);
    log.set_drop_outcome(&drop.id, &DropOutcome { recording: None, duplicate: false, cause: None })
        .await
        .unwrap();

    log.append(&super::acts::act(7)).await.unwrap();
    let mut commit = commit_of(&log.take(GROUP, "a", segments, 1).await.unwrap().remove(0), &[]);
    commit.dead = Some(letter());
    log.commit(&commit).await.unwrap();
    let dead = log.dead(DeadPlace::Shard(shard), None, 1).await.unwrap().remove(0);
    log.revive(&dead, Vec::new(), Some((segments, Message::work(&cut(&work, 2), 1, 1).unwrap())))
        .await
        .unwrap();
    log.cancel(shard, work.recording, 0, &super::acts::cancellation(&work)).await.unwrap();
    log.delete(shard, work.recording, &deletion(work.recording)).await.unwrap();
    log.erase(shard, work.recording).await.unwrap();
    log.facts(shard, 0, 1).await.unwrap();

    let calls = watched.finish(&server);
    let several = calls.iter().filter(|keys| keys.len() > 1).count();
    assert!(several >= 8, "the scripts were seen: {calls:?}");
    for keys in calls {
        let slots: std::collections::BTreeSet<u16> = keys.iter().map(|key| slot(key)).collect();
        assert_eq!(slots.len(), 1, "{keys:?}");
    }
}

/// The slot of a key: CRC16 (XMODEM) of its hash tag, modulo 16384.
fn slot(key: &str) -> u16 {
    let tagged = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let hashed = tagged.filter(|tag| !tag.is_empty()).unwrap_or(key);
    let crc = hashed.bytes().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 }
        })
    });
    crc % 16_384
}

#[test]
fn slots_are_those_of_the_cluster_specification() {
    assert_eq!(slot("123456789"), 0x31c3);
    assert_eq!(slot("vf:{05}:log"), slot("vf:{05}:decode:rt"));
    assert_eq!(slot("{vf:ingest}:rt"), slot("vf:ingest"));
    assert_ne!(slot("vf:{05}:log"), slot("vf:{06}:log"));
}
