//! What runs the network: the seam between decoding (prompts, rules of what is a good text, segments) and the device.
//!
//! A backend holds *slots* and *rows*. A slot holds one window of sound as the decoder hears it: keys and values of
//! every cross-attention. A row is a text in the making: its position, the keys and values of its tokens, and how it is
//! sampled. Several rows may hear one slot (candidates, beams). [`Backend::submit`] runs one step for any set of rows,
//! each with what is its own, so texts of many segments share each pass over the weights.
//!
//! Nothing above knows which backend runs, and nothing in a backend knows segments, recordings or streams.

use smallvec::SmallVec;

use crate::model::Dims;
use crate::sampling::Sampling;

/// Where a window of sound is kept: below [`Capacity::slots`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub usize);

/// Where a text in the making is kept: below [`Capacity::rows`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row(pub usize);

/// How much a backend holds at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Windows of sound.
    pub slots: usize,
    /// Texts.
    pub rows: usize,
    /// Windows that are worth encoding at once.
    pub windows: usize,
    /// Steps under way before the first is answered: 0 where [`Backend::submit`] answers its own step, 1 where it
    /// answers the step before.
    pub lag: usize,
}

/// A window of sound to encode.
#[derive(Debug, Clone, Copy)]
pub struct Sound<'a> {
    /// Where it goes; what was there is forgotten.
    pub slot: Slot,
    /// The whole segment, 16 kHz mono, at most 30 s: the spectrogram's loudest value is the segment's.
    pub pcm: &'a [i16],
    /// First frame (of 10 ms) of the window.
    pub from: usize,
    /// Frames of the window that are heard; what lies beyond is padding (zeros in the spectrogram).
    pub frames: usize,
    /// Positions (of 20 ms) to encode: 1 to 1500.
    pub positions: usize,
}

/// What a row does in a step.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// The row.
    pub row: Row,
    /// What it reads.
    pub feed: Feed<'a>,
    /// What is asked of the distribution behind it.
    pub ask: Ask<'a>,
}

/// What a row reads in a step.
#[derive(Debug, Clone, Copy)]
pub enum Feed<'a> {
    /// A new text: the row forgets what it was and reads a prompt.
    Start {
        /// The sound that it hears.
        slot: Slot,
        /// The tokens that the text continues, 1 to [`Dims::text_positions`].
        prompt: &'a [u32],
        /// Index in the prompt whose distribution gives [`Answer::no_speech_prob`].
        start: usize,
        /// How its tokens are chosen.
        sampling: Sampling,
    },
    /// The token that the row was answered last, without the host knowing it.
    Sampled,
    /// A token that the host chose, behind [`Ask::Top`]; it counts as sampled. Behind [`Ask::Token`] it would count beside the one
    /// that was taken.
    Chosen(u32),
}

/// What is asked of the distribution behind what a row read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ask<'a> {
    /// One token, chosen as the row's [`Sampling`] says.
    Token,
    /// The likeliest tokens after the filters, this many: at least 1.
    Top(usize),
    /// The probabilities of these tokens among themselves, before any filter (of languages); for [`Feed::Start`].
    Among(&'a [u32]),
}

/// Tokens with their probabilities; as many as five beams need are held without an allocation.
pub type Scored = SmallVec<[(u32, f32); 8]>;

/// What a step told of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The row.
    pub row: Row,
    /// The chosen token and its logarithmic probability at temperature 1 after the filters; several for
    /// [`Ask::Top`], the likeliest first; in the order asked for, with plain probabilities, for [`Ask::Among`].
    pub tokens: Scored,
    /// Probability that the window holds no speech, before any filter; for [`Feed::Start`].
    pub no_speech_prob: Option<f32>,
}

/// How the tokens of a text look at the sound: what word times are made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Alignment {
    /// Scaled products of queries and keys before the softmax, (heads, tokens, positions), one head for each of the
    /// model's alignment heads and one row for each token given.
    pub scores: Vec<f32>,
    /// Heads.
    pub heads: usize,
    /// Positions of 20 ms.
    pub positions: usize,
    /// Probability of each token behind those before it, of the text tokens alone, (tokens); 1 for the first.
    pub probabilities: Vec<f32>,
}

/// What a backend is and holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The device, the instructions of its products and the form of the weights, the instructions of its attention, such
    /// as `cpu avx512-vnni int8, attention avx512, 2 threads`.
    pub device: String,
    /// Bytes of weights.
    pub weight_bytes: usize,
    /// Bytes of slots, rows and scratch.
    pub state_bytes: usize,
}

impl Report {
    /// Bytes that the model takes, all in all.
    pub fn bytes(&self) -> u64 {
        (self.weight_bytes + self.state_bytes) as u64
    }
}

/// Why a device could not do what it was asked; the segments under way on it fail and may be tried elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct DeviceError {
    /// What it said.
    pub reason: String,
    /// Whether this process can use the device no more: another one can.
    pub is_lost: bool,
}

impl DeviceError {
    /// One after which the device can go on.
    pub fn new(reason: impl Into<String>) -> DeviceError {
        DeviceError { reason: reason.into(), is_lost: false }
    }
}

/// A device with a model's weights in it. One thread owns it.
///
/// What is asked of it is valid: slots and rows below the capacity, sound in every slot that is heard, positions and
/// tokens within the model's sizes. A backend asserts that; it never answers nonsense.
pub trait Backend: Send {
    /// The model's sizes.
    fn dims(&self) -> Dims;

    /// How much it holds.
    fn capacity(&self) -> Capacity;

    /// Encodes windows into their slots. The slots can be heard by the next step submitted.
    fn encode(&mut self, sounds: &[Sound<'_>]) -> Result<(), DeviceError>;

    /// Runs one step of each row given, each at most once. Returns the answers of the step submitted
    /// [`Capacity::lag`] steps before; an empty step only fetches answers.
    fn submit(&mut self, step: &[Run<'_>]) -> Result<&[Answer], DeviceError>;

    /// Makes each second row a copy of the first: text, position, sampling state. All are read before any is written.
    fn copy_rows(&mut self, copies: &[(Row, Row)]) -> Result<(), DeviceError>;

    /// Runs a whole text against a slot: `tokens` is beginning and text and end.
    fn align(&mut self, slot: Slot, tokens: &[u32]) -> Result<Alignment, DeviceError>;

    /// What it is and holds.
    fn report(&self) -> Report;
}
