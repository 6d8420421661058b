//! What the products of the rooms have in common: their sizes, what becomes of them, and the tiles of those of many rows.

use crate::view::ViewMut;

/// Sizes of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows of input and output.
    pub rows: usize,
    /// Values of a row of the input.
    pub depth: usize,
    /// Values of a row of the output.
    pub width: usize,
}

/// Where a product goes, (rows, width).
#[derive(Debug)]
pub enum Output<'a, T> {
    /// Stored.
    Store(ViewMut<'a, T>),
    /// Stored behind the activation, the exact (erf) GELU.
    Gelu(ViewMut<'a, T>),
    /// Added to the residual stream.
    Add(ViewMut<'a, f32>),
    /// Stored in f32: logits.
    StoreFloat(ViewMut<'a, f32>),
}

impl<T> Output<'_, T> {
    /// Address and elements of the array, and what is to be done, as in `output.cuh`.
    pub(crate) fn parts(&self) -> ((u64, usize), usize) {
        match self {
            Output::Store(y) => ((y.address(), y.len()), 0),
            Output::Gelu(y) => ((y.address(), y.len()), 1),
            Output::Add(y) => ((y.address(), y.len()), 2),
            Output::StoreFloat(y) => ((y.address(), y.len()), 3),
        }
    }
}

/// Side of the square of a product that a block makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tile {
    /// 64
    Small,
    /// 128
    Large,
}

impl Tile {
    /// Threads of a block, as in `product.cuh`.
    pub(crate) const THREADS: u32 = 128;
    /// Bytes of its shared memory, as there.
    pub(crate) const SHARED_BYTES: u32 = 48 << 10;

    /// The large one, unless so few of them make `rows`, a number for each part that is tiled by itself, by `width` that more
    /// than half of the 132 multiprocessors of an H100 would have none: then the small one is as fast or faster, though it
    /// reads twice as much for a product. The bits that come out are the same.
    pub(crate) fn of(rows: impl Iterator<Item = usize>, width: usize) -> Tile {
        let side = Tile::Large.side();
        let tiles = rows.map(|rows| rows.div_ceil(side)).sum::<usize>() * width.div_ceil(side);
        if tiles < 66 { Tile::Small } else { Tile::Large }
    }

    pub(crate) fn side(self) -> usize {
        match self {
            Tile::Small => 64,
            Tile::Large => 128,
        }
    }
}

#[cfg(test)]
pub(crate) mod reference;
