//! A run on which nothing is wrong, and what each invariant says when one thing is.

use events::{
    Audio, Envelope, Event, EventId, Lane, RecordingAdmitted, RecordingDecoded, RecordingDeleted,
    RecordingId, SegmentTranscribed, Shard, Tenant,
};
use uuid::Uuid;

use super::*;
use crate::faults::history::{Attempt, Dead, Loss, Planted, Reply, TranscriptRow};

fn recording() -> RecordingId {
    Uuid::from_u128(0x3fa1).into()
}

fn said(index: u32) -> Said {
    let start_ms = u64::from(index) * 1_000;
    Said { channel: 0, index, start_ms, end_ms: start_ms + 900, text: format!("text {index}") }
}

fn envelope(number: u128, event: impl Into<Event>) -> Envelope {
    let at = jiff::Timestamp::from_second(1_767_323_045).expect("in range");
    Envelope {
        event_id: EventId::from(Uuid::from_u128(number)),
        shard: Shard(1),
        seq: None,
        recording: recording(),
        tenant: Tenant::default(),
        generation: 0,
        round: 0,
        submitted_at: at,
        occurred_at: at,
        trace: None,
        causation_id: None,
        event: event.into(),
    }
}

fn envelopes() -> Vec<Envelope> {
    let settings = r#"{"model":{"name":"hash","sha256":"ab"},"cutter":1}"#;
    let admitted = RecordingAdmitted {
        drop_id: "1-0".to_owned(),
        name: Some("offer-1".to_owned()),
        uri: None,
        audio: Audio {
            key: "default/3fa1".to_owned(),
            bytes: 1,
            sha256: "c0de".to_owned(),
            container: "wav".to_owned(),
            estimated_ms: 2_000,
        },
        settings: serde_json::from_str(settings).expect("settings"),
        lane: Lane::Batch,
        metadata: Default::default(),
    };
    let decoded = RecordingDecoded {
        segments: vec![2],
        audio_ms: 2_000,
        speech_ms: 1_800,
        channels: 1,
        sample_rate: 16_000,
        codec: "pcm".to_owned(),
        truncated_at_ms: None,
        truncated_reason: None,
    };
    let transcribed = |index: u32| SegmentTranscribed {
        channel: 0,
        index,
        start_ms: said(index).start_ms,
        end_ms: said(index).end_ms,
        language: "en".to_owned(),
        text: said(index).text,
        spans: Vec::new(),
        model: "hash".to_owned(),
        infer_ms: 1,
        coverage: 1.0,
        gaps: Vec::new(),
    };
    vec![
        envelope(1, admitted),
        envelope(2, transcribed(0)),
        envelope(3, decoded),
        envelope(4, transcribed(1)),
    ]
}

/// One recording, accepted, transcribed and told of in four facts.
fn good() -> (Recorded, Observed) {
    let attempts = vec![
        Attempt { at_ms: 900, reply: Reply::Unknown("no answer".to_owned()) },
        Attempt { at_ms: 1_000, reply: Reply::Accepted("1-0".to_owned()) },
    ];
    let all = vec![said(0), said(1)];
    let offer = Offer { attempts, ..Offer::new("offer-1".to_owned(), Way::Raw, all.clone(), all) };
    let recorded = Recorded { offers: vec![offer], faults: 2, in_hand: 4, ..Recorded::default() };
    let envelopes = envelopes();
    let facts = (1..).zip(&envelopes).map(|(seq, envelope)| Fact {
        shard: 1,
        seq,
        event_id: envelope.event_id,
        json: events::encode(envelope).expect("small"),
    });
    let fold = Recording::fold(&envelopes).expect("events");
    let standing = Standing {
        status: "complete".to_owned(),
        audio_ms: 2_000,
        decoded_ms: 2_000,
        transcribed_ms: 1_800,
        segments: Some(2),
        transcribed_segments: 2,
        language: Some("en".to_owned()),
        ..Standing::default()
    };
    assert_eq!(super::standing(&fold.state()), standing);
    let row = RecordingRow {
        id: recording(),
        drop_id: Some("1-0".to_owned()),
        name: Some("offer-1".to_owned()),
        generation: Some(0),
        standing: standing.clone(),
    };
    let segment = |index: u32, event: u128| SegmentRow {
        recording: recording(),
        generation: 0,
        round: 0,
        event_id: EventId::from(Uuid::from_u128(event)),
        said: said(index),
        cause_code: None,
    };
    let facts: Vec<Fact> = facts.collect();
    let observed = Observed {
        // The first two are trimmed, the last is not archived twice.
        log: facts[2..].to_vec(),
        archive: facts,
        recordings: vec![row],
        transcripts: vec![TranscriptRow { recording: recording(), generation: 0, standing }],
        segments: vec![segment(1, 4), segment(0, 2)],
        work: BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]),
        ..Observed::default()
    };
    (recorded, observed)
}

