//! Lists, transcripts and search.

use std::collections::BTreeSet;

use events::{Cause, Lane};
use expect_test::expect;
use warp::http::StatusCode;

use crate::support::*;

#[test]
fn transcripts_are_read_in_every_format() {
    with_world(|world| async move {
        world.post_form("/v1/recordings", b"RIFF", &[]).await;
        let recording = world.complete_next(Lane::Batch, &["hello there", "and good bye"]).await.recording;
        let read = async |format: &str| {
            let reply = world.get(&format!("/v1/recordings/{recording}/transcript?format={format}")).await;
            assert_eq!(reply.header("x-voiceforge-status"), "complete");
            format!("{}\n{}", reply.header("content-type"), reply.text)
        };
        expect![[r#"
            text/plain; charset=utf-8
            hello there and good bye
        "#]]
        .assert_eq(&read("text").await);
        expect![[r#"
            application/x-subrip; charset=utf-8
            1
            00:00:00,000 --> 00:00:04,000
            hello there

            2
            00:00:05,000 --> 00:00:09,000
            and good bye

        "#]]
        .assert_eq(&read("srt").await);
        expect![[r#"
            text/vtt; charset=utf-8
            WEBVTT

            00:00:00.000 --> 00:00:04.000
            hello there

            00:00:05.000 --> 00:00:09.000
            and good bye

        "#]]
        .assert_eq(&read("vtt").await);
        let json = world.get(&format!("/v1/recordings/{recording}/transcript")).await.json();
        assert_eq!(json["text"], "hello there and good bye");
        assert_eq!((json["segments"].as_array().unwrap().len(), &json["generation"]), (2, &0.into()));

        let refused = async |query: &str| {
            world.get(&format!("/v1/recordings/{recording}/transcript?{query}")).await.error()
        };
        expect![[r#"400 invalid_request_error invalid_value format: `format` cannot be used: "pdf" is not a format: json, text, srt or vtt; `generation` is "-1"; expected a whole number from 0 to 4294967295"#]]
            .assert_eq(&refused("format=pdf&generation=-1").await);
        assert!(
            refused("generation=7")
                .await
                .starts_with("404 invalid_request_error not_found -: generation 7 of recording")
        );
    });
}

#[test]
fn a_failed_recording_tells_why_it_has_no_transcript() {
    with_world(|world| async move {
        world.post_form("/v1/recordings", b"RIFF", &[]).await;
        let drop = world.next_drop(Lane::Batch).await.unwrap();
        let admitted = world.admit(&drop).await;
        world.fail(&admitted, Cause::new("unsupported_codec", "cannot decode AMR; convert it to wav")).await;
        let url = format!("/v1/recordings/{}", admitted.recording);
        let told = world.get(&url).await.json();
        assert_eq!(
            (&told["status"], &told["reason"]["code"]),
            (&"failed".into(), &"unsupported_codec".into())
        );
        expect!["409 invalid_request_error no_transcript -: there is no transcript, the recording is failed: cannot decode AMR; convert it to wav (unsupported_codec)"]
            .assert_eq(&world.get(&format!("{url}/transcript?format=srt")).await.error());
        let json = world.get(&format!("{url}/transcript")).await.json();
        assert_eq!(
            (&json["status"], &json["text"]),
            (&"failed".into(), &"".into()),
            "the document says it itself"
        );
    });
}

#[test]
fn lists_come_in_pages_without_gaps_or_repeats() {
    with_world(|world| async move {
        let mut all = BTreeSet::new();
        for n in 0..7 {
            let name = if n % 2 == 0 { "even.wav" } else { "odd.wav" };
            world.post_form("/v1/recordings", format!("RIFF{n}").as_bytes(), &[("name", name)]).await;
            let drop = world.next_drop(Lane::Batch).await.unwrap();
            let admitted = world.admit(&drop).await;
            if n < 2 {
                world.decode(&admitted, 0).await;
            }
            all.insert(admitted.recording.to_string());
        }
        let (mut seen, mut sizes, mut cursor) = (Vec::new(), Vec::new(), String::new());
        loop {
            let page = world.get(&format!("/v1/recordings?limit=3{cursor}")).await.json();
            let items = page["items"].as_array().unwrap().clone();
            sizes.push(items.len());
            seen.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(sizes, [3, 3, 1]);
        assert_eq!(seen.iter().cloned().collect::<BTreeSet<_>>(), all);
        assert_eq!(seen.len(), 7);

        let count = async |query: &str| {
            let reply = world.get(&format!("/v1/recordings?{query}")).await;
            reply.json()["items"].as_array().unwrap_or_else(|| panic!("{}", reply.text)).len()
        };
        assert_eq!(count("status=complete").await, 2);
        assert_eq!(count("status=queued").await, 5);
        assert_eq!(count("name=EVEN").await, 4);
        assert_eq!(count("name=even&status=complete").await, 1);
        assert_eq!(count("from=2020-01-01T00:00:00Z&tenant=default").await, 7);
        assert_eq!(count("until=2020-01-01T00:00:00Z").await, 0);
        expect![[r#"403 invalid_request_error other_tenant tenant: this key reads recordings of default only, not of acme"#]]
            .assert_eq(&world.get("/v1/recordings?tenant=acme").await.error());
        let refused = world.get("/v1/recordings?limit=201&cursor=x&status=done&from=yesterday&sort=up").await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        for name in ["`limit`", "`cursor`", "`status`", "`from`", "`sort`"] {
            assert!(refused.error().contains(name), "{name}: {}", refused.text);
        }
    });
}

#[test]
fn search_finds_words_with_times_and_marks() {
    with_world(|world| async move {
        world.post_form("/v1/recordings", b"RIFF", &[("name", "one")]).await;
        let recording = world
            .complete_next(Lane::Batch, &["the quick brown fox", "jumps over lazy & tired dogs"])
            .await
            .recording;
        let found = world.get("/v1/search?q=dog").await.json();
        let hit = &found["items"][0];
        assert_eq!(hit["recording_id"], recording.to_string());
        assert_eq!((&hit["start_ms"], &hit["name"]), (&5000.into(), &"one".into()));
        assert_eq!(hit["segment"], format!("{recording}:0:0:1"));
        expect!["jumps over lazy &amp; tired <mark>dogs</mark>"].assert_eq(hit["snippet"].as_str().unwrap());
        assert_eq!(world.get("/v1/search?q=cat").await.json()["items"].as_array().unwrap().len(), 0);
        assert_eq!(
            world.get(&format!("/v1/search?q=fox&recording={recording}")).await.json()["items"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
        for odd in ["%00", "'", "%22", "((", "-", "%F0%9F%8E%A4", "a%20%26%20!%20%7C"] {
            assert_eq!(world.get(&format!("/v1/search?q={odd}")).await.status, StatusCode::OK, "{odd}");
        }
        expect!["400 invalid_request_error invalid_value q: `q` is missing: the words to look for"]
            .assert_eq(&world.get("/v1/search").await.error());
    });
}

#[test]
fn backlog_and_models_are_told() {
    with_world(|world| async move {
        world.post_form("/v1/recordings", b"RIFF", &[]).await;
        world.post_form("/v1/recordings", b"RIFF2", &[("lane", "rt")]).await;
        tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
        let backlog = world.get("/v1/backlog").await.json();
        assert_eq!(backlog["total"]["entries"], 2);
        assert_eq!(backlog["queues"].as_array().unwrap().len(), 8);
        let models = world.get("/v1/models").await.json();
        assert_eq!((&models["object"], &models["data"][0]["id"]), (&"list".into(), &"base".into()));
        assert_eq!(models["data"][1]["languages"], serde_json::json!(["en"]));
    });
}
