//! Continuous batching: readings of many segments share each step of one device.
//!
//! One thread owns the [`Backend`]. A *reading* is a future that asks a [`Desk`] for what it needs (a window encoded, a
//! token of a row, an alignment) as if it were alone; the thread polls the readings, puts what they asked for into one
//! step of the device, hands out the answers and polls again. Readings join when a slot is free and leave when done, at
//! every step.
//!
//! Who joins: whose deadline is first, which is its arrival and some seconds for each lane that is more urgent. So the
//! more urgent lane goes first, in a lane who came first, and nobody waits for ever while others come. One slot is kept
//! for the most urgent lane where there are several, and goes to those whose deadline is over once that lane has another. A
//! window of a less urgent lane waits for the texts of a more urgent
//! one, but not for ever.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Receiver, RecvError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::executor::{LocalPool, LocalSpawner};
use futures::future::LocalBoxFuture;
use futures::task::LocalSpawnExt;

use crate::backend::{Backend, DeviceError, Row};
use crate::metrics;

pub mod desk;

pub use desk::{Desk, RowLease, SlotLease};

/// How long a window may wait for texts of more urgent lanes.
const PATIENCE: Duration = Duration::from_millis(300);

/// How much later the deadline of a lane is than that of the next more urgent one.
const LEEWAY: Duration = Duration::from_secs(10);

/// From how many slots on one is kept for the most urgent lane.
const RESERVE_FROM: usize = 4;

/// The order in which readings join: smaller is sooner.
pub type Urgency = u8;

/// The most urgent of all.
pub const URGENT: Urgency = 0;

/// Makes a reading once it joins.
type Begin = Box<dyn FnOnce(Desk, SlotLease) -> LocalBoxFuture<'static, ()> + Send>;

/// The thread that owns a device, and the way to it. Dropping it lets what has joined or waits end first.
pub struct Scheduler {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

struct Job {
    urgency: Urgency,
    arrived: Instant,
    number: u64,
    begin: Begin,
}

impl Scheduler {
    /// Starts the thread of a device.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(backend: Box<dyn Backend>) -> std::io::Result<Scheduler> {
        let (jobs, inbox) = channel();
        let work = move || Work::new(backend, inbox).run();
        let thread = std::thread::Builder::new().name("scheduler".to_owned()).spawn(work)?;
        Ok(Scheduler { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Hands in a reading. Where the thread has ended, `begin` is dropped, and with it what it would answer through.
    pub fn submit(
        &self,
        urgency: Urgency,
        begin: impl FnOnce(Desk, SlotLease) -> LocalBoxFuture<'static, ()> + Send + 'static,
    ) {
        let job = Job { urgency, arrived: Instant::now(), number: 0, begin: Box::new(begin) };
        if let Some(jobs) = &self.jobs {
            // The only error is that nobody takes jobs any more; the job is dropped with it.
            let _ = jobs.send(job);
        }
    }

    /// Whether the thread has ended, which only a panic makes it do while this is here.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the scheduler's thread panicked");
        }
    }
}

/// What the thread works with.
struct Work {
    backend: Box<dyn Backend>,
    inbox: Receiver<Job>,
    desk: Desk,
    readings: LocalPool,
    spawner: LocalSpawner,
    waiting: Vec<Job>,
    /// Rows of the steps that are not answered yet, with the lease under which each was asked for.
    under_way: VecDeque<Vec<(Row, u64)>>,
    arrivals: u64,
}

impl Work {
    fn new(backend: Box<dyn Backend>, inbox: Receiver<Job>) -> Work {
        let readings = LocalPool::new();
        let (desk, spawner) = (Desk::new(backend.capacity()), readings.spawner());
        let (waiting, under_way) = (Vec::new(), VecDeque::new());
        Work { backend, inbox, desk, readings, spawner, waiting, under_way, arrivals: 0 }
    }

    fn run(mut self) {
        while self.listen() {
            self.admit();
            self.readings.run_until_stalled();
            let worked = match self.work() {
                Ok(worked) => worked,
                Err(error) => {
                    tell(&error);
                    self.under_way.clear();
                    self.desk.fail(&error);
                    true
                }
            };
            // Whoever has joined asks for something at every poll; a reading that asks for nothing would wait for ever.
            if !worked && self.desk.readings() > 0 && !self.desk.is_asked() {
                self.desk.fail(&DeviceError::new("the reading stands still"));
            }
        }
    }

