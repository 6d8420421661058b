//! A new version of the read side, folded from everything that ever happened while the present one serves.
//!
//! In order: fold the archive; make the indexes; catch up with the log; compare with the version that serves, row by row;
//! switch in one transaction. Whatever happens in between, the next start goes on where this one was. New facts go on
//! coming in all the time, so following them is part of every step. Nobody is told of what is folded here: readers and
//! waiters know only the version that serves.

use streams::{SharedLog, failpoint};
use tokio::sync::watch;
use views::{Difference, Schema, Views};

mod lease;
mod rebuild;

pub use lease::is_running;

use lease::Lease;
use rebuild::Rebuild;

/// How a rebuild is done.
#[derive(Clone, Debug)]
pub struct Options {
    /// Facts folded in a second at most; `None` as many as go.
    pub events_per_second: Option<u32>,
    /// Facts folded in one transaction at most.
    pub batch: usize,
    /// Shards folded at once; each takes two connections.
    pub parallel: usize,
    /// Switch although rows differ from the version that serves, as they must where the fold itself has changed.
    pub accept_differences: bool,
    /// Stop when everything is compared, and leave the switch to a later run.
    pub verify_only: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            events_per_second: None,
            batch: 1_000,
            parallel: 3,
            accept_differences: false,
            verify_only: false,
        }
    }
}

/// What a rebuild is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// Looking what there is.
    #[default]
    Start,
    /// Folding the archive.
    Archive,
    /// Making the indexes.
    Index,
    /// Catching up with the log.
    Log,
    /// Comparing rows.
    Verify,
    /// Switching.
    Switch,
    /// The new version serves.
    Done,
}

impl Step {
    /// Says it in a word or two.
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Start => "starting",
            Step::Archive => "folding the archive",
            Step::Index => "making indexes",
            Step::Log => "catching up with the log",
            Step::Verify => "comparing rows",
            Step::Switch => "switching",
            Step::Done => "done",
        }
    }
}

/// How far a rebuild is.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The version that is being built.
    pub schema: Option<Schema>,
    /// What is being done.
    pub step: Step,
    /// Facts folded, by earlier runs too.
    pub folded: u64,
    /// Facts folded by this run.
    pub folded_now: u64,
    /// Facts in the archive when this was last looked at.
    pub total: u64,
    /// Rows compared, about.
    pub compared: u64,
    /// Recordings whose rows were taken over as they stood, since their events went by age.
    pub taken_over: u64,
}

/// What came of a rebuild.
#[derive(Clone, Debug)]
pub struct Rebuilt {
    /// The new version.
    pub schema: Schema,
    /// The version that served when it began; `None` where its tables were gone.
    pub replaced: Option<Schema>,
    /// Whether the new one serves now.
    pub serves: bool,
    /// Rows that differ from the old version: the first ones.
    pub differences: Vec<Difference>,
    /// How many rows differ.
    pub different: u64,
    /// Facts folded by this run.
    pub folded: u64,
    /// Recordings whose rows were taken over as they stood, since their events went by age.
    pub taken_over: u64,
}

/// Builds the next version of the read side, or goes on with one that was begun, and switches to it. `progress` is told
/// of every step.
///
/// # Errors
/// When another rebuild runs, when there is nothing to build from, for an event that cannot be folded, naming it, and
/// when a server stays away. A later run goes on.
pub async fn run(
    views: Views,
    log: SharedLog,
    options: Options,
    progress: watch::Sender<Progress>,
) -> anyhow::Result<Rebuilt> {
    let lease = Lease::take(&log).await?;
    let rebuild = async { Rebuild::begin(views, log, options, progress).await?.run().await };
    let rebuilt = tokio::select! {
        rebuilt = rebuild => rebuilt,
        error = lease.lost() => Err(error),
    };
    lease.give_back().await;
    rebuilt
}

/// Drops a version that was replaced or never finished.
///
/// # Errors
/// When it serves, when there is none, and for an unfinished one when a rebuild runs.
pub async fn drop_version(views: &Views, log: &SharedLog, schema: &Schema) -> anyhow::Result<()> {
    let lease = Lease::take(log).await?;
    failpoint::reach("reproject.drop");
    let dropped = views.drop_version(schema).await;
    lease.give_back().await;
    Ok(dropped?)
}
