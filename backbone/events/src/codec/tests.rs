use super::*;
use crate::decoding::Decoding;
use crate::settings::{Activation, Channels, Lane, ModelRef, Settings, Task, default_temperatures};
use std::path::Path;

fn settings() -> Settings {
    Settings {
        model: ModelRef { name: "tiny.en".into(), sha256: "1a5a".into() },
        task: Task::Transcribe,
        language: Some("en".into()),
        prompt: None,
        temperatures: default_temperatures(),
        channels: Channels::Mix,
        cutter: 1,
        decoding: Decoding::default(),
    }
}

fn audio() -> Audio {
    Audio {
        key: "default/3fa1".into(),
        bytes: 320_044,
        sha256: "c0de".into(),
        container: "wav".into(),
        estimated_ms: 10_000,
    }
}

fn cause() -> Cause {
    Cause::new("unsupported_codec", "the codec is AMR; convert it to FLAC")
}

fn one_of_each() -> Vec<Event> {
    let (channel, index, start_ms, end_ms) = (0, 2, 1_000, 6_200);
    vec![
        RecordingAdmitted {
            drop_id: "1-0".into(),
            name: Some("talk.mp3".into()),
            uri: None,
            audio: audio(),
            settings: settings(),
            lane: Lane::Batch,
            metadata: [("call".to_owned(), "17".to_owned())].into(),
        }
        .into(),
        RecordingRejected { drop_id: "1-0".into(), name: None, cause: cause() }.into(),
        RecordingDeleted { by: "api".into(), drop_id: None }.into(),
        TranscriptionRequested {
            name: Some("talk.mp3".into()),
            audio: audio(),
            settings: settings(),
            lane: Lane::Rt,
            activation: Activation::Auto,
        }
        .into(),
        RecordingDecoded {
            segments: vec![3],
            audio_ms: 10_000,
            speech_ms: 8_000,
            channels: 2,
            sample_rate: 44_100,
            codec: "mp3".into(),
            truncated_at_ms: Some(9_000),
            truncated_reason: Some("unexpected end of file".into()),
        }
        .into(),
        RecordingFailed { stage: "decode".into(), cause: cause(), attempts: 1 }.into(),
        SegmentCut {
            channel,
            index,
            start_ms,
            end_ms,
            settings: settings(),
            lane: Lane::Replay,
            speech: Vec::new(),
        }
        .into(),
        SegmentTranscribed {
            channel,
            index,
            start_ms,
            end_ms,
            language: "en".into(),
            text: "Hello.".into(),
            spans: vec![Span {
                start_ms,
                end_ms,
                text: " Hello.".into(),
                tokens: vec![50363, 18435, 13, 50620],
                avg_logprob: -0.25,
                no_speech_prob: 0.125,
                compression_ratio: 0.5,
                temperature: 0.0,
                words: vec![Word { text: " Hello.".into(), start_ms, end_ms, probability: 0.5 }],
            }],
            model: "tiny.en".into(),
            infer_ms: 120,
            coverage: 1.0,
            gaps: Vec::new(),
        }
        .into(),
        SegmentFailed { channel, index, start_ms, end_ms, cause: cause(), attempts: 3 }.into(),
        GenerationActivated { by: "auto".into() }.into(),
        GenerationCancelled { by: "api".into() }.into(),
    ]
}

fn envelope(event: Event) -> Envelope {
    let at: Timestamp = "2026-01-02T03:04:05.678Z".parse().unwrap();
    let cause = EventId::from(uuid::Uuid::from_u128(7));
    Envelope {
        event_id: EventId::derive(cause, event.kind(), "", 0),
        shard: Shard(3),
        seq: Some(41),
        recording: RecordingId::from(uuid::Uuid::from_u128(0x3fa1)),
        tenant: Tenant::default(),
        generation: 0,
        round: 0,
        submitted_at: at,
        occurred_at: at,
        trace: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        causation_id: Some(cause),
        event,
    }
}

