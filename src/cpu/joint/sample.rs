//! Estimates of the quantiles of whole rows from a sample of the keys.

use crate::cpu::bf16::{single, Bf16Rows};
use crate::cpu::simd::{group, lanes, Float, Group, InstructionSet, Kernel, BLOCK_COLUMNS, LANES};
use crate::cpu::similarities::{Products, Similarities};
use crate::cpu::threads::{for_each, Shared, Spare};
use crate::cpu::unit_rows::UnitRows;

/// One key in this many is sampled, up to `LARGE` of them.
const SHARE: usize = 16;
/// One key in this many is sampled where that makes a larger sample.
const LARGE_SHARE: usize = 32;
/// Length of a sample from which on it takes a smaller share.
const LARGE: usize = 256;
/// Share of rows that may have more numbers above the guess than expected, and then have to be looked at again.
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
    /// Most likely below the mean of all rows' quantiles.
    pub floor: C,
    /// Most likely above it.
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
        let sampled = SampledKeys::new(keys, &sampled);
        let mut top = vec![C::ZERO; anchors.padded_rows * depth];
        let shared = Shared::new(&mut top);
        let state = || (Spare::new(count * ROWS), vec![[C::ZERO; LANES]; depth]);
        for_each(similarities.threads, anchors.padded_rows / ROWS, state, |(products, largest), chunk| {
            sampled.products(similarities, chunk * ROWS, products);
            for start in (0..ROWS).step_by(LANES) {
                similarities.isa.run(Largest { columns: &products[start..], stride: ROWS, out: &mut *largest });
                // SAFETY: chunks are disjoint, and `top` outlives the loop.
                let out = unsafe { shared.slice((chunk * ROWS + start) * depth, LANES * depth) };
                for (l, out) in out.chunks_exact_mut(depth).enumerate() {
                    out.iter_mut().zip(largest.iter()).for_each(|(out, group)| *out = group[l]);
                }
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

    /// For each anchor, a number that is most likely below its quantile and below the mean of all quantiles.
    pub fn cuts(&self) -> impl Iterator<Item = C> + '_ {
        self.top.chunks_exact(self.depth).map(|top| {
            let guess = top[self.depth - 1];
            if guess < self.floor {
                guess
            } else {
                self.floor
            }
        })
    }

    /// Number of anchors that seem to have more than `count` undecided similarities: below the quantile, and too near the
    /// threshold to tell on which side of it they are.
    pub fn rows_with_more_undecided_than(&self, count: usize) -> usize {
        let undecided = |top: &&[C]| {
            let below = top.iter().skip(self.expected as usize);
            let found = below.filter(|&&c| c > self.floor && c <= self.ceiling).count();
            found as f64 * self.share > count as f64
        };
        self.top.chunks_exact(self.depth).filter(undecided).count()
    }
}

/// The rows of some keys.
struct SampledKeys<'a, C> {
    keys: &'a [usize],
    /// [keys][padded dims], empty where `bf16` serves.
    rows: Vec<C>,
    bf16: Option<Bf16Rows>,
}

impl<'a, C: Float> SampledKeys<'a, C> {
    fn new(keys: &UnitRows<C>, sampled: &'a [usize]) -> Self {
        let bf16 = keys.bf16.as_ref().map(|bf16| bf16.left_factor(sampled));
        let rows = match bf16 {
            Some(_) => vec![],
            None => sampled.iter().flat_map(|&key| keys.row(key)).copied().collect(),
        };
        Self { keys: sampled, rows, bf16 }
    }

    /// Similarities with the anchors from `start` on, [keys][`ROWS`]; minus infinity with themselves.
    fn products(&self, similarities: &Similarities<'_, C>, start: usize, out: &mut [C]) {
        let anchors = similarities.anchors;
        match (&self.bf16, &anchors.bf16) {
            (Some(bf16), Some(anchors)) => {
                bf16.products(0..self.keys.len(), anchors, start..start + ROWS, single(out), ROWS);
            }
            _ => similarities.isa.run(Products {
                left: &self.rows,
                left_row: anchors.padded_dims,
                rows: self.keys.len(),
                panels: anchors.panels_from(start),
                dims: anchors.dims,
                columns: ROWS,
                out: &mut *out,
                stride: ROWS,
            }),
        }
        for (out, &key) in out.chunks_exact_mut(ROWS).zip(self.keys) {
            if let Some(own) = key.checked_sub(start).and_then(|own| out.get_mut(own)) {
                *own = C::NEG_INFINITY;
            }
        }
    }
}

/// The largest numbers of each of 16 columns, descending, by insertion.
struct Largest<'a, C> {
    columns: &'a [C],
    /// Elements from one row to the next.
    stride: usize,
    out: &'a mut [Group<C>],
}

impl<C: Float> Kernel for Largest<'_, C> {
    #[inline(always)]
    fn run<S: InstructionSet>(self) {
        self.out.fill([C::NEG_INFINITY; LANES]);
        for row in self.columns.chunks(self.stride) {
            let mut new = *group(row, 0);
            for place in &mut *self.out {
                let old = *place;
                *place = lanes(|l| if new[l] > old[l] { new[l] } else { old[l] });
                new = lanes(|l| if new[l] > old[l] { old[l] } else { new[l] });
            }
        }
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
