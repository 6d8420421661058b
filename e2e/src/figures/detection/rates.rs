//! What a detector misses, and what it hears in vain.

use std::ops::Range;

use decode::segment::{Cut, FRAME_SAMPLES};
use decode::speech::Frame;

use super::sound::{LABEL_SAMPLES, Label, Track};
use crate::figures::numbers::Sorted;

/// Beside speech, so many labelled frames without it are not counted: 0.1 s, rounded up.
const MARGIN: usize = 4;
/// Speech that is heard begins at this probability and goes on above that one, as the cutter has it.
const ONSET: f32 = 0.5;
const OFFSET: f32 = 0.35;
/// How long before and after its place an onset or end is looked for, in frames of 16 ms: 0.1 s and 0.4 s.
const BEFORE: u64 = 6;
const AFTER: u64 = 25;

/// Shares from 0 to 1, and milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    told_missed: f64,
    told_in_vain: f64,
    sent_missed: f64,
    sent_in_vain: f64,
    onset_ms: f64,
    end_ms: f64,
}

impl Rates {
    /// Judges what was heard in a mixture, and the cuts made of it.
    pub fn of(track: &Track, frames: &[Frame], cuts: &[Cut]) -> Rates {
        let sent: Vec<Range<u64>> = cuts.iter().map(|cut| cut.start..cut.end).collect();
        let told: Vec<Range<u64>> = cuts.iter().flat_map(|cut| cut.speech.clone()).collect();
        let (told_missed, told_in_vain) = missed_and_in_vain(&track.labels, &covered(&told, track));
        let (sent_missed, sent_in_vain) = missed_and_in_vain(&track.labels, &covered(&sent, track));
        let (onset_ms, end_ms) = delays(track, frames);
        Rates { told_missed, told_in_vain, sent_missed, sent_in_vain, onset_ms, end_ms }
    }

    /// The mean of some.
    pub fn mean(all: impl Iterator<Item = Rates>) -> Rates {
        let all: Vec<Rates> = all.collect();
        let mean = |value: fn(&Rates) -> f64| all.iter().map(value).sum::<f64>() / all.len() as f64;
        Rates {
            told_missed: mean(|rates| rates.told_missed),
            told_in_vain: mean(|rates| rates.told_in_vain),
            sent_missed: mean(|rates| rates.sent_missed),
            sent_in_vain: mean(|rates| rates.sent_in_vain),
            onset_ms: mean(|rates| rates.onset_ms),
            end_ms: mean(|rates| rates.end_ms),
        }
    }

    /// As cells of a table.
    pub fn row(&self) -> String {
        let shares = [self.told_missed, self.told_in_vain, self.sent_missed, self.sent_in_vain];
        let shares = shares.map(|share| format!("{:.1}", share * 100.0));
        format!("{} | {:.0} | {:.0}", shares.join(" | "), self.onset_ms, self.end_ms)
    }
}

/// Shares missed and heard in vain, over several mixtures, by probabilities above a threshold.
pub fn of_threshold(track: &Track, heard: &[Vec<Frame>], threshold: f32) -> (f64, f64) {
    let shares: Vec<(f64, f64)> = heard
        .iter()
        .map(|frames| {
            let above = (0..frames.len() as u64).filter(|at| frames[*at as usize].speech >= threshold);
            let above: Vec<Range<u64>> = above.map(|at| at..at + 1).collect();
            missed_and_in_vain(&track.labels, &covered(&above, track))
        })
        .collect();
    let mean = |value: fn(&(f64, f64)) -> f64| shares.iter().map(value).sum::<f64>() / shares.len() as f64;
    (mean(|shares| shares.0), mean(|shares| shares.1))
}

/// For each labelled frame, whether its middle lies in one of the ranges of detector's frames.
fn covered(ranges: &[Range<u64>], track: &Track) -> Vec<bool> {
    let mut covered = vec![false; track.labels.len()];
    for range in ranges {
        let first = |frame: u64| {
            // The first labelled frame whose middle is not before the start of the detector's.
            (frame as usize * FRAME_SAMPLES).saturating_sub(LABEL_SAMPLES / 2).div_ceil(LABEL_SAMPLES)
        };
        let (start, end) = (first(range.start), first(range.end).min(covered.len()));
        covered[start.min(end)..end].fill(true);
    }
    covered
}

