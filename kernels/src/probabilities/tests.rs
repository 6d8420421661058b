use super::reference::score;
use super::{Question, probabilities};
use crate::device::Error;
use crate::testing::{Array, Emulator, Random, close, each_order};

const VOCABULARY: usize = 1_237;

fn ask(device: &mut Emulator, logits: &[f32], questions: &[Question], tokens: &[u32]) -> Vec<f32> {
    let (logits, asked, listed) = (Array::new(logits), Array::new(questions), Array::new(tokens));
    let mut scores = Array::<f32>::poisoned(tokens.len());
    probabilities(
        device,
        &logits.view(),
        VOCABULARY,
        questions,
        &asked.view(),
        tokens,
        &listed.view(),
        &mut scores.view_mut(),
    )
    .unwrap();
    scores.get().to_vec()
}

/// Rows asked more than once, none of a row, more tokens than threads, fewer than a vocabulary sharing, one alone.
fn questions() -> (Vec<Question>, Vec<u32>) {
    let of = |row, first, count, among| Question { row, first, count, among };
    let questions = vec![
        of(2, 0, 1, 1_237),
        of(0, 1, 300, 1_237),
        of(2, 301, 3, 400),
        of(2, 304, 0, 9),
        of(1, 304, 1, 1),
    ];
    let mut tokens = vec![1_236];
    tokens.extend((0..300).map(|i| i * 4));
    tokens.extend([0, 399, 7, 0]);
    (questions, tokens)
}

fn logits() -> Vec<f32> {
    let mut logits: Vec<f32> = Random::new(5).normal(3 * VOCABULARY).iter().map(|x| x * 6.0 + 40.0).collect();
    // Some that can never come, the whole share of the first thread among them.
    logits[2 * VOCABULARY..].iter_mut().step_by(256).for_each(|x| *x = f32::NEG_INFINITY);
    logits[2 * VOCABULARY] = -20.0;
    logits
}

#[test]
fn tokens_have_their_share() {
    let ((questions, tokens), logits) = (questions(), logits());
    each_order("probabilities", |device| {
        let scores = ask(device, &logits, &questions, &tokens);
        for Question { row, first, count, among } in &questions {
            let row = &logits[*row as usize * VOCABULARY..][..VOCABULARY];
            let at = *first as usize..(first + count) as usize;
            let expected: Vec<f64> =
                tokens[at.clone()].iter().map(|token| score(row, *among as usize, *token)).collect();
            close(&scores[at], &expected, 2e-6, 2e-5);
        }
    });
}

#[test]
fn a_question_is_answered_alone_as_among_others() {
    let ((questions, tokens), logits) = (questions(), logits());
    each_order("probabilities", |device| {
        let together = ask(device, &logits, &questions, &tokens);
        let alone = ask(device, &logits, &questions[2..3], &tokens);
        assert_eq!(alone[301..304], together[301..304]);
    });
}

#[test]
fn what_is_not_in_the_contract_is_refused() {
    each_order("probabilities", |device| {
        let numbers = Array::new(&[0.0f32; 64]);
        let mut scores = Array::<f32>::poisoned(2);
        let refused = |device: &mut Emulator, scores: &mut Array<f32>, question: Question, tokens: &[u32]| {
            let (asked, listed) = (Array::new(&[question]), Array::new(tokens));
            let refused = probabilities(
                device,
                &numbers.view(),
                32,
                &[question],
                &asked.view(),
                tokens,
                &listed.view(),
                &mut scores.view_mut(),
            );
            let Err(refused @ Error::Contract { .. }) = refused else { panic!("{refused:?}") };
            refused.to_string()
        };
        let good = Question { row: 1, first: 0, count: 2, among: 32 };
        for (question, tokens, said) in [
            (Question { row: 2, ..good }, &[1, 2][..], "row 2 of 2"),
            (Question { among: 33, ..good }, &[1, 2], "among 33 of 32"),
            (Question { among: 0, ..good }, &[1, 2], "among 0 of 32"),
            (Question { among: 2, ..good }, &[1, 2], "not among the first 2"),
            (Question { first: 1, ..good }, &[1, 2], "2 tokens from 1 on in a list of 2"),
            (Question { first: u32::MAX, ..good }, &[1, 2], "in a list of 2"),
            (good, &[1, 2, 3], "scores has 2 elements of the 3"),
        ] {
            let message = refused(device, &mut scores, question, tokens);
            assert!(message.contains(said), "{message}");
        }
    });
}
