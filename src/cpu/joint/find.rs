//! Adaptive threshold and sums over the negatives of a square problem, from a single pass over the pairs.
//!
//! A sample gives each row a lower bound that its quantile almost always exceeds, and a range for the threshold. The
//! pass over the upper triangle adds every similarity up to the bound to the sum over the row's global negatives, and
//! lists the few similarities above it. The quantiles come from the lists, and the threshold is their mean. The
//! threshold decides which sum each listed similarity belongs to. All of this is checked: if a list does not contain
//! the row's quantile, the row is computed again. If the sample was wrong for more than a few rows, there is no result,
//! and the caller finds the threshold before the sums.

use super::lists::{Lists, Part, Rule, SharedLists, Sift};
use super::sample::Sample;
use crate::cpu::simd::{Exponents, Float, Selector, BLOCK_ROWS, LANES, SUMS};
use crate::cpu::similarities::Similarities;
use crate::cpu::split::comparable;
use crate::cpu::threads::{for_each, Shared};

/// Shortest row for which a sample is useful.
const MIN_LENGTH: usize = 64;
/// A row must be at least this many times as long as the rank of its quantile. The pass pays only if most similarities
/// are below the quantile.
const MIN_SHARE: usize = 16;
/// Length of a list with room for many similarities above the threshold. It is used if the lists need little memory.
const AMPLE: usize = 512;
/// The number of bytes of all lists that counts as little memory.
const AMPLE_BYTES: usize = 8 << 20;
/// Largest number of bytes of all lists.
const MAX_BYTES: usize = 20 << 20;
/// At most one row in this many may be computed again.
const ROWS_FOR_A_MISS: usize = 16;
/// Number of lists handled at a time.
const CHUNK: usize = 64;

/// The results of the pass.
pub struct Found {
    /// The quantile of each anchor.
    pub quantiles: Vec<f64>,
    /// The mean of the quantiles.
    pub threshold: f64,
    /// The sums over the negatives of each anchor with a shift of 1, including the padding.
    pub sums: Vec<[f64; SUMS]>,
}

/// The length of the lists for rows of `length` numbers whose quantile is the `rank`-th largest. None if the pass does
/// not pay.
fn capacity<C>(length: usize, rank: usize) -> Option<usize> {
    let within = |bytes: usize| bytes / size_of::<C>() / length / LANES * LANES;
    let capacity = (3 * rank).next_multiple_of(LANES).max(AMPLE.min(within(AMPLE_BYTES))).min(within(MAX_BYTES));
    (length >= MIN_LENGTH && rank <= length / MIN_SHARE && rank + rank / 2 <= capacity).then_some(capacity)
}

/// Finds the quantiles (the `rank`-th largest of each row), the threshold and the sums. Keeps the tiles if they fit the
/// cache, with minus infinity for pairs that are not negatives.
pub fn find<C: Float>(similarities: &mut Similarities<'_, C>, rank: usize, exponents: Exponents<C>) -> Option<Found> {
    let anchors = similarities.anchors.rows;
    let capacity = capacity::<C>(anchors, rank)?;
    let sample = Sample::new(similarities, rank);
    if sample.rows_with_more_undecided_than(capacity - rank) > anchors / 8 {
        return None;
    }
    let Sample { floor, ceiling, .. } = sample;
    let rule = Rule { capacity, rank, floor, ceiling, exponents, isa: similarities.isa };
    let mut cuts: Vec<C> = sample.cuts().collect();
    cuts.resize(similarities.anchors.padded_rows, C::INFINITY);
    let mut lists = Lists::new(rule, cuts);
    let mut apart = Apart::new(similarities);
    sift(similarities, &lists.share(), &apart.share());
    let mut quantiles = listed_quantiles(similarities, rank, &lists.share(), &apart);
    let missed: Vec<usize> = (0..anchors).filter(|&row| quantiles[row].is_nan()).collect();
    if missed.len() > anchors / ROWS_FOR_A_MISS {
        return None;
    }
    let shared = Shared::new(&mut quantiles);
    let selector = || Selector::new(rank, similarities.isa);
    for_each_whole_row(similarities, &missed, selector, |selector, anchor, row| {
        // SAFETY: Each row is in `missed` once, and `quantiles` is borrowed until the loop ends.
        unsafe { shared.slice(anchor, 1)[0] = selector.select(row).to_f64() };
    });
    let threshold = quantiles.iter().sum::<f64>() / anchors as f64;
    let compared = comparable::<C>(threshold);
    if !(floor <= compared && compared <= ceiling) {
        return None;
    }
    for_each_part(
        similarities,
        &lists.share(),
        || (),
        |(), part, start, count| {
            for row in 0..count.min(anchors.saturating_sub(start)) {
                part.finish(row, compared);
            }
        },
    );
    let shared = lists.share();
    for_each_whole_row(
        similarities,
        &missed,
        || (),
        |(), anchor, row| {
            for key in similarities.pairs.excluded(anchor) {
                row[key as usize] = C::NEG_INFINITY;
            }
            // SAFETY: Each row is in `missed` once, and `lists` is borrowed until the loop ends.
            unsafe { shared.part(anchor, 1) }.replace(0, row, compared);
        },
    );
    Some(Found { quantiles, threshold, sums: lists.into_sums() })
}

