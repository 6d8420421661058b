//! OpenAI's endpoints.

use std::sync::Arc;

use events::{Cause, Lane};
use expect_test::expect;
use streams::{DropOutcome, Log};
use warp::http::StatusCode;

use crate::support::*;

const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";

/// Posts while the pipeline behind transcribes whatever comes.
async fn post(
    world: &Arc<World>,
    path: &'static str,
    file: &'static [u8],
    fields: &'static [(&str, &str)],
) -> Reply {
    let posting = {
        let world = world.clone();
        tokio::spawn(async move { world.post_form(path, file, fields).await })
    };
    let done = world.complete_next(Lane::Rt, &["hello there", "and good bye"]).await;
    let reply = posting.await.unwrap();
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(reply.header("x-voiceforge-recording"), done.recording.to_string());
    assert!(reply.header("openai-processing-ms").parse::<u64>().is_ok());
    reply
}

#[test]
fn every_response_format_is_openais() {
    with_world(|world| async move {
        let reply = post(&world, TRANSCRIPTIONS, b"1", &[("model", "whisper-1")]).await;
        expect![[
            r#"application/json {"text":"hello there and good bye","usage":{"type":"duration","seconds":11}}"#
        ]]
        .assert_eq(&format!("{} {}", reply.header("content-type"), reply.text));
        let reply =
            post(&world, TRANSCRIPTIONS, b"2", &[("model", "whisper-1"), ("response_format", "text")]).await;
        expect![[r#"
            text/plain; charset=utf-8 hello there and good bye
        "#]]
        .assert_eq(&format!("{} {}", reply.header("content-type"), reply.text));
        let reply =
            post(&world, TRANSCRIPTIONS, b"3", &[("model", "tiny.en"), ("response_format", "srt")]).await;
        assert!(reply.text.starts_with("1\n00:00:00,000 --> 00:00:04,000\nhello there\n"), "{}", reply.text);
        let reply =
            post(&world, TRANSCRIPTIONS, b"4", &[("model", "tiny.en"), ("response_format", "vtt")]).await;
        assert!(reply.text.starts_with("WEBVTT\n\n00:00:00.000"), "{}", reply.text);
        let fields = &[
            ("model", "base"),
            ("response_format", "verbose_json"),
            ("timestamp_granularities[]", "segment"),
            ("temperature", "0"),
            ("stream", "false"),
            ("include[]", "logprobs"),
            ("hotwords", "x"),
            ("hotwurds", "x"),
        ];
        let reply = post(&world, TRANSCRIPTIONS, b"5", fields).await;
        expect![[r#"{"task":"transcribe","language":"english","duration":10.5,"text":"hello there and good bye","segments":[{"id":0,"seek":0,"start":0.0,"end":4.0,"text":" hello there","tokens":[50363,1],"temperature":0.0,"avg_logprob":-0.25,"compression_ratio":0.9,"no_speech_prob":0.1},{"id":1,"seek":500,"start":5.0,"end":9.0,"text":" and good bye","tokens":[50363,1],"temperature":0.0,"avg_logprob":-0.25,"compression_ratio":0.9,"no_speech_prob":0.1}],"usage":{"type":"duration","seconds":11}}"#]]
            .assert_eq(&reply.text);
        assert_eq!(reply.header("x-voiceforge-ignored"), "stream, include, hotwurds");
    });
}

#[test]
fn words_have_times_where_they_are_asked_for() {
    with_world(|world| async move {
        let post = |fields: &'static [(&'static str, &'static str)]| {
            let world = world.clone();
            tokio::spawn(async move { world.post_form(TRANSCRIPTIONS, b"1", fields).await })
        };
        let next = async || loop {
            match world.next_drop(Lane::Rt).await {
                Some(drop) => break drop,
                None => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        };
        let both: &[(&str, &str)] = &[
            ("model", "tiny.en"),
            ("response_format", "verbose_json"),
            ("timestamp_granularities[]", "word"),
            ("timestamp_granularities[]", "segment"),
            ("beam_size", "5"),
        ];
        let posting = post(both);
        let drop = next().await;
        assert_eq!((&*drop["word_timestamps"], &*drop["beam_size"]), ("true", "5"));
        let admitted = world.admit(&drop).await;
        world.decode(&admitted, 1).await;
        world.transcribe_words(&admitted, 0, &["good", "day"]).await;
        let told = posting.await.unwrap().json();
        let words = serde_json::json!([{"word": "good", "start": 0.0, "end": 0.5}, {"word": "day", "start": 0.5, "end": 1.0}]);
        assert_eq!(told["words"], words);
        assert_eq!(told["segments"][0]["text"], " good day");

        let words: &[(&str, &str)] = &[
            ("model", "tiny.en"),
            ("response_format", "verbose_json"),
            ("timestamp_granularities[]", "word"),
        ];
        let posting = post(words);
        let admitted = world.admit(&next().await).await;
        world.decode(&admitted, 1).await;
        world.transcribe_words(&admitted, 0, &["good", "day"]).await;
        let told = posting.await.unwrap().json();
        assert_eq!((told["words"].as_array().map(Vec::len), told.get("segments")), (Some(2), None));
    });
}

#[test]
fn a_translation_asks_for_english() {
    with_world(|world| async move {
        let posting = {
            let world = world.clone();
            tokio::spawn(async move {
                world
                    .post_form(
                        "/v1/audio/translations",
                        b"1",
                        &[("model", "base"), ("response_format", "verbose_json")],
                    )
                    .await
            })
        };
        let drop = loop {
            match world.next_drop(Lane::Rt).await {
                Some(drop) => break drop,
                None => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        };
        assert_eq!((&*drop["task"], &*drop["model"]), ("translate", "base"));
        let admitted = world.admit(&drop).await;
        world.decode(&admitted, 1).await;
        world.transcribe(&admitted, 0, "good day").await;
        let reply = posting.await.unwrap();
        assert_eq!(
            (&reply.json()["task"], &reply.json()["language"]),
            (&"translate".into(), &"english".into())
        );
    });
}

#[test]
fn a_repeat_waits_for_the_work_under_way() {
    with_world(|world| async move {
        let post = || {
            let world = world.clone();
            tokio::spawn(
                async move { world.post_form(TRANSCRIPTIONS, b"1", &[("model", "whisper-1")]).await },
            )
        };
        let next = async || loop {
            match world.next_drop(Lane::Rt).await {
                Some(drop) => break drop,
                None => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        };
        let first = post();
        let drop = next().await;
        first.abort();
        let second = post();
        let repeat = next().await;
        assert!(
            !drop.contains_key("temperature") && !drop.contains_key("key"),
            "equal audio alone makes it equal"
        );
        let admitted = world.admit(&drop).await;
        let outcome = DropOutcome { recording: Some(admitted.recording), duplicate: true, cause: None };
        world.log.set_drop_outcome(&repeat["drop"], &outcome).await.unwrap();
        world.decode(&admitted, 1).await;
        world.transcribe(&admitted, 0, "once").await;
        let reply = second.await.unwrap();
        assert_eq!(reply.json()["text"], "once");
        assert_eq!(reply.header("x-voiceforge-recording"), admitted.recording.to_string());
    });
}

#[test]
fn bad_requests_are_400_with_all_that_is_wrong() {
    with_world(|world| async move {
        let refused =
            async |fields: &[(&str, &str)]| world.post_form(TRANSCRIPTIONS, b"1", fields).await.error();
        expect!["400 invalid_request_error invalid_value model: `model` is missing: whisper-1 for the default, or a model of /v1/models"]
            .assert_eq(&refused(&[]).await);
        expect![[r#"400 invalid_request_error invalid_value response_format: `response_format` is "diarized_json"; expected json, text, srt, vtt or verbose_json; `timestamp_granularities` is "letter"; expected segment or word; `timestamp_granularities` cannot be word here: words have times in response_format verbose_json alone; `model` is "gpt-4o-transcribe", which is not known here; there are base, tiny.en, and whisper-1 for the default; `temperature` is "2"; expected a number from 0 to 1"#]]
            .assert_eq(&refused(&[
                ("model", "gpt-4o-transcribe"), ("response_format", "diarized_json"), ("timestamp_granularities[]", "word"),
                ("timestamp_granularities[]", "letter"), ("temperature", "2"),
            ]).await);
        let reply = world
            .request("POST", TRANSCRIPTIONS)
            .header("content-type", "audio/wav")
            .body(b"RIFF")
            .send()
            .await;
        expect![[r#"415 invalid_request_error unsupported_media_type -: the body is "audio/wav"; expected multipart/form-data with the audio in the field `file`"#]]
            .assert_eq(&reply.error());
        assert_eq!(world.stored().await, [""; 0]);
    });
}

#[test]
fn what_ends_badly_is_not_tried_again() {
    with_world(|world| async move {
        let post = |file: &'static [u8]| {
            let world = world.clone();
            tokio::spawn(
                async move { world.post_form(TRANSCRIPTIONS, file, &[("model", "whisper-1")]).await },
            )
        };
        let next = async || loop {
            match world.next_drop(Lane::Rt).await {
                Some(drop) => break drop,
                None => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        };
        let rejected = post(b"1");
        let drop = next().await;
        let cause = Some(Cause::new("not_audio", "this is text, not audio"));
        world
            .log
            .set_drop_outcome(&drop["drop"], &DropOutcome { recording: None, duplicate: false, cause })
            .await
            .unwrap();
        let reply = rejected.await.unwrap();
        expect!["400 invalid_request_error not_audio file: this is text, not audio"]
            .assert_eq(&reply.error());
        assert_eq!(reply.header("x-should-retry"), "false");

        let undecodable = post(b"2");
        let admitted = world.admit(&next().await).await;
        world.fail(&admitted, Cause::new("unsupported_codec", "cannot decode AMR")).await;
        let reply = undecodable.await.unwrap();
        expect!["400 invalid_request_error unsupported_codec file: cannot decode AMR"]
            .assert_eq(&reply.error());

        let broken_model = post(b"3");
        let admitted = world.admit(&next().await).await;
        world.decode(&admitted, 1).await;
        world.fail_segment(&admitted, 0, Cause::new("inference_failed", "the model gave nothing")).await;
        let reply = broken_model.await.unwrap();
        expect!["500 server_error inference_failed -: the model gave nothing"].assert_eq(&reply.error());
        assert_eq!(reply.header("x-should-retry"), "false");
    });
}

#[test]
fn silence_is_an_empty_transcript() {
    with_world(|world| async move {
        let posting = {
            let world = world.clone();
            tokio::spawn(
                async move { world.post_form(TRANSCRIPTIONS, b"1", &[("model", "whisper-1")]).await },
            )
        };
        world.complete_next(Lane::Rt, &[]).await;
        let reply = posting.await.unwrap();
        assert_eq!((reply.status, &reply.json()["text"]), (StatusCode::OK, &"".into()));
    });
}

#[test]
fn a_late_result_is_said_to_go_on() {
    with_limits(
        |limits| limits.wait = std::time::Duration::from_millis(100),
        |world| async move {
            let reply = world.post_form(TRANSCRIPTIONS, b"1", &[("model", "whisper-1")]).await;
            assert!(
                reply.error().starts_with("504 server_error timeout -: the transcript was not there after"),
                "{}",
                reply.text
            );
            assert!(world.next_drop(Lane::Rt).await.is_some(), "the work goes on");
            assert_eq!(world.stored().await.len(), 2);
        },
    );
}
