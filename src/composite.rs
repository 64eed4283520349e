//! The loss from libtorch's operations, in chunks of anchors: exact, on every device. The reference
//! for large N, and the way on devices that have no kernel.
//!
//! Two sweeps over the chunks: the row quantiles where the threshold is adaptive, then losses and
//! gradients in one go. Nothing waits for the device and no shape depends on data. Products of
//! matrices are written into given tensors, which autocast leaves alone.

mod directions;
mod gradients;
mod specials;
mod terms;

use directions::Directions;
use gradients::Gradients;
use specials::Specials;
use terms::{Hierarchical, Terms};

use crate::error::{Error, Input, Result};
use crate::problem::{quantile_rank, Pairing, Problem, Reduction, Threshold, Wanted};
use crate::torch::{no_grad_guard, Device, Kind, Tensor};

/// Elements of a chunk's [anchors, keys] buffers. On the CPU few enough for malloc to hand the same
/// pages out again (fresh ones cost more than the arithmetic); elsewhere many, as launches cost.
const CPU_CHUNK: usize = 1 << 21;
const CHUNK: usize = 1 << 24;

/// What one evaluation reads. Shapes, dtypes and devices are those of the problem.
pub struct Inputs {
    /// [M, D]
    pub anchors: Tensor,
    /// [N, D]; none where the problem is square.
    pub keys: Option<Tensor>,
    /// [M, D], for `Pairing::Apart`.
    pub positives: Option<Tensor>,
    /// int64 [M, P], for `Pairing::Indexed`.
    pub positive_index: Option<Tensor>,
    /// int64 [M], -1 for none, for `Pairing::Indexed`.
    pub ignored_index: Option<Tensor>,
    /// int64 [M], for `Threshold::Labels`.
    pub anchor_labels: Option<Tensor>,
    /// int64 [N], for `Threshold::Labels` where the problem is not square.
    pub key_labels: Option<Tensor>,
    /// 0-d, on the device: replaces the value of `Threshold::Cosine`.
    pub epsilon: Option<Tensor>,
    /// [M]: the loss is the sum of weight times anchor's loss, whatever the reduction.
    pub weights: Option<Tensor>,
}

/// What one evaluation found.
pub struct Evaluation {
    /// 0-d, or [M] for `Reduction::None` without weights.
    pub loss: Tensor,
    /// [6], in the order of [`Statistics`](crate::problem::Statistics).
    pub statistics: Tensor,
    /// Of anchors, keys and positives; none where not wanted.
    pub gradients: [Option<Tensor>; 3],
}

/// The loss, its statistics and the gradients wanted.
pub fn evaluate(problem: &Problem, inputs: &Inputs, wanted: Wanted) -> Result<Evaluation> {
    let _guard = no_grad_guard()?;
    let rows = Rows::of(problem, inputs)?;
    let epsilon = rows.epsilon()?;
    let mut gradients = Gradients::zeros(&rows, wanted)?;
    let chunks = rows.chunks().map(|(start, length)| rows.evaluate(start, length, &epsilon, &mut gradients));
    let found = Found::join(&chunks.collect::<Result<Vec<_>>>()?)?;
    let with_loss = found.defined.f_sum(rows.kind)?;
    let mean = problem.reduction == Reduction::Mean && inputs.weights.is_none();
    let divisor = if mean { with_loss.f_clamp_min(1.0)? } else { with_loss.f_ones_like()? };
    let loss = match &rows.weights {
        Some(weights) => found.losses.f_mul(&weights.f_squeeze_dim(1)?)?.f_sum(rows.kind)?,
        None if problem.reduction == Reduction::None => found.losses.shallow_clone(),
        None => found.losses.f_sum(rows.kind)?.f_div(&divisor)?,
    };
    let undefined = with_loss.f_neg()?.f_add_scalar(problem.anchors as f64)?;
    Ok(Evaluation {
        loss,
        statistics: found.statistics(&rows, epsilon, undefined)?,
        gradients: gradients.finish(&rows, &divisor.f_mul_scalar(problem.temperature)?)?,
    })
}

/// Each anchor's quantile of its row of similarities, [M].
pub fn row_quantiles(problem: &Problem, inputs: &Inputs, quantile: f64) -> Result<Tensor> {
    let _guard = no_grad_guard()?;
    Rows::of(problem, inputs)?.quantiles(quantile)
}

/// What does not change from chunk to chunk.
struct Rows<'a> {
    problem: &'a Problem,
    inputs: &'a Inputs,
    kind: Kind,
    anchors: Directions,
    keys: Option<Directions>,
    positives: Option<Directions>,
    special: Specials,
    /// [M, 1]
    weights: Option<Tensor>,
}

/// Anchors `start .. start + length`: C rows.
struct Chunk {
    start: i64,
    length: i64,
    /// [C, D]
    anchors: Tensor,
    /// [C, N]: the own entry is exactly 1.
    similarities: Tensor,
    /// [C, P]
    positives: Tensor,
}

