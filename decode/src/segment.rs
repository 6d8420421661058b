//! Where to cut: from the probability of speech in each frame of 16 ms to segments of at most 30 s.
//! Pure: numbers in, cuts out.

use std::collections::VecDeque;
use std::ops::Range;

use crate::SAMPLE_RATE;
use crate::speech::Frame;

/// Raised whenever the same sound would be cut differently: thresholds, rules or detector. A run that was begun with
/// one version is never continued with another.
pub use events::CUTTER_VERSION;

/// Samples at 16 kHz in a frame of the speech detector: 16 ms.
pub const FRAME_SAMPLES: usize = 256;

/// The longest segment in milliseconds, whatever is asked for: the window of the model.
pub const SEGMENT_MS_MAX: u32 = 30_000;

/// Speech begins at this probability ...
const ONSET: f32 = 0.5;
/// ... and lasts while it stays above this one.
const OFFSET: f32 = 0.35;
/// A pause ends a run of speech when it is this long: 96 ms, longer than the closure of a stop consonant.
const PAUSE_FRAMES: u64 = 6;
/// Runs with a gap shorter than 0.6 s belong together (37 frames are 592 ms).
const GAP_FRAMES: u64 = 38;
/// Sound kept before and after speech: 192 ms.
const PAD_FRAMES: u64 = 12;
/// Frames that are speech beyond doubt.
const SURE: f32 = 0.7;
/// A stretch with less than 96 ms of them is a click or a hiss, not a word.
const SURE_FRAMES_MIN: u64 = 6;
/// Runs of speech with a gap shorter than 0.3 s are told as one (19 frames are 304 ms).
const TOLD_GAP_FRAMES: u64 = 19;
/// A place this unlike speech is a pause, if a short one.
const DIP: f32 = 0.5;
/// Frames on each side that are averaged to find the place least like speech: 80 ms together.
const SMOOTH_FRAMES: u64 = 2;
/// The probability follows the sound with a delay: the pause itself is up to 128 ms earlier.
const LAG_FRAMES: u64 = 8;

/// A stretch of frames to be made a segment: `start..end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// First frame.
    pub start: u64,
    /// Frame after the last; also where the next cut may begin.
    pub end: u64,
    /// Speech in it: frames within `start..end`, in order, 0.3 s and more apart. Clicks are none.
    pub speech: Vec<Range<u64>>,
}

/// Cuts a stream of frames into segments.
///
/// The state after a cut depends only on the place of the cut and on the frames that follow it: a new cutter that
/// starts there makes the same cuts.
pub struct Cutter {
    len_max: u64,
    /// The end of the last cut; no segment begins before it.
    origin: u64,
    /// The number of `frames[0]`.
    base: u64,
    /// Frames that a cut may still have to look at again.
    frames: VecDeque<Frame>,
    /// The next frame to be looked at; all before it are in `open` and `run`.
    at: u64,
    /// Speech that waits for a neighbour.
    open: Option<Stretch>,
    /// Speech that goes on.
    run: Option<Stretch>,
    /// The runs of speech that are in `open`.
    runs: Vec<Stretch>,
}

#[derive(Clone, Copy, Debug)]
struct Stretch {
    start: u64,
    end: u64,
    /// Frames that are speech beyond doubt.
    sure: u64,
}

impl Cutter {
    /// Starts at frame `origin`: 0, or the end of a cut. No segment becomes longer than `segment_ms_max`
    /// (at least a second, at most 30 s).
    pub fn new(origin: u64, segment_ms_max: u32) -> Cutter {
        let samples = u64::from(segment_ms_max.clamp(1_000, SEGMENT_MS_MAX)) * u64::from(SAMPLE_RATE) / 1000;
        Cutter {
            len_max: samples / FRAME_SAMPLES as u64,
            origin,
            base: origin,
            frames: VecDeque::new(),
            at: origin,
            open: None,
            run: None,
            runs: Vec::new(),
        }
    }

    /// Takes the next frame and appends the cuts that are now certain.
    pub fn push(&mut self, frame: Frame, cuts: &mut Vec<Cut>) {
        self.frames.push_back(frame);
        while self.at < self.base + self.frames.len() as u64 {
            self.follow(self.frame(self.at).speech);
            self.at += 1;
            if let Some(cut) = self.decide() {
                self.restart(cut.end);
                cuts.push(cut);
            }
        }
        self.forget();
    }

    /// The sound has ended: appends the cuts that were waiting for more.
    pub fn finish(&mut self, cuts: &mut Vec<Cut>) {
        self.close_run();
        if let Some(open) = self.open.take() {
            cuts.extend(self.cut(open, (open.end + PAD_FRAMES).min(self.at)));
        }
        self.restart(self.at);
    }

    /// The first frame that a later cut can still contain.
    pub fn keep_from(&self) -> u64 {
        let first = self.open.or(self.run).map_or(self.at, |s| s.start);
        first.saturating_sub(PAD_FRAMES).max(self.origin)
    }

