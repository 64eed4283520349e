//! Memory that several threads write at once.

/// Memory that several threads write at once, in parts that do not overlap.
pub struct Shared<T> {
    pointer: *mut T,
    length: usize,
}

// SAFETY: `Shared` hands out parts only through `slice`, whose caller keeps them apart.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Shares `memory`, which must stay borrowed for as long as the result is used; every use
    /// goes through an unsafe call that promises it.
    pub fn new(memory: &mut [T]) -> Self {
        Self { pointer: memory.as_mut_ptr(), length: memory.len() }
    }

    /// The part [start, start + length).
    ///
    /// # Safety
    /// The memory is still borrowed by the `Shared`'s maker, and no other thread has an overlapping part at the same time.
    #[allow(clippy::mut_from_ref)] // that is its purpose
    pub unsafe fn slice(&self, start: usize, length: usize) -> &mut [T] {
        assert!(start + length <= self.length);
        // SAFETY: in range by the assertion, alone by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(start), length) }
    }
}
