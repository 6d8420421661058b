//! Full-text search over the transcripts that readers see.

use events::{RecordingId, Tenant};
use jiff::Timestamp;
use sqlx::Row;
use sqlx::postgres::PgRow;
use transcript::language;
use uuid::Uuid;

use crate::database::Views;
use crate::error::Error;
use crate::fold::generation;
use crate::page::{HitKey, Page};
use crate::recordings::like;
use crate::state::unsigned;
use crate::time::At;

/// What to look for, and where; everything that is `None` does not filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// Words, `"phrases in quotes"`, `or`, `-without`, as web search has them. Words are reduced to their stems by the
    /// rules of each segment's language.
    pub text: String,
    /// In this tenant's recordings.
    pub tenant: Option<Tenant>,
    /// In this recording.
    pub recording: Option<RecordingId>,
    /// In segments of this language, by ISO 639-1 code.
    pub language: Option<String>,
    /// In recordings submitted at this time or later.
    pub from: Option<Timestamp>,
    /// In recordings submitted before this time.
    pub until: Option<Timestamp>,
}

/// A segment in which something was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The recording.
    pub recording: RecordingId,
    /// The name the sender gave it.
    pub name: Option<String>,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// The transcription.
    pub generation: u32,
    /// Channel, 0 for a mix.
    pub channel: u16,
    /// Position within the channel.
    pub index: u32,
    /// Start within the recording, milliseconds.
    pub start_ms: u64,
    /// End within the recording, milliseconds.
    pub end_ms: u64,
    /// ISO 639-1 code.
    pub language: String,
    /// The whole text of the segment.
    pub text: String,
    /// The text with marks on what was found.
    pub snippet: Snippet,
}

/// Text with marks on what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snippet {
    /// The text in pieces.
    pub parts: Vec<Part>,
}

/// A piece of a [`Snippet`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The text.
    pub text: String,
    /// Whether it is what was looked for.
    pub found: bool,
}

impl Snippet {
    /// The text with `<mark>` around what was found; all else is escaped.
    pub fn html(&self) -> String {
        let mut html = String::new();
        for part in &self.parts {
            let text = part.text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            html += &if part.found { format!("<mark>{text}</mark>") } else { text };
        }
        html
    }

    /// The text alone.
    pub fn plain(&self) -> String {
        self.parts.iter().map(|part| part.text.as_str()).collect()
    }

    /// Reads a text in which [`START`] and [`STOP`] stand around what was found.
    fn read(marked: &str) -> Snippet {
        let mut parts = Vec::new();
        let mut found = false;
        for text in marked.split_inclusive([START, STOP]) {
            let piece = text.trim_end_matches([START, STOP]);
            if !piece.is_empty() {
                parts.push(Part { text: piece.to_owned(), found });
            }
            found = text.ends_with(START);
        }
        Snippet { parts }
    }

    /// Marks every occurrence of a term, in any case of ASCII letters.
    fn mark(text: &str, terms: &[&str]) -> Snippet {
        let mut marked = String::new();
        let mut rest = text;
        while !rest.is_empty() {
            let here = terms
                .iter()
                .find(|term| rest.get(..term.len()).is_some_and(|start| start.eq_ignore_ascii_case(term)));
            let taken = match here {
                Some(term) => {
                    marked.extend([START]);
                    marked.push_str(&rest[..term.len()]);
                    marked.extend([STOP]);
                    term.len()
                }
                None => {
                    let letter = rest.chars().next().expect("the rest is not empty");
                    marked.push(letter);
                    letter.len_utf8()
                }
            };
            rest = &rest[taken..];
        }
        Snippet::read(&marked)
    }
}

/// Marks that no transcript contains.
const START: char = '\u{1}';
const STOP: char = '\u{2}';

impl Views {
    /// Returns up to `limit` segments in which `search` finds something: the newest recordings first, each from its
    /// beginning, after the page that ended with `after`.
    ///
    /// Text in scripts without spaces (Chinese, Japanese, Thai ...) is found as it is written, anywhere.
    ///
    /// # Errors
    /// What the database says.
    pub async fn search(
        &self,
        search: &Search,
        after: Option<&HitKey>,
        limit: u32,
    ) -> Result<Page<Hit, HitKey>, Error> {
        let text = search.text.replace('\0', " ");
        let terms: Vec<&str> = text.split_whitespace().collect();
        if terms.is_empty() {
            return Ok(Page { items: Vec::new(), next: None });
        }
        let unspaced = text.chars().any(is_unspaced);
        let (sql, needle) = match unspaced {
            true => (UNSPACED, terms.iter().map(|term| like(term)).collect()),
            false => (WORDS, vec![text.clone()]),
        };
        let languages: Vec<&str> = match &search.language {
            Some(language) => vec![language.as_str()],
            None => language::NAMES.iter().map(|(code, _)| *code).collect(),
        };
        let rows = sqlx::query(sql)
            .bind(needle)
            .bind(languages)
            .bind(search.tenant.as_ref().map(Tenant::as_str))
            .bind(search.recording.map(RecordingId::as_uuid))
            .bind(search.from.map(At::new))
            .bind(search.until.map(At::new))
            .bind(after.map(|after| after.at))
            .bind(after.map(|after| after.id))
            .bind(after.map(|after| after.channel))
            .bind(after.map(|after| after.index))
            .bind(i64::from(limit) + 1)
            .fetch_all(&self.pool)
            .await?;
        let hit = |row: &PgRow| hit(row, unspaced.then_some(&terms));
        let items = rows.iter().map(hit).collect::<Result<Vec<_>, Error>>()?;
        Ok(Page::new(items, limit, |hit| HitKey {
            at: At::new(hit.submitted_at),
            id: hit.recording.as_uuid(),
            channel: hit.channel.into(),
            index: hit.index.into(),
        }))
    }
}

