//! The operands of a call. Their types differ by module: tensors at the border, borrowed memory for the CPU kernel, and
//! device addresses for the CUDA kernels.

mod checks;

pub use checks::Described;

use crate::error::Result;

/// The operands: matrices `M`, vectors of integers `I`, numbers `T` and a vector of weights `W`.
///
/// The operands that are present determine the [`Pairing`](crate::problem::Pairing). In the shapes below, there are `V`
/// views of `n` rows each, so there are `M = V * n` anchors.
#[derive(Debug, Clone)]
pub struct Operands<M, I = M, T = M, W = M> {
    /// The anchors, [n, D] each.
    pub views: Vec<M>,
    /// The keys, [N, D]. None if the anchors are the keys.
    pub keys: Option<M>,
    /// Rows that are compared with one anchor alone, [M * R, D], R of them for each anchor: the anchor's positive, unless
    /// `positive_index` names it, and then its own negatives.
    pub positives: Option<M>,
    /// The positives of each anchor as rows of the keys, int64 [M, P], for `Pairing::Indexed`.
    pub positive_index: Option<I>,
    /// The rows of the keys that are neither positives nor negatives of the anchor, int64 [M, I], padded with -1, for
    /// `Pairing::Indexed` and `Pairing::Apart`.
    pub ignored_index: Option<I>,
    /// The labels of the anchors, int64 [M], for `Threshold::Labels`.
    pub anchor_labels: Option<I>,
    /// The labels of the keys, int64 [N], for `Threshold::Labels` if the anchors are not the keys.
    pub key_labels: Option<I>,
    /// The threshold for `Threshold::Given`, 0-d.
    pub threshold: Option<T>,
    /// The weights of the anchors, [M]. The loss is then the sum of weight times loss, for every reduction.
    pub weights: Option<W>,
    /// The temperature, 0-d. It replaces the number in the problem.
    pub temperature: Option<T>,
}

impl<M, I, T, W> Operands<M, I, T, W> {
    /// Operands that are only views.
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

    /// Converts every operand.
    ///
    /// # Errors
    /// The first error of the given functions.
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

    /// The dtype of the arithmetic and of all results for rows of this dtype.
    pub fn computed(self) -> Self {
        match self {
            Self::F64 => Self::F64,
            Self::Bf16 | Self::F16 | Self::F32 => Self::F32,
        }
    }
}
