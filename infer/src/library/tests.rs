use super::*;
use crate::engine::tests::{break_down, write_ctranslate2};

/// A models folder with these, each of random weights.
fn models(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        write_ctranslate2(&folder.path().join(name), 51_864);
    }
    folder
}

fn library(folder: &tempfile::TempDir, bytes_max: u64) -> Library {
    Library::new(folder.path().to_owned(), Setup { threads: 1, segments: 1, ..Setup::default() }, bytes_max)
}

#[tokio::test]
async fn a_model_is_loaded_once_for_all_who_ask() {
    let folder = models(&["a"]);
    let library = library(&folder, u64::MAX);
    let (first, second) = tokio::join!(library.get("a"), library.get("a"));
    assert!(Arc::ptr_eq(&first.unwrap(), &second.unwrap()));
    assert_eq!(library.loaded(), ["a"]);
}

#[tokio::test]
async fn the_least_recently_used_makes_room_and_what_is_in_use_stays() {
    let folder = models(&["a", "b", "c"]);
    let one = {
        let report = library(&folder, u64::MAX).get("a").await.unwrap().report().clone();
        (report.weight_bytes + report.state_bytes) as u64
    };
    let library = library(&folder, 2 * one + one / 2);
    drop(library.get("a").await.unwrap());
    drop(library.get("b").await.unwrap());
    drop(library.get("a").await.unwrap());
    drop(library.get("c").await.unwrap());
    assert_eq!(library.loaded(), ["a", "c"]);
    let (_a, _c) = (library.get("a").await.unwrap(), library.get("c").await.unwrap());
    let _b = library.get("b").await.unwrap();
    assert_eq!(library.loaded(), ["a", "b", "c"], "all are in use");
}

#[tokio::test]
async fn what_is_idle_is_unloaded_and_loaded_again_when_asked_for() {
    let folder = models(&["a"]);
    let library = library(&folder, u64::MAX);
    let held = library.get("a").await.unwrap();
    assert!(library.unload_idle(Duration::ZERO).is_empty(), "somebody uses it");
    drop(held);
    assert!(library.unload_idle(Duration::from_secs(3_600)).is_empty());
    assert_eq!(library.unload_idle(Duration::ZERO), ["a"]);
    assert!(library.loaded().is_empty());
    assert!(library.get("a").await.is_ok());
}

#[tokio::test]
async fn an_unknown_model_and_a_damaged_one_are_told_and_asked_for_again() {
    let folder = models(&["a"]);
    let library = library(&folder, u64::MAX);
    let message = library.get("b").await.err().unwrap().to_string();
    assert!(message.contains("there is no model \"b\"") && message.contains("there is: a"), "{message}");
    let file = folder.path().join("a/model.bin");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..1_000]).unwrap();
    assert!(library.get("a").await.err().unwrap().to_string().contains("is damaged"));
    std::fs::write(&file, &whole).unwrap();
    assert!(library.get("a").await.is_ok());
}

#[tokio::test]
async fn an_engine_that_broke_down_is_loaded_again() {
    let folder = models(&["a"]);
    let library = library(&folder, u64::MAX);
    let broken = library.get("a").await.unwrap();
    break_down(&broken);
    let again = library.get("a").await.unwrap();
    assert!(!Arc::ptr_eq(&broken, &again) && !again.has_ended());
}
