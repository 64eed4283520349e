//! Rows in bfloat16, and their products by the instruction that multiplies pairs of them and adds in float.
//!
//! The rows are those that came, times a power of two: bfloat16 holds them exactly, as it would not hold unit rows. Their
//! lengths are divided out of the products, in single precision.
//!
//! The instruction takes the inner dimension two by two, so every factor is laid out in pairs (the
//! earlier of the two in the low half). Sums stay in single precision throughout.

use std::any::TypeId;
use std::ops::Range;

use super::product::{BLOCK_COLUMNS, BLOCK_ROWS};
use super::tile::MAX_TILE;

/// Two neighbours along the inner dimension.
type Pair = u32;

/// Rows in three layouts: as the left factor of similarities, as the right one, and as the right factor of gradients.
pub struct HalfRows {
    /// Pairs in a row: half the padded dimensions.
    pairs: usize,
    /// [rows][pairs]
    rows: Vec<Pair>,
    /// [rows / 32][pairs][32]
    panels: Vec<Pair>,
    /// [rows / 2][2 * pairs]: pairs of rows.
    row_pairs: Vec<Pair>,
    /// [rows]: 1 / length of each row.
    inverse_lengths: Vec<f32>,
}

/// The nearest bfloat16's bits, ties to even, of a finite number.
#[inline(always)]
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16
}

#[inline(always)]
fn pair(low: f32, high: f32) -> Pair {
    round(low) | (round(high) << 16)
}

impl HalfRows {
    /// The machine has the instruction.
    fn available() -> bool {
        #[cfg(target_arch = "x86_64")]
        return is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f");
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }

    /// The machine has the instruction, and it does more in its time than the one for `f32`: twice as much on AMD's, half
    /// as much on Intel's (Sapphire Rapids). Tests take it wherever it is.
    pub fn pay() -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let vendor = std::arch::x86_64::__cpuid(0);
            let is_amd = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == *b"AuthenticAMD";
            Self::available() && (is_amd || cfg!(test))
        }
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }

    /// Rows of `dims` (even) numbers, a multiple of 32 of them, from unit rows and lengths that make them numbers of
    /// bfloat16 again. Only where they [`pay`](Self::pay).
    pub fn new(unit_rows: impl Iterator<Item = f32>, lengths: Vec<f32>, dims: usize) -> Self {
        let (rows, pairs) = (lengths.len(), dims / 2);
        let data: Vec<f32> = unit_rows.enumerate().map(|(i, unit)| unit * lengths[i / dims]).collect();
        let mut new = Self {
            pairs,
            rows: data.chunks_exact(2).map(|two| pair(two[0], two[1])).collect(),
            panels: vec![0; rows * pairs],
            row_pairs: Vec::with_capacity(rows * pairs),
            inverse_lengths: lengths.iter().map(|length| 1.0 / length).collect(),
        };
        for two in data.chunks_exact(2 * dims) {
            let (low, high) = two.split_at(dims);
            new.row_pairs.extend(low.iter().zip(high).map(|(&low, &high)| pair(low, high)));
        }
        for (panel, rows) in
            new.panels.chunks_exact_mut(BLOCK_COLUMNS * pairs).zip(new.rows.chunks_exact(BLOCK_COLUMNS * pairs))
        {
            for (k, column) in panel.chunks_exact_mut(BLOCK_COLUMNS).enumerate() {
                for (row, out) in column.iter_mut().enumerate() {
                    *out = rows[row * pairs + k];
                }
            }
        }
        new
    }

    /// Some of the rows, as the left factor of similarities only.
    pub fn left_factor(&self, rows: &[usize]) -> Self {
        Self {
            pairs: self.pairs,
            rows: rows.iter().flat_map(|&row| &self.rows[row * self.pairs..][..self.pairs]).copied().collect(),
            panels: vec![],
            row_pairs: vec![],
            inverse_lengths: rows.iter().map(|&row| self.inverse_lengths[row]).collect(),
        }
    }

    /// Similarities of `rows` (a whole number of blocks) with the rows `columns` of `keys`, into rows `stride` apart.
    pub fn products(&self, rows: Range<usize>, keys: &Self, columns: Range<usize>, out: &mut [f32], stride: usize) {
        let inverse_rows = &self.inverse_lengths[rows.clone()];
        let inverse_columns = &keys.inverse_lengths[columns.clone()];
        let (row, column) = (rows.start, columns.start);
        let (rows, columns) = (rows.len(), columns.len());
        assert!(self.pairs == keys.pairs && rows.is_multiple_of(BLOCK_ROWS) && columns.is_multiple_of(BLOCK_COLUMNS));
        assert!(out.len() >= (rows - 1) * stride + columns);
        let left = &self.rows[row * self.pairs..(row + rows) * self.pairs];
        for column_at in (0..columns).step_by(BLOCK_COLUMNS) {
            let panel = &keys.panels[(column + column_at) * self.pairs..][..BLOCK_COLUMNS * self.pairs];
            for row_at in (0..rows).step_by(BLOCK_ROWS) {
                // SAFETY: the slices above hold these rows and this panel, `out` the block, by the assertions.
                unsafe {
                    block(&Block {
                        left: left.as_ptr().add(row_at * self.pairs),
                        left_row: self.pairs,
                        left_depth: 1,
                        right: panel.as_ptr(),
                        out: out.as_mut_ptr().add(row_at * stride + column_at),
                        out_row: stride,
                        depth: self.pairs,
                        add: false,
                    });
                }
            }
        }
        for (row, &inverse) in out.chunks_mut(stride).zip(inverse_rows) {
            // SAFETY: the machine has the instructions, or there would be no half rows.
            unsafe { divide(&mut row[..columns], inverse, inverse_columns) };
        }
    }

    /// Rounds a tile of derivatives with respect to similarities of the rows from `row` on and `keys` from `column` on,
    /// rows of it `stride` apart, divided by the lengths of what they will be multiplied with.
    pub fn round(
        &self,
        row: usize,
        keys: &Self,
        column: usize,
        derivatives: &[f32],
        stride: usize,
        out: &mut HalfDerivatives,
    ) {
        let size = out.size;
        let (rows, columns) = (&self.inverse_lengths[row..][..size], &keys.inverse_lengths[column..][..size]);
        // SAFETY: as in `products`.
        unsafe { out.fill(derivatives, stride, rows, columns) };
    }

    /// `out += derivatives @ rows`, or `derivatives^T @ rows`, for the rows from `start` on.
    pub fn accumulate(&self, derivatives: &HalfDerivatives, transposed: bool, start: usize, out: &mut [f32]) {
        let (size, dims) = (derivatives.size, 2 * self.pairs);
        assert!(size <= MAX_TILE && out.len() >= size * dims);
        let rows = &self.row_pairs[start / 2 * dims..][..size / 2 * dims];
        let (left, left_row, left_depth) = match transposed {
            false => (&derivatives.by_row, size / 2, 1),
            true => (&derivatives.by_column, 1, size),
        };
        let mut stripe = [[0; BLOCK_COLUMNS]; MAX_TILE / 2];
        for column in (0..dims).step_by(BLOCK_COLUMNS) {
            for (narrow, row) in stripe.iter_mut().zip(rows.chunks_exact(dims)) {
                narrow.copy_from_slice(&row[column..column + BLOCK_COLUMNS]);
            }
            for row in (0..size).step_by(BLOCK_ROWS) {
                // SAFETY: both layouts hold `size` x `size` derivatives, the stripe `size / 2` pairs, `out` as asserted.
                unsafe {
                    block(&Block {
                        left: left.as_ptr().add(row * left_row),
                        left_row,
                        left_depth,
                        right: stripe.as_ptr().cast(),
                        out: out.as_mut_ptr().add(row * dims + column),
                        out_row: dims,
                        depth: size / 2,
                        add: true,
                    });
                }
            }
        }
    }
}

