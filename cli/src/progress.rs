//! What is under way, on standard error: bars on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use transcript::{State, Status};

/// How often a plain line may come while nothing but a number changes.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);
/// A bar is this many steps long.
const STEPS: u64 = 1000;

/// The place where progress is shown. Clones share it.
#[derive(Clone, Debug)]
pub struct Progress {
    bars: Option<MultiProgress>,
}

impl Progress {
    /// Bars where standard error is a terminal, lines where it is not.
    pub fn new() -> Progress {
        let draw = || MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Progress { bars: std::io::stderr().is_terminal().then(draw) }
    }

    /// Begins to show the progress of one thing.
    pub fn begin(&self, name: &str) -> Meter {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new(STEPS));
            bar.set_style(style());
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Meter { name: name.to_owned(), bar, plain: Mutex::new(None) }
    }

    /// Says a line, above the bars.
    pub fn say(&self, line: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Does what must not be drawn over, such as printing a result.
    pub fn pause<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.bars {
            Some(bars) => bars.suspend(work),
            None => work(),
        }
    }
}

impl Default for Progress {
    fn default() -> Progress {
        Progress::new()
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {prefix:.bold} {bar:24.cyan/dim} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The progress of one thing. What it showed goes when it is dropped.
#[derive(Debug)]
pub struct Meter {
    name: String,
    bar: Option<ProgressBar>,
    /// What was told last, where lines are plain.
    plain: Mutex<Option<Told>>,
}

/// A plain line.
#[derive(Debug)]
struct Told {
    activity: String,
    text: String,
    at: Instant,
}

impl Meter {
    /// Shows how many bytes went.
    pub fn bytes(&self, verb: &str, done: u64, total: Option<u64>) {
        let share = total.map_or(0.0, |total| done as f64 / total.max(1) as f64);
        self.show(verb, share, &bytes_text(verb, done, total));
    }

    /// Shows how far a transcription is.
    pub fn standing(&self, standing: &Standing) {
        self.show(standing.status.as_str(), standing.share, &standing.text());
    }

    /// Shows how many of several things are done.
    pub fn count(&self, done: u64, total: u64) {
        self.show("files", done as f64 / total.max(1) as f64, &format!("{done} of {total} files"));
    }

    /// Shows how far something is, in words of its own.
    pub fn share(&self, activity: &str, share: f64, text: &str) {
        self.show(activity, share, text);
    }

    /// Shows an activity of unknown length.
    pub fn activity(&self, text: &str) {
        self.show(text, 0.0, text);
    }

    /// Says a line about this thing, above the bars.
    pub fn say(&self, line: &str) {
        let line = format!("{}: {line}", self.name);
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Shows any activity, how much of it is done, and a text about it.
    pub fn show(&self, activity: &str, share: f64, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position((share.clamp(0.0, 1.0) * STEPS as f64) as u64);
            bar.set_message(text.to_owned());
            return;
        }
        let mut last = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if last.as_ref().is_none_or(|told| told.is_outdated(activity, share, text, now)) {
            eprintln!("{}: {text}", self.name);
            *last = Some(Told { activity: activity.to_owned(), text: text.to_owned(), at: now });
        }
    }
}

impl Told {
    /// Whether it is time for another line: the activity is another one, it is whole, or it takes long.
    fn is_outdated(&self, activity: &str, share: f64, text: &str, now: Instant) -> bool {
        let is_end = share >= 1.0 && self.text != text;
        self.activity != activity || is_end || now.duration_since(self.at) >= PLAIN_INTERVAL
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How far a transcription is, wherever it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Where it stands, in a word.
    pub status: Status,
    /// The share of the work that is done, 0 to 1.
    pub share: f64,
    /// Seconds of audio; 0 while unknown.
    pub audio_s: f64,
    /// Seconds of it that are decoded.
    pub decoded_s: f64,
    /// Seconds of speech that have their text.
    pub transcribed_s: f64,
}

impl Standing {
    /// What a fold knows.
    pub fn of(state: &State) -> Standing {
        let seconds = |ms: u64| ms as f64 / 1000.0;
        Standing {
            status: state.status,
            share: state.progress(),
            audio_s: seconds(state.audio_ms),
            decoded_s: seconds(state.decoded_ms),
            transcribed_s: seconds(state.transcribed_ms),
        }
    }

    fn text(&self) -> String {
        let of = match self.audio_s > 0.0 {
            true => format!(" of {}", clock(self.audio_s)),
            false => String::new(),
        };
        match self.status {
            Status::Decoding | Status::Transcribing => {
                format!("{} decoded, {} transcribed{of}", clock(self.decoded_s), clock(self.transcribed_s))
            }
            status => status.to_string(),
        }
    }
}

fn bytes_text(verb: &str, done: u64, total: Option<u64>) -> String {
    let mb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
    match total {
        Some(total) => format!("{verb} {} of {} MB", mb(done), mb(total)),
        None => format!("{verb} {} MB", mb(done)),
    }
}

/// Seconds as `0:07` or `1:02:03`.
pub fn clock(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    match s >= 3600 {
        true => format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60),
        false => format!("{}:{:02}", s / 60, s % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_are_few_and_the_last_one_is_the_end() {
        let at = Instant::now();
        let told = Told { activity: "files".to_owned(), text: "1 of 3 files".to_owned(), at };
        assert!(!told.is_outdated("files", 0.7, "2 of 3 files", at), "only a number changed");
        assert!(told.is_outdated("files", 0.7, "2 of 3 files", at + PLAIN_INTERVAL));
        assert!(told.is_outdated("files", 1.0, "3 of 3 files", at));
        assert!(told.is_outdated("waits", 0.7, "waits", at));
        let end = Told { text: "3 of 3 files".to_owned(), ..told };
        assert!(!end.is_outdated("files", 1.0, "3 of 3 files", at), "the end is told once");
    }

    #[test]
    fn texts() {
        let mut standing = Standing {
            status: Status::Transcribing,
            share: 0.5,
            audio_s: 3723.4,
            decoded_s: 62.0,
            transcribed_s: 7.9,
        };
        assert_eq!(standing.text(), "1:02 decoded, 0:07 transcribed of 1:02:03");
        standing.audio_s = 0.0;
        assert_eq!(standing.text(), "1:02 decoded, 0:07 transcribed");
        standing.status = Status::Queued;
        assert_eq!(standing.text(), "queued");
        assert_eq!(bytes_text("sent", 1_500_000, Some(3_000_000)), "sent 1.5 of 3.0 MB");
        assert_eq!(bytes_text("sent", 0, None), "sent 0.0 MB");
    }
}
