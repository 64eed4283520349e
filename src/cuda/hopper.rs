//! The kernels for sm_90a (`kernels/hopper*.cu`): which calls take them, and the sizes of their tiles and blocks.
//!
//! They multiply with `wgmma`, as only compute capability 9.0 does. All kernels that compare similarities with a threshold
//! do so then, since tensor cores may round these products otherwise than those of `mma.sync`: a pair is above the
//! threshold for all of them or for none.

use super::plan::is_general;
use super::{Chip, Operand, Variant};
use crate::problem::{Problem, Threshold};

/// Whether calls take these kernels where nothing is said. No GPU has run them yet.
pub const BY_DEFAULT: bool = false;
/// The only compute capability whose GPUs run code for sm_90a.
const CAPABILITY: (u32, u32) = (9, 0);
/// Threads of a block: one warpgroup that copies, two that multiply.
pub const THREADS: usize = 384;
/// Rows of a block of the kernels without a gradient: two strips of 64 for each warpgroup that multiplies.
pub const STRIP_ROWS: usize = 256;
/// Rows of a block of the gradient: one strip each.
pub const GRADIENT_ROWS: usize = 128;
/// Numbers of a column beside its row: what the gradient reads. The other kernels read the first.
const NOTES: usize = 4;
/// Shared memory starts somewhere, tiles on a multiple of this.
const ALIGNMENT: usize = 1024;
const NUMBER: usize = size_of::<f32>();

/// The sizes that depend on the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hopper {
    row_bytes: usize,
    /// Columns of a tile.
    pub columns: usize,
    strip_stages: usize,
    gradient_stages: usize,
}

impl Hopper {
    /// For a variant's rows; none where there are no such kernels.
    pub fn of(variant: Variant) -> Option<Self> {
        let is_supported = matches!(variant.operand, Operand::Bf16 | Operand::F16) && matches!(variant.dims, 64 | 128 | 192 | 256);
        is_supported.then(|| Self {
            row_bytes: variant.row_bytes(),
            // As many as leave room for 4 stages: in registers beside the gradient's sums, and in shared memory.
            columns: if variant.dims <= 128 { 128 } else { 64 },
            strip_stages: if variant.dims <= 192 { 4 } else { 3 },
            gradient_stages: 4,
        })
    }

    /// The sizes as the compiler is told them.
    pub fn options(&self) -> Vec<String> {
        let sizes = [
            ("THREADS", THREADS),
            ("COLUMNS", self.columns),
            ("STRIP_ROWS", STRIP_ROWS),
            ("STRIP_STAGES", self.strip_stages),
            ("GRADIENT_ROWS", GRADIENT_ROWS),
            ("GRADIENT_STAGES", self.gradient_stages),
        ];
        sizes.iter().map(|(name, size)| format!("-DWGMMA_{name}={size}")).collect()
    }

    /// Shared memory of a block of the kernels without a gradient.
    pub fn strip_shared_bytes(&self) -> usize {
        self.shared_bytes(STRIP_ROWS, self.strip_stages, 1)
    }

    /// Shared memory of a block of the gradient.
    pub fn gradient_shared_bytes(&self) -> usize {
        self.shared_bytes(GRADIENT_ROWS, self.gradient_stages, NOTES)
    }

    /// A block's own rows, the ring of stages with so many numbers for each column, and the mbarriers.
    fn shared_bytes(&self, rows: usize, stages: usize, notes: usize) -> usize {
        let stage = self.columns * (self.row_bytes + notes * NUMBER);
        ALIGNMENT + rows * self.row_bytes + stages * stage + (2 * stages + 1) * 8
    }

    /// Bytes of the notes on a side of that many rows.
    pub fn note_bytes(padded: usize) -> usize {
        padded * NOTES * NUMBER
    }

    /// Threads of the kernel `tiles`: one for each 16 bytes of the rows.
    pub fn tile_threads(&self, rows: usize) -> usize {
        rows * self.row_bytes / 16
    }
}

impl Variant {
    /// With the kernels for sm_90a, where a chip runs them and they compute the call: any pairing, reduction and weights of
    /// anchors, but one threshold for all pairs and the shifts and weights of the usual case.
    #[must_use]
    pub fn on_hopper(self, problem: &Problem, chip: Chip) -> Self {
        let fits = |hopper: &Hopper| hopper.strip_shared_bytes().max(hopper.gradient_shared_bytes()) <= chip.shared_bytes;
        let hopper = Hopper::of(self).filter(fits);
        Self { hopper: hopper.filter(|_| chip.capability == CAPABILITY && takes(problem)), ..self }
    }
}

/// Whether they compute a problem.
fn takes(problem: &Problem) -> bool {
    !is_general(problem) && !matches!(problem.threshold, Threshold::Adaptive { .. })
}
