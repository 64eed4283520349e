//! Tiles of derivatives, rounded to bfloat16.

use super::product::Pair;
use crate::cpu::simd::MAX_TILE;

/// The bits of the bfloat16 that is nearest to a finite number, with ties to even.
#[inline(always)]
pub fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16
}

/// A tile of rounded derivatives, as a left factor and as a transposed left factor.
pub struct Bf16Derivatives {
    /// Number of rows and columns.
    pub size: usize,
    /// Pairs along the rows, [size][size / 2].
    pub by_row: Vec<Pair>,
    /// Pairs along the columns, [size][size / 2].
    pub by_column: Vec<Pair>,
}

impl Bf16Derivatives {
    /// Memory for tiles of `size` x `size`, where `size` is a multiple of 32.
    pub fn new(size: usize) -> Self {
        assert!(size <= MAX_TILE && size.is_multiple_of(32));
        Self { size, by_row: vec![0; size * size / 2], by_column: vec![0; size * size / 2] }
    }

    /// Rounds a tile whose rows are `stride` apart. Before rounding, `by_row` is multiplied by `inverse_columns`, and
    /// `by_column` by `inverse_rows`.
    ///
    /// # Safety
    /// The machine must have AVX-512 F, BW and BF16. `derivatives` must have `size` rows and columns, and
    /// `inverse_columns` must have `size` numbers.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn fill(&mut self, derivatives: &[f32], stride: usize, inverse_rows: &[f32], inverse_columns: &[f32]) {
        use std::arch::x86_64::*;
        let size = self.size;
        // SAFETY: By the contract of this function, all reads are in range. The writes are of 16 pairs inside the two
        // layouts. `__m512bh` and `__m512i` are both 64 bytes, for which all bits are valid.
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
            // Interleaves the 16 rounded numbers of a row with those of the next row.
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

    /// Never called, because there are no bfloat16 rows on this target.
    #[cfg(not(target_arch = "x86_64"))]
    pub unsafe fn fill(&mut self, _: &[f32], _: usize, _: &[f32], _: &[f32]) {}
}

/// Transposes 16 x 16 numbers of 32 bits.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [std::arch::x86_64::__m512i; 16]) -> [std::arch::x86_64::__m512i; 16] {
    use std::arch::x86_64::*;
    let mut a = rows;
    for i in (0..16).step_by(2) {
        (a[i], a[i + 1]) = (_mm512_unpacklo_epi32(rows[i], rows[i + 1]), _mm512_unpackhi_epi32(rows[i], rows[i + 1]));
    }
    // b[4 g + j] holds column j of each quarter, for the rows 4 g to 4 g + 3.
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

#[cfg(test)]
mod tests {
    use super::super::multiplier::Bf16Multiplier;
    use super::super::rows::Bf16Rows;
    use super::*;

    #[test]
    fn both_layouts_hold_the_rounded_derivatives() {
        let Some(multiplier) = Bf16Multiplier::all().pop() else { return };
        for size in [32, 64, 128] {
            let stride = size + 16;
            let derivatives: Vec<f32> = (0..size * stride).map(|i| (i as f32 * 0.7).sin()).collect();
            let lengths: Vec<f32> = (0..size).map(|i| 1.0 + i as f32 / 100.0).collect();
            let others: Vec<f32> = (0..size).map(|i| 2.0 - i as f32 / 300.0).collect();
            let rows = Bf16Rows::new(multiplier, &vec![0.0; size * 32], &lengths, 32, 1);
            let keys = Bf16Rows::new(multiplier, &vec![0.0; size * 32], &others, 32, 1);
            let mut out = Bf16Derivatives::new(size);
            rows.round(0, &keys, 0, &derivatives, stride, &mut out);
            for r in 0..size {
                for c in 0..size {
                    let bits = |pairs: &[Pair], row: usize, at: usize| {
                        pairs[row * size / 2 + at / 2] >> (16 * (at % 2)) & 0xffff
                    };
                    let number = derivatives[r * stride + c];
                    assert_eq!(bits(&out.by_row, r, c), round(number * (1.0 / others[c])), "row {r}, column {c}");
                    assert_eq!(bits(&out.by_column, c, r), round(number * (1.0 / lengths[r])), "row {r}, column {c}");
                }
            }
        }
    }
}
