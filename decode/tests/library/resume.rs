//! A run that is continued from any of its parts gives what the run that was never interrupted gives, bit for bit.

use std::path::PathBuf;

use decode::{Channels, Cursor, DecodeOptions, Decoder, Ffmpeg, Part, Step, Summary};

use crate::make::studio;
use crate::run::{finish, run_bytes};

/// Compares a run resumed after each part with the rest of the whole run.
fn check(bytes: &[u8], options: &DecodeOptions, parts_min: usize) -> (Vec<Part>, Summary) {
    let (whole, summary) = run_bytes(bytes, options.clone()).expect("the file is fine");
    assert!(whole.len() >= parts_min, "{} parts", whole.len());
    for (n, part) in whole.iter().enumerate() {
        // The cursor goes through the store as JSON.
        let stored = serde_json::to_string(&part.cursor).expect("a cursor is plain data");
        let cursor: Cursor = serde_json::from_str(&stored).expect("what was written can be read");
        let source = std::io::Cursor::new(bytes.to_vec());
        let resumed = Decoder::resume(source, options.clone(), &cursor).expect("the file is fine");
        let (rest, end) = finish(resumed).expect("the file is fine");
        assert!(rest == whole[n + 1..], "after part {n} of {}", whole.len());
        assert_eq!(end, summary, "after part {n}");
    }
    (whole, summary)
}

/// What holds for the parts of every run.
fn check_order(parts: &[Part], options: &DecodeOptions) {
    let mut next = std::collections::HashMap::new();
    for part in parts {
        let (index, sample) = next.entry(part.channel).or_insert((0, 0));
        assert_eq!(part.index, *index);
        assert!(part.start_sample >= *sample, "parts do not overlap");
        assert_eq!(part.pcm.len() as u64, part.end_sample - part.start_sample);
        assert!(part.pcm.len() as u64 <= u64::from(options.max_segment_ms) * 16);
        (*index, *sample) = (part.index + 1, part.end_sample);
        let at = part.cursor.channels[usize::from(part.channel)];
        assert_eq!((at.next_index, at.next_sample), (*index, *sample));
    }
}

/// The clip three times over, as bytes of a format.
fn long(args: &[&str], name: &str) -> Option<Vec<u8>> {
    let studio = studio("resume")?;
    studio.bytes(&[&["-af", "aloop=loop=2:size=672000"], args].concat(), name)
}

#[test]
fn after_any_part() {
    for (args, name) in [
        (&["-c:a", "flac"][..], "resume.flac"),
        (&["-c:a", "libmp3lame", "-ar", "44100"], "resume.mp3"),
        (&["-c:a", "libopus"], "resume.webm"),
        (&["-c:a", "aac"], "resume.m4a"),
    ] {
        let Some(bytes) = long(args, name) else { return };
        // Every way to cut for one format; the others differ in how the sound is read.
        let lossless = name.ends_with("flac");
        for channels in [Channels::Mix, Channels::Each] {
            for max_segment_ms in if lossless { &[30_000, 4_000, 1_300][..] } else { &[10_000] } {
                let max_segment_ms = *max_segment_ms;
                let options = DecodeOptions { channels, max_segment_ms, ..Default::default() };
                let (parts, _) = check(&bytes, &options, 3);
                check_order(&parts, &options);
            }
        }
    }
}

#[test]
fn with_the_end_cut_off() {
    let Some(bytes) = long(&["-c:a", "libvorbis"], "resume.ogg") else { return };
    let (_, summary) = check(&bytes[..bytes.len() / 3 * 2], &DecodeOptions::default(), 2);
    assert!(summary.truncated_at_ms.is_some());
}

#[test]
fn through_ffmpeg() {
    let Some(bytes) = long(&["-c:a", "ac3"], "resume.ac3") else { return };
    check(&bytes, &DecodeOptions { ffmpeg: Ffmpeg::find(), ..Default::default() }, 2);
}

#[test]
fn of_real_speech() {
    let Some(dir) = std::env::var_os("VOICEFORGE_TEST_CLIPS").map(PathBuf::from) else {
        eprintln!("skipped: VOICEFORGE_TEST_CLIPS is not set");
        return;
    };
    let mut tried = 0;
    for entry in dir.read_dir().expect("the folder of clips can be read").flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|ext| ext == "txt") {
            continue;
        }
        let bytes = std::fs::read(&path).expect("a clip can be read");
        for max_segment_ms in [30_000, 2_000] {
            let options = DecodeOptions { max_segment_ms, ..Default::default() };
            let (parts, _) = check(&bytes, &options, 1);
            check_order(&parts, &options);
        }
        tried += 1;
        if tried == 12 {
            break;
        }
    }
    assert!(tried > 0, "there are no clips in {dir:?}");
}

#[test]
fn a_cursor_that_does_not_fit() {
    let Some(bytes) = long(&["-c:a", "flac"], "misfit.flac") else { return };
    let (parts, _) = run_bytes(&bytes, DecodeOptions::default()).expect("the file is fine");
    let fits = parts[0].cursor.clone();
    let source = || std::io::Cursor::new(bytes.clone());
    for (cursor, channels) in [
        (Cursor { version: fits.version + 1, ..fits.clone() }, Channels::Mix),
        (Cursor { channels: Vec::new(), ..fits.clone() }, Channels::Mix),
        (fits.clone(), Channels::Each),
    ] {
        let options = DecodeOptions { channels, ..Default::default() };
        let error = Decoder::resume(source(), options, &cursor).map(|_| ()).expect_err("it does not fit");
        assert_eq!(error.code(), "cursor_mismatch", "{error}");
    }
}

#[test]
fn parts_come_while_the_file_is_still_being_read() {
    let Some(bytes) = long(&["-c:a", "flac"], "early.flac") else { return };
    let mut decoder =
        Decoder::open(std::io::Cursor::new(bytes), DecodeOptions::default()).expect("the file is fine");
    let total = decoder.progress().estimated_ms.expect("flac knows its length");
    loop {
        match decoder.step().expect("the file is fine") {
            Step::Part(part) => {
                let decoded = decoder.progress().decoded_ms;
                assert!(decoded < total / 2, "the first part came after {decoded} of {total} ms");
                assert!(decoded - part.end_ms() < 3_000, "{} ms after its end", decoded - part.end_ms());
                return;
            }
            Step::Working => {}
            Step::End(summary) => panic!("no speech: {summary:?}"),
        }
    }
}
