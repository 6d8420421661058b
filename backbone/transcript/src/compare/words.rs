//! The words of a transcript with the time at which each was said.

use std::collections::BTreeMap;

use crate::language;
use crate::transcript::Transcript;

/// A word; in languages without spaces, a character.
#[derive(Clone, Debug)]
pub(super) struct Word<'a> {
    /// As written.
    pub text: &'a str,
    /// What must be the same for two words to be equal: no case, no punctuation.
    pub key: String,
    /// Start within the recording, milliseconds; never before that of the word before it.
    pub start_ms: u64,
    /// End within the recording, milliseconds.
    pub end_ms: u64,
    /// Whether a space stands in front of it.
    spaced: bool,
}

/// Returns the words of each channel in order; all under channel 0 unless channels are told `apart`.
///
/// The time of a word is its own where the transcript has it. Else the words of a span share the span's time by their
/// length, and those of a segment without spans the segment's.
pub(super) fn in_time(transcript: &Transcript, apart: bool) -> BTreeMap<u16, Vec<Word<'_>>> {
    let mut channels: BTreeMap<u16, Vec<Word<'_>>> = BTreeMap::new();
    for segment in &transcript.segments {
        let words = channels.entry(if apart { segment.channel } else { 0 }).or_default();
        let spaced = !segment.language().is_some_and(language::is_unspaced);
        if segment.spans().is_empty() {
            spread(segment.text(), segment.start_ms, segment.end_ms, spaced, words);
        }
        for span in segment.spans() {
            if span.words.is_empty() {
                spread(&span.text, span.start_ms, span.end_ms, spaced, words);
            }
            for word in &span.words {
                spread(&word.text, word.start_ms, word.end_ms, spaced, words);
            }
        }
    }
    for words in channels.values_mut() {
        words.sort_by_key(|word| word.start_ms);
    }
    channels
}

/// Writes words one after the other.
pub(super) fn text(words: &[&Word]) -> String {
    let mut text = String::new();
    for word in words {
        if word.spaced && !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word.text);
    }
    text
}

/// Adds the words of `text`, which share the time from `start_ms` to `end_ms` by their number of letters.
fn spread<'a>(text: &'a str, start_ms: u64, end_ms: u64, spaced: bool, words: &mut Vec<Word<'a>>) {
    let pieces = if spaced { text.split_whitespace().collect() } else { characters(text) };
    let pieces: Vec<(&str, String)> =
        pieces.into_iter().map(|piece| (piece, key(piece))).filter(|(_, key)| !key.is_empty()).collect();
    let letters: u64 = pieces.iter().map(|(_, key)| key.chars().count() as u64).sum();
    let length = end_ms.saturating_sub(start_ms);
    let mut before = 0;
    for (text, key) in pieces {
        let at = |letters_before: u64| start_ms + length * letters_before / letters.max(1);
        let after = before + key.chars().count() as u64;
        words.push(Word { text, key, start_ms: at(before), end_ms: at(after), spaced });
        before = after;
    }
}

/// Cuts text without spaces into characters; words in Latin letters stay whole.
fn characters(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut latin_from = None;
    for (at, c) in text.char_indices() {
        if c.is_ascii_alphanumeric() {
            latin_from.get_or_insert(at);
            continue;
        }
        if let Some(from) = latin_from.take() {
            pieces.push(&text[from..at]);
        }
        pieces.push(&text[at..at + c.len_utf8()]);
    }
    pieces.extend(latin_from.map(|from| &text[from..]));
    pieces
}

/// Letters and digits in lower case, and points between digits: 3.5 is not 35. Commas between digits only group them.
fn key(word: &str) -> String {
    let mut key = String::new();
    let mut chars = word.chars().peekable();
    let mut after_digit = false;
    while let Some(c) = chars.next() {
        if c.is_alphanumeric() {
            key.extend(c.to_lowercase());
        } else if c == '.' && after_digit && chars.peek().is_some_and(char::is_ascii_digit) {
            key.push('.');
        }
        after_digit = c.is_ascii_digit();
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_punctuation_are_not_part_of_a_word() {
        for (word, then) in [
            ("Don't!", "dont"),
            ("\u{201c}Größe,\u{201d}", "größe"),
            ("3.5", "3.5"),
            ("1,000.", "1000"),
            ("--", ""),
            ("♪", ""),
        ] {
            assert_eq!(key(word), then, "{word}");
        }
    }

    #[test]
    fn text_without_spaces_is_cut_into_characters() {
        assert_eq!(characters("我用iPhone 15。"), ["我", "用", "iPhone", " ", "15", "。"]);
    }
}
