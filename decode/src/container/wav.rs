//! What goes wrong in the lengths of wav files, put right before the reader sees them: programs that stop early or
//! write to a pipe leave zeros or all ones, and RF64 keeps lengths beyond 4 GiB elsewhere.

use crate::source::Handle;

/// Chunks before the sound; more are no wav file.
const CHUNKS_MAX: usize = 1000;
/// Lengths from here on are a program's way to say that it does not know.
const UNKNOWN_FROM: u32 = 0x7fff_f000;

/// What the header said.
#[derive(Debug, Default)]
pub struct Claim {
    /// Seconds of sound that it claims and that the file cannot hold.
    pub missing_from: Option<f64>,
}

/// Corrects the lengths in the handle's view of the file.
pub fn repair(handle: &mut Handle) -> Claim {
    let mut claim = Claim::default();
    let Ok(head) = handle.peek(0, 12) else { return claim };
    if !(head.starts_with(b"RIFF") || head.starts_with(b"RF64")) || head.get(8..12) != Some(b"WAVE") {
        return claim;
    }
    let file = handle.len();
    let (mut at, mut byte_rate, mut frame_bytes) = (12, 0, 1);
    for _ in 0..CHUNKS_MAX {
        let Ok(chunk) = handle.peek(at, 24) else { return claim };
        if chunk.len() < 8 {
            return claim;
        }
        let len = u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]);
        let body = at + 8;
        match &chunk[..4] {
            b"fmt " if chunk.len() == 24 => {
                byte_rate = u32::from_le_bytes([chunk[16], chunk[17], chunk[18], chunk[19]]);
                frame_bytes = u64::from(u16::from_le_bytes([chunk[20], chunk[21]])).max(1);
            }
            b"data" => {
                let there = file - body;
                let unknown = len >= UNKNOWN_FROM || len == 0;
                if u64::from(len) > there || unknown {
                    // Whole frames only. Beyond 4 GiB all ones mean: to the end of the file.
                    let whole = there / frame_bytes * frame_bytes;
                    handle.patch(at + 4, u32::try_from(whole).unwrap_or(u32::MAX).to_le_bytes());
                    handle.patch(4, u32::try_from(body + whole - 8).unwrap_or(u32::MAX).to_le_bytes());
                    if !unknown && byte_rate > 0 {
                        claim.missing_from = Some(f64::from(len) / f64::from(byte_rate));
                    }
                } else {
                    let riff = u32::try_from(file - 8).unwrap_or(u32::MAX);
                    handle.patch(4, riff.to_le_bytes());
                }
                handle.patch(0, *b"RIFF");
                return claim;
            }
            _ => {}
        }
        at = body + u64::from(len) + u64::from(len % 2);
    }
    claim
}
