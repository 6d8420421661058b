//! What is no good recording: each ends with an answer that a person understands.

use std::io::{self, Read, Seek, SeekFrom};

use decode::{Channels, DecodeError, DecodeOptions, Decoder, Ffmpeg};
use expect_test::{Expect, expect};

use crate::make::{ffmpeg, studio};
use crate::run::{finish, peak_memory_mib, run, run_bytes, run_file};

/// A wav header for 16 bits, with what it claims about the length of its data.
fn wav_header(rate: u32, channels: u16, data_bytes: u32) -> Vec<u8> {
    let mut header = b"RIFF".to_vec();
    header.extend(data_bytes.saturating_add(36).to_le_bytes());
    header.extend(b"WAVEfmt ");
    header.extend(16u32.to_le_bytes());
    header.extend(1u16.to_le_bytes());
    header.extend(channels.to_le_bytes());
    header.extend(rate.to_le_bytes());
    header.extend((rate * u32::from(channels) * 2).to_le_bytes());
    header.extend((channels * 2).to_le_bytes());
    header.extend(16u16.to_le_bytes());
    header.extend(b"data");
    header.extend(data_bytes.to_le_bytes());
    header
}

fn check(bytes: &[u8], answer: Expect) {
    check_error(run_bytes(bytes, DecodeOptions::default()).expect_err("this is no recording"), answer);
}

fn check_error(error: DecodeError, answer: Expect) {
    answer.assert_eq(&format!("{}: {error}", error.code()));
    assert!(!error.is_retryable());
}

#[test]
fn nothing_and_other_things() {
    check(b"", expect!["empty: the file is empty: send a file that holds some audio"]);
    check(&wav_header(16_000, 1, 0), expect!["empty: the file is empty: send a file that holds some audio"]);
    check(
        "Dear listener,\nplease find attached what I meant to say: größer.\n".as_bytes(),
        expect![
            "not_audio: this is not audio: it is text; send an audio or video file such as wav, mp3, flac, ogg, m4a or mp4"
        ],
    );
    check(
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01",
        expect![
            "not_audio: this is not audio: it is a PNG image; send an audio or video file such as wav, mp3, flac, ogg, m4a or mp4"
        ],
    );
    check(
        &[0; 5000],
        expect![
            "not_audio: this is not audio: its beginning is of no known audio or video format; send an audio or video file such as wav, mp3, flac, ogg, m4a or mp4"
        ],
    );
    check(
        &[7],
        expect![
            "not_audio: this is not audio: its beginning is of no known audio or video format; send an audio or video file such as wav, mp3, flac, ogg, m4a or mp4"
        ],
    );
    check(
        b"#!AMR\n\x3c\x91\x17\x16\xbe",
        expect![
            "unsupported_codec: AMR audio cannot be decoded here: install ffmpeg and enable it for the decode stage (`voiceforge up --ffmpeg auto`), or convert the file first, for example to flac or mp3"
        ],
    );
}

/// Bytes from a fixed generator.
fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    (0..len)
        .map(|_| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 24) as u8
        })
        .collect()
}

#[test]
fn random_bytes_are_not_audio() {
    for seed in 1..20 {
        match run_bytes(&noise(100_000, seed), DecodeOptions::default()) {
            Err(error) => {
                assert!(matches!(error.code(), "not_audio" | "damaged" | "unsupported_codec"), "{error}")
            }
            Ok((parts, summary)) => panic!("{} parts, {summary:?}", parts.len()),
        }
    }
}

#[test]
fn a_header_that_lies() {
    let hours = run_bytes(
        &[wav_header(16_000, 1, 0x7000_0000), vec![0; 64_000]].concat(),
        DecodeOptions { max_audio_ms: 3_600_000, ..Default::default() },
    );
    let (parts, summary) = hours.expect("two seconds are there");
    assert_eq!((parts.len(), summary.audio_ms, summary.truncated_at_ms), (0, 2_000, Some(2_000)));
    assert_eq!(summary.info.estimated_ms, Some(2_000), "as much as the file can hold");
    expect!["the header announces 58720.3 s, but the file ends after 2.0 s"]
        .assert_eq(&summary.truncated_reason.unwrap_or_default());

    // Written by a program that did not know the length: nothing is missing.
    for unknown in [0xffff_ffff, 0x7fff_ffff, 0] {
        let (_, summary) =
            run_bytes(&[wav_header(8_000, 2, unknown), vec![0; 64_000]].concat(), DecodeOptions::default())
                .expect("two seconds are there");
        assert_eq!((summary.audio_ms, summary.truncated_at_ms), (2_000, None), "{unknown:x}");
    }
}

