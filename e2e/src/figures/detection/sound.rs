//! Mixtures of speech with pauses and noise, every frame of them labelled.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use decode::segment::FRAME_SAMPLES;
use decode::speech::Frame;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Samples of a labelled frame: 30 ms at 16 kHz.
pub const LABEL_SAMPLES: usize = 480;

const RATE: usize = 16_000;
/// Fixes the lengths of pauses.
const SEED: u64 = 5;
/// The level of speech, in decibels below full scale.
const SPEECH_DB: f32 = -26.0;
const FAINT_DB: f32 = -50.0;
const FAINTEST_DB: f32 = -65.0;
/// What is louder than this beside the level of speech is speech, what is fainter than that is none.
const SPEECH_RANGE_DB: f32 = 20.0;
const PAUSE_RANGE_DB: f32 = 30.0;
/// A shorter faint place within a recording is part of a word: 0.2 s.
const PAUSE_LABELS_MIN: usize = 7;

/// What is known of a frame of 30 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// Somebody speaks.
    Speech,
    /// Nobody does.
    Pause,
    /// Nobody knows.
    Unsure,
}

/// A recording and its words.
pub struct Clip {
    /// 16 kHz, -1 to 1.
    sound: Vec<f32>,
    text: String,
}

/// Recordings one after another, with silence between them.
pub struct Track {
    /// 16 kHz, -1 to 1, speech at -26 dB.
    pub sound: Vec<f32>,
    /// One for each 30 ms.
    pub labels: Vec<Label>,
    /// Where the speech of each recording begins and ends, in samples.
    pub onsets: Vec<Range<usize>>,
    /// All that is said.
    pub text: String,
}

impl Track {
    /// Frames as a detector would hear them that knew the labels.
    pub fn known_frames(&self) -> Vec<Frame> {
        let label = |at: usize| self.labels.get((at * FRAME_SAMPLES + FRAME_SAMPLES / 2) / LABEL_SAMPLES);
        let frames = (0..self.sound.len() / FRAME_SAMPLES).map(|at| match label(at) {
            Some(Label::Speech | Label::Unsure) => Frame { speech: 1.0, level_db: -20.0 },
            _ => Frame { speech: 0.0, level_db: -100.0 },
        });
        frames.collect()
    }
}

/// What is mixed with speech.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noise {
    /// As much of each frequency.
    White,
    /// As much in each octave.
    Pink,
    /// Plucked chords, a bass and a melody.
    Music,
}

/// How a mixture is made: the noise and how many decibels fainter than speech it is, and how loud speech is.
#[derive(Clone, Copy, Debug)]
pub struct Condition {
    noise: Option<(Noise, f32)>,
    speech_db: f32,
}

/// All mixtures.
pub const CONDITIONS: &[Condition] = &[
    Condition { noise: None, speech_db: SPEECH_DB },
    Condition { noise: None, speech_db: FAINT_DB },
    Condition { noise: None, speech_db: FAINTEST_DB },
    Condition { noise: Some((Noise::Pink, 20.0)), speech_db: FAINT_DB },
    Condition { noise: Some((Noise::White, 20.0)), speech_db: SPEECH_DB },
    Condition { noise: Some((Noise::White, 10.0)), speech_db: SPEECH_DB },
    Condition { noise: Some((Noise::White, 5.0)), speech_db: SPEECH_DB },
    Condition { noise: Some((Noise::White, 0.0)), speech_db: SPEECH_DB },
    Condition { noise: Some((Noise::Pink, 20.0)), speech_db: SPEECH_DB },
    Condition { noise: Some((Noise::Pink, 10.0)), speech_db: SPEECH_DB },
    Condition { noise: Some((Noise::Pink, 5.0)), speech_db: SPEECH_DB },
    Condition { noise: Some((Noise::Pink, 0.0)), speech_db: SPEECH_DB },
    Condition { noise: Some((Noise::Music, 20.0)), speech_db: SPEECH_DB },
    Condition { noise: Some((Noise::Music, 10.0)), speech_db: SPEECH_DB },
    Condition { noise: Some((Noise::Music, 5.0)), speech_db: SPEECH_DB },
    Condition { noise: Some((Noise::Music, 0.0)), speech_db: SPEECH_DB },
];

