//! Products of bfloat16 numbers with sums in single precision, with the instructions of machines that have AMX or
//! AVX-512 BF16.
//!
//! The instructions take two numbers along the inner dimension at a time, so the elements of a factor are pairs.

use std::sync::OnceLock;

use super::product::{Bf16Product, DEPTH};
use super::{amx, avx512};
use crate::cpu::simd::{BLOCK_COLUMNS, BLOCK_ROWS};

/// The instructions that multiply pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bf16Multiplier {
    /// AVX-512 BF16. One instruction multiplies 16 pairs by 16 pairs and adds.
    Avx512,
    /// AMX. One instruction multiplies two tiles of 16 x 16 pairs and adds.
    Amx,
}

impl Bf16Multiplier {
    /// The multiplier that is faster than the instructions for `f32`, if the machine has one. AMX is several times as
    /// fast. AVX-512 BF16 is twice as fast on AMD's machines, but half as fast on Intel's (Sapphire Rapids). Tests use
    /// any.
    pub fn best() -> Option<Self> {
        static BEST: OnceLock<Option<Bf16Multiplier>> = OnceLock::new();
        *BEST.get_or_init(|| {
            let pays = |multiplier: &Self| *multiplier == Self::Amx || is_amd() || cfg!(test);
            Self::all().into_iter().rev().find(pays)
        })
    }

    /// All multipliers of this machine.
    pub fn all() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut all = vec![];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16")
        {
            all.push(Self::Avx512);
            if amx::available() {
                all.push(Self::Amx);
            }
        }
        all
    }

    /// Computes a product. The multiplier must come from [`all`](Self::all) or [`best`](Self::best).
    pub fn multiply(self, product: Bf16Product<'_>) {
        let Bf16Product { left, left_row, right, right_panel, right_depth, out, out_row, rows, columns, depth, .. } =
            &product;
        assert!(rows.is_multiple_of(BLOCK_ROWS) && columns.is_multiple_of(BLOCK_COLUMNS));
        assert!(depth.is_multiple_of(DEPTH) && *rows > 0 && *columns > 0 && *depth > 0);
        assert!(left.len() >= (rows - 1) * left_row + depth && out.len() >= (rows - 1) * out_row + columns);
        let panels = columns / BLOCK_COLUMNS;
        assert!(right.len() >= (panels - 1) * right_panel + (depth - 1) * right_depth + BLOCK_COLUMNS);
        // SAFETY: The machine has the instructions, because this crate gets a multiplier only from `all` or `best`. By
        // the assertions, all accesses are within the slices.
        unsafe {
            match self {
                Self::Avx512 => avx512::multiply(product),
                Self::Amx => amx::multiply(product),
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

#[cfg(test)]
mod tests {
    use super::super::product::Pair;
    use super::*;

    /// bfloat16 numbers that are small integers, so that the sums of their products are exact.
    fn pairs(count: usize, seed: usize) -> (Vec<Pair>, Vec<[f32; 2]>) {
        let number = |i: usize| ((i * 7919 + seed) % 31) as f32 - 15.0;
        let numbers: Vec<[f32; 2]> = (0..count).map(|i| [number(2 * i), number(2 * i + 1)]).collect();
        (numbers.iter().map(|[low, high]| low.to_bits() >> 16 | high.to_bits() & 0xffff_0000).collect(), numbers)
    }

    #[test]
    fn every_multiplier_multiplies() {
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
                    for multiplier in Bf16Multiplier::all() {
                        let mut out = before.clone();
                        multiplier.multiply(Bf16Product {
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
                        assert!(out == expected, "{multiplier:?}, {rows} x {columns} x {depth}, add {add}");
                    }
                }
            }
        }
    }
}
