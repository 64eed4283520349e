//! What a few keys say about where the quantiles of whole rows will be.

use super::float::Float;
use super::product::BLOCK_COLUMNS;
use super::select::Selector;
use super::similarities::{Products, Similarities};
use super::threads::{self, Shared};
use super::unit::transpose;

/// Keys for each one in a sample of up to `LARGE`.
const SHARE: usize = 16;
/// Keys for each one in a larger sample.
const LARGE_SHARE: usize = 32;
/// See above.
const LARGE: usize = 256;
/// Share of rows of which more than expected is above the guess, so that they have to be looked at again.
const RARE: f64 = 0.003;
/// Rows computed at a time.
const ROWS: usize = 64;

/// The largest similarities of each anchor with evenly spaced keys, other than itself.
pub struct Sample<C> {
    /// Similarities of each anchor.
    depth: usize,
    /// [anchors][depth], descending.
    top: Vec<C>,
    /// Keys for each one in the sample.
    share: f64,
    /// Mean number of similarities in the sample that are among the `rank` largest of their row.
    expected: f64,
    /// Below the mean of all rows' quantiles, most likely.
    pub floor: C,
    /// Above it, most likely.
    pub ceiling: C,
}

impl<C: Float> Sample<C> {
    /// Looks at the rows, whose quantiles are their `rank`-th largest numbers.
    pub fn new(similarities: &Similarities<'_, C>, rank: usize) -> Self {
        let (anchors, keys) = (similarities.anchors, similarities.keys);
        let count = (keys.rows / SHARE).min(LARGE).max(keys.rows / LARGE_SHARE).next_multiple_of(BLOCK_COLUMNS);
        let sampled: Vec<usize> = (0..count).map(|i| i * keys.rows / count).collect();
        let share = keys.rows as f64 / count as f64;
        let expected = rank as f64 / share;
        let depth = rank_rarely_reached(expected).min(count);
        let panels: Vec<C> = sampled.chunks_exact(BLOCK_COLUMNS).flat_map(|keys_of_panel| {
            let rows: Vec<C> = keys_of_panel.iter().flat_map(|&key| keys.row(key)).copied().collect();
            let mut panel = vec![C::ZERO; BLOCK_COLUMNS * keys.dims];
            transpose(&rows, keys.padded_dims, &mut panel);
            panel
        }).collect();
        let mut top = vec![C::ZERO; anchors.padded_rows * depth];
        let shared = Shared::new(&mut top);
        let state = || (vec![C::ZERO; ROWS * count], Selector::new(depth, similarities.isa));
        threads::for_each(similarities.threads, anchors.padded_rows / ROWS, state, |(products, selector), chunk| {
            let start = chunk * ROWS;
            similarities.isa.run(Products {
                left: anchors.from(start),
                left_row: anchors.padded_dims,
                rows: ROWS,
                panels: &panels,
                dims: keys.dims,
                columns: count,
                out: products,
                stride: count,
            });
            for (row, products) in (start..anchors.rows).zip(products.chunks_exact_mut(count)) {
                if let (true, Ok(own)) = (similarities.square, sampled.binary_search(&row)) {
                    products[own] = C::NEG_INFINITY;
                }
                // SAFETY: chunks are disjoint, and `top` outlives the loop.
                let out = unsafe { shared.slice(row * depth, depth) };
                out.copy_from_slice(selector.largest(products));
                out.sort_unstable_by(C::descending);
            }
        });
        top.truncate(anchors.rows * depth);
        let mean = |rank: usize| {
            let sum: f64 = top.chunks_exact(depth).map(|top| top[rank - 1].to_f64()).sum();
            C::from_f64(sum / anchors.rows as f64)
        };
        let floor = mean(((1.5 * expected).ceil() as usize + 1).min(depth));
        let ceiling = match (expected / 2.0) as usize {
            0 => C::INFINITY,
            rank => mean(rank),
        };
        Self { depth, top, share, expected, floor, ceiling }
    }

    /// For each anchor a number that is below its quantile, most likely, and below the mean of them.
    pub fn cuts(&self) -> impl Iterator<Item = C> + '_ {
        self.top.chunks_exact(self.depth).map(|top| {
            let guess = top[self.depth - 1];
            if guess < self.floor { guess } else { self.floor }
        })
    }

    /// Number of anchors of which more than `limit` similarities below the quantile seem to be too near the threshold to
    /// tell the side.
    pub fn rows_with_more_open_than(&self, limit: usize) -> usize {
        let open = |top: &&[C]| {
            let below = top.iter().skip(self.expected as usize);
            let open = below.filter(|&&c| c > self.floor && c <= self.ceiling).count();
            open as f64 * self.share > limit as f64
        };
        self.top.chunks_exact(self.depth).filter(open).count()
    }
}

/// The smallest rank that the number of hits, Poisson distributed with the given mean, reaches rarely.
fn rank_rarely_reached(expected: f64) -> usize {
    let mut probability = (-expected).exp();
    let mut below = probability;
    let mut rank = 1;
    while 1.0 - below > RARE {
        probability *= expected / rank as f64;
        below += probability;
        rank += 1;
    }
    rank
}
