use super::*;
use crate::backend::{Row, Scored};

fn text(tokens: &[u32], sum_logprob: f32) -> Candidate {
    Candidate { tokens: tokens.to_vec(), sum_logprob, ..Candidate::default() }
}

#[test]
fn the_mean_counts_the_end_and_the_rank_does_not() {
    let candidate = text(&[1, 2, 3], -2.0);
    assert_eq!(candidate.avg_logprob(), -0.5);
    assert!((candidate.rank(None) - -2.0 / 3.0).abs() < 1e-6);
    assert_eq!(text(&[], -2.0).avg_logprob(), -2.0);
}

#[test]
fn a_prefix_is_no_merit_of_the_text() {
    let candidate = Candidate { forced: 2, ..text(&[1, 2, 3, 4], -3.0) };
    assert_eq!(candidate.avg_logprob(), -1.0, "two sampled tokens and the end");
    assert_eq!(candidate.rank(None), -1.5);
}

#[test]
fn a_length_penalty_follows_wu() {
    let candidate = text(&[1; 7], -4.0);
    assert_eq!(candidate.rank(Some(0.0)), -4.0);
    assert_eq!(candidate.rank(Some(1.0)), -2.0, "((5 + 7) / 6) = 2");
}

const END: u32 = 9;

/// One step from beams (tokens, sum), each answered with ways (token, logarithmic probability): what goes on (beam,
/// token, sum) and what ended (tokens, sum).
#[track_caller]
fn check(
    beams: &[(&[u32], f32)],
    answers: &[&[(u32, f32)]],
    size: usize,
    next: &[(usize, u32, f32)],
    ended: &[(&[u32], f32)],
) {
    let open: Vec<Beam> =
        beams.iter().map(|(tokens, sum)| Beam { tokens: tokens.to_vec(), sum_logprob: *sum }).collect();
    let answers: Vec<Answer> = answers
        .iter()
        .map(|tokens| Answer { row: Row(0), tokens: Scored::from_slice(tokens), no_speech_prob: None })
        .collect();
    let mut found = Vec::new();
    let ways = step(&open, &answers, size, END, size, &mut found);
    let ways: Vec<_> = ways.iter().map(|way| (way.beam, way.token, way.sum_logprob)).collect();
    assert_eq!(ways, next);
    let found: Vec<_> = found.iter().map(|text| (text.tokens.as_slice(), text.sum_logprob)).collect();
    assert_eq!(found, ended);
}

#[test]
fn the_likeliest_of_all_beams_go_on() {
    check(
        &[(&[1], -1.0), (&[2], -2.0)],
        &[&[(5, -0.5), (6, -3.0), (7, -9.0)], &[(5, -0.25), (8, -0.5), (6, -4.0)]],
        2,
        &[(0, 5, -1.5), (1, 5, -2.25)],
        &[],
    );
}

#[test]
fn an_end_before_the_last_beam_is_found_and_later_ones_are_not() {
    check(
        &[(&[1], -1.0), (&[2], -2.0)],
        &[&[(END, -0.5), (6, -1.0), (7, -1.5)], &[(END, -0.75), (8, -3.0), (6, -4.0)]],
        2,
        &[(0, 6, -2.0), (0, 7, -2.5)],
        &[(&[1], -1.5)],
    );
}

#[test]
fn equal_ways_keep_the_order_of_their_beams() {
    check(&[(&[1], -1.0), (&[2], -1.0)], &[&[(5, -1.0)], &[(6, -1.0)]], 1, &[(0, 5, -2.0)], &[]);
}

#[test]
fn a_beam_that_goes_on_twice_is_copied_into_a_row_that_is_free() {
    let way = |beam| Way { beam, token: 0, sum_logprob: 0.0 };
    let next = [way(1), way(1), way(0)];
    assert_eq!(settle(&next, &[0, 1, 2], 3), (vec![1, 2, 0], vec![(1, 2)]));
    // All from one: it stays, the others are copies.
    let next = [way(2), way(2), way(2)];
    assert_eq!(settle(&next, &[0, 1, 2], 3), (vec![2, 0, 1], vec![(2, 0), (2, 1)]));
    // From a start in one row.
    let next = [way(0), way(0)];
    assert_eq!(settle(&next, &[0], 2), (vec![0, 1], vec![(0, 1)]));
}

#[test]
fn what_repeats_is_counted_from_the_end() {
    assert_eq!(repeated(&[1, 2, 3, 9, 9, 9], 1), 3);
    assert_eq!(repeated(&[1, 2, 1, 2, 1, 2], 2), 6);
    assert_eq!(repeated(&[7, 2, 1, 2], 2), 3);
}
