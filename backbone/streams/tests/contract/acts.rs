//! What follows from no entry in hand: acts, cancellations, deletions, and the erasure of a recording.

use events::{Claim, Envelope, GenerationCancelled, Lane, Tenant};
use streams::{Admission, Admit, Append, Appended, Backlog, Emitted, Message, Outcome, Queue, Source, keys};

use super::fixture::*;

on_both_logs!(
    an_act_is_appended_once,
    an_act_for_a_deleted_recording_writes_nothing,
    a_deletion_is_a_mark_and_a_fact_at_once,
    a_deleted_recording_answers_for_no_drop,
    the_fact_of_a_deletion_is_kept_though_its_recording_is_gone,
    a_cancelled_generation_leaves_nothing_behind,
    an_erased_recording_is_gone_from_every_stream,
    an_erasure_may_be_repeated,
    an_erasure_spares_all_others,
    facts_are_read_by_seq,
);

pub fn act(number: u32) -> Append {
    let work = requested(number);
    Append {
        shard: SHARD,
        recording: work.recording,
        facts: [fact(&work, 0), fact(&work, 1)].iter().map(|fact| Message::fact(fact).unwrap()).collect(),
        work: Some((DECODE, Message::work(&work, 1000, 0).unwrap())),
    }
}

pub fn cancellation(work: &Envelope) -> Message {
    let event = GenerationCancelled { by: "api".to_owned() };
    Message::fact(&work.follow(event.into(), events::now())).unwrap()
}

async fn an_act_is_appended_once(bench: Bench) {
    let act = act(1);
    assert_eq!(bench.log.append(&act).await.unwrap(), Appended::Done);
    assert_eq!(bench.log.append(&act).await.unwrap(), Appended::Repeated, "a lost reply, asked again");
    assert_eq!(bench.seqs(), [1, 2]);
    assert_eq!(bench.backlog(DECODE).await, Backlog { entries: 1, audio_ms: 1000, bytes: 0 });
    let facts = Append { facts: vec![Message::fact(&fact(&requested(1), 7)).unwrap()], work: None, ..act };
    assert_eq!(bench.log.append(&facts).await.unwrap(), Appended::Done, "another act of the same recording");
    assert_eq!(bench.seqs(), [1, 2, 3]);
    let work = Append {
        facts: Vec::new(),
        work: Some((DECODE, Message::work(&requested(5), 1, 0).unwrap())),
        ..facts
    };
    assert_eq!(bench.log.append(&work).await.unwrap(), Appended::Done, "work without a fact");
    assert_eq!(bench.log.append(&work).await.unwrap(), Appended::Repeated);
    assert_eq!(bench.take("a", 9).await[1].identity(), requested(5).event_id.to_string());
}

async fn an_act_for_a_deleted_recording_writes_nothing(bench: Bench) {
    bench.mark_deleted(recording(1)).await;
    assert_eq!(bench.log.append(&act(1)).await.unwrap(), Appended::Deleted);
    assert_eq!(bench.log.append(&act(1)).await.unwrap(), Appended::Deleted);
    assert_eq!((bench.seqs(), bench.backlog(DECODE).await), (vec![1], Backlog::default()));
    assert_eq!(bench.log.append(&act(2)).await.unwrap(), Appended::Done, "others are untouched");
}

async fn a_deletion_is_a_mark_and_a_fact_at_once(bench: Bench) {
    let entry = bench.one_taken(1, "a").await;
    let fact = deletion(recording(1));
    assert_eq!(bench.log.delete(SHARD, recording(1), &fact).await.unwrap(), Appended::Done);
    assert_eq!(bench.log.delete(SHARD, recording(1), &fact).await.unwrap(), Appended::Repeated);
    let ids: Vec<_> = bench.facts().iter().map(|fact| fact.text("event_id").unwrap().to_owned()).collect();
    assert_eq!(ids, [fact.event_id]);
    assert_eq!(bench.commit(&entry, &[super::fixture::fact(&requested(1), 0)]).await, Outcome::Deleted);
    let late = bench.log.cancel(SHARD, recording(1), 0, &cancellation(&requested(1))).await.unwrap();
    assert_eq!(late, Appended::Deleted, "what is deleted need not be cancelled");
    assert_eq!(bench.seqs(), [1]);
}

