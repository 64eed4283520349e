//! Memory that several threads write at the same time.

/// Memory that several threads write at the same time, in parts that do not overlap.
pub struct Shared<T> {
    pointer: *mut T,
    length: usize,
}

// SAFETY: The only access is through `slice`, whose contract rules out overlapping parts.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Shares `memory`. The contract of [`slice`](Self::slice) requires that `memory` is still borrowed.
    pub fn new(memory: &mut [T]) -> Self {
        Self { pointer: memory.as_mut_ptr(), length: memory.len() }
    }

    /// The part [start, start + length).
    ///
    /// # Safety
    /// The code that called [`new`](Self::new) must still borrow the memory, and must not use it otherwise. No
    /// overlapping part may be in use at the same time, on this or on another thread.
    #[allow(clippy::mut_from_ref)] // this is the purpose of `Shared`
    pub unsafe fn slice(&self, start: usize, length: usize) -> &mut [T] {
        assert!(start + length <= self.length);
        // SAFETY: The part is in range by the assertion. By the contract of this function, nothing else uses it.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(start), length) }
    }

    /// Like [`slice`](Self::slice), to read.
    ///
    /// # Safety
    /// As for `slice`, except that overlapping parts may be read at the same time.
    pub unsafe fn read(&self, start: usize, length: usize) -> &[T] {
        assert!(start + length <= self.length);
        // SAFETY: The part is in range by the assertion. By the contract of this function, nothing writes it.
        unsafe { std::slice::from_raw_parts(self.pointer.add(start), length) }
    }
}
