use expect_test::{Expect, expect};

use super::*;

/// A second in frames, nearly: 62.5 of them.
const SECOND: f32 = 62.5;

/// Frames from a score: (seconds, probability of speech), loudness going along with it.
fn frames(score: &[(f32, f32)]) -> Vec<Frame> {
    score
        .iter()
        .flat_map(|&(seconds, speech)| {
            let frame = Frame { speech, level_db: speech * 40.0 - 60.0 };
            std::iter::repeat_n(frame, (seconds * SECOND).round() as usize)
        })
        .collect()
}

fn cut(frames: &[Frame], from: u64, segment_ms_max: u32) -> Vec<Cut> {
    let mut cutter = Cutter::new(from, segment_ms_max);
    let mut cuts = Vec::new();
    for frame in &frames[from as usize..] {
        cutter.push(*frame, &mut cuts);
    }
    cutter.finish(&mut cuts);
    cuts
}

/// Given a score, then these segments, in seconds.
fn check(score: &[(f32, f32)], then: Expect) {
    let cuts = cut(&frames(score), 0, SEGMENT_MS_MAX);
    let text: Vec<_> = cuts
        .iter()
        .map(|c| format!("{:.2}..{:.2}", c.start as f32 / SECOND, c.end as f32 / SECOND))
        .collect();
    then.assert_eq(&text.join(" "));
}

/// Given a score, then this speech in each segment, in milliseconds since its start.
fn check_speech(score: &[(f32, f32)], then: Expect) {
    let told = |cut: Cut| {
        let ms = |frame: u64| (frame - cut.start) * 16;
        let speech: Vec<_> = cut.speech.iter().map(|s| format!("{}..{}", ms(s.start), ms(s.end))).collect();
        speech.join(" ")
    };
    let cuts: Vec<_> = cut(&frames(score), 0, SEGMENT_MS_MAX).into_iter().map(told).collect();
    then.assert_eq(&cuts.join(" | "));
}

#[test]
fn the_speech_in_a_segment_is_told() {
    check_speech(&[(5.0, 0.0), (2.0, 0.9), (5.0, 0.0)], expect!["192..2192"]);
    check_speech(&[(2.0, 0.9)], expect!["0..2000"]);
    // Pauses of 0.2 s and 0.5 s: the short one is not told.
    let three = [(1.0, 0.0), (2.0, 0.9), (0.2, 0.0), (1.0, 0.9), (0.5, 0.0), (2.0, 0.9), (1.0, 0.0)];
    check_speech(&three, expect!["192..3408 3904..5904"]);
    // A click beside a word is no speech, whatever segment it is in.
    check_speech(&[(1.0, 0.0), (0.05, 0.9), (0.4, 0.0), (1.0, 0.9), (1.0, 0.0)], expect!["640..1648"]);
    // A run that is cut ends in one segment and goes on in the next.
    check_speech(&[(70.0, 0.9)], expect!["0..30000 | 0..30000 | 0..10000"]);
    // A segment without a cut in a pause: what was dropped before it is not in it.
    check_speech(&[(0.08, 0.9), (1.0, 0.0), (1.0, 0.9), (2.0, 0.0)], expect!["192..1200"]);
}

#[test]
fn silence_and_clicks_are_no_segments() {
    check(&[], expect![""]);
    check(&[(100.0, 0.0)], expect![""]);
    check(&[(5.0, 0.1), (0.08, 0.95), (5.0, 0.1), (0.05, 0.9), (5.0, 0.1)], expect![""]);
    // Noise that is a little like speech, however long.
    check(&[(5.0, 0.1), (20.0, 0.6), (5.0, 0.1)], expect![""]);
}

#[test]
fn speech_is_padded() {
    check(&[(5.0, 0.0), (2.0, 0.9), (5.0, 0.0)], expect!["4.82..7.20"]);
    // Not beyond the beginning and the end.
    check(&[(0.1, 0.0), (2.0, 0.9), (0.1, 0.0)], expect!["0.00..2.19"]);
    check(&[(2.0, 0.9)], expect!["0.00..2.00"]);
}

#[test]
fn neighbours_are_merged() {
    check(&[(1.0, 0.0), (2.0, 0.9), (0.5, 0.0), (2.0, 0.9), (1.0, 0.0)], expect!["0.82..5.70"]);
    check(&[(1.0, 0.0), (2.0, 0.9), (0.7, 0.0), (2.0, 0.9), (1.0, 0.0)], expect!["0.82..3.20 3.52..5.90"]);
    // Two clicks and a word beside each other are one.
    check(&[(1.0, 0.0), (0.05, 0.9), (0.3, 0.0), (1.0, 0.9), (1.0, 0.0)], expect!["0.82..2.56"]);
}

