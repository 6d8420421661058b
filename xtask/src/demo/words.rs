//! A transcript as the command prints it, and how many of its words are wrong.

use anyhow::{Context, Result};
use serde_json::Value;

/// What the demo shows of a transcript.
pub struct Transcript {
    /// The id of the recording.
    pub recording: String,
    /// The text in pieces, in order.
    pub spans: Vec<Span>,
}

/// A piece of text; times are milliseconds from the start of the recording.
pub struct Span {
    pub start_ms: u64,
    pub end_ms: u64,
    pub text: String,
}

impl Transcript {
    /// Reads the project's own JSON document.
    pub fn read(json: &[u8]) -> Result<Transcript> {
        let document: Value = serde_json::from_slice(json)?;
        let recording = document["recording"].as_str().context("find `recording`")?.to_owned();
        let mut spans = Vec::new();
        for segment in document["segments"].as_array().context("find `segments`")? {
            for span in segment["spans"].as_array().context("find `spans`")? {
                spans.push(Span {
                    start_ms: span["start_ms"].as_u64().context("find `start_ms`")?,
                    end_ms: span["end_ms"].as_u64().context("find `end_ms`")?,
                    text: span["text"].as_str().context("find `text`")?.to_owned(),
                });
            }
        }
        Ok(Transcript { recording, spans })
    }

    /// All of the text.
    pub fn text(&self) -> String {
        let texts: Vec<&str> = self.spans.iter().map(|span| span.text.as_str()).collect();
        texts.join(" ")
    }
}

/// The words of a text, without case and punctuation; a hyphen parts words.
pub fn normalized(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'')
        .filter(|word| !word.is_empty())
        .map(|word| match word.to_lowercase().as_str() {
            "mister" => "mr".to_owned(),
            word => word.to_owned(),
        })
        .collect()
}

/// How many words must be put in, taken out or replaced to make `expected` of `got`.
pub fn errors(expected: &str, got: &str) -> usize {
    let (expected, got) = (normalized(expected), normalized(got));
    // Row by row: the cost of making the first words of `expected` of the first words of `got`.
    let mut costs: Vec<usize> = (0..=got.len()).collect();
    for (row, word) in expected.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut costs[0], row + 1);
        for (column, other) in got.iter().enumerate() {
            let replaced = diagonal + usize::from(word != other);
            diagonal = costs[column + 1];
            costs[column + 1] = replaced.min(diagonal + 1).min(costs[column] + 1);
        }
    }
    costs[got.len()]
}

#[cfg(test)]
mod tests {
    use super::{Transcript, errors};

    #[test]
    fn wrong_words_are_counted() {
        assert_eq!(errors("Mr. Dashwood, an ill-disposed man", "mister dashwood an ill disposed man"), 0);
        assert_eq!(errors("a b c d", "a x c d"), 1);
        assert_eq!(errors("a b c d", "a c d"), 1);
        assert_eq!(errors("a b c d", "a b b c d"), 1);
        assert_eq!(errors("a b c d", ""), 4);
        assert_eq!(errors("", "a"), 1);
    }

    #[test]
    fn the_document_is_read() {
        let json = br#"{"recording":"r1","text":"Hi. There.","segments":[{"start_ms":0,"end_ms":900,"text":"Hi. There.",
            "spans":[{"start_ms":0,"end_ms":400,"text":"Hi."},{"start_ms":400,"end_ms":900,"text":"There."}]}]}"#;
        let transcript = Transcript::read(json).unwrap();
        assert_eq!((transcript.recording.as_str(), transcript.text().as_str()), ("r1", "Hi. There."));
        assert!(Transcript::read(b"{}").is_err());
    }
}
