//! Two programs over the read side.
//!
//! `voiceforge-project` folds the facts into tables and archives them ([`project`]); it does nothing else.
//! `voiceforge-keeper` does the chores of the deployment ([`keeper`]), each under a lease so that several may run:
//! handing accepted drops in again that went missing, erasing what is deleted, letting go what is too old, trimming the
//! logs below what is archived, and doing reprocessing runs.
//!
//! [`reproject`] folds everything anew into the next version of the read side while the present one serves; it reads
//! [`history`], the archive and then the log.

pub mod config;
pub mod history;
pub mod keeper;
pub mod metrics;
pub mod project;
pub mod reproject;