impl Chunk {
    /// Puts `value` where the key is no negative.
    fn exclude(&mut self, columns: Option<&Tensor>, value: f64) -> Result<()> {
        if let Some(columns) = columns {
            self.similarities = self.similarities.f_scatter_value_(1, columns, value)?;
        }
        Ok(())
    }
}

impl<'a> Rows<'a> {
    fn of(problem: &'a Problem, inputs: &'a Inputs) -> Result<Self> {
        let kind = if inputs.anchors.f_kind()? == Kind::Double { Kind::Double } else { Kind::Float };
        let directions = |rows: &Option<Tensor>, input| -> Result<Option<Directions>> {
            rows.as_ref().map(|rows| Directions::of(rows, kind, input)).transpose()
        };
        let anchors = Directions::of(&inputs.anchors, kind, Input::Anchors)?;
        Ok(Self {
            keys: directions(&inputs.keys, Input::Keys)?,
            positives: directions(&inputs.positives, Input::Positives)?,
            special: Specials::of(problem, inputs, &anchors.unit.f_narrow(1, 0, 1)?)?,
            weights: inputs.weights.as_ref().map(|weights| weights.f_unsqueeze(1)).transpose()?,
            problem,
            inputs,
            kind,
            anchors,
        })
    }

    fn keys(&self) -> &Tensor {
        &self.keys.as_ref().unwrap_or(&self.anchors).unit
    }

    fn chunks(&self) -> impl Iterator<Item = (i64, i64)> {
        let elements = if self.anchors.unit.device() == Device::Cpu { CPU_CHUNK } else { CHUNK };
        let length = (elements / self.problem.keys).max(1);
        let anchors = self.problem.anchors;
        (0..anchors).step_by(length).map(move |start| (start as i64, length.min(anchors - start) as i64))
    }

    fn chunk(&self, start: i64, length: i64) -> Result<Chunk> {
        let anchors = self.anchors.unit.f_narrow(0, start, length)?;
        let similarities = anchors.f_narrow(0, 0, 0)?.f_empty_like()?;
        let mut similarities = anchors.f_mm_out(&similarities, &self.keys().f_transpose(0, 1)?)?;
        let positives = match (&self.special.positives, &self.positives) {
            (Some(columns), _) => similarities.f_gather(1, &columns.f_narrow(0, start, length)?, false)?,
            (None, Some(positives)) => {
                let products = anchors.f_mul(&positives.unit.f_narrow(0, start, length)?)?;
                products.f_sum_dim_intlist([1].as_slice(), true, self.kind)?
            }
            (None, None) => return Err(Error::runtime("the anchors have no positives")),
        };
        if let Some(own) = &self.special.own {
            similarities = similarities.f_scatter_value_(1, &own.f_narrow(0, start, length)?, 1.0)?;
        }
        Ok(Chunk { start, length, anchors, similarities, positives })
    }

    /// The threshold as a 0-d tensor on the device; NaN where labels decide.
    fn epsilon(&self) -> Result<Tensor> {
        if let Some(epsilon) = &self.inputs.epsilon {
            return Ok(epsilon.f_to_kind(self.kind)?);
        }
        let value = match self.problem.threshold {
            Threshold::Adaptive { quantile } => return Ok(self.quantiles(quantile)?.f_mean(self.kind)?),
            Threshold::Cosine { value } | Threshold::MinMax { value } => value,
            Threshold::Labels | Threshold::Given => f64::NAN,
        };
        Ok(self.special.negatives.f_sum(self.kind)?.f_full_like(value)?)
    }

