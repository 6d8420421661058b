use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::TryStreamExt;
use service::env::Map;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

fn sources(roots: &[&str]) -> Sources {
    let uris = roots.iter().map(|root| root.parse().unwrap()).collect();
    Sources::open_with(Roots { uris, ..Roots::default() }, &Map::new()).unwrap()
}

async fn code_of(sources: &Sources, uri: &str) -> String {
    match sources.open_uri(&uri.parse().unwrap()).await {
        Ok(incoming) => format!("{incoming:?}"),
        Err(SourceError::Refused(cause)) => cause.code,
        Err(SourceError::Unavailable(message)) => format!("unavailable: {message}"),
    }
}

async fn text_of(incoming: Incoming) -> String {
    let chunks: Vec<Bytes> = incoming.body.try_collect().await.unwrap();
    String::from_utf8(chunks.concat()).unwrap()
}

#[tokio::test]
async fn files_within_the_roots_are_read_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["in", "in/sub", "inside", "out"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    for name in ["in/a b.wav", "in/sub/c.wav", "inside/d.wav", "out/e.wav"] {
        std::fs::write(at(name), name).unwrap();
    }
    std::os::unix::fs::symlink(at("out/e.wav"), at("in/link.wav")).unwrap();
    std::os::unix::fs::symlink(at("out"), at("in/linked")).unwrap();
    std::os::unix::fs::symlink(at("in"), at("alias")).unwrap();
    let base = url::Url::from_directory_path(folder.path()).unwrap();
    let uri = |name: &str| format!("{base}{name}");

    let sources = sources(&[&uri("in")]);
    let incoming = sources.open_uri(&uri("in/a%20b.wav").parse().unwrap()).await.unwrap();
    assert_eq!((incoming.bytes, incoming.shown.as_str()), (Some(10), uri("in/a%20b.wav").as_str()));
    assert_eq!(text_of(incoming).await, "in/a b.wav");
    assert_eq!(
        text_of(sources.open_uri(&uri("in/sub/c.wav").parse().unwrap()).await.unwrap()).await,
        "in/sub/c.wav"
    );
    for (name, code) in [
        ("in/none.wav", "not_found"),
        ("in/sub", "not_audio"),
        ("in/a%20b.wav/x", "not_found"),
        ("in/link.wav", "uri_not_allowed"),
        ("in/linked/e.wav", "uri_not_allowed"),
        ("out/e.wav", "uri_not_allowed"),
        ("out/none.wav", "uri_not_allowed"),
        ("inside/d.wav", "uri_not_allowed"),
        ("in/../out/e.wav", "uri_not_allowed"),
        ("in/%2e%2e/out/e.wav", "uri_not_allowed"),
        ("in/..%2fout/e.wav", "uri_not_allowed"),
        ("in/sub/..%2f..%2fout/e.wav", "uri_not_allowed"),
    ] {
        assert_eq!(code_of(&sources, &uri(name)).await, code, "{name}");
    }
    assert_eq!(code_of(&sources, "file://elsewhere/in/a.wav").await, "uri_not_allowed");
    let aliased = self::sources(&[&uri("alias")]);
    assert!(aliased.open_uri(&uri("alias/a%20b.wav").parse().unwrap()).await.is_ok(), "a root may be a link");
}

#[tokio::test]
async fn a_pipe_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("mkfifo").arg(folder.path().join("pipe")).status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no mkfifo on this machine");
        return;
    }
    let base = url::Url::from_directory_path(folder.path()).unwrap();
    assert_eq!(code_of(&sources(&[base.as_str()]), &format!("{base}pipe")).await, "not_audio");
}

#[tokio::test]
async fn nothing_is_allowed_unless_set() {
    let sources = sources(&[]);
    for uri in [
        "file:///etc/hostname",
        "s3://bucket/a.wav",
        "http://example.com/a",
        "https://example.com/a",
        "gs://b/a",
    ] {
        assert_eq!(code_of(&sources, uri).await, "uri_not_allowed", "{uri}");
    }
}

