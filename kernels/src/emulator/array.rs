//! Arrays of the emulated device, which are the processor's.

use std::marker::PhantomData;

use crate::view::{View, ViewMut};

/// Words behind and before an array: a kernel that leaves it changes one of them.
const GUARD: usize = 64;

/// An array of the emulated device. Under AddressSanitizer it has no guards, whose touching would not be seen.
pub struct Array<T> {
    memory: Vec<u128>,
    len: usize,
    guard: usize,
    of: PhantomData<T>,
}

impl<T: Copy> Array<T> {
    /// A copy of these.
    pub fn new(values: &[T]) -> Array<T> {
        let mut array = Array::poisoned(values.len());
        array.get_mut().copy_from_slice(values);
        array
    }

    /// Elements that are no number in any type.
    pub fn poisoned(len: usize) -> Array<T> {
        let guard = if std::env::var_os("VOICEFORGE_TEST_SANITIZE").is_some() { 0 } else { GUARD };
        let words = (len * size_of::<T>()).div_ceil(16) + 2 * guard;
        Array { memory: vec![u128::MAX; words], len, guard, of: PhantomData }
    }

    fn start(&self) -> *const T {
        self.memory[self.guard..].as_ptr().cast()
    }

    /// The elements.
    pub fn get(&self) -> &[T] {
        // SAFETY: the memory holds as many behind the guard, initialised; T is a plain number of at most 16 bytes.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }

    /// The same, to write.
    pub fn get_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the array is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start().cast_mut(), self.len) }
    }

    /// As a kernel reads it.
    pub fn view(&self) -> View<'_, T> {
        // SAFETY: the emulated device's memory is the processor's.
        unsafe { View::new(self.start() as u64, self.len) }
    }

    /// As a kernel writes it.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        // SAFETY: as above, and the array is borrowed alone.
        unsafe { ViewMut::new(self.memory[self.guard..].as_mut_ptr() as u64, self.len) }
    }
}

impl<T> Drop for Array<T> {
    fn drop(&mut self) {
        let (before, after) = (&self.memory[..self.guard], &self.memory[self.memory.len() - self.guard..]);
        let whole = before.iter().chain(after).all(|word| *word == u128::MAX);
        assert!(
            whole || std::thread::panicking(),
            "a kernel wrote outside of an array of {} elements",
            self.len
        );
    }
}
