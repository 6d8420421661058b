//! Word times: which moments of the sound the alignment heads look at while each token is predicted, and the cheapest
//! way through them (dynamic time warping), as in openai's `timing.py`.

use crate::backend::Alignment;
use crate::spans::{Span, Word};
use crate::tokens::Tokens;

/// Seconds of one encoder position.
const POSITION_S: f64 = 0.02;
/// Positions over which the median smooths a head's attention.
const MEDIAN: usize = 7;

/// The longest word that is not suspicious, in medians of the words around it, and the longest median.
const DURATION_FACTOR: f64 = 2.0;
const MEDIAN_DURATION_MAX: f64 = 0.7;
const SENTENCE_ENDS: [&str; 7] = [".", "。", "!", "！", "?", "？", "…"];
const PREPENDED: &str = "\"'“¿([{-";
const APPENDED: &str = "\"'.。,，!！?？:：”)]}、";

/// When each token of a text is spoken.
#[derive(Debug, Clone, PartialEq)]
pub struct Times {
    /// Start of each token in seconds of the window, and of the end behind them: (tokens + 1).
    pub starts: Vec<f64>,
    /// Probability of each token, (tokens).
    pub probabilities: Vec<f32>,
}

/// Aligns a text: of an alignment over beginning, `<|notimestamps|>`, text and end, with `before` tokens before
/// `<|notimestamps|>`; only the first `heard` positions are sound.
pub fn align(alignment: &Alignment, before: usize, heard: usize) -> Times {
    let tokens = alignment.probabilities.len();
    let rows = tokens - before - 1;
    let matrix = looked_at(alignment, tokens, heard.max(1));
    let cost: Vec<f64> = matrix[before * heard.max(1)..][..rows * heard.max(1)].iter().map(|x| -x).collect();
    let path = warp(&cost, rows, heard.max(1));
    let mut starts = Vec::with_capacity(rows);
    for (row, position) in path {
        if starts.len() == row {
            starts.push(position as f64 * POSITION_S);
        }
    }
    Times { starts, probabilities: alignment.probabilities[before + 1..tokens - 1].to_vec() }
}

/// Mean over heads of softmax over positions, normalised over tokens, smoothed over positions: (tokens, heard).
fn looked_at(alignment: &Alignment, tokens: usize, heard: usize) -> Vec<f64> {
    let Alignment { heads, positions, ref scores, .. } = *alignment;
    let mut mean = vec![0.0; tokens * heard];
    let mut weights = vec![0.0f64; tokens * heard];
    let mut smooth = vec![0.0f64; heard];
    for head in 0..heads {
        for token in 0..tokens {
            let scores = &scores[(head * tokens + token) * positions..][..heard];
            let max = scores.iter().fold(f32::NEG_INFINITY, |max, x| max.max(*x));
            let row = &mut weights[token * heard..][..heard];
            row.iter_mut().zip(scores).for_each(|(w, s)| *w = f64::from(s - max).exp());
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|w| *w /= sum);
        }
        for position in 0..heard {
            let column = || (0..tokens).map(|token| weights[token * heard + position]);
            let average = column().sum::<f64>() / tokens as f64;
            let variance = column().map(|w| (w - average).powi(2)).sum::<f64>() / tokens as f64;
            let deviation = variance.sqrt().max(f64::MIN_POSITIVE);
            for token in 0..tokens {
                let weight = &mut weights[token * heard + position];
                *weight = (*weight - average) / deviation;
            }
        }
        for token in 0..tokens {
            median(&weights[token * heard..][..heard], &mut smooth);
            let mean = &mut mean[token * heard..][..heard];
            mean.iter_mut().zip(&smooth).for_each(|(mean, x)| *mean += x / heads as f64);
        }
    }
    mean
}

/// Running median over [`MEDIAN`] values; at the edges the row is mirrored. A row shorter than half of that stays.
fn median(row: &[f64], smooth: &mut [f64]) {
    let half = MEDIAN / 2;
    if row.len() <= half {
        smooth.copy_from_slice(row);
        return;
    }
    let last = row.len() - 1;
    for (i, smooth) in smooth.iter_mut().enumerate() {
        let mut around = [0.0; MEDIAN];
        for (offset, value) in around.iter_mut().enumerate() {
            let at = (i + offset).abs_diff(half);
            *value = row[if at > last { 2 * last - at } else { at }];
        }
        around.sort_unstable_by(f64::total_cmp);
        *smooth = around[half];
    }
}

