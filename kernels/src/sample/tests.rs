use super::reference::{filter, log_sum, shares, top, unit};
use super::{Answers, Item, NONE, RowState, TOP_MAX, Vocabulary, sample};
use crate::testing::{Array, Random, each_order};

const WORDS: Vocabulary =
    Vocabulary { size: 2_000, end: 400, no_timestamps: 405, first_timestamp: 406, timestamps: 1_501 };
const NEVER: &[u32] = &[1, 31, 32, 63, 399, 401, 402, 403, 404];
const NEVER_FIRST: &[u32] = &[7, 400];

/// What a row knows: tokens chosen so far.
fn state(chosen: &[u32], temperature: f32, first_timestamp_max: Option<u32>) -> RowState {
    chosen.iter().fold(RowState::new(11, temperature, first_timestamp_max), push)
}

fn push(state: RowState, token: &u32) -> RowState {
    let is_time = *token >= WORDS.first_timestamp;
    RowState {
        previous_is_time: u32::from(state.count == 0 || state.last_is_time == 1),
        last_is_time: u32::from(is_time),
        latest: if is_time { *token } else { state.latest },
        count: state.count + 1,
        ..state
    }
}

/// States that the rules tell apart.
fn states(temperature: f32) -> Vec<RowState> {
    let time = |step: u32| WORDS.first_timestamp + step;
    let with = |chosen: &[u32]| state(chosen, temperature, Some(50));
    vec![
        state(&[], temperature, None),
        state(&[3, 9], temperature, None),
        with(&[]),
        with(&[time(0)]),
        with(&[time(0), 5]),
        with(&[time(0), 5, time(30)]),
        with(&[time(0), 5, time(30), time(30)]),
        with(&[time(0), 5, time(30), time(30), 6, 7]),
        with(&[time(1_500), 5]),
    ]
}

fn logits_of(random: &mut Random, rows: usize, lift: f32) -> Vec<f32> {
    let mut logits = random.normal(rows * WORDS.size as usize);
    logits.iter_mut().for_each(|x| *x *= 3.0);
    for row in logits.chunks_exact_mut(WORDS.size as usize) {
        row[WORDS.first_timestamp as usize..].iter_mut().for_each(|x| *x += lift);
    }
    logits
}

struct Answered {
    tokens: Vec<Vec<u32>>,
    scores: Vec<Vec<f32>>,
    next: Vec<u32>,
    states: Vec<RowState>,
}

fn check(logits: &[f32], states: &[RowState], chosen: u32, top: u32, judge: impl Fn(&Answered)) {
    // Rows in an order of their own.
    let rows = states.len() as u32;
    let items: Vec<Item> = (0..rows).map(|i| Item { row: rows - 1 - i, chosen, top }).collect();
    let by_row: Vec<RowState> = states.iter().rev().copied().collect();
    let (logits, device_items) = (Array::new(logits), Array::new(&items));
    let lists = Array::new(&WORDS.lists(NEVER, NEVER_FIRST));
    each_order("sample", |device| {
        let mut on_device = Array::new(&by_row);
        let (mut tokens, mut scores) =
            (Array::new(&vec![NONE; items.len() * TOP_MAX]), Array::new(&vec![0.0; items.len() * TOP_MAX]));
        let mut next = Array::new(&vec![NONE; items.len()]);
        let mut answers =
            Answers { tokens: tokens.view_mut(), scores: scores.view_mut(), next: next.view_mut() };
        let (logits, view, words) = (logits.view(), device_items.view(), (WORDS, &lists.view()));
        sample(device, &logits, &items, &view, &mut on_device.view_mut(), &mut answers, words).unwrap();
        judge(&Answered {
            tokens: tokens.get().chunks_exact(TOP_MAX).map(<[u32]>::to_vec).collect(),
            scores: scores.get().chunks_exact(TOP_MAX).map(<[f32]>::to_vec).collect(),
            next: next.get().iter().rev().copied().collect(),
            states: on_device.get().iter().rev().copied().collect(),
        });
    });
}

