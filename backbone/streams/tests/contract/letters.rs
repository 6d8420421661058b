//! Dead letters: listed, shown, thrown away, and put back to life.

use bytes::Bytes;
use events::Lane;
use streams::dead::LISTED_VALUE_BYTES;
use streams::{Backlog, Dead, DeadPlace, Message, Outcome, Source};

use super::acts::cancellation;
use super::fixture::*;

on_both_logs!(
    letters_are_listed_page_by_page,
    a_letter_tells_where_it_came_from_and_why,
    audio_is_left_out_and_replayed,
    a_page_of_large_letters_is_whole,
    letters_that_ask_for_the_same_bring_it_once,
    a_letter_is_thrown_away_once,
    a_letter_comes_back_to_life_once,
    what_nobody_wants_stays_dead,
    a_dead_drop_goes_back_to_its_queue_under_its_name,
    whatever_stands_among_the_letters_can_be_read,
);

const PLACE: DeadPlace = DeadPlace::Shard(SHARD);

async fn die(bench: &Bench, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let entry = bench.one_taken(number, "a").await;
        let mut commit = commit_of(&entry, &[fact(&requested(number), 0)]);
        commit.dead = Some(letter());
        assert_eq!(bench.log.commit(&commit).await.unwrap(), Outcome::Done);
    }
}

async fn drop_dies(bench: &Bench, lane: Lane, fields: &[(String, Bytes)]) -> String {
    let id = bench.log.submit(lane, fields).await.unwrap();
    let taken = bench.log.take("ingest", "a", Source::Ingest(lane), 1).await.unwrap().remove(0);
    let mut commit = commit_of(&taken, &[]);
    (commit.group, commit.dead) = ("ingest".to_owned(), Some(letter()));
    assert_eq!(bench.log.commit(&commit).await.unwrap(), Outcome::Done);
    id
}

async fn all(bench: &Bench, place: DeadPlace) -> Vec<Dead> {
    bench.log.dead(place, None, 99).await.unwrap()
}

async fn letters_are_listed_page_by_page(bench: Bench) {
    assert!(all(&bench, PLACE).await.is_empty());
    die(&bench, 0..7).await;
    let everything = all(&bench, PLACE).await;
    let ids = |letters: &[Dead]| letters.iter().map(|dead| dead.id.clone()).collect::<Vec<_>>();
    assert_eq!(everything.len(), 7);
    let first = bench.log.dead(PLACE, None, 4).await.unwrap();
    let second = bench.log.dead(PLACE, Some(&first[3].id), 4).await.unwrap();
    assert_eq!([ids(&first), ids(&second)].concat(), ids(&everything));
    assert!(bench.log.dead(PLACE, Some(&second[2].id), 4).await.unwrap().is_empty());
    assert!(all(&bench, DeadPlace::Drops).await.is_empty());
}

async fn a_letter_tells_where_it_came_from_and_why(bench: Bench) {
    let entry = bench.one_taken(1, "a").await;
    let mut commit = commit_of(&entry, &[]);
    commit.dead = Some(letter());
    bench.log.commit(&commit).await.unwrap();
    let dead = all(&bench, PLACE).await.remove(0);
    assert_eq!((dead.source, &dead.original_id), (Some(DECODE), &entry.id));
    assert_eq!((&dead.letter, &dead.fields), (&letter(), &entry.fields));
    assert_eq!(dead.envelope().map(|envelope| envelope.event_id), Some(requested(1).event_id));
    let age = events::now().as_second() - dead.at.as_second();
    assert!((-5..=60).contains(&age), "given up {age} s ago");
    assert_eq!(bench.log.dead_letter(PLACE, &dead.id).await.unwrap(), Some(dead));
}

async fn audio_is_left_out_and_replayed(bench: Bench) {
    let audio = Bytes::from(vec![7; LISTED_VALUE_BYTES + 1]);
    let fields = vec![("drop".to_owned(), "talk".into()), ("audio".to_owned(), audio.clone())];
    drop_dies(&bench, Lane::Batch, &fields).await;
    let listed = all(&bench, DeadPlace::Drops).await.remove(0);
    assert_eq!(listed.fields, fields[..1]);
    assert_eq!(listed.large, [("audio".to_owned(), audio.len() as u64)]);
    let shown = bench.log.dead_letter(DeadPlace::Drops, &listed.id).await.unwrap().unwrap();
    assert_eq!(shown, listed, "nobody reads megabytes to look at a letter");
    assert!(bench.log.revive(&shown, Vec::new(), None).await.unwrap());
    let again = bench.log.take("ingest", "a", Source::Ingest(Lane::Batch), 9).await.unwrap();
    assert_eq!(again[0].fields, fields);
}