#[test]
fn a_neighbour_that_does_not_fit_begins_the_next() {
    // Sentences of 8 s with pauses of half a second: three fit.
    let sentence = [(8.0, 0.9), (0.5, 0.05)];
    check(&sentence.repeat(5), expect!["0.00..25.44 25.44..42.18"]);
    // The pause in the first half is all there is.
    check(&[(4.0, 0.9), (0.5, 0.05), (28.0, 0.9), (2.0, 0.0)], expect!["0.00..4.19 4.30..32.69"]);
}

#[test]
fn a_long_run_is_cut_where_it_is_least_like_speech() {
    // 40 s without a real pause; a dip at 12 s, too early, a lower one at 21 s, another at 27 s.
    check(
        &[
            (12.0, 0.9),
            (0.05, 0.4),
            (9.0, 0.9),
            (0.08, 0.6),
            (6.0, 0.9),
            (0.08, 0.7),
            (13.0, 0.9),
            (2.0, 0.0),
        ],
        expect!["0.00..21.09 21.09..40.42"],
    );
    // None at all: as late as can be.
    check(&[(70.0, 0.9)], expect!["0.00..30.00 30.00..60.00 60.00..70.00"]);
}

#[test]
fn the_cut_is_where_the_sound_is_faintest() {
    // The sound pauses from 20.00 s; the probability falls to its lowest a little later.
    let mut given = frames(&[(40.0, 0.9)]);
    for (n, frame) in given.iter_mut().enumerate() {
        if (1250..1254).contains(&n) {
            frame.level_db = -70.0;
        }
        if (1253..1259).contains(&n) {
            frame.speech = 0.6;
        }
    }
    let cuts = cut(&given, 0, SEGMENT_MS_MAX);
    assert!((1250..1254).contains(&cuts[0].end), "{cuts:?}");
}

#[test]
fn shorter_segments_when_asked() {
    let given = frames(&[(20.0, 0.9), (2.0, 0.0)]);
    for segment_ms_max in [1_000, 5_000, 8_000] {
        let cuts = cut(&given, 0, segment_ms_max);
        assert!(cuts.iter().all(|c| (c.end - c.start) * 16 <= u64::from(segment_ms_max)), "{cuts:?}");
        assert!(cuts.windows(2).all(|c| c[0].end == c[1].start));
    }
}

/// Random scores: what holds for all of them.
#[test]
fn always() {
    let mut seed = 7u64;
    let mut roll = |sides: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % sides
    };
    for _ in 0..300 {
        let score: Vec<_> = (0..20)
            .map(|_| {
                let seconds = [0.05, 0.1, 0.4, 0.7, 3.0, 14.0][roll(6) as usize];
                (seconds, roll(100) as f32 / 99.0)
            })
            .collect();
        let given = frames(&score);
        let segment_ms_max = [30_000, 4_000, 1_000][roll(3) as usize];
        let cuts = cut(&given, 0, segment_ms_max);
        let mut end = 0;
        for (n, c) in cuts.iter().enumerate() {
            assert!(c.start >= end && c.end > c.start && c.end <= given.len() as u64, "{cuts:?}");
            assert!((c.end - c.start) * 16 <= u64::from(segment_ms_max), "{cuts:?}");
            end = c.end;
            let mut said = c.start;
            for speech in &c.speech {
                assert!(speech.start >= said && speech.end > speech.start && speech.end <= c.end, "{c:?}");
                said = speech.end + TOLD_GAP_FRAMES;
            }
            // A new cutter that starts at the end of a cut makes the same cuts.
            assert_eq!(cut(&given, c.end, segment_ms_max), cuts[n + 1..]);
        }
        // Speech beyond doubt is never left out, apart from what is too short to be a word.
        let left_out = |n: &usize| !cuts.iter().any(|c| (c.start..c.end).contains(&(*n as u64)));
        let sure: Vec<_> = (0..given.len()).filter(|n| given[*n].speech >= SURE).filter(left_out).collect();
        for run in sure.chunk_by(|a, b| a + 1 == *b) {
            assert!((run.len() as u64) < SURE_FRAMES_MIN, "{run:?} of {score:?} {cuts:?}");
        }
    }
}
