//! The name of an object in the audio store, such as `tenant/recording`.

use std::fmt;
use std::str::FromStr;

use super::StoreError;

/// A key: parts of letters, digits, `-` and `_`, joined by `/`. It cannot lead out of the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

impl Key {
    /// How long one part may be, in bytes: file systems take 255, of which an upload's suffix needs some.
    pub const PART_LEN_MAX: usize = 128;

    /// Joins `parts` to a key.
    ///
    /// # Errors
    /// [`StoreError::BadKey`] for a part that is empty, too long, or holds anything but letters, digits, `-` and `_`,
    /// and for no parts at all.
    pub fn new<P: AsRef<str>>(parts: impl IntoIterator<Item = P>) -> Result<Key, StoreError> {
        let mut key = String::new();
        for part in parts {
            let part = part.as_ref();
            let fits = (1..=Key::PART_LEN_MAX).contains(&part.len());
            if !fits || !part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            {
                return Err(StoreError::BadKey { part: part.to_owned() });
            }
            if !key.is_empty() {
                key.push('/');
            }
            key.push_str(part);
        }
        if key.is_empty() { Err(StoreError::BadKey { part: String::new() }) } else { Ok(Key(key)) }
    }

    /// Reads a key as [`Display`](fmt::Display) writes it.
    ///
    /// # Errors
    /// As [`Key::new`].
    pub fn parse(text: &str) -> Result<Key, StoreError> {
        Key::new(text.split('/'))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its parts, in order.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Key {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Key, StoreError> {
        Key::parse(text)
    }
}
