//! A stand-in for a model, for tests of everything around the model: its text is a hash of the speech.
//!
//! Whoever has the audio knows what each text must be, to the letter, without a model and at no cost. The program offers
//! it only where `--hash-model` is set.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::{ModelInfo, Output, Span};

/// The name that drops ask for it by.
pub const NAME: &str = "hash";

/// One segment in so many takes long, which no other worker may take for dead.
const LONG_ONE_IN: u8 = 64;
/// How much longer.
const LONG_TIMES: u32 = 40;
/// What needs longer than this as a rule has no long ones.
const LONGEST: Duration = Duration::from_secs(5);

/// What it is, as an announcement says it. Its weights are its name.
pub fn info() -> ModelInfo {
    ModelInfo {
        name: NAME.to_owned(),
        sha256: hex::encode(Sha256::digest(NAME)),
        multilingual: false,
        mels: 0,
        languages: vec!["en"],
    }
}

/// Transcribes 16 kHz mono speech: four words of four hexadecimal digits, of what was said before too where it is told.
pub fn transcribe(pcm: &[i16], previous: Option<&[u32]>) -> Output {
    let text = text_after(previous.unwrap_or_default(), pcm);
    let end_ms = pcm.len() as u64 * 1000 / crate::features::SAMPLE_RATE as u64;
    let span = Span {
        start_ms: 0,
        end_ms,
        text: format!(" {text}"),
        tokens: Vec::new(),
        avg_logprob: 0.0,
        no_speech_prob: 0.0,
        compression_ratio: 1.0,
        temperature: 0.0,
        words: Vec::new(),
    };
    Output {
        language: "en".to_owned(),
        language_probability: 1.0,
        languages: Vec::new(),
        spans: vec![span],
        coverage: 1.0,
        gaps: Vec::new(),
        context: text.bytes().map(u32::from).collect(),
        trimmed: 0,
        reread: 0,
    }
}

/// The text of 16 kHz mono speech.
pub fn text(pcm: &[i16]) -> String {
    text_after(&[], pcm)
}

/// The text of 16 kHz mono speech behind what a text [left](Output::context).
pub fn text_after(previous: &[u32], pcm: &[i16]) -> String {
    let digits = hex::encode(&digest(previous, pcm)[..8]);
    format!("{} {} {} {}", &digits[..4], &digits[4..8], &digits[8..12], &digits[12..])
}

/// How long this speech takes, where `usual` is the setting: a few take very long.
pub fn pause(pcm: &[i16], usual: Duration) -> Duration {
    if digest(&[], pcm)[8].is_multiple_of(LONG_ONE_IN) {
        usual.max(LONGEST.min(usual * LONG_TIMES))
    } else {
        usual
    }
}

fn digest(previous: &[u32], pcm: &[i16]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for token in previous {
        hash.update(token.to_le_bytes());
    }
    for sample in pcm {
        hash.update(sample.to_le_bytes());
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_the_speech_and_nothing_else() {
        let output = transcribe(&[1; 16_000], None);
        assert_eq!((output.spans[0].start_ms, output.spans[0].end_ms), (0, 1_000));
        assert_eq!(output.spans[0].text.trim(), text(&[1; 16_000]));
        assert_ne!(text(&[1; 16_000]), text(&[1; 15_999]));
        let after = transcribe(&[1; 16_000], Some(&output.context));
        assert_eq!(after.spans[0].text.trim(), text_after(&output.context, &[1; 16_000]));
        assert_ne!(after.spans[0].text, output.spans[0].text);
        assert_eq!(text(&[]), "e3b0 c442 98fc 1c14", "SHA-256 of nothing");
    }

    #[test]
    fn few_segments_take_long() {
        let usual = Duration::from_millis(10);
        let long = (0..6400).filter(|&n| pause(&[n], usual) > usual).count();
        assert!((50..200).contains(&long), "{long} of 6400");
        let slow = Duration::from_secs(9);
        assert!(
            (0..6400).all(|n| pause(&[n], slow) == slow),
            "what is slow anyhow is as slow as it is set to be"
        );
    }
}