/// A tile of derivatives, rounded, as a left factor and as a transposed one.
pub struct HalfDerivatives {
    size: usize,
    /// [size][size / 2]: pairs along a row.
    by_row: Vec<Pair>,
    /// [size / 2][size]: pairs along a column.
    by_column: Vec<Pair>,
}

impl HalfDerivatives {
    /// For tiles of `size` x `size`.
    pub fn new(size: usize) -> Self {
        Self { size, by_row: vec![0; size * size / 2], by_column: vec![0; size * size / 2] }
    }

    /// Rounds a tile whose rows are `stride` apart, divided by the lengths of its columns (as a left factor) or rows.
    ///
    /// # Safety
    /// The machine has AVX-512 F.
    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx512f"))]
    unsafe fn fill(&mut self, derivatives: &[f32], stride: usize, inverse_rows: &[f32], inverse_columns: &[f32]) {
        let size = self.size;
        for (out, row) in self.by_row.chunks_exact_mut(size / 2).zip(derivatives.chunks(stride)) {
            for (k, out) in out.iter_mut().enumerate() {
                *out = pair(row[2 * k] * inverse_columns[2 * k], row[2 * k + 1] * inverse_columns[2 * k + 1]);
            }
        }
        for (k, out) in self.by_column.chunks_exact_mut(size).enumerate() {
            let (low, high) = (&derivatives[2 * k * stride..][..size], &derivatives[(2 * k + 1) * stride..][..size]);
            let (inverse_low, inverse_high) = (inverse_rows[2 * k], inverse_rows[2 * k + 1]);
            for (out, (&low, &high)) in out.iter_mut().zip(low.iter().zip(high)) {
                *out = pair(low * inverse_low, high * inverse_high);
            }
        }
    }
}

/// Divides products by both lengths.
///
/// # Safety
/// The machine has AVX-512 F.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx512f"))]
unsafe fn divide(products: &mut [f32], inverse_row: f32, inverse_columns: &[f32]) {
    for (product, &inverse) in products.iter_mut().zip(inverse_columns) {
        *product *= inverse_row * inverse;
    }
}

/// The same numbers, as what they are wherever there are half rows.
pub fn single<C: 'static>(numbers: &mut [C]) -> &mut [f32] {
    assert!(TypeId::of::<C>() == TypeId::of::<f32>(), "bfloat16 is computed in single precision");
    // SAFETY: `C` is `f32`.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), numbers.len()) }
}

/// One block of 8 x 32, as [`product::Block`](super::product::Block) with pairs as factors; rows of the right factor are 32 apart.
struct Block {
    left: *const Pair,
    left_row: usize,
    left_depth: usize,
    right: *const Pair,
    out: *mut f32,
    out_row: usize,
    /// In pairs.
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
            let right = block.right.add(k * BLOCK_COLUMNS);
            let right: [__m512bh; 2] = [
                std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(right.cast())),
                std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(right.add(16).cast())),
            ];
            for (r, sums) in sums.iter_mut().enumerate() {
                let left = *block.left.add(r * block.left_row + k * block.left_depth);
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

/// Never called: there are no half rows.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn block(_: &Block) {}
