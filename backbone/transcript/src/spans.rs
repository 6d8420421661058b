//! The spans of a segment: as values, or straight from the form they are stored in into the one of the document.
//!
//! Stored is the JSON of [`Span`]s as it stands in the event: written by `serde_json`, without spaces, every field in its
//! place. Most readers want the document, which has the same numbers and texts in another order and without the token
//! ids. To make a value of each word and write it again takes most of the time of such a read; so what is written as
//! expected is copied piece by piece, and only what is not is read into values.

use events::{Span, Word};

use crate::format::{DocumentSpan, DocumentWord};

/// What stands for the spans of a segment in a [`Transcript`](crate::Transcript).
pub trait Spans: Sized {
    /// Reads the stored form.
    ///
    /// # Errors
    /// Where it is not the JSON of [`Span`]s.
    fn read(stored: &str) -> Result<Self, serde_json::Error>;

    /// Writes them as elements of a list of [`DocumentSpan`]s, without the brackets around it.
    fn write_document(&self, out: &mut String);

    /// Bytes that [`write_document`](Spans::write_document) writes, about.
    fn document_len(&self) -> usize;
}

impl Spans for Vec<Span> {
    fn read(stored: &str) -> Result<Vec<Span>, serde_json::Error> {
        serde_json::from_str(stored)
    }

    fn write_document(&self, out: &mut String) {
        for (at, span) in self.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            let json = serde_json::to_string(&document_span(span));
            out.push_str(&json.expect("a span is plain data: every value has a JSON form"));
        }
    }

    fn document_len(&self) -> usize {
        self.iter().map(|span| 256 + span.text.len() + 112 * span.words.len()).sum()
    }
}

/// Spans in the form of the document, of no use for anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentSpans(String);

impl Spans for DocumentSpans {
    fn read(stored: &str) -> Result<DocumentSpans, serde_json::Error> {
        let mut out = String::with_capacity(stored.len());
        if transcribe(stored, &mut out).is_none() {
            out.clear();
            Vec::<Span>::read(stored)?.write_document(&mut out);
        }
        Ok(DocumentSpans(out))
    }

    fn write_document(&self, out: &mut String) {
        out.push_str(&self.0);
    }

    fn document_len(&self) -> usize {
        self.0.len()
    }
}

/// Says whether `stored` is the JSON of [`Span`]s.
///
/// # Errors
/// Where it is not.
pub fn check(stored: &str) -> Result<(), serde_json::Error> {
    DocumentSpans::read(stored).map(drop)
}

fn document_span(span: &Span) -> DocumentSpan<'_> {
    DocumentSpan {
        start_ms: span.start_ms,
        end_ms: span.end_ms,
        text: span.text.trim(),
        avg_logprob: span.avg_logprob,
        no_speech_prob: span.no_speech_prob,
        compression_ratio: span.compression_ratio,
        temperature: span.temperature,
        words: span.words.iter().map(document_word).collect(),
    }
}

fn document_word(word: &Word) -> DocumentWord<'_> {
    let Word { start_ms, end_ms, probability, .. } = *word;
    DocumentWord { start_ms, end_ms, text: word.text.trim(), probability }
}

/// Copies stored spans into the form of the document; `None` where something is not written as expected.
fn transcribe(stored: &str, out: &mut String) -> Option<()> {
    let mut stored = Stored { text: stored, at: 0 };
    stored.pass(b"[")?;
    if stored.pass(b"]").is_none() {
        loop {
            stored.copy_span(out)?;
            if stored.pass(b",").is_none() {
                break;
            }
            out.push(',');
        }
        stored.pass(b"]")?;
    }
    (stored.at == stored.text.len()).then_some(())
}

