use std::io::{Read, Seek, SeekFrom};

use futures::stream;
use warp::Filter;
use warp::http::{Method, Response};
use warp::path::FullPath;

use super::*;
use crate::env::Map;

/// A store in a folder of its own, and one in memory that is read like a remote one.
fn stores() -> (tempfile::TempDir, [AudioStore; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let local = AudioStore::open(folder.path().join("deep/audio").to_str().unwrap()).unwrap();
    let remote = AudioStore::open_with("memory:///some/folder", &Map::new()).unwrap();
    (folder, [local, remote])
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

/// Bytes that differ at every offset.
fn noise(len: usize) -> Bytes {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// `bytes` in uneven chunks.
fn chunks(bytes: &Bytes, len: usize) -> impl Stream<Item = Result<Bytes, BoxError>> + use<> {
    let bytes = bytes.clone();
    stream::iter(
        (0..bytes.len()).step_by(len).map(move |at| Ok(bytes.slice(at..(at + len).min(bytes.len())))),
    )
}

async fn keys(store: &AudioStore, prefix: Option<&Key>) -> Vec<String> {
    let mut keys: Vec<String> = store.list(prefix).map(|meta| meta.unwrap().key.to_string()).collect().await;
    keys.sort();
    keys
}

/// All files under the root, also those that are no objects.
fn files(store: &AudioStore) -> usize {
    fn count(folder: &path::Path) -> usize {
        let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
        entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
    }
    store.root.as_deref().map_or(0, count)
}

#[tokio::test]
async fn what_is_put_is_there_with_its_hash() {
    let (_folder, stores) = stores();
    for store in stores {
        for (name, len) in [("empty", 0), ("small", 1000), ("one-part", 1 << 20), ("large", (17 << 20) + 5)] {
            let (key, bytes) = (key(&format!("ada/{name}")), noise(len));
            let stored = store.put_stream(&key, chunks(&bytes, 77_777), len as u64).await.unwrap();
            assert_eq!(stored.size, len as u64);
            assert_eq!(
                stored.sha256_hex(),
                hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&bytes)),
                "{name}"
            );
            assert_eq!(store.get_bytes(&key, len as u64).await.unwrap(), bytes, "{name}");
            let streamed: Vec<Bytes> = store.get_stream(&key).await.unwrap().try_collect().await.unwrap();
            assert_eq!(streamed.concat(), bytes, "{name}");
            let meta = store.head(&key).await.unwrap();
            assert_eq!((meta.size, &meta.key), (len as u64, &key));
            assert!(meta.modified.elapsed().unwrap_or_default() < Duration::from_secs(60));
        }
        store.put_bytes(&key("ada/large"), noise(3)).await.unwrap();
        assert_eq!(store.get_bytes(&key("ada/large"), 3).await.unwrap(), noise(3), "replaced whole");
        assert!(matches!(
            store.get_bytes(&key("ada/small"), 999).await,
            Err(StoreError::TooLarge { limit: 999 })
        ));
    }
}

#[tokio::test]
async fn what_fails_leaves_nothing() {
    let (_folder, stores) = stores();
    for store in stores {
        let (place, bytes) = (key("ada/failing"), noise(5 << 20));
        let over = store.put_stream(&place, chunks(&bytes, 100_000), (5 << 20) - 1).await;
        assert_eq!(over.unwrap_err().to_string(), "larger than the limit of 5242879 bytes");

        let broken = chunks(&bytes, 100_000).chain(stream::iter([Err("the sender hung up".into())]));
        let error = store.put_stream(&place, broken, u64::MAX).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Source(cause) if cause.to_string() == "the sender hung up"),
            "{error}"
        );
        assert!(!error.is_retryable());

        let never_ends = chunks(&bytes, 100_000).chain(stream::pending());
        let cut =
            tokio::time::timeout(Duration::from_millis(300), store.put_stream(&place, never_ends, u64::MAX));
        assert!(cut.await.is_err());

        assert!(matches!(store.head(&place).await, Err(StoreError::NotFound { .. })));
        // A dropped upload is cleaned up in the background.
        let asked = std::time::Instant::now();
        while files(&store) > 0 && asked.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!((keys(&store, None).await.len(), files(&store)), (0, 0));
    }
}

