//! From a problem to launches. (Being written: the signatures stand.)

use std::ffi::c_void;

use super::{Buffers, Chip, Executor, Operand, Variant, Wanted, MAX_DIMS, MAX_VIEWS};
use crate::error::{Error, Result};
use crate::problem::Problem;

/// Whether the kernels compute a problem on a chip.
///
/// # Errors
/// Why not, in words.
pub fn supports(problem: &Problem, views: usize, chip: Chip, variant: Variant) -> std::result::Result<(), String> {
    let _ = (problem, views, chip, variant, MAX_DIMS, MAX_VIEWS, Operand::Bf16);
    Ok(())
}

/// Bytes of device memory that [`evaluate`] needs besides inputs and outputs.
pub fn scratch_bytes(problem: &Problem, wanted: Wanted, chip: Chip, variant: Variant) -> usize {
    let _ = (problem, wanted, chip, variant);
    0
}

/// Launches the loss, its statistics and the gradients wanted.
///
/// # Errors
/// The executor's.
pub fn evaluate(
    problem: &Problem,
    buffers: &Buffers,
    wanted: Wanted,
    chip: Chip,
    variant: Variant,
    executor: &dyn Executor,
) -> Result<()> {
    let _ = (problem, buffers, wanted, chip, variant, executor);
    Err(Error::runtime("not written yet"))
}

/// Launches each anchor's quantile of its row of similarities, float32 [M] in `out`. The problem's threshold must be
/// adaptive; the scratch is as for [`evaluate`] without gradients. Of the buffers' outputs none is written.
///
/// # Errors
/// The executor's.
pub fn row_quantiles(
    problem: &Problem,
    buffers: &Buffers,
    out: *mut f32,
    chip: Chip,
    variant: Variant,
    executor: &dyn Executor,
) -> Result<()> {
    let _ = (problem, buffers, out, chip, variant, executor, std::ptr::null::<c_void>());
    Err(Error::runtime("not written yet"))
}
