//! A few threads that do one thing together and wait for each other: fork and join within a microsecond, because a step
//! of decoding has dozens of parts of some microseconds each.
//!
//! Between two parts a thread spins for some tens of microseconds, then it sleeps. The owner never waits for a thread
//! that has not joined a part: where other processes hold the processors, it does the work alone.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

/// How long a thread looks for the next part before it sleeps.
const SPIN: Duration = Duration::from_micros(60);

/// Set in the state while a part can be joined. Below it stands the number of threads in it, above it the part's number.
const OPEN: u64 = 1 << 16;

/// What each thread runs: (thread, task).
type Work<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// A team of threads with an owner, who takes part. It is `Send` but not `Sync`: one thread gives it work at a time, and
/// a task cannot give work to the team that runs it.
pub struct Team {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// The processor of the owner, and which thread that is: it is known when it first gives work. The cell keeps the
    /// team from being `Sync`.
    processor: Option<usize>,
    owner: Cell<Option<ThreadId>>,
}

struct Shared {
    /// Part number, [`OPEN`], threads inside.
    state: Line<AtomicU64>,
    /// The next task of the part.
    next: Line<AtomicUsize>,
    job: UnsafeCell<Job>,
    sleeping: Vec<AtomicBool>,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A cache line of its own: spinning on one value must not slow writes to its neighbour.
#[repr(align(128))]
struct Line<T>(T);

#[derive(Clone, Copy)]
struct Job {
    work: Option<*const Work<'static>>,
    tasks: usize,
}

// SAFETY: `job` is written by the owner alone, while the state is closed and no thread is inside; threads read it after
// joining an open part, which orders the write before the read. The closure behind it is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is not followed outside a part.
unsafe impl Send for Shared {}

impl Team {
    /// Starts a team of `threads` (at least 1, the owner included). Where it fills the processors that this process may
    /// use, each thread is bound to one of them: the owner's when it first gives work, since a thread that is free to
    /// move may stay where another is bound.
    pub fn new(threads: usize) -> Team {
        let others = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            state: Line(AtomicU64::new(0)),
            next: Line(AtomicUsize::new(0)),
            job: UnsafeCell::new(Job { work: None, tasks: 0 }),
            sleeping: (0..others).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let processors = processors();
        let threads = (0..others)
            .filter_map(|other| {
                let shared = Arc::clone(&shared);
                let processor = (processors.len() == others + 1).then(|| processors[other + 1]);
                let thread = thread::Builder::new().name(format!("whisper-{}", other + 1));
                // A team with fewer threads than asked for is slower, nothing else.
                thread
                    .spawn(move || {
                        bind(processor);
                        shared.serve(other);
                    })
                    .inspect_err(|error| tracing::warn!(%error, "cannot start a thread of the team"))
                    .ok()
            })
            .collect();
        let processor = (others > 0 && processors.len() == others + 1).then(|| processors[0]);
        Team { shared, threads, processor, owner: Cell::new(None) }
    }

    /// Threads, the owner included. The first argument of the work is below this number.
    pub fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Runs `work(thread, task)` once for each task below `tasks`, shared out as threads become free. No two tasks run
    /// on one thread number at once. Returns when all are done; a panic in a task goes on here.
    pub fn run(&self, tasks: usize, work: &Work<'_>) {
        if self.threads.is_empty() || tasks <= 1 {
            (0..tasks).for_each(|task| work(0, task));
            return;
        }
        if self.owner.get() != Some(thread::current().id()) {
            self.owner.set(Some(thread::current().id()));
            bind(self.processor);
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. `leave` below does not return before every thread has left the part, and
        // none can join it after that, so the closure outlives all uses.
        let work = unsafe { std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) };
        // SAFETY: the state is closed with no thread inside, and `Team` has one owner: nobody else reads or writes.
        unsafe { *shared.job.get() = Job { work: Some(work), tasks } };
        shared.next.0.store(0, Ordering::Relaxed);
        let part = shared.state.0.load(Ordering::Relaxed) / (2 * OPEN) + 1;
        shared.state.0.store(part * 2 * OPEN + OPEN, Ordering::SeqCst);
        for (sleeping, thread) in shared.sleeping.iter().zip(&self.threads) {
            if sleeping.load(Ordering::SeqCst) && sleeping.swap(false, Ordering::SeqCst) {
                thread.thread().unpark();
            }
        }
        shared.take_part(0);
        shared.leave();
        // Not poisoned: nothing panics while it is held.
        let panic = shared.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // A thread of the team does not panic: its tasks' panics were caught.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The life of a thread beside the owner.
    fn serve(&self, other: usize) {
        let mut seen = 0;
        let mut idle_since = None;
        while !self.stop.load(Ordering::SeqCst) {
            let state = self.state.0.load(Ordering::SeqCst);
            if state & OPEN != 0 && state / (2 * OPEN) != seen {
                let joined =
                    self.state.0.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed);
                if joined.is_ok() {
                    seen = state / (2 * OPEN);
                    self.take_part(other + 1);
                    self.state.0.fetch_sub(1, Ordering::Release);
                    idle_since = None;
                }
                continue;
            }
            let since = *idle_since.get_or_insert_with(Instant::now);
            if since.elapsed() < SPIN {
                (0..16).for_each(|_| std::hint::spin_loop());
                continue;
            }
            self.sleeping[other].store(true, Ordering::SeqCst);
            // A part that was opened before the flag was seen is found here; one opened after wakes this thread.
            if self.state.0.load(Ordering::SeqCst) == state && !self.stop.load(Ordering::SeqCst) {
                thread::park();
            }
            self.sleeping[other].store(false, Ordering::SeqCst);
            idle_since = None;
        }
    }