#[test]
fn impossible_rates() {
    for rate in [1, 999, 900_000, u32::MAX / 4] {
        let error =
            run_bytes(&[wav_header(rate, 1, 64_000), vec![0; 64_000]].concat(), DecodeOptions::default())
                .expect_err("no recording has this rate");
        assert_eq!(error.code(), "unsupported", "{error}");
    }
}

#[test]
fn silence_gives_no_segments() {
    let (parts, summary) =
        run_bytes(&[wav_header(44_100, 2, 1_764_000), vec![0; 1_764_000]].concat(), DecodeOptions::default())
            .expect("silence is a recording");
    assert_eq!((parts.len(), summary.audio_ms, summary.speech_ms), (0, 10_000, 0));
    assert_eq!((summary.segments, summary.truncated_at_ms), (vec![0], None));
}

/// A file of silence as long as you like that takes no room.
struct Silence {
    header: Vec<u8>,
    len: u64,
    pos: u64,
}

impl Silence {
    fn new(rate: u32, seconds: u32) -> Silence {
        let header = wav_header(rate, 1, rate * 2 * seconds);
        let len = header.len() as u64 + u64::from(rate) * 2 * u64::from(seconds);
        Silence { header, len, pos: 0 }
    }
}

impl Read for Silence {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = (self.len - self.pos).min(buf.len() as u64) as usize;
        for (n, byte) in buf[..len].iter_mut().enumerate() {
            *byte = self.header.get(self.pos as usize + n).copied().unwrap_or(0);
        }
        self.pos += len as u64;
        Ok(len)
    }
}

impl Seek for Silence {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(pos) => pos as i64,
            SeekFrom::End(by) => self.len as i64 + by,
            SeekFrom::Current(by) => self.pos as i64 + by,
        };
        self.pos = u64::try_from(target).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(self.pos)
    }
}

#[test]
fn ten_hours_of_silence() {
    let options = DecodeOptions { max_audio_ms: 12 * 3_600_000, ..Default::default() };
    let decoder = Decoder::open(Silence::new(8_000, 36_000), options).expect("silence is a recording");
    assert_eq!(decoder.progress().estimated_ms, Some(36_000_000));
    let (parts, summary) = finish(decoder).expect("silence can be decoded");
    assert_eq!((parts.len(), summary.audio_ms), (0, 36_000_000));
    assert!(peak_memory_mib() < 500, "{} MiB", peak_memory_mib());
}

#[test]
fn over_the_limit() {
    let options = DecodeOptions { max_audio_ms: 3_600_000, ..Default::default() };
    let early = Decoder::open(Silence::new(16_000, 7_200), options.clone()).map(|_| ());
    check_error(
        early.expect_err("two hours are too long"),
        expect![
            "too_long: the recording is longer than the limit of 60 minutes: split it, or raise the limit"
        ],
    );
    // A header that admits to nothing: found out while decoding.
    let mut silent = Silence::new(16_000, 7_200);
    let unknown = silent.header.len() - 4..silent.header.len();
    silent.header[unknown].fill(0xff);
    assert_eq!(run(silent, options).expect_err("two hours are too long").code(), "too_long");
}

