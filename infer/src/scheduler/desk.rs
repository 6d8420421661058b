//! Where readings ask for work of the device and wait for its answers.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::Urgency;
use crate::backend::{Alignment, Answer, Ask, Capacity, DeviceError, Feed, Row, Run, Slot, Sound};
use crate::sampling::Sampling;

/// The desk of one device; clones are the same desk. It stays on the scheduler's thread.
#[derive(Clone)]
pub struct Desk(Rc<RefCell<State>>);

/// A slot in the hands of a reading, free again once dropped.
pub struct SlotLease {
    desk: Desk,
    slot: Slot,
}

/// A row in the hands of a reading, free again once dropped.
pub struct RowLease {
    desk: Desk,
    row: Row,
}

struct State {
    /// The lane of the reading in each slot.
    slots: Vec<Option<Urgency>>,
    seats: Vec<Seat>,
    free: Vec<Row>,
    /// Who waits for rows: how many, and whom to wake. First come, first served.
    queue: VecDeque<(u64, usize, Option<Waker>)>,
    tickets: u64,
    leases: u64,
    encodes: Vec<Encode>,
    alignments: Vec<AskedAlignment>,
    copies: Vec<(Row, Row)>,
}

/// A row's side of the desk.
#[derive(Default)]
struct Seat {
    /// Number of the lease, so that answers to an earlier one are not taken for its own.
    lease: u64,
    asked: Option<(Reading, Question)>,
    /// Tokens to go on with, each the one sampled before, without being asked.
    flows: usize,
    answers: VecDeque<Result<Answer, DeviceError>>,
    waker: Option<Waker>,
}

/// [`Feed`] with what it borrows.
#[derive(Clone)]
enum Reading {
    Start { slot: Slot, prompt: Rc<[u32]>, start: usize, sampling: Sampling },
    Sampled,
    Chosen(u32),
}

/// [`Ask`] with what it borrows.
#[derive(Clone)]
enum Question {
    Token,
    Top(usize),
    Among(Rc<[u32]>),
}

/// A place for one result, and whom to wake for it.
struct Promise<T>(Rc<RefCell<Kept<T>>>);

struct Kept<T> {
    result: Option<Result<T, DeviceError>>,
    waker: Option<Waker>,
}

/// A window that a reading wants encoded.
pub(super) struct Encode {
    slot: Slot,
    urgency: Urgency,
    pcm: Arc<[i16]>,
    from: usize,
    frames: usize,
    positions: usize,
    since: Instant,
    promise: Promise<()>,
}

/// An alignment that a reading wants.
pub(super) struct AskedAlignment {
    pub slot: Slot,
    pub tokens: Vec<u32>,
    promise: Promise<Alignment>,
}

/// What a row does in the next step.
pub(super) struct Asked {
    row: Row,
    lease: u64,
    feed: Reading,
    ask: Question,
}

impl Desk {
    /// An empty desk for a device.
    pub(super) fn new(capacity: Capacity) -> Desk {
        Desk(Rc::new(RefCell::new(State {
            slots: vec![None; capacity.slots],
            seats: (0..capacity.rows).map(|_| Seat::default()).collect(),
            free: (0..capacity.rows).rev().map(Row).collect(),
            queue: VecDeque::new(),
            tickets: 0,
            leases: 0,
            encodes: Vec::new(),
            alignments: Vec::new(),
            copies: Vec::new(),
        })))
    }

    /// Waits for `count` rows, of which the device has at least as many.
    pub async fn rows(&self, count: usize) -> Vec<RowLease> {
        let ticket = {
            let mut state = self.0.borrow_mut();
            assert!(count <= state.seats.len(), "the device has {count} rows");
            state.tickets += 1;
            let ticket = state.tickets;
            state.queue.push_back((ticket, count, None));
            ticket
        };
        let _leave = Leave { desk: self, ticket };
        poll_fn(|context| {
            let mut state = self.0.borrow_mut();
            let is_first = state.queue.front().is_some_and(|(first, ..)| *first == ticket);
            if !is_first || state.free.len() < count {
                let waiting = state.queue.iter_mut().find(|(of, ..)| *of == ticket);
                waiting.expect("a ticket waits until it is served").2 = Some(context.waker().clone());
                return Poll::Pending;
            }
            let leases = (0..count).map(|_| {
                let row = state.free.pop().expect("enough rows are free");
                state.leases += 1;
                state.seats[row.0] = Seat { lease: state.leases, ..Seat::default() };
                RowLease { desk: self.clone(), row }
            });
            Poll::Ready(leases.collect())
        })
        .await
    }

    /// Makes each second row a copy of the first before the next step; all are read before any is written.
    pub fn copy_rows(&self, copies: &[(&RowLease, &RowLease)]) {
        self.0.borrow_mut().copies.extend(copies.iter().map(|(from, to)| (from.row, to.row)));
    }

    /// Takes a free slot for a reading.
    pub(super) fn slot(&self, urgency: Urgency) -> Option<SlotLease> {
        let mut state = self.0.borrow_mut();
        let free = state.slots.iter().position(Option::is_none)?;
        state.slots[free] = Some(urgency);
        Some(SlotLease { desk: self.clone(), slot: Slot(free) })
    }

