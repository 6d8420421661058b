//! Dropping audio, and finding again what became of it.

use events::{Cause, Lane, Manifest};
use expect_test::expect;
use streams::{DropOutcome, Log};
use warp::http::StatusCode;

use crate::support::*;

#[test]
fn a_form_becomes_a_drop_with_all_its_fields() {
    with_world(|world| async move {
        let fields = [
            ("name", "Talk one"),
            ("language", "DE"),
            ("model", "base"),
            ("task", "translate"),
            ("prompt", "Ana"),
            ("temperature", "0.2"),
            ("channels", "each"),
            ("meta.call", "7"),
            ("lane", "rt"),
        ];
        let reply = world
            .request("POST", "/v1/recordings")
            .form(b"RIFFaudio", &fields)
            .header("idempotency-key", "k1")
            .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
            .send()
            .await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.text);
        let told = reply.json();
        let drop_id = told["drop_id"].as_str().unwrap().to_owned();
        assert_eq!(told["status"], "queued");
        assert_eq!(told["url"], format!("/v1/recordings/{drop_id}"));
        assert_eq!(reply.header("location"), told["url"]);

        let drop = world.next_drop(Lane::Rt).await.expect("it is in the queue");
        let shown: Vec<String> = drop.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let shown = shown.join("\n").replace(&drop_id, "DROP");
        let trace = &drop["trace"];
        assert!(
            trace.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"),
            "the caller's trace goes on: {trace}"
        );
        expect![[r#"
            channels=each
            drop=DROP
            key=k1
            language=de
            meta.call=7
            model=base
            name=Talk one
            prompt=Ana
            sha256=cb3a4e713f0f32319ecaea5bfd12df7f00e31852e26282f08b7f5dc5a0af2d63
            submitted_at=AT
            task=translate
            temperature=0.2
            tenant=default
            trace=TRACE
            uri=store:incoming/DROP/audio"#]]
        .assert_eq(&shown.replace(trace.as_str(), "TRACE").replace(&drop["submitted_at"], "AT"));

        assert_eq!(world.stored_bytes(&Manifest::audio_key(&drop_id)).await, b"RIFFaudio");
        let manifest = Manifest::from_json(&world.stored_bytes(&Manifest::key(&drop_id)).await).unwrap();
        assert_eq!(drop["submitted_at"], manifest.submitted_at.to_string());
        assert_eq!(
            (manifest.fields, manifest.lane),
            (drop, Lane::Rt),
            "the queue can be filled again from it"
        );
    });
}

#[test]
fn a_raw_body_becomes_a_drop_too() {
    with_world(|world| async move {
        for content_type in ["audio/mpeg", "application/octet-stream", "application/x-www-form-urlencoded"] {
            let reply = world
                .request("POST", "/v1/recordings?name=a.mp3&meta.n=1")
                .header("content-type", content_type)
                .body(b"ID3")
                .send()
                .await;
            assert_eq!(reply.status, StatusCode::ACCEPTED, "{content_type}: {}", reply.text);
            let drop = world.next_drop(Lane::Batch).await.unwrap();
            assert_eq!((&*drop["name"], &*drop["meta.n"]), ("a.mp3", "1"));
        }
        let reply = world.request("POST", "/v1/recordings").body(b"ID3").send().await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "no content type at all");
    });
}

