//! Keys and values of windows of sound, as cross-attention reads them: how they are laid out, and filling a slot.
//!
//! A cache belongs to one layer and has slots, a window each. Keys are (slots, heads, room, 64). Values are (slots, heads,
//! room / 2, 64, 2): those of two neighbouring positions stand side by side, dimension by dimension, which is how tensor
//! cores take them, so that whoever reads them turns nothing over. Of the positions behind a window's last one only the
//! second of a pair is ever read, and filling makes its values zero.
//!
//! Both are of the model's type, or of e4m3, a byte each, with a scale for each slot and head: the greatest magnitude
//! becomes 448, everything else the nearest number. What is not finite makes the scale, and all that is read, no number.
//!
//! Filling takes kv (positions, 2 · heads · 64), keys and values of each position side by side, as the projection of the
//! encoder's output leaves them. Room is even, and at most 1536; every array begins at a multiple of 16 bytes.
//!
//! Bytes: 256 · heads a position read and as many written; into e4m3 512 read, half of them from the L2 cache, and 128
//! written.

use crate::device::{Arguments, Device, Error, Launch, check, check_array};
use crate::view::{Half, View, ViewMut};

const OP: &str = "cross-attention's cache";

/// Width of a head.
pub const HEAD_WIDTH: usize = 64;

/// Most positions of a window: more than the 1500 of 30 seconds.
pub const ROOM_MAX: usize = 1_536;

/// As in the kernel.
const THREADS: u32 = 256;
const POSITIONS: usize = 64;

/// Keys and values in one of the types.
#[derive(Debug)]
pub enum Kept<'a, T> {
    /// As they were computed.
    Whole {
        /// (slots, heads, room, 64)
        keys: ViewMut<'a, T>,
        /// (slots, heads, room / 2, 64, 2)
        values: ViewMut<'a, T>,
    },
    /// In e4m3.
    Bytes {
        /// (slots, heads, room, 64)
        keys: ViewMut<'a, u8>,
        /// (slots, heads, room / 2, 64, 2)
        values: ViewMut<'a, u8>,
        /// (slots, heads, 2): what keys and values are multiplied by.
        scales: ViewMut<'a, f32>,
    },
}

/// Keys and values of one layer.
#[derive(Debug)]
pub struct Cache<'a, T> {
    /// They themselves.
    pub kept: Kept<'a, T>,
    /// Windows.
    pub slots: usize,
    /// Heads of the layer.
    pub heads: usize,
    /// Positions of a window.
    pub room: usize,
}

impl<T: Half> Cache<'_, T> {
    /// Refuses a cache that is not as its shape needs.
    pub(crate) fn check(&self, op: &'static str) -> Result<(), Error> {
        let Cache { kept, slots, heads, room } = self;
        check(room.is_multiple_of(2) && (2..=ROOM_MAX).contains(room), op, || {
            format!("room for {room} positions; it takes an even number up to {ROOM_MAX}")
        })?;
        check((1..=65_535).contains(heads) && u32::try_from(*slots).is_ok(), op, || {
            format!("{slots} slots of {heads} heads")
        })?;
        let needed = slots * heads * room * HEAD_WIDTH;
        let (keys, values) = match kept {
            Kept::Whole { keys, values } => ((keys.address(), keys.len()), (values.address(), values.len())),
            Kept::Bytes { keys, values, scales } => {
                check_array(op, "the scales", (scales.address(), scales.len()), slots * heads * 2)?;
                ((keys.address(), keys.len()), (values.address(), values.len()))
            }
        };
        check_array(op, "the cache of keys", keys, needed)?;
        check_array(op, "the cache of values", values, needed)
    }

    /// Where keys, values and scales (0 where there are none) of a slot begin.
    pub(crate) fn addresses(&self, slot: usize) -> [u64; 3] {
        let (values, scales) = (slot * self.heads * self.room * HEAD_WIDTH, slot * self.heads * 2);
        let at = |array: u64, elements: usize, size: usize| array + (elements * size) as u64;
        match &self.kept {
            Kept::Whole { keys, values: mixed } => {
                let size = size_of::<T>();
                [at(keys.address(), values, size), at(mixed.address(), values, size), 0]
            }
            Kept::Bytes { keys, values: mixed, scales: of } => [
                at(keys.address(), values, 1),
                at(mixed.address(), values, 1),
                at(of.address(), scales, size_of::<f32>()),
            ],
        }
    }
}

/// Keeps the keys and values of a window's `positions` in a slot.
pub fn fill_slot<T: Half>(
    device: &mut impl Device,
    kv: &View<'_, T>,
    positions: usize,
    cache: &mut Cache<'_, T>,
    slot: usize,
) -> Result<(), Error> {
    cache.check(OP)?;
    let Cache { slots, heads, room, .. } = *cache;
    check(slot < slots && (1..=room).contains(&positions), OP, || {
        format!("{positions} positions in slot {slot} of {slots} slots with room for {room}")
    })?;
    check_array(OP, "kv", (kv.address(), kv.len()), positions * 2 * heads * HEAD_WIDTH)?;
    let [keys, values, scales] = cache.addresses(slot);
    let bytes = matches!(cache.kept, Kept::Bytes { .. });
    if bytes {
        let launch = Launch {
            kernel: T::pick("cross_cache_scales_f16", "cross_cache_scales_bf16"),
            grid: [heads as u32, 2, 1],
            threads: THREADS,
            shared_bytes: 0,
        };
        let arguments = Arguments::new().read(kv).address(scales).number(positions);
        // SAFETY: the arguments are the kernel's parameters in order, and the arrays were checked to hold their shapes.
        unsafe { device.launch(&launch, &arguments)? };
    }
    let kernel = if bytes {
        T::pick("cross_cache_fill_f16_e4m3", "cross_cache_fill_bf16_e4m3")
    } else {
        T::pick("cross_cache_fill_f16", "cross_cache_fill_bf16")
    };
    let launch = Launch {
        kernel,
        grid: [positions.div_ceil(POSITIONS) as u32, heads as u32, 1],
        threads: THREADS,
        shared_bytes: 0,
    };
    let arguments = Arguments::new()
        .read(kv)
        .address(scales)
        .address(keys)
        .address(values)
        .number(positions)
        .number(room);
    // SAFETY: as above; keys and values are those of a slot that the cache has.
    unsafe { device.launch(&launch, &arguments) }
}

#[cfg(test)]
pub(crate) mod reference;
#[cfg(test)]
mod tests;