    /// Takes in new jobs; waits for one where there is nothing else to do. Returns whether to go on.
    fn listen(&mut self) -> bool {
        let is_idle = self.waiting.is_empty() && self.desk.readings() == 0 && self.under_way.is_empty();
        if is_idle {
            match self.inbox.recv() {
                Ok(job) => self.enqueue(job),
                Err(RecvError) => return false,
            }
        }
        loop {
            match self.inbox.try_recv() {
                Ok(job) => self.enqueue(job),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return true,
            }
        }
    }

    fn enqueue(&mut self, job: Job) {
        self.arrivals += 1;
        self.waiting.push(Job { number: self.arrivals, ..job });
    }

    /// Lets readings join while there are slots for them.
    fn admit(&mut self) {
        let slots = self.backend.capacity().slots;
        loop {
            let free = slots - self.desk.readings();
            let Some(first) = first(&self.waiting, (slots, free), self.desk.is_urgent(), Instant::now())
            else {
                break;
            };
            let job = self.waiting.swap_remove(first);
            metrics::joined(job.arrived.elapsed());
            let slot = self.desk.slot(job.urgency).expect("fewer readings than slots");
            let reading = (job.begin)(self.desk.clone(), slot);
            let alone = AssertUnwindSafe(reading).catch_unwind().map(|ended| {
                if ended.is_err() {
                    tracing::error!("a reading panicked; the others go on");
                }
            });
            self.spawner.spawn_local(alone).expect("the pool lives as long as its spawner");
        }
    }

    /// Lets the device do what was asked for: alignments, some windows, one step. Returns whether there was anything.
    /// What fails of the first two is told to those who asked; a step that fails is an error of all.
    fn work(&mut self) -> Result<bool, DeviceError> {
        let aligned = self.desk.take_alignments();
        for ask in &aligned {
            let result = self.backend.align(ask.slot, &ask.tokens).inspect_err(tell);
            self.desk.aligned(ask, result);
        }
        let encodes = self.desk.take_encodes(self.backend.capacity().windows, PATIENCE);
        if !encodes.is_empty() {
            let started = Instant::now();
            let sounds: Vec<_> = encodes.iter().map(desk::Encode::sound).collect();
            let result = self.backend.encode(&sounds).inspect_err(tell);
            if result.is_ok() {
                metrics::encoded(&sounds, started.elapsed());
            }
            self.desk.encoded(&encodes, &result);
        }
        let copies = self.desk.take_copies();
        if !copies.is_empty() {
            self.backend.copy_rows(&copies)?;
        }
        let asked = self.desk.take_runs();
        let stepped = !asked.is_empty() || !self.under_way.is_empty();
        if stepped {
            let started = Instant::now();
            let runs: Vec<_> = asked.iter().map(desk::Asked::run).collect();
            if !asked.is_empty() {
                self.under_way.push_back(asked.iter().map(desk::Asked::lease).collect());
            }
            // With nothing to run the device only tells what is under way.
            let is_full = asked.is_empty() || self.under_way.len() > self.backend.capacity().lag;
            let answers = self.backend.submit(&runs)?;
            if is_full && let Some(leases) = self.under_way.pop_front() {
                self.desk.answer(&leases, answers);
            }
            metrics::stepped(asked.len(), started.elapsed());
        }
        Ok(stepped || !encodes.is_empty() || !aligned.is_empty())
    }
}

fn tell(error: &DeviceError) {
    tracing::error!(%error, "the device failed");
    metrics::device_failed(error);
}

/// Who of those that wait joins next where so many of the slots are free. The last one is kept for the most urgent lane;
/// where that lane has a slot already, not from those whose deadline is over: else urgent work without end, with one slot
/// free at a time, would take each.
fn first(waiting: &[Job], (slots, free): (usize, usize), has_urgent: bool, now: Instant) -> Option<usize> {
    let is_kept = |job: &Job| job.urgency != URGENT && !(has_urgent && job.deadline() <= now);
    let kept = |job: &Job| usize::from(slots >= RESERVE_FROM && is_kept(job));
    let may_join = waiting.iter().enumerate().filter(|(_, job)| free > kept(job));
    let first = may_join.min_by_key(|(_, job)| (job.deadline(), job.number));
    first.map(|(i, _)| i)
}

impl Job {
    fn deadline(&self) -> Instant {
        self.arrived + LEEWAY * u32::from(self.urgency)
    }
}

#[cfg(test)]
mod tests;