fn missed_and_in_vain(labels: &[Label], heard: &[bool]) -> (f64, f64) {
    let (mut speech, mut missed, mut pause, mut in_vain) = (0, 0, 0, 0);
    for (at, (label, heard)) in labels.iter().zip(heard).enumerate() {
        let around = at.saturating_sub(MARGIN)..(at + MARGIN + 1).min(labels.len());
        match label {
            Label::Speech => {
                speech += 1;
                missed += usize::from(!heard);
            }
            Label::Pause if !labels[around].contains(&Label::Speech) => {
                pause += 1;
                in_vain += usize::from(*heard);
            }
            _ => {}
        }
    }
    let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    (share(missed, speech), share(in_vain, pause))
}

/// Medians of how late the beginning and the end of each recording's speech are heard, in milliseconds. What is not
/// heard within 0.4 s, and an end that is not heard as speech, count as 0.4 s.
fn delays(track: &Track, frames: &[Frame]) -> (f64, f64) {
    let ms = |frame: u64, sample: usize| (frame * FRAME_SAMPLES as u64) as f64 / 16.0 - sample as f64 / 16.0;
    let speech = |at: u64| frames.get(at as usize).map_or(0.0, |frame| frame.speech);
    let around = |sample: usize| {
        let frame = (sample / FRAME_SAMPLES) as u64;
        frame.saturating_sub(BEFORE)..frame + AFTER
    };
    let longest = (AFTER * FRAME_SAMPLES as u64) as f64 / 16.0;
    let onsets = track.onsets.iter().map(|range| {
        let heard = around(range.start).find(|at| speech(*at) >= ONSET);
        heard.map_or(longest, |at| ms(at, range.start))
    });
    let ends = track.onsets.iter().map(|range| {
        let mut after = around(range.end).skip_while(|at| speech(*at) < OFFSET);
        let ended = after.find(|at| speech(*at) < OFFSET);
        ended.map_or(longest, |at| ms(at, range.end))
    });
    (Sorted::of(onsets.collect()).median(), Sorted::of(ends.collect()).median())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(labels: Vec<Label>, speech: Range<usize>) -> Track {
        let sound = vec![0.0; labels.len() * LABEL_SAMPLES];
        Track { sound, labels, onsets: vec![speech], text: String::new() }
    }

    #[test]
    fn frames_are_missed_or_heard_in_vain() {
        use Label::{Pause, Speech, Unsure};
        let labels = [vec![Pause; 10], vec![Unsure; 2], vec![Speech; 8], vec![Pause; 10]].concat();
        let mut heard = vec![false; 30];
        assert_eq!(missed_and_in_vain(&labels, &heard), (1.0, 0.0));
        // Half of the speech, and two of the 14 frames without: four each side are too near.
        heard[16..22].fill(true);
        heard[0..2].fill(true);
        assert_eq!(missed_and_in_vain(&labels, &heard), (0.5, 2.0 / 14.0));
    }

    #[test]
    fn detectors_frames_cover_labelled_frames() {
        let track = track(vec![Label::Pause; 10], 0..0);
        let covered = |ranges: &[Range<u64>]| -> Vec<usize> {
            let covered = covered(ranges, &track);
            (0..10).filter(|at| covered[*at]).collect()
        };
        // 15 frames of 16 ms are 8 of 30 ms; beyond the end there is nothing.
        assert_eq!(covered(&[0..15, 40..41]), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(covered(&[1..2, 15..100]), [8, 9]);
    }

    #[test]
    fn delays_are_told_in_milliseconds() {
        let track = track(vec![Label::Pause; 100], 16_000..32_000);
        let mut frames = vec![Frame::default(); 187];
        // Frame 65 begins at 1040 ms, frame 130 at 2080 ms.
        frames[65..130].fill(Frame { speech: 0.9, level_db: -20.0 });
        assert_eq!(delays(&track, &frames), (40.0, 80.0));
        assert_eq!(delays(&track, &[]), (400.0, 400.0));
    }
}
