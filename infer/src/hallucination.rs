//! Text invented in silence: where the words of a window are odd and silence is around them, the silence is skipped and
//! the text with it. openai's `hallucination_silence_threshold` of `transcribe.py`.

use crate::spans::{Span, Word};

/// Below this probability a word is odd.
const PROBABILITY_MIN: f32 = 0.15;
/// Seconds of a word that are odd: shorter than the first, longer than the second.
const SHORT_S: f64 = 0.133;
const LONG_S: f64 = 2.0;
/// Words of a span that are looked at, and the score from which the span is odd whatever the number of its words.
const WORDS: usize = 8;
const SCORE: f64 = 3.0;
/// Text this close to an end of the window stands beside silence, as far as anybody knows.
const EDGE_MS: u64 = 2_000;
const PUNCTUATION: &str = "\"'“¿([{-\"'.。,，!！?？:：”)]}、";

/// A window that was read, in milliseconds of its segment.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Its start.
    pub start_ms: u64,
    /// Its end.
    pub end_ms: u64,
    /// The end of the segment.
    pub segment_ms: u64,
    /// Where the last word before it ended.
    pub last_speech_ms: u64,
    /// Whether its text said that nothing is spoken behind it.
    pub is_finished: bool,
    /// Where reading would go on.
    pub next_ms: u64,
}

/// Removes what was invented from the spans of a window, whose words are timed. Returns where reading goes on, which is
/// behind the start of the window. `threshold_ms` is the silence that is skipped.
pub fn skip(window: Window, threshold_ms: u64, spans: &mut Vec<Span>) -> u64 {
    let Window { start_ms, end_ms, segment_ms, .. } = window;
    let mut next_ms = window.next_ms;
    if !window.is_finished
        && let Some(end) = end_of(spans).filter(|end| *end > start_ms)
    {
        // Behind the last word there may be silence that is read by itself.
        next_ms = if end_ms.saturating_sub(end) > threshold_ms { end } else { end_ms };
    }
    let first = spans.iter().find(|span| !span.words.is_empty());
    if let Some(first) = first.filter(|span| is_odd(span)) {
        let silence = first.start_ms.saturating_sub(start_ms);
        if silence > threshold_ms {
            // The window begins with silence: read it again without.
            spans.clear();
            return start_ms + silence;
        }
    }
    let mut last_end = window.last_speech_ms;
    for i in 0..spans.len() {
        let span = &spans[i];
        if span.words.is_empty() {
            continue;
        }
        if is_odd(span) {
            let following = spans[i + 1..].iter().find(|span| !span.words.is_empty());
            let next_start = following.map_or(end_ms, |span| span.words[0].start_ms);
            let silent_before = span.start_ms.saturating_sub(last_end) > threshold_ms
                || span.start_ms < threshold_ms
                || span.start_ms < start_ms + EDGE_MS;
            let silent_after = next_start.saturating_sub(span.end_ms) > threshold_ms
                || following.is_some_and(is_odd)
                || end_ms < span.end_ms + EDGE_MS;
            if silent_before && silent_after {
                next_ms = span.start_ms.max(start_ms + 1_000);
                if segment_ms.saturating_sub(span.end_ms) < threshold_ms {
                    next_ms = segment_ms;
                }
                spans.truncate(i);
                break;
            }
        }
        last_end = span.end_ms;
    }
    next_ms
}

/// Where the last word of some spans ends; of spans without words, where the last span ends.
pub fn end_of(spans: &[Span]) -> Option<u64> {
    let word = spans.iter().rev().flat_map(|span| span.words.iter().rev()).next();
    word.map(|word| word.end_ms).or_else(|| spans.last().map(|span| span.end_ms))
}

/// Whether the words of a span are such as nobody says.
fn is_odd(span: &Span) -> bool {
    if span.words.is_empty() {
        return false;
    }
    let words: Vec<&Word> =
        span.words.iter().filter(|word| !PUNCTUATION.contains(word.text.as_str())).take(WORDS).collect();
    let score: f64 = words.iter().map(|word| oddness(word)).sum();
    score >= SCORE || score + 0.01 >= words.len() as f64
}