fn golden(kind: &str, version: u32) -> std::path::PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/codec/golden");
    folder.join(format!("{kind}.v{version}.json"))
}

/// The newest version of each type writes exactly its golden file and reads back equal.
#[test]
fn every_type_matches_its_golden_file() {
    let events = one_of_each();
    assert_eq!(events.len(), Event::TYPES.len(), "one example of each type");
    for event in events {
        let envelope = envelope(event);
        let path = golden(envelope.event.kind(), envelope.event.version());
        let json = encode(&envelope).unwrap() + "\n";
        if std::env::var_os("UPDATE_EXPECT").is_some() && !path.exists() {
            // A released golden file is never rewritten: a new form needs a new version and an upcaster.
            std::fs::write(&path, &json).unwrap();
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(stored, json, "{}", path.display());
        assert_eq!(decode(stored.as_bytes()).unwrap(), Decoded::Known(Box::new(envelope)));
    }
}

/// A deletion names its drop since a later release; what was written before stays as it was.
#[test]
fn a_deletion_with_its_drop_matches_its_golden_file() {
    let deleted = RecordingDeleted { by: "api".into(), drop_id: Some("1-0".into()) };
    check_golden("RecordingDeleted.with_drop", deleted);
}

fn check_golden(name: &str, event: impl Into<Event>) {
    let envelope = envelope(event.into());
    let path = golden(name, 1);
    let stored = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(stored, encode(&envelope).unwrap() + "\n");
    assert_eq!(decode(stored.as_bytes()).unwrap(), Decoded::Known(Box::new(envelope)));
}

/// Options of decoding, detected speech and what of it has no text came later; without them both stayed as they were.
#[test]
fn a_segment_with_all_that_was_added_matches_its_golden_file() {
    let pairs = |pairs: &[(u64, u64)]| pairs.iter().map(|&pair| pair.into()).collect();
    for event in one_of_each() {
        match event {
            Event::SegmentCut(mut cut) => {
                cut.settings.decoding = Decoding {
                    beam_size: 5,
                    hotwords: Some("Ana".into()),
                    word_timestamps: true,
                    no_speech_threshold: None,
                    ..Decoding::default()
                };
                cut.speech = pairs(&[(192, 2_304), (2_768, 5_008)]);
                check_golden("SegmentCut.with_speech", cut);
            }
            Event::SegmentTranscribed(mut segment) => {
                (segment.coverage, segment.gaps) = (0.75, pairs(&[(3_000, 4_500)]));
                check_golden("SegmentTranscribed.with_gaps", segment);
            }
            _ => {}
        }
    }
}

/// Each golden file ever released decodes, whatever the newest version is.
#[test]
fn every_golden_file_decodes() {
    let folder = golden("x", 1).parent().unwrap().to_owned();
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let decoded = decode(&std::fs::read(&path).unwrap());
        assert!(matches!(decoded, Ok(Decoded::Known(_))), "{}: {decoded:?}", path.display());
        seen += 1;
    }
    assert!(seen >= Event::TYPES.len());
}

#[test]
fn unknown_types_and_newer_versions_are_values() {
    let json = encode(&envelope(one_of_each().remove(2))).unwrap();
    let unknown = json.replace("RecordingDeleted", "RecordingSummarised");
    assert_eq!(
        decode(unknown.as_bytes()).unwrap(),
        Decoded::UnknownType { kind: "RecordingSummarised".into() }
    );
    let newer = json.replace("\"version\":1", "\"version\":2").replace("\"by\":\"api\"", "\"x\":1");
    assert_eq!(
        decode(newer.as_bytes()).unwrap(),
        Decoded::NewerVersion { kind: "RecordingDeleted".into(), version: 2 }
    );
}

