//! Products with weights, `y = x Wᵀ + b`, in int8 and in f32, with the weights in panels. For f32 the weights are stored
//! as they are or as bf16, their upper halves, which is half the memory and half of what is read.
//!
//! A panel holds [`PANEL`] neighbouring outputs, so that one pass over it serves up to [`TILE`] rows of x from
//! registers. int8 panels are (inputs / 4, 64, 4), the form that `vpdpbusd` wants: four inputs of 64 outputs; f32
//! and bf16 panels are (inputs, 64). What is missing to full panels is zero.
//!
//! int8: a weight is q · scale with a scale for each output and q in -127..=127; a row of x is q · scale with a scale of
//! its own, stored as q + 128 in an unsigned byte. Sums of integers are exact, so every instruction set gives the same
//! bits. f32: each output adds its products in the order of the inputs, one at a time, so a row gives the same bits
//! alone and beside any others. bf16 gives the bits that f32 gives with the rounded weights.

use std::ops::Range;

use super::parts::Parts;
use super::team::Team;
use crate::math;

use half::bf16;
use stored::Stored;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod gelu;
mod portable;
mod stored;
#[cfg(test)]
mod tests;

/// Outputs of a panel.
pub const PANEL: usize = 64;

/// Rows that share one pass over a panel.
pub const TILE: usize = 6;

/// Rows from which a product is shared out by blocks of rows too.
const BLOCK: usize = 48;

/// Instructions that the loops use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 F, BW, VL, VNNI.
    Avx512,
    /// AVX2 and FMA.
    Avx2,
    /// Whatever the compiler may assume.
    Portable,
}

impl Isa {
    /// The best one that this processor has.
    pub fn detect() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
            {
                return Isa::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Isa::Avx2;
            }
        }
        Isa::Portable
    }

    /// Its name, for reports.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Avx512 => "avx512-vnni",
            Isa::Avx2 => "avx2",
            Isa::Portable => "portable",
        }
    }
}

/// Weights of a layer in panels.
#[derive(Debug, Clone, Copy)]
pub enum Weights<'a> {
    /// q · scale.
    Int8 {
        /// (panels, inputs / 4, 64, 4)
        panels: &'a [i8],
        /// Scale of each output, (panels · 64).
        scales: &'a [f32],
        /// -128 times the sum of an output's weights, which takes back the 128 in each byte of x: (panels · 64).
        offsets: &'a [i32],
    },
    /// As they are: (panels, inputs, 64).
    F32 {
        /// The panels.
        panels: &'a [f32],
    },
    /// Rounded to 8 bits of mantissa: (panels, inputs, 64).
    Bf16 {
        /// The panels.
        panels: &'a [bf16],
    },
}

/// A layer, its weights somewhere else.
#[derive(Debug, Clone, Copy)]
pub struct Linear<'a> {
    /// Width of a row of x.
    pub inputs: usize,
    /// Width of a row of y.
    pub outputs: usize,
    /// The weights.
    pub weights: Weights<'a>,
    /// Bias, (panels · 64).
    pub bias: &'a [f32],
}

/// Rows of x in the form that the weights want.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// Bytes q + 128 and a scale for each row.
    Int8 {
        /// Rows `stride` apart, each of at least the inputs rounded up to 4.
        bytes: &'a [u8],
        /// Distance of rows.
        stride: usize,
        /// (rows)
        scales: &'a [f32],
    },
    /// f32 as they are.
    F32 {
        /// Rows `stride` apart; they may overlap, as those of a convolution do.
        values: &'a [f32],
        /// Distance of rows.
        stride: usize,
    },
}

/// Where rows of y go: written by several tasks at once.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// All rows.
    pub parts: Parts<'a, f32>,
    /// Distance of rows.
    pub stride: usize,
}

impl<'a> Target<'a> {
    /// Rows `stride` apart.
    pub fn new(y: &'a mut [f32], stride: usize) -> Target<'a> {
        Target { parts: Parts::new(y), stride }
    }
}

/// What becomes of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// y = x Wᵀ + b
    Set,
    /// y += x Wᵀ + b
    Add,
    /// y = the activation of x Wᵀ + b
    Gelu,
}

/// One panel against up to [`TILE`] rows, in int8.
struct Int8Tile {
    x: *const u8,
    x_stride: usize,
    /// Groups of four inputs.
    quads: usize,
    x_scales: *const f32,
    panel: *const i8,
    scales: *const f32,
    offsets: *const i32,
    bias: *const f32,
    y: *mut f32,
    y_stride: usize,
    /// Outputs of the panel that exist: 1..=64.
    columns: usize,
}