#[tokio::test]
async fn buckets_are_matched_by_name_and_whole_folder_names() {
    let root = "s3://bucket/calls".parse().unwrap();
    let variables = Map::from([
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "y"),
    ]);
    let bucket = object::Bucket::open(&root, &variables).unwrap();
    let path = |uri: &str| bucket.path_of(&uri.parse().unwrap()).map(|path| path.to_string());
    assert_eq!(path("s3://bucket/calls/2026/a%20b.mp3").as_deref(), Some("calls/2026/a b.mp3"));
    for outside in [
        "s3://bucket/callsign/a.mp3",
        "s3://bucket/a.mp3",
        "s3://other/calls/a.mp3",
        "s3://bucket/calls/../a.mp3",
        "s3://user@bucket/calls/a.mp3",
        "gs://bucket/calls/a.mp3",
    ] {
        assert_eq!(path(outside), None, "{outside}");
    }
}

#[tokio::test]
async fn containers_of_one_account_are_told_apart() {
    let root = "abfss://calls@ada.dfs.core.windows.net/2026".parse().unwrap();
    let variables = Map::from([("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")]);
    let bucket = object::Bucket::open(&root, &variables).unwrap();
    let path = |uri: &str| bucket.path_of(&uri.parse().unwrap()).map(|path| path.to_string());
    assert_eq!(path("abfss://calls@ada.dfs.core.windows.net/2026/a.mp3").as_deref(), Some("2026/a.mp3"));
    for outside in [
        "abfss://pay@ada.dfs.core.windows.net/2026/a.mp3",
        "abfss://calls@eve.dfs.core.windows.net/2026/a.mp3",
        "abfss://ada.dfs.core.windows.net/2026/a.mp3",
    ] {
        assert_eq!(path(outside), None, "{outside}");
    }
}

#[tokio::test]
async fn objects_are_fetched_and_missing_ones_refused() {
    async fn bucket(root: &str, reply: &'static str) -> Sources {
        let (port, _) = serve(move |_| reply.to_owned()).await;
        let endpoint = format!("http://127.0.0.1:{port}");
        let variables = Map::from([
            ("AWS_ENDPOINT", endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_ACCESS_KEY_ID", "x"),
            ("AWS_SECRET_ACCESS_KEY", "y"),
            ("GOOGLE_BASE_URL", endpoint.as_str()),
            ("GOOGLE_SKIP_SIGNATURE", "true"),
            ("AZURE_STORAGE_ACCOUNT_NAME", "ada"),
            ("AZURE_STORAGE_ACCOUNT_KEY", "a2V5"),
            ("AZURE_STORAGE_ENDPOINT", endpoint.as_str()),
            ("AZURE_ALLOW_HTTP", "true"),
        ]);
        let uris = vec![root.parse().unwrap()];
        Sources::open_with(Roots { uris, ..Roots::default() }, &variables).unwrap()
    }
    for scheme in ["s3", "gs", "az"] {
        let (root, uri) = (format!("{scheme}://bucket/calls"), format!("{scheme}://bucket/calls/a.mp3"));
        let fine = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"e\"\r\n\
             Last-Modified: Tue, 05 May 2026 10:00:00 GMT\r\nConnection: close\r\n\r\nsound";
        let incoming = bucket(&root, fine).await.open_uri(&uri.parse().unwrap()).await.unwrap();
        assert_eq!(
            (incoming.scheme, incoming.bytes, incoming.shown.as_str()),
            (scheme, Some(5), uri.as_str())
        );
        assert_eq!(text_of(incoming).await, "sound");
        let missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let missing = bucket(&root, missing).await;
        assert_eq!(code_of(&missing, &uri).await, "not_found");
        let other = format!("{scheme}://other/calls/a.mp3");
        assert_eq!(code_of(&missing, &other).await, "uri_not_allowed");
    }
}

/// A server on this machine that answers every request with `reply` and counts them.
async fn serve(reply: impl Fn(u16) -> String + Send + 'static) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            let mut request = [0; 4096];
            let _ = connection.read(&mut request).await;
            let _ = connection.write_all(reply(port).as_bytes()).await;
        }
    });
    (port, asked)
}