/// What one call reads is bounded; what a list gives is not.
async fn a_page_of_large_letters_is_whole(bench: Bench) {
    let audio = Bytes::from(vec![7; 700_000]);
    for number in 0..5 {
        let fields =
            vec![("name".to_owned(), number.to_string().into()), ("audio".to_owned(), audio.clone())];
        drop_dies(&bench, Lane::Batch, &fields).await;
    }
    let calls = || match &bench.server {
        Some(server) => {
            let stats: String = server.ask(&["INFO", "commandstats"]);
            let line = stats
                .lines()
                .find(|line| line.starts_with("cmdstat_evalsha_ro:") || line.starts_with("cmdstat_evalsha:"));
            line.map_or(0, |line| line.split(['=', ',']).nth(1).unwrap().parse::<u64>().unwrap())
        }
        None => 0,
    };
    all(&bench, DeadPlace::Drops).await;
    let before = calls();
    let letters = all(&bench, DeadPlace::Drops).await;
    let names: Vec<&[u8]> = letters.iter().map(|dead| &dead.field("name").unwrap()[..]).collect();
    assert_eq!(names, [b"0", b"1", b"2", b"3", b"4"]);
    if bench.server.is_some() {
        assert_eq!(calls() - before, 3, "two of them in a call");
    }
    assert_eq!(bench.log.dead(DeadPlace::Drops, Some(&letters[1].id), 2).await.unwrap(), letters[2..4]);
}

/// Two segments of a recording died in the same round: the next round is asked for once.
async fn letters_that_ask_for_the_same_bring_it_once(bench: Bench) {
    die(&bench, 0..2).await;
    let again = requested(5);
    for dead in all(&bench, PLACE).await {
        let facts = vec![Message::fact(&fact(&again, 3)).unwrap()];
        let work = Some((DECODE, Message::work(&again, 500, 0).unwrap()));
        assert!(bench.log.revive(&dead, facts, work).await.unwrap());
    }
    assert_eq!((bench.seqs(), bench.log.dead_letters(DECODE).await.unwrap()), (vec![1, 2, 3], 0));
    assert_eq!(bench.backlog(DECODE).await, Backlog { entries: 1, audio_ms: 500, bytes: 0 });
}

async fn a_letter_is_thrown_away_once(bench: Bench) {
    die(&bench, 0..2).await;
    let ids: Vec<String> = all(&bench, PLACE).await.into_iter().map(|dead| dead.id).collect();
    assert!(bench.log.drop_dead(PLACE, &ids[0]).await.unwrap());
    assert!(!bench.log.drop_dead(PLACE, &ids[0]).await.unwrap());
    assert_eq!(all(&bench, PLACE).await[0].id, ids[1]);
    for id in ["", "last", "1-x", "99999999999999999999999-1", "-", "+"] {
        assert!(!bench.log.drop_dead(PLACE, id).await.unwrap(), "{id}");
        assert_eq!(bench.log.dead_letter(PLACE, id).await.unwrap(), None, "{id}");
    }
}

async fn a_letter_comes_back_to_life_once(bench: Bench) {
    die(&bench, 0..1).await;
    let dead = all(&bench, PLACE).await.remove(0);
    let again = requested(5);
    let facts = vec![Message::fact(&fact(&again, 3)).unwrap()];
    let work = Some((DECODE, Message::work(&again, 500, 0).unwrap()));
    assert!(bench.log.revive(&dead, facts.clone(), work.clone()).await.unwrap());
    assert!(bench.log.revive(&dead, facts.clone(), work.clone()).await.unwrap(), "a lost reply, asked again");
    assert_eq!((bench.seqs(), bench.log.dead_letters(DECODE).await.unwrap()), (vec![1, 2], 0));
    assert_eq!(bench.backlog(DECODE).await, Backlog { entries: 1, audio_ms: 500, bytes: 0 });
    let taken = bench.take("a", 9).await;
    assert_eq!((taken[0].identity(), taken[0].attempts), (&*again.event_id.to_string(), 0));
    die(&bench, 1..2).await;
    let thrown = all(&bench, PLACE).await.remove(0);
    assert!(bench.log.drop_dead(PLACE, &thrown.id).await.unwrap());
    assert!(!bench.log.revive(&thrown, facts, work).await.unwrap(), "nothing comes of what is thrown away");
}