#[test]
fn the_likeliest_token_that_the_rules_allow_is_taken() {
    let mut random = Random::new(5);
    let states = states(0.0);
    // Text that is likelier, timestamps that are, and what hangs on their sum.
    for lift in [-9.0, -5.0, -3.0, 0.0, 9.0] {
        let logits = logits_of(&mut random, states.len(), lift);
        check(&logits, &states, NONE, 0, |answered| {
            for (i, row) in logits.chunks_exact(WORDS.size as usize).enumerate() {
                let left = filter(&states[i], &WORDS, (NEVER, NEVER_FIRST), row);
                let expected = top(&left, 1).first().map_or(WORDS.end, |token| *token as u32);
                let token = answered.tokens[i][0];
                assert_eq!(token, expected, "state {i}, lift {lift}");
                let score = if left[token as usize].is_finite() {
                    left[token as usize] - log_sum(&left)
                } else {
                    0.0
                };
                assert!((f64::from(answered.scores[i][0]) - score).abs() < 2e-5, "state {i}: {score}");
                assert_eq!(answered.next[i], token);
                assert_eq!(answered.states[i], push(states[i], &token));
            }
        });
    }
}

/// The likeliest of all is a timestamp that is forbidden.
#[test]
fn no_timestamp_is_behind_the_last_one_allowed() {
    let (first, size) = (WORDS.first_timestamp as usize, WORDS.size as usize);
    let limited = |chosen: &[u32], timestamp_max| RowState { timestamp_max, ..state(chosen, 0.0, Some(50)) };
    let begun = [WORDS.first_timestamp, 5];
    let states = [limited(&begun, 100), limited(&begun, 101), limited(&begun, NONE), limited(&[], 20)];
    let mut logits = vec![0.0f32; states.len() * size];
    for row in logits.chunks_exact_mut(size) {
        row[first + 20] = 13.0;
        row[first + 21] = 14.0;
        row[first + 100] = 15.0;
        row[first + 101] = 16.0;
    }
    check(&logits, &states, NONE, 0, |answered| {
        let times: Vec<usize> = answered.tokens.iter().map(|row| row[0] as usize - first).collect();
        assert_eq!(times, [100, 101, 101, 20]);
        for (i, row) in logits.chunks_exact(size).enumerate() {
            let left = filter(&states[i], &WORDS, (NEVER, NEVER_FIRST), row);
            assert_eq!(answered.tokens[i][0] as usize, top(&left, 1)[0], "state {i}");
        }
    });
}

#[test]
fn equals_are_decided_and_the_end_comes_first_among_them() {
    let mut logits = vec![0.0f32; 2 * WORDS.size as usize];
    logits[20] = 5.0;
    logits[30] = 5.0;
    logits[WORDS.size as usize + 20] = 5.0;
    logits[(WORDS.size + WORDS.end) as usize] = 5.0;
    let states = [state(&[3], 0.0, None), state(&[3], 0.0, None)];
    check(&logits, &states, NONE, 0, |answered| {
        assert_eq!([answered.tokens[0][0], answered.tokens[1][0]], [20, WORDS.end]);
    });
}

#[test]
fn where_everything_is_forbidden_the_text_ends() {
    let logits = vec![f32::NEG_INFINITY; WORDS.size as usize];
    for temperature in [0.0, 1.0] {
        check(&logits, &[state(&[3], temperature, Some(50))], NONE, 0, |answered| {
            assert_eq!((answered.tokens[0][0], answered.scores[0][0]), (WORDS.end, 0.0));
        });
    }
    check(&logits, &[state(&[3], 0.0, None)], NONE, 3, |answered| {
        assert_eq!(answered.tokens[0][..3], [NONE; 3]);
    });
}