fn web(trusted: &[&str]) -> Sources {
    let web_hosts = trusted.iter().map(|&host| host.to_owned()).collect();
    let roots = Roots { web: true, web_hosts, web_timeout: Duration::from_secs(5), ..Roots::default() };
    Sources::open_with(roots, &Map::new()).unwrap()
}

const FINE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nsound";

#[tokio::test]
async fn private_addresses_are_not_even_connected_to() {
    let (port, asked) = serve(|_| FINE.to_owned()).await;
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0x7f.1",
        "2130706433",
        "169.254.169.254",
        "10.0.0.1",
    ] {
        let code = code_of(&web(&[]), &format!("http://{host}:{port}/a.mp3")).await;
        assert_eq!(code, "uri_not_allowed", "{host}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_trusted_host_is_fetched_from_and_secrets_are_not_shown() {
    let (port, asked) = serve(|_| FINE.to_owned()).await;
    let uri = format!("http://user:pass@localhost:{port}/a.mp3?token=secret");
    let incoming = web(&["LOCALHOST"]).open_uri(&uri.parse().unwrap()).await.unwrap();
    assert_eq!(
        (incoming.bytes, incoming.shown.as_str()),
        (Some(5), format!("http://localhost:{port}/a.mp3").as_str())
    );
    assert_eq!(text_of(incoming).await, "sound");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn redirects_are_looked_at_like_the_first_step() {
    let to = |place: &'static str| {
        move |port: u16| {
            let place = place.replace("PORT", &port.to_string());
            format!(
                "HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
        }
    };
    for (place, code, connections) in [
        ("http://127.0.0.1:PORT/b", "uri_not_allowed", 1),
        ("http://169.254.169.254/latest/meta-data", "uri_not_allowed", 1),
        ("file:///etc/passwd", "source_refused", 1),
        ("http://", "source_refused", 1),
        ("/again", "source_refused", 6),
    ] {
        let (port, asked) = serve(to(place)).await;
        assert_eq!(
            code_of(&web(&["localhost"]), &format!("http://localhost:{port}/a")).await,
            code,
            "{place}"
        );
        assert_eq!(asked.load(Ordering::SeqCst), connections, "{place}");
    }
}

#[tokio::test]
async fn refusals_and_troubles_of_servers_are_told_apart() {
    for (status, refused) in [
        ("404 Not Found", true),
        ("403 Forbidden", true),
        ("500 Oops", false),
        ("503 Busy", false),
        ("429 Slow", false),
    ] {
        let reply = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let (port, _) = serve(move |_| reply.clone()).await;
        let found =
            web(&["localhost"]).open_uri(&format!("http://localhost:{port}/a").parse().unwrap()).await;
        assert_eq!(matches!(found, Err(SourceError::Refused(_))), refused, "{status}: {found:?}");
    }
    let found = web(&["localhost"]).open_uri(&"http://localhost:1/a".parse().unwrap()).await;
    assert!(matches!(&found, Err(SourceError::Unavailable(_))), "{found:?}");
}

#[tokio::test]
async fn a_body_cut_short_is_an_error() {
    let (port, _) = serve(|_| FINE.replace("Length: 5", "Length: 50")).await;
    let incoming =
        web(&["localhost"]).open_uri(&format!("http://localhost:{port}/a").parse().unwrap()).await.unwrap();
    assert!(incoming.body.try_collect::<Vec<Bytes>>().await.is_err());
}

#[test]
fn roots_are_checked() {
    for good in [
        "file:///srv/audio",
        "s3://bucket",
        "s3://bucket/calls",
        "gs://bucket",
        "az://container/calls",
        "abfss://container@ada.dfs.core.windows.net/calls",
    ] {
        assert_eq!(check_root(good), Ok(()), "{good}");
    }
    for bad in ["srv/audio", "http://host/", "file://host/srv", "ftp://bucket", "s3:///"] {
        assert!(check_root(bad).is_err(), "{bad}");
    }
}
