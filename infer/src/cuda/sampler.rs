//! From logits to tokens on the device, and what the host is told of it.

use kernels::accelerator::Accelerator;
use kernels::copy_rows::{self, copy_states};
use kernels::device::Error;
use kernels::memory::{Memory, Pinned, Plain};
use kernels::probabilities::{Question, probabilities};
use kernels::sample::{self, Answers, RowState, TOP_MAX, Vocabulary, sample};
use kernels::view::View;

use super::inbox::Inbox;
use super::plan::Plan;
use crate::model::Dims;
use crate::sampling::Rules;
use crate::tokens::TIMESTAMPS;

/// Tokens that may be asked for at once, a row of logits each taken for itself: languages are a hundred.
const ASKED_MAX: usize = 128;

/// Memory of the sampler.
pub struct Sampler {
    words: Vocabulary,
    /// Logits of a row.
    columns: usize,
    /// (2, words): what is never sampled, and not first.
    lists: Memory<u32>,
    states: Memory<RowState>,
    /// What each row reads next.
    next: Memory<u32>,
    /// A state that a row begins with, for each row.
    starts: Vec<Pinned<RowState>>,
    items: Inbox<sample::Item>,
    questions: Inbox<Question>,
    asked: Inbox<u32>,
    /// (rows, 17)
    tokens: Outbox<u32>,
    /// (rows, 17)
    scores: Outbox<f32>,
    /// (tokens asked for)
    told: Outbox<f32>,
}

/// An array that the host is told of each step. Two arrays of the host take turns, so that the host reads one while the device
/// fills the other.
struct Outbox<T> {
    memory: Memory<T>,
    pinned: [Pinned<T>; 2],
}

impl<T: Plain> Outbox<T> {
    fn new(device: &mut impl Accelerator, len: usize) -> Result<Outbox<T>, Error> {
        let pinned = [device.pinned(len)?, device.pinned(len)?];
        Ok(Outbox { memory: device.uninitialised(len)?, pinned })
    }

    fn send(&mut self, device: &mut impl Accelerator, turn: usize, len: usize) -> Result<(), Error> {
        if len == 0 {
            return Ok(());
        }
        device.download_later(&self.memory.view().part(0..len)?, &mut self.pinned[turn])
    }
}

/// What the host was told of a step.
pub struct Results<'a> {
    /// (sampled rows, 17)
    pub tokens: &'a [u32],
    /// (sampled rows, 17): logarithmic probabilities.
    pub scores: &'a [f32],
    /// (tokens asked for): logarithmic probabilities.
    pub told: &'a [f32],
}

impl Sampler {
    /// A sampler of `rows` texts, for logits of `columns` a row.
    pub fn new(
        device: &mut impl Accelerator,
        dims: Dims,
        rules: &Rules,
        (rows, columns): (usize, usize),
    ) -> Result<Sampler, Error> {
        let special = rules.special;
        let words = Vocabulary {
            size: columns as u32,
            end: special.end,
            no_timestamps: special.no_timestamps,
            first_timestamp: special.first_timestamp,
            timestamps: TIMESTAMPS,
        };
        let behind = dims.vocabulary as u32..columns as u32;
        let never: Vec<u32> = rules.suppressed.iter().copied().chain(behind).collect();
        let asked = rows * ASKED_MAX;
        Ok(Sampler {
            words,
            columns,
            lists: device.stored(&words.lists(&never, &rules.suppressed_first))?,
            states: device.uninitialised(rows)?,
            next: device.zeroed(rows)?,
            starts: (0..rows).map(|_| device.pinned(1)).collect::<Result<_, _>>()?,
            items: Inbox::new(device, rows)?,
            questions: Inbox::new(device, asked)?,
            asked: Inbox::new(device, asked)?,
            tokens: Outbox::new(device, rows * TOP_MAX)?,
            scores: Outbox::new(device, rows * TOP_MAX)?,
            told: Outbox::new(device, asked)?,
        })
    }

