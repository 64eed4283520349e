//! The operands of a call, listed once. What stands for them differs from place to place: tensors at the border,
//! borrowed memory for the CPU kernel, addresses for the CUDA kernels.

mod checks;

pub use checks::Described;

use crate::error::Result;

/// The operands: matrices `M`, vectors of integers `I`, a number `T` and a vector of weights `W`.
///
/// The shapes say what is compared with what (see [`Pairing`](crate::problem::Pairing)). There are `V` views of `n` rows
/// each, hence `M = V * n` anchors.
#[derive(Debug, Clone)]
pub struct Operands<M, I = M, T = M, W = M> {
    /// The anchors, [n, D] each.
    pub views: Vec<M>,
    /// The keys, [N, D]. None where the anchors are the keys.
    pub keys: Option<M>,
    /// Each anchor's positive, [M, D], for `Pairing::Apart`.
    pub positives: Option<M>,
    /// The rows of the keys that are an anchor's positives, int64 [M, P], for `Pairing::Indexed`.
    pub positive_index: Option<I>,
    /// The row of the keys that is left out of an anchor's negatives, int64 [M], -1 for none, for `Pairing::Indexed`.
    pub ignored_index: Option<I>,
    /// int64 [M], for `Threshold::Labels`.
    pub anchor_labels: Option<I>,
    /// int64 [N], for `Threshold::Labels` where the anchors are not the keys.
    pub key_labels: Option<I>,
    /// The number for `Threshold::Given`, 0-d.
    pub threshold: Option<T>,
    /// [M]: the loss is the sum of weight times anchor's loss, whatever the reduction.
    pub weights: Option<W>,
    /// The temperature, 0-d, where it is no number of the problem's.
    pub temperature: Option<T>,
}

impl<M, I, T, W> Operands<M, I, T, W> {
    /// The anchors alone.
    pub fn of_views(views: Vec<M>) -> Self {
        Self {
            views,
            keys: None,
            positives: None,
            positive_index: None,
            ignored_index: None,
            anchor_labels: None,
            key_labels: None,
            threshold: None,
            weights: None,
            temperature: None,
        }
    }

    /// Turns every operand into what stands for it elsewhere.
    ///
    /// # Errors
    /// The first of the functions'.
    pub fn try_map<'a, M2, I2, T2, W2>(
        &'a self,
        matrix: impl Fn(&'a M) -> Result<M2>,
        integers: impl Fn(&'a I) -> Result<I2>,
        number: impl Fn(&'a T) -> Result<T2>,
        weights: impl Fn(&'a W) -> Result<W2>,
    ) -> Result<Operands<M2, I2, T2, W2>> {
        Ok(Operands {
            views: self.views.iter().map(&matrix).collect::<Result<_>>()?,
            keys: self.keys.as_ref().map(&matrix).transpose()?,
            positives: self.positives.as_ref().map(&matrix).transpose()?,
            positive_index: self.positive_index.as_ref().map(&integers).transpose()?,
            ignored_index: self.ignored_index.as_ref().map(&integers).transpose()?,
            anchor_labels: self.anchor_labels.as_ref().map(&integers).transpose()?,
            key_labels: self.key_labels.as_ref().map(&integers).transpose()?,
            threshold: self.threshold.as_ref().map(&number).transpose()?,
            weights: self.weights.as_ref().map(weights).transpose()?,
            temperature: self.temperature.as_ref().map(&number).transpose()?,
        })
    }
}

/// A floating-point dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    /// bfloat16
    Bf16,
    /// float16
    F16,
    /// float32
    F32,
    /// float64
    F64,
}

impl Scalar {
    /// The dtype's name in torch.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::F32 => "float32",
            Self::F64 => "float64",
        }
    }

    /// The dtype of the arithmetic on rows of this one, and of everything returned.
    pub fn computed(self) -> Self {
        match self {
            Self::F64 => Self::F64,
            Self::Bf16 | Self::F16 | Self::F32 => Self::F32,
        }
    }
}
