//! One evaluation: the order of the passes.

use super::apart::OwnNegatives;
use super::element::Element;
use super::gradient;
use super::outputs::{Evaluation, Gradients};
use super::passes::{joint, one_shift, AnchorShifts, Passes};
use super::prepared::Prepared;
use super::rows::BorrowedOperands;
use super::simd::{Float, Isa};
use super::split::Split;
use super::threads::{for_each, Shared};
use super::thresholds::row_quantiles as quantiles_of_rows;
use crate::error::Result;
use crate::formula::{self, Anchor, Sums};
use crate::problem::{Formulation, Problem, Reduction, Statistics, Threshold};

/// Computes the loss, its statistics and the wanted gradients, with up to `threads` threads.
///
/// The problem must be valid ([`Problem::validate`]) and the operands must fit it ([`BorrowedOperands`]).
///
/// # Errors
/// [`Error::Row`](crate::error::Error::Row) for the first row without a direction.
pub fn evaluate<E: Element>(
    problem: &Problem,
    operands: &BorrowedOperands<'_, E>,
    gradients: Gradients<'_, E::Compute>,
    threads: usize,
) -> Result<Evaluation> {
    evaluate_with(problem, operands, gradients, threads, Isa::best())
}

/// The quantile of each anchor's row of similarities. The adaptive threshold is the mean of these quantiles.
///
/// # Errors
/// As [`evaluate`].
pub fn row_quantiles<E: Element>(
    problem: &Problem,
    operands: &BorrowedOperands<'_, E>,
    quantile: f64,
    threads: usize,
) -> Result<Vec<f64>> {
    let isa = Isa::best();
    let prepared = Prepared::new(problem, operands, isa, threads)?;
    let mut similarities = prepared.similarities(false);
    if let Some(found) = joint(problem, &mut similarities) {
        return Ok(found.quantiles);
    }
    similarities.keep();
    let (positives, own) = (prepared.positive_similarities(problem), OwnNegatives::new(problem, &prepared));
    Ok(quantiles_of_rows(problem, &similarities, &positives, &own, quantile))
}

/// [`evaluate`] with the given instruction set, which the machine must support.
pub(super) fn evaluate_with<E: Element>(
    problem: &Problem,
    operands: &BorrowedOperands<'_, E>,
    gradients: Gradients<'_, E::Compute>,
    threads: usize,
    isa: Isa,
) -> Result<Evaluation> {
    let problem = &Problem { threshold: problem.threshold.simplified(), ..*problem };
    let prepared = Prepared::new(problem, operands, isa, threads)?;
    let positives = prepared.positive_similarities(problem);
    let own = OwnNegatives::new(problem, &prepared);
    let mut similarities = prepared.similarities(gradients.anchors.is_some() || gradients.keys.is_some());
    let found = joint(problem, &mut similarities);
    let split = match &found {
        Some(found) => Split::at(found.threshold, similarities.anchors.padded_rows),
        None => {
            // These thresholds come from whole rows.
            if matches!(problem.threshold, Threshold::Adaptive { .. } | Threshold::MinMax { .. }) {
                similarities.keep();
            }
            let split = Split::new(problem, operands, &prepared, &similarities, &positives, &own);
            similarities.keep_negatives();
            if similarities.gradient || !one_shift(problem, &split) {
                similarities.keep_next();
            }
            split
        }
    };
    let passes = Passes { problem, similarities: &similarities, split: &split, own: &own };
    let (shifts, mut sums) = match found {
        Some(found) => {
            let ones = AnchorShifts::ones(found.sums.len());
            let sums = passes.name(&found.sums, &ones);
            (ones, sums)
        }
        None => {
            let shifts = passes.shifts();
            let sums = passes.sums(&shifts);
            (shifts, sums)
        }
    };

    if problem.formulation == Formulation::Supervised {
        let similarities = prepared.label_similarities(problem, operands);
        sums.iter_mut().zip(similarities).for_each(|(sums, similarity)| sums.similarity = similarity);
    }
    let (mut anchors, mut derivatives) = formulas(problem, &sums, &positives, threads);
    let statistics = statistics(&passes, &prepared, &sums, &anchors, &positives);
    let losses: Vec<f64> = anchors.iter().map(|anchor| anchor.loss).collect();
    let weights = anchor_weights(problem, operands.weights, &anchors);
    let loss = losses.iter().enumerate().map(|(i, loss)| weights(i) * loss).sum();
    let each = problem.positives();
    for (i, anchor) in anchors.iter_mut().enumerate() {
        anchor.scale(weights(i));
        derivatives[i * each..(i + 1) * each].iter_mut().for_each(|derivative| *derivative *= weights(i));
    }
    let radial = gradient::write(&passes, &prepared, &shifts, &anchors, &derivatives, gradients);
    // The other terms depend on similarities and temperature only through their ratio. In a square problem, the
    // gradients of the rows count each pair twice.
    let pairs = if problem.square { 0.5 } else { 1.0 } * radial;
    let temperature = anchors.iter().map(|anchor| anchor.temperature).sum::<f64>() - pairs / problem.temperature;
    Ok(Evaluation { loss, losses, statistics, temperature })
}

