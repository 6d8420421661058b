//! The only room that speaks Redis: the log, the queues, and the loop that all stages share.
//!
//! - [`keys`]: the name of every key.
//! - [`log`]: the [`Log`] trait: what can be read and committed, in the words of the design.
//! - [`redis`] and [`memory`]: the two logs. One contract (`tests/contract.rs`) runs on both.
//! - [`append`]: facts that follow from no entry in hand; [`dead`]: dead letters; [`survey`]: how everything stands.
//! - [`stage`]: [`Stage`] and [`stage::run`], written once: reading in lanes, leases, heartbeats, commits,
//!   retries, dead letters, pressure, shutdown.
//! - [`lanes`]: which lane a busy worker looks into first (pure).
//! - [`pressure`]: when a stage must pause (pure).
//! - [`failpoint`]: where a test has a program die.
//!
//! `scripts/` holds one Lua file per atomic step; each says what it guarantees.

pub mod append;
pub mod dead;
pub mod failpoint;
pub mod keys;
pub mod lanes;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod pressure;
pub mod redis;
pub mod stage;
pub mod survey;

pub use append::{Append, Appended, Erased};
pub use dead::{Dead, DeadLetter, DeadPlace};
pub use keys::{Queue, Source};
pub use log::{
    Admission, Admit, AppendOnlyFile, Backlog, Before, Claimed, Commit, DropOutcome, Emit, Emitted, Entry,
    Error, Health, Heard, Log, Message, ModelNote, Outcome, Reader, SharedLog, Trimmed,
};
pub use stage::{Delivery, Ended, Options, Outputs, Stage};
pub use survey::{ConsumerState, GroupState, LogState, QueueState, QueueTotal, Survey, Worker};