#[test]
fn a_lean_event_is_the_event_without_its_spans() {
    for event in one_of_each() {
        let mut envelope = envelope(event);
        let json = encode(&envelope).unwrap();
        let lean = decode_lean(&json).unwrap();
        if let Event::SegmentTranscribed(segment) = &mut envelope.event {
            let spans = std::mem::take(&mut segment.spans);
            assert_eq!(lean.spans, Some(&*serde_json::to_string(&spans).unwrap()));
        } else {
            assert_eq!(lean.spans, None);
        }
        assert_eq!((lean.decoded, lean.version), (Decoded::Known(Box::new(envelope)), 1));
    }
    let segment = one_of_each().into_iter().find(|event| event.kind() == "SegmentTranscribed").unwrap();
    let json = encode(&envelope(segment)).unwrap();
    for other in [
        json.replace("SegmentTranscribed", "SegmentSung"),
        json.replace("\"version\":1", "\"version\":2"),
        json.replace("\"spans\"", "\"spams\""),
        json.replace("\"index\":2", "\"index\":-2"),
    ] {
        match (decode_lean(&other), decode(other.as_bytes())) {
            (Ok(lean), whole) => assert_eq!((lean.decoded, lean.spans), (whole.unwrap(), None)),
            (Err(lean), whole) => assert_eq!(lean.to_string(), whole.unwrap_err().to_string()),
        }
    }
}

#[test]
fn malformed_bytes_are_errors() {
    let json = encode(&envelope(one_of_each().remove(2))).unwrap();
    for bad in
        ["", "{}", "[]", "\u{0}", &json[..json.len() - 1], &json.replace("\"shard\":3", "\"shard\":\"x\"")]
    {
        assert!(matches!(decode(bad.as_bytes()), Err(CodecError::Malformed(_))), "{bad}");
    }
    assert!(matches!(decode(b"\xff\xfe"), Err(CodecError::Malformed(_))));
}

#[test]
fn work_that_cannot_be_read_ends_what_its_head_names() {
    let cause = || Cause::new("malformed_event", "it makes no sense");
    let ended = |json: &str| end_unreadable(json.as_bytes(), "infer", cause(), 1);
    let cut = one_of_each().into_iter().find(|event| event.kind() == "SegmentCut").unwrap();
    let cut = encode(&envelope(cut)).unwrap();
    let torn = cut.replace("\"lane\":\"replay\"", "\"lane\":\"fast\"");
    assert!(decode(torn.as_bytes()).is_err());
    let failed = ended(&torn).unwrap();
    let Event::SegmentFailed(segment) = &failed.event else { panic!("{failed:?}") };
    assert_eq!((segment.channel, segment.index, segment.start_ms, segment.end_ms), (0, 2, 1_000, 6_200));
    assert_eq!(
        (failed.seq, failed.recording, failed.causation_id.is_some()),
        (None, envelope(one_of_each().remove(0)).recording, true)
    );
    let unknown = ended(&cut.replace("SegmentCut", "SegmentDreamt")).unwrap();
    assert!(matches!(unknown.event, Event::RecordingFailed(_)), "{unknown:?}");
    for bad in ["", "{}", "null", &cut[..cut.len() - 1]] {
        assert_eq!(ended(bad), None, "{bad}");
    }
}

#[test]
fn a_field_added_later_is_ignored_by_this_release() {
    let json = encode(&envelope(one_of_each().remove(2))).unwrap();
    let json = json.replace("\"by\":\"api\"", "\"by\":\"api\",\"ticket\":9");
    assert!(matches!(decode(json.as_bytes()), Ok(Decoded::Known(_))));
}

#[test]
fn an_event_over_the_limit_is_refused() {
    let event = RecordingDeleted { by: "x".repeat(MAX_EVENT_BYTES), drop_id: None };
    assert!(matches!(encode(&envelope(event.into())), Err(CodecError::TooLarge { .. })));
}

