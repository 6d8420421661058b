//! The network in plain f32, one row after another: what the backends are compared with in tests.

use smallvec::smallvec;

use crate::backend::{
    Alignment, Answer, Ask, Backend, Capacity, DeviceError, Feed, Report, Row, Run, Slot, Sound,
};
use crate::features::Features;
use crate::math::log_sum_exp;
use crate::model::Dims;
use crate::sampling::{Rules, Sampling, State, choose, top};

pub mod network;

use network::{Cache, Heard, Network, softmax};

/// A network with slots and rows, and nothing shared between rows.
pub struct Plain {
    network: Network,
    rules: Rules,
    features: Features,
    slots: Vec<Option<Heard>>,
    rows: Vec<Option<Text>>,
    answers: Vec<Answer>,
}

#[derive(Clone)]
struct Text {
    slot: Slot,
    cache: Cache,
    sampling: Sampling,
    state: State,
    last: u32,
}

impl Plain {
    /// Takes a loaded network.
    pub fn new(network: Network, rules: Rules, slots: usize, rows: usize) -> Plain {
        let features = Features::new(network.dims.mels);
        let (slots, rows) = ((0..slots).map(|_| None).collect(), (0..rows).map(|_| None).collect());
        Plain { network, rules, features, slots, rows, answers: Vec::new() }
    }

    fn step(&mut self, run: &Run<'_>) -> Answer {
        let mut no_speech_at = None;
        let tokens: Vec<u32> = match run.feed {
            Feed::Start { slot, prompt, start, sampling } => {
                no_speech_at = Some(start);
                let (cache, state) = (Cache::default(), State::new());
                self.rows[run.row.0] = Some(Text { slot, cache, sampling, state, last: 0 });
                prompt.to_vec()
            }
            Feed::Sampled => vec![self.rows[run.row.0].as_ref().expect("the row has begun").last],
            Feed::Chosen(token) => vec![token],
        };
        let text = self.rows[run.row.0].as_mut().expect("the row has begun");
        if let Feed::Chosen(token) = run.feed {
            text.state.push(token, &self.rules.special);
        }
        let heard = self.slots[text.slot.0].as_ref().expect("the slot holds sound");
        let mut last = Vec::new();
        let mut no_speech_prob = None;
        for (i, token) in tokens.into_iter().enumerate() {
            last = self.network.read(heard, &mut text.cache, token);
            if no_speech_at == Some(i) {
                let max = last.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let logprob = last[self.rules.special.no_speech as usize] - log_sum_exp(&last, max);
                no_speech_prob = Some(logprob.exp());
            }
        }
        let tokens = match run.ask {
            Ask::Among(tokens) => {
                let mut chosen: Vec<f32> = tokens.iter().map(|token| last[*token as usize]).collect();
                softmax(&mut chosen);
                tokens.iter().copied().zip(chosen).collect()
            }
            Ask::Token => {
                self.rules.apply(text.state, &text.sampling, &mut last);
                let (token, logprob) =
                    choose(&last, &text.sampling, text.state.count, self.rules.special.end);
                text.state.push(token, &self.rules.special);
                text.last = token;
                smallvec![(token, logprob)]
            }
            Ask::Top(count) => {
                self.rules.apply(text.state, &text.sampling, &mut last);
                top(&last, count)
            }
        };
        Answer { row: run.row, tokens, no_speech_prob }
    }
}

impl Backend for Plain {
    fn dims(&self) -> Dims {
        self.network.dims
    }

    fn capacity(&self) -> Capacity {
        Capacity { slots: self.slots.len(), rows: self.rows.len(), windows: 1, lag: 0 }
    }

    fn encode(&mut self, sounds: &[Sound<'_>]) -> Result<(), DeviceError> {
        for sound in sounds {
            let mel = self.features.compute(sound.pcm);
            let states = self.network.encode(&mel.window(sound.from, sound.frames));
            self.slots[sound.slot.0] = Some(self.network.hear(&states));
        }
        Ok(())
    }

    fn submit(&mut self, step: &[Run<'_>]) -> Result<&[Answer], DeviceError> {
        self.answers = step.iter().map(|run| self.step(run)).collect();
        Ok(&self.answers)
    }

    fn copy_rows(&mut self, copies: &[(Row, Row)]) -> Result<(), DeviceError> {
        let read: Vec<_> = copies.iter().map(|(from, _)| self.rows[from.0].clone()).collect();
        for ((_, to), text) in copies.iter().zip(read) {
            self.rows[to.0] = text;
        }
        Ok(())
    }

    fn align(&mut self, _slot: Slot, _tokens: &[u32]) -> Result<Alignment, DeviceError> {
        Err(DeviceError::new("the plain network aligns nothing"))
    }

    fn report(&self) -> Report {
        Report { device: "cpu f32, plain".to_owned(), weight_bytes: 0, state_bytes: 0 }
    }
}