/// One panel of weights stored so against up to [`TILE`] rows, in f32.
struct F32Tile<W> {
    x: *const f32,
    x_stride: usize,
    inputs: usize,
    panel: *const W,
    bias: *const f32,
    y: *mut f32,
    y_stride: usize,
    columns: usize,
}

impl Linear<'_> {
    /// Panels of the weights.
    pub fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// All of y (rows, outputs) by the whole team.
    pub fn apply(&self, isa: Isa, team: &Team, x: Rows<'_>, rows: usize, y: &mut [f32], store: Store) {
        let target = Target::new(y, self.outputs);
        let (panels, shares) = (self.panels(), team.threads() * 4);
        let blocks = rows.div_ceil(BLOCK);
        // Few rows: each task streams its own share of the weights. Many: a share stays in the cache for a block.
        let groups = panels.min(shares.div_ceil(blocks.max(1)).max(panels.div_ceil(16)));
        team.run(blocks * groups, &|_, task| {
            let (block, group) = (task / groups, task % groups);
            let rows = block * BLOCK..rows.min((block + 1) * BLOCK);
            let panels = group * panels / groups..(group + 1) * panels / groups;
            // SAFETY: each task has its own rows and columns of y.
            unsafe { self.multiply(isa, x, rows, panels, target, store) };
        });
    }

    /// The columns of `panels` for `rows` of x into the same rows of y, on this thread.
    ///
    /// # Safety
    /// Nobody else reads or writes these rows and columns of y at the same time.
    pub unsafe fn multiply(
        &self,
        isa: Isa,
        x: Rows<'_>,
        rows: Range<usize>,
        panels: Range<usize>,
        y: Target<'_>,
        store: Store,
    ) {
        if rows.is_empty() || panels.is_empty() {
            return;
        }
        let (all, padded) = (self.panels(), self.panels() * PANEL);
        assert!(panels.end <= all && self.bias.len() == padded, "the panels are the layer's");
        assert!((rows.end - 1) * y.stride + self.outputs <= y.parts.len(), "y has room for the rows");
        match (x, self.weights) {
            (
                Rows::Int8 { bytes, stride, scales: x_scales },
                Weights::Int8 { panels: w, scales, offsets },
            ) => {
                let quads = self.inputs.div_ceil(4);
                assert!((rows.end - 1) * stride + quads * 4 <= bytes.len(), "x holds the rows");
                assert!(rows.end <= x_scales.len(), "each row has a scale");
                assert_eq!((w.len(), scales.len(), offsets.len()), (padded * quads * 4, padded, padded));
                for panel in panels {
                    for row in rows.clone().step_by(TILE) {
                        let count = TILE.min(rows.end - row);
                        // SAFETY: the assertions above keep all that the tile reads and writes inside the slices: rows
                        // below `rows.end`, panels below `all`, columns below the outputs.
                        unsafe {
                            let tile = Int8Tile {
                                x: bytes.as_ptr().add(row * stride),
                                x_stride: stride,
                                quads,
                                x_scales: x_scales.as_ptr().add(row),
                                panel: w.as_ptr().add(panel * quads * 4 * PANEL),
                                scales: scales.as_ptr().add(panel * PANEL),
                                offsets: offsets.as_ptr().add(panel * PANEL),
                                bias: self.bias.as_ptr().add(panel * PANEL),
                                y: y.parts.as_mut_ptr().add(row * y.stride + panel * PANEL),
                                y_stride: y.stride,
                                columns: PANEL.min(self.outputs - panel * PANEL),
                            };
                            multiply_int8(isa, count, &tile, store);
                            if store == Store::Gelu {
                                activate_int8(isa, count, tile.y, tile.y_stride, tile.columns);
                            }
                        }
                    }
                }
            }
            // SAFETY: the caller's promise; the assertions above are what is asked for.
            (Rows::F32 { values, stride }, Weights::F32 { panels: w }) => unsafe {
                self.multiply_wide(isa, (values, stride), w, rows, panels, y, store);
            },
            // SAFETY: as above.
            (Rows::F32 { values, stride }, Weights::Bf16 { panels: w }) => unsafe {
                self.multiply_wide(isa, (values, stride), w, rows, panels, y, store);
            },
            _ => panic!("x is prepared for the layer's form of weights"),
        }
    }

    /// The part of [`Linear::multiply`] that is done in f32: `values` are rows and their distance, `w` all panels.
    ///
    /// # Safety
    /// As [`Linear::multiply`], whose assertions hold: the panels are the layer's, y has room, and so has the bias.
    #[expect(clippy::too_many_arguments, reason = "what a product is of, as the caller has it")]
    unsafe fn multiply_wide<W: Stored>(
        &self,
        isa: Isa,
        (values, stride): (&[f32], usize),
        w: &[W],
        rows: Range<usize>,
        panels: Range<usize>,
        y: Target<'_>,
        store: Store,
    ) {
        assert!((rows.end - 1) * stride + self.inputs <= values.len(), "x holds the rows");
        assert_eq!(w.len(), self.panels() * PANEL * self.inputs);
        for panel in panels {
            for row in rows.clone().step_by(TILE) {
                let count = TILE.min(rows.end - row);
                // SAFETY: the assertions here and the caller's keep all that the tile reads and writes inside the slices.
                unsafe {
                    let tile = F32Tile {
                        x: values.as_ptr().add(row * stride),
                        x_stride: stride,
                        inputs: self.inputs,
                        panel: w.as_ptr().add(panel * self.inputs * PANEL),
                        bias: self.bias.as_ptr().add(panel * PANEL),
                        y: y.parts.as_mut_ptr().add(row * y.stride + panel * PANEL),
                        y_stride: y.stride,
                        columns: PANEL.min(self.outputs - panel * PANEL),
                    };
                    multiply_f32(isa, count, &tile, store);
                    if store == Store::Gelu {
                        activate_f32(count, tile.y, tile.y_stride, tile.columns);
                    }
                }
            }
        }
    }

    /// Row `output` of the weights (inputs): the embedding of a token where the layer gives the logits.
    pub fn row(&self, output: usize, row: &mut [f32]) {
        assert!(output < self.outputs && row.len() == self.inputs, "a row of the weights is (inputs)");
        let (panel, column) = (output / PANEL, output % PANEL);
        match self.weights {
            Weights::Int8 { panels, scales, .. } => {
                let panel = &panels[panel * self.inputs.div_ceil(4) * 4 * PANEL..];
                for (i, x) in row.iter_mut().enumerate() {
                    *x = f32::from(panel[(i / 4 * PANEL + column) * 4 + i % 4]) * scales[output];
                }
            }
            Weights::F32 { panels } => unpack(&panels[panel * self.inputs * PANEL..], column, row),
            Weights::Bf16 { panels } => unpack(&panels[panel * self.inputs * PANEL..], column, row),
        }
    }
}

