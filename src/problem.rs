//! One evaluation of the loss as plain data: the pairing of anchors and keys, the threshold's rule, the formulation,
//! and the range of every number.
//!
//! Symbols: anchors `i`, keys `j`, cosine similarity `c_ij`, temperature `t`, logits `s_ij = c_ij / t`.

use std::ops::Range;

use crate::error::{Error, Result};

/// How anchors find their positives among the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// The anchors are `views` views of the same samples, one view after the other. They are the rows of the keys from
    /// `offset` on: anchor `i` is key `offset + i`. Its positives are the other views of its sample.
    Views {
        /// Number of views. It divides the number of anchors, and is at least 2, or 1 for `Formulation::Supervised`.
        views: usize,
        /// Row of the keys at which the anchors start, which depends on the rank of the process.
        offset: usize,
    },
    /// Each anchor has a list of positive keys, and may have a list of keys to ignore. In a square problem the lists
    /// must be symmetric, because each pair is visited once for both of its anchors. This is not checked.
    Indexed {
        /// Positives per anchor, at least 1.
        positives: usize,
    },
    /// Each anchor has one positive that is not among the keys. Every key that it does not ignore is a negative.
    Apart,
    /// The anchors are two towers of the same samples, one after the other, and they are also the keys. An anchor is
    /// compared only with the other tower. Its sample there is its positive, the other samples are its negatives.
    Towers,
}

/// The rule that decides which negatives are hierarchical.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// `c_ij > epsilon`, where epsilon is the mean over the anchors of a quantile of each anchor's row of similarities.
    /// The row includes the positives, and the anchor itself if it is among the keys. 'nearest' interpolation.
    Adaptive {
        /// In [0, 1].
        quantile: f64,
    },
    /// `c_ij > value`. With minus infinity every negative is hierarchical, with 1 or more none is.
    Cosine {
        /// Any number but NaN.
        value: f64,
    },
    /// `f_ij > value`, where `f_ij` is `c_ij` rescaled to [0, 1] over the anchor's row.
    MinMax {
        /// Any number but NaN.
        value: f64,
    },
    /// Negatives with the anchor's label are hierarchical.
    Labels,
    /// `c_ij > value`, where the value is an operand. It may be on a GPU, and the host does not wait for it.
    Given,
    /// `c_ij > c_ip + margin`, where `p` is the most similar positive of the anchor.
    Margin {
        /// A finite number.
        margin: f64,
        /// Whether the margin is a fraction of the positive's similarity: `c_ij > c_ip + margin |c_ip|`.
        relative: bool,
    },
}

impl Threshold {
    /// The rule's name in Python.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Adaptive { .. } => "adaptive",
            Self::Cosine { .. } => "cosine",
            Self::MinMax { .. } => "minmax",
            Self::Labels => "labels",
            Self::Given => "given",
            Self::Margin { relative: false, .. } => "margin",
            Self::Margin { relative: true, .. } => "relative_margin",
        }
    }

    /// The same rule without a rescaling that decides nothing: on both scales no similarity exceeds 1, and all exceed
    /// minus infinity.
    pub fn simplified(self) -> Self {
        match self {
            Self::MinMax { value } if value >= 1.0 || value.is_infinite() => Self::Cosine { value },
            other => other,
        }
    }
}

/// How the denominator is built.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Formulation {
    /// Hierarchical negatives are reweighted and debiased as in HCL. Global negatives have weight 1.
    Importance {
        /// Concentration of the importance weights, at least 0.
        beta: f64,
        /// Class prior of the debiasing, in [0, 1).
        tau_plus: f64,
    },
    /// The authors' released code: the denominator contains neither the positive nor the hierarchical negatives, and a
    /// constant is added to the loss.
    Official,
    /// Decoupled InfoNCE: like `Official`, but without the constant.
    Decoupled,
    /// False negative elimination: the denominator contains the positive, but not the hierarchical negatives.
    Elimination,
    /// SupCon's L_out: the hierarchical negatives, which have the anchor's label, are also positives. The denominator
    /// contains all keys but the anchor.
    Supervised,
}