impl Condition {
    /// Whether words are counted in it: that takes long, so without noise, and with pink noise and music 10 dB below
    /// speech and as loud.
    pub fn is_read(&self) -> bool {
        match self.noise {
            None => true,
            Some((noise, below)) => noise != Noise::White && [0.0, 10.0].contains(&below),
        }
    }

    /// Its name on the page.
    pub fn name(&self) -> String {
        let speech = match self.speech_db {
            SPEECH_DB => "speech".to_owned(),
            level => format!("speech at {level} dB"),
        };
        match self.noise {
            None => format!("{speech}, no noise"),
            Some((noise, snr)) => {
                format!("{speech}, {} {snr} dB below", format!("{noise:?}").to_lowercase())
            }
        }
    }
}

/// Reads the recordings of some folders by name; their texts lie beside them as NAME.txt or in a `transcripts.tsv`.
pub fn read_clips(folders: &[PathBuf]) -> Result<Vec<Clip>> {
    let mut clips = Vec::new();
    for folder in folders {
        let table = std::fs::read_to_string(folder.join("transcripts.tsv")).unwrap_or_default();
        let listed = std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
        let mut files: Vec<PathBuf> = listed.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "wav" || e == "flac")) {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            let row = table.lines().find_map(|line| line.strip_prefix(&*name)?.strip_prefix('\t'));
            let beside = std::fs::read_to_string(file.with_extension("txt")).ok();
            // `dashwood` joins recordings that are there one by one.
            if let Some(text) = row.map(str::to_owned).or(beside).filter(|_| name != "dashwood") {
                clips.push(Clip { sound: sox_reads(file)?, text });
            }
        }
    }
    Ok(clips)
}

/// Lays recordings one after another while they fit, the shorter ones first, with pauses between.
pub fn lay_out(clips: &[Clip], seconds: usize) -> Result<Track> {
    let mut chance = StdRng::seed_from_u64(SEED);
    let mut track = Track { sound: Vec::new(), labels: Vec::new(), onsets: Vec::new(), text: String::new() };
    pause(&mut track, &mut chance);
    let mut by_length: Vec<&Clip> = clips.iter().collect();
    by_length.sort_by_key(|clip| clip.sound.len());
    for clip in by_length {
        if track.sound.len() + clip.sound.len() > seconds * RATE {
            break;
        }
        let before = track.labels.len();
        let whole = clip.sound.len() / LABEL_SAMPLES * LABEL_SAMPLES;
        let sound = at_level(&clip.sound[..whole], SPEECH_DB);
        track.labels.extend(labels(&sound));
        let is_speech = |label: &Label| *label == Label::Speech;
        let of_clip = &track.labels[before..];
        if let (Some(first), Some(last)) =
            (of_clip.iter().position(is_speech), of_clip.iter().rposition(is_speech))
        {
            track.onsets.push((before + first) * LABEL_SAMPLES..(before + last + 1) * LABEL_SAMPLES);
        }
        track.sound.extend(sound);
        track.text += &clip.text;
        track.text += " ";
        pause(&mut track, &mut chance);
    }
    ensure!(!track.onsets.is_empty(), "no recording fits {seconds} s");
    Ok(track)
}

/// Mixes a track with noise.
pub fn mix(track: &Track, condition: &Condition) -> Result<Vec<i16>> {
    let gain = amplitude(condition.speech_db - SPEECH_DB);
    let mut mixed: Vec<f32> = track.sound.iter().map(|sample| sample * gain).collect();
    if let Some((noise, below)) = condition.noise {
        let noise = noise.make(mixed.len())?;
        let power = noise.iter().map(|sample| sample * sample).sum::<f32>() / noise.len() as f32;
        let gain = gain * amplitude(SPEECH_DB - below) / power.sqrt();
        for (sample, noise) in mixed.iter_mut().zip(&noise) {
            *sample += noise * gain;
        }
    }
    // A cast from float to integer stops at the limits.
    Ok(mixed.iter().map(|sample| (sample * 32768.0).round() as i16).collect())
}

