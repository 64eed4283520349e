//! Rows in bfloat16, and their products.
//!
//! The rows are the input rows times a power of two, which bfloat16 represents exactly, unlike unit rows. The products
//! are divided by the lengths of the rows, in single precision. All sums are in single precision.

use std::any::TypeId;
use std::ops::Range;

use super::derivatives::{round, Bf16Derivatives};
use super::multiplier::Bf16Multiplier;
use super::product::{Bf16Product, Pair};
use crate::cpu::simd::{BLOCK_COLUMNS, BLOCK_ROWS};
use crate::cpu::threads::{for_each, Shared};

/// Rows in three layouts: as the left factor of similarities, as the right factor of similarities, and as the right
/// factor of gradients.
pub struct Bf16Rows {
    multiplier: Bf16Multiplier,
    /// Number of pairs in a row, which is half the number of padded dimensions.
    pairs: usize,
    /// The left factor of similarities, [rows][pairs].
    rows: Vec<Pair>,
    /// The right factor of similarities, [rows / 32][pairs][32].
    panels: Vec<Pair>,
    /// The right factor of gradients, [rows / 2][2 * pairs]. A pair has the same dimension of two rows.
    row_pairs: Vec<Pair>,
    /// 1 / length of each row, [rows].
    inverse_lengths: Vec<f32>,
}

#[inline(always)]
fn pair(low: f32, high: f32) -> Pair {
    round(low) | (round(high) << 16)
}

impl Bf16Rows {
    /// Rows of `dims` numbers, from unit rows and from the lengths that make them bfloat16 numbers again. The number of
    /// rows and `dims` are multiples of 32.
    pub fn new(multiplier: Bf16Multiplier, unit_rows: &[f32], lengths: &[f32], dims: usize, threads: usize) -> Self {
        const CHUNK: usize = BLOCK_COLUMNS;
        let pairs = dims / 2;
        let layout = || vec![0; lengths.len() * pairs];
        let (mut rows, mut panels, mut row_pairs) = (layout(), layout(), layout());
        {
            let shared = [&mut rows, &mut panels, &mut row_pairs].map(|layout| Shared::new(layout));
            let scratch = || vec![0.0; CHUNK * dims];
            for_each(threads, lengths.len() / CHUNK, scratch, |data, chunk| {
                let start = chunk * CHUNK;
                // SAFETY: The chunks do not overlap, and the layouts are borrowed until the loop ends.
                let [rows, panel, row_pairs] =
                    shared.each_ref().map(|layout| unsafe { layout.slice(start * pairs, CHUNK * pairs) });
                let given = unit_rows[start * dims..].chunks_exact(dims).zip(&lengths[start..]);
                for (out, (row, &length)) in data.chunks_exact_mut(dims).zip(given) {
                    out.iter_mut().zip(row).for_each(|(out, &x)| *out = x * length);
                }
                rows.iter_mut().zip(data.chunks_exact(2)).for_each(|(out, two)| *out = pair(two[0], two[1]));
                for (k, column) in panel.chunks_exact_mut(BLOCK_COLUMNS).enumerate() {
                    column.iter_mut().zip(rows.chunks_exact(pairs)).for_each(|(out, row)| *out = row[k]);
                }
                for (out, two) in row_pairs.chunks_exact_mut(dims).zip(data.chunks_exact(2 * dims)) {
                    let (low, high) = two.split_at(dims);
                    out.iter_mut().zip(low.iter().zip(high)).for_each(|(out, (&low, &high))| *out = pair(low, high));
                }
            });
        }
        let inverse_lengths = lengths.iter().map(|length| 1.0 / length).collect();
        Self { multiplier, pairs, rows, panels, row_pairs, inverse_lengths }
    }

    /// Some of the rows, only as the left factor of similarities.
    pub fn left_factor(&self, rows: &[usize]) -> Self {
        Self {
            multiplier: self.multiplier,
            pairs: self.pairs,
            rows: rows.iter().flat_map(|&row| &self.rows[row * self.pairs..][..self.pairs]).copied().collect(),
            panels: vec![],
            row_pairs: vec![],
            inverse_lengths: rows.iter().map(|&row| self.inverse_lengths[row]).collect(),
        }
    }