/// A column of a panel.
fn unpack<W: Stored>(panel: &[W], column: usize, row: &mut [f32]) {
    row.iter_mut().enumerate().for_each(|(i, x)| *x = panel[i * PANEL + column].wide());
}

/// Puts a tile's results in int8 through the activation while they are near.
///
/// # Safety
/// `y` is `rows` rows of `columns` values, `stride` apart, and nobody else's.
unsafe fn activate_int8(isa: Isa, rows: usize, y: *mut f32, stride: usize, columns: usize) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 {
        // SAFETY: the caller's promise; an instruction set is only named where it was found.
        return unsafe { avx512::activate(y, stride, rows, columns) };
    }
    let _ = isa;
    for row in 0..rows {
        // SAFETY: the caller's promise.
        gelu::activate(unsafe { std::slice::from_raw_parts_mut(y.add(row * stride), columns) });
    }
}

/// The same in f32.
///
/// # Safety
/// As [`activate_int8`].
unsafe fn activate_f32(rows: usize, y: *mut f32, stride: usize, columns: usize) {
    for row in 0..rows {
        // SAFETY: the caller's promise.
        math::gelu(unsafe { std::slice::from_raw_parts_mut(y.add(row * stride), columns) });
    }
}

/// Calls the kernel for a tile of this many rows.
macro_rules! rows {
    ($rows:ident, $tile:ident, $set:ident :: $kernel:ident $(<$stored:ident>)?, $add:literal) => {
        match $rows {
            1 => $set::$kernel::<$($stored,)? 1, $add>($tile),
            2 => $set::$kernel::<$($stored,)? 2, $add>($tile),
            3 => $set::$kernel::<$($stored,)? 3, $add>($tile),
            4 => $set::$kernel::<$($stored,)? 4, $add>($tile),
            5 => $set::$kernel::<$($stored,)? 5, $add>($tile),
            _ => $set::$kernel::<$($stored,)? 6, $add>($tile),
        }
    };
}