    fn frame(&self, number: u64) -> Frame {
        self.frames[(number - self.base) as usize]
    }

    /// Moves the state over the frame at `self.at`.
    fn follow(&mut self, prob: f32) {
        let sure = u64::from(prob >= SURE);
        let next = self.at + 1;
        match &mut self.run {
            Some(run) if prob >= OFFSET => {
                run.end = next;
                run.sure += sure;
            }
            Some(run) => {
                if next - run.end >= PAUSE_FRAMES {
                    self.close_run();
                }
            }
            None => {
                // Right after a cut speech may be going on: it need not begin again.
                let goes_on = self.at == self.origin && self.origin > 0;
                if prob >= if goes_on { OFFSET } else { ONSET } {
                    self.run = Some(Stretch { start: self.at, end: next, sure });
                }
            }
        }
    }

    /// Merges the run into what is open. They are close together and fit in one segment, or `decide` had cut.
    fn close_run(&mut self) {
        let Some(run) = self.run.take() else { return };
        if self.open.is_none() {
            self.runs.clear();
        }
        self.runs.push(run);
        self.open = Some(match self.open {
            Some(open) => Stretch { start: open.start, end: run.end, sure: open.sure + run.sure },
            None => run,
        });
    }

    fn decide(&mut self) -> Option<Cut> {
        match (self.open, self.run) {
            // A pause long enough to end the segment.
            (Some(open), None) if self.at - open.end >= GAP_FRAMES => {
                self.open = None;
                self.cut(open, open.end + PAD_FRAMES)
            }
            // The neighbour does not fit any more. The later the cut, the more the model hears at once: cut in a pause
            // of the second half if there is one, else in the pause before the neighbour.
            (Some(open), Some(run)) if run.end - self.padded_start(open) > self.len_max => {
                let start = self.padded_start(open);
                let end = self.quietest(start);
                if self.speech_around(end) < DIP {
                    return Some(self.told(start, end));
                }
                self.open = None;
                self.cut(open, (open.end + PAD_FRAMES).min(open.end.midpoint(run.start)))
            }
            // One run without a pause: cut where it is least like speech.
            (None, Some(run)) if run.end - self.padded_start(run) > self.len_max => {
                let start = self.padded_start(run);
                self.runs.clear();
                Some(self.told(start, self.quietest(start)))
            }
            _ => None,
        }
    }

    /// The segment of a stretch up to `end`, or none if it holds too little speech.
    fn cut(&self, stretch: Stretch, end: u64) -> Option<Cut> {
        let start = self.padded_start(stretch);
        (stretch.sure >= SURE_FRAMES_MIN).then(|| self.told(start, end.min(start + self.len_max)))
    }

    /// The cut from `start` to `end`, with the speech in it.
    fn told(&self, start: u64, end: u64) -> Cut {
        let mut speech: Vec<Range<u64>> = Vec::new();
        for run in self.runs.iter().chain(&self.run).filter(|run| run.sure >= SURE_FRAMES_MIN) {
            let (from, until) = (run.start.max(start), run.end.min(end));
            match speech.last_mut() {
                _ if from >= until => {}
                Some(last) if from - last.end < TOLD_GAP_FRAMES => last.end = until,
                _ => speech.push(from..until),
            }
        }
        Cut { start, end, speech }
    }

    fn padded_start(&self, stretch: Stretch) -> u64 {
        stretch.start.saturating_sub(PAD_FRAMES).max(self.origin)
    }

    /// The best place to end a segment that began at `start` and has become too long: in its second half, where speech
    /// is least likely, and there the faintest frame. Of equals the last.
    fn quietest(&self, start: u64) -> u64 {
        let (first, last) = (start + self.len_max / 2, start + self.len_max);
        let dip = lowest(first..=last, |n| self.speech_around(n));
        lowest(dip.saturating_sub(LAG_FRAMES).max(first)..=dip, |n| self.frame(n).level_db)
    }

    fn speech_around(&self, number: u64) -> f32 {
        let end = (number + SMOOTH_FRAMES + 1).min(self.base + self.frames.len() as u64);
        let first = number.saturating_sub(SMOOTH_FRAMES).max(self.base);
        (first..end).map(|n| self.frame(n).speech).sum::<f32>() / (end - first) as f32
    }

    /// Forgets everything before `origin` and looks at what follows anew.
    fn restart(&mut self, origin: u64) {
        self.origin = origin;
        self.at = origin;
        self.open = None;
        self.run = None;
        self.runs.clear();
    }

    fn forget(&mut self) {
        let keep = self.keep_from().min(self.at);
        while self.base < keep && self.frames.pop_front().is_some() {
            self.base += 1;
        }
    }
}

/// The number with the lowest value, the last of equals.
fn lowest(numbers: std::ops::RangeInclusive<u64>, value: impl Fn(u64) -> f32) -> u64 {
    let mut best = (f32::INFINITY, *numbers.end());
    for number in numbers {
        let value = value(number);
        if value <= best.0 {
            best = (value, number);
        }
    }
    best.1
}

#[cfg(test)]
mod tests;