#[test]
fn cut_in_half() {
    let Some(studio) = studio("cut_in_half") else { return };
    for (args, name) in [
        (&["-c:a", "pcm_s16le"][..], "half.wav"),
        (&["-c:a", "pcm_s24be"], "half.aiff"),
        (&["-c:a", "pcm_f32be"], "half.caf"),
        (&["-c:a", "flac"], "half.flac"),
        (&["-c:a", "libmp3lame"], "half.mp3"),
        (&["-c:a", "libopus"], "half.ogg"),
        (&["-c:a", "aac", "-movflags", "faststart"], "half.m4a"),
        (&["-c:a", "libvorbis"], "half.mkv"),
    ] {
        let Some(bytes) = studio.bytes(args, name) else { continue };
        let (parts, summary) = run_bytes(&bytes[..bytes.len() / 2], DecodeOptions::default())
            .unwrap_or_else(|e| panic!("{name}: half of it is there, {e}"));
        assert!(!parts.is_empty(), "{name}");
        assert!((5_000..9_000).contains(&summary.audio_ms), "{name}: {}", summary.audio_ms);
        assert_eq!(summary.truncated_at_ms, Some(summary.audio_ms), "{name}");
        assert!(summary.truncated_reason.is_some_and(|r| !r.is_empty()), "{name}");
    }
    // The table of contents stands at the end of this one: nothing can be found.
    if let Some(bytes) = studio.bytes(&["-c:a", "aac"], "headless.m4a") {
        let error =
            run_bytes(&bytes[..bytes.len() / 2], DecodeOptions::default()).expect_err("no table of contents");
        assert_eq!(error.code(), "damaged", "{error}");
    }
}

/// A wav of 32-bit floats, two channels at 48 kHz.
fn float_wav(samples: &[f32]) -> Vec<u8> {
    let mut bytes = wav_header(48_000, 2, 4 * samples.len() as u32);
    bytes[20] = 3;
    bytes[28..32].copy_from_slice(&(48_000u32 * 8).to_le_bytes());
    bytes[32..36].copy_from_slice(&[8, 0, 32, 0]);
    bytes.extend(samples.iter().flat_map(|x| x.to_le_bytes()));
    bytes
}

/// Speech in floats, which may hold what is no number, and numbers that no sound has.
#[test]
fn floats_that_are_no_sound_are_silence() {
    let Some(studio) = studio("floats_that_are_no_sound_are_silence") else { return };
    let clip = std::fs::read(&studio.clip).expect("the clip was made");
    let start = clip.windows(4).position(|name| name == b"data").expect("a wav has data") + 8;
    let speech: Vec<f32> = clip[start..]
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from(i16::from_le_bytes(*bytes)) / 32_768.0)
        .collect();
    let behind = |second: f32| [&[second; 96_000][..], &speech].concat();
    let read = |samples: &[f32]| {
        let (parts, summary) = run_bytes(&float_wav(samples), DecodeOptions::default()).expect("it is a wav");
        assert_eq!(summary.audio_ms, 15_000);
        parts
    };
    let clean = read(&behind(0.0));
    assert!(!clean.is_empty(), "there is speech in it");
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_eq!(read(&behind(bad)), clean, "{bad} is silence");
        // In the middle of speech too.
        let mut holes = behind(0.0);
        let mut silent = holes.clone();
        (150_000..holes.len()).step_by(9_001).for_each(|at| (holes[at], silent[at]) = (bad, 0.0));
        assert_eq!(read(&holes), read(&silent), "{bad} is silence");
    }
    // The sum of both channels would be infinite; what comes a second later is heard.
    let loud = read(&behind(f32::MAX));
    assert_eq!(loud.last().map(|part| part.end_sample), clean.last().map(|part| part.end_sample));
}

#[test]
fn what_follows_a_hole_keeps_its_time() {
    let Some(studio) = studio("what_follows_a_hole_keeps_its_time") else { return };
    for (args, name) in [
        (&["-c:a", "libvorbis"][..], "hole.ogg"),
        (&["-c:a", "libopus"], "hole.opus"),
        (&["-c:a", "flac"], "hole.flac"),
    ] {
        let Some(mut bytes) = studio.bytes(args, name) else { continue };
        let (whole, summary) = run_bytes(&bytes, DecodeOptions::default()).expect("the file is fine");
        let at = bytes.len() / 3;
        bytes.drain(at..at + 4_000);
        let (holed, after) = run_bytes(&bytes, DecodeOptions::default()).expect("most of it is there");
        assert!(
            summary.audio_ms.abs_diff(after.audio_ms) < 300,
            "{name}: {} {}",
            summary.audio_ms,
            after.audio_ms
        );
        let end = |parts: &[decode::Part]| parts.last().map_or(0, |part| part.end_ms());
        assert!(end(&whole).abs_diff(end(&holed)) < 300, "{name}: {} {}", end(&whole), end(&holed));
    }
}

