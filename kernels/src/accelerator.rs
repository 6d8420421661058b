//! What a model's computation asks of a device beside launches: memory, copies, and series of launches that come again.

use crate::device::{Device, Error, check};
use crate::memory::{Block, HostBlock, Memory, Pinned, Plain, bytes_of, bytes_of_mut};
use crate::view::{View, ViewMut};

/// A device that holds arrays. Whatever is written on this runs on a GPU (`gpu::Gpu`) and, in tests, on the emulator
/// (`emulator::Emulator`).
///
/// Everything happens in the order in which it was asked for. Launches and copies on the device return before they are done;
/// what hands values to the host waits.
pub trait Accelerator: Device {
    /// Bytes that are free.
    fn room(&mut self) -> Result<usize, Error>;

    /// Waits until everything that was asked for is done, and says what went wrong in it.
    fn synchronize(&mut self) -> Result<(), Error>;

    /// Does `work`, which launches the same kernels each time that this key is given. After the first times `work` is not called
    /// any more: what it launched is launched again as one thing, at a cost to the host of some microseconds whatever the number
    /// of kernels.
    ///
    /// So nothing may change between two times with one key but what stands in the arrays. Kernels, their order, grids, numbers
    /// and addresses are those that were recorded: whatever decides them (rows, padded lengths, which buffer) belongs in the
    /// key, and what changes at each step (tokens, positions, seeds) belongs in an array that a kernel reads. `work` must leave
    /// nothing behind on the host either. The emulator does the work each time, and refuses a key whose work is another than it
    /// was; or it repeats as a GPU does (`Emulator::with_replays`).
    ///
    /// `work` may launch, fill and copy on the device. To allocate, to move anything between host and device, and to wait are
    /// refused. Work inside of work belongs to the outer. Once any [`Memory`] has been dropped, or more keys came than are kept, all
    /// is recorded anew. Each key that came twice holds some memory of host and device until then, so keys should be few: round
    /// lengths up. What cannot be recorded is done as it stands.
    fn graph<E: From<Error>>(
        &mut self,
        key: GraphKey,
        work: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E>
    where
        Self: Sized;

    /// Allocates, uninitialised, at a multiple of 16. No bytes are a block too.
    fn allocate_bytes(&mut self, bytes: usize) -> Result<Block, Error>;

    /// Allocates memory of the host that the device reads and writes by itself, all zero.
    fn allocate_pinned_bytes(&mut self, bytes: usize) -> Result<Box<dyn HostBlock>, Error>;

    /// Sets bytes on the device.
    ///
    /// # Safety
    /// They are the device's and nobody else uses them; the same is true of all addresses below.
    unsafe fn fill_bytes(&mut self, to: u64, byte: u8, bytes: usize) -> Result<(), Error>;

    /// Copies on the device, between places that do not overlap.
    ///
    /// # Safety
    /// As above.
    unsafe fn copy_bytes(&mut self, from: u64, to: u64, bytes: usize) -> Result<(), Error>;

    /// Copies to the device, and waits.
    ///
    /// # Safety
    /// As above.
    unsafe fn upload_bytes(&mut self, from: &[u8], to: u64) -> Result<(), Error>;

    /// Copies from the device, and waits.
    ///
    /// # Safety
    /// As above.
    unsafe fn download_bytes(&mut self, from: u64, to: &mut [u8]) -> Result<(), Error>;

    /// Copies the first bytes of a block to the device, later.
    ///
    /// # Safety
    /// As above, and the block is as long.
    unsafe fn upload_bytes_later(
        &mut self,
        from: &mut dyn HostBlock,
        to: u64,
        bytes: usize,
    ) -> Result<(), Error>;

    /// Copies from the device to the first bytes of a block, later.
    ///
    /// # Safety
    /// As above, and the block is as long.
    unsafe fn download_bytes_later(
        &mut self,
        from: u64,
        to: &mut dyn HostBlock,
        bytes: usize,
    ) -> Result<(), Error>;

    /// An array that something will be written into before it is read.
    fn uninitialised<T: Plain>(&mut self, len: usize) -> Result<Memory<T>, Error> {
        let bytes = len.checked_mul(size_of::<T>());
        let bytes = bytes.ok_or_else(|| contract("allocation", format!("{len} elements")))?;
        Ok(Memory::new(self.allocate_bytes(bytes)?, len))
    }

    /// An array of zeros.
    fn zeroed<T: Plain>(&mut self, len: usize) -> Result<Memory<T>, Error> {
        let mut memory = self.uninitialised(len)?;
        self.clear(&mut memory.view_mut())?;
        Ok(memory)
    }

    /// An array that holds these values. Waits.
    fn stored<T: Plain>(&mut self, values: &[T]) -> Result<Memory<T>, Error> {
        let mut memory = self.uninitialised(values.len())?;
        self.upload(values, &mut memory.view_mut())?;
        Ok(memory)
    }

    /// Sets an array to zeros.
    fn clear<T: Plain>(&mut self, to: &mut ViewMut<'_, T>) -> Result<(), Error> {
        // SAFETY: the array's own bytes, borrowed alone.
        unsafe { self.fill_bytes(to.address(), 0, size_of::<T>() * to.len()) }
    }

    /// Copies an array on the device.
    fn copy<T: Plain>(&mut self, from: &View<'_, T>, to: &mut ViewMut<'_, T>) -> Result<(), Error> {
        check_lengths("copy", from.len(), to.len())?;
        // SAFETY: both arrays are as long; one is borrowed alone, so they do not overlap.
        unsafe { self.copy_bytes(from.address(), to.address(), size_of::<T>() * to.len()) }
    }

    /// Copies values to the device. Waits, so it is for weights, not for steps.
    fn upload<T: Plain>(&mut self, from: &[T], to: &mut ViewMut<'_, T>) -> Result<(), Error> {
        check_lengths("upload", from.len(), to.len())?;
        // SAFETY: the array is as long and borrowed alone.
        unsafe { self.upload_bytes(bytes_of(from), to.address()) }
    }

    /// Copies values from the device. Waits.
    fn download<T: Plain>(&mut self, from: &View<'_, T>, to: &mut [T]) -> Result<(), Error> {
        check_lengths("download", from.len(), to.len())?;
        // SAFETY: the array is as long.
        unsafe { self.download_bytes(from.address(), bytes_of_mut(to)) }
    }

    /// An array of the host for the two below, all zero.
    fn pinned<T: Plain>(&mut self, len: usize) -> Result<Pinned<T>, Error> {
        let bytes = len.checked_mul(size_of::<T>());
        let bytes = bytes.ok_or_else(|| contract("pinned allocation", format!("{len} elements")))?;
        Ok(Pinned::new(self.allocate_pinned_bytes(bytes)?, len))
    }

    /// Copies the first elements to an array of the device, as many as it has, behind what was asked for before. Does not wait;
    /// the pinned array does, when it is next looked at.
    fn upload_later<T: Plain>(&mut self, from: &mut Pinned<T>, to: &mut ViewMut<'_, T>) -> Result<(), Error> {
        check_fits("upload", to.len(), from.len())?;
        // SAFETY: both have as many; what is copied later is what stands there now, since the pinned array waits.
        unsafe { self.upload_bytes_later(from.block(), to.address(), size_of::<T>() * to.len()) }
    }

    /// Copies an array of the device to the first elements, behind what was asked for before. Does not wait, as above.
    fn download_later<T: Plain>(&mut self, from: &View<'_, T>, to: &mut Pinned<T>) -> Result<(), Error> {
        check_fits("download", from.len(), to.len())?;
        // SAFETY: as above.
        unsafe { self.download_bytes_later(from.address(), to.block(), size_of::<T>() * from.len()) }
    }
}

/// What a series of launches hangs on, beside what stands in the arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GraphKey {
    /// What it computes.
    pub name: &'static str,
    /// Numbers that decide its launches.
    pub numbers: [usize; 4],
}

/// Refuses what a graph may not do.
#[cfg(any(test, feature = "gpu", feature = "emulator"))]
pub(crate) fn check_outside(in_graph: bool, op: &'static str) -> Result<(), Error> {
    check(!in_graph, op, || "inside of a graph, which only launches and copies on the device".to_owned())
}

fn check_lengths(op: &'static str, from: usize, to: usize) -> Result<(), Error> {
    check(from == to, op, || format!("{from} elements to an array of {to}"))
}

fn check_fits(op: &'static str, needed: usize, pinned: usize) -> Result<(), Error> {
    check(needed <= pinned, op, || format!("{needed} elements and {pinned} of pinned memory"))
}

fn contract(op: &'static str, reason: String) -> Error {
    Error::Contract { op, reason }
}