/// The cheapest way from the first row and column of `cost` (rows, columns) to the last, each step to the next row, the
/// next column or both. Of equal ways as openai's `dtw`: to both only where it is cheaper than each.
fn warp(cost: &[f64], rows: usize, columns: usize) -> Vec<(usize, usize)> {
    #[derive(Clone, Copy)]
    enum From {
        Both,
        Row,
        Column,
    }
    let width = columns + 1;
    let mut total = vec![f64::INFINITY; (rows + 1) * width];
    let mut from = vec![From::Both; (rows + 1) * width];
    total[0] = 0.0;
    for column in 1..=columns {
        for row in 1..=rows {
            let both = total[(row - 1) * width + column - 1];
            let up = total[(row - 1) * width + column];
            let left = total[row * width + column - 1];
            let (least, way) = if both < up && both < left {
                (both, From::Both)
            } else if up < both && up < left {
                (up, From::Row)
            } else {
                (left, From::Column)
            };
            total[row * width + column] = cost[(row - 1) * columns + column - 1] + least;
            from[row * width + column] = way;
        }
    }
    let (mut row, mut column) = (rows, columns);
    let mut path = Vec::with_capacity(rows + columns);
    while row > 0 || column > 0 {
        path.push((row.saturating_sub(1), column.saturating_sub(1)));
        let way = if row == 0 {
            From::Column
        } else if column == 0 {
            From::Row
        } else {
            from[row * width + column]
        };
        match way {
            From::Both => (row, column) = (row - 1, column - 1),
            From::Row => row -= 1,
            From::Column => column -= 1,
        }
    }
    path.reverse();
    path
}

/// A word while its time is settled: seconds of the window.
#[derive(Debug, Clone, PartialEq)]
struct Timed {
    start: f64,
    end: f64,
    text: String,
    tokens: usize,
    probability: f32,
}

/// Gives the spans of a window, which begins at `offset_ms` of the segment, their words, and bounds the spans by them.
/// The last word before the window ended at `last_speech_ms`.
pub fn place(
    tokens: &Tokens,
    language: &str,
    times: &Times,
    offset_ms: u64,
    last_speech_ms: u64,
    spans: &mut [Span],
) {
    let end = tokens.special.end;
    let text: Vec<u32> =
        spans.iter().flat_map(|span| span.tokens.iter().copied()).filter(|t| *t < end).collect();
    let mut words = timed(split(tokens, language, &text), times);
    let mut durations: Vec<f64> =
        words.iter().map(|word| word.end - word.start).filter(|d| *d > 0.0).collect();
    durations.sort_unstable_by(f64::total_cmp);
    let typical = if durations.is_empty() { 0.0 } else { middle(&durations).min(MEDIAN_DURATION_MAX) };
    let longest = typical * DURATION_FACTOR;
    shorten(&mut words, longest);
    merge_punctuation(&mut words);
    let offset = offset_ms as f64 / 1_000.0;
    let mut last_speech = last_speech_ms as f64 / 1_000.0;
    let mut words = words.into_iter();
    for span in spans {
        let mut left = span.tokens.iter().filter(|token| **token < end).count();
        let mut own = Vec::new();
        while left > 0 {
            let Some(word) = words.next() else { break };
            left = left.saturating_sub(word.tokens);
            if !word.text.is_empty() {
                own.push(Timed { start: word.start + offset, end: word.end + offset, ..word });
            }
        }
        bound(span, &mut own, typical, longest, last_speech);
        last_speech = span.end_ms as f64 / 1_000.0;
    }
}

/// The middle of sorted values.
fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 }
}

/// Groups tokens into words with their text: between spaces, or, in languages written without them, into what is whole
/// characters.
fn split(tokens: &Tokens, language: &str, text: &[u32]) -> Vec<(String, usize)> {
    let mut parts: Vec<(String, usize)> = Vec::new();
    let whole = tokens.decode(text);
    let mut done = 0;
    let mut begin = 0;
    for end in 1..=text.len() {
        let part = tokens.decode(&text[begin..end]);
        // A replacement character may be in the text itself; else the token ends inside a character.
        let is_whole = match part.find('\u{fffd}') {
            None => true,
            Some(at) => whole[done..].get(at..).is_some_and(|rest| rest.starts_with('\u{fffd}')),
        };
        if is_whole || end == text.len() {
            done += part.len().min(whole.len() - done);
            parts.push((part, end - begin));
            begin = end;
        }
    }
    if ["zh", "ja", "th", "lo", "my", "yue"].contains(&language) {
        return parts;
    }
    let mut words: Vec<(String, usize)> = Vec::new();
    for (part, count) in parts {
        let is_mark = part.trim().chars().all(|c| c.is_ascii_punctuation());
        match words.last_mut() {
            Some(word) if !part.starts_with(' ') && !is_mark => {
                word.0 += &part;
                word.1 += count;
            }
            _ => words.push((part, count)),
        }
    }
    words
}