/// Spoils one thing; says which invariants notice, and how often each.
fn check(spoil: impl FnOnce(&mut Recorded, &mut Observed), expected: &[&str]) -> Verdict {
    let (mut recorded, mut observed) = good();
    spoil(&mut recorded, &mut observed);
    let verdict = judge(&recorded, &observed);
    let mut broken: Vec<&str> = verdict.violations.iter().map(|violation| violation.invariant).collect();
    broken.dedup();
    assert_eq!(broken, expected, "{:?}", verdict.violations);
    verdict
}

fn rolled_back(recorded: &mut Recorded, facts: u64) {
    recorded.losses.push(Loss { from_ms: 500, to_ms: 1_500, facts });
}

/// Takes the recording out of the tables and its facts out of archive and log.
fn forget(observed: &mut Observed) {
    let Observed { log, archive, recordings, transcripts, segments, .. } = observed;
    log.clear();
    archive.clear();
    recordings.clear();
    transcripts.clear();
    segments.clear();
}

#[test]
fn a_good_run_is_good() {
    let verdict = check(|_, _| {}, &[]);
    assert_eq!((verdict.lost_drops, verdict.conflicts, verdict.done_twice), (0, 0, 1));
}

#[test]
fn i1_an_accepted_recording_that_is_not_there() {
    check(|_, observed| forget(observed), &["I1"]);
    check(
        |_, observed| {
            observed.recordings[0].standing.status = "transcribing".to_owned();
            observed.transcripts[0].standing.status = "transcribing".to_owned();
        },
        &["I1", "I6"],
    );
}

#[test]
fn i1_a_raw_drop_may_go_with_the_tail_of_redis_and_nothing_else_may() {
    let verdict = check(
        |recorded, observed| {
            rolled_back(recorded, 0);
            forget(observed);
        },
        &[],
    );
    assert_eq!(verdict.lost_drops, 1);
    check(
        |recorded, observed| {
            rolled_back(recorded, 0);
            recorded.offers[0].way = Way::Api;
            forget(observed);
        },
        &["I1"],
    );
    check(
        |recorded, observed| {
            rolled_back(recorded, 0);
            recorded.offers[0].attempts[1].at_ms = 2_000;
            forget(observed);
        },
        &["I1"],
    );
}

#[test]
fn i1_what_was_refused_is_nothing() {
    check(
        |recorded, _| {
            let refused = Attempt { at_ms: 1, reply: Reply::Refused("full".to_owned()) };
            recorded.offers[0].attempts = vec![refused];
        },
        &["I1"],
    );
    check(|recorded, _| drop(recorded.offers[0].attempts.pop()), &[]);
}

#[test]
fn i1_one_offer_is_one_recording() {
    check(
        |_, observed| {
            let mut other = observed.recordings[0].clone();
            other.id = Uuid::from_u128(9).into();
            other.generation = None;
            observed.recordings.push(other);
        },
        &["I1", "I2", "I6"],
    );
}

#[test]
fn i2_another_text_or_a_segment_too_few() {
    check(|_, observed| observed.segments[0].said.text = "another".to_owned(), &["I2", "I6"]);
    check(|recorded, _| recorded.offers[0].said[0].end_ms += 1, &["I2"]);
    check(|recorded, _| recorded.offers[0].said.push(said(2)), &["I2"]);
    check(|_, observed| drop(observed.segments.pop()), &["I2", "I4", "I6"]);
}

