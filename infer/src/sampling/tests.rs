use super::*;

/// A vocabulary of 10 texts, the end, four specials, `<|notimestamps|>` and the timestamps.
const END: u32 = 10;
const NO_TIMESTAMPS: u32 = 15;
const T: u32 = 16;
const VOCABULARY: usize = (T + TIMESTAMPS) as usize;
const BLANK: u32 = 3;
const BRACKET: u32 = 4;

fn rules() -> Rules {
    Rules {
        special: Special {
            end: END,
            start: 11,
            translate: 12,
            transcribe: 13,
            language_model: 13,
            previous: 14,
            no_speech: 14,
            no_timestamps: NO_TIMESTAMPS,
            first_timestamp: T,
        },
        suppressed: vec![BRACKET, 11, 12, 13, 14],
        suppressed_first: vec![BLANK, END],
    }
}

/// The state behind some tokens.
fn behind(sampled: &[u32]) -> State {
    let mut state = State::new();
    sampled.iter().for_each(|token| state.push(*token, &rules().special));
    state
}

/// Applies the rules behind `sampled` to logits that are 0 but for some, and lists what may follow: texts
/// (with the end) one by one, timestamps as first..=last.
#[track_caller]
fn check(sampled: &[u32], raised: &[(u32, f32)], texts: &[u32], times: Option<(u32, u32)>) {
    let mut logits = vec![0.0; VOCABULARY];
    // Text outweighs 1501 equal timestamps (e^7.3) unless a case says otherwise.
    logits[..T as usize].fill(8.0);
    raised.iter().for_each(|(token, logit)| logits[*token as usize] = *logit);
    rules().apply(behind(sampled), &Sampling::default(), &mut logits);
    let open: Vec<u32> = (0..VOCABULARY as u32).filter(|token| logits[*token as usize].is_finite()).collect();
    let (open_texts, open_times): (Vec<u32>, Vec<u32>) = open.into_iter().partition(|token| *token < T);
    assert_eq!(open_texts, texts, "texts behind {sampled:?}");
    let span = open_times.first().map(|first| (first - T, open_times[open_times.len() - 1] - T));
    assert_eq!(span, times, "timestamps behind {sampled:?}");
    assert_eq!(
        span.map_or(0, |(first, last)| last - first + 1) as usize,
        open_times.len(),
        "timestamps have no gap"
    );
}

const TEXTS_AND_END: [u32; 10] = [0, 1, 2, 3, 5, 6, 7, 8, 9, END];

#[test]
fn a_text_does_not_begin_blank_or_end_at_once() {
    let sampling = Sampling { timestamps: false, ..Sampling::default() };
    let mut logits = vec![0.0; VOCABULARY];
    rules().apply(behind(&[]), &sampling, &mut logits);
    assert!([BLANK, END, BRACKET].iter().all(|token| logits[*token as usize] == f32::NEG_INFINITY));
    let mut logits = vec![0.0; VOCABULARY];
    rules().apply(behind(&[1]), &sampling, &mut logits);
    assert!([BLANK, END].iter().all(|token| logits[*token as usize] == 0.0));
    assert_eq!(logits[BRACKET as usize], f32::NEG_INFINITY);
    // Without the rules of timestamps, neither they nor their absence are touched.
    assert_eq!((logits[NO_TIMESTAMPS as usize], logits[T as usize]), (0.0, 0.0));
}

#[test]
fn the_first_token_is_a_timestamp_within_a_second() {
    check(&[], &[], &[], Some((0, 50)));
    check(&[], &[(T + 200, 50.0), (1, 60.0)], &[], Some((0, 50)));
}

#[test]
fn text_follows_the_first_timestamp() {
    check(&[T + 7], &[], &TEXTS_AND_END, None);
    check(&[T + 7], &[(T + 9, 99.0)], &TEXTS_AND_END, None);
}

#[test]
fn behind_text_a_later_timestamp_may_follow() {
    // Not the same one: a text takes some time.
    check(&[T + 7, 1], &[], &TEXTS_AND_END, Some((8, 1_500)));
    check(&[T + 7, 1, 2, 2], &[], &TEXTS_AND_END, Some((8, 1_500)));
}

#[test]
fn behind_an_end_its_twin_or_the_end_of_all_follows() {
    // The next text may start where this one ended, or later; no text without a start.
    check(&[T + 7, 1, T + 20], &[], &[END], Some((20, 1_500)));
}

#[test]
fn behind_a_pair_text_follows() {
    check(&[T + 7, 1, T + 20, T + 20], &[], &TEXTS_AND_END, None);
    check(&[T + 7, 1, T + 20, T + 25, 2], &[], &TEXTS_AND_END, Some((26, 1_500)));
}

