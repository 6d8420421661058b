//! Slices that several tasks write at the same time, each its own part.

use std::marker::PhantomData;

/// A slice that tasks write at the same time, each its own part.
#[derive(Clone, Copy)]
pub struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: parts are handed out by `Parts::part`, whose callers keep them apart; `T` may be written on any thread.
unsafe impl<T: Send> Sync for Parts<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    /// Lends out a slice in parts.
    pub fn new(slice: &'a mut [T]) -> Parts<'a, T> {
        Parts { start: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// `len` elements from `start` on; panics where they are not inside the slice.
    ///
    /// # Safety
    /// No other part that is alive at the same time shares an element with it.
    #[expect(clippy::mut_from_ref, reason = "the caller promises to be alone with the part")]
    pub unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "a part lies inside its slice");
        // SAFETY: inside the slice, which is borrowed mutably for as long as `self`; the caller keeps parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }

    /// The first element.
    pub fn as_mut_ptr(&self) -> *mut T {
        self.start
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A slice in equal parts, one for each task.
pub struct Shares<'a, T> {
    all: Parts<'a, T>,
    each: usize,
}

impl<'a, T> Shares<'a, T> {
    /// `count` shares of a slice.
    pub fn new(slice: &'a mut [T], count: usize) -> Shares<'a, T> {
        let each = slice.len() / count;
        Shares { all: Parts::new(slice), each }
    }

    /// A task's share.
    ///
    /// # Safety
    /// No other task has it.
    #[expect(clippy::mut_from_ref, reason = "the caller promises to be alone with the part")]
    pub unsafe fn of(&self, task: usize) -> &mut [T] {
        // SAFETY: as the caller promises.
        unsafe { self.all.part(task * self.each, self.each) }
    }
}