#[test]
fn i3_two_events_at_one_place() {
    let twice = |observed: &mut Observed| {
        let mut second = observed.archive[1].clone();
        second.event_id = observed.archive[2].event_id;
        observed.archive[2] = second;
        observed.archive[2].json = events::encode(&envelopes()[2]).expect("small");
    };
    check(|_, observed| twice(observed), &["I3"]);
    check(
        |recorded, observed| {
            rolled_back(recorded, 1);
            twice(observed);
        },
        &["I3"],
    );
    let verdict = check(
        |recorded, observed| {
            rolled_back(recorded, 1);
            twice(observed);
            observed.conflicts.push((1, 2));
        },
        &[],
    );
    assert_eq!(verdict.conflicts, 1);
}

#[test]
fn i3_one_event_at_two_places() {
    let again = |observed: &mut Observed| {
        let mut again = observed.log[1].clone();
        again.seq = 5;
        observed.log.push(again);
    };
    check(|_, observed| again(observed), &["I3"]);
    check(
        |recorded, observed| {
            rolled_back(recorded, 1);
            again(observed);
        },
        &[],
    );
}

#[test]
fn i3_a_place_without_an_event() {
    let spoil = |observed: &mut Observed| {
        for facts in [&mut observed.archive, &mut observed.log] {
            facts.iter_mut().filter(|fact| fact.seq > 1).for_each(|fact| fact.seq += 1);
        }
    };
    check(|_, observed| spoil(observed), &["I3"]);
    check(
        |_, observed| {
            spoil(observed);
            observed.gaps.push((1, 2, 2));
        },
        &["I3"],
    );
    check(
        |recorded, observed| {
            spoil(observed);
            observed.gaps.push((1, 2, 2));
            rolled_back(recorded, 1);
        },
        &[],
    );
    // Seen, and archived at the place where the event was before Redis went back in time.
    check(
        |recorded, observed| {
            spoil(observed);
            observed.seen.push((1, 1, 5));
            rolled_back(recorded, 1);
        },
        &[],
    );
    check(
        |recorded, observed| {
            spoil(observed);
            rolled_back(recorded, 1);
        },
        &["I3"],
    );
}

#[test]
fn i4_a_sum_that_is_not_that_of_the_rows() {
    check(|_, observed| observed.transcripts[0].standing.transcribed_segments = 3, &["I4"]);
    check(|_, observed| observed.recordings[0].standing.transcribed_ms += 1, &["I4", "I6"]);
}

#[test]
fn i5_something_left_over() {
    check(|_, observed| observed.left.push("1 pending in vf:{00}:log".to_owned()), &["I5"]);
    check(|_, observed| observed.crashes.push("infer-0 ended by itself".to_owned()), &["I5"]);
}

#[test]
fn i5_every_dead_letter_was_planted_and_comes_once() {
    let letter = |mark: &str| Dead {
        stage: "decode".to_owned(),
        code: "malformed_event".to_owned(),
        fields: format!("event_id {mark}"),
    };
    let planted = || Planted { mark: "planted-1".to_owned(), at_ms: 2_000 };
    check(|_, observed| observed.dead.push(letter("other")), &["I5"]);
    check(|recorded, _| recorded.planted.push(planted()), &["I5"]);
    check(
        |recorded, observed| {
            recorded.planted.push(planted());
            observed.dead.extend([letter("planted-1"), letter("planted-1")]);
        },
        &["I5"],
    );
    check(
        |recorded, observed| {
            recorded.planted.push(planted());
            observed.dead.push(letter("planted-1"));
        },
        &[],
    );
    // Redis forgot that it was there; what it forgot before is no excuse.
    check(
        |recorded, _| {
            rolled_back(recorded, 0);
            recorded.planted.push(Planted { at_ms: 1_000, ..planted() });
        },
        &[],
    );
    check(
        |recorded, _| {
            rolled_back(recorded, 0);
            recorded.planted.push(planted());
        },
        &["I5"],
    );
}

