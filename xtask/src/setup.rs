//! Finds or fetches what a chore needs. Everything is fetched under a temporary name, checked, and renamed into place,
//! so an interrupted run leaves nothing half-made and a second run finds everything there.

mod apt;
mod clips;
mod model;
mod node;
mod nvrtc;
mod place;
mod postgres;
mod python;

use std::path::PathBuf;

use anyhow::Result;

pub use clips::{Clip, samples_of, wav_of};
pub use nvrtc::nvrtc;
pub use place::{check_sha256, temporary as within_temporary};
pub use python::unpack_wheel;

/// What `demo` needs.
pub struct ForDemo {
    /// Folder with PostgreSQL's programs.
    pub postgres: PathBuf,
    /// Folder of models; holds `tiny.en/`.
    pub models: PathBuf,
    /// The recording it transcribes.
    pub clip: Clip,
}

/// What tests and measurements need.
pub struct ForTests {
    /// Folders that hold PostgreSQL's programs, best first.
    pub postgres: Vec<PathBuf>,
    /// The `redis-server` executable.
    pub redis: PathBuf,
    /// Folder of models; holds `tiny.en/` and `base/`.
    pub models: PathBuf,
    /// Folder of recordings, NAME.wav beside NAME.txt with what is said.
    pub clips: PathBuf,
    /// A python with the packages that tests use.
    pub python: PathBuf,
    /// Node, and the package with TimescaleDB inside.
    pub timescale: node::Timescale,
}

/// What the comparison of engines needs.
pub struct ForEngines {
    /// Folder of models; holds `tiny.en/` and `base/`.
    pub models: PathBuf,
    /// Folder of recordings, NAME.wav beside NAME.txt with what is said.
    pub clips: PathBuf,
    /// A python with the rival engines.
    pub python: PathBuf,
}

/// Finds or fetches what the demo needs, and no more: it should be quick.
pub fn for_demo() -> Result<ForDemo> {
    crate::say::title("setting up");
    redis()?;
    let postgres = postgres::bins()?.remove(0);
    let models = model::tiny_en()?;
    let clip = clips::for_demo()?;
    crate::say::note("Redis, PostgreSQL, the model tiny.en and a recording are here");
    Ok(ForDemo { postgres, models, clip })
}

/// Finds or fetches everything.
pub fn for_tests() -> Result<ForTests> {
    crate::say::title("setting up");
    let redis = redis()?;
    let postgres = postgres::bins()?;
    // Tests of formats and voices skip without these; only root can install them.
    apt::wish(&[("ffmpeg", "ffmpeg"), ("espeak-ng", "espeak-ng"), ("sox", "sox")])?;
    model::tiny_en()?;
    let models = model::base()?;
    let clips = clips::all()?;
    let python = python::environment()?;
    let timescale = node::timescale()?;
    crate::say::note(format_args!("everything is here, in {} and on the system", crate::cache().display()));
    Ok(ForTests { postgres, redis, models, clips, python, timescale })
}

/// Finds or fetches models and recordings to compare a GPU with the processor by.
pub fn for_gpu() -> Result<(PathBuf, PathBuf)> {
    crate::say::title("setting up");
    model::tiny_en()?;
    Ok((model::base()?, clips::all()?))
}

/// Finds or fetches what the comparison of engines needs.
pub fn for_engines() -> Result<ForEngines> {
    crate::say::title("setting up");
    model::tiny_en()?;
    Ok(ForEngines { models: model::base()?, clips: clips::all()?, python: python::rivals()? })
}

/// A python with Celery, to measure beside.
pub fn celery() -> Result<PathBuf> {
    python::celery()
}

/// Finds or installs the `redis-server` executable.
pub fn redis() -> Result<PathBuf> {
    if servers::find::on_path("redis-server").is_none() {
        apt::need("redis-server", &["redis-server"])?;
    }
    servers::find::redis_server()
}
