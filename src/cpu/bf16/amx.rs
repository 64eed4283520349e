//! Products of pairs of bfloat16 numbers with AMX, the tile instructions of Intel's Xeons since Sapphire Rapids.
//!
//! A tile register holds up to 16 rows of 64 bytes. `tdpbf16ps` multiplies 16 x 16 pairs by 16 x 16 pairs, and adds the
//! 16 x 16 sums to those of a third register. Stable Rust has no functions for these instructions, so this file uses
//! assembly. The shapes of the registers are set at the start of a product and released at its end, because other code
//! in the process, such as oneDNN, may use tiles too. The system gives the permission to the whole process, for the
//! rest of its life.

use super::product::Bf16Product;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::product::DEPTH;

/// Whether the machine has tiles for bfloat16, and the system allows this process to use them.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub fn available() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    use std::sync::OnceLock;

    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    /// `ARCH_REQ_XCOMP_PERM` of asm/prctl.h, which asks for a part of the processor's state that is not saved by
    /// default.
    const REQUEST_PERMISSION: libc::c_long = 0x1023;
    /// `XFEATURE_XTILEDATA`
    const TILE_DATA: libc::c_long = 18;

    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let has = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & (BF16 | TILE) == BF16 | TILE;
        // SAFETY: The request takes two numbers. It only changes the permissions of this process.
        has && unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) } == 0
    })
}

/// There are no tiles on this target.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub fn available() -> bool {
    false
}

/// Computes a product.
///
/// # Safety
/// Tiles must be [`available`], and the product must pass the assertions of `Bf16Multiplier::multiply`.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub unsafe fn multiply(product: Bf16Product<'_>) {
    use crate::cpu::simd::BLOCK_COLUMNS;
    use std::arch::asm;

    let Bf16Product { left, left_row, right, right_panel, right_depth, out, out_row, rows, columns, depth, add } =
        product;
    // The order of an element's sum does not depend on the shape of its tile, so its bits do not either.
    let tile_rows = if rows.is_multiple_of(16) { 16 } else { 8 };
    let shapes = Shapes::new(tile_rows as u8);
    // SAFETY: The instruction reads the 64 bytes of `shapes`, and tiles are available.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(nostack, readonly)) };
    for column in (0..columns).step_by(BLOCK_COLUMNS) {
        for row in (0..rows).step_by(2 * tile_rows) {
            // SAFETY: One or two tiles of rows, 32 columns and `depth` pairs are within the slices, by the assertions
            // that the caller guarantees. The shapes are set.
            unsafe {
                let block = AmxBlock {
                    left: left.as_ptr().add(row * left_row).cast(),
                    left_row: 4 * left_row,
                    right: right.as_ptr().add(column / BLOCK_COLUMNS * right_panel).cast(),
                    right_depth: 4 * right_depth,
                    out: out.as_mut_ptr().add(row * out_row + column).cast(),
                    out_row: 4 * out_row,
                    steps: depth / DEPTH,
                    tile_rows,
                };
                if row + tile_rows < rows {
                    block.two(add);
                } else {
                    block.one(add);
                }
            }
        }
    }
    // SAFETY: This releases the registers, which are not used any more.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Never called, because there are no tiles on this target.
///
/// # Safety
/// Never called.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub unsafe fn multiply(_: Bf16Product<'_>) {}

/// The operand of `ldtilecfg`.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_in_row: [u16; 16],
    rows: [u8; 16],
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
impl Shapes {
    /// The sums and left factors (0 to 5) have `rows` rows, the right factors (6 and 7) have 16. A row has 64 bytes.
    fn new(rows: u8) -> Self {
        let mut shapes = Self { palette: 1, start_row: 0, reserved: [0; 14], bytes_in_row: [0; 16], rows: [0; 16] };
        shapes.bytes_in_row[..8].fill(64);
        shapes.rows[..8].copy_from_slice(&[rows, rows, rows, rows, rows, rows, 16, 16]);
        shapes
    }
}

