use events::*;
use expect_test::{Expect, expect};
use jiff::Timestamp;
use proptest::prelude::*;
use proptest::sample::Index;
use uuid::Uuid;

use crate::openai::Granularities;
use crate::{Format, Recording, Status, openai, render};

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_767_323_045_000 + ms).unwrap()
}

/// An event of generation 0 in `round`; `n` makes its identity and its time.
fn envelope(n: u32, round: u32, event: impl Into<Event>) -> Envelope {
    let event = event.into();
    Envelope {
        event_id: EventId::derive(Uuid::from_u128(n.into()).into(), event.kind(), "", round),
        shard: Shard(0),
        seq: Some(n.into()),
        recording: Uuid::from_u128(0x3fa1).into(),
        tenant: Tenant::default(),
        generation: 0,
        round,
        submitted_at: at(0),
        occurred_at: at(n.into()),
        trace: None,
        causation_id: None,
        event,
    }
}

fn settings(channels: Channels) -> Settings {
    Settings {
        model: ModelRef { name: "tiny.en".into(), sha256: "1a5a".into() },
        task: Task::Transcribe,
        language: None,
        prompt: None,
        temperatures: vec![0.0],
        channels,
        cutter: 1,
        decoding: Default::default(),
    }
}

fn admitted(n: u32, channels: Channels) -> Envelope {
    envelope(
        n,
        0,
        RecordingAdmitted {
            drop_id: "1-0".into(),
            name: Some("talk.mp3".into()),
            uri: None,
            audio: Audio {
                key: "default/3fa1".into(),
                bytes: 320_044,
                sha256: "c0de".into(),
                container: "mp3".into(),
                estimated_ms: 12_000,
            },
            settings: settings(channels),
            lane: Lane::Batch,
            metadata: Default::default(),
        },
    )
}

fn decoded(n: u32, segments: &[u32]) -> Envelope {
    envelope(
        n,
        0,
        RecordingDecoded {
            segments: segments.to_vec(),
            audio_ms: 10_230,
            speech_ms: 8_000,
            channels: 2,
            sample_rate: 44_100,
            codec: "mp3".into(),
            truncated_at_ms: None,
            truncated_reason: None,
        },
    )
}

fn span(start_ms: u64, end_ms: u64, text: &str) -> Span {
    let words = text.split_inclusive(' ').filter(|word| !word.trim().is_empty());
    Span {
        start_ms,
        end_ms,
        text: format!(" {text}"),
        tokens: vec![50363, 18435, 50620],
        avg_logprob: -0.25,
        no_speech_prob: 0.1,
        compression_ratio: 0.875,
        temperature: 0.2,
        words: words
            .map(|word| Word { text: format!(" {}", word.trim()), start_ms, end_ms, probability: 0.5 })
            .collect(),
    }
}

fn said(n: u32, round: u32, channel: u16, index: u32, spans: &[Span]) -> Envelope {
    let text: String = spans.iter().map(|span| span.text.as_str()).collect();
    envelope(
        n,
        round,
        SegmentTranscribed {
            channel,
            index,
            start_ms: spans.first().map_or(0, |span| span.start_ms),
            end_ms: spans.last().map_or(1_000, |span| span.end_ms),
            language: "en".into(),
            text: text.trim().to_owned(),
            spans: spans.to_vec(),
            model: "tiny.en".into(),
            infer_ms: 120,
            coverage: 1.0,
            gaps: Vec::new(),
        },
    )
}

fn unsaid(n: u32, round: u32, channel: u16, index: u32, start_ms: u64, end_ms: u64) -> Envelope {
    let cause = Cause::new("out_of_memory", "the model ran\n\nout of memory --> use a smaller one");
    envelope(n, round, SegmentFailed { channel, index, start_ms, end_ms, cause, attempts: 3 })
}

/// A talk of two segments, one span each, whose events came in a bad order.
fn talk() -> Recording {
    Recording::fold(&[
        said(4, 0, 0, 1, &[span(5_000, 10_100, "And <so> it --> goes.")]),
        decoded(3, &[2]),
        said(2, 0, 0, 0, &[span(0, 2_500, "Hello there."), span(2_500, 4_040, "My friend.")]),
        admitted(1, Channels::Mix),
    ])
    .unwrap()
}