/// Steps run in order from the stored version on, and only for their own type.
#[test]
fn upcasters_run_from_the_stored_version() {
    fn rename(mut payload: Value) -> Value {
        if let Some(who) = payload.as_object_mut().and_then(|o| o.remove("who")) {
            payload["by"] = who;
        }
        payload
    }
    fn never(_: Value) -> Value {
        Value::Null
    }
    let steps = [
        Upcaster { kind: "RecordingDeleted", from: 0, step: never },
        Upcaster { kind: "RecordingFailed", from: 1, step: never },
        Upcaster { kind: "RecordingDeleted", from: 1, step: rename },
    ];
    let json = encode(&envelope(one_of_each().remove(2))).unwrap().replace("\"by\"", "\"who\"");
    let (Decoded::Known(envelope), 1) = decode_with(json.as_bytes(), &steps).unwrap() else {
        panic!("known type")
    };
    assert_eq!(envelope.event, Event::RecordingDeleted(RecordingDeleted { by: "api".into(), drop_id: None }));
}

#[test]
fn a_following_event_keeps_place_and_trace() {
    let first = envelope(one_of_each().remove(0));
    let at: Timestamp = "2026-01-02T03:04:06Z".parse().unwrap();
    let next = first.follow(RecordingDeleted { by: "api".into(), drop_id: None }.into(), at);
    assert_eq!(next.causation_id, Some(first.event_id));
    assert_eq!((next.recording, next.trace.clone(), next.seq), (first.recording, first.trace, None));
    assert_eq!((next.submitted_at, next.occurred_at), (first.submitted_at, at));
}

/// Identities are compared across releases: these must never change.
#[test]
fn a_following_event_is_named_after_its_cause_and_segment() {
    let mut first = envelope(one_of_each().remove(0));
    first.event_id = EventId::from(uuid::Uuid::from_u128(7));
    for (kind, id) in [
        ("RecordingDecoded", "2af1158a-59d8-57c3-951e-55a6503b8330"),
        ("RecordingFailed", "f056ce61-6af5-565b-9b18-d69ee130667f"),
        ("SegmentCut", "bbca6514-3982-563e-9fa5-2f29cf482fae"),
        ("SegmentTranscribed", "dcea78fc-8c66-5ee5-8d93-a6c59ea9a5b1"),
        ("SegmentFailed", "1632c92d-25e2-5d09-a3d5-e5e0fff27464"),
        ("GenerationActivated", "d13aa835-aaea-5a74-bed1-5e175ac1b0e9"),
    ] {
        let event = one_of_each().into_iter().find(|event| event.kind() == kind).unwrap();
        assert_eq!(first.follow(event, first.occurred_at).event_id.to_string(), id, "{kind}");
    }
}

#[test]
fn the_next_round_of_a_transcription_keeps_its_place_and_has_one_identity() {
    let dead = Envelope { seq: Some(7), ..envelope(one_of_each().remove(0)) };
    let request = one_of_each().into_iter().find(|event| event.kind() == "TranscriptionRequested").unwrap();
    let again = dead.in_next_round(request.clone());
    assert_eq!((again.round, again.seq), (dead.round + 1, None));
    assert_eq!((again.causation_id, again.event.clone()), (Some(dead.event_id), request.clone()));
    let place = |of: &Envelope| (of.recording, of.shard, of.generation, of.submitted_at, of.trace.clone());
    assert_eq!(place(&again), place(&dead));
    assert_eq!(dead.in_next_round(request.clone()).event_id, again.event_id, "done twice it is the same");
    assert_ne!(again.in_next_round(request.clone()).event_id, again.event_id, "each round is another");
    let other = Envelope { event_id: EventId::from(uuid::Uuid::from_u128(8)), ..dead.clone() };
    assert_eq!(other.in_next_round(request.clone()).event_id, again.event_id, "whichever event of it died");
    let other = Envelope { generation: dead.generation + 1, ..dead.clone() };
    assert_ne!(other.in_next_round(request.clone()).event_id, again.event_id, "another transcription");
    // Compared across releases: this must never change.
    let dead = Envelope { round: 2, ..dead };
    assert_eq!(dead.in_next_round(request).event_id.to_string(), "41875cfd-866b-5aff-9c9b-079861929a8a");
}
