//! Processes told apart from later ones that got the same number, and ended without hanging.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

pub use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// A process that may belong to somebody else: its number, and when it started, since numbers come round again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The process id.
    pub pid: u32,
    /// Start time in clock ticks since boot, from `/proc/PID/stat`; 0 where the system does not tell.
    pub started: u64,
}

impl Identity {
    /// Identifies the process that has this number now.
    pub fn of(pid: u32) -> Identity {
        Identity { pid, started: stat(pid).map_or(0, |s| s.started) }
    }

    /// True while this very process runs; a zombie does not.
    pub fn is_alive(&self) -> bool {
        match stat(self.pid) {
            Some(now) => now.started == self.started && !matches!(now.state, 'Z' | 'X'),
            None if Path::new("/proc/self/stat").exists() => false,
            None => nix::sys::signal::kill(Pid::from_raw(self.pid as i32), None).is_ok(),
        }
    }

    /// Sends a signal, if the process still runs.
    pub fn signal(&self, signal: Signal) {
        if self.is_alive() {
            // The only failures left are "gone meanwhile" and "not ours", and neither leaves anything to do.
            let _ = nix::sys::signal::kill(Pid::from_raw(self.pid as i32), signal);
        }
    }

    /// Sends `signal`, waits up to `patience`, then kills. Returns true when it ended without being killed.
    pub fn end(&self, signal: Signal, patience: Duration) -> bool {
        self.signal(signal);
        if self.wait(patience) {
            return signal != Signal::SIGKILL;
        }
        self.signal(Signal::SIGKILL);
        self.wait(Duration::from_secs(10));
        false
    }

    /// Waits up to `patience` for the process to be gone.
    pub fn wait(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while self.is_alive() {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// True when the process was started with this path among its arguments.
    pub fn has_argument(&self, path: &Path) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let line = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument == path.as_os_str().as_bytes())
    }

    /// The working folder of the process, where the system tells.
    pub fn working_folder(&self) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/{}/cwd", self.pid)).ok()
    }
}

/// A child of this program.
#[derive(Debug)]
pub struct Running {
    child: Child,
    identity: Identity,
}

impl Running {
    /// Takes charge of a child just spawned.
    pub fn new(child: Child) -> Running {
        let identity = Identity::of(child.id());
        Running { child, identity }
    }

    /// Which process it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// How it ended, or `None` while it runs.
    pub fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }

    /// Sends `signal`, waits up to `patience`, then kills; the child is reaped. True when it ended by itself.
    pub fn end(&mut self, signal: Signal, patience: Duration) -> bool {
        if self.ended().is_some() {
            return true;
        }
        let by_itself = self.identity.end(signal, patience);
        let _ = self.child.wait();
        by_itself
    }

    /// Kills it at once; it is reaped.
    pub fn kill(&mut self) {
        self.end(Signal::SIGKILL, Duration::ZERO);
    }
}

/// The processes that `parent` started and that still run. Where the system has no `/proc`, none.
pub fn children(parent: u32) -> Vec<Identity> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|&pid| stat(pid).is_some_and(|of| of.parent == parent)).map(Identity::of).collect()
}

struct Stat {
    state: char,
    parent: u32,
    started: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets and may itself hold spaces and brackets.
    let mut fields = line[line.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some(Stat { state, parent, started })
}
