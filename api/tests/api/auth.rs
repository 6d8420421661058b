//! Keys, tenants and where the API may be reached from.

use events::Lane;
use expect_test::expect;
use warp::http::StatusCode;

use crate::support::*;

#[test]
fn without_keys_this_machine_is_the_default_tenant() {
    with_world(|world| async move {
        assert_eq!(world.get("/v1/recordings").await.status, StatusCode::OK);
        let reply =
            world.request("GET", "/v1/recordings").header("origin", "https://example.com").send().await;
        expect!["403 invalid_request_error foreign_origin -: without API keys this server answers this machine alone; make a key with `voiceforge keys create`"]
            .assert_eq(&reply.error());
        let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
        let shutdown = tokio_util::sync::CancellationToken::new();
        let refused = api::serve(listener, world.api.clone(), shutdown).await.unwrap_err();
        expect!["there are no API keys yet, so everybody who reaches 0.0.0.0 could read and write: make a key with `voiceforge keys create`, or listen on this machine alone with --api-address 127.0.0.1:8080"]
            .assert_eq(&format!("{refused:#}"));
        assert_eq!(
            world.get("/v1/recordings").await.status,
            StatusCode::UNAUTHORIZED,
            "reachable from outside, a key is needed always"
        );
    });
}

#[test]
fn once_there_is_a_key_every_route_needs_one_but_the_open_ones() {
    with_world(|world| async move {
        let key = world.key("acme").await;
        let open =
            ["GET /health", "GET /health/live", "GET /health/ready", "GET /metrics", "GET /openapi.json"];
        for name in api::routes::table(&world.api).names() {
            let (method, path) = name.split_once(' ').unwrap();
            let path = path.replace("{id}", "x");
            let without = world.request(method, &path).send().await;
            let with_wrong = world.request(method, &path).key("vf_wrong").send().await;
            let with = world.request(method, &path).key(&key).send().await;
            if open.contains(name) {
                assert_ne!(without.status, StatusCode::UNAUTHORIZED, "{name}");
                continue;
            }
            assert!(
                without
                    .error()
                    .starts_with("401 invalid_request_error invalid_api_key -: an API key is needed"),
                "{name}: {}",
                without.text
            );
            assert_eq!(without.header("www-authenticate"), "Bearer");
            assert!(
                with_wrong.error().contains("the API key is not known or was revoked"),
                "{name}: {}",
                with_wrong.text
            );
            assert_ne!(with.status, StatusCode::UNAUTHORIZED, "{name}: {}", with.text);
        }
    });
}

#[test]
fn what_is_another_tenants_is_not_there() {
    with_world(|world| async move {
        let (acme, other) = (world.key("acme").await, world.key("other").await);
        let posted =
            world.request("POST", "/v1/recordings").form(b"RIFF", &[("meta.x", "1")]).key(&acme).send().await;
        let url = posted.json()["url"].as_str().unwrap().to_owned();
        let seen = async |path: &str, key: &str| world.get_with(path, key).await.status.as_u16();

        assert_eq!((seen(&url, &acme).await, seen(&url, &other).await), (200, 404), "still in the queue");
        let drop = world.next_drop(Lane::Batch).await.unwrap();
        assert_eq!(drop["tenant"], "acme", "the key says whose it is");
        let admitted = world.admit(&drop).await;
        world.decode(&admitted, 1).await;
        world.transcribe(&admitted, 0, "secret words").await;
        for path in
            [url.clone(), format!("/v1/recordings/{}", admitted.recording), format!("{url}/transcript")]
        {
            assert_eq!((seen(&path, &acme).await, seen(&path, &other).await), (200, 404), "{path}");
        }
        let count = async |path: &str, key: &str| {
            world.get_with(path, key).await.json()["items"].as_array().unwrap().len()
        };
        assert_eq!((count("/v1/recordings", &acme).await, count("/v1/recordings", &other).await), (1, 0));
        assert_eq!(
            (count("/v1/search?q=secret", &acme).await, count("/v1/search?q=secret", &other).await),
            (1, 0)
        );
    });
}

#[test]
fn a_tenant_cannot_be_chosen_by_a_field() {
    with_world(|world| async move {
        let acme = world.key("acme").await;
        let reply = world
            .request("POST", "/v1/recordings")
            .form(b"RIFF", &[("tenant", "other")])
            .key(&acme)
            .send()
            .await;
        assert!(reply.error().contains("`tenant` is not a parameter here"), "{}", reply.text);
        let reply = world
            .request("POST", "/v1/recordings")
            .form(b"RIFF", &[("uri", "file:///etc/passwd")])
            .key(&acme)
            .send()
            .await;
        assert!(reply.error().contains("`uri` is not a parameter here"), "{}", reply.text);
    });
}

#[test]
fn a_revoked_key_ends() {
    with_world(|world| async move {
        world.key("keeps").await;
        let made = world.views.create_key(&"acme".parse().unwrap(), "gone", false).await.unwrap();
        assert!(world.views.revoke_key(made.key.id).await.unwrap());
        assert_eq!(world.get_with("/v1/models", &made.secret).await.status, StatusCode::UNAUTHORIZED);
    });
}
