//! The models that are loaded: on demand, within a bound of memory, for as long as they are used.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::OnceCell;

use crate::engine::{Engine, Setup};
use crate::model::LoadError;
use crate::{metrics, models};

/// Loaded models of a models folder. Clones of an engine that are handed out keep it loaded.
pub struct Library {
    folder: PathBuf,
    setup: Setup,
    /// Bytes that loaded models may take together; the one asked for is loaded in any case.
    bytes_max: u64,
    shelf: Mutex<HashMap<String, Volume>>,
}

/// A model on the shelf: being loaded, or loaded.
struct Volume {
    engine: Arc<OnceCell<Arc<Engine>>>,
    used: Instant,
}

impl Library {
    /// A library of the models in a folder with nothing loaded.
    pub fn new(folder: PathBuf, setup: Setup, bytes_max: u64) -> Library {
        Library { folder, setup, bytes_max, shelf: Mutex::default() }
    }

    /// Returns a model, loading it where it is not loaded, or where its thread has ended. Whoever asks meanwhile waits for
    /// the same load.
    ///
    /// # Errors
    /// When there is no such model or it cannot be loaded, with the file and what was expected of it. The next to ask
    /// tries again.
    pub async fn get(&self, name: &str) -> anyhow::Result<Arc<Engine>> {
        let cell = {
            let mut shelf = self.shelf();
            if shelf.get(name).is_some_and(Volume::has_ended) {
                tracing::error!(model = name, "the engine ended by itself and is loaded again");
                shelf.remove(name);
            }
            let new = || Volume { engine: Arc::default(), used: Instant::now() };
            let volume = shelf.entry(name.to_owned()).or_insert_with(new);
            volume.used = Instant::now();
            Arc::clone(&volume.engine)
        };
        let engine = Arc::clone(cell.get_or_try_init(|| self.load(name)).await?);
        self.make_room(name);
        Ok(engine)
    }

    /// Unloads what was not used for `idle` and is in nobody's hands. Returns the names.
    pub fn unload_idle(&self, idle: Duration) -> Vec<String> {
        self.unload(|volume| volume.used.elapsed() >= idle)
    }

    /// Names of the loaded models, in order.
    pub fn loaded(&self) -> Vec<String> {
        let shelf = self.shelf();
        let loaded = shelf.iter().filter(|(_, volume)| volume.engine.initialized());
        let mut names: Vec<String> = loaded.map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// Loads a model; where its device is full, in the place of those that were not used for longest.
    async fn load(&self, name: &str) -> anyhow::Result<Arc<Engine>> {
        loop {
            let loaded = self.load_once(name).await;
            let is_full = |error: &anyhow::Error| error.downcast_ref().is_some_and(LoadError::is_full);
            if !loaded.as_ref().err().is_some_and(is_full) || !self.unload_oldest(name) {
                return loaded;
            }
        }
    }

    async fn load_once(&self, name: &str) -> anyhow::Result<Arc<Engine>> {
        let folder = models::resolve(&self.folder, name)?;
        let setup = self.setup;
        let started = Instant::now();
        let load = tokio::task::spawn_blocking(move || Engine::load(&folder, setup));
        let engine = load.await.with_context(|| format!("load the model {name}"))??;
        let seconds = started.elapsed().as_secs_f64();
        let report = engine.report();
        metrics::loaded(name, seconds, report);
        let mib = report.bytes() >> 20;
        tracing::info!(model = name, seconds, device = report.device, mib, "model loaded");
        Ok(Arc::new(engine))
    }

    /// Unloads the least recently used models until the bound is kept, sparing `name` and what is in use.
    fn make_room(&self, name: &str) {
        let is_over = || self.shelf().values().map(Volume::bytes).sum::<u64>() > self.bytes_max;
        while is_over() && self.unload_oldest(name) {}
    }

    /// Unloads the least recently used model, sparing `name` and what is in use; says whether there was one.
    fn unload_oldest(&self, name: &str) -> bool {
        let oldest = {
            let shelf = self.shelf();
            let others = shelf.iter().filter(|(other, volume)| *other != name && volume.is_spare());
            others.min_by_key(|(_, volume)| volume.used).map(|(_, volume)| volume.used)
        };
        let unload = |used| !self.unload(|volume| volume.used == used && volume.bytes() > 0).is_empty();
        oldest.is_some_and(unload)
    }

    fn unload(&self, which: impl Fn(&Volume) -> bool) -> Vec<String> {
        let mut gone = Vec::new();
        let mut shelf = self.shelf();
        shelf.retain(|name, volume| {
            let goes = volume.is_spare() && which(volume);
            if goes {
                gone.push((name.clone(), Arc::clone(&volume.engine)));
            }
            !goes
        });
        drop(shelf);
        // An engine ends its thread as it is dropped: not under the lock.
        let names = gone.into_iter().map(|(name, _)| name).inspect(|name| {
            metrics::unloaded(name);
            tracing::info!(model = name, "model unloaded");
        });
        names.collect()
    }

    fn shelf(&self) -> std::sync::MutexGuard<'_, HashMap<String, Volume>> {
        // Nothing panics while it holds the lock.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Volume {
    fn has_ended(&self) -> bool {
        self.engine.get().is_some_and(|engine| engine.has_ended())
    }

    fn bytes(&self) -> u64 {
        self.engine.get().map_or(0, |engine| engine.report().bytes())
    }

    /// Whether it is loaded and in nobody's hands.
    fn is_spare(&self) -> bool {
        Arc::strong_count(&self.engine) == 1
            && self.engine.get().is_some_and(|engine| Arc::strong_count(engine) == 1)
    }
}

#[cfg(test)]
mod tests;