#[test]
fn video_without_sound() {
    let Some(studio) = studio("video_without_sound") else { return };
    for (name, video, container) in [("mute.mp4", "mpeg4", "mp4"), ("mute.webm", "libvpx", "mkv")] {
        let path = studio.path(name);
        let args = ["-f", "lavfi", "-i", "testsrc=d=1:r=10:s=160x120", "-c:v", video];
        ffmpeg(std::process::Command::new("ffmpeg").args(args).arg(&path));
        for ffmpeg in [None, Ffmpeg::find()] {
            let error = run_file(&path, DecodeOptions { ffmpeg, ..Default::default() }).expect_err("mute");
            assert_eq!(error.code(), "no_audio_track");
            assert!(error.to_string().contains(container), "{error}");
        }
    }
}

#[test]
fn wrong_extension() {
    let Some(studio) = studio("wrong_extension") else { return };
    let truth = run_file(&studio.clip, DecodeOptions::default()).expect("the clip is fine");
    for name in ["talk.mp3", "talk.mp4", "talk.ogg", "talk.txt", "talk", "talk.mkv.flac", ".aac"] {
        let path = studio.path(name);
        std::fs::copy(&studio.clip, &path).expect("the folder is ours");
        assert!(run_file(&path, DecodeOptions::default()).expect("the content decides") == truth, "{name}");
    }
}

#[test]
fn too_many_channels_for_each() {
    let bytes = [wav_header(8_000, 12, 96_000), vec![0; 96_000]].concat();
    let error = run_bytes(&bytes, DecodeOptions { channels: Channels::Each, ..Default::default() });
    check_error(
        error.expect_err("twelve lanes are too many"),
        expect![
            "unsupported: 12 channels cannot be transcribed each for itself: mix them, or send at most 8"
        ],
    );
}

/// Gives its first bytes, then fails as a store does whose network is gone.
struct Failing {
    bytes: io::Cursor<Vec<u8>>,
    good: u64,
}

impl Read for Failing {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.bytes.position() >= self.good {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, "the store hung up"));
        }
        let len = buf.len().min((self.good - self.bytes.position()) as usize);
        self.bytes.read(&mut buf[..len])
    }
}

impl Seek for Failing {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.bytes.seek(to)
    }
}

#[test]
fn a_failing_source_is_not_a_broken_recording() {
    let bytes = [wav_header(8_000, 1, 800_000), vec![0; 800_000]].concat();
    for good in [0, 10, 44, 5_000, 100_000, 799_000] {
        let source = Failing { bytes: io::Cursor::new(bytes.clone()), good };
        let error = run(source, DecodeOptions::default()).expect_err("the store hung up");
        assert_eq!(error.code(), "source_failed", "after {good} bytes: {error}");
        assert!(error.is_retryable());
    }
}

#[test]
fn ffmpeg_under_limits() {
    let Some(studio) = studio("ffmpeg_under_limits") else { return };
    let Some(path) = studio.convert(&["-c:a", "ac3"], "limits.ac3") else { return };
    let ffmpeg = Ffmpeg::find().expect("ffmpeg is on the path");
    for (limited, says) in [
        (Ffmpeg { memory_bytes: 8 << 20, ..ffmpeg.clone() }, ""),
        (Ffmpeg { wall: std::time::Duration::ZERO, ..ffmpeg.clone() }, "too long"),
        (Ffmpeg { input_bytes_max: 1000, ..ffmpeg.clone() }, "not handed"),
        (Ffmpeg { program: "/nowhere/ffmpeg".into(), ..ffmpeg.clone() }, "not found"),
    ] {
        let error = run_file(&path, DecodeOptions { ffmpeg: Some(limited), ..Default::default() })
            .expect_err("limited");
        assert_eq!(error.code(), "ffmpeg_failed", "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    let garbage = [b"#!AMR\n".to_vec(), noise(3_000, 5)].concat();
    match run_bytes(&garbage, DecodeOptions { ffmpeg: Some(ffmpeg), ..Default::default() }) {
        Ok((_, summary)) => assert!(summary.audio_ms < 60_000),
        Err(error) => assert_eq!(error.code(), "ffmpeg_failed", "{error}"),
    }
}
