//! Matrix products in blocks of 8 rows by 32 columns, for the two products of the loss: similarities (unit rows by unit
//! rows) and gradients (coefficients by unit rows).
//!
//! A block keeps its sums in registers over the whole inner dimension. Every element is summed in the same order in
//! every block, so a similarity has the same bits in every pass, and a negative cannot change sides between passes.

use super::float::{Float, MultiplyAdd};

/// Rows of a block.
pub const BLOCK_ROWS: usize = 8;
/// Columns of a block.
pub const BLOCK_COLUMNS: usize = 32;

/// One block: `out[r][c] (+)= sum_k left[r][k] * right[k][c]`.
pub struct Block<C> {
    /// First element of the left factor.
    pub left: *const C,
    /// Elements from one row of the left factor to the next.
    pub left_row: usize,
    /// Elements from one column of the left factor to the next.
    pub left_depth: usize,
    /// First element of the right factor, whose rows are contiguous.
    pub right: *const C,
    /// Elements from one row of the right factor to the next.
    pub right_depth: usize,
    /// First element of the result, whose rows are contiguous.
    pub out: *mut C,
    /// Elements from one row of the result to the next.
    pub out_row: usize,
    /// Length of the inner dimension.
    pub depth: usize,
    /// Whether to add to the result instead of overwriting it.
    pub add: bool,
}

/// Asks for a cache line of `slice`, the one with the number at `at`, before it is needed. Past the end it does nothing.
#[inline(always)]
pub fn prefetch<C>(slice: &[C], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(number) = slice.get(at) {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T1};
        // SAFETY: Every x86-64 machine has the instruction, and it changes no memory.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(number).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (slice, at);
}

/// Computes a block in pieces of `R` x `K`.
///
/// # Safety
/// As for [`piece`], with 8 rows and 32 columns.
#[inline(always)]
pub unsafe fn pieces<C: Float, M: MultiplyAdd, const R: usize, const K: usize>(block: &Block<C>) {
    for row in (0..BLOCK_ROWS).step_by(R) {
        for column in (0..BLOCK_COLUMNS).step_by(K) {
            // SAFETY: The piece is a part of the block, for which the caller keeps the contract.
            unsafe {
                piece::<C, M, R, K>(&Block {
                    left: block.left.add(row * block.left_row),
                    right: block.right.add(column),
                    out: block.out.add(row * block.out_row + column),
                    ..*block
                });
            }
        }
    }
}

/// Computes `R` rows and `K` columns, with the sums in registers.
///
/// # Safety
/// `R` rows and `depth` columns of `left`, and `depth` rows and `K` columns of `right`, are readable. `R` rows and `K`
/// columns of `out` are readable and writable, and nothing else uses them.
#[inline(always)]
unsafe fn piece<C: Float, M: MultiplyAdd, const R: usize, const K: usize>(block: &Block<C>) {
    let mut sums = [[C::ZERO; K]; R];
    // SAFETY: By the contract of this function, every access is in range.
    unsafe {
        if block.add {
            for (r, row) in sums.iter_mut().enumerate() {
                *row = block.out.add(r * block.out_row).cast::<[C; K]>().read();
            }
        }
        for k in 0..block.depth {
            let right = block.right.add(k * block.right_depth).cast::<[C; K]>().read();
            for (r, row) in sums.iter_mut().enumerate() {
                let left = *block.left.add(r * block.left_row + k * block.left_depth);
                for (sum, &x) in row.iter_mut().zip(&right) {
                    *sum = M::multiply_add(left, x, *sum);
                }
            }
        }
        for (r, row) in sums.iter().enumerate() {
            block.out.add(r * block.out_row).cast::<[C; K]>().write(*row);
        }
    }
}
