//! Products of bfloat16 numbers with sums in single precision, by the instructions that some machines have for them.
//!
//! They take the inner dimension two by two, so a factor's elements are pairs of neighbours along it.

use std::sync::OnceLock;

use super::amx;
use super::product::{BLOCK_COLUMNS, BLOCK_ROWS};
use super::tile::MAX_TILE;

/// Two neighbours along the inner dimension, the earlier one in the low half.
pub type Pair = u32;

/// `out[r][c] (+)= sum_k left[r][k] . right[k][c]`, every element of a factor two numbers.
pub struct Product<'a> {
    /// Rows, `left_row` apart.
    pub left: &'a [Pair],
    /// At least `depth`.
    pub left_row: usize,
    /// Panels of 32 columns, `right_panel` apart, their rows `right_depth` apart.
    pub right: &'a [Pair],
    /// From one panel to the next.
    pub right_panel: usize,
    /// From one row of a panel to the next, at least 32.
    pub right_depth: usize,
    /// Rows, `out_row` apart.
    pub out: &'a mut [f32],
    /// At least `columns`.
    pub out_row: usize,
    /// A multiple of 8.
    pub rows: usize,
    /// A multiple of 32.
    pub columns: usize,
    /// Length of the inner dimension in pairs, a multiple of 16.
    pub depth: usize,
    /// Add to the result instead of overwriting it.
    pub add: bool,
}

/// What multiplies pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// AVX-512 BF16: one instruction multiplies 16 pairs by one and adds.
    Dot,
    /// AMX: one instruction multiplies two tiles of 16 x 16 pairs and adds.
    Tiles,
}

impl Unit {
    /// The one that does more in its time than the instruction for `f32`, if there is one: tiles do several times as much;
    /// AVX-512's twice as much on AMD's machines, half as much on Intel's (Sapphire Rapids). Tests take what there is.
    pub fn best() -> Option<Self> {
        static BEST: OnceLock<Option<Unit>> = OnceLock::new();
        *BEST.get_or_init(|| {
            let pays = |unit: &Self| *unit == Self::Tiles || is_amd() || cfg!(test);
            Self::all().into_iter().rev().find(pays)
        })
    }

    /// Those that this machine has.
    pub fn all() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut all = vec![];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16") {
            all.push(Self::Dot);
            if amx::available() {
                all.push(Self::Tiles);
            }
        }
        all
    }

    /// Computes the product. Only for units of [`all`](Self::all).
    pub fn multiply(self, product: Product<'_>) {
        let Product { left, left_row, right, right_panel, right_depth, out, out_row, rows, columns, depth, .. } =
            &product;
        assert!(rows.is_multiple_of(BLOCK_ROWS) && columns.is_multiple_of(BLOCK_COLUMNS));
        assert!(depth.is_multiple_of(amx::DEPTH) && *rows > 0 && *columns > 0 && *depth > 0);
        assert!(left.len() >= (rows - 1) * left_row + depth && out.len() >= (rows - 1) * out_row + columns);
        let panels = columns / BLOCK_COLUMNS;
        assert!(right.len() >= (panels - 1) * right_panel + (depth - 1) * right_depth + BLOCK_COLUMNS);
        // SAFETY: the machine has the instructions, as the caller has asked `all`; the slices hold what is read and
        // written, by the assertions.
        unsafe {
            match self {
                Self::Dot => dot(product),
                Self::Tiles => amx::multiply(product),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn is_amd() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == *b"AuthenticAMD"
}

#[cfg(not(target_arch = "x86_64"))]
fn is_amd() -> bool {
    false
}

/// The product in blocks of 8 x 32.
///
/// # Safety
/// The machine has AVX-512 BF16, and the slices are as long as [`Unit::multiply`] asserts.
unsafe fn dot(product: Product<'_>) {
    let Product { left, left_row, right, right_panel, right_depth, out, out_row, rows, columns, depth, add } = product;
    // Where the rows of a panel are not next to each other: at their own distance they would share few of the cache's sets.
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
            // SAFETY: within the slices, by the caller; the stripe has `depth` rows where it serves.
            unsafe {
                block(&Block {
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
struct Block {
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
/// The machine has AVX-512 BF16; 8 rows of `left`, `depth` rows of `right` are readable, 8 rows and 32 columns of `out`
/// are the caller's alone.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn block(block: &Block) {
    use std::arch::x86_64::*;
    let mut sums = [[_mm512_setzero_ps(); 2]; BLOCK_ROWS];
    // SAFETY: every offset is within what the caller promises; a __m512bh is 16 pairs of bits.
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

/// Never called: there is no such unit.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn block(_: &Block) {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of bfloat16, small enough that their products' sums are exact.
    fn pairs(count: usize, seed: usize) -> (Vec<Pair>, Vec<[f32; 2]>) {
        let number = |i: usize| ((i * 7919 + seed) % 31) as f32 - 15.0;
        let numbers: Vec<[f32; 2]> = (0..count).map(|i| [number(2 * i), number(2 * i + 1)]).collect();
        (numbers.iter().map(|[low, high]| low.to_bits() >> 16 | high.to_bits() & 0xffff_0000).collect(), numbers)
    }

    #[test]
    fn every_unit_multiplies() {
        for (rows, columns, depth) in
            [(8, 32, 16), (16, 64, 32), (24, 32, 48), (32, 32, 16), (48, 96, 80), (128, 128, 64)]
        {
            for side_by_side in [false, true] {
                let (left_row, out_row) = (depth + 16, columns + 32);
                let (right_panel, right_depth) = if side_by_side { (32, columns + 64) } else { (32 * depth, 32) };
                let (left, left_numbers) = pairs(rows * left_row, 1);
                let (right, right_numbers) = pairs((depth * columns).max(depth * right_depth), 2);
                for add in [false, true] {
                    let before: Vec<f32> = (0..rows * out_row).map(|i| (i % 17) as f32).collect();
                    let mut expected = before.clone();
                    for (r, out) in expected.chunks_mut(out_row).enumerate() {
                        for (c, out) in out[..columns].iter_mut().enumerate() {
                            let at = |k: usize| right_numbers[c / 32 * right_panel + k * right_depth + c % 32];
                            let sum = (0..depth)
                                .map(|k| {
                                    let ([a, b], [x, y]) = (left_numbers[r * left_row + k], at(k));
                                    a * x + b * y
                                })
                                .sum::<f32>();
                            *out = if add { *out + sum } else { sum };
                        }
                    }
                    for unit in Unit::all() {
                        let mut out = before.clone();
                        unit.multiply(Product {
                            left: &left,
                            left_row,
                            right: &right,
                            right_panel,
                            right_depth,
                            out: &mut out,
                            out_row,
                            rows,
                            columns,
                            depth,
                            add,
                        });
                        assert!(out == expected, "{unit:?}, {rows} x {columns} x {depth}, add {add}");
                    }
                }
            }
        }
    }
}
