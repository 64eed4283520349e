//! Rows as directions, and gradients back from directions to rows.

use crate::error::{Error, Input, Result, RowFault};
use crate::torch::{Device, Kind, Tensor};

/// The rows of an input, normalised, and what a gradient needs to go back.
pub(super) struct Directions {
    /// [rows, dims]
    pub(super) unit: Tensor,
    /// [rows, 1]: the largest magnitude of a row.
    scale: Tensor,
    /// [rows, 1]: the norm of the row divided by `scale`; the product of both may overflow or vanish.
    norm: Tensor,
}

impl Directions {
    /// On the CPU, a row without a direction is an error; elsewhere nobody waits to see it, and it
    /// becomes NaN.
    pub(super) fn of(rows: &Tensor, kind: Kind, input: Input) -> Result<Self> {
        let rows = rows.f_to_kind(kind)?;
        let scale = rows.f_abs()?.f_amax([1], true)?;
        if rows.device() == Device::Cpu {
            check_scales(&scale, input)?;
        }
        let scaled = rows.f_div(&scale)?;
        let norm = scaled.f_square()?.f_sum_dim_intlist([1].as_slice(), true, kind)?.f_sqrt()?;
        Ok(Self { unit: scaled.f_div(&norm)?, scale, norm })
    }

    /// The gradient for the rows from `gradient` for their directions: (g - (g.u) u) / |z|.
    /// It saturates where a row is so short that it would overflow.
    pub(super) fn project(&self, gradient: &Tensor) -> Result<Tensor> {
        let kind = gradient.f_kind()?;
        let along = gradient.f_mul(&self.unit)?.f_sum_dim_intlist([1].as_slice(), true, kind)?;
        let across = gradient.f_sub(&along.f_mul(&self.unit)?)?;
        let largest = if kind == Kind::Double { f64::MAX } else { f64::from(f32::MAX) };
        Ok(across.f_div(&self.norm)?.f_div(&self.scale)?.f_clamp(-largest, largest)?)
    }
}

/// A row has a direction where its largest magnitude is neither zero nor infinite nor NaN.
fn check_scales(scale: &Tensor, input: Input) -> Result<()> {
    let sound = scale.f_isfinite()?.f_logical_and(&scale.f_gt(0.0)?)?;
    let row = sound.f_to_kind(Kind::Int8)?.f_argmin(0, true)?.f_int64_value(&[0, 0])?;
    let value = scale.f_double_value(&[row, 0])?;
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    let fault = if value == 0.0 { RowFault::Zero } else { RowFault::NonFinite };
    Err(Error::Row { input, row: row as usize, fault })
}