    /// Runs tasks of the open part until none is left.
    fn take_part(&self, thread: usize) {
        // SAFETY: the owner has opened the part or this thread has joined it, so the job is written and stays.
        let Job { work, tasks } = unsafe { *self.job.get() };
        let Some(work) = work else { return };
        // SAFETY: the closure lives until the part is left, see `Team::run`.
        let work = unsafe { &*work };
        loop {
            let task = self.next.0.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                return;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(thread, task))) {
                self.next.0.store(tasks, Ordering::Relaxed);
                *self.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(panic);
                return;
            }
        }
    }

    /// Closes the part and waits for those inside.
    fn leave(&self) {
        let mut spins = 0;
        let mut state = self.state.0.fetch_and(!OPEN, Ordering::AcqRel);
        while state & (OPEN - 1) != 0 {
            spins += 1;
            // Whoever is inside may have lost its processor to the one who waits.
            if spins % 4_096 == 0 {
                thread::yield_now()
            } else {
                std::hint::spin_loop()
            }
            state = self.state.0.load(Ordering::Acquire);
        }
    }
}

/// Numbers of the processors that this process may use; none where that cannot be known. They are asked for once: the
/// thread that owns one team and starts another is bound to a single one by then.
fn processors() -> &'static [usize] {
    static PROCESSORS: OnceLock<Vec<usize>> = OnceLock::new();
    PROCESSORS.get_or_init(|| {
        #[cfg(target_os = "linux")]
        {
            use nix::{sched, unistd::Pid};
            let set = sched::sched_getaffinity(Pid::from_raw(0)).ok();
            set.map(|set| (0..sched::CpuSet::count()).filter(|i| set.is_set(*i).unwrap_or(false)).collect())
                .unwrap_or_default()
        }
        #[cfg(not(target_os = "linux"))]
        Vec::new()
    })
}

/// Binds the calling thread to a processor. Where the system refuses, it runs anywhere.
fn bind(processor: Option<usize>) {
    #[cfg(target_os = "linux")]
    if let Some(processor) = processor {
        use nix::{sched, unistd::Pid};
        let mut set = sched::CpuSet::new();
        if set.set(processor).is_ok()
            && let Err(error) = sched::sched_setaffinity(Pid::from_raw(0), &set)
        {
            tracing::debug!(%error, processor, "cannot bind a thread to a processor");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = processor;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::parts::Parts;

    #[test]
    fn every_task_runs_once_and_all_are_done_at_the_end() {
        for threads in [1, 2, 3, 5] {
            let team = Team::new(threads);
            assert_eq!(team.threads(), threads);
            for tasks in [0, 1, 2, 7, 100] {
                for _ in 0..50 {
                    let mut counts = vec![0u32; tasks];
                    let parts = Parts::new(&mut counts);
                    team.run(tasks, &|thread, task| {
                        assert!(thread < threads);
                        // SAFETY: one element for each task.
                        let count = unsafe { parts.part(task, 1) };
                        count[0] += 1;
                    });
                    assert!(counts.iter().all(|count| *count == 1));
                }
            }
        }
    }

    #[test]
    fn a_thread_that_sleeps_is_woken() {
        let team = Team::new(2);
        for pause_us in [0, 30, 90, 500] {
            let together = AtomicUsize::new(0);
            thread::sleep(Duration::from_micros(pause_us));
            // Each task waits for the other, so both threads must take part.
            team.run(2, &|_, _| {
                together.fetch_add(1, Ordering::SeqCst);
                while together.load(Ordering::SeqCst) < 2 {
                    thread::yield_now();
                }
            });
        }
    }

    #[test]
    fn a_panic_of_a_task_reaches_the_owner_and_the_team_works_on() {
        let team = Team::new(3);
        for task_of_panic in 0..4 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.run(4, &|_, task| assert!(task != task_of_panic, "task {task}"));
            }));
            assert!(result.is_err());
            let count = AtomicUsize::new(0);
            team.run(9, &|_, _| {
                count.fetch_add(1, Ordering::SeqCst);
            });
            assert_eq!(count.into_inner(), 9);
        }
    }
}
