//! Arrays in a device's memory, as launchers take them.

use std::marker::PhantomData;
use std::ops::Range;

use crate::device::{Error, check};
use crate::memory::Plain;

/// An array that a kernel reads.
pub type View<'a, T> = Array<&'a [T]>;

/// An array that a kernel writes, and may read.
pub type ViewMut<'a, T> = Array<&'a mut [T]>;

/// An address of the device and a number of elements, borrowed as the host would borrow `P`.
#[derive(Debug, Clone, Copy)]
pub struct Array<P> {
    address: u64,
    len: usize,
    of: PhantomData<P>,
}

impl<P> Array<P> {
    /// The `len` elements at `address`.
    ///
    /// # Safety
    /// They are memory of the device that kernels are launched on. For as long as the borrow lasts, nobody writes what
    /// a [`View`] reads, which is initialised, and nobody else touches what a [`ViewMut`] writes.
    pub unsafe fn new(address: u64, len: usize) -> Self {
        Array { address, len, of: PhantomData }
    }

    /// Where it begins.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<'a, T> Array<&'a [T]> {
    /// Some of the elements.
    pub fn part(&self, range: Range<usize>) -> Result<View<'a, T>, Error> {
        let (address, len) = self.place_of::<T>(range)?;
        // SAFETY: they are among those that are borrowed.
        Ok(unsafe { View::new(address, len) })
    }
}

impl<T> Array<&mut [T]> {
    /// As it is read.
    pub fn view(&self) -> View<'_, T> {
        // SAFETY: the borrow of this keeps others from writing.
        unsafe { View::new(self.address, self.len) }
    }

    /// Some of the elements.
    pub fn part_mut(&mut self, range: Range<usize>) -> Result<ViewMut<'_, T>, Error> {
        let (address, len) = self.place_of::<T>(range)?;
        // SAFETY: they are among those that are borrowed alone.
        Ok(unsafe { ViewMut::new(address, len) })
    }
}

impl<P> Array<P> {
    fn place_of<T>(&self, range: Range<usize>) -> Result<(u64, usize), Error> {
        let Range { start, end } = range;
        check(start <= end && end <= self.len, "a part of an array", || {
            format!("elements {start} to {end} of {}", self.len)
        })?;
        Ok((self.address + (start * size_of::<T>()) as u64, end - start))
    }
}

/// A number of two bytes that tensor cores multiply.
pub trait Half: Plain {
    /// Picks what is for this type: `(f16, bf16)`.
    fn pick<P>(of_f16: P, of_bf16: P) -> P;

    /// The nearest number.
    fn nearest(x: f32) -> Self;
}

impl Half for half::f16 {
    fn pick<P>(of_f16: P, _: P) -> P {
        of_f16
    }

    fn nearest(x: f32) -> Self {
        half::f16::from_f32(x)
    }
}

impl Half for half::bf16 {
    fn pick<P>(_: P, of_bf16: P) -> P {
        of_bf16
    }

    fn nearest(x: f32) -> Self {
        half::bf16::from_f32(x)
    }
}
