//! The kernels for sm_90a (`kernels/hopper*.cu`): the calls that use them, and the sizes of their tiles and blocks.
//!
//! They multiply with `wgmma`, which only compute capability 9.0 has. Tensor cores may round these products differently
//! from those of `mma.sync`. So all kernels of a call that compare similarities with a threshold use `wgmma`, or none
//! does: a pair is then above the threshold for all of them or for none.

use super::plan::is_general;
use super::search::DIRECT;
use super::{Chip, Operand, Variant};
use crate::problem::{Pairing, Problem, Threshold};

/// The only compute capability that runs code for sm_90a.
pub const CAPABILITY: (u32, u32) = (9, 0);
/// Rows of a warpgroup that multiplies.
const STRIP: usize = 64;
/// Warpgroups of a block that multiply, in the kernels without a gradient.
const STRIP_CONSUMERS: usize = 4;
/// The same in the gradient, whose sums need registers.
const GRADIENT_CONSUMERS: usize = 2;
/// Threads of a block: of these warpgroups, and of one that copies.
pub const STRIP_THREADS: usize = 128 + 128 * STRIP_CONSUMERS;
pub const GRADIENT_THREADS: usize = 128 + 128 * GRADIENT_CONSUMERS;
/// Rows of a block.
pub const STRIP_ROWS: usize = STRIP * STRIP_CONSUMERS;
pub const GRADIENT_ROWS: usize = STRIP * GRADIENT_CONSUMERS;
/// Rows of a block of `select_wgmma`, and its shared memory for counting digits.
pub const SELECT_ROWS: usize = STRIP;
const SELECTION_BYTES: usize = SELECT_ROWS * 257 * 4 + SELECT_ROWS * 8 + 72;
const SELECT_STAGES: usize = 2;
/// Numbers per column besides its row: its inverse length and, for the gradient, that and its coefficients.
const COEFFICIENTS: usize = 4;
const NOTES: usize = 1 + COEFFICIENTS;
/// Tiles start at multiples of this. Shared memory may start anywhere.
const ALIGNMENT: usize = 1024;
const NUMBER: usize = size_of::<f32>();

/// The sizes that depend on the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hopper {
    row_bytes: usize,
    /// Columns of a tile.
    pub columns: usize,
    strip_stages: usize,
    sift_stages: usize,
    gradient_stages: usize,
}

impl Hopper {
    /// The sizes for the rows of a variant. None if there are no such kernels.
    pub fn of(variant: Variant) -> Option<Self> {
        let is_supported =
            matches!(variant.operand, Operand::Bf16 | Operand::F16) && matches!(variant.dims, 64 | 128 | 192 | 256);
        is_supported.then(|| Self {
            row_bytes: variant.row_bytes(),
            // So many that 4 stages fit into shared memory, and the products into registers beside the sums of the
            // gradient.
            columns: if variant.dims <= 128 { 128 } else { 64 },
            strip_stages: if variant.dims <= 192 { 4 } else { 3 },
            sift_stages: match variant.dims {
                128 => 3,
                256 => 2,
                _ => 4,
            },
            gradient_stages: 4,
        })
    }

    /// The sizes as options of the compiler.
    pub fn options(&self) -> Vec<String> {
        let sizes = [
            ("COLUMNS", self.columns),
            ("STRIP_CONSUMERS", STRIP_CONSUMERS),
            ("STRIP_STAGES", self.strip_stages),
            ("SIFT_STAGES", self.sift_stages),
            ("GRADIENT_CONSUMERS", GRADIENT_CONSUMERS),
            ("GRADIENT_STAGES", self.gradient_stages),
            ("SELECT_STAGES", SELECT_STAGES),
            ("SELECTION_BYTES", SELECTION_BYTES),
        ];
        sizes.iter().map(|(name, size)| format!("-DWGMMA_{name}={size}")).collect()
    }

    /// Shared memory of a block of the kernels without a gradient.
    pub fn strip_shared_bytes(&self) -> usize {
        self.shared_bytes(STRIP_ROWS, self.strip_stages, 1)
    }

