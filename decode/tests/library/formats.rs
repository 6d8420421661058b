//! Every format, sample by sample against ffmpeg's own decoding of the same file.

use decode::{Channels, DecodeOptions, Ffmpeg, Part};

use crate::make::{Studio, ffmpeg, reference, studio};
use crate::run::run_file;

/// The mean of n channels.
pub fn mix(channels: usize) -> String {
    let terms: Vec<_> = (0..channels).map(|c| format!("{}*c{c}", 1.0 / channels as f64)).collect();
    format!("pan=mono|c0={}", terms.join("+"))
}

/// How far two decodings of one file may lie apart.
pub struct Tolerance {
    /// Difference over signal, both rms, at the best whole-sample shift.
    difference: f64,
    /// The shift in samples at 16 kHz.
    shift: i64,
    /// Length in milliseconds.
    length_ms: i64,
}

/// The same sound: what differs is rounding and the slope of the two resamplers' filters just below 8 kHz.
pub const SAME: Tolerance = Tolerance { difference: 0.05, shift: 0, length_ms: 1 };
/// The padding at the end is not cut off (the container does not say where it begins), up to two packets.
const PADDED: Tolerance = Tolerance { difference: 0.05, shift: 0, length_ms: 60 };
/// Times in whole milliseconds: the run-in is cut to the nearest.
const MILLISECONDS: Tolerance = Tolerance { difference: 0.25, shift: 8, length_ms: 60 };