async fn a_deleted_recording_answers_for_no_drop(bench: Bench) {
    let claim = Claim::by_key(&Tenant::default(), "k");
    let admit = async |number: u32| {
        let act = act(number);
        let (shard, recording, facts, work) = (act.shard, act.recording, act.facts, act.work);
        let admit = Admit { shard, recording, claim: Some(claim), fingerprint: "f".to_owned(), facts, work };
        bench.log.admit(&admit).await.unwrap()
    };
    assert_eq!(admit(1).await, Admission::Admitted);
    assert!(matches!(admit(2).await, Admission::Duplicate { .. }));
    bench.mark_deleted(recording(1)).await;
    assert_eq!(admit(2).await, Admission::Admitted, "the same again, after the first is deleted");
    bench.mark_deleted(recording(1)).await;
    let held = Admission::Duplicate { recording: recording(2), fingerprint: "f".to_owned() };
    assert_eq!(admit(3).await, held, "a deletion asked for again takes it from nobody");
    assert_eq!(admit(1).await, Admission::Deleted, "the deleted one does not come back by itself");
}

async fn the_fact_of_a_deletion_is_kept_though_its_recording_is_gone(bench: Bench) {
    bench.mark_deleted(recording(1)).await;
    let fact = bench.log.take("project", "a", LOG, 9).await.unwrap().remove(0);
    let mut commit = commit_of(&fact, &[]);
    (commit.group, commit.recording) = ("project".to_owned(), None);
    commit.dead = Some(letter());
    assert_eq!(bench.log.commit(&commit).await.unwrap(), Outcome::Done);
    assert_eq!(bench.dead(LOG).len(), 1, "a deletion nobody could apply is shown to people");
}

async fn a_cancelled_generation_leaves_nothing_behind(bench: Bench) {
    let work = requested(1);
    let entry = bench.one_taken(1, "a").await;
    let emit = emit_of(&entry, &work, 0);
    bench.log.emit(&emit).await.unwrap();
    let cancelled = cancellation(&work);
    let cancel = async || bench.log.cancel(SHARD, work.recording, 0, &cancelled).await.unwrap();
    assert_eq!(cancel().await, Appended::Done);
    assert_eq!(cancel().await, Appended::Repeated);
    assert_eq!(bench.seqs(), [1]);

    let next = emit_of(&entry, &work, 1);
    assert_eq!(bench.log.emit(&next).await.unwrap(), Emitted::Ended(Outcome::Cancelled));
    let mut commit = commit_of(&entry, &[fact(&work, 0)]);
    commit.outputs = vec![(SEGMENTS, Message::work(&cut(&work, 7), 700, 1).unwrap())];
    commit.generation = Some(0);
    commit.dead = Some(letter());
    commit.delete = vec![emit.speech_key.clone(), emit.cursor.clone()];
    assert_eq!(bench.log.commit(&commit).await.unwrap(), Outcome::Cancelled);
    assert_eq!(bench.seqs(), [1], "only the cancellation itself");
    assert_eq!(bench.backlog(DECODE).await, Backlog::default(), "the entry itself ends");
    assert_eq!(bench.log.dead_letters(DECODE).await.unwrap(), 0);
    assert_eq!(bench.log.speech(SHARD, &segment_of(&work, 0), 0).await.unwrap(), None);

    let next = bench.one_taken(2, "a").await;
    let mut other = commit_of(&next, &[fact(&requested(2), 0)]);
    (other.recording, other.generation) = (Some(work.recording), Some(1));
    assert_eq!(bench.log.commit(&other).await.unwrap(), Outcome::Done, "another generation of it goes on");
    bench.mark_deleted(work.recording).await;
    let last = bench.one_taken(3, "a").await;
    let mut both = commit_of(&last, &[]);
    (both.recording, both.generation) = (Some(work.recording), Some(0));
    assert_eq!(bench.log.commit(&both).await.unwrap(), Outcome::Deleted, "deleted wins over cancelled");
}

