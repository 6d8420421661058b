use events::{Channels, EventId, Span, Task};
use expect_test::{Expect, expect};
use jiff::Timestamp;
use proptest::prelude::*;
use uuid::Uuid;

use super::text::{Style, text};
use super::*;
use crate::segment::Segment;

/// A segment said between two times: one span over all of it, in one language.
fn segment(index: u32, start_ms: u64, end_ms: u64, language: &str, text: &str) -> Segment {
    let span = Span {
        start_ms,
        end_ms,
        text: format!(" {text}"),
        tokens: Vec::new(),
        avg_logprob: -0.25,
        no_speech_prob: 0.1,
        compression_ratio: 0.9,
        temperature: 0.0,
        words: Vec::new(),
    };
    Segment {
        channel: 0,
        index,
        start_ms,
        end_ms,
        round: 0,
        event_id: EventId::from(Uuid::from_u128(index.into())),
        occurred_at: Timestamp::UNIX_EPOCH,
        outcome: Outcome::Transcribed {
            language: language.into(),
            text: text.into(),
            spans: vec![span],
            model: "any".into(),
            infer_ms: 500,
            coverage: 1.0,
            gaps: Vec::new(),
        },
    }
}

/// A transcription whose segments say `texts`, one after the other, `second` seconds each.
fn transcript_in(language: &str, generation: u32, seconds: u64, texts: &[&str]) -> Transcript {
    let part = |(index, text): (usize, &&str)| {
        let start_ms = index as u64 * seconds * 1000;
        segment(index as u32, start_ms, start_ms + seconds * 1000, language, text)
    };
    Transcript {
        recording: Uuid::from_u128(0x3fa1).into(),
        name: Some("talk.mp3".into()),
        generation,
        status: Status::Complete,
        reason: None,
        task: Task::Transcribe,
        model: ["tiny.en", "base"][generation.min(1) as usize].into(),
        channels: Channels::Mix,
        language: Some(language.into()),
        audio_ms: 20_000,
        truncated: None,
        segments: texts.iter().enumerate().map(part).collect(),
    }
}

fn transcript(generation: u32, seconds: u64, texts: &[&str]) -> Transcript {
    transcript_in("en", generation, seconds, texts)
}

/// The words that differ, `[-so-]{+so+}`, a line each, under the counts.
fn told(comparison: &Comparison) -> String {
    let Counts { equal, replaced, inserted, deleted, rate } = comparison.counts;
    let mut lines = format!("={equal} ~{replaced} +{inserted} -{deleted} {rate:.3}\n");
    for Passage { change, channel, start_ms, end_ms, from, to } in &comparison.passages {
        if *change != Change::Equal {
            lines += &format!("{channel} {start_ms}-{end_ms} {change:?} [{from}] [{to}]\n");
        }
    }
    lines
}

fn check(from: &Transcript, to: &Transcript, then: Expect) {
    then.assert_eq(&told(&compare(from, to)));
}

