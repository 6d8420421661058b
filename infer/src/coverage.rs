//! Whether the texts of a segment cover the speech in it.

use std::ops::Range;

/// Speech without text that is shorter is no gap: a breath, a hesitation, the edges of the detector.
pub const GAP_MIN_MS: u64 = 1_000;

/// The speech of a segment that no text covers, in milliseconds of the segment. `speech` and `texts` may overlap and
/// come in any order; a gap is at least [`GAP_MIN_MS`] long.
pub fn gaps(speech: &[Range<u64>], texts: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut gaps = Vec::new();
    let texts = merged(texts);
    for part in merged(speech) {
        let mut from = part.start;
        for text in texts.iter().filter(|text| text.end > part.start && text.start < part.end) {
            gaps.push(from..text.start.max(from));
            from = from.max(text.end);
        }
        gaps.push(from..part.end.max(from));
    }
    gaps.retain(|gap| gap.end - gap.start >= GAP_MIN_MS);
    gaps
}

/// The share of the speech that has text, 0 to 1; 1 where there is no speech.
pub fn share(speech: &[Range<u64>], gaps: &[Range<u64>]) -> f32 {
    let length = |ranges: &[Range<u64>]| ranges.iter().map(|range| range.end - range.start).sum::<u64>();
    match length(&merged(speech)) {
        0 => 1.0,
        speech => 1.0 - length(gaps) as f32 / speech as f32,
    }
}

/// The same time as ranges that do not touch, in order.
fn merged(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted: Vec<Range<u64>> =
        ranges.iter().filter(|range| range.start < range.end).cloned().collect();
    sorted.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(pairs: &[(u64, u64)]) -> Vec<Range<u64>> {
        pairs.iter().map(|(start, end)| *start..*end).collect()
    }

    #[track_caller]
    fn check(speech: &[(u64, u64)], texts: &[(u64, u64)], expected: &[(u64, u64)]) {
        assert_eq!(gaps(&ranges(speech), &ranges(texts)), ranges(expected));
    }

    #[test]
    fn speech_without_text_is_a_gap_from_one_second_on() {
        check(&[(0, 5_000)], &[(0, 3_000)], &[(3_000, 5_000)]);
        check(&[(0, 5_000)], &[(0, 4_001)], &[]);
        check(&[(1_000, 3_000), (10_000, 12_000)], &[(0, 4_000)], &[(10_000, 12_000)]);
        check(&[(0, 9_000)], &[(6_000, 9_000), (0, 2_000)], &[(2_000, 6_000)]);
        check(&[], &[(0, 9_000)], &[]);
        check(&[(0, 9_000)], &[], &[(0, 9_000)]);
    }

    #[test]
    fn ranges_may_overlap() {
        check(&[(0, 4_000), (2_000, 6_000)], &[(0, 1_000), (500, 3_000), (2_000, 2_500)], &[(3_000, 6_000)]);
    }

    #[test]
    fn the_share_is_of_the_speech() {
        let speech = ranges(&[(0, 4_000), (6_000, 10_000)]);
        assert_eq!(share(&speech, &gaps(&speech, &ranges(&[(0, 6_000), (8_000, 10_000)]))), 0.75);
        assert_eq!(share(&[], &[]), 1.0);
        assert_eq!(share(&speech, &gaps(&speech, &[])), 0.0);
    }
}
