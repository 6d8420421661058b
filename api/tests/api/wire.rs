//! What only a real connection shows: streaming, slow and broken uploads, the end of the program.

use std::time::Duration;

use bytes::Bytes;
use events::{Lane, Manifest};
use expect_test::expect;
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::*;

fn client() -> reqwest::Client {
    service::install_tls();
    reqwest::Client::new()
}

#[test]
fn a_large_form_is_streamed_into_the_store() {
    with_world(|world| async move {
        let (url, shutdown, served) = world.listen().await;
        const PIECES: usize = 300;
        const PIECE: usize = 1 << 20;
        let piece = Bytes::from(vec![7; PIECE]);
        let whole = form(b"SPLIT", &[("name", "long.wav")]);
        let at = whole.windows(5).position(|window| window == b"SPLIT").unwrap();
        let (head, tail) = (Bytes::copy_from_slice(&whole[..at]), Bytes::copy_from_slice(&whole[at + 5..]));
        let pieces = futures::stream::iter(std::iter::repeat_n(piece, PIECES));
        let body = futures::stream::iter([head]).chain(pieces).chain(futures::stream::iter([tail]));
        let before = resident_kb();
        let request = client()
            .post(format!("{url}/v1/recordings"))
            .header("content-type", "multipart/form-data; boundary=XX")
            .body(reqwest::Body::wrap_stream(body.map(Ok::<_, std::io::Error>)));
        let sent = tokio::spawn(request.send());
        let mut most = 0;
        while !sent.is_finished() {
            most = most.max(resident_kb());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let reply = sent.await.unwrap().unwrap();
        assert_eq!(reply.status(), 202);
        let drop = world.next_drop(Lane::Batch).await.unwrap();
        let path = world.folder.path().join(Manifest::audio_key(&drop["drop"]));
        assert_eq!(std::fs::metadata(path).unwrap().len(), (PIECES * PIECE) as u64);
        // Tests beside this one need memory too: what counts is that it is far from 300 MB.
        let grown = most.saturating_sub(before) / 1024;
        assert!(grown < 100, "memory grew by {grown} MB while 300 MB went through");
        shutdown.cancel();
        served.await.unwrap().unwrap();
    });
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

const HEAD: &str = "POST /v1/recordings HTTP/1.1\r\nhost: localhost\r\ncontent-type: audio/wav\r\ncontent-length: 100000\r\n\r\n";

async fn connect(url: &str) -> TcpStream {
    TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap()
}

#[test]
fn an_upload_that_stands_still_is_given_up() {
    with_limits(
        |limits| limits.upload_idle = Duration::from_millis(200),
        |world| async move {
            let (url, shutdown, served) = world.listen().await;
            let mut connection = connect(&url).await;
            connection.write_all(HEAD.as_bytes()).await.unwrap();
            connection.write_all(&[7; 50_000]).await.unwrap();
            let mut reply = String::new();
            connection.read_to_string(&mut reply).await.unwrap();
            assert!(reply.starts_with("HTTP/1.1 408"), "{reply}");
            assert!(reply.contains("the upload stood still for 0.2 s and was given up"), "{reply}");
            assert_eq!(world.stored().await, [""; 0]);
            shutdown.cancel();
            served.await.unwrap().unwrap();
        },
    );
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing() {
    with_world(|world| async move {
        let (url, shutdown, served) = world.listen().await;
        for sent in [0, 50_000] {
            let mut connection = connect(&url).await;
            connection.write_all(HEAD.as_bytes()).await.unwrap();
            connection.write_all(&vec![7; sent]).await.unwrap();
            drop(connection);
        }
        // The only trace there may be is a slot that is held while the end is noticed.
        for _ in 0..200 {
            if world.api.uploads.available_permits() == usual_limits().uploads
                && world.stored().await.is_empty()
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(world.api.uploads.available_permits(), usual_limits().uploads);
        assert_eq!(world.stored().await, [""; 0]);
        assert!(world.next_drop(Lane::Batch).await.is_none());
        shutdown.cancel();
        served.await.unwrap().unwrap();
    });
}

#[test]
fn a_client_that_goes_away_leaves_the_work_going() {
    with_world(|world| async move {
        let (url, shutdown, served) = world.listen().await;
        let mut connection = connect(&url).await;
        let body = form(b"RIFF", &[("model", "whisper-1")]);
        let head = format!(
            "POST /v1/audio/transcriptions HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=XX\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        connection.write_all(&body).await.unwrap();
        let drop_fields = loop {
            match world.next_drop(Lane::Rt).await {
                Some(fields) => break fields,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        drop(connection);
        let admitted = world.admit(&drop_fields).await;
        world.decode(&admitted, 1).await;
        world.transcribe(&admitted, 0, "still here").await;
        let reply =
            world.get(&format!("/v1/recordings/{}/transcript?format=text", drop_fields["drop"])).await;
        assert_eq!(reply.text, "still here\n");
        shutdown.cancel();
        served.await.unwrap().unwrap();
    });
}

#[test]
fn the_end_of_the_program_sends_those_who_wait_away() {
    with_world(|world| async move {
        let (url, shutdown, served) = world.listen().await;
        let waiting = tokio::spawn(
            client()
                .post(format!("{url}/v1/audio/transcriptions"))
                .header("content-type", "multipart/form-data; boundary=XX")
                .body(form(b"RIFF", &[("model", "whisper-1")]))
                .send(),
        );
        while world.next_drop(Lane::Rt).await.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        shutdown.cancel();
        let reply = waiting.await.unwrap().unwrap();
        assert_eq!(reply.status(), 503);
        assert_eq!(reply.headers()["retry-after"], "5");
        let text = reply.text().await.unwrap();
        let told: serde_json::Value = serde_json::from_str(&text).unwrap();
        expect!["the server is restarting; the work goes on, ask again shortly"]
            .assert_eq(told["error"]["message"].as_str().unwrap());
        tokio::time::timeout(Duration::from_secs(5), served)
            .await
            .expect("it ends at once")
            .unwrap()
            .unwrap();
    });
}

#[test]
fn readiness_tells_what_answers() {
    with_world(|world| async move {
        let (url, shutdown, served) = world.listen().await;
        let get = async |path: &str| client().get(format!("{url}{path}")).send().await.unwrap();
        for _ in 0..100 {
            if get("/health/ready").await.status() == 200 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let health: serde_json::Value =
            serde_json::from_str(&get("/health").await.text().await.unwrap()).unwrap();
        assert_eq!(health["checks"]["database"]["ok"], true);
        assert_eq!(health["checks"]["redis"]["ok"], true);
        shutdown.cancel();
        served.await.unwrap().unwrap();
    });
}
