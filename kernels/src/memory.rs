//! Arrays of a device that somebody owns, and memory of the host that a device reads and writes by itself.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;

use crate::device::Error;
use crate::view::{View, ViewMut};

/// What stands in arrays.
///
/// # Safety
/// Every pattern of bits is a value, and no byte of it is padding.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}

macro_rules! plain {
    ($($number:ty)*) => {
        $(
            // SAFETY: a number of the machine.
            unsafe impl Plain for $number {}
        )*
    };
}
plain!(u8 u16 u32 u64 i8 i16 i32 i64 f32 f64 half::f16 half::bf16);

/// The bytes of an array.
pub(crate) fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: as many bytes, all of them initialised.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The same, to write.
pub(crate) fn bytes_of_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as many bytes, all of them initialised, and whatever is written is a value.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// Bytes of a device's memory, given back when this is dropped.
pub struct Block {
    address: u64,
    _owner: Box<dyn Any + Send + Sync>,
}

impl Block {
    /// The bytes from `address` on, a multiple of 16. They are the block's until it drops `owner`.
    pub fn new(address: u64, owner: impl Any + Send + Sync) -> Block {
        Block { address, _owner: Box::new(owner) }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.address)
    }
}

/// An array in a device's memory. Dropped, it is given back behind everything that was asked of the device before; any thread
/// may do that.
#[derive(Debug)]
pub struct Memory<T> {
    block: Block,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Plain> Memory<T> {
    /// An array of `len` in a block that has room for as many.
    pub(crate) fn new(block: Block, len: usize) -> Memory<T> {
        Memory { block, len, of: PhantomData }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// As a kernel reads it.
    pub fn view(&self) -> View<'_, T> {
        // SAFETY: the block has as many elements and lives as long as the borrow; any bits of it are a value.
        unsafe { View::new(self.block.address, self.len) }
    }

    /// As a kernel writes it.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        // SAFETY: as above, and it is borrowed alone.
        unsafe { ViewMut::new(self.block.address, self.len) }
    }
}

/// Memory of the host that a device reads and writes while the host goes on.
pub trait HostBlock: Send + Sync {
    /// Where it begins, at a multiple of 16. It stays there.
    fn place(&self) -> *mut u8;
    /// Notes that the device has just been asked to read or write it.
    fn asked(&mut self) -> Result<(), Error>;
    /// Waits until the device has done what it was asked for.
    fn wait(&self) -> Result<(), Error>;
}

/// An array in such memory: what it holds can only be looked at or changed when no copy is under way.
pub struct Pinned<T> {
    block: Box<dyn HostBlock>,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Plain> Pinned<T> {
    /// An array of `len` in a block that has room for as many and is initialised.
    pub(crate) fn new(block: Box<dyn HostBlock>, len: usize) -> Pinned<T> {
        Pinned { block, len, of: PhantomData }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements, once the copies that were asked for are done.
    pub fn get(&self) -> Result<&[T], Error> {
        self.block.wait()?;
        // SAFETY: the block holds as many, initialised, any bits are a value, and a copy that begins borrows this alone.
        Ok(unsafe { std::slice::from_raw_parts(self.block.place().cast(), self.len) })
    }

    /// The same, to write.
    pub fn get_mut(&mut self) -> Result<&mut [T], Error> {
        self.block.wait()?;
        // SAFETY: as above, and it is borrowed alone.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.block.place().cast(), self.len) })
    }

    pub(crate) fn block(&mut self) -> &mut dyn HostBlock {
        &mut *self.block
    }
}

impl<T> fmt::Debug for Pinned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} elements of pinned memory", self.len)
    }
}
