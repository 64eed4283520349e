//! Gradients as they grow chunk by chunk.

use super::{Chunk, Rows};
use crate::composite::directions::Directions;
use crate::composite::terms::Terms;
use crate::error::Result;
use crate::problem::Wanted;
use crate::torch::Tensor;

/// Sums over the anchors so far, for the directions of each input; none where not wanted.
pub(super) struct Gradients {
    anchors: Option<Tensor>,
    keys: Option<Tensor>,
    positives: Option<Tensor>,
}

impl Gradients {
    pub(super) fn zeros(rows: &Rows, wanted: Wanted) -> Result<Self> {
        let zeros = |of: Option<&Directions>, wanted_too: bool| -> Result<Option<Tensor>> {
            let of = of.filter(|_| wanted.anchors && wanted_too);
            Ok(of.map(|directions| directions.unit.f_zeros_like()).transpose()?)
        };
        Ok(Self {
            anchors: zeros(Some(&rows.anchors), true)?,
            keys: zeros(rows.keys.as_ref(), wanted.keys)?,
            positives: zeros(rows.positives.as_ref(), wanted.positives)?,
        })
    }

    pub(super) fn add(&mut self, rows: &Rows, chunk: &Chunk, terms: Terms) -> Result<()> {
        let Some(anchors) = &mut self.anchors else { return Ok(()) };
        let within = |of: &Tensor| of.f_narrow(0, chunk.start, chunk.length);
        let mut positive = terms.positive_slopes.shallow_clone();
        let mut slopes = terms.negative_slopes()?;
        if let Some(weights) = &rows.weights {
            let weights = within(weights)?;
            positive = positive.f_mul(&weights)?;
            slopes = slopes.f_mul_(&weights)?;
        }
        if let Some(columns) = &rows.special.positives {
            slopes = slopes.f_scatter_add_(1, &within(columns)?, &positive)?;
        }
        // The tensors that are dropped are the same memory, written in place.
        let _ = within(anchors)?.f_addmm_(&slopes, rows.keys())?;
        let by_keys = if rows.keys.is_none() { Some(&mut *anchors) } else { self.keys.as_mut() };
        if let Some(keys) = by_keys {
            let _ = keys.f_addmm_(&slopes.f_transpose(0, 1)?, &chunk.anchors)?;
        }
        if let Some(directions) = &rows.positives {
            let _ = within(anchors)?.f_add_(&positive.f_mul(&within(&directions.unit)?)?)?;
            if let Some(positives) = &self.positives {
                let _ = within(positives)?.f_add_(&positive.f_mul(&chunk.anchors)?)?;
            }
        }
        Ok(())
    }

    /// Of the inputs' rows: divided, and back from directions.
    pub(super) fn finish(self, rows: &Rows, divisor: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let finish = |sum: Option<Tensor>, directions: Option<&Directions>| -> Result<Option<Tensor>> {
            let (Some(sum), Some(directions)) = (sum, directions) else { return Ok(None) };
            Ok(Some(directions.project(&sum.f_div(divisor)?)?))
        };
        Ok([
            finish(self.anchors, Some(&rows.anchors))?,
            finish(self.keys, rows.keys.as_ref())?,
            finish(self.positives, rows.positives.as_ref())?,
        ])
    }
}
