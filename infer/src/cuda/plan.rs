//! What a step is for the kernels: which tokens they read, whose logits are wanted, what is asked of these.

use std::ops::Range;

use kernels::cross_attention::{self, QUERIES_MAX};
use kernels::probabilities::Question;
use kernels::sample::{self, NONE, RowState, TOP_MAX};
use kernels::{embed, self_attention};

use crate::backend::{Ask, Feed, Run};
use crate::sampling::Sampling;

/// Tokens that are read at once; a longer step is read in pieces.
pub const ITEMS_MAX: usize = 512;

/// Positions that lengths of sound are rounded up to where a launch is recorded, so that few recordings serve all.
const LENGTH_STEP: u32 = 256;

/// What plans of one model have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Tokens of a text.
    pub text_positions: usize,
    /// Positions of a slot.
    pub room: usize,
    /// Tokens of the model.
    pub vocabulary: usize,
    /// `<|nospeech|>`
    pub no_speech: u32,
}

/// A text in the making, as the host knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Text {
    /// The sound that it hears.
    pub slot: usize,
    /// Tokens read.
    pub length: usize,
}

/// Tokens that are read at once.
#[derive(Debug, Default)]
pub struct Piece {
    /// What is embedded.
    pub tokens: Vec<embed::Item>,
    /// Where each stands.
    pub items: Vec<self_attention::Item>,
    /// What each hears.
    pub groups: Vec<cross_attention::Group>,
    /// The same with lengths rounded up: what a launch is made for.
    pub greatest: Vec<cross_attention::Group>,
    /// Which of the items have a row of logits: (item, row of logits), the items ascending.
    pub wanted: Vec<(usize, usize)>,
}

impl Piece {
    fn push(&mut self, text: Text, row: usize, token: u32, heard: usize) {
        let (item, position) = (self.items.len() as u32, text.length as u32);
        let row = row as u32;
        let first = self.items.last().filter(|last| last.row == row).map_or(item, |last| last.first);
        self.tokens.push(embed::Item { row, position, token });
        self.items.push(self_attention::Item { row, position, first });
        let slot = text.slot as u32;
        match self.groups.last_mut() {
            Some(group) if group.slot == slot && (group.count as usize) < QUERIES_MAX => group.count += 1,
            _ => {
                let length = heard as u32;
                self.groups.push(cross_attention::Group { slot, length, first: item, count: 1 });
            }
        }
    }

    /// The greatest length, rounded.
    fn round(&mut self, room: usize) {
        let longest = self.groups.iter().map(|group| group.length).max().unwrap_or(0);
        let length = longest.next_multiple_of(LENGTH_STEP).min(room as u32);
        self.greatest.clear();
        self.greatest.extend(self.groups.iter().map(|group| cross_attention::Group { length, ..*group }));
    }
}

/// What is told of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// The run's row.
    pub row: usize,
    /// Which sampled row it is, and how many tokens of it are told: none where one was taken.
    pub sampled: Option<(usize, usize)>,
    /// Which of the questions' tokens tells of silence.
    pub no_speech: Option<usize>,
    /// Which of them are weighed among themselves.
    pub among: Range<usize>,
    /// These tokens.
    pub weighed: Vec<u32>,
}

/// A step.
#[derive(Debug, Default)]
pub struct Plan {
    /// What is read, one piece behind the other.
    pub pieces: Vec<Piece>,
    /// Rows of logits.
    pub rows: usize,
    /// What is sampled: the first rows of logits, in order.
    pub samples: Vec<sample::Item>,
    /// What is asked before any filter.
    pub questions: Vec<Question>,
    /// Of which tokens.
    pub tokens: Vec<u32>,
    /// States that rows begin with.
    pub starts: Vec<(usize, RowState)>,
    /// For each run of the step.
    pub told: Vec<Told>,
}

