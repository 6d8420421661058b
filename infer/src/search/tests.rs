use super::*;

/// A vocabulary of 10 texts, the end, four specials, `<|notimestamps|>` and the timestamps.
const END: u32 = 10;
const NO_TIMESTAMPS: u32 = 15;
const T: u32 = 16;
const VOCABULARY: usize = (T + TIMESTAMPS) as usize;
const BLANK: u32 = 3;
const BRACKET: u32 = 4;

const RULES: Rules<'static> = Rules {
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
    suppressed: &[BRACKET, 11, 12, 13, 14],
    suppressed_first: &[BLANK, END],
    timestamps: true,
};

/// Applies the rules behind `sampled` to logits that are 0 but for some, and lists what may follow: texts
/// (with the end) one by one, timestamps as first..=last.
#[track_caller]
fn check(rules: &Rules, sampled: &[u32], raised: &[(u32, f32)], texts: &[u32], times: Option<(u32, u32)>) {
    let mut logits = vec![0.0; VOCABULARY];
    // Text outweighs 1501 equal timestamps (e^7.3) unless a case says otherwise.
    logits[..T as usize].fill(8.0);
    raised.iter().for_each(|(token, logit)| logits[*token as usize] = *logit);
    rules.apply(sampled, &mut logits);
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
    let rules = Rules { timestamps: false, ..RULES };
    let mut logits = vec![0.0; VOCABULARY];
    rules.apply(&[], &mut logits);
    assert!([BLANK, END, BRACKET].iter().all(|token| logits[*token as usize] == f32::NEG_INFINITY));
    let mut logits = vec![0.0; VOCABULARY];
    rules.apply(&[1], &mut logits);
    assert!([BLANK, END].iter().all(|token| logits[*token as usize] == 0.0));
    assert_eq!(logits[BRACKET as usize], f32::NEG_INFINITY);
    // Without the rules of timestamps, neither they nor their absence are touched.
    assert_eq!((logits[NO_TIMESTAMPS as usize], logits[T as usize]), (0.0, 0.0));
}

#[test]
fn the_first_token_is_a_timestamp_within_a_second() {
    check(&RULES, &[], &[], &[], Some((0, 50)));
    check(&RULES, &[], &[(T + 200, 50.0), (1, 60.0)], &[], Some((0, 50)));
}

#[test]
fn text_follows_the_first_timestamp() {
    check(&RULES, &[T + 7], &[], &TEXTS_AND_END, None);
    check(&RULES, &[T + 7], &[(T + 9, 99.0)], &TEXTS_AND_END, None);
}

#[test]
fn behind_text_a_later_timestamp_may_follow() {
    // Not the same one: a text takes some time.
    check(&RULES, &[T + 7, 1], &[], &TEXTS_AND_END, Some((8, 1_500)));
    check(&RULES, &[T + 7, 1, 2, 2], &[], &TEXTS_AND_END, Some((8, 1_500)));
}

#[test]
fn behind_an_end_its_twin_or_the_end_of_all_follows() {
    // The next text may start where this one ended, or later; no text without a start.
    check(&RULES, &[T + 7, 1, T + 20], &[], &[END], Some((20, 1_500)));
}

#[test]
fn behind_a_pair_text_follows() {
    check(&RULES, &[T + 7, 1, T + 20, T + 20], &[], &TEXTS_AND_END, None);
    check(&RULES, &[T + 7, 1, T + 20, T + 25, 2], &[], &TEXTS_AND_END, Some((26, 1_500)));
}

#[test]
fn timestamps_that_together_outweigh_each_text_are_taken() {
    // 1493 timestamps of logit 0.8 sum to e^8.1, which is more than any text's e^8.
    let likely: Vec<(u32, f32)> = (8..1_501).map(|i| (T + i, 0.8)).collect();
    check(&RULES, &[T + 7, 1], &likely, &[], Some((8, 1_500)));
    // A single more likely text stands against them.
    let with_text: Vec<(u32, f32)> = likely.iter().copied().chain([(2, 8.2)]).collect();
    check(&RULES, &[T + 7, 1], &with_text, &TEXTS_AND_END, Some((8, 1_500)));
    // The end counts as a text.
    let with_end: Vec<(u32, f32)> = likely.iter().copied().chain([(END, 8.2)]).collect();
    check(&RULES, &[T + 7, 1], &with_end, &TEXTS_AND_END, Some((8, 1_500)));
    // A forbidden text does not: filters come first.
    let with_bracket: Vec<(u32, f32)> = likely.iter().copied().chain([(BRACKET, 99.0)]).collect();
    check(&RULES, &[T + 7, 1], &with_bracket, &[], Some((8, 1_500)));
    // Nor do timestamps that may not come.
    let early: Vec<(u32, f32)> = (0..8).map(|i| (T + i, 50.0)).collect();
    check(&RULES, &[T + 7, 1], &early, &TEXTS_AND_END, Some((8, 1_500)));
}

#[test]
fn the_last_timestamp_leaves_only_the_end() {
    check(&RULES, &[T, 1, T + 1_500], &[], &[END], Some((1_500, 1_500)));
    check(&RULES, &[T + 1_500, 1], &[], &TEXTS_AND_END, None);
}