fn oddness(word: &Word) -> f64 {
    let seconds = word.end_ms.saturating_sub(word.start_ms) as f64 / 1_000.0;
    let guessed = if word.probability < PROBABILITY_MIN { 1.0 } else { 0.0 };
    guessed + (SHORT_S - seconds).max(0.0) * 15.0 + (seconds - LONG_S).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A span of words (start, end, probability).
    fn span(words: &[(u64, u64, f32)]) -> Span {
        let words: Vec<Word> = words
            .iter()
            .map(|(start_ms, end_ms, probability)| {
                let (start_ms, end_ms, probability) = (*start_ms, *end_ms, *probability);
                Word { start_ms, end_ms, text: " a".to_owned(), probability }
            })
            .collect();
        Span {
            start_ms: words.first().map_or(0, |word| word.start_ms),
            end_ms: words.last().map_or(0, |word| word.end_ms),
            text: String::new(),
            tokens: Vec::new(),
            avg_logprob: 0.0,
            no_speech_prob: 0.0,
            compression_ratio: 1.0,
            temperature: 0.0,
            words,
        }
    }

    fn sure(start_ms: u64) -> Span {
        span(&[(start_ms, start_ms + 400, 0.9), (start_ms + 400, start_ms + 900, 0.9)])
    }

    fn odd(start_ms: u64) -> Span {
        span(&[(start_ms, start_ms + 400, 0.1), (start_ms + 400, start_ms + 900, 0.1)])
    }

    /// A window of 20 s at the start of a segment of 30 s.
    const WINDOW: Window = Window {
        start_ms: 0,
        end_ms: 20_000,
        segment_ms: 30_000,
        last_speech_ms: 0,
        is_finished: true,
        next_ms: 20_000,
    };

    /// What is left of spans with a threshold of 3 s: where each starts, and where reading goes on.
    #[track_caller]
    fn check(window: Window, spans: &[Span], starts: &[u64], next_ms: u64) {
        let mut spans = spans.to_vec();
        let next = skip(window, 3_000, &mut spans);
        let left: Vec<u64> = spans.iter().map(|span| span.start_ms).collect();
        assert_eq!((left.as_slice(), next), (starts, next_ms));
    }

    #[test]
    fn a_word_is_odd_by_its_probability_and_its_length() {
        let oddness = |start_ms, end_ms, probability| {
            let text = " a".to_owned();
            super::oddness(&Word { start_ms, end_ms, text, probability })
        };
        assert_eq!(oddness(0, 500, 0.15), 0.0);
        assert_eq!(oddness(0, 500, 0.1499), 1.0);
        assert!((oddness(0, 33, 0.5) - 1.5).abs() < 1e-9);
        assert_eq!(oddness(0, 2_000, 0.5), 0.0);
        assert_eq!(oddness(0, 3_500, 0.1), 2.5);
    }

    #[test]
    fn a_span_is_odd_by_its_first_words() {
        let of = |words: &[(u64, u64, f32)]| is_odd(&span(words));
        let (good, bad) = ((0, 500, 0.9), (0, 500, 0.1));
        assert!(!of(&[]) && !of(&[good]) && of(&[bad]));
        assert!(!of(&[bad, good]), "a score of 1 of 2 words");
        assert!(of(&[bad, bad, bad, good, good, good, good, good]), "a score of 3");
        assert!(!of(&[good, good, good, good, good, good, bad, bad, bad, bad]), "only eight are looked at");
        let mut comma = span(&[bad, good]);
        comma.words[1].text = ",".to_owned();
        assert!(is_odd(&comma), "marks are no words");
    }

    #[test]
    fn what_is_sure_stays() {
        check(WINDOW, &[], &[], 20_000);
        check(WINDOW, &[sure(500), sure(5_000)], &[500, 5_000], 20_000);
        // Odd, but in the middle of speech.
        check(WINDOW, &[sure(3_000), odd(5_000), sure(6_500)], &[3_000, 5_000, 6_500], 20_000);
    }

    #[test]
    fn silence_before_an_odd_start_is_skipped() {
        check(WINDOW, &[odd(3_500), sure(5_000)], &[], 3_500);
        let later = Window { start_ms: 4_000, next_ms: 20_000, ..WINDOW };
        check(later, &[odd(7_500)], &[], 7_500);
    }

    #[test]
    fn odd_text_between_silences_is_left_out() {
        // Silence of more than 3 s on both sides: what follows is read from the odd text on.
        check(WINDOW, &[sure(500), odd(6_000), sure(12_000)], &[500], 6_000);
        // Odd text behind it counts as silence.
        check(WINDOW, &[sure(500), odd(6_000), odd(7_000), sure(9_000)], &[500], 6_000);
        // At the end of the window nobody knows what follows.
        check(WINDOW, &[sure(500), odd(18_500)], &[500], 18_500);
        // Nothing is left of the segment behind it.
        let last = Window { end_ms: 20_000, segment_ms: 20_000, ..WINDOW };
        check(last, &[sure(500), odd(18_500)], &[500], 20_000);
        // It moves on by a second at least.
        let later = Window { start_ms: 10_000, last_speech_ms: 9_000, ..WINDOW };
        check(later, &[odd(10_300), sure(16_000)], &[], 11_000);
    }

    #[test]
    fn silence_behind_the_last_word_is_read_by_itself() {
        let open = Window { is_finished: false, next_ms: 5_000, ..WINDOW };
        check(open, &[sure(4_000)], &[4_000], 4_900);
        check(open, &[sure(18_000)], &[18_000], 20_000);
        check(open, &[], &[], 5_000);
    }
}
