use super::*;
use crate::backend::{Row, Slot};

const FRAME: Frame = Frame { text_positions: 448, room: 1_500, vocabulary: 51_865, no_speech: 50_362 };

fn start<'a>(row: usize, slot: usize, prompt: &'a [u32], start: usize, ask: Ask<'a>) -> Run<'a> {
    let sampling = Sampling::default();
    Run { row: Row(row), feed: Feed::Start { slot: Slot(slot), prompt, start, sampling }, ask }
}

fn on(row: usize) -> Run<'static> {
    Run { row: Row(row), feed: Feed::Sampled, ask: Ask::Token }
}

fn rows(piece: &Piece) -> Vec<(u32, u32, u32, u32)> {
    piece
        .items
        .iter()
        .zip(&piece.tokens)
        .map(|(item, token)| (item.row, item.position, item.first, token.token))
        .collect()
}

#[test]
fn rows_that_hear_one_slot_stand_together() {
    let mut texts = [Text { slot: 1, length: 9 }, Text { slot: 0, length: 4 }, Text { slot: 1, length: 30 }];
    let chosen = Run { feed: Feed::Chosen(77), ask: Ask::Top(5), ..on(2) };
    let plan = Plan::new(&[on(0), on(1), chosen], &mut texts, &[200, 700], FRAME);
    let piece = plan.even().expect("a token for each row");
    assert_eq!(rows(piece), [(1, 4, 0, NONE), (0, 9, 1, NONE), (2, 30, 2, 77)]);
    let group = |slot, length, first, count| cross_attention::Group { slot, length, first, count };
    assert_eq!(piece.groups, [group(0, 200, 0, 1), group(1, 700, 1, 2)]);
    // Launches are for the longest, rounded up.
    assert_eq!(piece.greatest, [group(0, 768, 0, 1), group(1, 768, 1, 2)]);
    let item = |row, chosen, top| sample::Item { row, chosen, top };
    assert_eq!(plan.samples, [item(1, NONE, 0), item(0, NONE, 0), item(2, 77, 5)]);
    // Told in the order of the step.
    let told: Vec<_> = plan.told.iter().map(|told| (told.row, told.sampled, told.no_speech)).collect();
    assert_eq!(told, [(0, Some((1, 0)), None), (1, Some((0, 0)), None), (2, Some((2, 5)), None)]);
    assert_eq!(texts.map(|text| text.length), [10, 5, 31]);
}

#[test]
fn prompts_are_read_whole_and_silence_is_asked_where_they_begin() {
    let mut texts = [Text { slot: 0, length: 300 }, Text { slot: 0, length: 2 }];
    let prompt = [50_361, 11, 12, 50_258];
    let plan = Plan::new(&[start(0, 1, &prompt, 3, Ask::Token), on(1)], &mut texts, &[1_500, 40], FRAME);
    assert!(plan.even().is_none());
    let [piece] = &plan.pieces[..] else { panic!("one piece") };
    assert_eq!(
        rows(piece),
        [(1, 2, 0, NONE), (0, 0, 1, 50_361), (0, 1, 1, 11), (0, 2, 1, 12), (0, 3, 1, 50_258)]
    );
    assert_eq!((piece.greatest[0].length, piece.wanted.as_slice()), (1_500, &[(0, 0), (4, 1)][..]));
    // The prompt ends with its start: one row of logits tells of both.
    assert_eq!(plan.questions, [Question { row: 1, first: 0, count: 1, among: 51_865 }]);
    assert_eq!((plan.tokens.as_slice(), plan.told[0].no_speech, plan.rows), (&[50_362][..], Some(0), 2));
    assert_eq!(plan.starts.iter().map(|(row, state)| (*row, state.count)).collect::<Vec<_>>(), [(0, 0)]);
    assert_eq!(texts[0], Text { slot: 1, length: 4 });

    // It begins before its end: a row of logits more, behind those that are sampled.
    let plan = Plan::new(&[start(0, 1, &prompt, 0, Ask::Token), on(1)], &mut texts, &[1_500, 40], FRAME);
    assert_eq!(plan.pieces[0].wanted, [(0, 0), (1, 2), (4, 1)]);
    assert_eq!(plan.questions[0].row, 2);
}

#[test]
fn what_is_weighed_is_not_sampled() {
    let mut texts = [Text::default(); 2];
    let languages = [50_259, 50_260, 50_261];
    let step = [start(0, 0, &[50_258], 0, Ask::Among(&languages)), start(1, 0, &[50_258], 0, Ask::Token)];
    let plan = Plan::new(&step, &mut texts, &[100], FRAME);
    assert_eq!(plan.samples.len(), 1);
    assert_eq!(plan.pieces[0].wanted, [(0, 1), (1, 0)]);
    assert_eq!(plan.tokens, [50_362, 50_259, 50_260, 50_261, 50_362]);
    assert_eq!((plan.told[0].among.clone(), plan.told[0].sampled), (1..4, None));
    assert_eq!(plan.told[0].weighed, languages);
    assert_eq!((plan.told[1].no_speech, plan.told[1].sampled), (Some(4), Some((0, 0))));
}

#[test]
fn a_long_step_is_read_in_pieces() {
    let mut texts = [Text::default(); 2];
    let prompt: Vec<u32> = (0..300).collect();
    let step = [start(0, 0, &prompt, 0, Ask::Token), start(1, 0, &prompt, 0, Ask::Token)];
    let plan = Plan::new(&step, &mut texts, &[100], FRAME);
    let sizes: Vec<usize> = plan.pieces.iter().map(|piece| piece.items.len()).collect();
    assert_eq!(sizes, [ITEMS_MAX, 600 - ITEMS_MAX]);
    // The second text goes on where it was cut, and is a text's first in its piece.
    assert_eq!(rows(&plan.pieces[1])[0], (1, 212, 0, 212));
    assert!(plan.pieces[0].groups.iter().all(|group| group.count as usize <= QUERIES_MAX));
    let wanted: Vec<_> = plan.pieces.iter().map(|piece| piece.wanted.clone()).collect();
    assert_eq!(wanted, [vec![(0, 2), (299, 0), (300, 3)], vec![(87, 1)]]);
}

#[test]
fn a_text_alone_wants_logits_behind_some_tokens() {
    let plan = Plan::of_text(4, 2, &[5, 6, 7], |i| i != 1, 90, 1_500);
    let piece = &plan.pieces[0];
    assert_eq!(rows(piece), [(4, 0, 0, 5), (4, 1, 0, 6), (4, 2, 0, 7)]);
    assert_eq!((piece.wanted.as_slice(), plan.rows), (&[(0, 0), (2, 1)][..], 2));
    assert!(plan.samples.is_empty() && plan.questions.is_empty());
}

#[test]
#[should_panic(expected = "448 tokens at most")]
fn a_text_does_not_leave_its_row() {
    Plan::new(&[on(0)], &mut [Text { slot: 0, length: 448 }], &[100], FRAME);
}

#[test]
#[should_panic(expected = "tokens are the model's")]
fn a_token_is_the_models() {
    let chosen = Run { feed: Feed::Chosen(60_000), ..on(0) };
    Plan::new(&[chosen], &mut [Text { slot: 0, length: 4 }], &[100], FRAME);
}