/// How the losses of the anchors are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// Mean over the anchors that have a defined loss.
    Mean,
    /// Sum over the anchors.
    Sum,
    /// One loss for each anchor, 0 if it is undefined.
    None,
}

/// Which gradients to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The gradient for the anchors. The others need it.
    pub anchors: bool,
    /// The gradient for the keys, if the problem is not square.
    pub keys: bool,
    /// The gradient for the rows apart, if there are any.
    pub positives: bool,
}

/// One evaluation of the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Problem {
    /// Number of anchors, M.
    pub anchors: usize,
    /// Number of keys, N. If the problem is square, this is M.
    pub keys: usize,
    /// Embedding dimension, D.
    pub dims: usize,
    /// Whether the keys are the anchors.
    pub square: bool,
    /// How anchors find their positives.
    pub pairing: Pairing,
    /// Number of own negatives of each anchor, which are not among the keys and with which no other anchor is compared.
    /// 0 if the problem is square.
    pub own_negatives: usize,
    /// Number of keys that each anchor may ignore, the length of its list. 0 unless the pairing is `Indexed` or `Apart`.
    pub ignored: usize,
    /// Which negatives are hierarchical.
    pub threshold: Threshold,
    /// How the denominator is built.
    pub formulation: Formulation,
    /// The temperature, above 0.
    pub temperature: f64,
    /// The reduction of the anchors' losses.
    pub reduction: Reduction,
}

impl Problem {
    /// Number of positives of each anchor.
    pub fn positives(&self) -> usize {
        match self.pairing {
            Pairing::Views { views, .. } => views - 1,
            Pairing::Indexed { positives } => positives,
            Pairing::Apart | Pairing::Towers => 1,
        }
    }

    /// Number of rows that are not among the keys and that only this anchor is compared with: its positive, for
    /// `Pairing::Apart`, and its own negatives after it.
    pub fn rows_apart(&self) -> usize {
        self.own_negatives + usize::from(self.pairing == Pairing::Apart)
    }

    /// Length of an anchor's row of similarities. Quantiles are computed over this row.
    pub fn row_length(&self) -> usize {
        match self.pairing {
            Pairing::Towers => self.keys / 2,
            _ => self.keys + self.rows_apart(),
        }
    }

    /// The keys that an anchor is compared with.
    pub fn compared_keys(&self, anchor: usize) -> Range<usize> {
        match self.pairing {
            Pairing::Towers if anchor < self.keys / 2 => self.keys / 2..self.keys,
            Pairing::Towers => 0..self.keys / 2,
            _ => 0..self.keys,
        }
    }

    /// Checks every number against its range.
    ///
    /// # Errors
    /// [`Error::Value`], which names the argument, what was expected and what came.
    pub fn validate(&self) -> Result<()> {
        validate_weighting(self.temperature, self.formulation)?;
        match self.threshold {
            Threshold::Adaptive { quantile } => expect((0.0..=1.0).contains(&quantile), || {
                format!("expected `quantile` to be in [0, 1], but got {}", shown(quantile))
            })?,
            Threshold::Cosine { value } | Threshold::MinMax { value } => {
                expect(!value.is_nan(), || "expected `threshold` to be a number, but got NaN".into())?
            }
            Threshold::Margin { margin, .. } => expect(margin.is_finite(), || {
                format!("expected `margin` to be a finite number, but got {}", shown(margin))
            })?,
            Threshold::Labels | Threshold::Given => {}
        }
        if self.formulation == Formulation::Supervised {
            expect(self.threshold == Threshold::Labels && self.pairing != Pairing::Towers, || {
                "expected labels, and views or keys, for the formulation \"supervised\"".into()
            })?;
        }
        expect(self.dims > 0, || "expected at least 1 embedding dimension, but got 0".into())?;
        self.validate_pairing()
    }

