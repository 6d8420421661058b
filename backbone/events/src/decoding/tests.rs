use expect_test::{Expect, expect};

use super::*;

/// What options make of a default, as JSON; or what is wrong with each.
fn check(options: &[(&str, &str)], then: Expect) {
    let mut decoding = Decoding::default();
    let wrong = options
        .iter()
        .filter_map(|(field, text)| decoding.set(field, text).err().map(|why| format!("{field} {why}")));
    let wrong: Vec<String> = wrong.collect();
    let json = serde_json::to_string(&decoding).unwrap();
    if wrong.is_empty() {
        assert_eq!(serde_json::from_str::<Decoding>(&json).unwrap(), decoding);
    }
    then.assert_eq(&if wrong.is_empty() { json } else { wrong.join("\n") });
}

#[test]
fn only_what_differs_is_written() {
    check(&[], expect!["{}"]);
    assert!(Decoding::default().is_default());
    check(
        &[
            ("beam_size", "1"),
            ("best_of", "5"),
            ("patience", "1.0"),
            ("length_penalty", "none"),
            ("hotwords", " "),
            ("prefix", ""),
            ("condition_on_previous_text", "true"),
            ("condition_across_segments", "0"),
            ("word_timestamps", "false"),
            ("without_timestamps", "0"),
            ("compression_ratio_threshold", "2.4"),
            ("log_prob_threshold", "-1"),
            ("no_speech_threshold", "0.60"),
            ("hallucination_silence_threshold", "None"),
        ],
        expect!["{}"],
    );
}

#[test]
fn every_option_is_read() {
    let all = [
        ("beam_size", "5"),
        ("best_of", " 3 "),
        ("patience", "2"),
        ("length_penalty", "-0"),
        ("hotwords", " Zé, Ana\n"),
        ("prefix", "Dear"),
        ("condition_on_previous_text", "False"),
        ("condition_across_segments", "True"),
        ("word_timestamps", "1"),
        ("without_timestamps", "TRUE"),
        ("compression_ratio_threshold", "3"),
        ("log_prob_threshold", "-0.5"),
        ("no_speech_threshold", "1"),
        ("hallucination_silence_threshold", "2.5"),
    ];
    assert_eq!(all.map(|(field, _)| field), Decoding::FIELDS);
    check(
        &all,
        expect![[
            r#"{"beam_size":5,"best_of":3,"patience":2.0,"length_penalty":0.0,"hotwords":"Zé, Ana","prefix":"Dear","condition_on_previous_text":false,"condition_across_segments":true,"word_timestamps":true,"without_timestamps":true,"compression_ratio_threshold":3.0,"log_prob_threshold":-0.5,"no_speech_threshold":1.0,"hallucination_silence_threshold":2.5}"#
        ]],
    );
    check(
        &[
            ("compression_ratio_threshold", "none"),
            ("log_prob_threshold", "None"),
            ("no_speech_threshold", "NONE"),
        ],
        expect![[
            r#"{"compression_ratio_threshold":null,"log_prob_threshold":null,"no_speech_threshold":null}"#
        ]],
    );
}

#[test]
fn what_makes_no_sense_is_told() {
    check(
        &[
            ("beam_size", "0"),
            ("best_of", "17"),
            ("patience", "0"),
            ("length_penalty", "1.5"),
            ("hotwords", &"x".repeat(1025)),
            ("prefix", &"x".repeat(2000)),
            ("condition_on_previous_text", "yes"),
            ("condition_across_segments", "on"),
            ("word_timestamps", ""),
            ("without_timestamps", "2"),
            ("compression_ratio_threshold", "0"),
            ("log_prob_threshold", "0.5"),
            ("no_speech_threshold", "off"),
            ("hallucination_silence_threshold", "0"),
            ("beams", "5"),
        ],
        expect![[r#"
            beam_size is "0"; expected a whole number from 1 to 16
            best_of is "17"; expected a whole number from 1 to 16
            patience is "0"; expected a number above 0, at most 10
            length_penalty is "1.5"; expected a number from 0 to 1, or none to rank by the mean over the length
            hotwords has 1025 bytes; at most 1024 are taken, and the model has room for a few hundred words
            prefix has 2000 bytes; at most 1024 are taken, and the model has room for a few hundred words
            condition_on_previous_text is "yes"; expected true or false
            condition_across_segments is "on"; expected true or false
            word_timestamps is ""; expected true or false
            without_timestamps is "2"; expected true or false
            compression_ratio_threshold is "0"; expected a number above 0, at most 100, or none to switch the test off
            log_prob_threshold is "0.5"; expected a number from -100 to 0, or none to switch the test off
            no_speech_threshold is "off"; expected a number from 0 to 1, or none to switch the test off
            hallucination_silence_threshold is "0"; expected seconds above 0, at most 30, or none to skip no silence
            beams is no option of decoding; there are beam_size, best_of, patience, length_penalty, hotwords, prefix, condition_on_previous_text, condition_across_segments, word_timestamps, without_timestamps, compression_ratio_threshold, log_prob_threshold, no_speech_threshold, hallucination_silence_threshold"#]],
    );
    for field in [
        "patience",
        "length_penalty",
        "compression_ratio_threshold",
        "log_prob_threshold",
        "no_speech_threshold",
        "hallucination_silence_threshold",
    ] {
        for text in ["nan", "inf", "-inf", "1e40", "-101", "101", "five", "1,5"] {
            assert!(Decoding::default().set(field, text).is_err(), "{field} {text}");
        }
    }
    for field in ["beam_size", "best_of"] {
        for text in ["-1", "1.5", "", "ten", "99999999999"] {
            assert!(Decoding::default().set(field, text).is_err(), "{field} {text}");
        }
    }
    let long = Decoding::default().set("patience", &"9".repeat(500)).unwrap_err();
    assert!(long.len() < 150 && long.contains("..."), "{long}");
}

/// An option of a later release does not make settings unreadable.
#[test]
fn an_unknown_option_is_ignored() {
    let read: Decoding = serde_json::from_str(r#"{"beam_size":2,"temperature_increment":0.1}"#).unwrap();
    assert_eq!(read, Decoding { beam_size: 2, ..Decoding::default() });
}

#[test]
fn options_that_do_not_go_together_are_told() {
    let with = |previous, across| Decoding {
        condition_on_previous_text: previous,
        condition_across_segments: across,
        ..Decoding::default()
    };
    for (previous, across) in [(true, false), (true, true), (false, false)] {
        assert_eq!(with(previous, across).check(), Ok(()));
    }
    let (field, problem) = with(false, true).check().unwrap_err();
    expect!["condition_across_segments needs condition_on_previous_text, which is switched off: leave one of them out"]
        .assert_eq(&format!("{field} {problem}"));
}
