//! The weights of a model in one piece of memory, in the form in which the loops read them. A piece is its places: where
//! what begins is a matter of the model's sizes and the precision alone, so a file that holds the bytes can be mapped and
//! used as it is.

use std::marker::PhantomData;

use half::bf16;
use memmap2::Mmap;

use super::linear::{Linear, PANEL, Weights};

/// Where each array begins, in bytes: a cache line.
const ALIGNMENT: usize = 64;

/// All weights of a model.
pub struct Image {
    bytes: Bytes,
}

enum Bytes {
    Owned(Vec<Line>),
    /// A file, and where in it the image begins.
    Mapped(Mmap, usize),
}

/// Memory that begins where a cache line does.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; ALIGNMENT]);

/// A number whose every pattern of bits is a value.
///
/// # Safety
/// No padding, no invalid patterns, alignment of at most 64.
pub unsafe trait Plain: Copy {}
// SAFETY: whole and floating numbers.
unsafe impl Plain for i8 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}
// SAFETY: as above; it is its two bytes.
unsafe impl Plain for bf16 {}

/// An array inside an image.
#[derive(Debug, Clone, Copy)]
pub struct Place<T> {
    /// First byte.
    start: usize,
    /// Elements.
    len: usize,
    kind: PhantomData<T>,
}

/// A layer inside an image.
#[derive(Debug, Clone, Copy)]
pub struct LinearPlace {
    /// Width of what it reads.
    pub inputs: usize,
    /// Width of what it gives.
    pub outputs: usize,
    /// The weights.
    pub weights: WeightsPlace,
    /// (panels · 64)
    pub bias: Place<f32>,
}

/// Weights inside an image; see [`Weights`].
#[derive(Debug, Clone, Copy)]
pub enum WeightsPlace {
    /// Whole numbers with a scale for each output.
    Int8 {
        /// Panels.
        panels: Place<i8>,
        /// Scales.
        scales: Place<f32>,
        /// Offsets.
        offsets: Place<i32>,
    },
    /// As they are.
    F32 {
        /// Panels.
        panels: Place<f32>,
    },
    /// Rounded to 8 bits of mantissa.
    Bf16 {
        /// Panels.
        panels: Place<bf16>,
    },
}

/// Scale and shift of a normalisation inside an image, each (width).
#[derive(Debug, Clone, Copy)]
pub struct NormPlace {
    /// Scale.
    pub gamma: Place<f32>,
    /// Shift.
    pub beta: Place<f32>,
}

/// How the weights of the layers are stored, and the precision of the products with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Whole numbers of 8 bits with a scale for each output; what they are multiplied with is rounded likewise.
    #[default]
    Int8,
    /// Single precision, with weights that are stored as bf16: half the memory of f32, and half of what a step reads.
    Bf16,
    /// Single precision throughout.
    F32,
}

impl Precision {
    /// All of them, the smallest first.
    pub const ALL: [Precision; 3] = [Precision::Int8, Precision::Bf16, Precision::F32];

    /// The one of a name.
    pub fn of(name: &str) -> Option<Precision> {
        Precision::ALL.into_iter().find(|precision| precision.name() == name)
    }

    /// Its name, for settings and reports.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Int8 => "int8",
            Precision::Bf16 => "bf16",
            Precision::F32 => "f32",
        }
    }
}

/// Gives out places one behind the other.
#[derive(Debug, Default)]
pub struct Layout {
    end: usize,
}

impl Layout {
    /// A place for `len` elements.
    pub fn place<T: Plain>(&mut self, len: usize) -> Place<T> {
        let start = self.end;
        self.end = (start + len * size_of::<T>()).next_multiple_of(ALIGNMENT);
        Place { start, len, kind: PhantomData }
    }

    /// A place for a layer.
    pub fn linear(&mut self, precision: Precision, outputs: usize, inputs: usize) -> LinearPlace {
        let padded = outputs.next_multiple_of(PANEL);
        let weights = match precision {
            Precision::Int8 => WeightsPlace::Int8 {
                panels: self.place(padded * inputs.next_multiple_of(4)),
                scales: self.place(padded),
                offsets: self.place(padded),
            },
            Precision::Bf16 => WeightsPlace::Bf16 { panels: self.place(padded * inputs) },
            Precision::F32 => WeightsPlace::F32 { panels: self.place(padded * inputs) },
        };
        LinearPlace { inputs, outputs, weights, bias: self.place(padded) }
    }

    /// A place for a normalisation.
    pub fn norm(&mut self, width: usize) -> NormPlace {
        NormPlace { gamma: self.place(width), beta: self.place(width) }
    }

    /// Bytes of all places so far.
    pub fn bytes(&self) -> usize {
        self.end
    }
}

impl Image {
    /// An image of zeros for all places of a layout.
    pub fn new(layout: &Layout) -> Image {
        Image { bytes: Bytes::Owned(vec![Line([0; ALIGNMENT]); layout.end / ALIGNMENT]) }
    }

    /// An image in a file, from `start` on, a multiple of 64.
    pub fn mapped(map: Mmap, start: usize) -> Image {
        Image { bytes: Bytes::Mapped(map, start) }
    }

    /// How many bytes it is.
    pub fn size(&self) -> usize {
        self.bytes().len()
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Owned(lines) => lines.as_flattened_bytes(),
            Bytes::Mapped(map, start) => &map[*start..],
        }
    }

    /// The array at a place.
    pub fn get<T: Plain>(&self, place: Place<T>) -> &[T] {
        let bytes = &self.bytes()[place.start..][..place.len * size_of::<T>()];
        assert!(bytes.as_ptr().cast::<T>().is_aligned(), "places begin where cache lines do");
        // SAFETY: the bytes are inside the image and aligned, and any bits are a value of a plain number.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), place.len) }
    }

    /// The array at a place, to fill it; only of an image in memory.
    pub fn get_mut<T: Plain>(&mut self, place: Place<T>) -> &mut [T] {
        let Bytes::Owned(lines) = &mut self.bytes else { panic!("a mapped image is not written") };
        let bytes = &mut lines.as_flattened_bytes_mut()[place.start..][..place.len * size_of::<T>()];
        assert!(bytes.as_ptr().cast::<T>().is_aligned(), "places begin where cache lines do");
        // SAFETY: as in `get`; the borrow of the image is exclusive.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), place.len) }
    }

    /// The layer at a place.
    pub fn linear(&self, place: &LinearPlace) -> Linear<'_> {
        let weights = match place.weights {
            WeightsPlace::Int8 { panels, scales, offsets } => Weights::Int8 {
                panels: self.get(panels),
                scales: self.get(scales),
                offsets: self.get(offsets),
            },
            WeightsPlace::F32 { panels } => Weights::F32 { panels: self.get(panels) },
            WeightsPlace::Bf16 { panels } => Weights::Bf16 { panels: self.get(panels) },
        };
        Linear { inputs: place.inputs, outputs: place.outputs, weights, bias: self.get(place.bias) }
    }

    /// Scale and shift of the normalisation at a place.
    pub fn norm(&self, place: &NormPlace) -> (&[f32], &[f32]) {
        (self.get(place.gamma), self.get(place.beta))
    }
}

trait AsBytes {
    fn as_flattened_bytes(&self) -> &[u8];
    fn as_flattened_bytes_mut(&mut self) -> &mut [u8];
}

impl AsBytes for Vec<Line> {
    fn as_flattened_bytes(&self) -> &[u8] {
        // SAFETY: lines are bytes without gaps.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len() * ALIGNMENT) }
    }

    fn as_flattened_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), self.len() * ALIGNMENT) }
    }
}
