//! What the command `voiceforge` is made of.
//!
//! - [`command`]: what can be typed; then one file for each command: [`up`], [`down`], [`status`], [`drop`], [`get`],
//!   [`list`], [`search`], [`delete`], [`replay`], [`compare`], [`cancel`], [`retention`], [`dead`], [`top`], [`keys`],
//!   [`reproject`], [`transcribe`], [`models`].
//! - [`config`]: what the environment says; [`wishes`]: the options that several commands share.
//! - [`client`]: the HTTP API as it is seen from here.
//! - [`stack`]: a whole deployment on this machine, private to one folder.
//! - [`local`]: the stages in this process, without any server.
//! - [`input`], [`out`] and [`progress`]: where audio is read, results are written, and progress is shown.

pub mod cancel;
pub mod client;
pub mod command;
pub mod compare;
pub mod config;
pub mod dead;
pub mod delete;
pub mod down;
pub mod drop;
pub mod get;
pub mod input;
pub mod keys;
pub mod list;
pub mod local;
pub mod models;
pub mod out;
pub mod progress;
pub mod replay;
pub mod reproject;
pub mod retention;
pub mod search;
pub mod stack;
pub mod status;
pub mod top;
pub mod transcribe;
pub mod up;
pub mod wishes;
