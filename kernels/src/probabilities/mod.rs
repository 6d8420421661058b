//! How likely given tokens are before any filter: what tells speech from silence, languages from each other, and what
//! words are worth.
//!
//! logits (rows, vocabulary) f32. Each question names a row and tokens, which stand one behind the other in one list for
//! all questions; each token's score is its logarithmic probability among the first `among` tokens of the vocabulary.
//! A question gives the same bits alone and among others.
//!
//! Bytes: 4 · among a question, from the L2 cache where the logits were just written.

use crate::device::{Arguments, Device, Error, Launch, check, check_array};
use crate::memory::Plain;
use crate::view::{View, ViewMut};

const OP: &str = "probabilities";

/// As in the kernel.
const THREADS: u32 = 256;

/// What is asked of one row of logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Question {
    /// The row of logits.
    pub row: u32,
    /// Where its tokens begin in the list.
    pub first: u32,
    /// How many there are.
    pub count: u32,
    /// The tokens that share the probability: the first of the vocabulary, so many.
    pub among: u32,
}

// SAFETY: four numbers of four bytes.
unsafe impl Plain for Question {}

/// Scores the tokens of each question. `questions` are what `device_questions` holds on the device, and `tokens` what
/// `device_tokens` holds: they are checked here and read there. Scores stand where their tokens stand in the list.
#[allow(clippy::too_many_arguments)]
pub fn probabilities(
    device: &mut impl Device,
    logits: &View<'_, f32>,
    vocabulary: usize,
    questions: &[Question],
    device_questions: &View<'_, Question>,
    tokens: &[u32],
    device_tokens: &View<'_, u32>,
    scores: &mut ViewMut<'_, f32>,
) -> Result<(), Error> {
    let rows = logits.len() / vocabulary.max(1);
    check(vocabulary > 0 && i32::try_from(questions.len()).is_ok(), OP, || {
        format!("{} questions of a vocabulary of {vocabulary}", questions.len())
    })?;
    for (i, question) in questions.iter().enumerate() {
        let Question { row, first, count, among } = *question;
        check((row as usize) < rows, OP, || format!("question {i} is of row {row} of {rows}"))?;
        check(among > 0 && among as usize <= vocabulary, OP, || {
            format!("question {i} is among {among} of {vocabulary} tokens")
        })?;
        let asked =
            (first as usize).checked_add(count as usize).and_then(|end| tokens.get(first as usize..end));
        let asked = asked.ok_or_else(|| Error::Contract {
            op: OP,
            reason: format!("question {i} has {count} tokens from {first} on in a list of {}", tokens.len()),
        })?;
        check(asked.iter().all(|token| *token < among), OP, || {
            format!("question {i} asks for a token that is not among the first {among}")
        })?;
    }
    check(device_questions.len() >= questions.len() && device_tokens.len() >= tokens.len(), OP, || {
        let (questions, tokens) = (device_questions.len(), device_tokens.len());
        format!("the device has {questions} questions and {tokens} tokens")
    })?;
    check_array(OP, "logits", (logits.address(), logits.len()), rows * vocabulary)?;
    check_array(OP, "scores", (scores.address(), scores.len()), tokens.len())?;
    if questions.is_empty() {
        return Ok(());
    }
    let launch = Launch {
        kernel: "probabilities",
        grid: [questions.len() as u32, 1, 1],
        threads: THREADS,
        shared_bytes: 0,
    };
    let arguments = Arguments::new()
        .read(logits)
        .number(vocabulary)
        .read(device_questions)
        .read(device_tokens)
        .write(scores);
    // SAFETY: the arguments are the kernel's parameters in order; questions, tokens and arrays were checked.
    unsafe { device.launch(&launch, &arguments) }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