    /// Shared memory of a block of `sift_wgmma`, where each thread has slots for similarities of two rows.
    pub fn sift_shared_bytes(&self) -> usize {
        let slots = self.columns / 8;
        self.shared_bytes(STRIP_ROWS, self.sift_stages, 1) + 128 * STRIP_CONSUMERS * 2 * slots * NUMBER
    }

    /// Shared memory of a block of the gradient.
    pub fn gradient_shared_bytes(&self) -> usize {
        self.shared_bytes(GRADIENT_ROWS, self.gradient_stages, COEFFICIENTS)
    }

    /// Shared memory of a block of the selection.
    pub fn select_shared_bytes(&self) -> usize {
        self.shared_bytes(SELECT_ROWS, SELECT_STAGES, 1) + SELECTION_BYTES
    }

    fn most_shared_bytes(&self) -> usize {
        let sizes = [
            self.strip_shared_bytes(),
            self.sift_shared_bytes(),
            self.gradient_shared_bytes(),
            self.select_shared_bytes(),
        ];
        sizes.into_iter().max().unwrap_or(0)
    }

    /// A block's own rows, the ring of stages with `notes` numbers per column, and the mbarriers.
    fn shared_bytes(&self, rows: usize, stages: usize, notes: usize) -> usize {
        let stage = self.columns * (self.row_bytes + notes * NUMBER);
        ALIGNMENT + rows * self.row_bytes + stages * stage + (2 * stages + 2) * 8
    }

    /// Bytes of the notes of a side with this many rows.
    pub fn note_bytes(padded: usize) -> usize {
        padded * NOTES * NUMBER
    }
}

impl Variant {
    /// This variant with the kernels for sm_90a, if the chip and the problem support them. They compute the usual case
    /// with one threshold for all pairs, and any reduction, weights of anchors, and pairing except two towers. Own
    /// negatives are compared with the threshold by kernels that use mma.sync.
    #[must_use]
    pub fn on_hopper(self, problem: &Problem, chip: Chip) -> Self {
        let fits = |hopper: &Hopper| hopper.most_shared_bytes() <= chip.shared_bytes;
        let hopper = Hopper::of(self).filter(fits);
        Self { hopper: hopper.filter(|_| chip.capability == CAPABILITY && takes(problem)), ..self }
    }
}