    fn quantiles(&self, quantile: f64) -> Result<Tensor> {
        let rank = quantile_rank(self.problem.row_length(), quantile) as i64;
        let length = self.problem.row_length() as i64;
        let chunks = self.chunks().map(|(start, rows)| -> Result<Tensor> {
            let chunk = self.chunk(start, rows)?;
            let row = if self.problem.pairing == Pairing::Apart {
                Tensor::f_cat(&[chunk.similarities, chunk.positives], 1)?
            } else {
                chunk.similarities
            };
            // From the nearer end: the work grows with the rank.
            if 2 * rank <= length {
                Ok(row.f_topk(rank, 1, true, false)?.0.f_amin([1], false)?)
            } else {
                Ok(row.f_topk(length - rank + 1, 1, false, false)?.0.f_amax([1], false)?)
            }
        });
        Ok(Tensor::f_cat(&chunks.collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// What the similarities of hierarchical negatives exceed, 0-d or [C, 1].
    /// None where nothing does: 1 is no similarity's to exceed, whatever rounding does.
    fn bound(&self, chunk: &Chunk, epsilon: &Tensor) -> Result<Option<Tensor>> {
        match self.problem.threshold {
            Threshold::Cosine { value } | Threshold::MinMax { value }
                if value >= 1.0 && self.inputs.epsilon.is_none() =>
            {
                Ok(None)
            }
            Threshold::MinMax { value } if value.is_finite() => {
                let (mut low, mut high) =
                    (chunk.similarities.f_amin([1], true)?, chunk.similarities.f_amax([1], true)?);
                if self.problem.pairing == Pairing::Apart {
                    (low, high) = (low.f_minimum(&chunk.positives)?, high.f_maximum(&chunk.positives)?);
                }
                Ok(Some(high.f_sub(&low)?.f_mul_scalar(value)?.f_add(&low)?))
            }
            _ => Ok(Some(epsilon.f_masked_fill(&epsilon.f_ge(1.0)?, f64::INFINITY)?)),
        }
    }

    /// `similarities` [C, N]: minus infinity where the key is no negative. None where no negative is hierarchical.
    fn hierarchical(&self, start: i64, similarities: &Tensor, bound: Option<&Tensor>) -> Result<Option<Hierarchical>> {
        let mask = match (&self.inputs.anchor_labels, bound) {
            (Some(anchors), _) if self.problem.threshold == Threshold::Labels => {
                let keys = self.inputs.key_labels.as_ref().unwrap_or(anchors).f_unsqueeze(0)?;
                let anchors = anchors.f_narrow(0, start, similarities.size2()?.0)?.f_unsqueeze(1)?;
                anchors.f_eq_tensor(&keys)?.f_logical_and(&similarities.f_ne(f64::NEG_INFINITY)?)?
            }
            (_, Some(bound)) => similarities.f_gt_tensor(bound)?,
            (_, None) => return Ok(None),
        };
        let count = mask.f_sum_dim_intlist([1].as_slice(), true, self.kind)?;
        Ok(Some(Hierarchical { mask, count }))
    }

    fn evaluate(&self, start: i64, length: i64, epsilon: &Tensor, gradients: &mut Gradients) -> Result<Found> {
        let mut chunk = self.chunk(start, length)?;
        let bound = self.bound(&chunk, epsilon)?;
        let excluded = self.special.excluded.as_ref().map(|columns| columns.f_narrow(0, start, length)).transpose()?;
        chunk.exclude(excluded.as_ref(), 0.0)?;
        let negative = chunk.similarities.f_sum_dim_intlist([1].as_slice(), false, self.kind)?;
        chunk.exclude(excluded.as_ref(), f64::NEG_INFINITY)?;
        let hierarchical = self.hierarchical(start, &chunk.similarities, bound.as_ref())?;
        let count = match &hierarchical {
            Some(hierarchical) => hierarchical.count.f_squeeze_dim(1)?,
            None => negative.f_zeros_like()?,
        };
        let logits = chunk.similarities.f_div_scalar_(self.problem.temperature)?;
        let positives = chunk.positives.f_div_scalar(self.problem.temperature)?;
        let negatives = self.special.negatives.f_narrow(0, start, length)?;
        let terms = Terms::of(self.problem, &logits, &positives, hierarchical.as_ref(), &negatives)?;
        let found = Found {
            losses: terms.losses.shallow_clone(),
            defined: terms.defined.shallow_clone(),
            floored: terms.floored.shallow_clone(),
            hierarchical: count,
            positive: chunk.positives.f_mean_dim([1].as_slice(), false, self.kind)?,
            negative,
        };
        gradients.add(self, &chunk, terms)?;
        Ok(found)
    }
}

/// What was found for some anchors, [C] each.
struct Found {
    losses: Tensor,
    defined: Tensor,
    /// Fraction of the anchor's pairs.
    floored: Tensor,
    /// Number of hierarchical negatives.
    hierarchical: Tensor,
    /// Mean similarity of the positives.
    positive: Tensor,
    /// Sum of the similarities of the negatives.
    negative: Tensor,
}

impl Found {
    fn join(chunks: &[Self]) -> Result<Self> {
        let join = |column: fn(&Self) -> &Tensor| -> Result<Tensor> {
            Ok(Tensor::f_cat(&chunks.iter().map(column).collect::<Vec<_>>(), 0)?)
        };
        Ok(Self {
            losses: join(|chunk| &chunk.losses)?,
            defined: join(|chunk| &chunk.defined)?,
            floored: join(|chunk| &chunk.floored)?,
            hierarchical: join(|chunk| &chunk.hierarchical)?,
            positive: join(|chunk| &chunk.positive)?,
            negative: join(|chunk| &chunk.negative)?,
        })
    }

    fn statistics(&self, rows: &Rows, epsilon: Tensor, undefined: Tensor) -> Result<Tensor> {
        let mean = |of: &Tensor| of.f_mean(rows.kind);
        let negatives = rows.special.negatives.f_sum(rows.kind)?;
        let negative =
            self.negative.f_sum(rows.kind)?.f_div(&negatives)?.f_masked_fill(&negatives.f_eq(0.0)?, f64::NAN)?;
        let floored = mean(&self.floored)?;
        let statistics = [epsilon, mean(&self.hierarchical)?, mean(&self.positive)?, negative, floored, undefined];
        Ok(Tensor::f_stack(&statistics, 0)?)
    }
}