async fn what_nobody_wants_stays_dead(bench: Bench) {
    die(&bench, 1..3).await;
    let [first, second] = <[Dead; 2]>::try_from(all(&bench, PLACE).await).unwrap();
    bench.mark_deleted(recording(1)).await;
    let cancelled = cancellation(&requested(2));
    bench.log.cancel(SHARD, recording(2), 0, &cancelled).await.unwrap();
    for (dead, number) in [(first, 1), (second, 2)] {
        let work = Some((DECODE, Message::work(&requested(number), 500, 0).unwrap()));
        assert!(!bench.log.revive(&dead, Vec::new(), work).await.unwrap());
    }
    assert!(all(&bench, PLACE).await.is_empty());
    assert_eq!(bench.backlog(DECODE).await, Backlog::default());
}

async fn a_dead_drop_goes_back_to_its_queue_under_its_name(bench: Bench) {
    let named =
        vec![("drop".to_owned(), "call-17".into()), ("audio".to_owned(), Bytes::from(vec![1; 70_000]))];
    let nameless =
        vec![("audio".to_owned(), Bytes::from_static(b"x")), ("dead_stage".to_owned(), "mine".into())];
    let unnamed = |own: &str| vec![("drop".to_owned(), own.to_owned().into()), nameless[0].clone()];
    drop_dies(&bench, Lane::Rt, &named).await;
    let ids = [
        drop_dies(&bench, Lane::Batch, &nameless).await,
        drop_dies(&bench, Lane::Rt, &nameless).await,
        drop_dies(&bench, Lane::Rt, &unnamed("")).await,
        drop_dies(&bench, Lane::Batch, &unnamed("no id")).await,
    ];
    let known: Vec<String> = all(&bench, DeadPlace::Drops).await.iter().map(Dead::drop_id).collect();
    for dead in all(&bench, DeadPlace::Drops).await {
        for _ in 0..2 {
            assert!(bench.log.revive(&dead, Vec::new(), None).await.unwrap(), "a lost reply, asked again");
        }
    }
    assert!(all(&bench, DeadPlace::Drops).await.is_empty());
    let [batch, rt, empty, odd] = ids;
    let [rt, empty] = [rt, empty].map(|id| format!("rt-{id}"));
    assert_eq!(known, ["call-17", &batch, &rt, &empty, &odd], "what their senders know them by");
    let queue = async |lane| {
        let drops = bench.log.take("ingest", "a", Source::Ingest(lane), 9).await.unwrap();
        drops.into_iter().map(|drop| drop.fields).collect::<Vec<_>>()
    };
    let with = |id: &str| [nameless.clone(), vec![("drop".to_owned(), id.to_owned().into())]].concat();
    assert_eq!(queue(Lane::Rt).await, [named, with(&rt), unnamed(&empty)]);
    assert_eq!(queue(Lane::Batch).await, [with(&batch), unnamed(&odd)]);
}

async fn whatever_stands_among_the_letters_can_be_read(bench: Bench) {
    let Some(server) = &bench.server else { return };
    server.ask::<String>(&["XADD", &PLACE.key(), "*", "dead_stage", "decode", "what", "ever"]);
    server.ask::<String>(&["XADD", &PLACE.key(), "5000000000000-0", "event", "{not json"]);
    let letters = all(&bench, PLACE).await;
    assert_eq!((letters[0].letter.stage.as_str(), letters[0].fields.len()), ("decode", 1));
    assert_eq!((letters[1].source, letters[1].envelope()), (None, None));
    assert!(bench.log.revive(&letters[1], Vec::new(), None).await.unwrap());
    assert!(bench.log.drop_dead(PLACE, &letters[0].id).await.unwrap());
}