/// Whether these kernels compute a problem.
fn takes(problem: &Problem) -> bool {
    // The quantiles of few keys are found by `select`, which uses mma.sync.
    !is_general(problem)
        && problem.pairing != Pairing::Towers
        && problem.own_negatives == 0
        && (!matches!(problem.threshold, Threshold::Adaptive { .. }) || problem.keys > DIRECT)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::RefCell;
    use std::ffi::c_void;

    use super::*;
    use crate::cuda::{evaluate, Buffers, Executor};
    use crate::error::Result;
    use crate::problem::{Formulation, Reduction, Wanted};

    const H100: Chip = Chip { capability: CAPABILITY, multiprocessors: 132, shared_bytes: 227 * 1024 };
    const BETA_1: Formulation = Formulation::Importance { beta: 1.0, tau_plus: 0.1 };
    const ADAPTIVE: Threshold = Threshold::Adaptive { quantile: 0.99 };

    fn square(rows: usize, threshold: Threshold) -> Problem {
        Problem {
            anchors: rows,
            keys: rows,
            dims: 128,
            square: true,
            pairing: Pairing::Views { views: 2, offset: 0 },
            own_negatives: 0,
            ignored: 0,
            threshold,
            formulation: BETA_1,
            temperature: 0.1,
            reduction: Reduction::Mean,
        }
    }

    fn variant(dims: usize, operand: Operand, problem: &Problem, chip: Chip) -> Variant {
        Variant::new(dims, operand).on_hopper(problem, chip)
    }

    /// The names of the kernels that an evaluation launches.
    fn launched(problem: &Problem, chip: Chip) -> Vec<String> {
        struct Names(RefCell<Vec<String>>);
        impl Executor for Names {
            fn launch(&self, kernel: &str, _: [u32; 3], _: u32, _: u32, _: &mut [*mut c_void]) -> Result<()> {
                self.0.borrow_mut().push(kernel.into());
                Ok(())
            }
        }
        let names = Names(RefCell::default());
        let wanted = Wanted { anchors: true, keys: !problem.square, positives: true };
        let variant = variant(problem.dims, Operand::Bf16, problem, chip);
        evaluate(problem, &Buffers::nowhere(problem), wanted, chip, variant, &names).unwrap();
        names.0.into_inner()
    }

    #[test]
    fn only_their_chip_and_their_rows_take_these_kernels() {
        let problem = square(2048, Threshold::Given);
        let takes = |dims, operand, chip| variant(dims, operand, &problem, chip).hopper.is_some();
        for dims in (1..=512).step_by(15) {
            let padded = Variant::padded(dims);
            assert_eq!(takes(dims, Operand::Bf16, H100), [64, 128, 192, 256].contains(&padded), "{dims} dimensions");
            assert_eq!(takes(dims, Operand::F16, H100), takes(dims, Operand::Bf16, H100));
            assert!(!takes(dims, Operand::Tf32, H100) && !takes(dims, Operand::SplitTf32, H100));
        }
        for capability in [(8, 0), (8, 9), (10, 0), (12, 0)] {
            assert!(!takes(128, Operand::Bf16, Chip { capability, ..H100 }));
        }
        assert!(!takes(128, Operand::Bf16, Chip { shared_bytes: 190 * 1024, ..H100 }));
        assert!(!takes(256, Operand::Bf16, Chip { shared_bytes: 220 * 1024, ..H100 }));
    }

    #[test]
    fn all_kernels_that_compare_with_a_threshold_multiply_alike() {
        let (few, many) = (1024, 1026);
        let taken = [
            square(few, Threshold::Cosine { value: 0.5 }),
            square(few, Threshold::MinMax { value: 1.0 }),
            square(few, Threshold::Given),
            square(many, ADAPTIVE),
            Problem { formulation: Formulation::Official, ..square(many, ADAPTIVE) },
            Problem { formulation: Formulation::Elimination, ..square(many, ADAPTIVE) },
            Problem { square: false, pairing: Pairing::Apart, anchors: 10, ..square(many, ADAPTIVE) },
            Problem {
                square: false,
                pairing: Pairing::Indexed { positives: 3 },
                anchors: 10,
                ..square(many, ADAPTIVE)
            },
        ];
        let refused = [
            square(few, ADAPTIVE),
            square(many, Threshold::MinMax { value: 0.5 }),
            square(many, Threshold::Labels),
            square(many, Threshold::Margin { margin: 0.1, relative: false }),
            Problem { formulation: Formulation::Importance { beta: 2.0, tau_plus: 0.1 }, ..square(many, ADAPTIVE) },
            Problem { square: false, pairing: Pairing::Apart, own_negatives: 1, ..square(many, ADAPTIVE) },
            Problem { temperature: 0.01, ..square(many, ADAPTIVE) },
            Problem { temperature: f64::NAN, ..square(many, ADAPTIVE) },
            Problem { pairing: Pairing::Towers, ..square(2 * many, ADAPTIVE) },
        ];
        let compares = |name: &&String| {
            ["survivors", "sift", "sums", "gradient", "ranges", "maxima"].iter().any(|kernel| name.starts_with(kernel))
        };
        for (problem, with_wgmma) in taken.iter().map(|p| (p, true)).chain(refused.iter().map(|p| (p, false))) {
            let names = launched(problem, H100);
            assert!(names.iter().filter(compares).all(|name| name.ends_with("_wgmma") == with_wgmma), "{names:?}");
            // `sample` may use other products, `select` and `select_failed` may not.
            let selects = |name: &String| ["select", "select_failed"].contains(&name.as_str());
            assert!(!with_wgmma || !names.iter().any(selects), "{names:?}");
            assert_eq!(with_wgmma, names.iter().any(|name| name == "note_coefficients"));
            assert!(launched(problem, Chip { capability: (10, 0), ..H100 })
                .iter()
                .all(|name| !name.ends_with("_wgmma")));
        }
    }
}
