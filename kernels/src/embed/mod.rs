//! Where a decoder's step begins: tokens become states.
//!
//! x (items, width) f32 becomes the token's row of the embeddings (vocabulary, width) f16 or bf16, plus the row of the item's
//! position in positions (room, width) f32. An item's token is given, or is what the sampler left in `next` for the item's
//! row in the step before, which the host need not know.
//!
//! Width is a multiple of 8; every array begins at a multiple of 16 bytes.
//!
//! Bytes: 10 · width an item.

use crate::device::{Arguments, Device, Error, Launch, check, check_array};
use crate::memory::Plain;
use crate::sample::NONE;
use crate::view::{Half, View, ViewMut};

const OP: &str = "embedding";

/// As in the kernel.
const THREADS: u32 = 128;

/// A token that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Item {
    /// Its row.
    pub row: u32,
    /// Its position in the row.
    pub position: u32,
    /// The token, or [`NONE`] for the one that was sampled last in the row.
    pub token: u32,
}

// SAFETY: three numbers of four bytes.
unsafe impl Plain for Item {}

/// What tokens and positions are worth.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'a, T> {
    /// (vocabulary, width)
    pub embeddings: View<'a, T>,
    /// (room, width)
    pub positions: View<'a, f32>,
    /// Values of a state.
    pub width: usize,
}

/// Embeds the items. `items` are what `device_items` holds on the device: they are checked here and read there. `next` (rows)
/// holds the tokens that were sampled.
pub fn embed<T: Half>(
    device: &mut impl Device,
    items: &[Item],
    device_items: &View<'_, Item>,
    next: &View<'_, u32>,
    tables: Tables<'_, T>,
    x: &mut ViewMut<'_, f32>,
) -> Result<(), Error> {
    let Tables { embeddings, positions, width } = tables;
    let count = items.len();
    check(width > 0 && width.is_multiple_of(8), OP, || {
        format!("states of {width} values; it takes multiples of 8")
    })?;
    check(i32::try_from(count).is_ok(), OP, || format!("{count} items"))?;
    let (vocabulary, room) = (embeddings.len() / width, positions.len() / width);
    for (i, item) in items.iter().enumerate() {
        let Item { row, position, token } = *item;
        check((position as usize) < room, OP, || format!("item {i} is at position {position} of {room}"))?;
        check(token == NONE || (token as usize) < vocabulary, OP, || {
            format!("item {i} is token {token} of {vocabulary}")
        })?;
        check(token != NONE || (row as usize) < next.len(), OP, || {
            format!("item {i} is what was sampled in row {row} of {}", next.len())
        })?;
    }
    check(device_items.len() >= count, OP, || {
        format!("{count} items, {} on the device", device_items.len())
    })?;
    check_array(OP, "the embeddings", (embeddings.address(), embeddings.len()), vocabulary * width)?;
    check_array(OP, "the positions", (positions.address(), positions.len()), room * width)?;
    check_array(OP, "x", (x.address(), x.len()), count * width)?;
    if count == 0 {
        return Ok(());
    }
    let launch = Launch {
        kernel: T::pick("embed_f16", "embed_bf16"),
        grid: [count as u32, 1, 1],
        threads: THREADS,
        shared_bytes: 0,
    };
    let arguments = Arguments::new()
        .read(device_items)
        .read(next)
        .read(&embeddings)
        .read(&positions)
        .write(x)
        .number(width);
    // SAFETY: the arguments are the kernel's parameters in order; items and arrays were checked, and the sampler leaves tokens
    // of its vocabulary.
    unsafe { device.launch(&launch, &arguments) }
}

#[cfg(test)]
mod tests;