    /// Writes the similarities of `rows` (a whole number of blocks) with the rows `columns` of `keys` to `out`, whose
    /// rows are `stride` apart.
    pub fn products(&self, rows: Range<usize>, keys: &Self, columns: Range<usize>, out: &mut [f32], stride: usize) {
        let inverse_rows = &self.inverse_lengths[rows.clone()];
        let inverse_columns = &keys.inverse_lengths[columns.clone()];
        assert!(self.pairs == keys.pairs && rows.start.is_multiple_of(BLOCK_ROWS));
        self.multiplier.multiply(Bf16Product {
            left: &self.rows[rows.start * self.pairs..],
            left_row: self.pairs,
            right: &keys.panels[columns.start * self.pairs..],
            right_panel: BLOCK_COLUMNS * self.pairs,
            right_depth: BLOCK_COLUMNS,
            out: &mut *out,
            out_row: stride,
            rows: rows.len(),
            columns: columns.len(),
            depth: self.pairs,
            add: false,
        });
        for (row, &inverse) in out.chunks_mut(stride).zip(inverse_rows) {
            // SAFETY: A `Bf16Multiplier` exists only if the machine has AVX-512 F.
            unsafe { divide(&mut row[..columns.len()], inverse, inverse_columns) };
        }
    }

    /// Rounds a tile of derivatives, whose rows are `stride` apart. They are derivatives with respect to the
    /// similarities of the rows from `row` on with the `keys` from `column` on. They are first divided by the lengths
    /// of the rows that they will be multiplied with.
    pub fn round(
        &self,
        row: usize,
        keys: &Self,
        column: usize,
        derivatives: &[f32],
        stride: usize,
        out: &mut Bf16Derivatives,
    ) {
        let size = out.size;
        let (rows, columns) = (&self.inverse_lengths[row..][..size], &keys.inverse_lengths[column..][..size]);
        assert!(derivatives.len() >= (size - 1) * stride + size);
        // SAFETY: A `Bf16Multiplier` exists only if the machine has AVX-512 F, BW and BF16. By the assertion and the
        // slices above, all `size` rows and columns are in range.
        unsafe { out.fill(derivatives, stride, rows, columns) };
    }

    /// `out += derivatives @ rows`, or `derivatives^T @ rows`, for the rows from `start` on.
    pub fn accumulate(&self, derivatives: &Bf16Derivatives, transposed: bool, start: usize, out: &mut [f32]) {
        let (size, dims) = (derivatives.size, 2 * self.pairs);
        self.multiplier.multiply(Bf16Product {
            left: if transposed { &derivatives.by_column } else { &derivatives.by_row },
            left_row: size / 2,
            right: &self.row_pairs[start / 2 * dims..][..size / 2 * dims],
            right_panel: BLOCK_COLUMNS,
            right_depth: dims,
            out,
            out_row: dims,
            rows: size,
            columns: dims,
            depth: size / 2,
            add: true,
        });
    }
}

/// Multiplies products by the inverse lengths of both rows.
///
/// # Safety
/// On x86-64, the machine must have AVX-512 F.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx512f"))]
unsafe fn divide(products: &mut [f32], inverse_row: f32, inverse_columns: &[f32]) {
    for (product, &inverse) in products.iter_mut().zip(inverse_columns) {
        *product *= inverse_row * inverse;
    }
}

/// Casts a slice to `f32`, which is the type of the arithmetic on bfloat16 rows. Panics for another type.
pub fn single<C: 'static>(numbers: &mut [C]) -> &mut [f32] {
    assert!(TypeId::of::<C>() == TypeId::of::<f32>(), "bfloat16 is computed in single precision");
    // SAFETY: `C` is `f32`, as asserted, so type and length are unchanged.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), numbers.len()) }
}
