//! The only room that speaks SQL: PostgreSQL, with TimescaleDB where its extension is installed.
//!
//! - [`database`]: [`Views`], the way in: a pool of connections with the server's own time limits.
//! - [`install`]: migrations and policies; what the server has and what is missing.
//! - [`projections`]: the versions of the read side, [`schema`]: their names.
//! - [`entry`](mod@entry): [`Entry`], one entry of a log, as it is folded and archived.
//! - [`apply`](mod@apply): a batch of entries into tables, in one transaction, each event once.
//! - [`archive`]: every fact as it stood in the log; [`rebuild`]: a new version of the read side folded from it, and
//!   [`verify`]: two versions row by row.
//! - [`recordings`], [`transcripts`], [`search`], [`usage`]: what readers ask for.
//! - [`progress`]: how far each shard's log is archived; which drops reached their end.
//! - [`erasures`]: what deletion leaves to do. [`retention`]: how long things are kept.
//! - [`watch`]: waiting until something happens to a recording.
//! - [`runs`]: reprocessing runs: what people ask of them, and what the program that does them asks.
//! - [`keys`]: API keys.
//!
//! Schemas: `log` (the archive) and `control` (what programs remember) are kept; the read side, `read_vN`, can be
//! dropped and folded again from the archive, so every value in it comes from events. Readers ask the views of schema
//! `read`, which show the version that serves; writers name one. The rules of the fold are those of `transcript`:
//! the tables hold its facts, and its functions decide what they mean.

pub mod apply;
pub mod archive;
mod compressed;
mod copy;
pub mod database;
pub mod entry;
pub mod erasures;
pub mod error;
mod fold;
pub mod install;
pub mod keys;
mod limited;
mod lookup;
pub mod metrics;
pub mod page;
pub mod progress;
pub mod projections;
pub mod rebuild;
pub mod recordings;
pub mod retention;
pub mod runs;
pub mod schema;
pub mod search;
mod segments;
mod session;
mod state;
mod time;
pub mod transcripts;
pub mod usage;
pub mod verify;
pub mod watch;

pub use apply::{Applied, Conflict};
pub use database::{Options, Views};
pub use entry::{Entry, EntryError};
pub use erasures::Erasure;
pub use error::{ApplyError, Error};
pub use install::{Installed, Policies};
pub use keys::{ApiKey, NewKey};
pub use page::{ComparisonKey, HitKey, Page, PageKey, PageKeyError, RecordingKey, RunKey};
pub use progress::Checkpoint;
pub use projections::{Projection, Stand};
pub use rebuild::{Building, Position, Switched};
pub use recordings::{Filter, RecordingRow};
pub use retention::{Keep, Kept, Rule};
pub use runs::work::Asked;
pub use runs::{NewRun, Run, RunComparison, RunProgress, RunState, Selected, Selection, Wishes};
pub use schema::Schema;
pub use search::{Hit, Part, Search, Snippet};
pub use transcripts::GenerationRow;
pub use usage::Usage;
pub use verify::{Difference, Unlike};
pub use watch::Watch;
