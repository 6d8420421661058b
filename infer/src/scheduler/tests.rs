//! Readings on the network with random weights: together, one after another, and on a device that answers late.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::executor::block_on;
use futures::future::join_all;

use super::*;
use crate::backend::{Alignment, Answer, Capacity, Report, Run, Slot, Sound};
use crate::cpu::Precision;
use crate::engine::tests::{hum, random_cpu, random_network};
use crate::engine::{Options, Output};
use crate::model::Dims;
use crate::reading::Voice;

/// A device that answers each step with the one after it.
struct Late {
    inner: Box<dyn Backend>,
    answers: VecDeque<Vec<Answer>>,
    told: Vec<Answer>,
}

impl Late {
    fn of(inner: Box<dyn Backend>) -> Box<Late> {
        Box::new(Late { inner, answers: VecDeque::new(), told: Vec::new() })
    }
}

impl Backend for Late {
    fn dims(&self) -> Dims {
        self.inner.dims()
    }

    fn capacity(&self) -> Capacity {
        Capacity { lag: 1, ..self.inner.capacity() }
    }

    fn encode(&mut self, sounds: &[Sound<'_>]) -> Result<(), DeviceError> {
        self.inner.encode(sounds)
    }

    fn submit(&mut self, step: &[Run<'_>]) -> Result<&[Answer], DeviceError> {
        self.told = self.answers.pop_front().unwrap_or_default();
        if !step.is_empty() {
            self.answers.push_back(self.inner.submit(step)?.to_vec());
        }
        Ok(&self.told)
    }

    fn copy_rows(&mut self, copies: &[(Row, Row)]) -> Result<(), DeviceError> {
        self.inner.copy_rows(copies)
    }

    fn align(&mut self, slot: Slot, tokens: &[u32]) -> Result<Alignment, DeviceError> {
        self.inner.align(slot, tokens)
    }

    fn report(&self) -> Report {
        self.inner.report()
    }
}

/// What a device is asked for.
#[derive(Clone, Copy, PartialEq)]
enum Call {
    Encode,
    Submit,
    Align,
}

/// A device that fails once, at a call of a kind.
struct Failing {
    inner: Box<dyn Backend>,
    call: Call,
    left: usize,
}

impl Failing {
    fn at(inner: Box<dyn Backend>, call: Call, number: usize) -> Box<Failing> {
        Box::new(Failing { inner, call, left: number })
    }

    fn count(&mut self, call: Call) -> Result<(), DeviceError> {
        if self.call == call {
            self.left = self.left.wrapping_sub(1);
            if self.left == 0 {
                return Err(DeviceError::new("out of memory"));
            }
        }
        Ok(())
    }
}

impl Backend for Failing {
    fn dims(&self) -> Dims {
        self.inner.dims()
    }

    fn capacity(&self) -> Capacity {
        self.inner.capacity()
    }

    fn encode(&mut self, sounds: &[Sound<'_>]) -> Result<(), DeviceError> {
        self.count(Call::Encode)?;
        self.inner.encode(sounds)
    }

    fn submit(&mut self, step: &[Run<'_>]) -> Result<&[Answer], DeviceError> {
        self.count(Call::Submit)?;
        self.inner.submit(step)
    }

    fn copy_rows(&mut self, copies: &[(Row, Row)]) -> Result<(), DeviceError> {
        self.inner.copy_rows(copies)
    }

    fn align(&mut self, slot: Slot, tokens: &[u32]) -> Result<Alignment, DeviceError> {
        self.count(Call::Align)?;
        self.inner.align(slot, tokens)
    }

    fn report(&self) -> Report {
        self.inner.report()
    }
}

type Read = Result<Output, DeviceError>;

/// Hands in a reading and gives what it will tell.
fn submit(
    scheduler: &Scheduler,
    voice: &Arc<Voice>,
    pcm: Vec<i16>,
    options: Options,
) -> oneshot::Receiver<Read> {
    let (reply, answer) = oneshot::channel();
    let voice = Arc::clone(voice);
    scheduler.submit(1, move |desk, slot| {
        let reading = async move {
            let read = voice.read(&desk, &slot, &pcm.into(), &options, Some("en")).await;
            let _ = reply.send(read);
        };
        reading.boxed_local()
    });
    answer
}

/// Readings that differ in length, search and temperature.
fn work() -> Vec<(Vec<i16>, Options)> {
    let plain = Options { tokens_max: 12, temperatures: vec![0.0], ..Options::default() };
    vec![
        (hum(2), plain.clone()),
        (hum(5), Options { beams: 3, ..plain.clone() }),
        (hum(1), Options { temperatures: vec![0.7], best_of: 4, seed: 5, ..plain.clone() }),
        (hum(3), Options { timestamps: false, prompt: Some("a b c".to_owned()), ..plain.clone() }),
        (hum(4), Options { temperatures: vec![0.0, 0.5], best_of: 2, ..plain }),
    ]
}

type Device = (Box<dyn Backend>, Arc<Voice>);

/// Reads all the work on one device at once.
fn together((backend, voice): Device, work: &[(Vec<i16>, Options)]) -> Vec<Read> {
    let scheduler = Scheduler::start(backend).unwrap();
    let read =
        |(pcm, options): &(Vec<i16>, Options)| submit(&scheduler, &voice, pcm.clone(), options.clone());
    let all: Vec<_> = work.iter().map(read).collect();
    block_on(join_all(all)).into_iter().map(Result::unwrap).collect()
}

/// Reads the work alone, together, with fewer slots and rows than are wanted, and on a device that answers late.
#[track_caller]
fn always_the_same(device: impl Fn(usize, usize) -> Device, work: &[(Vec<i16>, Options)]) {
    let alone: Vec<Read> =
        work.iter().flat_map(|one| together(device(1, 16), std::slice::from_ref(one))).collect();
    assert!(alone.iter().all(Result::is_ok), "{alone:?}");
    assert_eq!(together(device(5, 16), work), alone);
    assert_eq!(together(device(2, 4), work), alone);
    let (inner, voice) = device(5, 16);
    assert_eq!(together((Late::of(inner), voice), work), alone);
}

#[test]
fn a_segment_gives_the_same_alone_in_a_batch_and_late() {
    always_the_same(random_network, &work());
}

#[test]
fn a_segment_gives_the_same_to_the_bit_on_the_processor() {
    let mut work = work();
    work.iter_mut().for_each(|(_, options)| options.words = true);
    for precision in Precision::ALL {
        always_the_same(|slots, rows| random_cpu(precision, slots, rows), &work);
    }
}

#[test]
fn a_device_that_fails_fails_what_is_under_way_and_nothing_else() {
    let failed = Err(DeviceError::new("out of memory"));
    let mut work = work();
    work.iter_mut().for_each(|(_, options)| options.words = true);
    for (call, number) in [(Call::Submit, 4), (Call::Encode, 2), (Call::Align, 1)] {
        let (inner, voice) = random_cpu(Precision::F32, 5, 16);
        let scheduler = Scheduler::start(Failing::at(inner, call, number)).unwrap();
        let read = |(pcm, options)| submit(&scheduler, &voice, pcm, options);
        let all: Vec<_> = work.clone().into_iter().map(read).collect();
        let told: Vec<Read> = block_on(join_all(all)).into_iter().map(Result::unwrap).collect();
        assert!(told.contains(&failed), "{told:?}");
        if call != Call::Submit {
            assert_eq!(told.iter().filter(|read| read.is_err()).count(), 1, "the others go on: {told:?}");
        }
        let (pcm, options) = work[0].clone();
        let later = block_on(submit(&scheduler, &voice, pcm, options)).unwrap();
        assert!(later.is_ok(), "{later:?}");
    }
}

#[test]
fn a_reading_that_panics_takes_no_other_with_it() {
    let (backend, voice) = random_network(2, 16);
    let scheduler = Scheduler::start(backend).unwrap();
    scheduler.submit(URGENT, |_, _| async { panic!("this reading shall break off") }.boxed_local());
    let (pcm, options) = work().swap_remove(0);
    assert!(block_on(submit(&scheduler, &voice, pcm, options)).unwrap().is_ok());
    assert!(!scheduler.has_ended());
}

#[test]
fn what_is_given_up_leaves_its_place_to_others() {
    let (backend, voice) = random_network(1, 4);
    let scheduler = Scheduler::start(backend).unwrap();
    scheduler.submit(1, |desk, slot| {
        let reading = async move {
            let rows = desk.rows(4).await;
            let pcm: Arc<[i16]> = hum(1).into();
            slot.encode(&pcm, 0, 100, 1_500).await.unwrap();
            // Begins texts and leaves without hearing of them.
            rows.iter().for_each(|row| {
                row.flow(&slot, &[50_257].into(), 0, crate::sampling::Sampling::default(), 20);
            });
        };
        reading.boxed_local()
    });
    let (pcm, options) = work().swap_remove(1);
    assert!(block_on(submit(&scheduler, &voice, pcm, options)).unwrap().is_ok());
}

#[test]
fn the_urgent_join_first_and_one_slot_is_kept_for_them() {
    let (backend, _) = random_network(4, 4);
    let scheduler = Scheduler::start(backend).unwrap();
    let (told, order) = channel();
    // Three readings hold the slots that are for everybody.
    let mut held = Vec::new();
    for _ in 0..3 {
        let (go, wait) = oneshot::channel::<()>();
        let told = told.clone();
        held.push(go);
        scheduler.submit(1, move |desk, slot| {
            let reading = async move {
                told.send("held").unwrap();
                hold(&desk, &slot, wait).await;
            };
            reading.boxed_local()
        });
    }
    (0..3).for_each(|_| assert_eq!(order.recv().unwrap(), "held"));
    let say = |urgency, word: &'static str| {
        let told = told.clone();
        scheduler.submit(urgency, move |_, _| {
            let reading = async move { told.send(word).unwrap() };
            reading.boxed_local()
        });
    };
    say(2, "replay");
    say(1, "batch");
    say(URGENT, "urgent");
    assert_eq!(order.recv().unwrap(), "urgent");
    held.into_iter().for_each(|go| go.send(()).unwrap());
    assert_eq!((order.recv().unwrap(), order.recv().unwrap()), ("batch", "replay"));
}

/// Keeps a slot busy until it is told to go.
async fn hold(desk: &Desk, slot: &SlotLease, mut wait: oneshot::Receiver<()>) {
    let pcm: Arc<[i16]> = hum(1).into();
    let _rows = desk.rows(1).await;
    while wait.try_recv().unwrap().is_none() {
        slot.encode(&pcm, 0, 100, 1_500).await.unwrap();
    }
}

/// Who joins of those that wait, each (urgency, seconds waited), the longest there first: its place.
fn first_of(waiting: &[(Urgency, u64)], slots: usize, free: usize) -> Option<usize> {
    first_beside(waiting, slots, free, false)
}

/// The same where a reading of the most urgent lane has a slot, or none has.
fn first_beside(waiting: &[(Urgency, u64)], slots: usize, free: usize, has_urgent: bool) -> Option<usize> {
    let now = Instant::now() + Duration::from_secs(1_000);
    let job = |(i, (urgency, waited)): (usize, &(Urgency, u64))| Job {
        urgency: *urgency,
        arrived: now - Duration::from_secs(*waited),
        number: i as u64,
        begin: Box::new(|_, _| unreachable!("nobody joins here")),
    };
    let waiting: Vec<Job> = waiting.iter().enumerate().map(job).collect();
    first(&waiting, (slots, free), has_urgent, now)
}

#[test]
fn lanes_and_deadlines_decide_who_joins() {
    assert_eq!(first_of(&[], 8, 8), None);
    assert_eq!(first_of(&[(2, 0), (1, 0), (URGENT, 0)], 8, 8), Some(2));
    assert_eq!(first_of(&[(2, 9), (1, 9), (URGENT, 0)], 8, 8), Some(2), "the more urgent lane");
    assert_eq!(first_of(&[(1, 3), (1, 5), (1, 5)], 8, 8), Some(1), "in a lane who came first");
    // Each lane is given ten seconds more; then it is its turn.
    assert_eq!(first_of(&[(1, 11), (URGENT, 0)], 8, 8), Some(0));
    assert_eq!(first_of(&[(1, 11), (URGENT, 2)], 8, 8), Some(1));
    assert_eq!(first_of(&[(2, 19), (URGENT, 0)], 8, 8), Some(1));
    assert_eq!(first_of(&[(2, 21), (1, 10), (URGENT, 0)], 8, 8), Some(0));
    // The last slot is kept for the most urgent, whoever else is due; with few slots none is.
    assert_eq!(first_of(&[(1, 60), (URGENT, 0)], 4, 1), Some(1));
    assert_eq!(first_of(&[(1, 60)], 4, 1), None);
    assert_eq!(first_of(&[(1, 60), (URGENT, 0)], 3, 1), Some(0));
    assert_eq!(first_of(&[(URGENT, 9)], 8, 0), None);
}

/// One slot comes free at a time, and somebody urgent always waits.
#[test]
fn urgent_work_without_end_leaves_its_share_to_the_less_urgent() {
    assert_eq!(first_beside(&[(1, 9), (URGENT, 0)], 4, 1, true), Some(1), "not due yet");
    assert_eq!(first_beside(&[(1, 11), (URGENT, 0)], 4, 1, true), Some(0));
    assert_eq!(first_beside(&[(2, 21), (1, 9), (URGENT, 0)], 4, 1, true), Some(0));
    assert_eq!(first_beside(&[(1, 11), (URGENT, 2)], 4, 1, true), Some(1), "who is due earlier");
    assert_eq!(first_beside(&[(1, 9)], 4, 1, true), None, "kept while nobody is due");
    assert_eq!(first_beside(&[(1, 60), (URGENT, 0)], 4, 1, false), Some(1), "one slot is the urgent's own");
}

/// Whether a backend notes a token when it is sampled or when it is fed, what is said of a prefix counts once.
#[test]
fn a_prefix_counts_the_same_on_every_backend() {
    let options = Options {
        tokens_max: 20,
        temperatures: vec![0.7],
        best_of: 1,
        seed: 3,
        prefix: Some("a b c d".to_owned()),
        ..Options::default()
    };
    let work = [(hum(3), options)];
    let tokens = |device: Device| -> Vec<u32> {
        let [read] = together(device, &work).try_into().unwrap();
        read.unwrap().spans.into_iter().flat_map(|span| span.tokens).collect()
    };
    let (plain, cpu) = (tokens(random_network(1, 16)), tokens(random_cpu(Precision::F32, 1, 16)));
    assert!(plain.len() > 6, "{plain:?}");
    assert_eq!(plain, cpu);
}
