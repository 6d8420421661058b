//! Pages by key: the next page starts after the last row of this one, however many rows came in meanwhile.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::time::At;

/// One page.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Where the next page starts; `None` after the last one.
    pub next: Option<PageKey>,
}

impl<T> Page<T> {
    /// Makes a page of at most `limit` rows from up to one more, the sign that there is a next page.
    pub(crate) fn new(mut items: Vec<T>, limit: u32, key: impl Fn(&T) -> PageKey) -> Page<T> {
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        let next = items.last().filter(|_| more).map(key);
        Page { items, next }
    }
}

/// The row that a page ended with, as an opaque text for a `cursor` parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageKey {
    pub(crate) submitted_at: At,
    pub(crate) recording: Uuid,
    pub(crate) channel: i32,
    pub(crate) index: i64,
}

impl fmt::Display for PageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PageKey { submitted_at, recording, channel, index } = self;
        write!(f, "{}.{}.{channel}.{index}", submitted_at.us(), recording.simple())
    }
}

/// A text that is not a page's key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is not one that this server gave")]
pub struct PageKeyError;

impl FromStr for PageKey {
    type Err = PageKeyError;

    fn from_str(text: &str) -> Result<PageKey, PageKeyError> {
        let mut parts = text.split('.');
        let mut next = || parts.next().ok_or(PageKeyError);
        let key = PageKey {
            submitted_at: next()?.parse().ok().and_then(At::from_us).ok_or(PageKeyError)?,
            recording: Uuid::try_parse(next()?).map_err(|_| PageKeyError)?,
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
        let key = PageKey {
            submitted_at: At::from_us(-5).unwrap(),
            recording: Uuid::from_u128(7),
            channel: 1,
            index: 4_000_000_000,
        };
        assert_eq!(key.to_string().parse(), Ok(key));
        for text in ["", "1", "1.2.3.4", "x.00000000000000000000000000000007.0.0", &format!("{key}.0")] {
            assert_eq!(text.parse::<PageKey>(), Err(PageKeyError), "{text}");
        }
    }
}