#[test]
fn greedy_takes_the_likeliest_and_counts_its_probability() {
    let mut logits = vec![f32::NEG_INFINITY; 20];
    (logits[2], logits[5]) = (1.0, 3.0);
    let (token, logprob) = choose(&logits, 0.0, END, &mut Random::new(0));
    assert_eq!(token, 5);
    assert!((logprob - -(1.0 + (-2.0f32).exp()).ln()).abs() < 1e-6, "{logprob}");
    assert_eq!(choose(&[f32::NEG_INFINITY; 20], 0.0, END, &mut Random::new(0)), (END, 0.0));
}

#[test]
fn sampling_follows_the_temperature_and_the_seed() {
    let mut logits = vec![f32::NEG_INFINITY; 20];
    (logits[2], logits[5]) = (0.0, 1.0);
    let share = |temperature: f32, seed: u64| {
        let mut random = Random::new(seed);
        (0..20_000).filter(|_| choose(&logits, temperature, END, &mut random).0 == 5).count() as f64
            / 20_000.0
    };
    // e / (1 + e) at temperature 1, e^2 / (1 + e^2) at 0.5.
    assert!((share(1.0, 1) - 0.731).abs() < 0.01, "{}", share(1.0, 1));
    assert!((share(0.5, 1) - 0.881).abs() < 0.01, "{}", share(0.5, 1));
    assert_eq!(share(1.0, 7), share(1.0, 7));
    assert_ne!(share(1.0, 7), share(1.0, 8));
    // The probability reported is that at temperature 1.
    let (_, logprob) = choose(&logits, 0.01, END, &mut Random::new(0));
    assert!((logprob - 0.731f32.ln()).abs() < 1e-3, "{logprob}");
}

#[test]
fn random_numbers_are_splitmix64() {
    // The first output for seed 0 is 0xe220a8397b1dcdaf.
    assert_eq!(Random::new(0).unit(), (0xe220_a839_7b1d_cdaf_u64 >> 11) as f64 / 2f64.powi(53));
}

#[test]
fn the_mean_counts_the_end_and_the_rank_does_not() {
    let candidate = Candidate { tokens: vec![1, 2, 3], sum_logprob: -2.0 };
    assert_eq!(candidate.avg_logprob(), -0.5);
    assert!((candidate.rank() - -2.0 / 3.0).abs() < 1e-6);
    assert_eq!(Candidate { tokens: vec![], sum_logprob: -2.0 }.avg_logprob(), -2.0);
}

#[track_caller]
fn judge(avg_logprob: f32, no_speech_prob: f32, compression_ratio: f32) -> (bool, bool) {
    let quality = Quality { avg_logprob, no_speech_prob, compression_ratio };
    (Thresholds::default().ask_again(quality), Thresholds::default().is_silence(quality))
}

#[test]
fn fallback_follows_the_thresholds() {
    let (again, silence) = (true, true);
    assert_eq!(judge(-0.3, 0.1, 1.5), (!again, !silence));
    assert_eq!(judge(-0.3, 0.1, 2.41), (again, !silence));
    assert_eq!(judge(-0.3, 0.1, 2.4), (!again, !silence));
    assert_eq!(judge(-1.01, 0.1, 1.5), (again, !silence));
    assert_eq!(judge(-1.0, 0.1, 1.5), (!again, !silence));
    // A guess over silence is accepted as silence, even when it repeats itself.
    assert_eq!(judge(-1.01, 0.61, 1.5), (!again, silence));
    assert_eq!(judge(-1.01, 0.61, 9.0), (!again, silence));
    assert_eq!(judge(-1.01, 0.6, 1.5), (again, !silence));
    // A sure text is no silence, whatever the window seems to be; but it may repeat itself.
    assert_eq!(judge(-0.3, 0.99, 1.5), (!again, !silence));
    assert_eq!(judge(-0.3, 0.99, 2.5), (again, !silence));
    assert_eq!(judge(-1.0, 0.99, 1.5), (!again, silence));
}

#[test]
fn a_threshold_can_be_switched_off() {
    let bad = Quality { avg_logprob: -3.0, no_speech_prob: 0.9, compression_ratio: 9.0 };
    let off = Thresholds { compression_ratio: None, avg_logprob: None, no_speech: None };
    assert!(!off.ask_again(bad) && !off.is_silence(bad));
    assert!(Thresholds { compression_ratio: Some(2.4), ..off }.ask_again(bad));
    assert!(Thresholds { avg_logprob: Some(-1.0), ..off }.ask_again(bad));
    // Without a bound for the text, openai calls every likely silence silence.
    assert!(Thresholds { no_speech: Some(0.6), ..off }.is_silence(bad));
}

/// Against Python's `len(text) / len(zlib.compress(text))`; another deflate may differ by a few bytes.
#[test]
fn compression_ratio_is_zlibs() {
    let check = |text: &str, bytes: usize, compressed: f32| {
        assert_eq!(text.len(), bytes);
        let got = bytes as f32 / compression_ratio(text);
        assert!((got - compressed).abs() <= 2.0, "{text:?} takes {got} bytes, not {compressed}");
    };
    assert_eq!(compression_ratio(""), 0.0);
    check("a", 1, 9.0);
    check("hello world", 11, 19.0);
    check(&"la la la ".repeat(40), 360, 15.0);
    check(&"The quick brown fox jumps over the lazy dog. ".repeat(3), 135, 55.0);
    check(&"äöü ß 日本語".repeat(10), 190, 33.0);
}
