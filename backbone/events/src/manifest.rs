//! What stands beside the audio of a drop in the audio store, so that an accepted drop outlives any queue.
//!
//! Whoever takes a drop in writes the audio, then the manifest, both durably, and only then hands the drop to the
//! queue. A manifest whose drop reached no final state can be handed in again: its fields are the queue's entry.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::settings::Lane;

/// The folder of the audio store that drops wait in.
const INCOMING: &str = "incoming";

/// Everything a drop was handed in with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The drop's id: letters, digits, `-` and `_`, because it is a folder of the audio store.
    pub drop: String,
    /// The lane it goes in.
    pub lane: Lane,
    /// The fields of the queue's entry: `drop`, `uri`, `sha256`, `submitted_at` and the options the sender gave.
    pub fields: BTreeMap<String, String>,
    /// When it was taken in.
    pub submitted_at: Timestamp,
}

impl Manifest {
    /// The largest manifest in bytes: its fields become an event, and events are small.
    pub const BYTES_MAX: u64 = 64 * 1024;

    /// Makes the manifest of a drop whose audio lies under [`Manifest::audio_key`]; `options` are all other fields.
    pub fn new(
        drop: &str,
        lane: Lane,
        sha256: &str,
        options: impl IntoIterator<Item = (String, String)>,
        submitted_at: Timestamp,
    ) -> Manifest {
        let mut fields: BTreeMap<String, String> = options.into_iter().collect();
        fields.insert("drop".to_owned(), drop.to_owned());
        fields.insert("uri".to_owned(), format!("store:{}", Manifest::audio_key(drop)));
        fields.insert("sha256".to_owned(), sha256.to_owned());
        // Handed in again it is still the same drop, of the same time.
        fields.insert("submitted_at".to_owned(), submitted_at.to_string());
        Manifest { drop: drop.to_owned(), lane, fields, submitted_at }
    }

    /// The key of a drop's audio in the audio store.
    pub fn audio_key(drop: &str) -> String {
        format!("{INCOMING}/{drop}/audio")
    }

    /// The key of a drop's manifest in the audio store.
    pub fn key(drop: &str) -> String {
        format!("{INCOMING}/{drop}/manifest")
    }

    /// The drop whose manifest lies under `key`; `None` for any other key.
    pub fn drop_of(key: &str) -> Option<&str> {
        drop_of(key, "/manifest")
    }

    /// The drop whose audio lies under `key`; `None` for any other key.
    pub fn drop_of_audio(key: &str) -> Option<&str> {
        drop_of(key, "/audio")
    }

    /// The key of the folder that drops wait in, for listing it.
    pub fn folder() -> &'static str {
        INCOMING
    }

    /// Writes the manifest as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest is plain data: every value has a JSON form")
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// By serde, for text that is no manifest.
    pub fn from_json(json: &[u8]) -> Result<Manifest, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

fn drop_of<'a>(key: &'a str, file: &str) -> Option<&'a str> {
    let drop = key.strip_prefix(INCOMING)?.strip_prefix('/')?.strip_suffix(file)?;
    (!drop.is_empty() && !drop.contains('/')).then_some(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_survives_its_json_and_carries_the_entry() {
        let options = [("name".to_owned(), "talk.mp3".to_owned()), ("meta.call".to_owned(), "7".to_owned())];
        let at = "2026-02-03T04:05:06Z".parse().unwrap();
        let manifest = Manifest::new("d1", Lane::Rt, "ab12", options, at);
        let json = String::from_utf8(manifest.to_json()).unwrap();
        assert_eq!(
            json,
            r#"{"drop":"d1","lane":"rt","fields":{"drop":"d1","meta.call":"7","name":"talk.mp3","sha256":"ab12","submitted_at":"2026-02-03T04:05:06Z","uri":"store:incoming/d1/audio"},"submitted_at":"2026-02-03T04:05:06Z"}"#
        );
        assert_eq!(Manifest::from_json(json.as_bytes()).unwrap(), manifest);
        assert!(Manifest::from_json(b"not json").is_err());
    }

    #[test]
    fn options_cannot_stand_in_for_what_names_the_drop() {
        let forged =
            [("uri".to_owned(), "file:///etc/passwd".to_owned()), ("drop".to_owned(), "other".to_owned())];
        let manifest = Manifest::new("d1", Lane::Batch, "ab", forged, Timestamp::UNIX_EPOCH);
        assert_eq!(manifest.fields["uri"], "store:incoming/d1/audio");
        assert_eq!(manifest.fields["drop"], "d1");
    }

    #[test]
    fn the_drop_is_read_back_from_the_key_of_a_manifest_alone() {
        assert_eq!(Manifest::drop_of(&Manifest::key("d1")), Some("d1"));
        assert_eq!(Manifest::drop_of_audio(&Manifest::audio_key("d1")), Some("d1"));
        assert_eq!(Manifest::drop_of_audio(&Manifest::key("d1")), None);
        for other in
            [&*Manifest::audio_key("d1"), "incoming//manifest", "incoming/a/b/manifest", "tenant/recording"]
        {
            assert_eq!(Manifest::drop_of(other), None, "{other}");
        }
    }
}
