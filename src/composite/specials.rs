//! The keys of each anchor that are not negatives, as column indices.

use super::Inputs;
use crate::error::Result;
use crate::problem::{Pairing, Problem};
use crate::torch::{Kind, Tensor};

/// Columns of the [M, N] similarities that are not negatives.
pub(super) struct Specials {
    /// [M, 1]: the anchor itself, where it is known to stand in the keys.
    pub(super) own: Option<Tensor>,
    /// [M, P]: the positives, where they stand in the keys.
    pub(super) positives: Option<Tensor>,
    /// [M, P] or [M, P + 1]: all that is left out of the negatives.
    pub(super) excluded: Option<Tensor>,
    /// [M, 1]: number of negatives, in the dtype of the arithmetic.
    pub(super) negatives: Tensor,
}

impl Specials {
    /// `column`: any [M, 1] tensor in the dtype of the arithmetic; lends its device.
    pub(super) fn of(problem: &Problem, inputs: &Inputs, column: &Tensor) -> Result<Self> {
        match problem.pairing {
            Pairing::Views { views, offset } => Self::views(problem, views, offset, column),
            Pairing::Indexed { .. } => Self::indexed(problem, inputs, column),
            Pairing::Apart => {
                let negatives = column.f_full_like(problem.keys as f64)?;
                Ok(Self { own: None, positives: None, excluded: None, negatives })
            }
        }
    }

    /// The own row and its other views are `samples` rows apart, cyclically.
    fn views(problem: &Problem, views: usize, offset: usize, column: &Tensor) -> Result<Self> {
        let rows = column.f_ones_like()?.f_cumsum(0, Kind::Int64)?.f_sub_scalar(1)?;
        let samples = problem.anchors / views;
        let shifted = |view: usize| -> Result<Tensor> {
            let row = rows.f_add_scalar((view * samples) as i64)?.f_remainder(problem.anchors as i64)?;
            Ok(row.f_add_scalar(offset as i64)?)
        };
        let own = shifted(0)?;
        let positives = (1..views).map(shifted).collect::<Result<Vec<_>>>()?;
        let positives = Tensor::f_cat(&positives, 1)?;
        Ok(Self {
            excluded: Some(Tensor::f_cat(&[&own, &positives], 1)?),
            own: Some(own),
            positives: Some(positives),
            negatives: column.f_full_like((problem.keys - views) as f64)?,
        })
    }

    fn indexed(problem: &Problem, inputs: &Inputs, column: &Tensor) -> Result<Self> {
        let mut special = Self { own: None, positives: None, excluded: None, negatives: column.f_full_like(0.0)? };
        let Some(positives) = &inputs.positive_index else { return Ok(special) };
        special.negatives = column.f_full_like((problem.keys - problem.positives()) as f64)?;
        special.positives = Some(positives.shallow_clone());
        special.excluded = Some(match &inputs.ignored_index {
            None => positives.shallow_clone(),
            Some(ignored) => {
                let ignored = ignored.f_unsqueeze(1)?;
                let absent = ignored.f_lt(0)?;
                special.negatives = special.negatives.f_sub(&absent.f_logical_not()?.f_type_as(column)?)?;
                // A column that is left out already stands for "none": shapes depend on no data.
                let ignored = positives.f_narrow(1, 0, 1)?.f_where_self(&absent, &ignored)?;
                Tensor::f_cat(&[positives, &ignored], 1)?
            }
        });
        Ok(special)
    }
}