/// Evaluates the formula for each anchor. Also returns the derivatives with respect to the similarities of the
/// positives.
fn formulas(problem: &Problem, sums: &[Sums], positives: &[f64], threads: usize) -> (Vec<Anchor>, Vec<f64>) {
    const CHUNK: usize = 64;
    let each = problem.positives();
    let mut anchors = vec![Anchor::default(); sums.len()];
    let mut derivatives = vec![0.0; positives.len()];
    let (shared, of_positives) = (Shared::new(&mut anchors), Shared::new(&mut derivatives));
    for_each(
        threads,
        sums.len().div_ceil(CHUNK),
        || (),
        |(), chunk| {
            let start = chunk * CHUNK;
            let sums = &sums[start..sums.len().min(start + CHUNK)];
            // SAFETY: The chunks do not overlap, and both vectors are borrowed until the loop ends.
            let (anchors, derivatives) =
                unsafe { (shared.slice(start, sums.len()), of_positives.slice(start * each, sums.len() * each)) };
            for (i, (sums, anchor)) in sums.iter().zip(anchors).enumerate() {
                let positives = &positives[(start + i) * each..][..each];
                let derivatives = &mut derivatives[i * each..][..each];
                *anchor = formula::anchor(problem.formulation, problem.temperature, sums, positives, derivatives);
            }
        },
    );
    (anchors, derivatives)
}

/// A function that returns the weight of an anchor in the reduced loss.
fn anchor_weights<'a>(problem: &Problem, given: Option<&'a [f64]>, anchors: &[Anchor]) -> impl Fn(usize) -> f64 + 'a {
    let defined = anchors.iter().filter(|anchor| anchor.defined).count().max(1);
    let equal = match problem.reduction {
        Reduction::Mean => 1.0 / defined as f64,
        Reduction::Sum | Reduction::None => 1.0,
    };
    move |anchor| given.map_or(equal, |weights| weights[anchor])
}

fn statistics<C: Float>(
    passes: &Passes<'_, C>,
    prepared: &Prepared<C>,
    sums: &[Sums],
    anchors: &[Anchor],
    positives: &[f64],
) -> Statistics {
    let Passes { problem, split, own, .. } = passes;
    let count = problem.anchors as f64;
    let negatives = sums.iter().map(|sums| sums.negatives).sum();
    let hierarchical = sums.iter().map(|sums| sums.hierarchical).sum::<f64>();
    // For SupCon, the negatives with the anchor's label are positives too.
    let (mut similarity, mut pairs) = (positives.iter().sum::<f64>(), positives.len() as f64);
    if problem.formulation == Formulation::Supervised {
        similarity += sums.iter().map(|sums| sums.similarity).sum::<f64>();
        pairs += hierarchical;
    }
    Statistics {
        threshold: split.threshold,
        hierarchical: hierarchical / count,
        // Without pairs, the sum is a rounding error.
        positive_similarity: if pairs > 0.0 { similarity / pairs } else { f64::NAN },
        negative_similarity: prepared.negative_similarity(problem, positives, own.total(), negatives),
        floor_fraction: anchors.iter().map(|anchor| anchor.at_floor).sum::<usize>() as f64
            / positives.len().max(1) as f64,
        undefined: anchors.iter().filter(|anchor| !anchor.defined).count() as f64,
    }
}
