use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Cut, Proxy, Weather};

/// A server that answers each request with its own bytes.
async fn echo() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a port")
}

async fn line() -> Proxy {
    let server = echo().await;
    let proxy = Proxy::start(server.local_addr().expect("bound")).await.expect("a port");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = server.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = client.read(&mut buffer).await {
                    if client.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    proxy
}

/// Sends `request`; what came back within a second, and whether the line was ended.
async fn ask(client: &mut TcpStream, request: &[u8]) -> (Vec<u8>, bool) {
    let mut reply = vec![0; request.len()];
    if client.write_all(request).await.is_err() {
        return (Vec::new(), true);
    }
    match tokio::time::timeout(Duration::from_secs(1), client.read_exact(&mut reply)).await {
        Ok(Ok(_)) => (reply, false),
        Ok(Err(_)) => (Vec::new(), true),
        Err(_) => (Vec::new(), false),
    }
}

#[tokio::test]
async fn a_line_carries_and_counts_its_connections() {
    let proxy = line().await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(ask(&mut client, b"one").await, (b"one".to_vec(), false));
    assert_eq!(proxy.open(), 1);
    proxy.cut();
    assert!(ask(&mut client, b"two").await.1, "cut");
    while proxy.open() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_chosen_request_is_lost_and_no_other() {
    for cut in [Cut::AfterRequest, Cut::OnReply] {
        let proxy = line().await;
        proxy.lose(1, cut, |request| request == b"this");
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut client, b"that").await, (b"that".to_vec(), false));
        assert_eq!(ask(&mut client, b"this").await, (Vec::new(), true));
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut client, b"this").await, (b"this".to_vec(), false), "one only");
        assert_eq!(proxy.lost(), 1);
    }
}

#[tokio::test]
async fn bad_weather_is_slow_silent_or_refuses() {
    let proxy = line().await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let started = Instant::now();
    proxy.set(Weather { latency: Duration::from_millis(60), slice: Some(2), ..Weather::default() });
    assert_eq!(ask(&mut client, b"abcd").await.0, b"abcd");
    assert!(started.elapsed() >= Duration::from_millis(120), "there and back");

    proxy.set(Weather { bytes_per_second: Some(10_000), ..Weather::default() });
    let started = Instant::now();
    assert_eq!(ask(&mut client, &[7; 1024]).await.0, [7; 1024]);
    assert!(started.elapsed() >= Duration::from_millis(100), "1024 bytes at 10 kB/s");

    proxy.set(Weather { silent_up: true, ..Weather::default() });
    assert_eq!(ask(&mut client, b"lost").await, (Vec::new(), false), "nobody is told");
    proxy.set(Weather::default());
    assert_eq!(ask(&mut client, b"gone").await, (Vec::new(), false), "what lost bytes stays silent");
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(ask(&mut client, b"new").await, (b"new".to_vec(), false));

    proxy.set(Weather { refuses: true, ..Weather::default() });
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(ask(&mut client, b"no").await.1);
}
