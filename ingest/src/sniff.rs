//! What bytes look like at first sight. The name and the sender's word count for nothing here; decode has the last one.

/// Bytes at the start of a file that are looked at: enough to find a wav file's format behind its metadata.
pub const HEAD_BYTES: usize = 64 * 1024;

/// What the first bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniffed {
    /// A container that may hold sound, such as `wav`.
    Container(&'static str),
    /// Something that holds no sound, in words: `a PDF document`.
    NotAudio(&'static str),
    /// Nothing known: decode finds out.
    Unknown,
}

/// Tells what a file is by its first bytes.
pub fn sniff(head: &[u8]) -> Sniffed {
    use Sniffed::{Container, NotAudio, Unknown};
    let (magics, kinds) = (CONTAINERS.iter(), NOT_AUDIO.iter());
    if let Some((_, name)) = magics.clone().find(|(magic, _)| head.starts_with(magic)) {
        return Container(name);
    }
    if let Some((_, kind)) = kinds.clone().find(|(magic, _)| head.starts_with(magic)) {
        return NotAudio(kind);
    }
    match (head.get(0..4), head.get(8..12)) {
        (Some(b"RIFF" | b"RF64" | b"RIFX" | b"BW64"), Some(b"WAVE")) => return Container("wav"),
        (Some(b"RIFF"), Some(b"AVI ")) => return Container("avi"),
        (Some(b"RIFF"), Some(b"WEBP")) => return NotAudio("a WebP image"),
        (Some(b"FORM"), Some(b"AIFF" | b"AIFC")) => return Container("aiff"),
        _ => {}
    }
    match (head.get(4..8), head.get(8..12)) {
        (Some(b"ftyp"), Some(b"heic" | b"heix" | b"mif1" | b"avif")) => return NotAudio("a HEIF image"),
        (Some(b"ftyp" | b"moov" | b"mdat" | b"wide" | b"skip" | b"free"), _) => return Container("mp4"),
        _ => {}
    }
    if head.starts_with(b"\x1a\x45\xdf\xa3") {
        let webm = head.windows(4).take(64).any(|at| at == b"webm");
        return Container(if webm { "webm" } else { "mkv" });
    }
    if head.len() > 4 * 188 && (0..4).all(|packet| head[packet * 188] == 0x47) {
        return Container("mpegts");
    }
    if head.starts_with(b"ID3") {
        return Container(behind_tag(head));
    }
    if let Some(kind) = text(head) {
        return NotAudio(kind);
    }
    frame(head).map_or(Unknown, Container)
}

/// First bytes that belong to one container alone.
const CONTAINERS: &[(&[u8], &str)] = &[
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"caff", "caf"),
    (b"#!AMR", "amr"),
    (b".snd", "au"),
    (b"wvpk", "wavpack"),
    (b"MAC ", "ape"),
    (b"TTA1", "tta"),
    (b"DSD ", "dsf"),
    (b"FLV\x01", "flv"),
    (b"\x0b\x77", "ac3"),
    (b"\x7f\xfe\x80\x01", "dts"),
    (b"\0\0\x01\xba", "mpegps"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (b"riff\x2e\x91\xcf\x11", "w64"),
];

/// First bytes of what people send by mistake.
const NOT_AUDIO: &[(&[u8], &str)] = &[
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a zip archive or an office document"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a rar archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"\x7fELF", "a program"),
    (b"MZ\x90\0", "a program"),
    (b"SQLite format 3\0", "a database"),
    (b"\xd0\xcf\x11\xe0", "an old office document"),
    (b"MThd", "a MIDI file, which holds notes and no sound"),
];

/// What follows an ID3 tag, which some writers put before other things than mp3.
fn behind_tag(head: &[u8]) -> &'static str {
    // The size has 7 bits in each of 4 bytes and leaves out the tag's own 10.
    let size = head.get(6..10).map(|bytes| bytes.iter().fold(0, |size, b| size << 7 | usize::from(b & 0x7f)));
    let rest = size.and_then(|size| head.get(10 + size..)).unwrap_or_default();
    if rest.starts_with(b"fLaC") { "flac" } else { frame(rest).unwrap_or("mp3") }
}

/// An MPEG audio or ADTS frame's header: 11 or 12 bits of synchronisation, then fields of which some values are void.
fn frame(head: &[u8]) -> Option<&'static str> {
    let &[0xff, second, third, ..] = head else { return None };
    if second & 0xf6 == 0xf0 {
        let frequency = third >> 2 & 0xf;
        return (frequency < 13).then_some("aac");
    }
    let (version, layer) = (second >> 3 & 3, second >> 1 & 3);
    let (bitrate, frequency) = (third >> 4, third >> 2 & 3);
    if second & 0xe0 != 0xe0 || version == 1 || bitrate == 15 || frequency == 3 {
        return None;
    }
    match layer {
        1 => Some("mp3"),
        2 => Some("mp2"),
        3 => Some("mp1"),
        _ => None,
    }
}

