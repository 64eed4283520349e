//! Similarity statistics of a whole set of embeddings, never as a matrix.

use crate::cpu::{self, Element, Gradients, Inputs, Rows};
use crate::error::Result;
use crate::problem::{Formulation, Pairing, Problem, Reduction, Threshold};

/// The adaptive threshold of a set of embeddings, and the mean number of other rows above it
/// (S7.4.1, Figures 8 and 9).
///
/// The threshold is the mean over the rows of the `quantile` of each row's similarities, own included.
///
/// # Errors
/// [`Error::Value`](crate::error::Error::Value) for numbers out of range,
/// [`Error::Row`](crate::error::Error::Row) for the first row without a direction.
pub fn similarity_threshold<E: Element>(embeddings: Rows<'_, E>, quantile: f64, threads: usize) -> Result<(f64, f64)> {
    let count = embeddings.rows();
    // With itself as its positive, every other row is a negative, and |H| counts those above the threshold.
    let own: Vec<i64> = (0..count as i64).collect();
    let inputs = Inputs {
        anchors: &[embeddings],
        keys: None,
        positives: None,
        positive_index: &own,
        ignored_index: &[],
        anchor_labels: &[],
        key_labels: &[],
        weights: None,
    };
    let problem = Problem {
        anchors: count,
        keys: count,
        dims: embeddings.dims(),
        square: true,
        pairing: Pairing::Indexed { positives: 1 },
        threshold: Threshold::Adaptive { quantile },
        formulation: Formulation::Importance { beta: 0.0, tau_plus: 0.0 },
        temperature: 1.0,
        reduction: Reduction::Mean,
    };
    let found = cpu::evaluate(&problem, &inputs, Gradients::none(), threads)?;
    Ok((found.statistics.threshold, found.statistics.hierarchical))
}
