//! Arrays in a device's memory, as launchers take them.

use std::marker::PhantomData;

/// An array that a kernel reads: an address of the device and a number of elements.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, T> {
    address: u64,
    len: usize,
    of: PhantomData<&'a [T]>,
}

/// An array that a kernel writes, and may read.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    address: u64,
    len: usize,
    of: PhantomData<&'a mut [T]>,
}

impl<T> View<'_, T> {
    /// The `len` elements at `address`.
    ///
    /// # Safety
    /// They are initialised memory of the device that kernels are launched on, and nobody writes them during `'a`.
    pub unsafe fn new(address: u64, len: usize) -> Self {
        View { address, len, of: PhantomData }
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

impl<T> ViewMut<'_, T> {
    /// The `len` elements at `address`.
    ///
    /// # Safety
    /// They are memory of the device that kernels are launched on, and nobody else touches them during `'a`.
    pub unsafe fn new(address: u64, len: usize) -> Self {
        ViewMut { address, len, of: PhantomData }
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

/// A number of two bytes that tensor cores multiply.
pub trait Half: Copy + Send + Sync + 'static {
    /// Picks what is for this type: `(f16, bf16)`.
    fn pick<P>(of_f16: P, of_bf16: P) -> P;
}

impl Half for half::f16 {
    fn pick<P>(of_f16: P, _: P) -> P {
        of_f16
    }
}

impl Half for half::bf16 {
    fn pick<P>(_: P, of_bf16: P) -> P {
        of_bf16
    }
}