    /// Readings that have joined and not ended.
    pub(super) fn readings(&self) -> usize {
        self.0.borrow().slots.iter().flatten().count()
    }

    /// Whether a reading of the most urgent lane has a slot.
    pub(super) fn is_urgent(&self) -> bool {
        self.0.borrow().slots.contains(&Some(super::URGENT))
    }

    /// Whether anything waits for the device.
    pub(super) fn is_asked(&self) -> bool {
        let state = self.0.borrow();
        let rows = state.seats.iter().any(|seat| seat.asked.is_some() || seat.flows > 0);
        rows || !state.encodes.is_empty() || !state.alignments.is_empty()
    }

    /// Takes up to `count` windows, the most urgent first. A window less urgent than a text under way waits for it until
    /// its patience is over.
    pub(super) fn take_encodes(&self, count: usize, patience: Duration) -> Vec<Encode> {
        let mut state = self.0.borrow_mut();
        if state.encodes.is_empty() {
            return Vec::new();
        }
        let encodes = &state.encodes;
        let texts = state.slots.iter().enumerate().filter_map(|(slot, urgency)| {
            let is_read = !encodes.iter().any(|encode| encode.slot.0 == slot);
            urgency.filter(|_| is_read)
        });
        let urgent = texts.min().unwrap_or(Urgency::MAX);
        let mut order: Vec<usize> = (0..encodes.len())
            .filter(|i| encodes[*i].urgency <= urgent || encodes[*i].since.elapsed() >= patience)
            .collect();
        order.sort_by_key(|i| (encodes[*i].urgency, encodes[*i].since));
        order.truncate(count);
        order.sort_unstable();
        order.into_iter().rev().map(|i| state.encodes.remove(i)).collect()
    }

    pub(super) fn encoded(&self, encodes: &[Encode], result: &Result<(), DeviceError>) {
        encodes.iter().for_each(|encode| encode.promise.keep(result.clone()));
    }

    pub(super) fn take_alignments(&self) -> Vec<AskedAlignment> {
        std::mem::take(&mut self.0.borrow_mut().alignments)
    }

    pub(super) fn aligned(&self, asked: &AskedAlignment, result: Result<Alignment, DeviceError>) {
        asked.promise.keep(result);
    }

    pub(super) fn take_copies(&self) -> Vec<(Row, Row)> {
        std::mem::take(&mut self.0.borrow_mut().copies)
    }

    /// What the next step is made of: what was asked for, and the rows that flow.
    pub(super) fn take_runs(&self) -> Vec<Asked> {
        let mut state = self.0.borrow_mut();
        let seats = state.seats.iter_mut().enumerate();
        let asked = seats.filter_map(|(row, seat)| {
            let (feed, ask) = match seat.asked.take() {
                Some(asked) => asked,
                None if seat.flows > 0 => {
                    seat.flows -= 1;
                    (Reading::Sampled, Question::Token)
                }
                None => return None,
            };
            Some(Asked { row: Row(row), lease: seat.lease, feed, ask })
        });
        asked.collect()
    }

    /// Hands out the answers of a step whose rows were asked for under these leases.
    pub(super) fn answer(&self, leases: &[(Row, u64)], answers: &[Answer]) {
        let mut state = self.0.borrow_mut();
        for answer in answers {
            let seat = &mut state.seats[answer.row.0];
            let is_own = leases.contains(&(answer.row, seat.lease));
            if is_own {
                seat.answers.push_back(Ok(answer.clone()));
                seat.wake();
            }
        }
    }

    /// Tells every reading that the device failed.
    pub(super) fn fail(&self, error: &DeviceError) {
        let mut state = self.0.borrow_mut();
        state.copies.clear();
        for seat in &mut state.seats {
            seat.asked = None;
            seat.flows = 0;
            seat.answers.push_back(Err(error.clone()));
            seat.wake();
        }
        state.encodes.drain(..).for_each(|encode| encode.promise.keep(Err(error.clone())));
        state.alignments.drain(..).for_each(|asked| asked.promise.keep(Err(error.clone())));
    }
}

impl SlotLease {
    /// Encodes a window of a segment: see [`Sound`].
    pub async fn encode(
        &self,
        pcm: &Arc<[i16]>,
        from: usize,
        frames: usize,
        positions: usize,
    ) -> Result<(), DeviceError> {
        let promise = Promise::new();
        let kept = promise.twin();
        {
            let mut state = self.desk.0.borrow_mut();
            let urgency = state.slots[self.slot.0].expect("a leased slot has a reading");
            let (slot, pcm, since) = (self.slot, Arc::clone(pcm), Instant::now());
            state.encodes.push(Encode { slot, urgency, pcm, from, frames, positions, since, promise });
        }
        kept.wait().await
    }

    /// Aligns a text with the window: see [`crate::backend::Backend::align`].
    pub async fn align(&self, tokens: Vec<u32>) -> Result<Alignment, DeviceError> {
        let promise = Promise::new();
        let kept = promise.twin();
        self.desk.0.borrow_mut().alignments.push(AskedAlignment { slot: self.slot, tokens, promise });
        kept.wait().await
    }
}