/// The similarities of each anchor that count for its quantile but are not with negatives. Unused places hold minus
/// infinity.
struct Apart<C> {
    each: usize,
    values: Vec<C>,
}

impl<C: Float> Apart<C> {
    fn new(similarities: &Similarities<'_, C>) -> Self {
        let each = similarities.pairs.most_excluded();
        Self { each, values: vec![C::NEG_INFINITY; similarities.anchors.padded_rows * each] }
    }

    fn share(&mut self) -> Shared<C> {
        Shared::new(&mut self.values)
    }

    fn of(&self, row: usize) -> &[C] {
        &self.values[row * self.each..][..self.each]
    }
}

/// Adds the similarities of all negatives to the sums or to the lists, and copies the other similarities to `apart`.
fn sift<C: Float>(similarities: &mut Similarities<'_, C>, lists: &SharedLists<C>, apart: &Shared<C>) {
    similarities.visit(
        || (),
        |similarities, (), a, b, tile| {
            let size = similarities.tile;
            let each = similarities.pairs.most_excluded();
            // SAFETY: The schedule gives the blocks a and b to this call alone. Block b is used only if it is not block
            // a. Both arrays are borrowed until the pass ends.
            let (rows, columns) = unsafe {
                take(similarities, a, apart.slice(a * size * each, size * each), b, |r, c| tile[r * size + c]);
                if a != b {
                    take(similarities, b, apart.slice(b * size * each, size * each), a, |r, c| tile[c * size + r]);
                }
                (lists.part(a * size, size), (a != b).then(|| lists.part(b * size, size)))
            };
            similarities.blank(a, b, tile);
            let row_count = size.min(similarities.anchors.rows - a * size);
            similarities.isa.run(Sift { similarities: tile, row_count, column_count: size, rows, columns });
        },
    );
}

/// Copies the similarities of the rows in a tile with their excluded keys.
fn take<C: Float>(
    similarities: &Similarities<'_, C>,
    rows: usize,
    apart: &mut [C],
    columns: usize,
    similarity: impl Fn(usize, usize) -> C,
) {
    let (size, pairs) = (similarities.tile, similarities.pairs);
    let end = similarities.anchors.rows.min((rows + 1) * size);
    for ((row, anchor), apart) in (rows * size..end).enumerate().zip(apart.chunks_exact_mut(pairs.most_excluded())) {
        for (key, out) in pairs.excluded(anchor).zip(apart) {
            let column = (key as usize).wrapping_sub(columns * size);
            if column < size {
                *out = similarity(row, column);
            }
        }
    }
}

/// Calls `each(state, lists, first row, number of rows)` for all lists, in chunks.
fn for_each_part<C: Float, S>(
    similarities: &Similarities<'_, C>,
    lists: &SharedLists<C>,
    state: impl Fn() -> S + Sync,
    each: impl Fn(&mut S, &mut Part<'_, C>, usize, usize) + Sync,
) {
    for_each(similarities.threads, similarities.anchors.padded_rows / CHUNK, state, |state, chunk| {
        // SAFETY: The chunks do not overlap, and the lists are borrowed until the loop ends.
        let mut part = unsafe { lists.part(chunk * CHUNK, CHUNK) };
        each(state, &mut part, chunk * CHUNK, CHUNK);
    });
}

/// The quantile of each anchor, NaN if its list does not contain it.
fn listed_quantiles<C: Float>(
    similarities: &Similarities<'_, C>,
    rank: usize,
    lists: &SharedLists<C>,
    apart: &Apart<C>,
) -> Vec<f64> {
    let anchors = similarities.anchors.rows;
    let mut quantiles = vec![f64::NAN; similarities.anchors.padded_rows];
    let shared = Shared::new(&mut quantiles);
    let state = || (Vec::new(), Selector::new(rank, similarities.isa));
    for_each_part(similarities, lists, state, |(known, selector), part, start, count| {
        // SAFETY: The parts do not overlap, and `quantiles` is borrowed until the loop ends.
        let quantiles = unsafe { shared.slice(start, count) };
        for (row, quantile) in quantiles.iter_mut().enumerate().take(anchors.saturating_sub(start)) {
            known.clear();
            known.extend_from_slice(part.list(row));
            known.extend(apart.of(start + row).iter().filter(|&&c| c > C::NEG_INFINITY));
            if known.len() >= rank {
                let found = selector.select(known);
                // The list has all numbers above the cut, but it may lack numbers below.
                if found >= part.cuts[row] {
                    *quantile = found.to_f64();
                }
            }
        }
    });
    quantiles.truncate(anchors);
    quantiles
}

/// Calls `each(state, anchor, row)` for the whole rows of some anchors.
fn for_each_whole_row<C: Float, S>(
    similarities: &Similarities<'_, C>,
    anchors: &[usize],
    state: impl Fn() -> S + Sync,
    each: impl Fn(&mut S, usize, &mut [C]) + Sync,
) {
    let state = || (vec![C::ZERO; BLOCK_ROWS * similarities.row_scratch()], state());
    for_each(similarities.threads, anchors.len(), state, |(rows, state), i| {
        let anchor = anchors[i];
        similarities.compute_rows(anchor / BLOCK_ROWS * BLOCK_ROWS, BLOCK_ROWS, rows);
        let start = anchor % BLOCK_ROWS * similarities.row_scratch();
        each(state, anchor, &mut rows[start..start + similarities.keys.rows]);
    });
}
