//! What things are called, and what bytes look like at first sight.

use symphonia::core::codecs::audio::AudioCodecId;
use symphonia::core::codecs::audio::well_known as ids;
use symphonia::core::formats::FormatInfo;
use symphonia::core::formats::well_known as formats;

use crate::source::Handle;

/// Bytes at the start of a file that are looked at.
pub const HEAD_BYTES: usize = 4096;

/// The everyday name of a container.
pub fn container(info: &FormatInfo) -> &'static str {
    match info.format {
        formats::FORMAT_ID_WAVE => "wav",
        formats::FORMAT_ID_AIFF => "aiff",
        formats::FORMAT_ID_CAF => "caf",
        formats::FORMAT_ID_MP1 => "mp1",
        formats::FORMAT_ID_MP2 => "mp2",
        formats::FORMAT_ID_MP3 => "mp3",
        formats::FORMAT_ID_ADTS => "aac",
        formats::FORMAT_ID_OGG => "ogg",
        formats::FORMAT_ID_FLAC => "flac",
        formats::FORMAT_ID_ISOMP4 => "mp4",
        formats::FORMAT_ID_MKV => "mkv",
        _ => info.short_name,
    }
}

/// Whether a header of this container counts the frames of sound exactly, rather than estimating them.
pub fn counts_frames(container: &str) -> bool {
    matches!(container, "wav" | "aiff" | "caf" | "flac" | "mp4")
}

/// Whether packets of this container carry times of their own, rather than being counted by the reader.
pub fn keeps_clock(container: &str) -> bool {
    matches!(container, "ogg" | "flac" | "mkv" | "mp4")
}

/// Whether an mp3 file begins with a frame that tells how many there are; without it their number is a guess.
pub fn has_frame_count(handle: &Handle) -> bool {
    let id3_bytes = match handle.peek(0, 10).as_deref() {
        Ok([b'I', b'D', b'3', _, _, _, size @ ..]) => {
            10 + size.iter().fold(0, |sum, byte| sum << 7 | u64::from(byte & 0x7f))
        }
        _ => 0,
    };
    let first = handle.peek(id3_bytes, HEAD_BYTES).unwrap_or_default();
    first.windows(4).any(|w| matches!(w, b"Xing" | b"Info" | b"VBRI"))
}

/// The everyday name of a codec.
pub fn codec(id: AudioCodecId) -> String {
    let name = match id {
        ids::CODEC_ID_PCM_ALAW => "A-law",
        ids::CODEC_ID_PCM_MULAW => "mu-law",
        ids::CODEC_ID_ADPCM_G722 => "G.722",
        ids::CODEC_ID_ADPCM_G726 | ids::CODEC_ID_ADPCM_G726LE => "G.726",
        ids::CODEC_ID_ADPCM_MS => "MS ADPCM",
        ids::CODEC_ID_ADPCM_IMA_WAV | ids::CODEC_ID_ADPCM_IMA_QT => "IMA ADPCM",
        ids::CODEC_ID_VORBIS => "Vorbis",
        ids::CODEC_ID_OPUS => "Opus",
        ids::CODEC_ID_SPEEX => "Speex",
        ids::CODEC_ID_MUSEPACK => "Musepack",
        ids::CODEC_ID_MP1 => "MP1",
        ids::CODEC_ID_MP2 => "MP2",
        ids::CODEC_ID_MP3 => "MP3",
        ids::CODEC_ID_AAC => "AAC",
        ids::CODEC_ID_AC3 => "AC-3",
        ids::CODEC_ID_EAC3 => "E-AC-3",
        ids::CODEC_ID_AC4 => "AC-4",
        ids::CODEC_ID_DCA => "DTS",
        ids::CODEC_ID_TRUEHD => "TrueHD",
        ids::CODEC_ID_FLAC => "FLAC",
        ids::CODEC_ID_ALAC => "ALAC",
        ids::CODEC_ID_WAVPACK => "WavPack",
        ids::CODEC_ID_TTA => "TTA",
        ids::CODEC_ID_MONKEYS_AUDIO => "Monkey's Audio",
        other if (ids::CODEC_ID_PCM_S32LE..ids::CODEC_ID_PCM_ALAW).contains(&other) => "PCM",
        other => return format!("codec {other}"),
    };
    name.into()
}

/// The everyday name of a codec by its four characters in mp4.
pub fn fourcc(code: [u8; 4]) -> String {
    match &code {
        b"samr" => "AMR".into(),
        b"sawb" => "AMR-WB".into(),
        b"ac-3" => "AC-3".into(),
        b"ec-3" => "E-AC-3".into(),
        b"ac-4" => "AC-4".into(),
        b"dtsc" | b"dtse" | b"dtsh" | b"dtsl" => "DTS".into(),
        b"enca" => "encrypted (DRM protected)".into(),
        b"agsm" => "GSM".into(),
        b"QDM2" => "QDesign".into(),
        b"spex" => "Speex".into(),
        b"mp4a" => "MPEG-4".into(),
        other => format!("'{}'", other.escape_ascii()),
    }
}

