//! The programs of a stack.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One program of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// Streams.
    Redis,
    /// The read side.
    Postgres,
    /// Admits drops.
    Ingest,
    /// Cuts recordings into segments.
    Decode,
    /// Transcribes segments.
    Infer,
    /// Folds facts into SQL.
    Project,
    /// Does the chores between the stages.
    Keeper,
    /// Answers HTTP.
    Api,
}

impl Program {
    /// The two servers.
    pub const SERVERS: [Program; 2] = [Program::Redis, Program::Postgres];

    /// The stages, in the order audio passes them; the API, which stands at both ends, last.
    pub const STAGES: [Program; 6] =
        [Program::Ingest, Program::Decode, Program::Infer, Program::Project, Program::Keeper, Program::Api];

    /// The word that stands for it: of its log, its record and in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Program::Redis => "redis",
            Program::Postgres => "postgres",
            Program::Ingest => "ingest",
            Program::Decode => "decode",
            Program::Infer => "infer",
            Program::Project => "project",
            Program::Keeper => "keeper",
            Program::Api => "api",
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