#[test]
fn i6_a_row_that_no_event_tells_of_and_events_without_a_row() {
    check(
        |_, observed| {
            observed.archive.retain(|fact| fact.seq > 4);
            observed.log.clear();
        },
        &["I6"],
    );
    check(
        |recorded, observed| {
            recorded.offers.clear();
            observed.recordings.clear();
        },
        &["I6"],
    );
    check(|_, observed| observed.segments[0].round = 1, &["I6"]);
    check(|_, observed| observed.archive[0].json.truncate(20), &["I6"]);
}

#[test]
fn i7_more_work_done_again_than_faults_explain() {
    let work = |times| BTreeMap::from([("a".to_owned(), times), ("b".to_owned(), 2)]);
    check(|_, observed| observed.work = work(8), &[]);
    check(|_, observed| observed.work = work(9), &["I7"]);
    check(
        |recorded, observed| {
            rolled_back(recorded, 1);
            observed.work = work(9);
        },
        &[],
    );
}

/// What is left when it was deleted and erased: the fact of the deletion, and a row that says no more.
fn delete(recorded: &mut Recorded, observed: &mut Observed, id: &str) {
    let accepted = Attempt { at_ms: 2_000, reply: Reply::Accepted(id.to_owned()) };
    recorded.offers[0].deletions = vec![accepted];
    let deleted = RecordingDeleted { by: "api".to_owned(), drop_id: Some("1-0".to_owned()) };
    let deleted = envelope(5, deleted);
    let json = events::encode(&deleted).expect("small");
    let row = RecordingRow { name: None, generation: None, ..observed.recordings[0].clone() };
    let standing = Standing { status: "deleted".to_owned(), ..Standing::default() };
    forget(observed);
    observed.recordings = vec![RecordingRow { standing, ..row }];
    observed.archive = vec![Fact { shard: 1, seq: 5, event_id: deleted.event_id, json }];
    observed.erased = vec![(1, 1, 4)];
}

#[test]
fn i8_what_was_deleted_is_gone() {
    let id = recording().to_string();
    check(|recorded, observed| delete(recorded, observed, &id), &[]);
    let kept = || good().1;
    check(
        |recorded, observed| {
            delete(recorded, observed, &id);
            observed.log = kept().archive[..1].to_vec();
        },
        &["I8"],
    );
    check(
        |recorded, observed| {
            delete(recorded, observed, &id);
            observed.segments = kept().segments;
        },
        &["I6", "I8"],
    );
    check(
        |recorded, observed| {
            delete(recorded, observed, &id);
            observed.stored = vec![format!("/audio/default/{id}")];
        },
        &["I8"],
    );
    check(|recorded, _| delete(recorded, &mut good().1, &id), &["I8"]);
}

#[test]
fn i8_that_redis_forgot_a_deletion_is_no_excuse() {
    // Of a drop, and of a recording.
    for id in ["", "3fa1"] {
        check(
            |recorded, _| {
                delete(recorded, &mut good().1, id);
                recorded.losses.push(Loss { from_ms: 1_500, to_ms: 2_500, facts: 0 });
            },
            &["I8"],
        );
    }
}

#[test]
fn i3_places_are_erased_only_where_something_was_deleted() {
    check(|_, observed| observed.erased.push((1, 2, 2)), &["I3"]);
}

#[test]
fn i1_nobody_knows_whether_it_was_deleted() {
    check(
        |recorded, observed| {
            delete(recorded, observed, "");
            recorded.offers[0].deletions[0].reply = Reply::Unknown("no answer".to_owned());
        },
        &[],
    );
    check(
        |recorded, observed| {
            delete(recorded, observed, "");
            recorded.offers[0].deletions[0].reply = Reply::Refused("404".to_owned());
        },
        &["I1", "I3"],
    );
}

#[test]
fn i2_what_was_to_be_transcribed_again_is() {
    let replay = |recorded: &mut Recorded| {
        let accepted = Attempt { at_ms: 3_000, reply: Reply::Accepted("run".to_owned()) };
        recorded.offers[0].replays = vec![accepted];
    };
    check(|recorded, _| replay(recorded), &["I2"]);
}