/// What the bytes are when they are surely no audio.
pub fn not_audio(head: &[u8]) -> Option<String> {
    const KINDS: &[(&[u8], &str)] = &[
        (b"%PDF", "a PDF document"),
        (b"\x89PNG", "a PNG image"),
        (b"\xff\xd8\xff", "a JPEG image"),
        (b"GIF8", "a GIF image"),
        (b"PK\x03\x04", "a zip archive or office document"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"7z\xbc\xaf", "a 7z archive"),
        (b"Rar!", "a rar archive"),
        (b"\x7fELF", "a program"),
        (b"MZ\x90", "a program"),
        (b"SQLite format", "a database"),
        (b"MThd", "a MIDI file, which holds notes and no sound"),
    ];
    if let Some((_, kind)) = KINDS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Some(format!("it is {kind}"));
    }
    is_text(head).then(|| "it is text".into())
}

/// The name of a format that is audio or video, but that the built-in readers lack.
pub fn unsupported(head: &[u8]) -> Option<String> {
    const KINDS: &[(&[u8], &str)] = &[
        (b"#!AMR-WB", "AMR-WB"),
        (b"#!AMR", "AMR"),
        (b"\x0b\x77", "AC-3"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMA (ASF)"),
        (b"wvpk", "WavPack"),
        (b".snd", "AU"),
        (b"FLV\x01", "FLV"),
        (b".RMF", "RealMedia"),
        (b"MAC ", "Monkey's Audio"),
        (b"TTA", "TTA"),
        (b"MPCK", "Musepack"),
        (b"MP+", "Musepack"),
        (b"\x7f\xfe\x80\x01", "DTS"),
        (b"\0\0\x01\xba", "MPEG program stream"),
        (b"NIST_1A", "NIST SPHERE"),
        (b"Creative Voice", "Creative VOC"),
        (b"#!SILK", "SILK"),
        (b"\x02#!SILK", "SILK"),
        (b"riff\x2e\x91\xcf\x11", "Wave64"),
        (b"DSD ", "DSD"),
    ];
    if let Some((_, name)) = KINDS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Some((*name).into());
    }
    if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"AVI ") {
        return Some("AVI".into());
    }
    if head.starts_with(b"OggS") && head.get(28..36) == Some(b"Speex   ") {
        return Some("Speex".into());
    }
    let transport_stream = head.len() > 188 * 4 && (0..5).all(|n| head.get(n * 188) == Some(&0x47));
    if transport_stream {
        return Some("MPEG transport stream".into());
    }
    wave_codec(head)
}

/// The container that the beginning belongs to, if it is one of the built-in readers'.
pub fn looks_like(head: &[u8]) -> Option<&'static str> {
    let kind = head.get(4..8).unwrap_or_default();
    match head {
        _ if head.starts_with(b"RIFF") || head.starts_with(b"RF64") => Some("wav"),
        _ if head.starts_with(b"FORM") => Some("aiff"),
        _ if head.starts_with(b"caff") => Some("caf"),
        _ if head.starts_with(b"fLaC") => Some("flac"),
        _ if head.starts_with(b"OggS") => Some("ogg"),
        _ if head.starts_with(b"ID3") => Some("mp3"),
        _ if head.starts_with(b"\x1a\x45\xdf\xa3") => Some("mkv"),
        _ if matches!(kind, b"ftyp" | b"moov" | b"mdat" | b"wide" | b"free" | b"skip") => Some("mp4"),
        [0xff, second, ..] if second & 0xe0 == 0xe0 => Some("mp3 or aac"),
        _ => None,
    }
}

/// What to call the codec in a container that its reader refused.
pub fn inside(container: &str, head: &[u8], what: &str) -> String {
    if head.starts_with(b"OggS") && head.get(28..35) == Some(b"\x80theora") {
        return "Theora video without known".into();
    }
    format!("the {container} file's ({what})")
}

/// The codec of a wav file by its format tag, where the built-in reader lacks it.
fn wave_codec(head: &[u8]) -> Option<String> {
    if !(head.starts_with(b"RIFF") || head.starts_with(b"RF64")) || head.get(8..12) != Some(b"WAVE") {
        return None;
    }
    let at = head.windows(4).position(|w| w == b"fmt ")?;
    let tag = u16::from_le_bytes([*head.get(at + 8)?, *head.get(at + 9)?]);
    let name = match tag {
        0x31 => "GSM 6.10",
        0x55 => "MP3 in wav",
        0x50 => "MP2 in wav",
        0x64 | 0x45 | 0x14 | 0x40 => "G.726 or G.721",
        0x28f | 0x65 => "G.722",
        0x42 => "G.723.1",
        0x83 => "G.729",
        0xa109 => "Speex",
        0xff | 0x1600 | 0x1610 => "AAC in wav",
        0x160..=0x163 => "WMA",
        0x2000 => "AC-3",
        0x2001 => "DTS",
        0x22 => "TrueSpeech",
        0x270 => "ATRAC3",
        _ => return None,
    };
    Some(name.into())
}

/// Whether the bytes are text: no control characters, and UTF-8 or at least mostly letters.
fn is_text(head: &[u8]) -> bool {
    let control = |b: &u8| *b < 0x20 && !matches!(b, b'\n' | b'\r' | b'\t' | 0x0c | 0x1b);
    if head.iter().any(control) {
        // UTF-16 with its mark.
        return head.starts_with(&[0xff, 0xfe, b'<', 0]) || head.starts_with(&[0xfe, 0xff, 0]);
    }
    match std::str::from_utf8(head) {
        Ok(_) => true,
        // A character cut in half at the end of the head.
        Err(error) => error.error_len().is_none(),
    }
}
