//! Attention of tokens to those before them, with their keys and values kept on the way.
//!
//! Each item is a token of a row (a text in the making) at a position. qkv (items, 3 · heads · 64) holds queries, keys
//! and values side by side. An item's key and value go into the caches, keys and values (rows, heads, room, 64), and
//! mixed (items, heads · 64) becomes the sum of the row's values up to and with itself, weighted by the softmax of
//! query · key / 8. Sums are in f32.
//!
//! Rows stand at positions of their own. Several items of a row (a prompt) stand side by side, their positions one
//! after the other; what is before the first of them was kept by earlier launches.
//!
//! Heads are 64 wide, as in every Whisper; every array begins at a multiple of 16 bytes.
//!
//! Bytes: 4 · 64 · heads for each earlier position of an item's row; nothing else grows.

use crate::device::{Arguments, Device, Error, Launch, check, check_array};
use crate::memory::Plain;
use crate::view::{Half, View, ViewMut};

const OP: &str = "self-attention";

/// Width of a head.
pub const HEAD_WIDTH: usize = 64;

/// As in the kernel.
const THREADS: u32 = 128;

/// A token that is run, as the kernel reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Item {
    /// Its row.
    pub row: u32,
    /// Its position in the row.
    pub position: u32,
    /// The first item of the row in this launch.
    pub first: u32,
}

// SAFETY: three numbers of four bytes.
unsafe impl Plain for Item {}

/// Keys and values of one layer.
#[derive(Debug)]
pub struct Cache<'a, T> {
    /// (rows, heads, room, 64)
    pub keys: ViewMut<'a, T>,
    /// The same.
    pub values: ViewMut<'a, T>,
    /// Texts.
    pub rows: usize,
    /// Positions of a text.
    pub room: usize,
}

/// Keeps keys and values of the items, and mixes. `items` are what `device_items` holds on the device: they are checked here and
/// read there.
pub fn self_attention<T: Half>(
    device: &mut impl Device,
    qkv: &View<'_, T>,
    items: &[Item],
    device_items: &View<'_, Item>,
    cache: &mut Cache<'_, T>,
    mixed: &mut ViewMut<'_, T>,
    heads: usize,
) -> Result<(), Error> {
    let (count, width) = (items.len(), heads * HEAD_WIDTH);
    check((1..=65_535).contains(&heads) && i32::try_from(count).is_ok(), OP, || {
        format!("{count} items of {heads} heads")
    })?;
    for (i, item) in items.iter().enumerate() {
        check((item.row as usize) < cache.rows && (item.position as usize) < cache.room, OP, || {
            format!(
                "item {i} is row {}, position {} of {} rows with room for {}",
                item.row, item.position, cache.rows, cache.room
            )
        })?;
        let before = i.checked_sub(1).map(|before| items[before]);
        let goes_on = before.is_some_and(|before| {
            before.row == item.row && before.position + 1 == item.position && before.first == item.first
        });
        let begins = item.first as usize == i && items[..i].iter().all(|before| before.row != item.row);
        check(goes_on || begins, OP, || {
            format!("item {i} neither begins a row nor follows the item before it")
        })?;
    }
    check(device_items.len() >= count, OP, || {
        format!("{count} items, {} on the device", device_items.len())
    })?;
    let kept = cache.rows * heads * cache.room * HEAD_WIDTH;
    check_array(OP, "qkv", (qkv.address(), qkv.len()), count * 3 * width)?;
    check_array(OP, "the cache of keys", (cache.keys.address(), cache.keys.len()), kept)?;
    check_array(OP, "the cache of values", (cache.values.address(), cache.values.len()), kept)?;
    check_array(OP, "mixed", (mixed.address(), mixed.len()), count * width)?;
    if count == 0 {
        return Ok(());
    }
    let launch = Launch {
        kernel: T::pick("self_attention_f16", "self_attention_bf16"),
        grid: [count as u32, heads as u32, 1],
        threads: THREADS,
        shared_bytes: 0,
    };
    let arguments = Arguments::new()
        .read(qkv)
        .read(device_items)
        .write(&cache.keys)
        .write(&cache.values)
        .write(mixed)
        .number(cache.room);
    // SAFETY: the arguments are the kernel's parameters in order; items and arrays were checked.
    unsafe { device.launch(&launch, &arguments) }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
