//! Trimmed windows: of a window shorter than 30 s only the sound and a margin are encoded, which saves the encoder most
//! of its work on short speech.
//!
//! Weights are trained on whole windows, so whether a model hears as well without the padding has to be measured.
//! `cargo xtask bench trim` does, and keeps what it found in `trim.json`.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::cpu::Precision;
use crate::model::AUDIO_POSITIONS;

/// Encoder positions (20 ms) behind the sound that are encoded with it.
pub const MARGIN: usize = 100;
/// The fewest positions of all: below, stock weights loop and invent.
pub const POSITIONS_MIN: usize = 250;

/// How many positions of a window with so many frames (10 ms) of sound are encoded when it is trimmed.
pub fn positions(frames: usize) -> usize {
    (frames.div_ceil(2) + MARGIN).clamp(POSITIONS_MIN, AUDIO_POSITIONS)
}

/// Whether weights were measured to hear a language no worse in trimmed windows, with the margin and the least length
/// of this build. `sha256` is that of the weights.
pub fn has_passed(sha256: &str, precision: Precision, language: &str) -> bool {
    MEASURED.has_passed(sha256, precision, language)
}

static MEASURED: LazyLock<Measured> = LazyLock::new(|| {
    serde_json::from_str(include_str!("trim.json")).expect("a test reads the file that is built in")
});

/// What was measured.
#[derive(Debug, Deserialize)]
struct Measured {
    /// [`MARGIN`] and [`POSITIONS_MIN`] it was measured with.
    margin: usize,
    positions_min: usize,
    models: Vec<Trial>,
}

#[derive(Debug, Deserialize)]
struct Trial {
    sha256: String,
    precision: String,
    language: String,
    passed: bool,
}

impl Measured {
    fn has_passed(&self, sha256: &str, precision: Precision, language: &str) -> bool {
        (self.margin, self.positions_min) == (MARGIN, POSITIONS_MIN)
            && self.models.iter().any(|trial| {
                trial.passed
                    && trial.sha256 == sha256
                    && trial.precision == precision.name()
                    && trial.language == language
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(margin: usize) -> Measured {
        let trial = |precision, language, passed| serde_json::json!({"sha256": "ab", "precision": precision, "language": language, "passed": passed, "words": 7});
        let models = [trial("int8", "en", true), trial("f32", "en", false), trial("int8", "de", false)];
        serde_json::from_value(
            serde_json::json!({"margin": margin, "positions_min": POSITIONS_MIN, "models": models}),
        )
        .unwrap()
    }

    #[test]
    fn only_what_was_measured_has_passed() {
        let passed = |sha256, precision, language| measured(MARGIN).has_passed(sha256, precision, language);
        assert!(passed("ab", Precision::Int8, "en"));
        assert!(!passed("ab", Precision::F32, "en"), "heard worse");
        assert!(!passed("ab", Precision::Int8, "de"), "heard worse in this language");
        assert!(!passed("ab", Precision::Int8, "fr"), "a language nobody measured");
        assert!(!passed("cd", Precision::Int8, "en"), "other weights");
        assert!(!measured(MARGIN + 1).has_passed("ab", Precision::Int8, "en"), "another margin");
    }

    #[test]
    fn what_is_built_in_can_be_read_and_is_of_this_margin() {
        assert_eq!((MEASURED.margin, MEASURED.positions_min), (MARGIN, POSITIONS_MIN));
        for trial in &MEASURED.models {
            assert!(
                trial.sha256.len() == 64 && trial.sha256.bytes().all(|b| b.is_ascii_hexdigit()),
                "{trial:?}"
            );
            assert!(["int8", "f32"].contains(&trial.precision.as_str()), "{trial:?}");
        }
    }

    #[test]
    fn a_trimmed_window_holds_the_sound_and_a_margin() {
        assert_eq!(positions(0), 250);
        assert_eq!(positions(300), 250, "3 s and 2 s more");
        assert_eq!(positions(1_001), 601);
        assert_eq!(positions(2_800), 1_500);
        assert_eq!(positions(3_000), 1_500);
    }
}
