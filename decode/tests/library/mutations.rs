//! Thousands of damaged files: each must end, soon, with what could be saved or with a clear answer.

use std::time::{Duration, Instant};

use decode::{DecodeOptions, Ffmpeg};

use crate::make::studio;
use crate::run::{peak_memory_mib, run_bytes};

const MUTATIONS_PER_FILE: u64 = 130;
/// A file of two seconds decodes in milliseconds; this much is a hang even on a machine with much else to do.
const TIME_MAX: Duration = Duration::from_secs(60);

/// A generator with a fixed seed (xorshift64*): the same files in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides.max(1)
    }
}

/// One way to damage a file.
fn mutate(bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    // Half of the blows fall on the header, where they hurt most.
    let reach = if dice.roll(2) == 0 { bytes.len().min(600) } else { bytes.len() };
    match dice.roll(8) {
        0 => bytes.truncate(dice.roll(reach)),
        1 | 2 => {
            for _ in 0..=dice.roll(20) {
                let at = dice.roll(reach);
                bytes[at] ^= 1 << dice.roll(8);
            }
        }
        3 => {
            for _ in 0..=dice.roll(10) {
                let at = dice.roll(reach);
                bytes[at] = [0, 0xff, 0x7f, 0x80, 1][dice.roll(5)];
            }
        }
        4 => {
            // A length or count gone wild.
            let at = dice.roll(reach.saturating_sub(4));
            let wild = [0u32, 1, 0x7fff_ffff, 0xffff_ffff, 0x8000_0000, 0x00ff_ffff][dice.roll(6)];
            let wild = if dice.roll(2) == 0 { wild.to_be_bytes() } else { wild.to_le_bytes() };
            bytes[at..at + 4].copy_from_slice(&wild);
        }
        5 => {
            let from = dice.roll(reach);
            let to = (from + dice.roll(2_000)).min(bytes.len());
            bytes.drain(from..to);
        }
        6 => {
            let from = dice.roll(reach);
            let piece = bytes[from..(from + dice.roll(2_000)).min(bytes.len())].to_vec();
            let at = dice.roll(bytes.len());
            bytes.splice(at..at, piece);
        }
        _ => {
            let from = dice.roll(reach);
            let to = (from + dice.roll(500)).min(bytes.len());
            bytes[from..to].iter_mut().for_each(|b| *b = dice.roll(256) as u8);
        }
    }
    bytes
}

/// What became of the damaged versions of one file.
#[derive(Debug, Default)]
struct Tally {
    whole: u32,
    truncated: u32,
    refused: u32,
}

fn batter(name: &str, bytes: &[u8], seed: u64) -> Tally {
    let mut tally = Tally::default();
    for n in 0..MUTATIONS_PER_FILE {
        let damaged = mutate(bytes, &mut Dice(seed << 32 | (n + 1)));
        let began = Instant::now();
        let options = DecodeOptions { max_audio_ms: 600_000, ..Default::default() };
        match run_bytes(&damaged, options) {
            Ok((parts, summary)) => {
                assert_eq!(parts.len() as u32, summary.segments.iter().sum::<u32>(), "{name} {n}");
                let counter =
                    if summary.truncated_at_ms.is_some() { &mut tally.truncated } else { &mut tally.whole };
                *counter += 1;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty() && !error.is_retryable(), "{name} {n}: {error}");
                tally.refused += 1;
            }
        }
        assert!(began.elapsed() < TIME_MAX, "{name} {n} took {:?}", began.elapsed());
    }
    tally
}

#[test]
fn of_every_format_end_well() {
    let Some(studio) = studio("mutations") else { return };
    let formats: &[(&[&str], &str)] = &[
        (&["-c:a", "pcm_s16le"], "mutated.wav"),
        (&["-c:a", "pcm_f32le"], "mutated-float.wav"),
        (&["-c:a", "pcm_mulaw"], "mutated-mulaw.wav"),
        (&["-c:a", "adpcm_ms"], "mutated-ms.wav"),
        (&["-c:a", "adpcm_ima_wav"], "mutated-ima.wav"),
        (&["-c:a", "pcm_s16be"], "mutated.aiff"),
        (&["-c:a", "pcm_s16be"], "mutated.caf"),
        (&["-c:a", "alac"], "mutated-alac.caf"),
        (&["-c:a", "flac"], "mutated.flac"),
        (&["-c:a", "flac"], "mutated-flac.ogg"),
        (&["-c:a", "libmp3lame"], "mutated.mp3"),
        (&["-c:a", "mp2"], "mutated.mp2"),
        (&["-c:a", "libvorbis"], "mutated.ogg"),
        (&["-c:a", "libopus"], "mutated.opus"),
        (&["-c:a", "libopus", "-b:a", "12k", "-ac", "1"], "mutated-voice.opus"),
        (&["-c:a", "libopus"], "mutated.webm"),
        (&["-c:a", "libvorbis"], "mutated.mkv"),
        (&["-c:a", "flac"], "mutated-flac.mkv"),
        (&["-c:a", "aac"], "mutated.aac"),
        (&["-c:a", "aac"], "mutated.m4a"),
        (&["-c:a", "aac", "-movflags", "faststart"], "mutated-fast.m4a"),
        (&["-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"], "mutated-frag.mp4"),
        (&["-c:a", "alac"], "mutated-alac.m4a"),
        (&["-c:a", "libopus", "-strict", "-2"], "mutated-opus.mp4"),
        (&["-c:a", "pcm_s16le"], "mutated.mov"),
        (&["-c:a", "aac"], "mutated-aac.mkv"),
    ];
    let mut tally = Tally::default();
    for (seed, (args, name)) in (1..).zip(formats) {
        let Some(bytes) = studio.bytes(&[&["-t", "2", "-ar", "16000"], *args].concat(), name) else {
            continue;
        };
        let one = batter(name, &bytes, seed);
        eprintln!("{name}: {one:?}");
        tally.whole += one.whole;
        tally.truncated += one.truncated;
        tally.refused += one.refused;
    }
    eprintln!("all: {tally:?}");
    assert!(peak_memory_mib() < 500, "{} MiB", peak_memory_mib());
    assert!(tally.whole > 500 && tally.truncated > 100 && tally.refused > 300, "too uniform: {tally:?}");
}

#[test]
fn ffmpeg_is_kept_in_bounds_by_them_too() {
    let Some(studio) = studio("mutations through ffmpeg") else { return };
    for (seed, (args, name)) in
        (100..).zip([(["-c:a", "ac3"], "mutated.ac3"), (["-c:a", "wmav2"], "mutated.wma")])
    {
        let Some(bytes) = studio.bytes(&[&["-t", "2"][..], &args].concat(), name) else { continue };
        for n in 0..15 {
            let damaged = mutate(&bytes, &mut Dice(seed << 32 | (n + 1)));
            let options =
                DecodeOptions { ffmpeg: Ffmpeg::find(), max_audio_ms: 600_000, ..Default::default() };
            let began = Instant::now();
            if let Err(error) = run_bytes(&damaged, options) {
                assert!(!error.is_retryable(), "{name} {n}: {error}");
            }
            assert!(began.elapsed() < TIME_MAX, "{name} {n} took {:?}", began.elapsed());
        }
    }
}
