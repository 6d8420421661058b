//! A deployment in which things go wrong on a schedule, and a checker of what must hold all the same.
//!
//! - [`deployment`]: two Redis servers, PostgreSQL, a faulty line to each, and several workers of every stage.
//! - [`crew`]: the workers as processes.
//! - [`sound`]: recordings whose text is known beforehand.
//! - [`load`]: clients that offer recordings and note every answer.
//! - [`fault`]: what can go wrong, and the seeded choice of it. [`inject`]: doing it.
//! - [`rebuild`]: the read side built anew meanwhile.
//! - [`history`]: what was offered, lost and planted; what the streams and tables hold in the end. Plain data.
//! - [`survey`]: reads the end state. [`checker`]: judges it, by values alone.
//! - [`run`]: all of it, once. [`report`]: what came of it.
//!
//! The rows `F1` to `F23` and the invariants `I1` to `I7` are those of docs/operations.md.

pub mod checker;
pub mod crew;
pub mod deployment;
pub mod fault;
pub mod history;
pub mod inject;
pub mod load;
pub mod rebuild;
pub mod report;
pub mod run;
pub mod sound;
pub mod survey;

pub use deployment::Deployment;
pub use fault::{Fault, Row};
pub use report::Report;