const WAITING: Source = Source::Queue(SHARD, Queue::Decode, Lane::Rt);

/// Fills every place with traces of recording `number`: work waiting and in hand, speech, facts, a dead letter.
async fn traces(bench: &Bench, number: u32) -> Envelope {
    let work = requested(number);
    bench.log.append(&act(number)).await.unwrap();
    let entry = bench.take("a", 1).await.remove(0);
    for index in 0..3 {
        bench.log.emit(&emit_of(&entry, &work, index)).await.unwrap();
    }
    bench.log.take(GROUP, "b", SEGMENTS, 2).await.unwrap();
    bench.log.settle_language(SHARD, work.recording, 0, "de").await.unwrap();
    bench.log.hear_language(SHARD, work.recording, 0, "0.0", "de").await.unwrap();
    bench.add(DECODE, &cut(&work, 90), 10, 1).await;
    let entry = bench.take("a", 1).await.remove(0);
    let mut dead = commit_of(&entry, &[fact(&work, 9)]);
    dead.dead = Some(letter());
    assert_eq!(bench.log.commit(&dead).await.unwrap(), Outcome::Done);
    bench.add(WAITING, &cut(&work, 91), 10, 1).await;
    work
}

async fn an_erased_recording_is_gone_from_every_stream(bench: Bench) {
    let work = traces(&bench, 1).await;
    bench.mark_deleted(work.recording).await;
    let erased = bench.log.erase(SHARD, work.recording).await.unwrap();
    assert_eq!((erased.seqs, erased.work, erased.dead), (vec![1, 2, 3], 5, 1));
    assert_eq!(bench.seqs(), [4], "the deletion itself stays");
    for source in [DECODE, SEGMENTS] {
        assert_eq!(bench.backlog(source).await, Backlog::default());
        let claimed = bench.log.claim(GROUP, "c", source, std::time::Duration::ZERO, 9).await.unwrap();
        assert_eq!((claimed.entries.len(), claimed.lost.len()), (0, 0), "no group waits for it");
    }
    assert!(bench.dead(DECODE).is_empty());
    for index in 0..3 {
        assert_eq!(bench.log.speech(SHARD, &segment_of(&work, index), 0).await.unwrap(), None);
    }
    assert_eq!(bench.log.cursor(&keys::cursor(SHARD, work.recording, 0, 0)).await.unwrap(), "");
    assert_eq!(bench.log.language(SHARD, work.recording, 0).await.unwrap(), None);
    let heard = bench.log.hear_language(SHARD, work.recording, 0, "0.0", "en").await.unwrap();
    assert!(!heard.again, "what was heard is forgotten");
}

async fn an_erasure_may_be_repeated(bench: Bench) {
    let work = traces(&bench, 1).await;
    bench.mark_deleted(work.recording).await;
    bench.log.erase(SHARD, work.recording).await.unwrap();
    let again = bench.log.erase(SHARD, work.recording).await.unwrap();
    assert_eq!((again.seqs, again.work, again.dead), (vec![1, 2, 3], 0, 0), "the gaps are told again");
    assert_eq!(bench.backlog(SEGMENTS).await, Backlog::default());
    assert_eq!(bench.seqs(), [4]);
}