fn timed(words: Vec<(String, usize)>, times: &Times) -> Vec<Timed> {
    let last = times.starts.len().saturating_sub(1);
    let at = |token: usize| times.starts.get(token.min(last)).copied().unwrap_or(0.0);
    let mut token = 0;
    let words = words.into_iter().map(|(text, count)| {
        let from = token;
        token += count;
        let of =
            &times.probabilities[from.min(times.probabilities.len())..token.min(times.probabilities.len())];
        let probability = of.iter().sum::<f32>() / of.len().max(1) as f32;
        Timed { start: at(from), end: at(token), text, tokens: count, probability }
    });
    words.collect()
}

/// Cuts words at the ends of sentences that are suspiciously long.
fn shorten(words: &mut [Timed], longest: f64) {
    for i in 1..words.len() {
        if words[i].end - words[i].start <= longest {
            continue;
        }
        if SENTENCE_ENDS.contains(&words[i].text.trim()) {
            words[i].end = words[i].start + longest;
        } else if SENTENCE_ENDS.contains(&words[i - 1].text.trim()) {
            words[i].start = words[i].end - longest;
        }
    }
}

/// Joins opening marks to the word behind them and closing ones to the word before; a joined mark is left empty, its
/// tokens counted with the word.
fn merge_punctuation(words: &mut [Timed]) {
    let join = |words: &mut [Timed], from: usize, to: usize| {
        let text = std::mem::take(&mut words[from].text);
        let tokens = std::mem::take(&mut words[from].tokens);
        let word = &mut words[to];
        word.text = if from < to { text + &word.text } else { format!("{}{text}", word.text) };
        word.tokens += tokens;
    };
    let mut next = words.len().saturating_sub(1);
    for i in (0..words.len().saturating_sub(1)).rev() {
        let mark = words[i].text.trim();
        if words[i].text.starts_with(' ') && !mark.is_empty() && PREPENDED.contains(mark) {
            join(words, i, next);
        } else {
            next = i;
        }
    }
    let mut before = 0;
    for i in 1..words.len() {
        let mark = words[i].text.as_str();
        if !mark.is_empty() && !words[before].text.ends_with(' ') && APPENDED.contains(mark) {
            join(words, i, before);
        } else if !mark.is_empty() {
            before = i;
        }
    }
}

/// Reconciles a span's times with its words': long first and last words follow the span, else the span follows them.
fn bound(span: &mut Span, words: &mut [Timed], typical: f64, longest: f64, last_speech: f64) {
    let length = words.len();
    if length == 0 {
        return;
    }
    let long = |word: &Timed| word.end - word.start > longest;
    if words[0].end - last_speech > typical * 4.0
        && (long(&words[0]) || (length > 1 && words[1].end - words[0].start > longest * 2.0))
    {
        if length > 1 && long(&words[1]) {
            let boundary = (words[1].end / 2.0).max(words[1].end - longest);
            words[0].end = boundary;
            words[1].start = boundary;
        }
        words[0].start = (words[0].end - longest).max(0.0);
    }
    let (start, end) = (span.start_ms as f64 / 1_000.0, span.end_ms as f64 / 1_000.0);
    if start < words[0].end && start - 0.5 > words[0].start {
        words[0].start = (words[0].end - typical).min(start).max(0.0);
    } else {
        span.start_ms = milliseconds(words[0].start);
    }
    let last = &mut words[length - 1];
    if end > last.start && end + 0.5 < last.end {
        last.end = (last.start + typical).max(end);
    } else {
        span.end_ms = milliseconds(last.end);
    }
    span.words = words
        .iter()
        .map(|word| Word {
            start_ms: milliseconds(word.start),
            end_ms: milliseconds(word.end),
            text: word.text.clone(),
            probability: word.probability,
        })
        .collect();
}

fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1_000.0).round() as u64
}

#[cfg(test)]
mod tests;
