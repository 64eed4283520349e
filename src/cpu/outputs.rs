//! What the CPU kernel writes and returns.

use crate::problem::Statistics;

/// Where the gradients of the loss go: contiguous, overwritten. Those not asked for are not computed.
#[derive(Debug)]
pub struct Gradients<'a, C> {
    /// [anchors, dims]
    pub anchors: Option<&'a mut [C]>,
    /// [keys, dims]; where the problem is not square.
    pub keys: Option<&'a mut [C]>,
    /// [anchors, dims]; for `Pairing::Apart`.
    pub positives: Option<&'a mut [C]>,
}

impl<C> Gradients<'_, C> {
    /// No gradient.
    pub fn none() -> Self {
        Self { anchors: None, keys: None, positives: None }
    }
}

/// What one evaluation found.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// The reduced loss; for `Reduction::None` without weights, the sum.
    pub loss: f64,
    /// Each anchor's loss, 0 where it has none.
    pub losses: Vec<f64>,
    /// The statistics.
    pub statistics: Statistics,
    /// The derivative of the loss with respect to the temperature, where the anchors' gradient was asked for.
    pub temperature: f64,
}