#[test]
fn cuts_elsewhere_make_no_difference() {
    let one = transcript(0, 10, &["The quick brown fox jumps", "over the lazy dog."]);
    let other = transcript(1, 4, &["the quick", "Brown fox", "jumps over", "the, lazy", "dog"]);
    check(
        &one,
        &other,
        expect![[r#"
            =9 ~0 +0 -0 0.000
        "#]],
    );
}

#[test]
fn each_kind_of_change_is_told_with_its_time() {
    let one = transcript(0, 10, &["The quick brown fox jumps", "right over the lazy dog."]);
    let other = transcript(1, 10, &["The quick red fox jumps high", "over the lazy dog."]);
    check(
        &one,
        &other,
        expect![[r#"
            =8 ~2 +0 -0 0.200
            0 3478-6190 Replaced [brown] [red]
            0 8260-12631 Replaced [right] [high]
        "#]],
    );
    check(
        &transcript(0, 10, &[""]),
        &other,
        expect![[r#"
        =0 ~0 +10 -0 1.000
        0 0-20000 Inserted [] [The quick red fox jumps high over the lazy dog.]
    "#]],
    );
    check(
        &one,
        &transcript(1, 10, &[]),
        expect![[r#"
        =0 ~0 +0 -10 1.000
        0 0-20000 Deleted [The quick brown fox jumps right over the lazy dog.] []
    "#]],
    );
    check(
        &transcript(0, 10, &[]),
        &transcript(1, 10, &[]),
        expect![[r#"
        =0 ~0 +0 -0 0.000
    "#]],
    );
}

#[test]
fn a_word_said_at_another_time_is_another_word() {
    let one = transcript(0, 40, &["hello", "goodbye"]);
    let other = transcript(1, 40, &["goodbye", "hello"]);
    check(
        &one,
        &other,
        expect![[r#"
            =0 ~2 +0 -0 1.000
            0 0-80000 Replaced [hello goodbye] [goodbye hello]
        "#]],
    );
    let late = transcript(1, 40, &["", "hello goodbye"]);
    check(
        &one,
        &late,
        expect![[r#"
            =0 ~1 +1 -1 1.500
            0 0-80000 Replaced [hello goodbye] [hello goodbye]
        "#]],
    );
}

#[test]
fn times_of_words_count_where_there_are_some() {
    let mut one = transcript(0, 30, &["no no no"]);
    let Outcome::Transcribed { spans, .. } = &mut one.segments[0].outcome else { unreachable!() };
    let word = |start_ms: u64| events::Word {
        text: " no".into(),
        start_ms,
        end_ms: start_ms + 500,
        probability: 1.0,
    };
    spans[0].words = vec![word(1_000), word(2_000), word(25_000)];
    let mut other = one.clone();
    let Outcome::Transcribed { spans, .. } = &mut other.segments[0].outcome else { unreachable!() };
    spans[0].words.remove(1);
    check(
        &one,
        &other,
        expect![[r#"
            =2 ~0 +0 -1 0.333
            0 2000-2500 Deleted [no] []
        "#]],
    );
}

#[test]
fn languages_without_spaces_are_compared_by_character() {
    let one = transcript_in("zh", 0, 10, &["我们去北京看长城。"]);
    let other = transcript_in("zh", 1, 10, &["我们去南京看 长城"]);
    check(
        &one,
        &other,
        expect![[r#"
            =7 ~1 +0 -0 0.125
            0 3750-5000 Replaced [北] [南]
        "#]],
    );
}

#[test]
fn channels_that_both_hear_apart_are_compared_apart() {
    let call = |generation, texts: [&str; 2]| {
        let mut call = transcript(generation, 10, &texts);
        call.channels = Channels::Each;
        for (channel, segment) in (0..).zip(&mut call.segments) {
            segment.channel = channel;
            (segment.start_ms, segment.end_ms) = (0, 10_000);
            let Outcome::Transcribed { spans, .. } = &mut segment.outcome else { unreachable!() };
            (spans[0].start_ms, spans[0].end_ms) = (0, 10_000);
        }
        call
    };
    let one = call(0, ["hi bob here", "hello bob"]);
    let other = call(1, ["hi rob here", "hello bob"]);
    check(
        &one,
        &other,
        expect![[r#"
            =4 ~1 +0 -0 0.200
            0 2222-5555 Replaced [bob] [rob]
        "#]],
    );
}

#[test]
fn both_sides_tell_their_model_and_its_speed() {
    let compared = compare(&transcript(0, 10, &["a b", "c"]), &transcript(1, 20, &["a b d"]));
    let Side { generation, model, words, segments, infer_ms, speed, .. } = &compared.from;
    assert_eq!((*generation, model.as_str(), *words, *segments), (0, "tiny.en", 3, 2));
    assert_eq!((*infer_ms, *speed), (1000, Some(20.0)));
    assert_eq!((compared.to.model.as_str(), compared.to.speed), ("base", Some(40.0)));
    let json = serde_json::to_string(&compared).unwrap();
    assert_eq!(serde_json::from_str::<Comparison>(&json).unwrap(), compared);
}

#[test]
fn people_read_the_places_that_differ_in_80_columns() {
    let before = "Four score and seven years ago our fathers brought forth on this continent a new nation";
    let one = transcript(
        0,
        20,
        &[before, "conceived in liberty and dead\u{1b}[2Jicated to the preposition that all men"],
    );
    let other = transcript(
        1,
        20,
        &[
            before,
            "conceived in Liberty, and dedicated to the proposition that all of the men are created equal indeed, \
           and so on and on until the very end of the line and yet a little further",
        ],
    );
    let shown = text(&compare(&one, &other), Style::default());
    expect![[r#"
        talk.mp3  00000000-0000-0000-0000-000000003fa1

                         generation 0    generation 1
        model            tiny.en         base
        status           complete        complete
        language         en              en
        words            27              50
        segments         2               2
        failed segments  0               0
        model time       1.0 s           1.0 s
        audio s per s    20.0            20.0

        25 of 27 words differ (92.6 %): 2 replaced, 23 inserted, 0 deleted.

           0:23  … nation conceived in Liberty, and [-dead [2Jicated-] {+dedicated+} to
                 the [-preposition-] {+proposition+} that all {+of the+} men {+are
                 created equal indeed, and so on and on until the very end of the line
                 and yet a little further+}
    "#]]
    .assert_eq(&shown);
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    let coloured = text(&compare(&one, &other), Style { width: 40, colour: true });
    assert!(coloured.contains("\x1b[31m[-preposition-]\x1b[0m \x1b[32m{+proposition+}\x1b[0m"), "{coloured}");
    assert!(!coloured.contains("\x1b[2J"), "{coloured:?}");
    assert!(text(&compare(&one, &one), Style::default()).contains("\nNo word differs.\n"));
}

/// Levenshtein's distance as in the textbook.
fn distance(from: &[&str], to: &[&str]) -> u64 {
    let mut row: Vec<u64> = (0..=to.len() as u64).collect();
    for (at, word) in from.iter().enumerate() {
        let mut next = vec![at as u64 + 1];
        for (column, other) in to.iter().enumerate() {
            let replaced = row[column] + u64::from(word != other);
            next.push(replaced.min(row[column + 1] + 1).min(next[column] + 1));
        }
        row = next;
    }
    row[to.len()]
}

proptest! {
    /// Within reach in time it is the textbook's distance; in any case both texts come out whole.
    #[test]
    fn no_fewer_changes_are_possible(
        from in proptest::collection::vec("[a-d]", 0..30),
        to in proptest::collection::vec("[a-d]", 0..30),
        seconds in prop_oneof![Just(10_u64), 1..200_u64],
        parts in 1..8_usize,
    ) {
        let cut = |generation, words: &[String], parts: usize, seconds: u64| {
            let texts: Vec<String> = words.chunks(words.len().div_ceil(parts).max(1)).map(|part| part.join(" ")).collect();
            transcript(generation, seconds, &texts.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let compared = compare(&cut(0, &from, parts, seconds), &cut(1, &to, 1, seconds));
        let [from, to] = [&from, &to].map(|words| words.iter().map(String::as_str).collect::<Vec<_>>());
        if seconds * parts as u64 <= 15 {
            prop_assert_eq!(compared.counts.changes(), distance(&from, &to));
        }
        prop_assert!(compared.counts.changes() >= distance(&from, &to));
        let whole = |side: fn(&Passage) -> &str| {
            let texts: Vec<&str> = compared.passages.iter().map(side).filter(|text| !text.is_empty()).collect();
            texts.join(" ")
        };
        prop_assert_eq!(whole(|passage| &passage.from), from.join(" "));
        prop_assert_eq!(whole(|passage| &passage.to), to.join(" "));
    }
}
