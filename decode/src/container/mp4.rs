//! The few boxes of an mp4 file that the demuxer keeps to itself: edit lists (ISO 14496-12, 8.6.6) and the codec
//! names of all sound tracks.

use crate::source::Handle;

/// The part of a track's samples that is to be heard, in frames of the decoded sound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trim {
    /// Frames to drop in front: the encoder's run-in.
    pub start: u64,
    /// The frame after the last to be heard.
    pub end: Option<u64>,
}

/// What was found; empty when the file is damaged, which the demuxer will say better.
#[derive(Debug, Default)]
pub struct Boxes {
    tracks: Vec<SoundTrack>,
}

/// A track with the handler `soun`.
#[derive(Debug, Default)]
pub struct SoundTrack {
    id: u32,
    /// The four characters of its first sample description.
    pub codec: [u8; 4],
    timescale: u32,
    movie_timescale: u32,
    /// (duration in the movie's ticks, start in the track's ticks; negative: an empty edit).
    edits: Vec<(u64, i64)>,
}

/// No honest file needs more; a table of samples for a day is some 20 MB and is not read here.
const MOOV_BYTES_MAX: u64 = 256 << 20;
const BOXES_MAX: usize = 10_000;

/// Reads the movie box, wherever in the file it is.
pub fn read(handle: &Handle) -> Boxes {
    let mut walk = Walk { handle, boxes_left: BOXES_MAX };
    let mut boxes = Boxes::default();
    let mut movie_timescale = 0;
    let Some(moov) = walk.children(0, handle.len()).into_iter().find(|b| b.is(b"moov")) else { return boxes };
    if moov.end - moov.start > MOOV_BYTES_MAX {
        return boxes;
    }
    for part in walk.children(moov.start, moov.end) {
        if part.is(b"mvhd") {
            movie_timescale = walk.timescale(part).unwrap_or(0);
        } else if part.is(b"trak")
            && let Some(track) = walk.track(part)
        {
            boxes.tracks.push(track);
        }
    }
    for track in &mut boxes.tracks {
        track.movie_timescale = movie_timescale;
    }
    boxes
}

/// Makes a last box that was cut short end with the file, so that what is there of it can be read.
pub fn repair(handle: &mut Handle) {
    let len = handle.len();
    let last = Walk { handle, boxes_left: BOXES_MAX }.children(0, len).pop();
    if let Some(Found { at, size, header, .. }) = last
        && size > len - at
    {
        let there = len - at;
        if header == 16 {
            handle.patch(at + 8, ((there >> 32) as u32).to_be_bytes());
            handle.patch(at + 12, (there as u32).to_be_bytes());
        } else {
            handle.patch(at, (there as u32).to_be_bytes());
        }
    }
}

impl Boxes {
    /// The codec of the first sound track.
    pub fn audio_codec(&self) -> Option<[u8; 4]> {
        self.tracks.first().map(|t| t.codec)
    }

    /// The sound track with this id.
    pub fn track(&self, id: u32) -> Option<&SoundTrack> {
        self.tracks.iter().find(|t| t.id == id)
    }
}

impl SoundTrack {
    /// What to cut off when the track is decoded at `rate`. Only the usual list is heeded: perhaps an empty edit,
    /// then one stretch.
    pub fn trim(&self, rate: u32) -> Trim {
        let mut real = self.edits.iter().filter(|(_, start)| *start >= 0);
        let (Some(&(duration, start)), None) = (real.next(), real.next()) else { return Trim::default() };
        if self.timescale == 0 || self.movie_timescale == 0 {
            return Trim::default();
        }
        let scale = |ticks: u64, per_second: u32| {
            (u128::from(ticks) * u128::from(rate) / u128::from(per_second)).min(u128::from(u64::MAX / 4))
                as u64
        };
        let start = scale(start as u64, self.timescale);
        // The movie's ticks are often whole milliseconds: one of them is granted.
        let end = (duration > 0).then(|| start + scale(duration + 1, self.movie_timescale));
        Trim { start, end }
    }
}

