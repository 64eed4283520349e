//! Products of bfloat16 factors with AVX-512 BF16.

use super::product::{Bf16Product, Pair};
use crate::cpu::simd::{BLOCK_COLUMNS, BLOCK_ROWS, MAX_TILE};

/// Computes a product in blocks of 8 x 32.
///
/// # Safety
/// The machine must have AVX-512 F and BF16, and the product must pass the assertions of `Bf16Multiplier::multiply`.
pub unsafe fn multiply(product: Bf16Product<'_>) {
    let Bf16Product { left, left_row, right, right_panel, right_depth, out, out_row, rows, columns, depth, add } =
        product;
    // Copy the rows of a panel next to each other if they are not. At their own distance they would use few sets of the
    // cache.
    let mut stripe = [[0; BLOCK_COLUMNS]; MAX_TILE / 2];
    for column in (0..columns).step_by(BLOCK_COLUMNS) {
        let mut panel = &right[column / BLOCK_COLUMNS * right_panel..];
        if right_depth != BLOCK_COLUMNS && depth <= stripe.len() {
            for (narrow, row) in stripe.iter_mut().zip(panel.chunks(right_depth)).take(depth) {
                narrow.copy_from_slice(&row[..BLOCK_COLUMNS]);
            }
            panel = stripe.as_flattened();
        }
        let right_depth = if panel.as_ptr() == stripe.as_ptr().cast() { BLOCK_COLUMNS } else { right_depth };
        for row in (0..rows).step_by(BLOCK_ROWS) {
            // SAFETY: The block is within the slices, by the assertions that the caller guarantees. If the stripe is
            // used, it has at least `depth` rows.
            unsafe {
                block(&Bf16Block {
                    left: left.as_ptr().add(row * left_row),
                    left_row,
                    right: panel.as_ptr(),
                    right_depth,
                    out: out.as_mut_ptr().add(row * out_row + column),
                    out_row,
                    depth,
                    add,
                });
            }
        }
    }
}

/// One block of 8 x 32.
struct Bf16Block {
    left: *const Pair,
    left_row: usize,
    right: *const Pair,
    right_depth: usize,
    out: *mut f32,
    out_row: usize,
    depth: usize,
    add: bool,
}

/// Computes a block.
///
/// # Safety
/// The machine has AVX-512 F and BF16. 8 rows of `left` and `depth` rows of `right` are readable. 8 rows and 32 columns
/// of `out` are readable and writable, and nothing else uses them.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn block(block: &Bf16Block) {
    use std::arch::x86_64::*;
    let mut sums = [[_mm512_setzero_ps(); 2]; BLOCK_ROWS];
    // SAFETY: By the contract of this function, every access is in range. `__m512bh` and `__m512i` are both 64 bytes,
    // for which all bits are valid.
    unsafe {
        if block.add {
            for (r, sums) in sums.iter_mut().enumerate() {
                let out = block.out.add(r * block.out_row);
                *sums = [_mm512_loadu_ps(out), _mm512_loadu_ps(out.add(16))];
            }
        }
        for k in 0..block.depth {
            let right = block.right.add(k * block.right_depth);
            let right: [__m512bh; 2] = [
                std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(right.cast())),
                std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(right.add(16).cast())),
            ];
            for (r, sums) in sums.iter_mut().enumerate() {
                let left = *block.left.add(r * block.left_row + k);
                let left = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(left as i32));
                *sums = [_mm512_dpbf16_ps(sums[0], left, right[0]), _mm512_dpbf16_ps(sums[1], left, right[1])];
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let out = block.out.add(r * block.out_row);
            _mm512_storeu_ps(out, sums[0]);
            _mm512_storeu_ps(out.add(16), sums[1]);
        }
    }
}

/// Never called, because there is no such multiplier on this target.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn block(_: &Bf16Block) {}