/// Stored spans, read up to `at`. What fails leaves `at` where it was or stops the reading.
struct Stored<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Stored<'a> {
    fn copy_span(&mut self, out: &mut String) -> Option<()> {
        let from = self.at;
        self.pass(b"{\"start_ms\":")?;
        self.pass_integer()?;
        self.pass(b",\"end_ms\":")?;
        self.pass_integer()?;
        self.pass(b",\"text\":\"")?;
        out.push_str(&self.text[from..self.at]);
        self.pass_text()?.push_trimmed(out)?;
        self.pass(b",\"tokens\":[")?;
        if self.pass(b"]").is_none() {
            loop {
                self.pass_integer()?;
                if self.pass(b",").is_none() {
                    break;
                }
            }
            self.pass(b"]")?;
        }
        let from = self.at;
        self.pass(b",\"avg_logprob\":")?;
        self.pass_float()?;
        self.pass(b",\"no_speech_prob\":")?;
        self.pass_float()?;
        self.pass(b",\"compression_ratio\":")?;
        self.pass_float()?;
        self.pass(b",\"temperature\":")?;
        self.pass_float()?;
        let has_words = self.pass(b",\"words\":[").is_some();
        out.push('"');
        out.push_str(&self.text[from..self.at]);
        if has_words {
            loop {
                self.copy_word(out)?;
                if self.pass(b",").is_none() {
                    break;
                }
                out.push(',');
            }
            self.pass(b"]")?;
            out.push(']');
        }
        self.pass(b"}")?;
        out.push('}');
        Some(())
    }

    fn copy_word(&mut self, out: &mut String) -> Option<()> {
        self.pass(b"{\"text\":\"")?;
        let word = self.pass_text()?;
        self.pass(b",")?;
        let times = self.at;
        self.pass(b"\"start_ms\":")?;
        self.pass_integer()?;
        self.pass(b",\"end_ms\":")?;
        self.pass_integer()?;
        let times = times..self.at;
        let probability = self.at;
        self.pass(b",\"probability\":")?;
        self.pass_float()?;
        self.pass(b"}")?;
        out.push('{');
        out.push_str(&self.text[times]);
        out.push_str(",\"text\":\"");
        word.push_trimmed(out)?;
        out.push('"');
        out.push_str(&self.text[probability..self.at]);
        Some(())
    }

    /// Passes `expected`, of a length known beforehand: compared at once instead of byte by byte.
    fn pass<const N: usize>(&mut self, expected: &[u8; N]) -> Option<()> {
        let next: &[u8; N] = self.text.as_bytes().get(self.at..)?.first_chunk()?;
        if next != expected {
            return None;
        }
        self.at += N;
        Some(())
    }

    /// Passes the inside of a string and the quotation mark after it.
    fn pass_text(&mut self) -> Option<Inside<'a>> {
        let from = self.at;
        let rest = self.text.as_bytes().get(from..)?;
        let mut at = 0;
        let mut has_escapes = false;
        loop {
            match *rest.get(at)? {
                b'"' => break,
                b'\\' => {
                    has_escapes = true;
                    at += 2;
                }
                0..0x20 => return None,
                _ => at += 1,
            }
        }
        self.at = from + at + 1;
        Some(Inside { json: self.text.get(from..from + at)?, has_escapes })
    }

    /// Passes a number that fits all integers of a span.
    fn pass_integer(&mut self) -> Option<()> {
        let from = self.at;
        let digits = self.pass_digits()?;
        (digits < 10 && (digits == 1 || self.text.as_bytes()[from] != b'0')).then_some(())
    }

    /// Passes a number that fits a float, as the shortest form of one is written.
    fn pass_float(&mut self) -> Option<()> {
        // Optional, as what follows them.
        let _sign = self.pass(b"-");
        let from = self.at;
        let whole = self.pass_digits()?;
        if whole > 9 || (whole > 1 && self.text.as_bytes()[from] == b'0') {
            return None;
        }
        if self.pass(b".").is_some() && self.pass_digits()? > 20 {
            return None;
        }
        if self.pass(b"e-").is_some() && self.pass_digits()? > 2 {
            return None;
        }
        Some(())
    }

    /// Passes digits, one at least; tells how many.
    fn pass_digits(&mut self) -> Option<usize> {
        let rest = &self.text.as_bytes()[self.at..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += digits;
        (digits > 0).then_some(digits)
    }
}

/// The inside of a JSON string.
struct Inside<'a> {
    json: &'a str,
    has_escapes: bool,
}

impl Inside<'_> {
    /// Adds it without the white space around it. Escapes may stand for white space, so what has some is read.
    fn push_trimmed(&self, out: &mut String) -> Option<()> {
        let json = self.json;
        if self.has_escapes {
            let text: String = serde_json::from_str(&format!("\"{json}\"")).ok()?;
            let text = serde_json::to_string(text.trim()).ok()?;
            out.push_str(text.get(1..text.len() - 1)?);
            return Some(());
        }
        // Almost all are a space and a word.
        let word = json.strip_prefix(' ').unwrap_or(json);
        let ends = [word.as_bytes().first(), word.as_bytes().last()];
        let is_bare = ends.iter().all(|end| end.is_some_and(u8::is_ascii_graphic));
        out.push_str(if is_bare { word } else { word.trim() });
        Some(())
    }
}

#[cfg(test)]
mod tests;
