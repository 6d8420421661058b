//! Arrays that the host writes anew for each step.

use kernels::accelerator::Accelerator;
use kernels::device::Error;
use kernels::memory::{Memory, Pinned, Plain};
use kernels::view::View;

/// An array of a device, always at the same place, and what the host puts there. Two arrays of the host take turns, so that the
/// one of the step before need not have been copied when the next is written.
pub struct Inbox<T> {
    pinned: [Pinned<T>; 2],
    turn: usize,
    memory: Memory<T>,
}

impl<T: Plain> Inbox<T> {
    /// Room for `len`.
    pub fn new(device: &mut impl Accelerator, len: usize) -> Result<Inbox<T>, Error> {
        let pinned = [device.pinned(len)?, device.pinned(len)?];
        Ok(Inbox { pinned, turn: 0, memory: device.uninitialised(len)? })
    }

    /// Bytes of the device.
    pub fn bytes(&self) -> usize {
        self.memory.len() * size_of::<T>()
    }

    /// Puts the values there, behind everything that was asked of the device before. Waits only where the device is two
    /// steps behind.
    pub fn put(&mut self, device: &mut impl Accelerator, values: &[T]) -> Result<(), Error> {
        if values.is_empty() {
            return Ok(());
        }
        self.turn ^= 1;
        let pinned = &mut self.pinned[self.turn];
        pinned.get_mut()?[..values.len()].copy_from_slice(values);
        device.upload_later(pinned, &mut self.memory.view_mut().part_mut(0..values.len())?)
    }

    /// As kernels read it.
    pub fn view(&self) -> View<'_, T> {
        self.memory.view()
    }
}
