use super::*;

const T: u32 = 100;
const SPECIAL: Special = Special {
    end: 50,
    start: 51,
    translate: 52,
    transcribe: 53,
    language_model: 54,
    previous: 55,
    no_speech: 56,
    no_timestamps: 99,
    first_timestamp: T,
};

/// Tokens at or above `T` are timestamps of 20 ms each; the window starts at frame 200 and holds 1000 frames.
#[track_caller]
fn check(tokens: &[u32], expected: &[(u64, u64, &[u32])], next: usize) {
    let (pieces, seek) = cut(tokens, SPECIAL, 200, 1_000);
    let got: Vec<_> =
        pieces.iter().map(|piece| (piece.start_ms, piece.end_ms, piece.tokens.as_slice())).collect();
    assert_eq!((got.as_slice(), seek), (expected, next));
}

#[test]
fn one_text_with_its_end_takes_the_whole_window() {
    check(&[T, 1, 2, T + 100], &[(2_000, 4_000, &[T, 1, 2, T + 100])], 1_200);
}

#[test]
fn pairs_of_timestamps_separate_texts() {
    check(
        &[T, 1, T + 50, T + 60, 2, T + 150],
        &[(2_000, 3_000, &[T, 1, T + 50]), (3_200, 5_000, &[T + 60, 2, T + 150])],
        1_200,
    );
}

#[test]
fn an_unfinished_text_is_read_again_from_its_start() {
    check(&[T, 1, T + 50, T + 50, 2, 3], &[(2_000, 3_000, &[T, 1, T + 50])], 300);
}

#[test]
fn a_pair_at_the_end_goes_on_there() {
    check(&[T, 1, T + 50, T + 50], &[(2_000, 3_000, &[T, 1, T + 50])], 300);
}

#[test]
fn without_an_end_the_window_is_the_text() {
    check(&[T, 1, 2], &[(2_000, 12_000, &[T, 1, 2])], 1_200);
    check(&[1, 2], &[(2_000, 12_000, &[1, 2])], 1_200);
    check(&[], &[(2_000, 12_000, &[])], 1_200);
}

#[test]
fn reading_always_moves_on() {
    let (_, next) = cut(&[T, T, 1], SPECIAL, 200, 1_000);
    assert!(next > 200);
}