/// Where a page starts, and what is filtered: the same for both ways to search.
macro_rules! search_where {
    () => {
        "AND ($3::text IS NULL OR s.tenant = $3) AND ($4::uuid IS NULL OR s.recording = $4) \
         AND ($5::timestamptz IS NULL OR s.submitted_at >= $5) AND ($6::timestamptz IS NULL OR s.submitted_at < $6) \
         AND ($7::timestamptz IS NULL OR (s.submitted_at <= $7 AND ((s.submitted_at, s.recording) < ($7, $8) \
              OR ((s.submitted_at, s.recording) = ($7, $8) AND (s.channel, s.index) > ($9, $10))))) \
         ORDER BY s.submitted_at DESC, s.recording DESC, s.channel, s.index LIMIT $11"
    };
}

/// The languages are grouped by what the words become under their rules, so that each different question is asked of
/// the index once. Snippets are made of the page's rows alone.
const WORDS: &str = concat!(
    "WITH asked AS (SELECT question, array_agg(language) AS languages FROM (\
         SELECT language, websearch_to_tsquery(read.config(language), ($1::text[])[1]) AS question \
         FROM unnest($2::text[]) AS language) AS each_language GROUP BY question), \
     hits AS (SELECT s.submitted_at, s.recording, s.generation, s.channel, s.index, s.start_ms, s.end_ms, s.language, \
         s.text, r.name, asked.question FROM asked \
         JOIN read.segments s ON s.search @@ asked.question AND s.language = ANY(asked.languages) \
         JOIN read.recordings r ON r.id = s.recording AND r.generation = s.generation WHERE true ",
    search_where!(),
    ") SELECT *, ts_headline(read.config(language), text, question, E'HighlightAll=true, \
     StartSel=\"\\x01\", StopSel=\"\\x02\"') AS snippet FROM hits \
     ORDER BY submitted_at DESC, recording DESC, channel, index"
);

/// The list of languages repeats that of the trigram index, so that the index can be used.
const UNSPACED: &str = concat!(
    "SELECT s.submitted_at, s.recording, s.generation, s.channel, s.index, s.start_ms, s.end_ms, s.language, s.text, \
     r.name, s.text AS snippet FROM read.segments s \
     JOIN read.recordings r ON r.id = s.recording AND r.generation = s.generation \
     WHERE s.text ILIKE ALL ($1::text[]) AND s.language = ANY($2::text[]) \
     AND s.language IN ('bo', 'ja', 'km', 'lo', 'my', 'th', 'yue', 'zh') ",
    search_where!()
);

/// Says whether a letter belongs to a script without spaces: Thai, Lao, Tibetan, Myanmar, Khmer, kana, Han.
fn is_unspaced(letter: char) -> bool {
    matches!(
        letter,
        '\u{e00}'..='\u{fff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}'
            | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}'
    )
}

fn hit(row: &PgRow, terms: Option<&Vec<&str>>) -> Result<Hit, Error> {
    let snippet: &str = row.try_get("snippet")?;
    let number = |column| Ok::<u64, Error>(unsigned(row.try_get(column)?));
    Ok(Hit {
        recording: row.try_get::<Uuid, _>("recording")?.into(),
        name: row.try_get("name")?,
        submitted_at: row.try_get::<At, _>("submitted_at")?.0,
        generation: generation(row.try_get("generation")?)?,
        channel: u16::try_from(row.try_get::<i32, _>("channel")?).unwrap_or_default(),
        index: u32::try_from(row.try_get::<i64, _>("index")?).unwrap_or_default(),
        start_ms: number("start_ms")?,
        end_ms: number("end_ms")?,
        language: row.try_get("language")?,
        text: row.try_get("text")?,
        snippet: match terms {
            Some(terms) => Snippet::mark(snippet, terms),
            None => Snippet::read(snippet),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snippets_mark_and_escape() {
        let snippet = Snippet::read("a <b> \u{1}dog\u{2} & \u{1}cats\u{2}");
        assert_eq!(snippet.html(), "a &lt;b&gt; <mark>dog</mark> &amp; <mark>cats</mark>");
        assert_eq!(snippet.plain(), "a <b> dog & cats");
        assert_eq!(
            Snippet::mark("东京是Tokyo。", &["tokyo", "东京"]).html(),
            "<mark>东京</mark>是<mark>Tokyo</mark>。"
        );
        assert_eq!(Snippet::read(""), Snippet::default());
    }
}
