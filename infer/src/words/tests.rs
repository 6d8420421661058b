use std::ops::Range;

use super::*;
use crate::tokens::tests::small;

#[test]
fn the_cheapest_way_goes_through_the_low_places() {
    #[rustfmt::skip]
    let cost = [
        0.0, 0.0, 9.0, 9.0,
        9.0, 9.0, 0.0, 9.0,
        9.0, 9.0, 9.0, 0.0,
    ];
    assert_eq!(warp(&cost, 3, 4), [(0, 0), (0, 1), (1, 2), (2, 3)]);
    // Equal everywhere: openai's rule goes left first, then up.
    assert_eq!(warp(&[0.0; 4], 2, 2), [(0, 0), (1, 0), (1, 1)]);
    assert_eq!(warp(&[1.0], 1, 1), [(0, 0)]);
    assert_eq!(warp(&[1.0; 3], 3, 1), [(0, 0), (1, 0), (2, 0)]);
}

#[test]
fn the_median_mirrors_the_edges() {
    let mut smooth = [0.0; 8];
    median(&[9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0], &mut smooth);
    // Around the first: 3 2 1 9 1 2 3; around the last: 4 5 6 0 6 5 4.
    assert_eq!((smooth[0], smooth[3], smooth[7]), (2.0, 4.0, 5.0));
    let mut short = [0.0; 3];
    median(&[3.0, 1.0, 2.0], &mut short);
    assert_eq!(short, [3.0, 1.0, 2.0]);
}

/// Scores of one head in which each row looks at its own stretch of positions.
fn looking(stretches: &[Range<usize>], positions: usize) -> Alignment {
    let mut scores = vec![-10.0; stretches.len() * positions];
    for (row, stretch) in stretches.iter().enumerate() {
        scores[row * positions..][stretch.clone()].fill(10.0);
    }
    let probabilities = (0..stretches.len()).map(|i| i as f32 / 10.0).collect();
    Alignment { scores, heads: 1, positions, probabilities }
}

#[test]
fn tokens_begin_where_they_are_looked_at() {
    // Beginning, <|notimestamps|> (which predicts the first token), two tokens (the last predicts the end), the end.
    let alignment = looking(&[0..60, 0..20, 20..30, 30..60, 0..60], 60);
    let times = align(&alignment, 1, 60);
    assert_eq!(times.starts, [0.0, 0.4, 0.6]);
    assert_eq!(times.probabilities, [0.2, 0.3]);
    // What lies behind the sound is not looked at.
    let times = align(&alignment, 1, 40);
    assert_eq!(times.starts, [0.0, 0.4, 0.6]);
    assert!(align(&alignment, 1, 1).starts.iter().all(|start| *start == 0.0));
}

fn word(text: &str, start: f64, end: f64) -> Timed {
    Timed { start, end, text: text.to_owned(), tokens: 1, probability: 0.5 }
}

#[test]
fn marks_join_the_words_they_belong_to() {
    let mut words =
        [" (", "he", " said", ",", " \"", "no", "!", "\""].map(|text| word(text, 0.0, 0.1)).to_vec();
    merge_punctuation(&mut words);
    let texts: Vec<&str> =
        words.iter().map(|word| word.text.as_str()).filter(|text| !text.is_empty()).collect();
    assert_eq!(texts, [" (he", " said,", " \"no!\""]);
    assert_eq!(words.iter().map(|word| word.tokens).sum::<usize>(), 8, "no token is lost");
}

#[test]
fn long_words_at_the_ends_of_sentences_are_cut() {
    let mut words =
        vec![word(" so", 0.0, 0.3), word(".", 0.3, 5.0), word(" Now", 5.0, 9.0), word(" he", 9.0, 9.2)];
    shorten(&mut words, 0.6);
    assert_eq!((words[1].end, words[2].start, words[3].start), (0.3 + 0.6, 9.0 - 0.6, 9.0));
}

#[test]
fn words_are_what_stands_between_spaces() {
    let tokens = small();
    let text = tokens.encode(" don't go, now");
    let words = split(&tokens, "en", &text);
    let texts: Vec<&str> = words.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(texts.concat(), " don't go, now");
    assert_eq!(words.iter().map(|(_, count)| count).sum::<usize>(), text.len());
    assert_eq!(texts.iter().filter(|text| text.starts_with(' ')).count(), 3, "{texts:?}");
    // Characters of several bytes stay whole; without spaces each is a word.
    let text = tokens.encode("日本");
    let words = split(&tokens, "ja", &text);
    assert_eq!(words.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>(), ["日", "本"]);
}

/// A span of tokens, times in milliseconds.
fn span(tokens: &Tokens, text: &str, start_ms: u64, end_ms: u64) -> Span {
    let tokens = tokens.encode(text);
    Span {
        start_ms,
        end_ms,
        text: text.to_owned(),
        tokens,
        avg_logprob: 0.0,
        no_speech_prob: 0.0,
        compression_ratio: 1.0,
        temperature: 0.0,
        words: Vec::new(),
    }
}

#[test]
fn spans_get_their_words_and_are_bounded_by_them() {
    let tokens = small();
    let mut spans = [span(&tokens, " ab c", 0, 2_000), span(&tokens, " d.", 2_000, 4_000)];
    let count: usize = spans.iter().map(|span| span.tokens.len()).sum();
    let times = Times {
        starts: (0..=count).map(|i| 0.3 + i as f64 * 0.2).collect(),
        probabilities: vec![0.5; count],
    };
    place(&tokens, "en", &times, 1_000, 0, &mut spans);
    let words: Vec<Vec<&str>> =
        spans.iter().map(|span| span.words.iter().map(|word| word.text.as_str()).collect()).collect();
    assert_eq!(words, [vec![" ab", " c"], vec![" d."]]);
    assert_eq!(spans[0].words[0].start_ms, 1_300, "times are the segment's");
    assert_eq!((spans[0].start_ms, spans[1].end_ms), (1_300, spans[1].words[0].end_ms));
    assert!(spans.iter().flat_map(|span| &span.words).all(|word| word.start_ms < word.end_ms));
}
