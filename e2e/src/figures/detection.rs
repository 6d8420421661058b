//! The speech detector: how well it hears speech in noise, what words are lost by cutting where it says, and what
//! share of a transcription it takes.
//!
//! - [`sound`]: recordings, pauses, noises, and mixtures of them of which every frame is labelled.
//! - [`rivals`]: detectors. [`rates`]: what they miss and what they hear in vain.
//! - [`share`]: processor time of decoding, detection and spectrogram beside the model's.

pub mod rates;
pub mod rivals;
pub mod share;
pub mod sound;

use std::fmt::Write as _;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context, Result};
use decode::segment::{Cut, Cutter, FRAME_SAMPLES, SEGMENT_MS_MAX};
use decode::speech::Frame;
use infer::engine::Setup;
use infer::scheduler::URGENT;
use infer::{Engine, Options as Decoding};

use self::rates::Rates;
use self::rivals::Rival;
use self::sound::{CONDITIONS, Label, Track};
use super::processes::spent_s;
use crate::word_errors;

/// What is measured on.
pub struct Options {
    /// Folders of recordings, each with its text.
    pub clips: Vec<PathBuf>,
    /// Folder of models; holds `tiny.en/` and `base/`.
    pub models: PathBuf,
    /// Seconds of sound in each mixture; recordings are taken while they fit.
    pub seconds: usize,
    /// Whether the words are counted, too, which takes most of the time.
    pub words: bool,
}

/// Detection thresholds whose rates are told side by side.
const THRESHOLDS: [f32; 5] = [0.2, 0.35, 0.5, 0.65, 0.8];

/// Measures; returns the body of the page.
pub fn run(options: &Options) -> Result<String> {
    let clips = sound::read_clips(&options.clips)?;
    let track = sound::lay_out(&clips, options.seconds)?;
    let mixtures = CONDITIONS.iter().map(|condition| sound::mix(&track, condition));
    let mixtures: Vec<Vec<i16>> = mixtures.collect::<Result<_>>()?;
    let mut page = about(&track, clips.len());
    let heard: Vec<Vec<Vec<Frame>>> = Rival::ALL
        .iter()
        .map(|rival| mixtures.iter().map(|mixture| rival.listen(mixture)).collect())
        .collect();
    page += &rates_of_all(&track, &heard);
    page += &thresholds(&track, &heard);
    // What a model reads takes its time: half as much is read.
    let track = sound::lay_out(&clips, options.seconds / 2)?;
    if options.words {
        page += &words(options, &track)?;
    }
    page += &speed(&mixtures[0]);
    page += &share::measure(&options.models, &sound::mix(&track, &CONDITIONS[0])?)?;
    Ok(page)
}

fn about(track: &Track, at_hand: usize) -> String {
    let share = |label: Label| {
        let count = track.labels.iter().filter(|at| **at == label).count();
        100.0 * count as f64 / track.labels.len() as f64
    };
    format!(
        "{} of {at_hand} recordings one after another, with pauses of 0.8 to 3 s of digital silence, {:.0} s in all; {} words.\n\
         Each is brought to -26 dB below full scale while somebody speaks. A frame of 30 ms in which it is louder than\n\
         20 dB below that is speech ({:.0} %); pauses, and places within recordings that are fainter than 30 dB below it for 0.2 s\n\
         and longer, are none ({:.0} %); of the rest nothing is known and nothing is counted. Neither are the 0.1 s beside\n\
         speech. Noise is sox's, mixed in over the whole length at the named distance from speech; music is chords of plucked\n\
         strings with a bass and a melody, from sox.\n\n",
        track.onsets.len(),
        track.sound.len() as f64 / 16_000.0,
        track.text.split_whitespace().count(),
        share(Label::Speech),
        share(Label::Pause),
    )
}

fn rates_of_all(track: &Track, heard: &[Vec<Vec<Frame>>]) -> String {
    let mut page = "## Misses and false alarms\n\n\
         *Told* is the speech that is told beside each segment (threshold, pauses and clicks as the cutter has them), *sent* what\n\
         lies in a segment and so reaches the model: with 0.2 s before and after, and pauses of less than 0.6 s. Missed: share of\n\
         the frames with speech that are in none. In vain: share of the frames without speech that are. Onset: median of the time from\n\
         the first frame with speech of a recording to the first that is heard as such, ms; end: of the last ones.\n\n"
        .to_owned();
    page += "| sound | detector | told: missed, % | told: in vain, % | sent: missed, % | sent: in vain, % | onset, ms | end, ms |\n\
             |---|---|--:|--:|--:|--:|--:|--:|\n";
    for (at, condition) in CONDITIONS.iter().enumerate() {
        for (rival, heard) in Rival::ALL.iter().zip(heard) {
            let rates = rates_of(track, &heard[at]);
            let _ = writeln!(page, "| {} | {} | {} |", condition.name(), rival.name(), rates.row());
        }
    }
    for (rival, heard) in Rival::ALL.iter().zip(heard) {
        let all = Rates::mean(heard.iter().map(|frames| rates_of(track, frames)));
        let _ = writeln!(page, "| mean of all | {} | {} |", rival.name(), all.row());
    }
    page + "\n"
}

fn rates_of(track: &Track, frames: &[Frame]) -> Rates {
    let cuts = cut(frames);
    Rates::of(track, frames, &cuts)
}