impl Noise {
    /// So many samples of it, the same every time.
    fn make(self, samples: usize) -> Result<Vec<f32>> {
        let seconds = samples.div_ceil(RATE).to_string();
        let mut noise = match self {
            Noise::White => sox_makes(&["synth", &seconds, "whitenoise", "gain", "-9"])?,
            Noise::Pink => sox_makes(&["synth", &seconds, "pinknoise", "gain", "-9"])?,
            Noise::Music => music(samples)?,
        };
        noise.truncate(samples);
        ensure!(noise.len() == samples, "sox made too little noise");
        Ok(noise)
    }
}

/// Four chords over and over, each bar with a bass and a note of a melody.
fn music(samples: usize) -> Result<Vec<f32>> {
    const BARS: [([&str; 4], &str); 8] = [
        (["261.6", "329.6", "392.0", "65.4"], "523.3"),
        (["261.6", "329.6", "392.0", "65.4"], "659.3"),
        (["220.0", "261.6", "329.6", "55.0"], "440.0"),
        (["220.0", "261.6", "329.6", "55.0"], "523.3"),
        (["174.6", "220.0", "261.6", "87.3"], "698.5"),
        (["174.6", "220.0", "261.6", "87.3"], "440.0"),
        (["196.0", "246.9", "293.7", "98.0"], "587.3"),
        (["196.0", "246.9", "293.7", "98.0"], "493.9"),
    ];
    let mut bars = Vec::new();
    for ([low, middle, high, bass], note) in BARS {
        let synth = ["synth", "0.8", "pluck", low, "pluck", middle, "pluck", high, "sine", bass];
        let rest = ["triangle", note, "remix", "-", "fade", "0", "0.8", "0.2", "gain", "-6"];
        bars.extend(sox_makes_of(5, &[&synth[..], &rest].concat())?);
    }
    Ok(bars.iter().copied().cycle().take(samples).collect())
}

fn pause(track: &mut Track, chance: &mut StdRng) {
    let labels = chance.random_range(27..=100);
    track.labels.extend(std::iter::repeat_n(Label::Pause, labels));
    track.sound.extend(std::iter::repeat_n(0.0, labels * LABEL_SAMPLES));
}

/// Brings speech to a level, in decibels below full scale: that of the frames within 15 dB of the mean of all.
fn at_level(sound: &[f32], level_db: f32) -> Vec<f32> {
    let powers = powers(sound);
    let mean = |powers: &[f32]| powers.iter().sum::<f32>() / powers.len().max(1) as f32;
    let least = mean(&powers) * amplitude(-30.0);
    let active: Vec<f32> = powers.into_iter().filter(|power| *power >= least).collect();
    let gain = amplitude(level_db) / mean(&active).sqrt().max(1e-6);
    sound.iter().map(|sample| sample * gain).collect()
}

/// Labels of speech at its level.
fn labels(sound: &[f32]) -> Vec<Label> {
    let level = |power: f32| 10.0 * power.max(1e-12).log10() - SPEECH_DB;
    let mut labels: Vec<Label> = powers(sound)
        .into_iter()
        .map(|power| match level(power) {
            level if level >= -SPEECH_RANGE_DB => Label::Speech,
            level if level < -PAUSE_RANGE_DB => Label::Pause,
            _ => Label::Unsure,
        })
        .collect();
    for run in labels.chunk_by_mut(|a, b| a == b) {
        if run[0] == Label::Pause && run.len() < PAUSE_LABELS_MIN {
            run.fill(Label::Unsure);
        }
    }
    labels
}

