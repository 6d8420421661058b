//! Real files in the codecs of phones and broadcasters, which few machines can make. All hold the same sentence.

use std::path::{Path, PathBuf};

use decode::{DecodeOptions, Ffmpeg, Part};

use crate::formats::{SAME, compare, mix};
use crate::make::reference;
use crate::run::run_file;

/// What only ffmpeg decodes: the file, its codec by name, and the rate of its sound in Hz.
const FOREIGN: [(&str, &str, u32); 8] = [
    ("nb.amr", "AMR", 8_000),
    ("nb.3gp", "AMR", 8_000),
    ("wb.amr", "AMR-WB", 16_000),
    ("he.aac", "HE-AAC", 24_000),
    ("he-implicit.m4a", "HE-AAC", 24_000),
    ("he-compatible.m4a", "HE-AAC", 24_000),
    ("he-explicit.m4a", "HE-AAC", 24_000),
    ("he-v2.aac", "HE-AAC", 24_000),
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

#[test]
fn without_ffmpeg_they_are_refused_by_name() {
    for (name, codec, _) in FOREIGN {
        let error = run_file(&fixture(name), DecodeOptions::default()).expect_err("not built in");
        assert_eq!(error.code(), "unsupported_codec", "{name}: {error}");
        let told = error.to_string();
        assert!(told.starts_with(&format!("{codec} audio cannot be decoded here")), "{name}: {told}");
        assert!(told.contains("install ffmpeg") && told.contains("convert the file"), "{name}: {told}");
    }
}

#[test]
fn through_ffmpeg_they_say_the_sentence() {
    let Some(ffmpeg) = Ffmpeg::find() else {
        eprintln!("skipped: through_ffmpeg_they_say_the_sentence needs ffmpeg");
        return;
    };
    // This one is decoded without ffmpeg: its speech is the measure of the others.
    let (plain, summary) =
        run_file(&fixture("lc.m4a"), DecodeOptions::default()).expect("AAC-LC is built in");
    assert_eq!((summary.info.decoder.as_str(), summary.info.source_rate), ("symphonia", 24_000));
    for (name, _, rate) in FOREIGN {
        let options = DecodeOptions { ffmpeg: Some(ffmpeg.clone()), ..Default::default() };
        let (parts, summary) = run_file(&fixture(name), options).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((summary.info.decoder.as_str(), summary.info.source_rate), ("ffmpeg", rate), "{name}");
        // The sentence takes 3290 ms; how much silence stands around it depends on who counts the encoder's delay.
        assert!((3_100..=3_700).contains(&summary.audio_ms), "{name}: {} ms", summary.audio_ms);
        let filter = mix(usize::from(summary.info.source_channels));
        compare(name, &parts, summary.audio_ms, &reference(&fixture(name), &filter), &SAME);
        let likeness = likeness(&loudness(&plain), &loudness(&parts));
        assert!(likeness > 0.9, "{name}: its loudness follows the sentence by {likeness:.3} only");
    }
}

/// Root mean squares of 20 ms each, on the recording's clock.
fn loudness(parts: &[Part]) -> Vec<f64> {
    const FRAME: usize = 320;
    let end = parts.iter().map(|part| part.start_sample as usize + part.pcm.len()).max().unwrap_or(0);
    let mut sound = vec![0.0; end.next_multiple_of(FRAME)];
    for part in parts {
        let start = part.start_sample as usize;
        for (at, &sample) in part.pcm.iter().enumerate() {
            sound[start + at] = f64::from(sample);
        }
    }
    let rms = |frame: &[f64]| (frame.iter().map(|x| x * x).sum::<f64>() / FRAME as f64).sqrt();
    sound.chunks_exact(FRAME).map(rms).collect()
}

/// The correlation of two curves at the best shift. ADTS does not tell the encoder's delay; that of HE-AAC v2 is
/// 340 ms longer than that of AAC-LC.
fn likeness(a: &[f64], b: &[f64]) -> f64 {
    let shifted =
        |by: usize| correlation(&a[by.min(a.len())..], b).max(correlation(a, &b[by.min(b.len())..]));
    (0..=20).map(shifted).fold(f64::MIN, f64::max)
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let mean = |x: &[f64]| x.iter().sum::<f64>() / n.max(1) as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (x - mean_a, y - mean_b);
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    ab / (aa * bb).sqrt().max(f64::MIN_POSITIVE)
}
