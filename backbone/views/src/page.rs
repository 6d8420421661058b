//! Pages by key: the next page starts after the last row of this one, however many rows came in meanwhile.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::time::At;

/// One page of the list that `K` is a key of.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T, K> {
    /// The rows.
    pub items: Vec<T>,
    /// Where the next page starts; `None` after the last one.
    pub next: Option<K>,
}

impl<T, K> Page<T, K> {
    /// Makes a page of at most `limit` rows from up to one more, the sign that there is a next page.
    pub(crate) fn new(mut items: Vec<T>, limit: u32, key: impl Fn(&T) -> K) -> Page<T, K> {
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        let next = items.last().filter(|_| more).map(key);
        Page { items, next }
    }
}

/// The row that a page ended with, as an opaque text for a `cursor` parameter. `LIST` begins the text, so that a key of one
/// list is none of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageKey<const LIST: char> {
    /// What the list is sorted by, where that is a time.
    pub(crate) at: At,
    /// The row's.
    pub(crate) id: Uuid,
    /// Of a segment, else 0.
    pub(crate) channel: i32,
    /// Of a segment; the millionths of a comparison; else 0.
    pub(crate) index: i64,
}

/// A key of the list of recordings.
pub type RecordingKey = PageKey<'r'>;

/// A key of what a search found.
pub type HitKey = PageKey<'s'>;

/// A key of the list of runs.
pub type RunKey = PageKey<'g'>;

/// A key of a run's comparisons.
pub type ComparisonKey = PageKey<'c'>;

impl<const LIST: char> fmt::Display for PageKey<LIST> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PageKey { at, id, channel, index } = self;
        write!(f, "{LIST}.{}.{}.{channel}.{index}", at.us(), id.simple())
    }
}

/// A text that is not a page's key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is not one that this list gave")]
pub struct PageKeyError;

impl<const LIST: char> FromStr for PageKey<LIST> {
    type Err = PageKeyError;

    fn from_str(text: &str) -> Result<PageKey<LIST>, PageKeyError> {
        let text = text.strip_prefix(LIST).and_then(|text| text.strip_prefix('.')).ok_or(PageKeyError)?;
        let mut parts = text.split('.');
        let mut next = || parts.next().ok_or(PageKeyError);
        let key = PageKey {
            at: next()?.parse().ok().and_then(At::from_us).ok_or(PageKeyError)?,
            id: Uuid::try_parse(next()?).map_err(|_| PageKeyError)?,
            channel: next()?.parse().map_err(|_| PageKeyError)?,
            index: next()?.parse().map_err(|_| PageKeyError)?,
        };
        parts.next().is_none().then_some(key).ok_or(PageKeyError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text_and_nothing_else_is_one() {
        let key: HitKey = PageKey {
            at: At::from_us(-5).unwrap(),
            id: Uuid::from_u128(7),
            channel: 1,
            index: 4_000_000_000,
        };
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(key.to_string().parse::<RunKey>(), Err(PageKeyError), "of another list");
        let others =
            ["", "s", "s.1", "s.1.2.3.4", "s.x.00000000000000000000000000000007.0.0", &format!("{key}.0")];
        for text in others {
            assert_eq!(text.parse::<HitKey>(), Err(PageKeyError), "{text}");
        }
    }
}
