//! A line to the database that is dead at the other end, and says nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use views::{Filter, Options, Views};

use crate::support::with_database;

/// Passes connections on to `to`; the first one that says `word` is silent from there on, without being closed.
async fn line(to: SocketAddr, word: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let has_died = Arc::new(AtomicBool::new(false));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(to).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            let has_died = Arc::clone(&has_died);
            tokio::spawn(async move {
                let mut buffer = vec![0; 65_536];
                while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                    let says_it = buffer[..count].windows(word.len()).any(|part| part == word);
                    if says_it && !has_died.swap(true, Ordering::SeqCst) {
                        std::future::pending::<()>().await;
                    }
                    to_server.write_all(&buffer[..count]).await.unwrap();
                }
            });
        }
    });
    address
}

#[test]
fn a_query_on_a_dead_line_is_given_up_and_the_next_one_works() {
    with_database(|db| async move {
        let options = Options { statement_timeout: Duration::from_millis(200), ..Options::default() };
        let mut url = url::Url::parse(&db.url).unwrap();
        let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        let address = line(server.parse().unwrap(), b"read.recordings").await;
        url.set_port(Some(address.port())).unwrap();
        let views = Views::connect(url.as_str(), &options).await.unwrap();
        let begun = Instant::now();
        let error = views.recordings(&Filter::default(), None, 10).await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("database"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
        assert_eq!(views.recordings(&Filter::default(), None, 10).await.unwrap().items, []);
        views.close().await;
    });
}
