//! The results of the CPU kernel.

use crate::problem::Statistics;

/// The memory for the gradients of the loss, which is overwritten. Gradients that are None are not computed.
#[derive(Debug)]
pub struct Gradients<'a, C> {
    /// For the anchors, [anchors, dims].
    pub anchors: Option<&'a mut [C]>,
    /// For the keys, [keys, dims], if the problem is not square.
    pub keys: Option<&'a mut [C]>,
    /// For the rows apart from the keys, [anchors * rows apart, dims].
    pub positives: Option<&'a mut [C]>,
}

impl<C> Gradients<'_, C> {
    /// No gradient.
    pub fn none() -> Self {
        Self { anchors: None, keys: None, positives: None }
    }
}

/// The results of one evaluation.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// The reduced loss. For `Reduction::None` without weights, the sum.
    pub loss: f64,
    /// The loss of each anchor, 0 if it is undefined.
    pub losses: Vec<f64>,
    /// The statistics.
    pub statistics: Statistics,
    /// The derivative of the loss with respect to the temperature. It is valid only if the gradient for the anchors was
    /// computed.
    pub temperature: f64,
}
