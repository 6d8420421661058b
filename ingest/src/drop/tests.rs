use bytes::Bytes;
use events::Lane;
use expect_test::{Expect, expect};
use streams::Source;

use super::*;

fn entry(fields: &[(&str, &[u8])]) -> Entry {
    let fields =
        fields.iter().map(|(name, value)| ((*name).to_owned(), Bytes::copy_from_slice(value))).collect();
    let id = "1767000000000-0".to_owned();
    Entry { source: Source::Ingest(Lane::Batch), id, fields, deliveries: 1, attempts: 0 }
}

fn check_mistakes(fields: &[(&str, &[u8])], then: Expect) {
    then.assert_eq(&read(&entry(fields)).mistakes.join("\n"));
}

#[test]
fn every_field_is_read() {
    let fields: [(&str, &[u8]); 20] = [
        ("uri", b"s3://bucket/a%20b.mp3"),
        ("drop", b"call-17_a"),
        ("name", "Gespräch.mp3".as_bytes()),
        ("tenant", b"acme"),
        ("key", b"k 1"),
        ("language", b"de"),
        ("task", b"translate"),
        ("model", b"base"),
        ("prompt", b"one\ntwo"),
        ("channels", b"each"),
        ("temperature", b"0, 0.4"),
        ("beam_size", b"5"),
        ("hotwords", "Zé".as_bytes()),
        ("word_timestamps", b"true"),
        ("log_prob_threshold", b"none"),
        ("sha256", &[b'a'; 64]),
        ("trace", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("meta.call", b"7"),
        ("meta.Agent Name", b""),
        ("colour", b"red"),
    ];
    let Read { head, wishes, order, mistakes, unknown } = read(&entry(&fields));
    assert_eq!(mistakes, [""; 0]);
    assert_eq!(unknown, ["\"colour\""]);
    assert_eq!((head.id.as_str(), head.name.as_deref()), ("call-17_a", Some("Gespräch.mp3")));
    assert_eq!(head.tenant.as_str(), "acme");
    assert!(head.trace.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{}", head.trace);
    let order = order.unwrap();
    assert_eq!(order.origin, Origin::Uri("s3://bucket/a%20b.mp3".parse().unwrap()));
    assert_eq!((order.key.as_deref(), order.sha256), (Some("k 1"), Some([0xaa; 32])));
    let metadata =
        [("Agent Name", ""), ("call", "7")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(order.metadata, BTreeMap::from(metadata));
    let text = |value: &str| Some(value.to_owned());
    let expected = Wishes {
        model: text("base"),
        language: text("de"),
        task: text("translate"),
        prompt: text("one\ntwo"),
        channels: text("each"),
        temperature: text("0, 0.4"),
        decoding: Decoding {
            beam_size: 5,
            hotwords: text("Zé"),
            word_timestamps: true,
            log_prob_threshold: None,
            ..Decoding::default()
        },
    };
    assert_eq!(wishes, expected);
}

#[test]
fn what_is_empty_is_not_given() {
    let fields: [(&str, &[u8]); 6] =
        [("audio", b"x"), ("drop", b""), ("tenant", b""), ("language", b""), ("key", b""), ("uri", b"")];
    let Read { head, wishes, order, mistakes, .. } = read(&entry(&fields));
    assert_eq!(mistakes, [""; 0]);
    assert_eq!((head.id.as_str(), head.tenant.as_str()), ("1767000000000-0", "default"));
    let order = order.unwrap();
    assert_eq!((wishes, order.key), (Wishes::default(), None));
    assert!(TraceContext::parse(&head.trace).is_some(), "a drop without a trace begins one");
}

#[test]
fn what_is_handed_in_again_keeps_its_time() {
    let now = events::now();
    let at = |said: &str| {
        let Read { head, mistakes, .. } = read(&entry(&[("audio", b"x"), ("submitted_at", said.as_bytes())]));
        (head.at, mistakes)
    };
    let hour_ago = now - jiff::SignedDuration::from_hours(1);
    let (kept, mistakes) = at(&hour_ago.to_string());
    assert_eq!((kept.as_millisecond(), mistakes.len()), (hour_ago.as_millisecond(), 0));
    // Tables are cut by that time: nobody has it lie where no drop can be from.
    for odd in ["1970-01-01T00:00:00Z", "2999-01-01T00:00:00Z"] {
        let (taken, mistakes) = at(odd);
        assert!(taken >= now && mistakes.is_empty(), "{taken}, the time of reading");
    }
    assert_eq!(at("yesterday").1, ["submitted_at: is not a time like 2026-02-03T04:05:06Z"]);
}

#[test]
fn drops_of_the_two_queues_never_have_one_name() {
    let rt = |fields: &[(&str, &[u8])]| Entry { source: Source::Ingest(Lane::Rt), ..entry(fields) };
    assert_eq!(read(&rt(&[("audio", b"x")])).head.id, "rt-1767000000000-0");
    assert_eq!(read(&rt(&[("audio", b"x"), ("drop", b"mine")])).head.id, "mine");
}

#[test]
fn a_drop_names_its_own_stored_audio_and_its_hash() {
    let sha256: (&str, &[u8]) = ("sha256", &[b'0'; 64]);
    let own = read(&entry(&[("drop", b"d"), ("uri", b"store:incoming/d/audio"), sha256]));
    assert_eq!(own.order.unwrap().origin, Origin::Store(Key::parse("incoming/d/audio").unwrap()));
    check_mistakes(
        &[("drop", b"d"), ("uri", b"store:incoming/e/audio"), sha256],
        expect!["uri: store:incoming/e/audio is not this drop's own audio; only store:incoming/d/audio is"],
    );
    check_mistakes(
        &[("drop", b"d"), ("uri", b"store:default/0f0f"), sha256],
        expect!["uri: store:default/0f0f is not this drop's own audio; only store:incoming/d/audio is"],
    );
    check_mistakes(
        &[("drop", b"d"), ("uri", b"store:incoming/d/audio")],
        expect!["sha256: is needed with a store: uri, to know the audio again after a restart"],
    );
}

#[test]
fn mistakes_say_what_to_do() {
    check_mistakes(
        &[
            ("audio", b"x"),
            ("audio", b"y"),
            ("drop", b"../up"),
            ("name", b"bad\0name"),
            ("tenant", b"incoming"),
            ("language", b"\xff\xfe"),
            ("meta.", b"x"),
            ("meta.big", &[b'x'; 20_000]),
            ("prompt", &[b'x'; 9_000]),
        ],
        expect![[r#"
            "audio": is given more than once; give it once
            drop: takes letters, digits, '-' and '_' only
            tenant: "incoming" is a reserved name; choose another
            name: holds the control character '\0'; leave it out
            language: is not UTF-8 text
            prompt: has 9000 bytes; keep it under 8192
            meta.: needs a name behind the dot
            "meta.big": has 20000 bytes; keep it under 16384
            meta.*: all of it together has 20004 bytes; keep it under 16384"#]],
    );
    check_mistakes(
        &[
            ("audio", b"x"),
            ("beam_size", b"40"),
            ("beam_size", b"2"),
            ("patience", b"\xff"),
            ("hotwords", &[b'x'; 1025]),
            ("prefix", b"a\x07b"),
            ("word_timestamps", b"perhaps"),
            ("no_speech_threshold", b"1.5"),
            ("condition_on_previous_text", b"false"),
            ("condition_across_segments", b"true"),
        ],
        expect![[r#"
            "beam_size": is given more than once; give it once
            beam_size: is "40"; expected a whole number from 1 to 16
            patience: is not UTF-8 text
            hotwords: has 1025 bytes; at most 1024 are taken, and the model has room for a few hundred words
            prefix: holds the control character '\u{7}'; leave it out
            word_timestamps: is "perhaps"; expected true or false
            no_speech_threshold: is "1.5"; expected a number from 0 to 1, or none to switch the test off
            condition_across_segments: needs condition_on_previous_text, which is switched off: leave one of them out"#]],
    );
    check_mistakes(
        &[("uri", b"talk.mp3")],
        expect![[
            r#"uri: "talk.mp3" is not a uri (relative URL without a base); write it like file:///srv/audio/talk.mp3"#
        ]],
    );
    check_mistakes(
        &[("drop", &[b'd'; 129]), ("audio", b"x")],
        expect!["drop: has 129 bytes; keep it under 128"],
    );
}

#[test]
fn even_a_bad_drop_can_be_answered() {
    let head = read(&entry(&[("drop", b"a b"), ("name", b"a\x07\x1b[2Jb"), ("tenant", b"a/b")])).head;
    assert_eq!((head.id.as_str(), head.name.as_deref()), ("1767000000000-0", Some("a[2Jb")));
    assert_eq!(head.tenant, Tenant::default());
}
