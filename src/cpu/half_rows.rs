//! Rows in bfloat16, and their products by the instructions for them.
//!
//! The rows are those that came, times a power of two: bfloat16 holds them exactly, as it would not hold unit rows. Their
//! lengths are divided out of the products, in single precision. Sums stay in single precision throughout.

use std::any::TypeId;
use std::ops::Range;

use super::half_product::{Pair, Product, Unit};
use super::product::{BLOCK_COLUMNS, BLOCK_ROWS};
use super::threads::{self, Shared};
use super::tile::MAX_TILE;

/// Rows in three layouts: as the left factor of similarities, as the right one, and as the right factor of gradients.
pub struct HalfRows {
    unit: Unit,
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
    /// Rows of `dims` numbers, both multiples of 32, from unit rows and lengths that make them numbers of bfloat16 again.
    pub fn new(unit: Unit, unit_rows: &[f32], lengths: &[f32], dims: usize, threads: usize) -> Self {
        const CHUNK: usize = BLOCK_COLUMNS;
        let pairs = dims / 2;
        let layout = || vec![0; lengths.len() * pairs];
        let (mut rows, mut panels, mut row_pairs) = (layout(), layout(), layout());
        {
            let shared = [&mut rows, &mut panels, &mut row_pairs].map(|layout| Shared::new(layout));
            let scratch = || vec![0.0; CHUNK * dims];
            threads::for_each(threads, lengths.len() / CHUNK, scratch, |data, chunk| {
                let start = chunk * CHUNK;
                // SAFETY: chunks are disjoint, and the layouts outlive the loop.
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
        Self { unit, pairs, rows, panels, row_pairs, inverse_lengths }
    }

    /// Some of the rows, as the left factor of similarities only.
    pub fn left_factor(&self, rows: &[usize]) -> Self {
        Self {
            unit: self.unit,
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
        assert!(self.pairs == keys.pairs && rows.start.is_multiple_of(BLOCK_ROWS));
        self.unit.multiply(Product {
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
            // SAFETY: the machine has the instructions, or there would be no half rows.
            unsafe { divide(&mut row[..columns.len()], inverse, inverse_columns) };
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
        assert!(derivatives.len() >= (size - 1) * stride + size);
        // SAFETY: the machine has the instructions, or there would be no half rows; there are `size` rows, as asserted.
        unsafe { out.fill(derivatives, stride, rows, columns) };
    }

    /// `out += derivatives @ rows`, or `derivatives^T @ rows`, for the rows from `start` on.
    pub fn accumulate(&self, derivatives: &HalfDerivatives, transposed: bool, start: usize, out: &mut [f32]) {
        let (size, dims) = (derivatives.size, 2 * self.pairs);
        self.unit.multiply(Product {
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

/// A tile of derivatives, rounded, as a left factor and as a transposed one.
pub struct HalfDerivatives {
    size: usize,
    /// [size][size / 2]: pairs along a row.
    by_row: Vec<Pair>,
    /// [size][size / 2]: pairs along a column.
    by_column: Vec<Pair>,
}

impl HalfDerivatives {
    /// For tiles of `size` x `size`, a multiple of 32.
    pub fn new(size: usize) -> Self {
        assert!(size <= MAX_TILE && size.is_multiple_of(32));
        Self { size, by_row: vec![0; size * size / 2], by_column: vec![0; size * size / 2] }
    }

    /// Rounds a tile whose rows are `stride` apart, divided by the lengths of its columns (as a left factor) or rows.
    ///
    /// # Safety
    /// The machine has AVX-512 F and BF16; there are `size` rows.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn fill(&mut self, derivatives: &[f32], stride: usize, inverse_rows: &[f32], inverse_columns: &[f32]) {
        use std::arch::x86_64::*;
        let size = self.size;
        // SAFETY: all offsets are of elements of the tile, by the caller, and of the two layouts; 16 pairs are a register.
        unsafe {
            let group = |at: usize| _mm512_loadu_ps(derivatives.as_ptr().add(at));
            let lengths = |at: usize| _mm512_loadu_ps(inverse_columns.as_ptr().add(at));
            for row in 0..size {
                for column in (0..size).step_by(32) {
                    let at = row * stride + column;
                    let low = _mm512_mul_ps(group(at), lengths(column));
                    let high = _mm512_mul_ps(group(at + 16), lengths(column + 16));
                    let out = self.by_row.as_mut_ptr().add((row * size + column) / 2);
                    let rounded = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                    _mm512_storeu_si512(out.cast(), rounded);
                }
            }
            // Numbers of a row and of the next one, in turn, from the 16 of either after their rounding.
            let in_turn = _mm512_set_epi16(
                31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2,
                17, 1, 16, 0,
            );
            for row in (0..size).step_by(32) {
                for column in (0..size).step_by(16) {
                    let mut pairs = [_mm512_setzero_si512(); 16];
                    for (k, pairs) in pairs.iter_mut().enumerate() {
                        let row = row + 2 * k;
                        let scaled =
                            |row: usize| _mm512_mul_ps(group(row * stride + column), _mm512_set1_ps(inverse_rows[row]));
                        let rounded = _mm512_cvtne2ps_pbh(scaled(row + 1), scaled(row));
                        let rounded = std::mem::transmute::<__m512bh, __m512i>(rounded);
                        *pairs = _mm512_permutexvar_epi16(in_turn, rounded);
                    }
                    for (c, pairs) in transpose(pairs).into_iter().enumerate() {
                        let out = self.by_column.as_mut_ptr().add(((column + c) * size + row) / 2);
                        _mm512_storeu_si512(out.cast(), pairs);
                    }
                }
            }
        }
    }

    /// Never called: there are no half rows.
    #[cfg(not(target_arch = "x86_64"))]
    unsafe fn fill(&mut self, _: &[f32], _: usize, _: &[f32], _: &[f32]) {}
}

/// 16 x 16 numbers of 32 bits, their rows as columns.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [std::arch::x86_64::__m512i; 16]) -> [std::arch::x86_64::__m512i; 16] {
    use std::arch::x86_64::*;
    let mut a = rows;
    for i in (0..16).step_by(2) {
        (a[i], a[i + 1]) = (_mm512_unpacklo_epi32(rows[i], rows[i + 1]), _mm512_unpackhi_epi32(rows[i], rows[i + 1]));
    }
    // b[4 g + j]: column j of each quarter, for the rows 4 g to 4 g + 3.
    let mut b = a;
    for i in (0..16).step_by(4) {
        b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    let mut out = b;
    for j in 0..4 {
        let even = [
            _mm512_shuffle_i32x4::<0b10_00_10_00>(b[j], b[j + 4]),
            _mm512_shuffle_i32x4::<0b10_00_10_00>(b[j + 8], b[j + 12]),
        ];
        let odd = [
            _mm512_shuffle_i32x4::<0b11_01_11_01>(b[j], b[j + 4]),
            _mm512_shuffle_i32x4::<0b11_01_11_01>(b[j + 8], b[j + 12]),
        ];
        out[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(even[0], even[1]);
        out[j + 8] = _mm512_shuffle_i32x4::<0b11_01_11_01>(even[0], even[1]);
        out[j + 4] = _mm512_shuffle_i32x4::<0b10_00_10_00>(odd[0], odd[1]);
        out[j + 12] = _mm512_shuffle_i32x4::<0b11_01_11_01>(odd[0], odd[1]);
    }
    out
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
    // SAFETY: `C` is `f32`, as asserted; the length is the same.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), numbers.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_hold_the_rounded_derivatives() {
        let Some(unit) = Unit::all().pop() else { return };
        for size in [32, 64, 128] {
            let stride = size + 16;
            let derivatives: Vec<f32> = (0..size * stride).map(|i| (i as f32 * 0.7).sin()).collect();
            let lengths: Vec<f32> = (0..size).map(|i| 1.0 + i as f32 / 100.0).collect();
            let others: Vec<f32> = (0..size).map(|i| 2.0 - i as f32 / 300.0).collect();
            let rows = HalfRows::new(unit, &vec![0.0; size * 32], &lengths, 32, 1);
            let keys = HalfRows::new(unit, &vec![0.0; size * 32], &others, 32, 1);
            let mut out = HalfDerivatives::new(size);
            rows.round(0, &keys, 0, &derivatives, stride, &mut out);
            for r in 0..size {
                for c in 0..size {
                    let half = |pairs: &[Pair], row: usize, at: usize| {
                        pairs[row * size / 2 + at / 2] >> (16 * (at % 2)) & 0xffff
                    };
                    let number = derivatives[r * stride + c];
                    assert_eq!(half(&out.by_row, r, c), round(number * (1.0 / others[c])), "row {r}, column {c}");
                    assert_eq!(half(&out.by_column, c, r), round(number * (1.0 / lengths[r])), "row {r}, column {c}");
                }
            }
        }
    }
}