#[derive(Clone, Copy)]
struct Found {
    kind: [u8; 4],
    /// First byte of the header.
    at: u64,
    /// What the header says, which may reach beyond the file.
    size: u64,
    header: u64,
    /// First byte after the header.
    start: u64,
    end: u64,
}

impl Found {
    fn is(&self, kind: &[u8; 4]) -> bool {
        self.kind == *kind
    }
}

struct Walk<'a> {
    handle: &'a Handle,
    boxes_left: usize,
}

impl Walk<'_> {
    fn children(&mut self, start: u64, end: u64) -> Vec<Found> {
        let mut found = Vec::new();
        let mut at = start;
        while at + 8 <= end && self.boxes_left > 0 {
            self.boxes_left -= 1;
            let Some(head) = self.bytes(at, 16) else { break };
            let (size, header) = match be32(&head, 0) {
                0 => (end - at, 8),
                1 => (be64(&head, 8), 16),
                size => (u64::from(size), 8),
            };
            if size < header {
                break;
            }
            let next = at.saturating_add(size).min(end);
            let kind = [head[4], head[5], head[6], head[7]];
            found.push(Found { kind, at, size, header, start: (at + header).min(next), end: next });
            at = next;
        }
        found
    }

    fn child(&mut self, parent: Found, kind: &[u8; 4]) -> Option<Found> {
        self.children(parent.start, parent.end).into_iter().find(|b| b.is(kind))
    }

    fn track(&mut self, trak: Found) -> Option<SoundTrack> {
        let mdia = self.child(trak, b"mdia")?;
        let hdlr = self.child(mdia, b"hdlr")?;
        if self.bytes(hdlr.start, 12)?.get(8..12)? != b"soun" {
            return None;
        }
        let tkhd = self.child(trak, b"tkhd")?;
        let head = self.bytes(tkhd.start, 24)?;
        let id = if head[0] == 1 { be32(&head, 20) } else { be32(&head, 12) };
        let timescale = self.child(mdia, b"mdhd").and_then(|b| self.timescale(b)).unwrap_or(0);
        let stsd = self
            .child(mdia, b"minf")
            .and_then(|b| self.child(b, b"stbl"))
            .and_then(|b| self.child(b, b"stsd"))?;
        let entry = self.bytes(stsd.start + 8, 8)?;
        let edits =
            self.child(trak, b"edts").and_then(|b| self.child(b, b"elst")).and_then(|b| self.edits(b));
        Some(SoundTrack {
            id,
            codec: [entry[4], entry[5], entry[6], entry[7]],
            timescale,
            movie_timescale: 0,
            edits: edits.unwrap_or_default(),
        })
    }

    /// The timescale of a `mvhd` or `mdhd` box.
    fn timescale(&self, found: Found) -> Option<u32> {
        let head = self.bytes(found.start, 24)?;
        Some(if head[0] == 1 { be32(&head, 20) } else { be32(&head, 12) })
    }

    fn edits(&self, elst: Found) -> Option<Vec<(u64, i64)>> {
        let head = self.bytes(elst.start, 8)?;
        let wide = head[0] == 1;
        let (count, size) = (be32(&head, 4).min(64) as usize, if wide { 20 } else { 12 });
        let body = self.bytes(elst.start + 8, count * size)?;
        let edits = body.chunks_exact(size).map(|edit| {
            if wide {
                (be64(edit, 0), be64(edit, 8) as i64)
            } else {
                (u64::from(be32(edit, 0)), i64::from(be32(edit, 4) as i32))
            }
        });
        Some(edits.collect())
    }

    /// `len` bytes, zeros beyond the end of the file; none at or beyond the end.
    fn bytes(&self, at: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = self.handle.peek(at, len).ok().filter(|b| !b.is_empty())?;
        bytes.resize(len, 0);
        Some(bytes)
    }
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}
