//! An mkv or webm file that was cut short: its outer elements claim more than there is, which the reader refuses.

use crate::source::Handle;

const EBML: u32 = 0x1a45_dfa3;
const SEGMENT: u32 = 0x1853_8067;
const SEEK_HEAD: u32 = 0x114d_9b74;
const CLUSTER: u32 = 0x1f43_b675;
/// Elements that are looked at: the clusters of a long recording.
const ELEMENTS_MAX: usize = 1_000_000;

/// Makes the segment, and its last element, end with the file, and hides the table of what lay beyond. True when
/// something was missing.
pub fn repair(handle: &mut Handle) -> bool {
    let Some((EBML, _, _, body, Some(len))) = element(handle, 0) else { return false };
    let Some((SEGMENT, size_at, size_len, start, Some(len))) = element(handle, body.saturating_add(len))
    else {
        return false;
    };
    let end = handle.len();
    if len <= end - start {
        return false;
    }
    handle.patch(size_at, vint(end - start, size_len));
    let mut at = start;
    for _ in 0..ELEMENTS_MAX {
        let Some((id, size_at, size_len, start, Some(len))) = element(handle, at) else { break };
        if len > end.saturating_sub(start) {
            if id == CLUSTER && start < end {
                handle.patch(size_at, vint(end - start, size_len));
            }
            break;
        }
        if id == SEEK_HEAD {
            handle.patch(at, void(start + len - at));
        }
        at = start + len;
    }
    true
}

/// The element at `at`: id, where its size stands and in how many bytes, where its content begins, the size if known.
fn element(handle: &Handle, at: u64) -> Option<(u32, u64, usize, u64, Option<u64>)> {
    let head = handle.peek(at, 12).ok()?;
    let id_len = head.first()?.leading_zeros() as usize + 1;
    let id =
        head.get(..id_len).filter(|_| id_len <= 4)?.iter().fold(0, |id, byte| id << 8 | u32::from(*byte));
    let size_len = head.get(id_len)?.leading_zeros() as usize + 1;
    let size = head.get(id_len..id_len + size_len).filter(|_| size_len <= 8)?;
    let bits = 7 * size_len as u32;
    let value = size.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte)) & ((1 << bits) - 1);
    let known = (value != (1 << bits) - 1).then_some(value);
    Some((id, at + id_len as u64, size_len, at + (id_len + size_len) as u64, known))
}

/// The beginning of an element that is `len` bytes long in all and means nothing.
fn void(len: u64) -> Vec<u8> {
    let size_len = if len < 9 { 1 } else { 8 };
    [vec![0xec], vint(len.saturating_sub(1 + size_len), size_len as usize)].concat()
}

/// A size in `len` bytes.
fn vint(value: u64, len: usize) -> Vec<u8> {
    let marked = value | 1 << (7 * len);
    marked.to_be_bytes()[8 - len..].to_vec()
}