    fn validate_pairing(&self) -> Result<()> {
        expect(self.anchors > 0, || "expected at least 1 anchor, but got 0".into())?;
        match self.pairing {
            Pairing::Views { views, offset } => {
                let least = if self.formulation == Formulation::Supervised { 1 } else { 2 };
                expect(views >= least, || format!("expected at least {least} views, but got {views}"))?;
                expect(self.anchors.is_multiple_of(views), || {
                    format!("expected the anchors to be {views} views of equal length, but got {} rows", self.anchors)
                })?;
                expect(offset + self.anchors <= self.keys, || {
                    format!(
                        "expected the {} anchors to stand in the keys from row {offset} on, but got {} keys",
                        self.anchors, self.keys
                    )
                })
            }
            Pairing::Indexed { positives } => {
                expect(positives >= 1, || "expected at least 1 positive for each anchor, but got 0".into())?;
                expect(self.keys >= positives, || {
                    format!(
                        "expected at least as many keys as an anchor has positives, {positives}, but got {}",
                        self.keys
                    )
                })
            }
            Pairing::Apart => expect(self.keys > 0, || "expected at least 1 key, but got 0".into()),
            Pairing::Towers => expect(self.square && self.anchors.is_multiple_of(2), || {
                format!("expected two towers of equal length and no keys, but got {} rows", self.anchors)
            }),
        }
    }
}

/// Checks the temperature and the numbers of the formulation.
///
/// # Errors
/// As [`Problem::validate`].
pub fn validate_weighting(temperature: f64, formulation: Formulation) -> Result<()> {
    expect(temperature > 0.0 && temperature.is_finite(), || {
        format!("expected `temperature` to be a positive number, but got {}", shown(temperature))
    })?;
    let Formulation::Importance { beta, tau_plus } = formulation else { return Ok(()) };
    expect(beta >= 0.0 && beta.is_finite(), || format!("expected `beta` to be at least 0, but got {}", shown(beta)))?;
    expect((0.0..1.0).contains(&tau_plus), || {
        format!("expected `tau_plus` to be in [0, 1), but got {}", shown(tau_plus))
    })
}

/// A number as Python writes it: "1.0", "nan".
fn shown(number: f64) -> String {
    format!("{number:?}").to_lowercase()
}

/// The `k` for which the quantile of `count` numbers is their k-th largest. In ascending order its index is
/// round(quantile * (count - 1)), with half to even, like `torch.quantile` with `interpolation='nearest'`.
pub fn quantile_rank(count: usize, quantile: f64) -> usize {
    count - (quantile * (count as f64 - 1.0)).round_ties_even() as usize
}

fn expect(holds: bool, text: impl FnOnce() -> String) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Error::value(text()))
    }
}

/// The statistics of one evaluation, in the order in which every backend returns them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Statistics {
    /// The threshold, NaN if labels decide.
    pub threshold: f64,
    /// Mean number of hierarchical negatives of an anchor, |H|.
    pub hierarchical: f64,
    /// Mean similarity of anchors and their positives.
    pub positive_similarity: f64,
    /// Mean similarity of anchors and their negatives, NaN without negatives.
    pub negative_similarity: f64,
    /// Fraction of (anchor, positive) pairs whose reweighted term is at its floor.
    pub floor_fraction: f64,
    /// Number of anchors that have no defined loss.
    pub undefined: f64,
}

impl Statistics {
    /// The statistics as an array, in order.
    pub fn to_array(self) -> [f64; 6] {
        [
            self.threshold,
            self.hierarchical,
            self.positive_similarity,
            self.negative_similarity,
            self.floor_fraction,
            self.undefined,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantile_rank_is_torch_nearest() {
        // Index round(0.99 * 511) = 506 ascending: five are larger.
        assert_eq!(quantile_rank(512, 0.99), 6);
        // Index 0.5 * 3 = 1.5 and 0.5 * 5 = 2.5: both round to 2, half to even.
        assert_eq!(quantile_rank(4, 0.5), 2);
        assert_eq!(quantile_rank(6, 0.5), 4);
        assert_eq!((quantile_rank(9, 0.0), quantile_rank(9, 1.0), quantile_rank(1, 0.3)), (9, 1, 1));
    }
}