fn check(
    studio: &Studio,
    args: &[&str],
    name: &str,
    channels: usize,
    expect: (&str, &str),
    tolerance: &Tolerance,
) {
    let Some(path) = studio.convert(args, name) else { return };
    let (parts, summary) =
        run_file(&path, DecodeOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!((summary.info.container.as_str(), summary.info.codec.as_str()), expect, "{name}");
    assert_eq!(usize::from(summary.info.source_channels), channels, "{name}");
    assert_eq!(summary.truncated_reason, None, "{name}");
    assert_eq!(summary.damaged_packets, 0, "{name}");
    compare(name, &parts, summary.audio_ms, &reference(&path, &mix(channels)), tolerance);
}

/// The parts are the speech of the reference: same place, same sound.
pub fn compare(name: &str, parts: &[Part], audio_ms: u64, reference: &[i16], tolerance: &Tolerance) {
    assert!(!parts.is_empty(), "{name}: no speech found");
    let longer_ms = audio_ms as i64 - reference.len() as i64 / 16;
    assert!(longer_ms.abs() <= tolerance.length_ms, "{name}: {longer_ms} ms longer than ffmpeg's");
    for part in parts {
        let (difference, shift) = (-16..=16)
            .map(|shift| (difference(part, reference, shift), shift))
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .expect("some shifts were tried");
        assert!(
            difference <= tolerance.difference && shift.abs() <= tolerance.shift,
            "{name}: part {} differs by {difference:.4} at shift {shift}",
            part.index
        );
    }
}

fn difference(part: &Part, reference: &[i16], shift: i64) -> f64 {
    let (mut noise, mut signal) = (0.0, 0.0);
    for (n, &sample) in part.pcm.iter().enumerate() {
        let at = part.start_sample as i64 + n as i64 + shift;
        let Some(&other) = usize::try_from(at).ok().and_then(|at| reference.get(at)) else { continue };
        noise += (f64::from(sample) - f64::from(other)).powi(2);
        signal += f64::from(other).powi(2);
    }
    (noise / signal.max(1.0)).sqrt()
}

#[test]
fn wav() {
    let Some(studio) = studio("wav") else { return };
    for codec in ["u8", "s16le", "s24le", "s32le", "f32le", "f64le"] {
        check(studio, &["-c:a", &format!("pcm_{codec}")], &format!("{codec}.wav"), 2, ("wav", "PCM"), &SAME);
    }
    check(studio, &["-c:a", "pcm_alaw"], "alaw.wav", 2, ("wav", "A-law"), &SAME);
    check(studio, &["-c:a", "pcm_mulaw"], "mulaw.wav", 2, ("wav", "mu-law"), &SAME);
    check(studio, &["-rf64", "always"], "rf64.wav", 2, ("wav", "PCM"), &SAME);
    check(studio, &["-c:a", "adpcm_ms"], "ms.wav", 2, ("wav", "MS ADPCM"), &PADDED);
    check(studio, &["-c:a", "adpcm_ima_wav"], "ima.wav", 2, ("wav", "IMA ADPCM"), &PADDED);
}

#[test]
fn aiff_and_caf() {
    let Some(studio) = studio("aiff_and_caf") else { return };
    for codec in ["s16be", "s24be", "s32be", "f32be"] {
        let codec = format!("pcm_{codec}");
        check(studio, &["-c:a", &codec, "-f", "aiff"], &format!("{codec}.aiff"), 2, ("aiff", "PCM"), &SAME);
        check(studio, &["-c:a", &codec], &format!("{codec}.caf"), 2, ("caf", "PCM"), &SAME);
    }
    check(studio, &["-c:a", "pcm_s16le", "-f", "aiff"], "sowt.aifc", 2, ("aiff", "PCM"), &SAME);
    check(studio, &["-c:a", "pcm_mulaw", "-f", "aiff"], "mulaw.aifc", 2, ("aiff", "mu-law"), &SAME);
    check(studio, &["-c:a", "pcm_mulaw"], "mulaw.caf", 2, ("caf", "mu-law"), &SAME);
    check(studio, &["-c:a", "pcm_alaw"], "alaw.caf", 2, ("caf", "A-law"), &SAME);
    check(studio, &["-c:a", "alac"], "alac.caf", 2, ("caf", "ALAC"), &PADDED);
    check(studio, &["-c:a", "libopus"], "opus.caf", 2, ("caf", "Opus"), &PADDED);
}

#[test]
fn flac_and_alac() {
    let Some(studio) = studio("flac_and_alac") else { return };
    check(studio, &["-c:a", "flac"], "a.flac", 2, ("flac", "FLAC"), &SAME);
    check(studio, &["-c:a", "flac"], "flac.ogg", 2, ("ogg", "FLAC"), &SAME);
    check(studio, &["-c:a", "flac"], "flac.mkv", 2, ("mkv", "FLAC"), &SAME);
    check(studio, &["-c:a", "flac", "-strict", "-2"], "flac.mp4", 2, ("mp4", "FLAC"), &SAME);
    check(studio, &["-c:a", "alac"], "alac.m4a", 2, ("mp4", "ALAC"), &SAME);
}

#[test]
fn mpeg_audio() {
    let Some(studio) = studio("mpeg_audio") else { return };
    check(studio, &["-c:a", "mp2", "-b:a", "192k"], "a.mp2", 2, ("mp2", "MP2"), &PADDED);
    check(studio, &["-c:a", "libmp3lame", "-b:a", "128k"], "cbr.mp3", 2, ("mp3", "MP3"), &SAME);
    check(studio, &["-c:a", "libmp3lame", "-q:a", "5"], "vbr.mp3", 2, ("mp3", "MP3"), &SAME);
    check(studio, &["-c:a", "libmp3lame", "-write_xing", "0"], "bare.mp3", 2, ("mp3", "MP3"), &PADDED);
    check(studio, &["-c:a", "libmp3lame"], "mp3.mp4", 2, ("mp4", "MP3"), &PADDED);
    check(studio, &["-c:a", "libmp3lame"], "mp3.mkv", 2, ("mkv", "MP3"), &MILLISECONDS);
}

#[test]
fn vorbis_and_opus() {
    let Some(studio) = studio("vorbis_and_opus") else { return };
    check(studio, &["-c:a", "libvorbis"], "vorbis.ogg", 2, ("ogg", "Vorbis"), &SAME);
    check(studio, &["-c:a", "libvorbis"], "vorbis.webm", 2, ("mkv", "Vorbis"), &PADDED);
    check(studio, &["-c:a", "libopus"], "opus.ogg", 2, ("ogg", "Opus"), &SAME);
    check(studio, &["-c:a", "libopus", "-ac", "1", "-b:a", "16k"], "voice.opus", 1, ("ogg", "Opus"), &SAME);
    check(studio, &["-c:a", "libopus"], "opus.webm", 2, ("mkv", "Opus"), &PADDED);
    check(studio, &["-c:a", "libopus"], "opus.mkv", 2, ("mkv", "Opus"), &PADDED);
    check(studio, &["-c:a", "libopus", "-strict", "-2"], "opus.mp4", 2, ("mp4", "Opus"), &PADDED);
}

#[test]
fn aac() {
    let Some(studio) = studio("aac") else { return };
    check(studio, &["-c:a", "aac"], "a.aac", 2, ("aac", "AAC"), &PADDED);
    check(studio, &["-c:a", "aac"], "aac.m4a", 2, ("mp4", "AAC"), &PADDED);
    check(studio, &["-c:a", "aac"], "aac.mov", 2, ("mp4", "AAC"), &PADDED);
    check(
        studio,
        &["-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"],
        "frag.mp4",
        2,
        ("mp4", "AAC"),
        &PADDED,
    );
    check(studio, &["-c:a", "aac", "-movflags", "faststart"], "fast.m4a", 2, ("mp4", "AAC"), &PADDED);
    check(studio, &["-c:a", "aac"], "aac.mkv", 2, ("mkv", "AAC"), &MILLISECONDS);
}

#[test]
fn sound_tracks_of_videos() {
    let Some(studio) = studio("sound_tracks_of_videos") else { return };
    for (name, video, sound, codec) in [
        ("video.mp4", "mpeg4", "aac", ("mp4", "AAC")),
        ("video.mov", "mpeg4", "pcm_s16le", ("mp4", "PCM")),
        ("video.mkv", "mpeg4", "libvorbis", ("mkv", "Vorbis")),
        ("video.webm", "libvpx", "libopus", ("mkv", "Opus")),
    ] {
        let path = studio.path(name);
        ffmpeg(
            std::process::Command::new("ffmpeg")
                .args(["-f", "lavfi", "-i", "testsrc=d=14:r=10:s=160x120", "-i"])
                .arg(&studio.clip)
                .args(["-c:v", video, "-c:a", sound, "-shortest"])
                .arg(&path),
        );
        let (parts, summary) =
            run_file(&path, DecodeOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((summary.info.container.as_str(), summary.info.codec.as_str()), codec);
        compare(name, &parts, summary.audio_ms, &reference(&path, &mix(2)), &PADDED);
    }
}

#[test]
fn rates_and_channels() {
    let Some(studio) = studio("rates_and_channels") else { return };
    for rate in [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 88200, 96000, 176400, 192000] {
        let rate = rate.to_string();
        check(studio, &["-ar", &rate], &format!("{rate}.wav"), 2, ("wav", "PCM"), &SAME);
    }
    check(studio, &["-ar", "8000", "-ac", "1"], "phone.mp3", 1, ("mp3", "MP3"), &SAME);
    check(studio, &["-ar", "16000", "-ac", "1"], "16k.aac", 1, ("aac", "AAC"), &PADDED);
    for channels in [1, 3, 4, 5, 6, 8] {
        let (n, name) = (channels.to_string(), format!("{channels}.flac"));
        check(studio, &["-ac", &n, "-c:a", "flac"], &name, channels, ("flac", "FLAC"), &SAME);
    }
    check(studio, &["-ac", "6", "-c:a", "libopus"], "six.opus", 6, ("ogg", "Opus"), &SAME);
    check(studio, &["-ac", "6", "-c:a", "libvorbis"], "six.ogg", 6, ("ogg", "Vorbis"), &SAME);
}

#[test]
fn each_channel_for_itself() {
    let Some(studio) = studio("each_channel_for_itself") else { return };
    let Some(path) = studio.convert(&["-c:a", "flac"], "each.flac") else { return };
    let options = DecodeOptions { channels: Channels::Each, ..Default::default() };
    let (parts, summary) = run_file(&path, options).expect("flac can be decoded");
    assert_eq!(summary.info.channels, 2);
    for channel in 0..2 {
        let own: Vec<_> = parts.iter().filter(|p| p.channel == channel).cloned().collect();
        assert_eq!(own.len(), summary.segments[usize::from(channel)] as usize);
        let only = reference(&path, &format!("pan=mono|c0=c{channel}"));
        compare(&format!("channel {channel}"), &own, summary.audio_ms, &only, &SAME);
    }
    // The right channel is silent for its first two seconds, the left is not.
    let start =
        |channel| parts.iter().find(|p| p.channel == channel).map(|p| p.start_ms()).expect("both speak");
    assert!(start(0) < 500 && start(1) > 2000, "{} {}", start(0), start(1));
}

#[test]
fn through_ffmpeg() {
    let Some(studio) = studio("through_ffmpeg") else { return };
    let ffmpeg = Ffmpeg::find().expect("ffmpeg is on the path");
    for (args, name, codec) in [
        (&["-c:a", "ac3"][..], "a.ac3", "AC-3"),
        (&["-c:a", "ac3"], "ac3.mkv", "AC-3"),
        (&["-c:a", "wmav2"], "a.wma", "WMA (ASF)"),
        (&["-c:a", "libspeex", "-ar", "16000", "-ac", "1"], "a.spx", "Speex"),
        (&["-c:a", "wavpack"], "a.wv", "WavPack"),
        (&["-c:a", "pcm_s16be"], "a.au", "AU"),
        (&["-c:a", "libgsm_ms", "-ar", "8000", "-ac", "1", "-f", "wav"], "gsm.wav", "GSM 6.10"),
        (&["-c:a", "g722", "-ar", "16000", "-ac", "1"], "g722.wav", "G.722"),
        (&["-c:a", "libmp3lame", "-f", "wav"], "mp3.wav", "MP3 in wav"),
        (&["-c:a", "aac", "-ac", "6"], "six.m4a", "AAC of another kind than LC in mono or stereo"),
        (&["-c:a", "aac", "-f", "mpegts"], "a.ts", "MPEG transport stream"),
    ] {
        let Some(path) = studio.convert(args, name) else { continue };
        let refused = run_file(&path, DecodeOptions::default()).expect_err("not built in");
        assert_eq!(refused.code(), "unsupported_codec", "{name}: {refused}");
        assert!(
            refused.to_string().contains(codec) && refused.to_string().contains("ffmpeg"),
            "{name}: {refused}"
        );

        let options = DecodeOptions { ffmpeg: Some(ffmpeg.clone()), ..Default::default() };
        let (parts, summary) = run_file(&path, options).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(summary.info.decoder, "ffmpeg");
        let channels = usize::from(summary.info.source_channels);
        compare(name, &parts, summary.audio_ms, &reference(&path, &mix(channels)), &SAME);
    }
}
