//! Runs, and the transcriptions of a recording.

use events::{Activation, Lane, Shard};
use expect_test::expect;
use serde_json::{Value, json};
use streams::Source;
use warp::http::StatusCode;

use crate::support::*;

/// The facts that the API appended, as their types, with generation.
fn told(world: &World) -> Vec<String> {
    let mut told = Vec::new();
    for shard in (0..4).map(Shard) {
        for entry in world.log.entries(&Source::Log(shard).key(), Source::Log(shard)) {
            let event: Value = serde_json::from_str(entry.text("event").unwrap()).unwrap();
            told.push(format!("{} {}", event["type"].as_str().unwrap(), event["generation"]));
        }
    }
    told
}

#[test]
fn a_run_is_made_listed_told_and_cancelled() {
    with_world(|world| async move {
        world.post_form("/v1/recordings", b"RIFF", &[]).await;
        let admitted = world.complete_next(Lane::Batch, &["hello there"]).await;
        let body = json!({
            "model": "base", "language": "auto", "temperature": [0, 0.4], "activation": "manual", "rate": 2.5,
            "made_by": "tiny.en", "status": ["complete"], "ids": [admitted.recording.to_string()],
            "from": "2020-01-01T00:00:00Z", "beam_size": 5, "word_timestamps": true, "no_speech_threshold": "none",
            "log_prob_threshold": -0.5, "patience": null,
        });
        let dry = world.post("/v1/generations?dry_run=true", &body.to_string()).await;
        assert_eq!(
            (dry.status, dry.json()),
            (StatusCode::OK, json!({"dry_run":true,"recordings":1,"audio_s":10.5}))
        );
        assert_eq!(world.get("/v1/generations").await.json()["items"], json!([]), "a dry run makes nothing");

        let made = world.post("/v1/generations", &body.to_string()).await;
        assert_eq!(made.status, StatusCode::ACCEPTED, "{}", made.text);
        let run = made.json();
        assert_eq!(made.header("location"), run["url"].as_str().unwrap());
        assert_eq!(
            (&run["status"], &run["activation"], &run["rate"]),
            (&"queued".into(), &"manual".into(), &2.5.into())
        );
        assert_eq!(run["wishes"]["language"], "auto");
        assert_eq!(run["wishes"]["temperature"].as_array().unwrap().len(), 2);
        assert_eq!(
            run["wishes"]["decoding"],
            json!({"beam_size":"5","log_prob_threshold":"-0.5","no_speech_threshold":"none","word_timestamps":"true"})
        );
        assert_eq!((&run["progress"]["selected"], &run["progress"]["audio_s"]), (&1.into(), &10.5.into()));
        let url = run["url"].as_str().unwrap();
        assert_eq!(world.get(url).await.json()["id"], run["id"]);
        world.post("/v1/generations", "").await;
        let listed = world.get("/v1/generations?limit=1").await.json();
        assert_eq!(listed["items"][0]["selection"]["ids"], json!([]), "the newest first");
        let next = listed["next"].as_str().unwrap();
        let rest = world.get(&format!("/v1/generations?limit=1&cursor={next}")).await.json();
        assert_eq!((&rest["items"][0]["id"], &rest["next"]), (&run["id"], &Value::Null));

        let cancelled = world.post(&format!("{url}/cancel"), "").await;
        assert_eq!(
            (cancelled.status, &cancelled.json()["status"]),
            (StatusCode::ACCEPTED, &"cancelled".into())
        );
        let again = world.post(&format!("{url}/cancel"), "").await.error();
        assert!(again.starts_with("409 invalid_request_error already_ended -: run "), "{again}");
        let activated = world.post(&format!("{url}/activate"), "").await;
        assert_eq!((activated.status, &activated.json()["activating"]), (StatusCode::ACCEPTED, &true.into()));
        assert_eq!(world.get(&format!("{url}/compare")).await.json(), json!({"items":[],"next":null}));
    });
}

