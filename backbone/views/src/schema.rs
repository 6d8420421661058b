//! The name of one version of the read side, and SQL that is meant for it.

use std::fmt;
use std::str::FromStr;

use sqlx::AssertSqlSafe;

use crate::error::Error;

/// One version of the read side: `read_v1`, `read_v2` ...
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Schema {
    number: u32,
}

impl Schema {
    /// The first one.
    pub const FIRST: Schema = Schema { number: 1 };

    /// The one after this.
    pub fn next(&self) -> Schema {
        Schema { number: self.number + 1 }
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Puts the schema's name where `sql` has `{schema}`.
    pub(crate) fn sql(&self, sql: &str) -> AssertSqlSafe<String> {
        // The name is made of fixed letters and a number.
        AssertSqlSafe(sql.replace("{schema}", &self.to_string()))
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "read_v{}", self.number)
    }
}

/// A text that names no version of the read side.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no version of the read side; they are called read_v1, read_v2 and so on")]
pub struct SchemaError(String);

impl FromStr for Schema {
    type Err = SchemaError;

    fn from_str(text: &str) -> Result<Schema, SchemaError> {
        let number = text.strip_prefix("read_v").and_then(|number| number.parse().ok());
        let schema = number.map(|number| Schema { number }).filter(|schema| schema.number > 0);
        // As written, so that every version has one name.
        let schema = schema.filter(|schema| schema.to_string() == text);
        schema.ok_or_else(|| SchemaError(text.chars().take(64).collect()))
    }
}

impl From<SchemaError> for Error {
    fn from(error: SchemaError) -> Error {
        Error::Corrupt(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_one_name() {
        assert_eq!("read_v12".parse::<Schema>().unwrap().next().to_string(), "read_v13");
        for wrong in ["read", "read_v", "read_v0", "read_v01", "read_v+1", "read_v1; DROP", "READ_V1", ""] {
            assert!(wrong.parse::<Schema>().is_err(), "{wrong}");
        }
    }
}