#[test]
fn what_became_of_a_drop_is_told_from_the_first_moment_on() {
    with_world(|world| async move {
        let told = world.post_form("/v1/recordings", b"RIFF", &[("meta.call", "7")]).await.json();
        let url = told["url"].as_str().unwrap().to_owned();
        let status = |reply: &Reply| reply.json()["status"].as_str().unwrap().to_owned();

        let reply = world.get(&url).await;
        assert_eq!(status(&reply), "queued");
        assert_eq!(
            (&reply.json()["name"], &reply.json()["metadata"]["call"]),
            (&"talk.wav".into(), &"7".into())
        );
        let reply = world.get(&format!("{url}/transcript")).await;
        expect!["409 invalid_request_error not_ready -: the recording waits in the queue; there is no transcript yet"]
            .assert_eq(&reply.error());

        let drop = world.next_drop(Lane::Batch).await.unwrap();
        let admitted = world.admit(&drop).await;
        let reply = world.get(&url).await;
        assert_eq!(status(&reply), "queued");
        assert_eq!(reply.json()["id"], admitted.recording.to_string(), "found by its drop");

        world.decode(&admitted, 2).await;
        world.transcribe(&admitted, 0, "hello there").await;
        let by_id = world.get(&format!("/v1/recordings/{}", admitted.recording)).await;
        assert_eq!(by_id.json(), world.get(&url).await.json(), "found by its own id");
        let progress = by_id.json()["progress"].clone();
        expect![[r#"{"audio_s":10.5,"decoded_s":10.5,"failed_segments":0,"segments":2,"share":0.5,"transcribed_s":5.0,"transcribed_segments":1}"#]]
            .assert_eq(&progress.to_string());

        world.transcribe(&admitted, 1, "and good bye").await;
        let reply = world.get(&url).await;
        assert_eq!(status(&reply), "complete");
        assert_eq!(reply.json()["progress"]["share"], 1.0);
    });
}

#[test]
fn a_refused_drop_tells_why() {
    with_world(|world| async move {
        let told = world.post_form("/v1/recordings", b"text", &[]).await.json();
        let drop = told["drop_id"].as_str().unwrap();
        let cause = Cause::new("not_audio", "this is text, not audio; send a sound file");
        let outcome = DropOutcome { recording: None, duplicate: false, cause: Some(cause) };
        world.log.set_drop_outcome(drop, &outcome).await.unwrap();
        let reply = world.get(&format!("/v1/recordings/{drop}")).await;
        assert_eq!(reply.json()["status"], "rejected");
        assert_eq!(reply.json()["reason"]["code"], "not_audio");
        let reply = world.get(&format!("/v1/recordings/{drop}/transcript")).await;
        expect!["409 invalid_request_error no_transcript -: there is no transcript, the recording is rejected: this is text, not audio; send a sound file (not_audio)"]
            .assert_eq(&reply.error());
    });
}

#[test]
fn a_repeat_is_found_to_be_the_first_recording() {
    with_world(|world| async move {
        world.post_form("/v1/recordings", b"RIFF", &[]).await;
        let first = world.complete_next(Lane::Batch, &["hello"]).await;
        let told = world.post_form("/v1/recordings", b"RIFF", &[]).await.json();
        let outcome = DropOutcome { recording: Some(first.recording), duplicate: true, cause: None };
        world.log.set_drop_outcome(told["drop_id"].as_str().unwrap(), &outcome).await.unwrap();
        let reply = world.get(told["url"].as_str().unwrap()).await;
        assert_eq!(reply.json()["id"], first.recording.to_string());
        assert_eq!(reply.json()["status"], "complete");
    });
}

#[test]
fn waiting_gives_the_end_or_how_far_it_is() {
    with_world(|world| async move {
        let waiting = {
            let world = world.clone();
            tokio::spawn(async move { world.post_form("/v1/recordings", b"RIFF", &[("wait", "20s")]).await })
        };
        world.complete_next(Lane::Batch, &["hello"]).await;
        let reply = waiting.await.unwrap();
        assert_eq!((reply.status, &reply.json()["status"]), (StatusCode::OK, &"complete".into()));

        let reply = world.post_form("/v1/recordings", b"RIFF2", &[("wait", "50ms")]).await;
        assert_eq!((reply.status, &reply.json()["status"]), (StatusCode::ACCEPTED, &"queued".into()));
        let url = reply.json()["url"].as_str().unwrap().to_owned();
        let waiting = {
            let world = world.clone();
            tokio::spawn(async move { world.get(&format!("{url}?wait=20s")).await })
        };
        world.complete_next(Lane::Batch, &["hello"]).await;
        assert_eq!(waiting.await.unwrap().json()["status"], "complete");
    });
}

#[test]
fn bad_uploads_are_answered_and_leave_nothing_behind() {
    with_limits(
        |limits| limits.upload.0 = 1000,
        |world| async move {
            let post = |body: Vec<u8>, content_type: &'static str| {
                world.request("POST", "/v1/recordings").header("content-type", content_type).body(body).send()
            };
            let form_type = "multipart/form-data; boundary=XX";

            expect![
                "400 invalid_request_error empty_file file: there is no audio: the file is empty (0 bytes)"
            ]
            .assert_eq(&post(Vec::new(), "audio/wav").await.error());
            expect![
                "400 invalid_request_error empty_file file: there is no audio: the file is empty (0 bytes)"
            ]
            .assert_eq(&post(form(b"", &[]), form_type).await.error());
            expect!["400 invalid_request_error upload_incomplete -: the form ends before its last boundary; send it again"]
            .assert_eq(&post(Vec::new(), form_type).await.error());
            expect!["413 invalid_request_error upload_too_large file: the upload is too large: 1110 bytes, and the limit is 1000 bytes (1kB). Send it compressed or in pieces; the operator sets the limit by VOICEFORGE_API_UPLOAD_LIMIT"]
            .assert_eq(&post(form(&[7; 1001], &[]), form_type).await.error());
            expect!["413 invalid_request_error upload_too_large file: the upload is too large: 1001 bytes, and the limit is 1000 bytes (1kB). Send it compressed or in pieces; the operator sets the limit by VOICEFORGE_API_UPLOAD_LIMIT"]
            .assert_eq(&world.request("POST", "/v1/recordings").header("content-length", "1001").body([7; 1001]).send().await.error());
            expect![[r#"415 invalid_request_error unsupported_media_type -: the body is "application/json"; expected audio or video, application/octet-stream, or multipart/form-data with the audio in the field `file`"#]]
            .assert_eq(&post(b"{}".to_vec(), "application/json").await.error());
            assert_eq!(
                post(b"hello".to_vec(), "text/plain; charset=utf-8").await.status,
                StatusCode::UNSUPPORTED_MEDIA_TYPE
            );

            let whole = form(b"RIFF", &[]);
            expect!["400 invalid_request_error upload_incomplete -: the form ends before its last boundary; send it again"]
            .assert_eq(&post(whole[..whole.len() - 6].to_vec(), form_type).await.error());
            let no_file =
                b"--XX\r\ncontent-disposition: form-data; name=\"name\"\r\n\r\nx\r\n--XX--\r\n".to_vec();
            expect!["400 invalid_request_error invalid_value file: `file` is missing: the form must have the audio in a field of that name"]
            .assert_eq(&post(no_file, form_type).await.error());
            let other_file = b"--XX\r\ncontent-disposition: form-data; name=\"audio\"; filename=\"a\"\r\n\r\nx\r\n--XX--\r\n".to_vec();
            expect!["400 invalid_request_error invalid_value audio: `audio` is a file; the audio goes in the field `file`"]
            .assert_eq(&post(other_file, form_type).await.error());
            let file = b"--XX\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nx\r\n"
                .to_vec();
            expect!["400 invalid_request_error invalid_value file: `file` is given more than once; send one file a request"]
            .assert_eq(&post([&file[..], &file, b"--XX--\r\n"].concat(), form_type).await.error());
            let long = "x".repeat(70_000);
            expect!["400 invalid_request_error invalid_value prompt: `prompt` is longer than 65536 bytes"]
                .assert_eq(&post(form(b"RIFF", &[("prompt", &long)]), form_type).await.error());

            expect![[r#"400 invalid_request_error invalid_value lane: `lane` cannot be used: "replay" is not a lane for new audio: rt or batch; `wait` is "soon"; expected a duration such as 30s or 2min; `nmae` is not a parameter here; there are `beam_size`, `best_of`, `channels`, `compression_ratio_threshold`, `condition_across_segments`, `condition_on_previous_text`, `hallucination_silence_threshold`, `hotwords`, `key`, `lane`, `language`, `length_penalty`, `log_prob_threshold`, `model`, `name`, `no_speech_threshold`, `patience`, `prefix`, `prompt`, `task`, `temperature`, `wait`, `without_timestamps`, `word_timestamps`"#]]
            .assert_eq(&world.post_form("/v1/recordings", b"RIFF", &[
                ("lane", "replay"), ("wait", "soon"), ("nmae", "x"),
            ]).await.error());
            expect![[r#"400 invalid_request_error invalid_value language: `language` is "de", which tiny.en does not know; `key` differs from the Idempotency-Key header; give one of them"#]].assert_eq(
                &world
                    .request("POST", "/v1/recordings")
                    .form(b"RIFF", &[("key", "a"), ("model", "tiny.en"), ("language", "de")])
                    .header("idempotency-key", "b")
                    .send()
                    .await
                    .error(),
            );

            assert_eq!(world.stored().await, [""; 0], "nothing stays in the audio store");
            assert!(world.next_drop(Lane::Batch).await.is_none(), "nothing came into the queue");
        },
    );
}

#[test]
fn what_is_not_there_is_404_in_the_same_shape() {
    with_world(|world| async move {
        expect![[r#"404 invalid_request_error not_found -: the recording "nope" does not exist"#]]
            .assert_eq(&world.get("/v1/recordings/nope").await.error());
        for odd in ["%00", "..%2F..%2Fetc", "00000000-0000-8000-8000-000000000000", "%F0%9F%8E%A4", "1-0"] {
            let reply = world.get(&format!("/v1/recordings/{odd}")).await;
            assert_eq!(reply.status, StatusCode::NOT_FOUND, "{odd}: {}", reply.text);
            assert!(reply.error().contains("not_found"), "{odd}");
        }
        expect!["404 invalid_request_error unknown_url -: there is no such URL; /openapi.json lists those there are"]
            .assert_eq(&world.get("/v1/nothing").await.error());
        let reply = world.request("PUT", "/v1/recordings").send().await;
        expect!["405 invalid_request_error method_not_allowed -: this URL does not take this method; /openapi.json lists what it takes"]
            .assert_eq(&reply.error());
        assert_eq!(reply.header("allow"), "POST, GET");
    });
}