#[test]
fn every_mistake_in_a_run_is_told() {
    with_world(|world| async move {
        let refused = async |body: Value| world.post("/v1/generations", &body.to_string()).await.error();
        expect![[r#"
            400 invalid_request_error invalid_value from: `from` cannot be used: failed to parse four digit integer as year: invalid digit, expected 0-9 but got y
            `until` cannot be used: expected four digit year (or leading sign for six digit year), but found end of input
            `ids` cannot be used: "7" is not a recording id: a UUID such as 3fa1c0de-0000-8000-8000-000000000000
            `status` names queued; only complete, failed and cancelled recordings can be transcribed again
            `model` is "huge", which is not known here; there are base, tiny.en, and whisper-1 for the default
            `language` is "xx", which is not a language; expected an ISO 639-1 code such as en or de, or nothing to have it found
            `task` cannot be used: "sing" is not a task: transcribe or translate
            `temperature` is "hot"; expected up to 10 numbers from 0 to 1
            `channels` cannot be used: "left" is not a channels value: mix or each
            `beam_size` is "99"; expected a whole number from 1 to 16
            `word_timestamps` is "perhaps"; expected true or false
            `activation` cannot be used: "maybe" is not a activation policy: auto or manual
            `rate` is -1; expected hours of audio in an hour, above 0
            `dry_run` cannot be used: provided string was not `true` or `false`
            `sort` is not a parameter here; there are `activation`, `beam_size`, `best_of`, `channels`, `compression_ratio_threshold`, `condition_across_segments`, `condition_on_previous_text`, `dry_run`, `from`, `hallucination_silence_threshold`, `hotwords`, `ids`, `language`, `length_penalty`, `log_prob_threshold`, `made_by`, `model`, `no_speech_threshold`, `patience`, `prefix`, `prompt`, `rate`, `status`, `task`, `temperature`, `tenant`, `until`, `without_timestamps`, `word_timestamps`"#]].assert_eq(
            &refused(json!({
                "model": "huge", "language": "xx", "task": "sing", "temperature": ["hot"], "channels": "left",
                "activation": "maybe", "rate": -1, "ids": ["7"], "status": ["queued"], "from": "yesterday",
                "until": 5, "dry_run": "perhaps", "sort": "up", "beam_size": 99, "word_timestamps": "perhaps",
            }))
            .await
            .replace("; `", "\n`"),
        );
        expect![[r#"400 invalid_request_error invalid_value language: `language` is "de", which tiny.en does not know"#]].assert_eq(&refused(json!({"model": "tiny.en", "language": "de"})).await);
        expect!["400 invalid_request_error invalid_value until: `until` is not after `from`, so nothing is between"].assert_eq(
            &refused(json!({"from": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"})).await,
        );
        expect![[r#"400 invalid_request_error bad_body -: the field "select" is an object; all fields here are plain values or lists"#]].assert_eq(&refused(json!({"select": {"ids": []}})).await);
        expect!["400 invalid_request_error bad_body -: the body is not a JSON object: invalid type: sequence, expected a map at line 1 column 0"].assert_eq(&refused(json!(["base"])).await);
        let many = vec!["3fa1c0de-0000-8000-8000-000000000000"; 1001];
        expect!["400 invalid_request_error invalid_value ids: `ids` has 1001 ids; at most 1000 are taken"]
            .assert_eq(&refused(json!({"ids": many})).await);
        let large = world.post("/v1/generations", &" ".repeat(200_000)).await;
        assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", large.text);
        for path in ["/v1/generations/7", "/v1/generations/3fa1c0de-0000-8000-8000-000000000000/compare"] {
            let error = world.get(path).await.error();
            assert!(error.starts_with("404 invalid_request_error not_found -: the run "), "{error}");
        }
    });
}

#[test]
fn what_is_another_tenants_is_not_there() {
    with_world(|world| async move {
        let (acme, other) = (world.key("acme").await, world.key("other").await);
        world.request("POST", "/v1/recordings").key(&acme).form(b"RIFF", &[]).send().await;
        let admitted = world.complete_next(Lane::Batch, &["hello"]).await;
        world.another_generation(&admitted, 1, Activation::Manual, &["hallo"]).await;
        let post = async |path: &str, key: &str| world.request("POST", path).key(key).send().await;
        let made = post("/v1/generations", &acme).await.json();
        assert_eq!(made["progress"]["selected"], 1);
        assert_eq!(post("/v1/generations", &other).await.json()["progress"]["selected"], 0);
        let (run, recording) =
            (made["url"].as_str().unwrap(), format!("/v1/recordings/{}", admitted.recording));
        for path in [
            run.to_owned(),
            format!("{run}/compare"),
            format!("{recording}/compare"),
            format!("{recording}/generations"),
        ] {
            assert_eq!(world.get_with(&path, &other).await.status, StatusCode::NOT_FOUND, "{path}");
            assert_eq!(world.get_with(&path, &acme).await.status, StatusCode::OK, "{path}");
        }
        for path in [
            format!("{run}/cancel"),
            format!("{run}/activate"),
            format!("{recording}/cancel"),
            format!("{recording}/generations/1/activate"),
            format!("{recording}/generations/1/cancel"),
        ] {
            assert_eq!(post(&path, &other).await.status, StatusCode::NOT_FOUND, "{path}");
            assert_eq!(world.request("POST", &path).send().await.status, StatusCode::UNAUTHORIZED, "{path}");
        }
        assert!(told(&world).is_empty());
    });
}

#[test]
fn two_transcriptions_are_compared_and_one_is_chosen() {
    with_world(|world| async move {
        world.post_form("/v1/recordings", b"RIFF", &[]).await;
        let admitted = world.complete_next(Lane::Batch, &["the quick brown fox", "good bye"]).await;
        let url = format!("/v1/recordings/{}", admitted.recording);
        expect!["409 invalid_request_error nothing_to_compare -: recording ID has no two complete transcriptions to compare; POST /v1/generations makes another"].assert_eq(
            &world
                .get(&format!("{url}/compare"))
                .await
                .error()
                .replace(&admitted.recording.to_string(), "ID"),
        );
        world
            .another_generation(&admitted, 1, Activation::Manual, &["the quick red fox", "good bye now"])
            .await;
        let compared = world.get(&format!("{url}/compare")).await.json();
        assert_eq!((&compared["from"]["generation"], &compared["to"]["generation"]), (&0.into(), &1.into()));
        assert_eq!(
            (&compared["from"]["model"], &compared["to"]["model"]),
            (&"tiny.en".into(), &"base".into())
        );
        assert_eq!(
            compared["counts"],
            json!({"equal":5,"replaced":1,"inserted":1,"deleted":0,"rate":1.0 / 3.0})
        );
        let text = world.get(&format!("{url}/compare?from=1&to=0&format=text&width=60")).await;
        assert_eq!(text.header("content-type"), "text/plain; charset=utf-8");
        assert!(
            text.text.contains("\n   0:02  the quick [-red-] {+brown+} fox good bye [-now-]\n"),
            "{}",
            text.text
        );
        assert!(
            world
                .get(&format!("{url}/compare?to=7"))
                .await
                .error()
                .starts_with("404 invalid_request_error not_found -: generation 7 of")
        );
        let refused = world.get(&format!("{url}/compare?format=pdf&width=9&from=x")).await.error();
        for name in ["`format`", "`width`", "`from`"] {
            assert!(refused.contains(name), "{refused}");
        }

        let listed = world.get(&format!("{url}/generations")).await.json();
        assert_eq!((&listed["visible"], &listed["items"][1]["activation"]), (&0.into(), &"manual".into()));
        let activated = world.post(&format!("{url}/generations/1/activate"), "").await;
        assert_eq!((activated.status, &activated.json()["generations"]), (StatusCode::ACCEPTED, &json!([1])));
        assert_eq!(told(&world), ["GenerationActivated 1"]);
        for (number, start) in [
            ("7", "404 invalid_request_error not_found"),
            ("x", "400 invalid_request_error invalid_value generation"),
        ] {
            let error = world.post(&format!("{url}/generations/{number}/activate"), "").await.error();
            assert!(error.starts_with(start), "{error}");
        }
    });
}

#[test]
fn what_is_under_way_can_be_cancelled_and_what_has_ended_cannot() {
    with_world(|world| async move {
        world.post_form("/v1/recordings", b"RIFF", &[]).await;
        let admitted = world.complete_next(Lane::Batch, &["hello"]).await;
        let url = format!("/v1/recordings/{}", admitted.recording);
        for path in ["cancel", "generations/0/cancel"] {
            let error = world.post(&format!("{url}/{path}"), "").await.error();
            assert!(error.starts_with("409 invalid_request_error already_ended -: recording "), "{error}");
        }
        world.another_generation(&admitted, 1, Activation::Auto, &[]).await;
        let early = world.post(&format!("{url}/generations/1/activate"), "").await.error();
        assert!(early.starts_with("409 invalid_request_error not_complete -: generation 1 of"), "{early}");
        let cancelled = world.post(&format!("{url}/cancel"), "").await;
        assert_eq!(
            (cancelled.status, &cancelled.json()["generations"], &cancelled.json()["status"]),
            (StatusCode::ACCEPTED, &json!([1]), &"cancelled".into())
        );
        assert_eq!(told(&world), ["GenerationCancelled 1"]);
        assert_eq!(world.post("/v1/recordings/nothing/cancel", "").await.status, StatusCode::NOT_FOUND);
    });
}

#[test]
fn operators_alone_transcribe_again_for_another_tenant() {
    with_world(|world| async move {
        let [acme, shop, operator] =
            [world.key("acme").await, world.key("shop").await, world.operator_key().await];
        world.request("POST", "/v1/recordings").key(&acme).form(b"RIFF", &[]).send().await;
        world.complete_next(Lane::Batch, &["hello there"]).await;
        let ask = async |key: &str, body: Value| {
            let request = world.request("POST", "/v1/generations").key(key);
            request.header("content-type", "application/json").body(body.to_string()).send().await
        };
        let dry = json!({ "tenant": "acme", "dry_run": true });
        for key in [&acme, &operator] {
            assert_eq!(ask(key, dry.clone()).await.json()["recordings"], 1);
        }
        expect!["403 invalid_request_error operator_needed -: `tenant` names acme, and this key is of shop: leave it out, or use an operator's key (`voiceforge keys create NAME --operator` makes one)"]
            .assert_eq(&ask(&shop, dry).await.error());
        expect![[r#"400 invalid_request_error invalid_value tenant: `tenant` cannot be used: "a/b" is not a tenant: 1 to 64 letters, digits, '_' or '-'"#]]
            .assert_eq(&ask(&operator, json!({ "tenant": "a/b" })).await.error());

        let made = ask(&operator, json!({ "tenant": "acme" })).await;
        assert_eq!(made.status, StatusCode::ACCEPTED, "{}", made.text);
        let run = made.json();
        assert_eq!((&run["tenant"], &run["progress"]["selected"]), (&"acme".into(), &1.into()));
        let url = run["url"].as_str().unwrap();
        let ids = async |path: &str, key: &str| {
            let listed = world.get_with(path, key).await.json();
            listed["items"].as_array().unwrap().iter().map(|run| run["id"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(ids("/v1/generations?tenant=acme", &operator).await, [run["id"].clone()]);
        assert_eq!(ids("/v1/generations", &acme).await, [run["id"].clone()], "it is acme's run");
        assert_eq!(ids("/v1/generations", &operator).await, [Value::Null; 0]);
        let foreign = world.get_with("/v1/generations?tenant=acme", &shop).await;
        assert_eq!(foreign.status, StatusCode::FORBIDDEN);
        for path in [url.to_owned(), format!("{url}/compare")] {
            let status = async |key: &str| world.get_with(&path, key).await.status;
            assert_eq!(
                (status(&shop).await, status(&operator).await),
                (StatusCode::NOT_FOUND, StatusCode::OK)
            );
        }
        let act = async |act: &str, key: &str| {
            world.request("POST", &format!("{url}/{act}")).key(key).send().await.status
        };
        for name in ["activate", "cancel"] {
            assert_eq!(act(name, &shop).await, StatusCode::NOT_FOUND);
            assert_eq!(act(name, &operator).await, StatusCode::ACCEPTED);
        }
    });
}
