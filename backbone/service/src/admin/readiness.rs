//! Whether a program can do its work: named checks that its parts keep up to date.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;

/// The checks of one program. Clones share them.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    ending: bool,
    checks: BTreeMap<&'static str, Check>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Whether it passes.
    pub ok: bool,
    /// What a person should know: why it fails, or what it found.
    pub message: String,
}

/// Where a program is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Some check does not pass: the program has just started, or waits for something outside it.
    Waiting,
    /// All checks pass.
    Ready,
    /// The work in hand is being finished; no new work is taken.
    Ending,
}

/// A program's health, as `/health` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// The program's name.
    pub program: String,
    /// Its version.
    pub version: String,
    /// Where it is in its life.
    pub state: State,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Every check by its name.
    pub checks: BTreeMap<String, Check>,
}

impl Readiness {
    /// A program that is ready, because nothing is checked yet.
    pub fn new() -> Readiness {
        Readiness(Arc::new(Mutex::new(Inner {
            started: Instant::now(),
            ending: false,
            checks: BTreeMap::new(),
        })))
    }

    /// Names a check that does not pass yet. A check that already has a result keeps it.
    pub fn expect(&self, name: &'static str) {
        self.lock().checks.entry(name).or_insert_with(|| Check { ok: false, message: "not yet".to_owned() });
    }

    /// The check passes.
    pub fn ok(&self, name: &'static str, message: impl Into<String>) {
        self.set(name, Check { ok: true, message: message.into() });
    }

    /// The check fails, for the reason in `message`.
    pub fn failed(&self, name: &'static str, message: impl Into<String>) {
        self.set(name, Check { ok: false, message: message.into() });
    }

    /// The program is ending: not ready any more, whatever the checks say.
    pub fn end(&self) {
        self.lock().ending = true;
    }

    /// Whether all checks pass and the program is not ending.
    pub fn is_ready(&self) -> bool {
        self.lock().state() == State::Ready
    }

    /// Everything there is to tell.
    pub fn health(&self, program: &str) -> Health {
        let inner = self.lock();
        Health {
            program: program.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: inner.state(),
            uptime_s: inner.started.elapsed().as_secs(),
            checks: inner.checks.iter().map(|(name, check)| ((*name).to_owned(), check.clone())).collect(),
        }
    }

    /// Messages only tell changes, so that a stage may set its checks as often as it likes.
    fn set(&self, name: &'static str, check: Check) {
        let before = self.lock().checks.insert(name, check.clone());
        if before.is_none_or(|before| before.ok != check.ok) {
            match check.ok {
                true => tracing::info!(check = name, "check passes: {}", check.message),
                false => tracing::warn!(check = name, "check fails: {}", check.message),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every write is one insert or one store: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Readiness {
    fn default() -> Readiness {
        Readiness::new()
    }
}

impl Inner {
    fn state(&self) -> State {
        match (self.ending, self.checks.values().all(|check| check.ok)) {
            (true, _) => State::Ending,
            (false, true) => State::Ready,
            (false, false) => State::Waiting,
        }
    }
}