#[tokio::test]
async fn objects_move_and_go() {
    let (_folder, stores) = stores();
    for store in stores {
        let (from, to) = (key("incoming/d-1/audio"), key("ada/r-1"));
        store.put_bytes(&from, noise(10)).await.unwrap();
        store.put_bytes(&key("incoming/d-2/audio"), noise(20)).await.unwrap();
        assert_eq!(keys(&store, Some(&key("incoming"))).await, ["incoming/d-1/audio", "incoming/d-2/audio"]);

        store.rename(&from, &to).await.unwrap();
        assert!(matches!(store.rename(&from, &to).await, Err(StoreError::NotFound { key }) if key == from));
        assert_eq!(keys(&store, None).await, ["ada/r-1", "incoming/d-2/audio"]);
        assert_eq!(store.get_bytes(&to, 10).await.unwrap(), noise(10));
        if let Some(path) = store.local_path(&from) {
            assert!(!path.parent().unwrap().exists(), "the empty folder of the drop is gone");
        }

        store.delete(&to).await.unwrap();
        store.delete(&to).await.unwrap();
        assert_eq!(keys(&store, None).await, ["incoming/d-2/audio"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_reads_and_seeks_like_a_file() {
    let (_folder, stores) = stores();
    for store in stores {
        let bytes = noise((6 << 20) + 123);
        store.put_bytes(&key("ada/r-1"), bytes.clone()).await.unwrap();
        let mut reader = store.open_range_reader(&key("ada/r-1")).await.unwrap();
        let read = move || {
            assert_eq!(reader.len(), bytes.len() as u64);
            let mut whole = Vec::new();
            reader.read_to_end(&mut whole).unwrap();
            assert!(whole == bytes, "read from start to end");
            let size = bytes.len();
            for at in [size - 8, 0, 300_000, 299_990, 4 << 20, 8, size - 8] {
                let mut eight = [0; 8];
                reader.seek(SeekFrom::Start(at as u64)).unwrap();
                reader.read_exact(&mut eight).unwrap();
                assert_eq!(eight, bytes[at..at + 8], "at {at}");
            }
            assert_eq!(reader.seek(SeekFrom::Current(-3)).unwrap(), size as u64 - 3);
            assert_eq!(reader.seek(SeekFrom::End(10)).unwrap(), size as u64 + 10);
            assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0, "beyond the end there is nothing");
            assert!(reader.seek(SeekFrom::End(-(size as i64) - 1)).is_err());
        };
        tokio::task::spawn_blocking(read).await.unwrap();
        for missing in ["ada/r-2", "ada"] {
            let error = store.open_range_reader(&key(missing)).await.unwrap_err();
            assert!(matches!(error, StoreError::NotFound { .. }), "{missing}: {error}");
        }
    }
}

#[tokio::test]
async fn leftovers_of_a_crash_are_removed() {
    let (_folder, [store, _]) = stores();
    store.put_bytes(&key("ada/r-1"), noise(10)).await.unwrap();
    let half = store.local_path(&key("ada/r-1")).unwrap().with_file_name("r-2#1");
    std::fs::write(&half, "half").unwrap();
    assert_eq!(keys(&store, None).await, ["ada/r-1"], "what is unfinished is not listed");
    assert_eq!(store.remove_unfinished(Duration::from_secs(3600)).await.unwrap(), 0);
    assert_eq!(store.remove_unfinished(Duration::ZERO).await.unwrap(), 1);
    assert!(!half.exists());
    assert_eq!(keys(&store, None).await, ["ada/r-1"]);
}

#[test]
fn keys_stay_inside() {
    for bad in
        ["", "/", "a//b", "/a", "a/", "..", "a/../b", "a/.hidden", "a.b", "a\\b", "a b", "ä", "a%2Fb", "a#1"]
    {
        assert!(matches!(Key::parse(bad), Err(StoreError::BadKey { .. })), "{bad:?}");
    }
    assert!(Key::new([&"x".repeat(129)]).is_err());
    assert_eq!(Key::new(["ada", "R_1-2"]).unwrap().as_str(), "ada/R_1-2");
}

#[test]
fn a_full_disk_is_told_from_other_failures() {
    let wrapped =
        |inner: io::Error| object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(inner) };
    let full = [
        wrapped(io::ErrorKind::StorageFull.into()),
        wrapped(io::ErrorKind::QuotaExceeded.into()),
        wrapped(io::Error::other(wrapped(io::ErrorKind::StorageFull.into()))),
        wrapped(io::Error::other(
            "Server returned non-2xx status code: 507 Insufficient Storage: <Code>XMinioStorageFull</Code>",
        )),
    ];
    for error in full {
        let error = StoreError::new("write", &key("ada/r-1"), error);
        assert!(matches!(error, StoreError::Full { .. }) && error.is_retryable(), "{error:?}");
    }
    let error = StoreError::new("write", &key("ada/r-1"), wrapped(io::ErrorKind::PermissionDenied.into()));
    assert!(matches!(error, StoreError::Failed { .. }), "{error:?}");
    assert_eq!(error.to_string(), "write ada/r-1 in the audio store");
}

#[test]
fn bad_locations_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for (location, why) in [
        (file.to_str().unwrap(), "File exists"),
        ("ftp://ada:geheim@host/audio", "ftp"),
        ("https://host/audio", "not enabled"),
        ("az://container/audio", "set AZURE_STORAGE_ACCOUNT_NAME"),
        ("abfss://container@host/audio", "abfss"),
        ("s3://", "s3"),
        ("file://elsewhere/audio", "absolute path"),
    ] {
        let error = AudioStore::open_with(location, &Map::new()).unwrap_err().to_string();
        assert!(error.contains(why) && !error.contains("geheim"), "{location}: {error}");
    }
}

#[test]
fn buckets_take_their_settings_from_variables() {
    let aws = [("AWS_REGION", "eu-central-1"), ("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "s")];
    let azure = [("AZURE_STORAGE_ACCOUNT_NAME", "ada"), ("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")];
    let azure_command = [("AZURE_STORAGE_ACCOUNT", "ada"), ("AZURE_STORAGE_KEY", "a2V5")];
    for (location, variables) in [
        ("s3://bucket/some/folder", Map::from(aws)),
        ("gs://bucket/some/folder", Map::from([("GOOGLE_BEARER_TOKEN", "t")])),
        ("az://container/some/folder", Map::from(azure)),
        ("abfs://container/some/folder", Map::from(azure_command)),
        (
            "abfss://container@ada.dfs.core.windows.net/some/folder",
            Map::from([("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")]),
        ),
    ] {
        let store = AudioStore::open_with(location, &variables).unwrap();
        assert_eq!(store.path(&key("ada/r-1")).as_ref(), "some/folder/ada/r-1", "{location}");
        assert_eq!(store.local_path(&key("ada/r-1")), None, "{location}");
    }
}

#[test]
fn a_file_of_credentials_that_is_not_there_is_named() {
    let variables = Map::from([("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")]);
    let error = AudioStore::open_with("gs://bucket/audio", &variables).unwrap_err().to_string();
    assert!(error.contains("/nowhere/key.json") && error.contains("No such file"), "{error}");
}

/// Objects by path, as each cloud puts and reads them; whoever asks for an identity is told that there is none.
async fn cloud() -> u16 {
    type Objects = Arc<std::sync::Mutex<std::collections::BTreeMap<String, Bytes>>>;
    let objects = Objects::default();
    let answer = move |method: Method, path: FullPath, body: Bytes| {
        let reply = Response::builder()
            .header("etag", "\"1\"")
            .header("last-modified", "Tue, 05 May 2026 10:00:00 GMT");
        let mut objects = objects.lock().unwrap();
        let (status, body) = match (method, objects.get(path.as_str())) {
            (Method::PUT, _) if path.as_str().starts_with("/v/") => {
                objects.insert(path.as_str().to_owned(), body);
                (201, Bytes::new())
            }
            (Method::GET | Method::HEAD, Some(object)) => (200, object.clone()),
            _ => (404, Bytes::new()),
        };
        reply.status(status).body(body.to_vec()).unwrap()
    };
    let routes = warp::method().and(warp::path::full()).and(warp::body::bytes()).map(answer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(warp::serve(routes).incoming(listener).run());
    port
}

#[tokio::test]
async fn each_cloud_takes_audio_and_gives_it_back() {
    let endpoint = format!("http://127.0.0.1:{}", cloud().await);
    for (location, variables) in [
        (
            "s3://v/folder",
            [("AWS_ENDPOINT", &*endpoint), ("AWS_ALLOW_HTTP", "1"), ("AWS_SKIP_SIGNATURE", "1")],
        ),
        (
            "gs://v/folder",
            [("GOOGLE_BASE_URL", &*endpoint), ("GOOGLE_BEARER_TOKEN", "t"), ("GOOGLE_SKIP_SIGNATURE", "1")],
        ),
        (
            "abfss://v@ada.dfs.core.windows.net/folder",
            [
                ("AZURE_STORAGE_ENDPOINT", &*endpoint),
                ("AZURE_ALLOW_HTTP", "1"),
                ("AZURE_SKIP_SIGNATURE", "1"),
            ],
        ),
    ] {
        let store = AudioStore::open_with(location, &Map::from(variables)).unwrap();
        let key = key(&format!("ada/{}", &location[..2]));
        let missing = store.head(&key).await;
        assert!(matches!(missing, Err(StoreError::NotFound { .. })), "{location}: {missing:?}");
        store.put_bytes(&key, noise(1000)).await.unwrap();
        assert_eq!(store.get_bytes(&key, 1000).await.unwrap(), noise(1000), "{location}");
        assert_eq!(store.head(&key).await.unwrap().size, 1000, "{location}");
    }
}

#[tokio::test]
async fn missing_credentials_are_told_with_the_variables_to_set() {
    let endpoint = format!("http://127.0.0.1:{}", cloud().await);
    for (location, variables, remedy) in [
        (
            "s3://v/folder",
            [("AWS_METADATA_ENDPOINT", &*endpoint)],
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
        (
            "abfss://v@ada.dfs.core.windows.net/folder",
            [("AZURE_MSI_ENDPOINT", &*format!("{endpoint}/metadata/identity/oauth2/token"))],
            "set AZURE_STORAGE_ACCOUNT_KEY",
        ),
    ] {
        let store = AudioStore::open_with(location, &Map::from(variables)).unwrap();
        let error = store.put_bytes(&key("ada/r-1"), noise(10)).await.unwrap_err();
        assert!(error.is_retryable());
        let told = chain(&error);
        assert!(told.contains("no credentials") && told.contains(remedy), "{location}: {told}");
    }
}
