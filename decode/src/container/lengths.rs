//! What goes wrong in the lengths of wav, aiff and caf files, put right before their readers see them: programs that
//! stop early or write to a pipe leave zeros or all ones, transfers break off, and RF64 keeps lengths beyond 4 GiB
//! elsewhere.

use crate::source::Handle;

/// Chunks before the sound; a file with more is none of these.
const CHUNKS_MAX: usize = 1000;
/// Lengths from here on are a program's way to say that it does not know.
const UNKNOWN_FROM: u64 = 0x7fff_f000;

/// Corrects the lengths in the handle's view of the file. How many times more sound the header claims than the file
/// holds, if it does.
pub fn repair(handle: &mut Handle) -> Option<f64> {
    let head = handle.peek(0, 12).ok()?;
    match (head.get(..4)?, head.get(8..12)?) {
        (b"RIFF" | b"RF64", b"WAVE") => repair_wav(handle),
        (b"FORM", b"AIFF" | b"AIFC") => repair_aiff(handle),
        (b"caff", _) => repair_caf(handle),
        _ => None,
    }
}

/// A chunk's name, where it begins and where its content does, and the length that it claims.
struct Chunk {
    name: [u8; 4],
    at: u64,
    body: u64,
    len: u64,
}

/// The chunk called `wanted`, and on the way to it what `seen` learns from the content of the others.
fn find(
    handle: &Handle,
    first: u64,
    header: impl Fn(&[u8]) -> Option<(u64, u64)>,
    wanted: &[u8; 4],
    mut seen: impl FnMut(&[u8; 4], &[u8]),
) -> Option<Chunk> {
    let mut at = first;
    for _ in 0..CHUNKS_MAX {
        let bytes = handle.peek(at, 12 + 32).ok()?;
        let (header_len, len) = header(&bytes)?;
        let chunk = Chunk { name: bytes[..4].try_into().ok()?, at, body: at + header_len, len };
        if chunk.body > handle.len() {
            return None;
        }
        if chunk.name == *wanted {
            return Some(chunk);
        }
        seen(&chunk.name, bytes.get(header_len as usize..)?);
        at = chunk.body.checked_add(len)?;
    }
    None
}

fn repair_wav(handle: &mut Handle) -> Option<f64> {
    let header = |bytes: &[u8]| {
        let len = u64::from(u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?));
        // Chunks begin at even places.
        Some((8, if bytes.starts_with(b"data") { len } else { len + len % 2 }))
    };
    let mut frame_bytes = 1;
    let data = find(handle, 12, header, b"data", |name, body| {
        if name == b"fmt " && body.len() >= 14 {
            frame_bytes = u64::from(u16::from_le_bytes([body[12], body[13]])).max(1);
        }
    })?;
    let there = handle.len() - data.body;
    let unknown = data.len >= UNKNOWN_FROM || data.len == 0;
    let mut riff_len = handle.len() - 8;
    if unknown || data.len > there {
        // Whole frames only. Beyond 4 GiB all ones mean: to the end of the file.
        let whole = there / frame_bytes * frame_bytes;
        handle.patch(data.at + 4, u32::try_from(whole).unwrap_or(u32::MAX).to_le_bytes());
        riff_len = data.body + whole - 8;
    }
    handle.patch(4, u32::try_from(riff_len).unwrap_or(u32::MAX).to_le_bytes());
    handle.patch(0, *b"RIFF");
    if unknown { None } else { excess(data.len, there) }
}

fn repair_aiff(handle: &mut Handle) -> Option<f64> {
    let header = |bytes: &[u8]| {
        let len = u64::from(u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?));
        Some((8, len + len % 2))
    };
    let data = find(handle, 12, header, b"SSND", |_, _| {})?;
    let there = handle.len() - data.body;
    if data.len > there {
        handle.patch(data.at + 4, u32::try_from(there).ok()?.to_be_bytes());
        handle.patch(4, u32::try_from(handle.len() - 8).ok()?.to_be_bytes());
    }
    excess(data.len, there)
}

fn repair_caf(handle: &mut Handle) -> Option<f64> {
    let header = |bytes: &[u8]| Some((12, u64::from_be_bytes(bytes.get(4..12)?.try_into().ok()?)));
    let mut packet_bytes = 0;
    let data = find(handle, 8, header, b"data", |name, body| {
        if name == b"desc" && body.len() >= 20 {
            packet_bytes = u64::from(u32::from_be_bytes([body[16], body[17], body[18], body[19]]));
        }
    })?;
    let there = handle.len() - data.body;
    // All ones: to the end of the file.
    if data.len <= there || data.len == u64::MAX || packet_bytes == 0 {
        return None;
    }
    // Four bytes that count edits come before the sound.
    let whole = there.saturating_sub(4) / packet_bytes * packet_bytes + 4;
    handle.patch(data.at + 4, whole.to_be_bytes());
    handle.cut(data.body + whole);
    excess(data.len, whole)
}

fn excess(claimed: u64, there: u64) -> Option<f64> {
    // A byte that evens the length out may be missing.
    (there > 0 && claimed > there + 1).then(|| claimed as f64 / there as f64)
}