/// A block of two tiles of columns and one or two tiles of rows. Distances are in bytes.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
struct AmxBlock {
    left: *const u8,
    left_row: usize,
    right: *const u8,
    right_depth: usize,
    out: *mut u8,
    out_row: usize,
    steps: usize,
    tile_rows: usize,
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
impl AmxBlock {
    /// Computes two tiles of rows.
    ///
    /// # Safety
    /// The shapes are set, and `steps` is at least 1. 2 `tile_rows` rows of `left` and 16 `steps` rows of `right` are
    /// readable. The block of `out` is readable and writable, and nothing else uses it.
    unsafe fn two(&self, add: bool) {
        // SAFETY: By the contract of this function, the shapes are set and all addresses are in range. The changed
        // tiles are declared.
        unsafe {
            std::arch::asm!(
                "test {add:e}, {add:e}",
                "jz 2f",
                "tileloadd tmm0, [{out0} + {out_row}*1]",
                "tileloadd tmm1, [{out0} + {out_row}*1 + 64]",
                "tileloadd tmm2, [{out1} + {out_row}*1]",
                "tileloadd tmm3, [{out1} + {out_row}*1 + 64]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                "tileloadd tmm4, [{left0} + {left_row}*1]",
                "tileloadd tmm6, [{right} + {right_depth}*1]",
                "tileloadd tmm7, [{right} + {right_depth}*1 + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{left1} + {left_row}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {left0}, 64",
                "add {left1}, 64",
                "add {right}, {right_step}",
                "dec {steps}",
                "jnz 3b",
                "tilestored [{out0} + {out_row}*1], tmm0",
                "tilestored [{out0} + {out_row}*1 + 64], tmm1",
                "tilestored [{out1} + {out_row}*1], tmm2",
                "tilestored [{out1} + {out_row}*1 + 64], tmm3",
                add = in(reg) u32::from(add),
                left0 = inout(reg) self.left => _,
                left1 = inout(reg) self.left.add(self.tile_rows * self.left_row) => _,
                left_row = in(reg) self.left_row,
                right = inout(reg) self.right => _,
                right_depth = in(reg) self.right_depth,
                right_step = in(reg) DEPTH * self.right_depth,
                out0 = in(reg) self.out,
                out1 = in(reg) self.out.add(self.tile_rows * self.out_row),
                out_row = in(reg) self.out_row,
                steps = inout(reg) self.steps => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// Computes one tile of rows.
    ///
    /// # Safety
    /// As for [`two`](Self::two), with `tile_rows` rows.
    unsafe fn one(&self, add: bool) {
        // SAFETY: By the contract of this function, the shapes are set and all addresses are in range. The changed
        // tiles are declared.
        unsafe {
            std::arch::asm!(
                "test {add:e}, {add:e}",
                "jz 2f",
                "tileloadd tmm0, [{out} + {out_row}*1]",
                "tileloadd tmm1, [{out} + {out_row}*1 + 64]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "3:",
                "tileloadd tmm4, [{left} + {left_row}*1]",
                "tileloadd tmm6, [{right} + {right_depth}*1]",
                "tileloadd tmm7, [{right} + {right_depth}*1 + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {left}, 64",
                "add {right}, {right_step}",
                "dec {steps}",
                "jnz 3b",
                "tilestored [{out} + {out_row}*1], tmm0",
                "tilestored [{out} + {out_row}*1 + 64], tmm1",
                add = in(reg) u32::from(add),
                left = inout(reg) self.left => _,
                left_row = in(reg) self.left_row,
                right = inout(reg) self.right => _,
                right_depth = in(reg) self.right_depth,
                right_step = in(reg) DEPTH * self.right_depth,
                out = in(reg) self.out,
                out_row = in(reg) self.out_row,
                steps = inout(reg) self.steps => _,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}