impl Drop for SlotLease {
    fn drop(&mut self) {
        let mut state = self.desk.0.borrow_mut();
        state.slots[self.slot.0] = None;
        state.encodes.retain(|encode| encode.slot != self.slot);
        state.alignments.retain(|asked| asked.slot != self.slot);
    }
}

impl RowLease {
    /// Begins a text that hears `slot`, goes on with up to `flow` sampled tokens, and answers each in turn.
    pub fn flow(&self, slot: &SlotLease, prompt: &Rc<[u32]>, start: usize, sampling: Sampling, flow: usize) {
        let feed = Reading::Start { slot: slot.slot, prompt: Rc::clone(prompt), start, sampling };
        self.ask(feed, Question::Token, flow);
    }

    /// Begins a text that hears `slot` and asks for the likeliest `count` tokens behind the prompt.
    pub fn start_top(
        &self,
        slot: &SlotLease,
        prompt: &Rc<[u32]>,
        start: usize,
        sampling: Sampling,
        count: usize,
    ) {
        let feed = Reading::Start { slot: slot.slot, prompt: Rc::clone(prompt), start, sampling };
        self.ask(feed, Question::Top(count), 0);
    }

    /// Asks for the probabilities of some tokens behind one lone token, among themselves.
    pub fn among(&self, slot: &SlotLease, token: u32, tokens: &Rc<[u32]>) {
        let sampling = Sampling::default();
        let feed = Reading::Start { slot: slot.slot, prompt: Rc::from([token]), start: 0, sampling };
        self.ask(feed, Question::Among(Rc::clone(tokens)), 0);
    }

    /// Goes on with a chosen token and asks for the likeliest `count` behind it.
    pub fn choose_top(&self, token: u32, count: usize) {
        self.ask(Reading::Chosen(token), Question::Top(count), 0);
    }

    /// Goes on with a chosen token and then with up to `flow` sampled ones.
    pub fn choose(&self, token: u32, flow: usize) {
        self.ask(Reading::Chosen(token), Question::Token, flow);
    }

    /// Waits for the next answer.
    pub async fn answer(&self) -> Result<Answer, DeviceError> {
        poll_fn(|context| {
            let mut state = self.desk.0.borrow_mut();
            let seat = &mut state.seats[self.row.0];
            match seat.answers.pop_front() {
                Some(answer) => Poll::Ready(answer),
                None => {
                    seat.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn ask(&self, feed: Reading, ask: Question, flows: usize) {
        let mut state = self.desk.0.borrow_mut();
        let seat = &mut state.seats[self.row.0];
        seat.asked = Some((feed, ask));
        seat.flows = flows;
    }
}

impl Drop for RowLease {
    fn drop(&mut self) {
        let mut state = self.desk.0.borrow_mut();
        state.seats[self.row.0] = Seat::default();
        state.copies.retain(|(from, to)| *from != self.row && *to != self.row);
        state.free.push(self.row);
        state.wake_first();
    }
}

/// Takes a ticket out of the queue when its waiting ends, served or given up.
struct Leave<'a> {
    desk: &'a Desk,
    ticket: u64,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut state = self.desk.0.borrow_mut();
        state.queue.retain(|(ticket, ..)| *ticket != self.ticket);
        state.wake_first();
    }
}

impl State {
    fn wake_first(&mut self) {
        if let Some((_, _, waker)) = self.queue.front_mut()
            && let Some(waker) = waker.take()
        {
            waker.wake();
        }
    }
}

impl Seat {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl<T> Promise<T> {
    fn new() -> Promise<T> {
        Promise(Rc::new(RefCell::new(Kept { result: None, waker: None })))
    }

    fn twin(&self) -> Promise<T> {
        Promise(Rc::clone(&self.0))
    }

    fn keep(&self, result: Result<T, DeviceError>) {
        let mut inner = self.0.borrow_mut();
        inner.result = Some(result);
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
    }

    async fn wait(self) -> Result<T, DeviceError> {
        poll_fn(|context| {
            let mut inner = self.0.borrow_mut();
            match inner.result.take() {
                Some(result) => Poll::Ready(result),
                None => {
                    inner.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl Encode {
    pub(super) fn sound(&self) -> Sound<'_> {
        let Encode { slot, from, frames, positions, .. } = *self;
        Sound { slot, pcm: &self.pcm, from, frames, positions }
    }
}

impl Asked {
    pub(super) fn run(&self) -> Run<'_> {
        let feed = match &self.feed {
            Reading::Start { slot, prompt, start, sampling } => {
                Feed::Start { slot: *slot, prompt, start: *start, sampling: *sampling }
            }
            Reading::Sampled => Feed::Sampled,
            Reading::Chosen(token) => Feed::Chosen(*token),
        };
        let ask = match &self.ask {
            Question::Token => Ask::Token,
            Question::Top(count) => Ask::Top(*count),
            Question::Among(tokens) => Ask::Among(tokens),
        };
        Run { row: self.row, feed, ask }
    }

    pub(super) fn lease(&self) -> (Row, u64) {
        (self.row, self.lease)
    }
}