async fn an_erasure_spares_all_others(bench: Bench) {
    let mine = traces(&bench, 1).await;
    let other = traces(&bench, 2).await;
    // Another recording that names the erased one without being of it.
    let mut named = requested(3);
    if let events::Event::TranscriptionRequested(e) = &mut named.event {
        e.name = Some(mine.recording.to_string());
    }
    bench.add(DECODE, &named, 30, 3).await;
    bench.mark_deleted(mine.recording).await;
    let before = bench.backlog(SEGMENTS).await;
    bench.log.erase(SHARD, mine.recording).await.unwrap();
    assert_eq!(before, Backlog { entries: 6, audio_ms: 6000, bytes: 384 });
    assert_eq!(bench.backlog(SEGMENTS).await, Backlog { entries: 3, audio_ms: 3000, bytes: 192 });
    assert_eq!(bench.backlog(DECODE).await, Backlog { entries: 2, audio_ms: 1030, bytes: 3 });
    assert_eq!(bench.backlog(WAITING).await, Backlog { entries: 1, audio_ms: 10, bytes: 1 });
    assert_eq!(bench.dead(DECODE).len(), 1);
    assert_eq!(bench.seqs(), [4, 5, 6, 7]);
    for index in 0..3 {
        let speech = bench.log.speech(SHARD, &segment_of(&other, index), 0).await.unwrap();
        assert_eq!(speech.map(|speech| speech.len()), Some(64));
    }
    let claimed = bench.log.claim(GROUP, "c", SEGMENTS, std::time::Duration::ZERO, 9).await.unwrap();
    assert_eq!(claimed.entries.len(), 1, "what others hold stays theirs");
    assert_eq!(bench.log.language(SHARD, other.recording, 0).await.unwrap().as_deref(), Some("de"));
}

async fn facts_are_read_by_seq(bench: Bench) {
    let read = async |after, count| -> Vec<u64> {
        let facts = bench.log.facts(SHARD, after, count).await.unwrap();
        facts.iter().map(|fact| fact.text("seq").unwrap().parse().unwrap()).collect()
    };
    assert_eq!(read(0, 9).await, [] as [u64; 0]);
    for number in 0..25 {
        bench.add_fact(&fact(&requested(1), number)).await;
        if number % 3 == 0 && bench.server.is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
    assert_eq!(read(0, 4).await, [1, 2, 3, 4]);
    assert_eq!(read(23, 9).await, [24, 25]);
    assert_eq!(read(25, 9).await, [] as [u64; 0]);
    assert_eq!(read(u64::from(u32::MAX), 9).await, [] as [u64; 0]);
    for after in 0..25 {
        assert_eq!(read(after, 2).await.first(), Some(&(after + 1)), "after {after}");
    }
    let ids: Vec<String> =
        bench.log.take("project", "a", LOG, 99).await.unwrap().into_iter().map(|fact| fact.id).collect();
    bench.log.acknowledge("project", LOG, &ids).await.unwrap();
    assert_eq!(bench.log.trim(SHARD, 10).await.unwrap().facts, 10);
    assert_eq!(read(0, 2).await, [11, 12], "from the oldest that is left");
    assert_eq!(read(15, 2).await, [16, 17]);
    let removed = bench.facts()[5].clone();
    bench.remove(&streams::Entry { source: Source::Log(SHARD), ..removed });
    assert_eq!(read(14, 3).await, [15, 17, 18], "over a gap");
    assert_eq!(read(15, 1).await, [17]);
}

#[tokio::test]
async fn a_file_that_is_written_anew_tells_when_it_is_done() {
    let Some(mut bench) = Bench::durable_redis().await else { return };
    let before = bench.log.file().await.unwrap();
    assert!(!before.is_rewriting && before.is_good && !before.server.is_empty(), "{before:?}");
    bench.log.rewrite_file().await.unwrap();
    let mut after = bench.log.file().await.unwrap();
    while after.is_rewriting {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        after = bench.log.file().await.unwrap();
    }
    assert_eq!(after, before, "it ended well");
    bench.server.as_mut().unwrap().kill_and_restart();
    assert_ne!(bench.log.file().await.unwrap().server, before.server, "another start of the server");
}
