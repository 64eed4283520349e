//! Quantiles and ranges of the anchors' rows of similarities, which give the thresholds.

use super::apart::OwnNegatives;
use super::simd::{Float, Selector};
use super::similarities::Similarities;
use super::threads::{for_each, Shared};
use crate::problem::{quantile_rank, Pairing, Problem};

/// Number of rows computed at a time. It is small, so that their similarities with all keys stay in the cache.
const ROWS: usize = 16;

/// Calls `each(state, row)` with each anchor's row of similarities, and collects the results. A row contains the
/// similarities with all keys that the anchor is compared with, with the positive if that is not among the keys, and with
/// the own negatives. An anchor's similarity with itself is exactly 1.
fn for_each_row<C: Float, S, R: Copy + Default + Send>(
    problem: &Problem,
    similarities: &Similarities<'_, C>,
    positives: &[f64],
    own: &OwnNegatives<'_, C>,
    state: impl Fn() -> S + Sync,
    each: impl Fn(&mut S, &[C]) -> R + Sync,
) -> Vec<R> {
    let anchors = problem.anchors;
    let mut results = vec![R::default(); anchors];
    let shared = Shared::new(&mut results);
    let state = || (vec![C::ZERO; ROWS * similarities.row_scratch()], Vec::new(), state());
    for_each(similarities.threads, anchors.div_ceil(ROWS), state, |(scratch, joined, state), chunk| {
        let start = chunk * ROWS;
        similarities.rows(start, ROWS, scratch);
        let count = ROWS.min(anchors - start);
        // SAFETY: The chunks do not overlap, and `results` is borrowed until the loop ends.
        let results = unsafe { shared.slice(start, count) };
        for (i, result) in results.iter_mut().enumerate() {
            let row = &scratch[i * similarities.row_scratch()..][problem.compared_keys(start + i)];
            *result = match problem.rows_apart() {
                0 => each(state, row),
                _ => {
                    joined.clear();
                    joined.extend_from_slice(row);
                    if problem.pairing == Pairing::Apart {
                        joined.push(C::from_f64(positives[start + i]));
                    }
                    joined.extend_from_slice(own.of(start + i));
                    each(state, joined)
                }
            };
        }
    });
    results
}

/// The quantile of each anchor's row of similarities.
pub fn row_quantiles<C: Float>(
    problem: &Problem,
    similarities: &Similarities<'_, C>,
    positives: &[f64],
    own: &OwnNegatives<'_, C>,
    quantile: f64,
) -> Vec<f64> {
    let rank = quantile_rank(problem.row_length(), quantile);
    let selector = || Selector::new(rank, similarities.isa);
    for_each_row(problem, similarities, positives, own, selector, |selector, row| selector.select(row).to_f64())
}

/// The smallest and the largest similarity of each anchor's row.
pub fn row_ranges<C: Float>(
    problem: &Problem,
    similarities: &Similarities<'_, C>,
    positives: &[f64],
    own: &OwnNegatives<'_, C>,
) -> Vec<(f64, f64)> {
    for_each_row(
        problem,
        similarities,
        positives,
        own,
        || (),
        |(), row| {
            let first = row[0];
            let (low, high) = row.iter().fold((first, first), |(low, high), &c| {
                (if c < low { c } else { low }, if c > high { c } else { high })
            });
            (low.to_f64(), high.to_f64())
        },
    )
}