fn powers(sound: &[f32]) -> Vec<f32> {
    let frames = sound.chunks_exact(LABEL_SAMPLES);
    frames.map(|frame| frame.iter().map(|s| s * s).sum::<f32>() / LABEL_SAMPLES as f32).collect()
}

fn amplitude(decibels: f32) -> f32 {
    10f32.powf(decibels / 20.0)
}

fn sox_reads(file: &Path) -> Result<Vec<f32>> {
    sox(Command::new("sox").arg("-D").arg(file), 1, &[])
}

fn sox_makes(effects: &[&str]) -> Result<Vec<f32>> {
    sox_makes_of(1, effects)
}

/// Sound of so many channels, of which the effects make one.
fn sox_makes_of(channels: usize, effects: &[&str]) -> Result<Vec<f32>> {
    // -R: the same noise every time. Strings are plucked at this rate only; what comes out is at 16 kHz.
    let mut command = Command::new("sox");
    sox(command.args(["-R", "-D", "-r", "48000", "-c", &channels.to_string(), "-n"]), channels, effects)
}

fn sox(command: &mut Command, channels: usize, effects: &[&str]) -> Result<Vec<f32>> {
    let raw = ["-t", "raw", "-r", "16000", "-b", "16", "-e", "signed-integer"];
    command.args(raw);
    if channels == 1 {
        command.args(["-c", "1"]);
    }
    let output = command.arg("-").args(effects).output().context("run sox")?;
    ensure!(output.status.success(), "sox failed: {}", String::from_utf8_lossy(&output.stderr));
    let (samples, _) = output.stdout.as_chunks();
    Ok(samples.iter().map(|bytes| f32::from(i16::from_le_bytes(*bytes)) / 32768.0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tones of so many labelled frames each, at levels beside that of speech.
    fn tones(parts: &[(usize, f32)]) -> Vec<f32> {
        let tone = |at: usize| (at as f32 * std::f32::consts::TAU / 16.0).sin() * std::f32::consts::SQRT_2;
        let parts = parts.iter().map(|(frames, level)| (frames * LABEL_SAMPLES, amplitude(*level)));
        parts.flat_map(|(samples, gain)| (0..samples).map(move |at| tone(at) * gain)).collect()
    }

    #[test]
    fn speech_is_brought_to_its_level_and_labelled() {
        // Half of the time is pauses, which do not count in the level; a short one is part of a word.
        let sound = tones(&[(10, -70.0), (20, -10.0), (3, -60.0), (20, -10.0), (5, -35.0), (30, -70.0)]);
        let sound = at_level(&sound, SPEECH_DB);
        let level = 10.0 * powers(&sound)[15].log10();
        assert!((level - SPEECH_DB).abs() < 0.1, "{level}");
        let told: Vec<_> = labels(&sound).chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect();
        use Label::{Pause, Speech, Unsure};
        assert_eq!(told, [(Pause, 10), (Speech, 20), (Unsure, 3), (Speech, 20), (Unsure, 5), (Pause, 30)]);
    }

    #[test]
    fn recordings_are_laid_out_with_pauses() {
        let clip = |frames| Clip { sound: tones(&[(frames, -20.0)]), text: format!("{frames} frames") };
        let track = lay_out(&[clip(100), clip(50), clip(10_000)], 20).unwrap();
        assert_eq!((track.onsets.len(), track.text.as_str()), (2, "50 frames 100 frames "));
        assert_eq!(track.sound.len(), track.labels.len() * LABEL_SAMPLES);
        for (range, frames) in track.onsets.iter().zip([50, 100]) {
            assert_eq!(range.len(), frames * LABEL_SAMPLES);
            assert_eq!(track.labels[range.start / LABEL_SAMPLES - 1], Label::Pause);
        }
        let known = track.known_frames();
        assert!(known[track.onsets[0].start / FRAME_SAMPLES + 1].speech > 0.9 && known[0].speech < 0.1);
        assert!(lay_out(&[clip(100)], 1).is_err());
    }
}