#[test]
fn tokens_are_drawn_by_their_shares() {
    let mut random = Random::new(6);
    for (temperature, seed) in [(0.2, 1), (1.0, 2), (1.0, 3), (0.6, 4), (3.0, 5), (3.0, 6)] {
        let states: Vec<RowState> =
            states(temperature).into_iter().map(|state| RowState { seed, ..state }).collect();
        let logits = logits_of(&mut random, states.len(), -3.0);
        check(&logits, &states, NONE, 0, |answered| {
            for (i, row) in logits.chunks_exact(WORDS.size as usize).enumerate() {
                let left = filter(&states[i], &WORDS, (NEVER, NEVER_FIRST), row);
                let token = answered.tokens[i][0] as usize;
                assert!(left[token].is_finite(), "state {i}: {token} is forbidden");
                let shares = shares(&left, f64::from(temperature));
                let (below, unit) =
                    (token.checked_sub(1).map_or(0.0, |i| shares[i]), unit(seed, states[i].count));
                assert!(
                    below - 1e-6 <= unit && unit <= shares[token] + 1e-6,
                    "state {i}: {unit} is not in {below}..{}",
                    shares[token]
                );
                let score = left[token] - log_sum(&left);
                assert!((f64::from(answered.scores[i][0]) - score).abs() < 2e-5, "state {i}: {score}");
            }
        });
    }
}

#[test]
fn the_likeliest_few_are_told_and_the_host_chooses() {
    let mut random = Random::new(8);
    let states = states(0.0);
    let logits = logits_of(&mut random, states.len(), -2.0);
    check(&logits, &states, 9, 6, |answered| {
        for (i, row) in logits.chunks_exact(WORDS.size as usize).enumerate() {
            let state = push(states[i], &9);
            let left = filter(&state, &WORDS, (NEVER, NEVER_FIRST), row);
            let expected: Vec<u32> = top(&left, 6).into_iter().map(|token| token as u32).collect();
            let told: Vec<u32> = answered.tokens[i].iter().copied().filter(|token| *token != NONE).collect();
            assert_eq!(told, expected, "state {i}");
            for (token, score) in told.iter().zip(&answered.scores[i]) {
                assert!((left[*token as usize] - log_sum(&left) - f64::from(*score)).abs() < 2e-5);
            }
            // What the host was told is not yet chosen.
            assert_eq!(answered.states[i], state);
            assert_eq!(answered.next[i], NONE);
        }
    });
}

#[test]
fn what_is_not_in_the_contract_is_refused() {
    each_order("sample", |device| {
        let logits = Array::new(&vec![0.0f32; WORDS.size as usize]);
        let lists = Array::new(&WORDS.lists(NEVER, NEVER_FIRST));
        let mut refuse = |items: &[Item], said: &str| {
            let mut states = Array::new(&[RowState::new(0, 0.0, None); 2]);
            let (mut tokens, mut scores, mut next) =
                (Array::new(&[NONE; 64]), Array::new(&[0.0f32; 64]), Array::new(&[NONE; 2]));
            let mut answers =
                Answers { tokens: tokens.view_mut(), scores: scores.view_mut(), next: next.view_mut() };
            let on_device = Array::new(items);
            let (logits, view, words) = (logits.view(), on_device.view(), (WORDS, &lists.view()));
            let refused = sample(device, &logits, items, &view, &mut states.view_mut(), &mut answers, words);
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}");
        };
        let item = Item { row: 0, chosen: NONE, top: 0 };
        refuse(&[Item { row: 2, ..item }], "row 2 of 2");
        refuse(&[item, item], "row 0 is there twice");
        refuse(&[Item { top: 18, ..item }], "asks for 18 tokens");
        refuse(&[Item { chosen: 2_000, ..item }], "chose 2000 of 2000");
        refuse(&[item, Item { row: 1, ..item }], "logits has 2000 elements of the 4000");
    });
}