/// A phone call: two channels, the first segment of the second one failed.
fn call() -> Recording {
    Recording::fold(&[
        admitted(1, Channels::Each),
        decoded(2, &[2, 2]),
        said(3, 0, 0, 0, &[span(0, 1_000, "Hi, Bob here.")]),
        said(4, 0, 0, 1, &[span(3_700_000, 3_701_000, "Bye.")]),
        unsaid(5, 0, 1, 0, 1_000, 2_000),
        said(6, 0, 1, 1, &[span(2_000, 3_000, "Hello Bob.")]),
    ])
    .unwrap()
}

fn check(recording: &Recording, format: Format, then: Expect) {
    then.assert_eq(&render(&recording.transcript(None).unwrap(), format));
}

#[test]
fn text_is_one_line_or_a_line_per_turn() {
    check(
        &talk(),
        Format::Text,
        expect![[r#"
        Hello there. My friend. And <so> it --> goes.
    "#]],
    );
    check(
        &call(),
        Format::Text,
        expect![[r#"
        Channel 1: Hi, Bob here.
        Channel 2: Hello Bob.
        Channel 1: Bye.
    "#]],
    );
}

#[test]
fn srt_has_a_numbered_cue_per_span() {
    check(
        &talk(),
        Format::Srt,
        expect![[r#"
        1
        00:00:00,000 --> 00:00:02,500
        Hello there.

        2
        00:00:02,500 --> 00:00:04,040
        My friend.

        3
        00:00:05,000 --> 00:00:10,100
        And <so> it -> goes.

    "#]],
    );
    check(
        &call(),
        Format::Srt,
        expect![[r#"
        1
        00:00:00,000 --> 00:00:01,000
        Channel 1: Hi, Bob here.

        2
        00:00:02,000 --> 00:00:03,000
        Channel 2: Hello Bob.

        3
        01:01:40,000 --> 01:01:41,000
        Channel 1: Bye.

    "#]],
    );
}

#[test]
fn vtt_escapes_names_voices_and_notes_what_is_missing() {
    check(
        &talk(),
        Format::Vtt,
        expect![[r#"
        WEBVTT

        00:00:00.000 --> 00:00:02.500
        Hello there.

        00:00:02.500 --> 00:00:04.040
        My friend.

        00:00:05.000 --> 00:00:10.100
        And &lt;so&gt; it --&gt; goes.

    "#]],
    );
    check(
        &call(),
        Format::Vtt,
        expect![[r#"
        WEBVTT

        NOTE 00:00:01.000 to 00:00:02.000 has no text: the model ran out of memory -> use a smaller one

        00:00:00.000 --> 00:00:01.000
        <v Channel 1>Hi, Bob here.

        00:00:02.000 --> 00:00:03.000
        <v Channel 2>Hello Bob.

        01:01:40.000 --> 01:01:41.000
        <v Channel 1>Bye.

    "#]],
    );
}

#[test]
fn json_is_our_own_document() {
    check(
        &talk(),
        Format::Json,
        expect![[
            r#"{"recording":"00000000-0000-0000-0000-000000003fa1","name":"talk.mp3","generation":0,"status":"complete","reason":null,"task":"transcribe","model":"tiny.en","language":"en","audio_ms":10230,"truncated":null,"failed_segments":0,"text":"Hello there. My friend. And <so> it --> goes.","segments":[{"channel":0,"index":0,"start_ms":0,"end_ms":4040,"language":"en","text":"Hello there. My friend.","spans":[{"start_ms":0,"end_ms":2500,"text":"Hello there.","avg_logprob":-0.25,"no_speech_prob":0.1,"compression_ratio":0.875,"temperature":0.2,"words":[{"start_ms":0,"end_ms":2500,"text":"Hello","probability":0.5},{"start_ms":0,"end_ms":2500,"text":"there.","probability":0.5}]},{"start_ms":2500,"end_ms":4040,"text":"My friend.","avg_logprob":-0.25,"no_speech_prob":0.1,"compression_ratio":0.875,"temperature":0.2,"words":[{"start_ms":2500,"end_ms":4040,"text":"My","probability":0.5},{"start_ms":2500,"end_ms":4040,"text":"friend.","probability":0.5}]}]},{"channel":0,"index":1,"start_ms":5000,"end_ms":10100,"language":"en","text":"And <so> it --> goes.","spans":[{"start_ms":5000,"end_ms":10100,"text":"And <so> it --> goes.","avg_logprob":-0.25,"no_speech_prob":0.1,"compression_ratio":0.875,"temperature":0.2,"words":[{"start_ms":5000,"end_ms":10100,"text":"And","probability":0.5},{"start_ms":5000,"end_ms":10100,"text":"<so>","probability":0.5},{"start_ms":5000,"end_ms":10100,"text":"it","probability":0.5},{"start_ms":5000,"end_ms":10100,"text":"-->","probability":0.5},{"start_ms":5000,"end_ms":10100,"text":"goes.","probability":0.5}]}]}]}"#
        ]],
    );
    check(
        &call(),
        Format::Json,
        expect![[
            r#"{"recording":"00000000-0000-0000-0000-000000003fa1","name":"talk.mp3","generation":0,"status":"complete","reason":null,"task":"transcribe","model":"tiny.en","language":"en","audio_ms":10230,"truncated":null,"failed_segments":1,"text":"Hi, Bob here. Hello Bob. Bye.","channels":[{"channel":0,"text":"Hi, Bob here. Bye."},{"channel":1,"text":"Hello Bob."}],"segments":[{"channel":0,"index":0,"start_ms":0,"end_ms":1000,"language":"en","text":"Hi, Bob here.","spans":[{"start_ms":0,"end_ms":1000,"text":"Hi, Bob here.","avg_logprob":-0.25,"no_speech_prob":0.1,"compression_ratio":0.875,"temperature":0.2,"words":[{"start_ms":0,"end_ms":1000,"text":"Hi,","probability":0.5},{"start_ms":0,"end_ms":1000,"text":"Bob","probability":0.5},{"start_ms":0,"end_ms":1000,"text":"here.","probability":0.5}]}]},{"channel":1,"index":0,"start_ms":1000,"end_ms":2000,"language":null,"text":"","failed":{"code":"out_of_memory","message":"the model ran\n\nout of memory --> use a smaller one"},"spans":[]},{"channel":1,"index":1,"start_ms":2000,"end_ms":3000,"language":"en","text":"Hello Bob.","spans":[{"start_ms":2000,"end_ms":3000,"text":"Hello Bob.","avg_logprob":-0.25,"no_speech_prob":0.1,"compression_ratio":0.875,"temperature":0.2,"words":[{"start_ms":2000,"end_ms":3000,"text":"Hello","probability":0.5},{"start_ms":2000,"end_ms":3000,"text":"Bob.","probability":0.5}]}]},{"channel":0,"index":1,"start_ms":3700000,"end_ms":3701000,"language":"en","text":"Bye.","spans":[{"start_ms":3700000,"end_ms":3701000,"text":"Bye.","avg_logprob":-0.25,"no_speech_prob":0.1,"compression_ratio":0.875,"temperature":0.2,"words":[{"start_ms":3700000,"end_ms":3701000,"text":"Bye.","probability":0.5}]}]}]}"#
        ]],
    );
}

/// Only a segment that lacks something says so.
#[test]
fn what_a_segment_lacks_is_in_the_document() {
    let mut events = vec![admitted(1, Channels::Mix), decoded(2, &[2])];
    for index in 0..2 {
        let start_ms = u64::from(index) * 10_000;
        let mut envelope = said(3 + index, 0, 0, index, &[span(start_ms, start_ms + 2_000, "Yes.")]);
        if let (Event::SegmentTranscribed(segment), 1) = (&mut envelope.event, index) {
            (segment.coverage, segment.gaps) = (0.5, vec![(12_000, 14_000).into()]);
        }
        events.push(envelope);
    }
    let transcript = Recording::fold(&events).unwrap().transcript(None).unwrap();
    let document: serde_json::Value = serde_json::from_str(&render(&transcript, Format::Json)).unwrap();
    let [whole, lacking] = [0, 1].map(|at| &document["segments"][at]);
    assert_eq!((whole.get("coverage"), whole.get("gaps")), (None, None));
    assert_eq!(
        (&lacking["coverage"], lacking["gaps"].to_string().as_str()),
        (&0.5.into(), "[[12000,14000]]")
    );
    assert_eq!(lacking["spans"][0]["words"][0]["text"], "Yes.");
}

#[test]
fn openai_shapes() {
    let talk = talk().transcript(None).unwrap();
    expect![[
        r#"{"text":"Hello there. My friend. And <so> it --> goes.","usage":{"type":"duration","seconds":11}}"#
    ]]
    .assert_eq(&openai::json(&talk));
    expect![[r#"{"task":"transcribe","language":"english","duration":10.23,"text":"Hello there. My friend. And <so> it --> goes.","segments":[{"id":0,"seek":0,"start":0.0,"end":2.5,"text":" Hello there.","tokens":[50363,18435,50620],"temperature":0.2,"avg_logprob":-0.25,"compression_ratio":0.875,"no_speech_prob":0.1},{"id":1,"seek":0,"start":2.5,"end":4.04,"text":" My friend.","tokens":[50363,18435,50620],"temperature":0.2,"avg_logprob":-0.25,"compression_ratio":0.875,"no_speech_prob":0.1},{"id":2,"seek":500,"start":5.0,"end":10.1,"text":" And <so> it --> goes.","tokens":[50363,18435,50620],"temperature":0.2,"avg_logprob":-0.25,"compression_ratio":0.875,"no_speech_prob":0.1}],"usage":{"type":"duration","seconds":11}}"#]].assert_eq(&openai::verbose_json(&talk, Granularities::default()));
    expect![[r#"{"task":"transcribe","language":"english","duration":10.23,"text":"Hello there. My friend. And <so> it --> goes.","words":[{"word":"Hello","start":0.0,"end":2.5},{"word":"there.","start":0.0,"end":2.5},{"word":"My","start":2.5,"end":4.04},{"word":"friend.","start":2.5,"end":4.04},{"word":"And","start":5.0,"end":10.1},{"word":"<so>","start":5.0,"end":10.1},{"word":"it","start":5.0,"end":10.1},{"word":"-->","start":5.0,"end":10.1},{"word":"goes.","start":5.0,"end":10.1}],"usage":{"type":"duration","seconds":11}}"#]].assert_eq(&openai::verbose_json(&talk, Granularities { segments: false, words: true }));
}

#[test]
fn languages_without_spaces_are_joined_without() {
    let chinese = |n, index, text: &str| {
        let mut envelope = said(n, 0, 0, index, &[span(u64::from(index) * 1_000, 1_000, text)]);
        if let Event::SegmentTranscribed(done) = &mut envelope.event {
            done.language = "zh".into();
        }
        envelope
    };
    let recording =
        Recording::fold(&[decoded(1, &[2]), chinese(2, 0, "你好。"), chinese(3, 1, "再见。")]).unwrap();
    let transcript = recording.transcript(None).unwrap();
    assert_eq!(transcript.text(), "你好。再见。");
    assert!(openai::verbose_json(&transcript, Granularities::default()).contains(r#""language":"chinese""#));
}

fn status(events: &[Envelope]) -> (Status, u64) {
    let state = Recording::fold(events).unwrap().state();
    (state.status, state.failed_segments)
}

#[test]
fn status_follows_the_events() {
    let one = || said(3, 0, 0, 0, &[span(0, 1_000, "Hi.")]);
    let failed = |n, round| {
        let cause = Cause::new("unsupported_codec", "the codec is AMR");
        envelope(n, round, RecordingFailed { stage: "decode".into(), cause, attempts: 1 })
    };
    let again = |n, round| {
        let Event::RecordingAdmitted(first) = admitted(0, Channels::Mix).event else { unreachable!() };
        let (name, audio, lane) = (first.name, first.audio, Lane::Batch);
        let (settings, activation) = (first.settings, Activation::Auto);
        envelope(n, round, TranscriptionRequested { name, audio, settings, lane, activation })
    };
    let start = || admitted(1, Channels::Mix);
    assert_eq!(status(&[start()]), (Status::Queued, 0));
    assert_eq!(status(&[start(), one()]), (Status::Decoding, 0));
    assert_eq!(status(&[start(), one(), decoded(2, &[2])]), (Status::Transcribing, 0));
    assert_eq!(status(&[start(), one(), decoded(2, &[1])]), (Status::Complete, 0));
    assert_eq!(
        status(&[start(), decoded(2, &[0])]),
        (Status::Complete, 0),
        "silence is a complete transcript"
    );
    assert_eq!(status(&[start(), decoded(2, &[])]), (Status::Complete, 0));
    assert_eq!(status(&[start(), one(), unsaid(4, 0, 0, 1, 0, 9), decoded(2, &[2])]), (Status::Complete, 1));
    assert_eq!(status(&[start(), unsaid(4, 0, 0, 0, 0, 9), decoded(2, &[1])]), (Status::Failed, 1));
    assert_eq!(
        status(&[
            start(),
            unsaid(4, 0, 0, 0, 0, 9),
            decoded(2, &[1]),
            said(5, 1, 0, 0, &[span(0, 9, "Hi.")])
        ]),
        (Status::Complete, 0),
        "a later round's text replaces a failure"
    );
    assert_eq!(status(&[start(), failed(2, 0)]), (Status::Failed, 0));
    assert_eq!(status(&[start(), failed(2, 0), again(5, 1)]), (Status::Queued, 0), "asked for again");
    assert_eq!(status(&[start(), one(), decoded(2, &[1]), failed(6, 1)]), (Status::Complete, 0));
    assert_eq!(
        status(&[start(), envelope(7, 0, GenerationCancelled { by: "api".into() })]),
        (Status::Cancelled, 0)
    );
    assert_eq!(
        status(&[envelope(8, 0, RecordingDeleted { by: "api".into(), drop_id: None }), start(), one()]),
        (Status::Deleted, 0)
    );
    let cause = Cause::new("unknown_model", "there is no model big");
    let rejected = envelope(9, 0, RecordingRejected { drop_id: "1-0".into(), name: None, cause });
    assert_eq!(status(&[rejected]), (Status::Rejected, 0));
}

#[test]
fn all_failed_says_why() {
    let events = [decoded(1, &[2]), unsaid(2, 0, 0, 1, 0, 9), unsaid(3, 0, 0, 0, 0, 9)];
    let reason = Recording::fold(&events).unwrap().state().reason.unwrap();
    assert_eq!(reason.code, "out_of_memory");
    assert!(reason.message.starts_with("all 2 segments failed; the first: the model ran"), "{reason}");
}

#[test]
fn readers_see_the_best_generation_unless_somebody_chose() {
    let in_generation = |generation, mut envelope: Envelope| {
        envelope.generation = generation;
        envelope.event_id = EventId::derive(envelope.event_id, "generation", &generation.to_string(), 0);
        envelope
    };
    let good = |generation| {
        [decoded(2, &[1]), said(3, 0, 0, 0, &[span(0, 1_000, "Hi.")])].map(|e| in_generation(generation, e))
    };
    let part = |generation| {
        [decoded(2, &[2]), said(3, 0, 0, 0, &[span(0, 1_000, "Hi.")]), unsaid(4, 0, 0, 1, 0, 9)]
            .map(|e| in_generation(generation, e))
    };
    let chosen =
        |n, generation| in_generation(generation, envelope(n, 0, GenerationActivated { by: "api".into() }));
    let visible = |events: &[Envelope]| Recording::fold(events).unwrap().visible();

    assert_eq!(visible(&[good(0).as_slice(), &good(1)].concat()), Some(1));
    assert_eq!(visible(&[good(0).as_slice(), &part(1)].concat()), Some(0), "never to one with more failures");
    assert_eq!(visible(&[good(0).as_slice(), &part(1)[..2]].concat()), Some(0), "not before it is complete");
    assert_eq!(visible(&[good(0).as_slice(), &good(1), &[chosen(9, 0)]].concat()), Some(0));
    assert_eq!(visible(&[good(0).as_slice(), &good(1), &[chosen(9, 1), chosen(8, 0)]].concat()), Some(1));
    assert_eq!(visible(&[good(0).as_slice(), &[chosen(9, 7)]].concat()), Some(0), "there is no generation 7");
}

#[test]
fn readers_never_see_what_was_cancelled_or_waits_to_be_chosen() {
    let of = |generation, n, event: Event| {
        let mut envelope = envelope(n, 0, event);
        envelope.generation = generation;
        envelope
    };
    let asked = |n, generation, activation| {
        let Event::RecordingAdmitted(first) = admitted(0, Channels::Mix).event else { unreachable!() };
        let (name, audio, settings, lane) = (first.name, first.audio, first.settings, Lane::Replay);
        let requested = TranscriptionRequested { name, audio, settings, lane, activation };
        of(generation, n, requested.into())
    };
    let whole = |n, generation| {
        [decoded(n, &[1]), said(n + 1, 0, 0, 0, &[span(0, 1_000, "Hi.")])]
            .map(|envelope| of(generation, envelope.seq.unwrap() as u32, envelope.event))
    };
    let failed = |n, generation| {
        let cause = Cause::new("unsupported_codec", "the codec is AMR");
        of(generation, n, RecordingFailed { stage: "decode".into(), cause, attempts: 1 }.into())
    };
    let cancelled = |n, generation| of(generation, n, GenerationCancelled { by: "api".into() }.into());
    let activated = |n, generation| of(generation, n, GenerationActivated { by: "api".into() }.into());
    let visible = |parts: &[&[Envelope]]| Recording::fold(&parts.concat()).unwrap().visible();
    let (auto, manual) = (Activation::Auto, Activation::Manual);
    let first = [admitted(1, Channels::Mix), failed(2, 0)];

    assert_eq!(visible(&[&first, &[asked(3, 1, auto)]]), Some(1), "nothing is complete: the newest");
    assert_eq!(visible(&[&first, &[asked(3, 1, auto), cancelled(4, 1)]]), Some(0));
    assert_eq!(visible(&[&first, &[asked(3, 1, manual)]]), Some(0));
    assert_eq!(visible(&[&first, &[asked(3, 1, manual)], &whole(5, 1)]), Some(0), "complete, but not chosen");
    assert_eq!(visible(&[&first, &[asked(3, 1, manual), activated(9, 1)], &whole(5, 1)]), Some(1));
    assert_eq!(visible(&[&whole(2, 0), &[asked(4, 1, auto), cancelled(5, 1)]]), Some(0));
    assert_eq!(visible(&[&whole(2, 0), &[asked(4, 1, auto), activated(5, 1), cancelled(6, 1)]]), Some(0));
    assert_eq!(
        visible(&[&whole(2, 0), &[asked(4, 1, auto), cancelled(5, 1)], &whole(6, 1)]),
        Some(1),
        "it was complete before anybody heard of the cancellation"
    );
    assert_eq!(visible(&[&[admitted(1, Channels::Mix), cancelled(2, 0)]]), Some(0), "there is no other");
}

/// Everything that may happen to a recording, with two rounds and competing outcomes.
fn history() -> Vec<Envelope> {
    let hi = |text: &str| [span(0, 1_000, text)];
    let cause = Cause::new("io", "the disk is gone");
    vec![
        admitted(1, Channels::Mix),
        decoded(2, &[3]),
        said(3, 0, 0, 0, &hi("zero")),
        unsaid(4, 0, 0, 1, 1_000, 2_000),
        said(5, 1, 0, 1, &hi("one, second round")),
        said(6, 1, 0, 0, &hi("zero, second round")),
        unsaid(7, 1, 0, 0, 0, 1_000),
        said(8, 0, 0, 2, &hi("two")),
        said(9, 0, 0, 2, &hi("two, by another event")),
        said(10, 0, 0, 7, &hi("beyond the end")),
        envelope(11, 0, RecordingFailed { stage: "decode".into(), cause: cause.clone(), attempts: 1 }),
        envelope(12, 0, GenerationActivated { by: "api".into() }),
        envelope(13, 0, GenerationCancelled { by: "api".into() }),
        envelope(14, 0, RecordingRejected { drop_id: "1-0".into(), name: None, cause }),
    ]
}

proptest! {
    #[test]
    fn any_order_and_any_repeats_give_the_same(
        picks in proptest::collection::vec(any::<Index>(), 0..40),
        keep in proptest::collection::vec(any::<bool>(), 14),
        delete in proptest::bool::weighted(0.1),
        seed in any::<u64>(),
    ) {
        let mut given: Vec<Envelope> = history().into_iter().zip(keep).filter_map(|(e, keep)| keep.then_some(e)).collect();
        if delete {
            given.push(envelope(20, 0, RecordingDeleted { by: "api".into(), drop_id: None }));
        }
        prop_assume!(!given.is_empty());
        let straight = Recording::fold(&given).unwrap();
        let mut shuffled = given.clone();
        shuffled.extend(picks.iter().map(|pick| pick.get(&given).clone()));
        let mut order: Vec<usize> = (0..shuffled.len()).collect();
        order.sort_by_key(|at| Uuid::new_v5(&Uuid::from_u64_pair(seed, 0), &at.to_le_bytes()));
        let other = Recording::fold(order.iter().map(|&at| &shuffled[at])).unwrap();
        prop_assert_eq!(&straight, &other);
        prop_assert_eq!(straight.state(), other.state());
        prop_assert_eq!(straight.transcript(None), other.transcript(None));
    }
}