/// Runs one tile of 1 to [`TILE`] rows.
///
/// # Safety
/// The tile's pointers are valid for what its sizes say, and y is nobody else's.
unsafe fn multiply_int8(isa: Isa, rows: usize, tile: &Int8Tile, store: Store) {
    // SAFETY: the caller's promise; an instruction set is only named where it was found.
    unsafe {
        match (isa, store) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Store::Set | Store::Gelu) => rows!(rows, tile, avx512::int8, false),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Store::Add) => rows!(rows, tile, avx512::int8, true),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, Store::Set | Store::Gelu) => rows!(rows, tile, avx2::int8, false),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, Store::Add) => rows!(rows, tile, avx2::int8, true),
            (_, Store::Set | Store::Gelu) => portable::int8::<false>(rows, tile),
            (_, Store::Add) => portable::int8::<true>(rows, tile),
        }
    }
}

/// As [`multiply_int8`].
///
/// # Safety
/// As [`multiply_int8`].
unsafe fn multiply_f32<W: Stored>(isa: Isa, rows: usize, tile: &F32Tile<W>, store: Store) {
    // SAFETY: the caller's promise; an instruction set is only named where it was found.
    unsafe {
        match (isa, store) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Store::Set | Store::Gelu) => rows!(rows, tile, avx512::f32<W>, false),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Store::Add) => rows!(rows, tile, avx512::f32<W>, true),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, Store::Set | Store::Gelu) => rows!(rows, tile, avx2::f32<W>, false),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, Store::Add) => rows!(rows, tile, avx2::f32<W>, true),
            (_, Store::Set | Store::Gelu) => portable::f32::<W, false>(rows, tile),
            (_, Store::Add) => portable::f32::<W, true>(rows, tile),
        }
    }
}

/// Puts a row into bytes: q + 128 with q = round(x · 127 / the largest magnitude); returns the scale. Bytes beyond the
/// row's end are 128, which is 0.
pub fn quantise(isa: Isa, x: &[f32], bytes: &mut [u8]) -> f32 {
    assert!(bytes.len() >= x.len(), "there is a byte for each value");
    let (used, rest) = bytes.split_at_mut(x.len());
    rest.fill(128);
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction set is only named where it was found.
        Isa::Avx512 => unsafe { avx512::quantise(x, used) },
        _ => portable::quantise(x, used),
    }
}

/// The nearest whole number, ties to even, of a magnitude below 2^22: what the sum leaves of the fraction. The function of
/// the standard library is a call where the instruction may not be assumed.
fn round(x: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0; // 1.5 * 2^23
    (x + NO_FRACTION) - NO_FRACTION
}

/// Puts weights (outputs, inputs) into int8 panels; the slices have the sizes of [`Weights::Int8`].
pub fn pack_int8(
    weights: &[f32],
    [outputs, inputs]: [usize; 2],
    panels: &mut [i8],
    scales: &mut [f32],
    offsets: &mut [i32],
) {
    panels.fill(0);
    scales.fill(0.0);
    offsets.fill(0);
    let stride = inputs.div_ceil(4) * 4 * PANEL;
    for (output, row) in weights.chunks_exact(inputs).enumerate().take(outputs) {
        let largest = row.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        let panel = &mut panels[output / PANEL * stride..][..stride];
        let mut sum = 0;
        for (i, x) in row.iter().enumerate() {
            let q = round(x * inverse) as i8;
            panel[(i / 4 * PANEL + output % PANEL) * 4 + i % 4] = q;
            sum += i32::from(q);
        }
        scales[output] = largest / 127.0;
        offsets[output] = -128 * sum;
    }
}

/// Puts weights (outputs, inputs) into f32 panels.
pub fn pack_f32(weights: &[f32], size: [usize; 2], panels: &mut [f32]) {
    pack(weights, size, panels, 0.0, |x| x);
}

/// Puts weights (outputs, inputs) into bf16 panels, each rounded to the nearest, ties to even.
pub fn pack_bf16(weights: &[f32], size: [usize; 2], panels: &mut [bf16]) {
    pack(weights, size, panels, bf16::ZERO, bf16::from_f32);
}

fn pack<W: Copy>(
    weights: &[f32],
    [outputs, inputs]: [usize; 2],
    panels: &mut [W],
    zero: W,
    of: impl Fn(f32) -> W,
) {
    panels.fill(zero);
    for (output, row) in weights.chunks_exact(inputs).enumerate().take(outputs) {
        let panel = &mut panels[output / PANEL * inputs * PANEL..][..inputs * PANEL];
        row.iter().enumerate().for_each(|(i, x)| panel[i * PANEL + output % PANEL] = of(*x));
    }
}
