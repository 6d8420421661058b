use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use expect_test::expect;

use super::*;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn shutdown() -> Shutdown {
    Shutdown::new(Duration::ZERO)
}

/// Status and body of one GET, without uptime.
fn get(addr: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap();
    let body = match serde_json::from_str::<serde_json::Value>(body) {
        Ok(mut json) => {
            json.as_object_mut().unwrap().remove("uptime_s");
            json.to_string()
        }
        Err(_) => body.to_owned(),
    };
    format!("{status} {body}")
}

#[test]
fn ready_once_all_checks_pass_and_until_the_end_begins() {
    let (readiness, shutdown) = (Readiness::new(), shutdown());
    readiness.expect("redis");
    readiness.expect("model");
    let admin = serve(ANY, "voiceforge-x", &readiness, None, &shutdown).unwrap();
    readiness.ok("model", "tiny.en");
    readiness.failed("redis", "connection refused");
    expect![[r#"503 {"checks":{"model":{"message":"tiny.en","ok":true},"redis":{"message":"connection refused","ok":false}},"program":"voiceforge-x","state":"waiting","version":"0.1.0"}"#]].assert_eq(&get(admin.addr, "/health/ready"));
    readiness.ok("redis", "connected");
    readiness.expect("redis");
    expect![[r#"200 {"checks":{"model":{"message":"tiny.en","ok":true},"redis":{"message":"connected","ok":true}},"program":"voiceforge-x","state":"ready","version":"0.1.0"}"#]].assert_eq(&get(admin.addr, "/health/ready"));
    assert!(readiness.is_ready());

    shutdown.request();
    let asked = Instant::now();
    while readiness.is_ready() && asked.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(get(admin.addr, "/health/ready").starts_with("503"));
    expect![[r#"200 {"checks":{"model":{"message":"tiny.en","ok":true},"redis":{"message":"connected","ok":true}},"program":"voiceforge-x","state":"ending","version":"0.1.0"}"#]].assert_eq(&get(admin.addr, "/health"));
    expect![[r#"200 {"state":"live"}"#]].assert_eq(&get(admin.addr, "/health/live"));
    assert!(get(admin.addr, "/metrics").starts_with("404"), "there are no metrics here");
    assert!(get(admin.addr, "/other").starts_with("404"));
}

/// The data path here is a runtime whose only thread never yields.
#[tokio::test]
async fn answers_while_the_data_path_is_busy() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || metrics::counter!("x_drops_total").increment(3));
    let admin = serve(ANY, "voiceforge-x", &Readiness::new(), Some(recorder.handle()), &shutdown()).unwrap();
    assert!(get(admin.addr, "/health/live").starts_with("200"));
    let text = get(admin.addr, "/metrics");
    assert!(text.starts_with("200") && text.contains("x_drops_total 3"), "{text}");
}

#[test]
fn a_taken_port_is_an_error_with_the_remedy() {
    let taken = TcpListener::bind(ANY).unwrap();
    let addr = taken.local_addr().unwrap();
    let error = serve(addr, "voiceforge-x", &Readiness::new(), None, &shutdown()).unwrap_err();
    assert!(matches!(error, AdminError::Taken { .. }));
    assert!(error.to_string().contains("--admin"), "{error}");
}

#[test]
fn the_port_closes_with_its_handle() {
    let admin = serve(ANY, "voiceforge-x", &Readiness::new(), None, &shutdown()).unwrap();
    let addr = admin.addr;
    drop(admin);
    let asked = Instant::now();
    while TcpStream::connect(addr).is_ok() {
        assert!(asked.elapsed() < Duration::from_secs(10), "still open");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_address_is_written_for_a_supervisor() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("admin");
    write_addr(&file, ANY).unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "127.0.0.1:0\n");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