    /// Bytes of the device.
    pub fn bytes(&self) -> usize {
        let numbers = self.lists.len()
            + self.next.len()
            + self.tokens.memory.len()
            + self.scores.memory.len()
            + self.told.memory.len();
        numbers * size_of::<u32>()
            + self.states.len() * size_of::<RowState>()
            + self.items.bytes()
            + self.questions.bytes()
            + self.asked.bytes()
    }

    /// What rows read next.
    pub fn next(&self) -> View<'_, u32> {
        self.next.view()
    }

    /// Tells the device what is sampled and asked in a step, and how new texts begin.
    pub fn put(&mut self, device: &mut impl Accelerator, plan: &Plan) -> Result<(), Error> {
        for (row, state) in &plan.starts {
            let pinned = &mut self.starts[*row];
            pinned.get_mut()?[0] = *state;
            device.upload_later(pinned, &mut self.states.view_mut().part_mut(*row..row + 1)?)?;
        }
        self.items.put(device, &plan.samples)?;
        assert!(
            plan.tokens.len() <= self.told.memory.len(),
            "{} tokens are asked at once",
            plan.tokens.len()
        );
        self.questions.put(device, &plan.questions)?;
        self.asked.put(device, &plan.tokens)
    }

    /// Samples from the first rows of logits.
    pub fn sample(
        &mut self,
        device: &mut impl Accelerator,
        plan: &Plan,
        logits: &View<'_, f32>,
    ) -> Result<(), Error> {
        let mut answers = Answers {
            tokens: self.tokens.memory.view_mut(),
            scores: self.scores.memory.view_mut(),
            next: self.next.view_mut(),
        };
        let (items, mut states) = (self.items.view(), self.states.view_mut());
        let words = (self.words, &self.lists.view());
        sample(device, logits, &plan.samples, &items, &mut states, &mut answers, words)
    }

    /// Answers the questions.
    pub fn answer(
        &mut self,
        device: &mut impl Accelerator,
        plan: &Plan,
        logits: &View<'_, f32>,
    ) -> Result<(), Error> {
        let (questions, asked) = (self.questions.view(), self.asked.view());
        let (to, columns) = (&mut self.told.memory.view_mut(), self.columns);
        probabilities(device, logits, columns, &plan.questions, &questions, &plan.tokens, &asked, to)
    }

    /// Logarithmic probabilities of a token for each row of logits, among the first `among` tokens. Waits for them.
    pub fn ask_each(
        &mut self,
        device: &mut impl Accelerator,
        tokens: &[u32],
        among: u32,
        logits: &View<'_, f32>,
    ) -> Result<Vec<f32>, Error> {
        let questions = (0..tokens.len() as u32).map(|row| Question { row, first: row, count: 1, among });
        let plan = Plan { questions: questions.collect(), tokens: tokens.to_vec(), ..Plan::default() };
        self.questions.put(device, &plan.questions)?;
        self.asked.put(device, &plan.tokens)?;
        self.answer(device, &plan, logits)?;
        let mut told = vec![0.0; tokens.len()];
        device.download(&self.told.memory.view().part(0..tokens.len())?, &mut told)?;
        Ok(told)
    }

    /// Sends what came of a step to the host.
    pub fn send(&mut self, device: &mut impl Accelerator, plan: &Plan, turn: usize) -> Result<(), Error> {
        self.tokens.send(device, turn, plan.samples.len() * TOP_MAX)?;
        self.scores.send(device, turn, plan.samples.len() * TOP_MAX)?;
        self.told.send(device, turn, plan.tokens.len())
    }

    /// What was sent of a step. Waits for it.
    pub fn results(&self, turn: usize) -> Result<Results<'_>, Error> {
        Ok(Results {
            tokens: self.tokens.pinned[turn].get()?,
            scores: self.scores.pinned[turn].get()?,
            told: self.told.pinned[turn].get()?,
        })
    }

    /// Copies states; `device_groups` are the groups on the device.
    pub fn copy_rows(
        &mut self,
        device: &mut impl Accelerator,
        groups: &[copy_rows::Group],
        device_groups: &View<'_, copy_rows::Group>,
    ) -> Result<(), Error> {
        let (mut states, mut next) = (self.states.view_mut(), self.next.view_mut());
        copy_states(device, groups, device_groups, &mut states, &mut next)
    }
}
