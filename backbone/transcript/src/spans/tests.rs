use events::{Channels, Span, Word};
use jiff::Timestamp;
use proptest::prelude::*;
use uuid::Uuid;

use super::{DocumentSpans, Spans, check, transcribe};
use crate::{GenerationFacts, Outcome, RecordingFacts, Segment, Tally, Transcript, format};

/// Texts with what JSON escapes, white space that is and is not ASCII, and letters of one to four bytes.
fn text() -> impl Strategy<Value = String> {
    let odd = prop_oneof![
        3 => "[ a-z.,']{0,12}",
        1 => "[ \\t\\n\\r\u{a0}\u{3000}\u{85}\u{feff}\"\\\\/\u{0}\u{1}\u{1f}\u{7f}]{0,4}",
        1 => "\\PC{0,6}",
        1 => any::<String>(),
    ];
    proptest::collection::vec(odd, 0..3).prop_map(|parts| parts.concat())
}

fn float() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -10.0..10.0_f32,
        1 => Just(0.0),
        1 => Just(-0.0),
        1 => Just(1.0),
        1 => (-1.0..1.0_f32).prop_map(|small| small * 1e-20),
        1 => any::<f32>().prop_filter("JSON has no such number", |number| number.is_finite()),
    ]
}

fn time() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..40_000_000_u64, 1 => any::<u64>()]
}

prop_compose! {
    fn word()(text in text(), start_ms in time(), end_ms in time(), probability in float()) -> Word {
        Word { text, start_ms, end_ms, probability }
    }
}

prop_compose! {
    fn span()(
        (start_ms, end_ms) in (time(), time()),
        text in text(),
        tokens in proptest::collection::vec(prop_oneof![0..51_865_u32, any::<u32>()], 0..6),
        (avg_logprob, no_speech_prob, compression_ratio, temperature) in (float(), float(), float(), float()),
        words in proptest::collection::vec(word(), 0..5),
    ) -> Span {
        Span { start_ms, end_ms, text, tokens, avg_logprob, no_speech_prob, compression_ratio, temperature, words }
    }
}

fn written<S: Spans>(spans: &S) -> String {
    let mut out = String::new();
    spans.write_document(&mut out);
    out
}

/// A transcript of two channels: segments with the given spans, and one that failed.
fn transcript<S>(spans: impl IntoIterator<Item = S>) -> Transcript<S> {
    let segment = |(index, spans): (usize, S)| Segment {
        channel: (index % 2) as u16,
        index: index as u32 / 2,
        start_ms: 1_000 * index as u64,
        end_ms: 1_000 * index as u64 + 900,
        round: 0,
        event_id: Uuid::from_u128(7).into(),
        occurred_at: Timestamp::UNIX_EPOCH,
        outcome: Outcome::Transcribed {
            language: "de".into(),
            text: format!("Gr\u{f6}\u{df}e \"{index}\""),
            spans,
            model: "tiny".into(),
            infer_ms: 5,
            coverage: if index == 0 { 0.75 } else { 1.0 },
            gaps: if index == 0 { vec![events::Stretch { start_ms: 100, end_ms: 300 }] } else { Vec::new() },
        },
    };
    let mut segments: Vec<_> = spans.into_iter().enumerate().map(segment).collect();
    if let Some(last) = segments.last_mut() {
        let cause = events::Cause::new("model_failed", "it did \"not\" work\n");
        last.outcome = Outcome::Failed { cause, attempts: 3 };
    }
    let state = GenerationFacts::default().state(&Tally::default());
    let id = Uuid::from_u128(1).into();
    let mut transcript =
        Transcript::new(id, &RecordingFacts::default(), 2, &GenerationFacts::default(), state, segments);
    transcript.channels = Channels::Each;
    transcript
}

proptest! {
    #[test]
    fn documents_without_values_are_those_made_of_values(
        segments in proptest::collection::vec(proptest::collection::vec(span(), 0..3), 0..4),
    ) {
        let stored: Vec<String> = segments.iter().map(|spans| serde_json::to_string(spans).unwrap()).collect();
        for (spans, stored) in segments.iter().zip(&stored) {
            prop_assert_eq!(written(&DocumentSpans::read(stored).unwrap()), written(spans));
        }
        let quick = stored.iter().map(|stored| DocumentSpans::read(stored).unwrap());
        prop_assert_eq!(format::json(&transcript(quick)), format::json(&transcript(segments)));
    }

    #[test]
    fn bytes_that_are_anything_are_refused_as_values_are(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut stored = STORED.as_bytes().to_vec();
        let at = at.index(stored.len());
        stored[at] = byte;
        if let Ok(stored) = std::str::from_utf8(&stored) {
            let values = Vec::<Span>::read(stored);
            prop_assert_eq!(DocumentSpans::read(stored).is_ok(), values.is_ok(), "{}", stored);
        }
    }
}

const STORED: &str = r#"[{"start_ms":0,"end_ms":5200,"text":" Ask \"not\"","tokens":[50364,1012],"avg_logprob":-0.25,"no_speech_prob":1.5e-9,"compression_ratio":1.25,"temperature":0.0,"words":[{"text":" Ask","start_ms":10,"end_ms":400,"probability":0.5}]}]"#;

#[test]
fn what_is_written_as_expected_makes_no_values() {
    let mut out = String::new();
    assert_eq!(transcribe(STORED, &mut out), Some(()));
    assert_eq!(
        out,
        r#"{"start_ms":0,"end_ms":5200,"text":"Ask \"not\"","avg_logprob":-0.25,"no_speech_prob":1.5e-9,"compression_ratio":1.25,"temperature":0.0,"words":[{"start_ms":10,"end_ms":400,"text":"Ask","probability":0.5}]}"#
    );
}

#[test]
fn what_is_written_otherwise_is_read_into_values() {
    let others = [
        STORED.replace(',', ", "),
        STORED.replace(
            "\"avg_logprob\":-0.25,\"no_speech_prob\":1.5e-9",
            "\"no_speech_prob\":1.5e-9,\"avg_logprob\":-0.25",
        ),
        STORED.replace("\"temperature\":0.0", "\"temperature\":0.0,\"later\":[1]"),
        STORED.replace("Ask", "\\u0041sk"),
        STORED.replace("5200", "5200 "),
    ];
    for other in others {
        assert_eq!(
            written(&DocumentSpans::read(&other).unwrap()),
            written(&DocumentSpans::read(STORED).unwrap())
        );
    }
}

#[test]
fn what_is_not_spans_is_an_error() {
    for bad in
        ["", "[", "{}", "[]]", "null", "[1]", &STORED[..STORED.len() - 1], &STORED.replace("0.5", "null")]
    {
        assert!(check(bad).is_err(), "{bad}");
    }
    assert!(check("[]").is_ok());
    assert!(check(STORED).is_ok());
}
