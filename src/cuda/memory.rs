//! The layout of the scratch memory.

use std::ffi::c_void;

use super::parameters::Side;
use super::sizes::{CARD_BYTES, SPLIT_BYTES};

/// Every part starts at a multiple of this.
const ALIGNMENT: usize = 256;

/// Divides the scratch memory into parts. With a null pointer, it finds how much memory is needed.
pub(super) struct Scratch {
    start: *mut c_void,
    used: usize,
}

impl Scratch {
    /// The memory from `start` on.
    pub(super) fn new(start: *mut c_void) -> Self {
        Self { start, used: 0 }
    }

    /// The number of bytes used so far.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// The next `bytes` bytes.
    pub(super) fn take(&mut self, bytes: usize) -> *mut c_void {
        let at = self.used;
        self.used += bytes.next_multiple_of(ALIGNMENT);
        self.start.wrapping_byte_add(at)
    }

    /// The next `bytes` bytes, or null.
    pub(super) fn take_if(&mut self, wanted: bool, bytes: usize) -> *mut c_void {
        if wanted {
            self.take(bytes)
        } else {
            std::ptr::null_mut()
        }
    }

    /// A side of `count` rows of `row_bytes` bytes, padded to a multiple of `tile`.
    pub(super) fn side(&mut self, count: usize, tile: usize, row_bytes: usize, splits: bool) -> Side {
        let padded = count.next_multiple_of(tile);
        Side {
            rows: self.take(padded * row_bytes),
            cards: self.take(padded * CARD_BYTES),
            splits: self.take_if(splits, padded * SPLIT_BYTES),
            lengths: self.take(count * 8),
            count: count as i32,
            padded: padded as i32,
        }
    }
}