#[test]
fn timestamps_that_together_outweigh_each_text_are_taken() {
    // 1493 timestamps of logit 0.8 sum to e^8.1, which is more than any text's e^8.
    let likely: Vec<(u32, f32)> = (8..1_501).map(|i| (T + i, 0.8)).collect();
    check(&[T + 7, 1], &likely, &[], Some((8, 1_500)));
    // A single more likely text stands against them.
    let with_text: Vec<(u32, f32)> = likely.iter().copied().chain([(2, 8.2)]).collect();
    check(&[T + 7, 1], &with_text, &TEXTS_AND_END, Some((8, 1_500)));
    // The end counts as a text.
    let with_end: Vec<(u32, f32)> = likely.iter().copied().chain([(END, 8.2)]).collect();
    check(&[T + 7, 1], &with_end, &TEXTS_AND_END, Some((8, 1_500)));
    // A forbidden text does not: filters come first.
    let with_bracket: Vec<(u32, f32)> = likely.iter().copied().chain([(BRACKET, 99.0)]).collect();
    check(&[T + 7, 1], &with_bracket, &[], Some((8, 1_500)));
    // Nor do timestamps that may not come.
    let early: Vec<(u32, f32)> = (0..8).map(|i| (T + i, 50.0)).collect();
    check(&[T + 7, 1], &early, &TEXTS_AND_END, Some((8, 1_500)));
}

#[test]
fn the_last_timestamp_leaves_only_the_end() {
    check(&[T, 1, T + 1_500], &[], &[END], Some((1_500, 1_500)));
    check(&[T + 1_500, 1], &[], &TEXTS_AND_END, None);
}

#[test]
fn greedy_takes_the_likeliest_and_counts_its_probability() {
    let mut logits = vec![f32::NEG_INFINITY; 20];
    (logits[2], logits[5]) = (1.0, 3.0);
    let (token, logprob) = choose(&logits, &Sampling::default(), 0, END);
    assert_eq!(token, 5);
    assert!((logprob - -(1.0 + (-2.0f32).exp()).ln()).abs() < 1e-6, "{logprob}");
    assert_eq!(choose(&[f32::NEG_INFINITY; 20], &Sampling::default(), 0, END), (END, 0.0));
}

#[test]
fn sampling_follows_the_temperature_and_the_seed() {
    let mut logits = vec![f32::NEG_INFINITY; 20];
    (logits[2], logits[5]) = (0.0, 1.0);
    let share = |temperature: f32, seed: u64| {
        let sampling = Sampling { temperature, seed, ..Sampling::default() };
        (0..20_000).filter(|i| choose(&logits, &sampling, *i, END).0 == 5).count() as f64 / 20_000.0
    };
    // e / (1 + e) at temperature 1, e^2 / (1 + e^2) at 0.5.
    assert!((share(1.0, 1) - 0.731).abs() < 0.01, "{}", share(1.0, 1));
    assert!((share(0.5, 1) - 0.881).abs() < 0.01, "{}", share(0.5, 1));
    assert_eq!(share(1.0, 7), share(1.0, 7));
    assert_ne!(share(1.0, 7), share(1.0, 8));
    // The probability reported is that at temperature 1.
    let cold = Sampling { temperature: 0.01, ..Sampling::default() };
    let (_, logprob) = choose(&logits, &cold, 0, END);
    assert!((logprob - 0.731f32.ln()).abs() < 1e-3, "{logprob}");
}

#[test]
fn random_numbers_are_splitmix64() {
    // The first output for seed 0 is 0xe220a8397b1dcdaf.
    assert_eq!(unit(0, 0), (0xe220_a839_7b1d_cdaf_u64 >> 11) as f64 / 2f64.powi(53));
}

#[test]
fn the_first_timestamp_may_be_bounded_otherwise() {
    let mut logits = vec![0.0; VOCABULARY];
    let sampling = Sampling { first_timestamp_max: 0, ..Sampling::default() };
    rules().apply(State::new(), &sampling, &mut logits);
    let open: Vec<usize> = (0..VOCABULARY).filter(|token| logits[*token].is_finite()).collect();
    assert_eq!(open, [T as usize]);
}

#[test]
fn no_timestamp_is_later_than_the_latest_asked_for() {
    let mut logits = vec![0.0; VOCABULARY];
    let sampling = Sampling { timestamp_max: 2, ..Sampling::default() };
    rules().apply(State::new(), &sampling, &mut logits);
    let open: Vec<usize> = (0..VOCABULARY).filter(|token| logits[*token].is_finite()).collect();
    assert_eq!(open, [T as usize, T as usize + 1, T as usize + 2]);
}

#[test]
fn the_likeliest_come_first_and_equal_ones_in_order() {
    let mut logits = vec![f32::NEG_INFINITY; 8];
    (logits[1], logits[2], logits[5], logits[6]) = (1.0, 2.0, 2.0, 0.0);
    let total = log_sum_exp(&logits, 2.0);
    let tokens = |count| top(&logits, count).into_iter().map(|(token, _)| token).collect::<Vec<_>>();
    assert_eq!(tokens(3), [2, 5, 1]);
    assert_eq!(tokens(9), [2, 5, 1, 6]);
    assert_eq!(top(&logits, 1).as_slice(), [(2, 2.0 - total)]);
    assert_eq!(top(&[f32::NEG_INFINITY; 3], 2).as_slice(), []);
}