impl Plan {
    /// Plans a step of texts that hear slots of these lengths; texts are brought forward.
    pub fn new(step: &[Run<'_>], texts: &mut [Text], heard: &[usize], frame: Frame) -> Plan {
        let mut order: Vec<(usize, usize)> = step
            .iter()
            .map(|run| match run.feed {
                Feed::Start { slot, .. } => slot.0,
                _ => texts[run.row.0].slot,
            })
            .enumerate()
            .map(|(i, slot)| (slot, i))
            .collect();
        order.sort_unstable();
        let mut plan = Plan { pieces: vec![Piece::default()], ..Plan::default() };
        let is_sampled = |run: &Run<'_>| !matches!(run.ask, Ask::Among(_));
        // Rows of logits that are sampled come first.
        plan.rows = step.iter().filter(|run| is_sampled(run)).count();
        let nothing = Told { row: 0, sampled: None, no_speech: None, among: 0..0, weighed: Vec::new() };
        plan.told.resize(step.len(), nothing);
        for (slot, i) in order {
            let run = &step[i];
            assert!(heard[slot] > 0, "every slot that is heard holds sound");
            plan.add(run, i, texts, heard[slot], frame);
        }
        plan.pieces.iter_mut().for_each(|piece| piece.round(frame.room));
        plan
    }

    fn add(&mut self, run: &Run<'_>, i: usize, texts: &mut [Text], heard: usize, frame: Frame) {
        let row = run.row.0;
        let chosen = match run.feed {
            Feed::Chosen(token) => token,
            _ => NONE,
        };
        let mut no_speech_at = None;
        let (one, prompt) = match run.feed {
            Feed::Start { slot, prompt, start, sampling } => {
                assert!(start < prompt.len(), "the start is in the prompt");
                texts[row] = Text { slot: slot.0, length: 0 };
                self.starts.push((row, state_of(sampling)));
                no_speech_at = Some(start);
                (None, prompt)
            }
            Feed::Sampled => (Some(NONE), &[][..]),
            Feed::Chosen(token) => (Some(token), &[][..]),
        };
        let mut no_speech_row = None;
        // A launch that is replayed is not checked again.
        let length = texts[row].length + prompt.len() + one.iter().len();
        assert!(length <= frame.text_positions, "a text has {} tokens at most", frame.text_positions);
        let is_known = |token: u32| token == NONE || (token as usize) < frame.vocabulary;
        assert!(one.into_iter().chain(prompt.iter().copied()).all(is_known), "tokens are the model's");
        for (at, token) in one.into_iter().chain(prompt.iter().copied()).enumerate() {
            self.read(&mut texts[row], row, token, heard);
            if no_speech_at == Some(at) && at + 1 < prompt.len() {
                no_speech_row = Some(self.want_more());
            }
        }
        let last = match run.ask {
            Ask::Among(_) => {
                assert!(no_speech_at.is_some(), "what is weighed is behind a prompt");
                self.want_more()
            }
            Ask::Token | Ask::Top(_) => {
                let sampled = self.samples.len();
                let top = match run.ask {
                    Ask::Top(count) => count,
                    _ => 0,
                };
                assert!(top <= TOP_MAX, "a step tells at most {TOP_MAX} tokens of a row");
                assert!(run.ask != Ask::Top(0), "a step that tells tokens tells one");
                self.samples.push(sample::Item { row: row as u32, chosen, top: top as u32 });
                self.told[i].sampled = Some((sampled, top));
                self.want(sampled);
                sampled
            }
        };
        let vocabulary = frame.vocabulary as u32;
        self.told[i].row = row;
        if no_speech_at.is_some() {
            let first = self.tokens.len();
            self.ask(no_speech_row.unwrap_or(last), &[frame.no_speech], vocabulary);
            self.told[i].no_speech = Some(first);
        }
        if let Ask::Among(tokens) = run.ask {
            let first = self.tokens.len();
            self.ask(last, tokens, vocabulary);
            self.told[i].among = first..self.tokens.len();
            self.told[i].weighed = tokens.to_vec();
        }
    }

    /// Adds a token to the text.
    fn read(&mut self, text: &mut Text, row: usize, token: u32, heard: usize) {
        if self.piece().items.len() == ITEMS_MAX {
            self.pieces.push(Piece::default());
        }
        let place = *text;
        self.piece().push(place, row, token, heard);
        text.length += 1;
    }

    /// Wants logits behind the token that was added last, beside those that are sampled.
    fn want_more(&mut self) -> usize {
        let row = self.rows;
        self.rows += 1;
        self.want(row);
        row
    }

    fn want(&mut self, row: usize) {
        let piece = self.piece();
        piece.wanted.push((piece.items.len() - 1, row));
    }

    fn ask(&mut self, row: usize, tokens: &[u32], among: u32) {
        let (row, first, count) = (row as u32, self.tokens.len() as u32, tokens.len() as u32);
        self.questions.push(Question { row, first, count, among });
        self.tokens.extend(tokens);
    }

    fn piece(&mut self) -> &mut Piece {
        self.pieces.last_mut().expect("a plan has a piece")
    }

    /// The only piece, where each of its items has the row of logits of its own number, and all are sampled: then nothing need
    /// be picked out, and the launches are those of any such step of as many items and groups.
    pub fn even(&self) -> Option<&Piece> {
        let [piece] = &self.pieces[..] else { return None };
        let is_even = piece.items.len() == self.samples.len()
            && piece.wanted.iter().enumerate().all(|(i, wanted)| *wanted == (i, i));
        is_even.then_some(piece)
    }

    /// A text that is read by itself in a row, with the logits behind some of its tokens. Rows of logits stand in the order of the
    /// tokens.
    pub fn of_text(
        row: usize,
        slot: usize,
        tokens: &[u32],
        wanted: impl Fn(usize) -> bool,
        heard: usize,
        room: usize,
    ) -> Plan {
        let mut plan = Plan { pieces: vec![Piece::default()], ..Plan::default() };
        let mut text = Text { slot, length: 0 };
        for (i, token) in tokens.iter().enumerate() {
            plan.read(&mut text, row, *token, heard);
            if wanted(i) {
                plan.want_more();
            }
        }
        plan.pieces.iter_mut().for_each(|piece| piece.round(room));
        plan
    }
}

fn state_of(sampling: Sampling) -> RowState {
    let Sampling { temperature, seed, timestamps, first_timestamp_max, timestamp_max } = sampling;
    let state = RowState::new(seed, temperature, timestamps.then_some(first_timestamp_max));
    RowState { timestamp_max, ..state }
}

#[cfg(test)]
mod tests;
