//! Products of pairs of bfloat16 numbers by AMX, the tile instructions of Intel's Xeons from Sapphire Rapids on.
//!
//! A tile register holds up to 16 rows of 64 bytes. `tdpbf16ps` multiplies 16 x 16 pairs by 16 x 16 pairs and adds the
//! 16 x 16 sums to those of a third register. Stable Rust has no functions for these instructions, so they stand here as
//! assembly. The shapes of the registers are set at the start of a product and released at its end, as the rest of the
//! process may use tiles too (oneDNN does). The system's permission remains with the process, from the first product of
//! bfloat16 rows on.

use super::product::Bf16Product;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::product::DEPTH;

/// The machine has tiles for bfloat16, and the system lets this process use them.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub fn available() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    use std::sync::OnceLock;

    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    /// `ARCH_REQ_XCOMP_PERM` of asm/prctl.h: asks for a part of the processor's state that is not saved by default.
    const REQUEST_PERMISSION: libc::c_long = 0x1023;
    /// `XFEATURE_XTILEDATA`
    const TILE_DATA: libc::c_long = 18;

    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let has = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & (BF16 | TILE) == BF16 | TILE;
        // SAFETY: a request that takes two numbers and changes what this process may use, for all of its threads.
        has && unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) } == 0
    })
}

/// There are none.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub fn available() -> bool {
    false
}

/// Computes a product.
///
/// # Safety
/// Tiles are [`available`], and the slices are as long as `Bf16Multiplier::multiply` asserts.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub unsafe fn multiply(product: Bf16Product<'_>) {
    use crate::cpu::simd::BLOCK_COLUMNS;
    use std::arch::asm;

    let Bf16Product { left, left_row, right, right_panel, right_depth, out, out_row, rows, columns, depth, add } =
        product;
    // An element's sum has one order whatever the shape of the tile it is in: its bits are the same in all of them.
    let tile_rows = if rows.is_multiple_of(16) { 16 } else { 8 };
    let shapes = Shapes::new(tile_rows as u8);
    // SAFETY: `shapes` is what the instruction reads.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(nostack, readonly)) };
    for column in (0..columns).step_by(BLOCK_COLUMNS) {
        for row in (0..rows).step_by(2 * tile_rows) {
            // SAFETY: within the slices, by the caller: two or one tiles of rows, 32 columns, `depth` pairs.
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
    // SAFETY: gives the registers back.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Never called: there are no tiles.
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
    /// Sums and left factors (0 to 5) of so many rows, right factors (6 and 7) of 16, each of 64 bytes.
    fn new(rows: u8) -> Self {
        let mut shapes = Self { palette: 1, start_row: 0, reserved: [0; 14], bytes_in_row: [0; 16], rows: [0; 16] };
        shapes.bytes_in_row[..8].fill(64);
        shapes.rows[..8].copy_from_slice(&[rows, rows, rows, rows, rows, rows, 16, 16]);
        shapes
    }
}

/// Two tiles of columns and one or two of rows; distances in bytes.
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
    /// Two tiles of rows.
    ///
    /// # Safety
    /// Shapes are set, 2 `tile_rows` of `left`, 16 `steps` rows of `right` are readable, the block of `out` is the caller's
    /// alone.
    unsafe fn two(&self, add: bool) {
        // SAFETY: the addresses are within the caller's rows, the shapes are set; the tiles that it changes are named.
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

    /// One tile of rows.
    ///
    /// # Safety
    /// As for [`two`](Self::two), with `tile_rows` rows.
    unsafe fn one(&self, add: bool) {
        // SAFETY: the addresses are within the caller's rows, the shapes are set; the tiles that it changes are named.
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