/// Names the text that the head is, if it is text.
fn text(head: &[u8]) -> Option<&'static str> {
    let wide =
        |zero: usize| head.len() >= 4 && head[2..].iter().skip(zero).step_by(2).take(64).all(|b| *b == 0);
    if head.starts_with(b"\xff\xfe") && wide(1) || head.starts_with(b"\xfe\xff") && wide(0) {
        return Some("text");
    }
    let part = &head[..head.len().min(4096)];
    let text = match std::str::from_utf8(part) {
        Ok(text) => text,
        // A character may be cut in two where the head ends.
        Err(error) if error.error_len().is_none() && part.len() - error.valid_up_to() < 4 => {
            std::str::from_utf8(&part[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return None,
    };
    let odd = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\x0c' | '\x1b');
    let start = text.trim_start_matches('\u{feff}').trim_start();
    if start.is_empty() || text.contains(odd) {
        return None;
    }
    let lower: String = start.chars().take(64).flat_map(char::to_lowercase).collect();
    Some(match lower.as_str() {
        html if html.starts_with("<!doctype html") || html.starts_with("<html") => "a web page (HTML)",
        svg if svg.starts_with("<svg") => "an SVG image",
        xml if xml.starts_with("<?xml") => "an XML document",
        json if json.starts_with(['{', '[']) => "JSON",
        list if list.starts_with("#extm3u") || list.starts_with("[playlist]") => {
            "a playlist, which names audio and holds none"
        }
        _ => "text",
    })
}

#[cfg(test)]
mod tests {
    use super::Sniffed::{Container, NotAudio, Unknown};
    use super::*;

    #[test]
    fn containers() {
        for (head, name) in [
            (&b"RIFF\x24\0\0\0WAVEfmt "[..], "wav"),
            (b"RF64\xff\xff\xff\xffWAVEds64", "wav"),
            (b"RIFF\x24\0\0\0AVI LIST", "avi"),
            (b"FORM\0\0\0\x24AIFCFVER", "aiff"),
            (b"caff\0\x01\0\0desc", "caf"),
            (b"fLaC\0\0\0\x22", "flac"),
            (b"OggS\0\x02", "ogg"),
            (b"ID3\x04\0\0\0\0\0\x02\0\0\xff\xfb\x90\x64", "mp3"),
            (b"ID3\x04\0\0\0\0\x7f\x7f\0\0", "mp3"),
            (b"ID3\x04\0\0\0\0\0\x02\0\0fLaC", "flac"),
            (b"ID3\x04\0\0\0\0\0\x02\0\0\xff\xf1\x50\x80", "aac"),
            (b"\xff\xfb\x90\x64\0", "mp3"),
            (b"\xff\xfd\x84\0\0", "mp2"),
            (b"\xff\xf3\x40\xc4\0", "mp3"),
            (b"\xff\xf1\x50\x80\0", "aac"),
            (b"\xff\xf9\x50\x80\0", "aac"),
            (b"\0\0\0\x20ftypM4A \0\0", "mp4"),
            (b"\0\0\0\x14ftypqt  \0\0", "mp4"),
            (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm", "webm"),
            (b"\x1a\x45\xdf\xa3\xa3\x42\x82\x88matroska", "mkv"),
            (b"#!AMR\n\x3c\x91", "amr"),
            (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6", "asf"),
        ] {
            assert_eq!(sniff(head), Container(name), "{head:?}");
        }
        let mut packets = vec![0; 5 * 188];
        (0..5).for_each(|packet| packets[packet * 188] = 0x47);
        assert_eq!(sniff(&packets), Container("mpegts"));
    }

    #[test]
    fn what_holds_no_sound_is_named() {
        for (head, kind) in [
            (&b"%PDF-1.7"[..], "a PDF document"),
            (b"PK\x03\x04\x14\0", "a zip archive or an office document"),
            (b"\x89PNG\r\n", "a PNG image"),
            (b"\xff\xd8\xff\xe0", "a JPEG image"),
            (b"RIFF\x24\0\0\0WEBPVP8 ", "a WebP image"),
            (b"\0\0\0\x18ftypheic\0\0", "a HEIF image"),
            (b"  <!DOCTYPE html><title>404", "a web page (HTML)"),
            (b"\xef\xbb\xbf<html>", "a web page (HTML)"),
            (b"{\"error\": \"not found\"}", "JSON"),
            (b"<?xml version=\"1.0\"?><rss/>", "an XML document"),
            (b"#EXTM3U\nhttp://radio.example/1", "a playlist, which names audio and holds none"),
            (b"Dear Sir or Madam,\r\n", "text"),
            ("Gr\u{fc}\u{df}e".as_bytes(), "text"),
            (b"\xff\xfeD\0e\0a\0r\0", "text"),
            (b"\xfe\xff\0D\0e\0a\0r", "text"),
            (b"MThd\0\0\0\x06", "a MIDI file, which holds notes and no sound"),
        ] {
            assert_eq!(sniff(head), NotAudio(kind), "{head:?}");
        }
        let cut = "\u{4f60}".repeat(2000);
        assert_eq!(sniff(&cut.as_bytes()[..4097]), NotAudio("text"), "a character cut in two at the end");
    }

    #[test]
    fn the_rest_is_left_to_decode() {
        for head in [&b""[..], b"\0\0\0\0\0\0\0\0", b"\xff", b"\xff\xff\xff\xff", b"\xc3\x28binary\0", b"   "]
        {
            assert_eq!(sniff(head), Unknown, "{head:?}");
        }
    }
}