/// Rates of the bare probabilities.
fn thresholds(track: &Track, heard: &[Vec<Vec<Frame>>]) -> String {
    let mut page = "## Thresholds\n\n\
         Frames above a threshold, without what the cutter makes of them; mean of all mixtures. The cutter begins speech at 0.5 and\n\
         ends it below 0.35, which are the network's authors' own values.\n\n| detector |"
        .to_owned();
    for threshold in THRESHOLDS {
        let _ = write!(page, " {threshold}: missed, in vain, % |");
    }
    let _ = writeln!(page, "\n|---{}|", "|--:".repeat(THRESHOLDS.len()));
    for (rival, heard) in Rival::ALL.iter().zip(heard) {
        let _ = write!(page, "| {} |", rival.name());
        for threshold in THRESHOLDS {
            let (missed, in_vain) = rates::of_threshold(track, heard, threshold);
            let _ = write!(page, " {:.1}, {:.1} |", missed * 100.0, in_vain * 100.0);
        }
        page += "\n";
    }
    page + "\n"
}

/// Word errors after cutting where each detector says, and where the labels say.
fn words(options: &Options, track: &Track) -> Result<String> {
    let engine = Engine::load(&options.models.join("tiny.en"), Setup::default()).context("load tiny.en")?;
    let count = track.text.split_whitespace().count();
    let rivals: Vec<Rival> = Rival::ALL.iter().copied().filter(|rival| rival.is_candidate()).collect();
    let mut page = format!(
        "## Words\n\nWord errors of tiny.en (int8, temperature 0) on the segments of {:.0} s, in % of {count} words; case and punctuation do\n\
         not count. *By labels*: cut where speech is known to be, so that what is left is the model's.\n\n| sound | by labels |",
        track.sound.len() as f64 / 16_000.0,
    );
    for rival in &rivals {
        let _ = write!(page, " {} |", rival.name());
    }
    let _ = writeln!(page, "\n|---|--:{}|", "|--:".repeat(rivals.len()));
    let mut sums = vec![0.0; rivals.len() + 1];
    let conditions: Vec<_> = CONDITIONS.iter().filter(|condition| condition.is_read()).collect();
    for condition in &conditions {
        let mixture = sound::mix(track, condition)?;
        let _ = write!(page, "| {} |", condition.name());
        let heard = rivals.iter().map(|rival| rival.listen(&mixture));
        for (frames, sum) in std::iter::once(track.known_frames()).chain(heard).zip(&mut sums) {
            let errors = word_errors(&track.text, &transcribe(&engine, &mixture, &cut(&frames))?);
            let share = 100.0 * errors as f64 / count as f64;
            *sum += share / conditions.len() as f64;
            let _ = write!(page, " {share:.1} |");
        }
        page += "\n";
        eprintln!("  words: {}", condition.name());
    }
    let means: Vec<String> = sums.iter().map(|mean| format!(" {mean:.1} |")).collect();
    let _ = writeln!(page, "| mean of all |{}\n", means.concat());
    Ok(page)
}

/// Processor time of the detectors.
fn speed(mixture: &[i16]) -> String {
    let seconds = mixture.len() as f64 / 16_000.0;
    let mut page = "## Speed\n\nProcessor time on one thread as a share of the sound's length, with the gain in front.\n\n\
                    | detector | real-time factor |\n|---|--:|\n"
        .to_owned();
    for rival in Rival::ALL.iter().filter(|rival| rival.is_candidate()) {
        let spent = processor_time(|| {
            rival.listen(mixture);
        });
        let _ = writeln!(page, "| {} | {:.5} |", rival.name(), spent / seconds);
    }
    page + "\n"
}

/// Seconds of processor time that some work takes, repeated until the clock's ticks of 10 ms do not matter.
fn processor_time(mut work: impl FnMut()) -> f64 {
    let begun = spent_s(std::process::id());
    let mut times = 0;
    loop {
        work();
        times += 1;
        let spent = spent_s(std::process::id()) - begun;
        if spent >= 2.0 {
            return spent / f64::from(times);
        }
    }
}

/// The segments of a recording with these frames.
fn cut(frames: &[Frame]) -> Vec<Cut> {
    let (mut cutter, mut cuts) = (Cutter::new(0, SEGMENT_MS_MAX), Vec::new());
    for frame in frames {
        cutter.push(*frame, &mut cuts);
    }
    cutter.finish(&mut cuts);
    cuts
}

/// What the model reads in the segments, one after the other.
fn transcribe(engine: &Engine, sound: &[i16], cuts: &[Cut]) -> Result<String> {
    let reads = cuts.iter().map(|cut| {
        let ms = |frame: u64| (frame - cut.start) * FRAME_SAMPLES as u64 / 16;
        let options = Decoding {
            language: Some("en".to_owned()),
            temperatures: vec![0.0],
            speech: cut.speech.iter().map(|speech| ms(speech.start)..ms(speech.end)).collect(),
            ..Decoding::default()
        };
        engine.transcribe(sound[samples(cut, sound.len())].into(), options, URGENT)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().context("start a runtime")?;
    let outputs = runtime.block_on(futures::future::try_join_all(reads)).context("transcribe")?;
    let spans = outputs.iter().flat_map(|output| &output.spans);
    Ok(spans.map(|span| span.text.as_str()).collect::<Vec<_>>().join(" "))
}

/// The samples of a cut in a recording of so many.
fn samples(cut: &Cut, length: usize) -> Range<usize> {
    let sample = |frame: u64| (frame as usize * FRAME_SAMPLES).min(length);
    sample(cut.start)..sample(cut.end)
}
