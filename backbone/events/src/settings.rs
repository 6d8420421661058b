//! How a recording is to be transcribed: resolved once at admission, then frozen in its events.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::decoding::Decoding;
use crate::id::IdError;

/// The rules that cut speech into segments, by number: whatever moves a cut raises it. Ingest freezes it in the
/// settings, and decode refuses to cut by rules it does not have.
pub const CUTTER_VERSION: u32 = 2;

/// Everything that decides the text of a transcript. A worker that holds another model hash refuses the work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Which weights.
    pub model: ModelRef,
    /// Transcribe in the spoken language, or translate to English.
    #[serde(default)]
    pub task: Task,
    /// ISO 639-1 code; `None` lets the model identify it from the first speech.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Text the decoder is primed with: names and spelling it should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The fallback ladder; 0 is greedy. `[0.0]` alone switches fallback off.
    #[serde(default = "default_temperatures")]
    pub temperatures: Vec<f32>,
    /// One transcript of all channels mixed, or one per channel.
    #[serde(default)]
    pub channels: Channels,
    /// Version of the rules that cut speech into segments; another version cuts elsewhere.
    pub cutter: u32,
    /// How the decoder searches and what it believes; left out where nothing differs from the default.
    #[serde(default, skip_serializing_if = "Decoding::is_default")]
    pub decoding: Decoding,
}

impl Settings {
    /// Returns the settings as canonical bytes: equal settings give equal bytes, for de-duplication.
    pub fn canonical(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("settings are plain data: every value has a JSON form")
    }
}

/// The temperatures of openai/whisper `transcribe()`.
pub fn default_temperatures() -> Vec<f32> {
    vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
}

/// A model by name, and by the SHA-256 of its weights, so that a replaced file is noticed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelRef {
    /// The name people use, such as `tiny.en`.
    pub name: String,
    /// SHA-256 of the weights file, hexadecimal.
    pub sha256: String,
}

macro_rules! words {
    ($(#[$meta:meta])* $name:ident, $what:literal, $expected:literal { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// Returns the word that stands for the value in events, options and SQL.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<$name, IdError> {
                match text {
                    $($text => Ok($name::$variant),)+
                    _ => Err(IdError { what: $what, text: text.chars().take(64).collect(), expected: $expected }),
                }
            }
        }
    };
}

words! {
    /// What the model does with the speech.
    Task, "task", "transcribe or translate" {
        /// Text in the language that is spoken.
        #[default]
        Transcribe = "transcribe",
        /// Text in English.
        Translate = "translate",
    }
}

words! {
    /// How the channels of a recording become transcripts.
    Channels, "channels value", "mix or each" {
        /// All channels averaged into one.
        #[default]
        Mix = "mix",
        /// Each channel on its own, as call recordings want it.
        Each = "each",
    }
}

words! {
    /// The priority of work.
    Lane, "lane", "rt, batch or replay" {
        /// Somebody is waiting.
        Rt = "rt",
        /// The normal lane.
        #[default]
        Batch = "batch",
        /// Reprocessing of the past.
        Replay = "replay",
    }
}

words! {
    /// How a generation becomes the one that readers see.
    Activation, "activation policy", "auto or manual" {
        /// Once complete, if it has no more failed segments than the one before.
        #[default]
        Auto = "auto",
        /// Only when somebody says so.
        Manual = "manual",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_text_and_json() {
        for &lane in Lane::ALL {
            assert_eq!(lane.as_str().parse::<Lane>(), Ok(lane));
            assert_eq!(serde_json::to_string(&lane).unwrap(), format!("\"{lane}\""));
        }
        let error = "fast".parse::<Lane>().unwrap_err();
        assert_eq!(error.to_string(), "\"fast\" is not a lane: rt, batch or replay");
    }

    #[test]
    fn equal_settings_have_equal_bytes_and_defaults_fill_in() {
        let short = r#"{"model":{"name":"tiny.en","sha256":"ab"},"cutter":1}"#;
        let settings: Settings = serde_json::from_str(short).unwrap();
        let again: Settings = serde_json::from_slice(&settings.canonical()).unwrap();
        assert_eq!(settings, again);
        assert_eq!(settings.canonical(), again.canonical());
        assert_eq!(settings.temperatures.len(), 6);
        assert!(settings.decoding.is_default());
    }

    #[test]
    fn options_of_decoding_change_the_bytes_only_where_they_differ() {
        let with = |decoding: &str| {
            let json = format!(r#"{{"model":{{"name":"a","sha256":"b"}},"cutter":1{decoding}}}"#);
            let settings: Settings = serde_json::from_str(&json).unwrap();
            assert_eq!(settings, serde_json::from_slice(&settings.canonical()).unwrap());
            String::from_utf8(settings.canonical()).unwrap()
        };
        let before = r#"{"model":{"name":"a","sha256":"b"},"task":"transcribe","temperatures":[0.0,0.2,0.4,0.6,0.8,1.0],"channels":"mix","cutter":1}"#;
        assert_eq!(with(""), before);
        assert_eq!(with(r#","decoding":{}"#), before);
        assert_eq!(with(r#","decoding":{"beam_size":1,"no_speech_threshold":0.6}"#), before);
        let searched = format!("{},\"decoding\":{{\"beam_size\":5}}}}", &before[..before.len() - 1]);
        assert_eq!(with(r#","decoding":{"beam_size":5}"#), searched);
    }
}
