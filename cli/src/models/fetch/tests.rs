use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::models::hub;
use crate::progress::Progress;

const WEIGHTS: &[u8] = b"these are the weights of a very small model";

/// A server of one file that knows ranges. Its first `broken` answers end after 10 bytes. Returns its address and what
/// it was asked for.
async fn serve(broken: usize) -> (Url, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/model.bin", listener.local_addr().unwrap()).parse().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        for count in 0.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]).to_ascii_lowercase();
            let range = request.lines().find_map(|line| line.strip_prefix("range: bytes="));
            let from: usize = range.and_then(|range| range.trim_end_matches('-').parse().ok()).unwrap_or(0);
            log.lock().unwrap().push(range.unwrap_or("all").to_owned());
            let rest = WEIGHTS.get(from..).unwrap_or_default();
            let head = match range {
                _ if rest.is_empty() => "HTTP/1.1 416 Range Not Satisfiable\r\ncontent-length: 0".to_owned(),
                Some(_) => format!(
                    "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {from}-{}/{}\r\ncontent-length: {}",
                    WEIGHTS.len() - 1,
                    WEIGHTS.len(),
                    rest.len()
                ),
                None => format!("HTTP/1.1 200 OK\r\ncontent-length: {}", rest.len()),
            };
            let rest = if count < broken { &rest[..rest.len().min(10)] } else { rest };
            let _ = stream.write_all(format!("{head}\r\nconnection: close\r\n\r\n").as_bytes()).await;
            let _ = stream.write_all(rest).await;
        }
    });
    (url, asked)
}

fn sha256() -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(WEIGHTS))
}

fn wanted() -> Wanted {
    Wanted { name: "model.bin".to_owned(), bytes: Some(WEIGHTS.len() as u64), sha256: Some(sha256()) }
}

async fn run(url: &Url, wanted: &Wanted, folder: &Path) -> anyhow::Result<String> {
    let http = hub::client(url).unwrap();
    fetch(&http, url, None, wanted, folder, &Progress::new().begin("model.bin")).await
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let (url, asked) = serve(2).await;
    assert_eq!(run(&url, &wanted(), folder.path()).await.unwrap(), sha256());
    assert_eq!(*asked.lock().unwrap(), ["all", "10-", "20-"]);
    assert_eq!(std::fs::read(folder.path().join("model.bin")).unwrap(), WEIGHTS);
    assert!(!folder.path().join("model.bin.part").exists());

    assert_eq!(run(&url, &wanted(), folder.path()).await.unwrap(), sha256());
    assert_eq!(asked.lock().unwrap().len(), 3, "what is there and right is not fetched again");
}

#[tokio::test]
async fn a_part_of_an_earlier_run_is_used_and_one_that_is_too_long_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("model.bin.part");
    std::fs::write(&part, &WEIGHTS[..7]).unwrap();
    let (url, asked) = serve(0).await;
    assert_eq!(run(&url, &wanted(), folder.path()).await.unwrap(), sha256());
    assert_eq!(*asked.lock().unwrap(), ["7-"]);

    std::fs::remove_file(folder.path().join("model.bin")).unwrap();
    std::fs::write(&part, [b'x'; 100]).unwrap();
    assert_eq!(run(&url, &wanted(), folder.path()).await.unwrap(), sha256());
    assert_eq!(*asked.lock().unwrap(), ["7-", "100-", "all"]);
}

#[tokio::test]
async fn what_is_not_what_was_announced_is_refused_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (url, _) = serve(0).await;
    let other = Wanted { sha256: Some("0".repeat(64)), ..wanted() };
    let told = run(&url, &other, folder.path()).await.unwrap_err().to_string();
    assert!(told.contains(&sha256()) && told.contains("run this again"), "{told}");
    let longer = Wanted { bytes: Some(1000), sha256: None, ..wanted() };
    let told = format!("{:#}", run(&url, &longer, folder.path()).await.unwrap_err());
    assert!(told.contains("model.bin"), "{told}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing wrong stays behind");
}

#[test]
fn the_files_of_a_model_are_chosen_from_what_a_repository_holds() {
    let names = |json: &str| {
        let listing: hub::Listing = serde_json::from_str(json).unwrap();
        hub::choose(&listing).map(|wanted| wanted.into_iter().map(|file| file.name).collect::<Vec<_>>())
    };
    let ctranslate2 = r#"{"sha": "abc", "siblings": [
        {"rfilename": ".gitattributes", "size": 1}, {"rfilename": "README.md"},
        {"rfilename": "model.bin", "size": 9, "lfs": {"sha256": "5e", "size": 9}},
        {"rfilename": "config.json", "size": 2}, {"rfilename": "tokenizer.json"},
        {"rfilename": "vocabulary.txt"}, {"rfilename": "../../etc/vocabulary.txt"}]}"#;
    assert_eq!(names(ctranslate2).unwrap(), ["config.json", "tokenizer.json", "vocabulary.txt", "model.bin"]);
    let safetensors = r#"{"siblings": [{"rfilename": "model.safetensors"}, {"rfilename": "model.fp32-00001-of-2.safetensors"},
        {"rfilename": "config.json"}, {"rfilename": "flax_model.msgpack"}, {"rfilename": "generation_config.json"}]}"#;
    assert_eq!(names(safetensors).unwrap(), ["config.json", "generation_config.json", "model.safetensors"]);
    assert_eq!(names(r#"{"siblings": [{"rfilename": "README.md"}]}"#), None);
}

#[test]
fn names_stand_for_repositories() {
    for (name, repository) in [
        ("tiny.en", "Systran/faster-whisper-tiny.en"),
        ("large-v3", "Systran/faster-whisper-large-v3"),
        ("distil-large-v3", "Systran/faster-distil-whisper-large-v3"),
        ("turbo", "mobiuslabsgmbh/faster-whisper-large-v3-turbo"),
        ("openai/whisper-small", "openai/whisper-small"),
    ] {
        assert_eq!(hub::repository(name), repository);
    }
}
