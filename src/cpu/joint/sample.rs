//! Estimates the quantiles of whole rows from a sample of the keys.

use crate::cpu::bf16::{single, Bf16Rows};
use crate::cpu::simd::{group, lanes, Float, Group, InstructionSet, Kernel, BLOCK_COLUMNS, LANES};
use crate::cpu::similarities::{Products, Similarities};
use crate::cpu::threads::{for_each, Shared, Spare};
use crate::cpu::unit_rows::UnitRows;

/// One key in this many is sampled, up to `LARGE` keys.
const SHARE: usize = 16;
/// One key in this many is sampled if that gives more than `LARGE` keys.
const LARGE_SHARE: usize = 32;
/// Number of sampled keys from which on the sample is a smaller share of the keys.
const LARGE: usize = 256;
/// Fraction of the rows whose guess may exceed their quantile. These rows have to be computed again.
const RARE: f64 = 0.003;
/// Number of rows computed at a time.
const ROWS: usize = 64;

/// The largest similarities of each anchor with evenly spaced keys, without the anchor itself.
pub struct Sample<C> {
    /// Number of similarities of each anchor.
    depth: usize,
    /// The largest similarities, [anchors][depth], in descending order.
    top: Vec<C>,
    /// Number of keys for each sampled key.
    share: f64,
    /// Mean number of similarities in the sample that are among the `rank` largest of their row.
    expected: f64,
    /// A number that is most likely below the mean of the quantiles.
    pub floor: C,
    /// A number that is most likely above the mean of the quantiles.
    pub ceiling: C,
}

impl<C: Float> Sample<C> {
    /// Samples the rows. The quantile of a row is its `rank`-th largest number.
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
                // SAFETY: The chunks do not overlap, and `top` is borrowed until the loop ends.
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

    /// For each anchor, a number that is most likely below its quantile and below the mean of the quantiles.
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

    /// Estimates the number of anchors with more than `count` undecided similarities. These are below the quantile, and
    /// in the range of the threshold.
    pub fn rows_with_more_undecided_than(&self, count: usize) -> usize {
        let undecided = |top: &&[C]| {
            let below = top.iter().skip(self.expected as usize);
            let found = below.filter(|&&c| c > self.floor && c <= self.ceiling).count();
            found as f64 * self.share > count as f64
        };
        self.top.chunks_exact(self.depth).filter(undecided).count()
    }
}

/// The rows of the sampled keys.
struct SampledKeys<'a, C> {
    keys: &'a [usize],
    /// The rows, [keys][padded dims]. Empty if `bf16` is used.
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

    /// The similarities of the keys with the anchors from `start` on, [keys][`ROWS`]. Minus infinity for a key that is
    /// the anchor.
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

/// Finds the largest numbers of each of 16 columns, in descending order, by insertion.
struct Largest<'a, C> {
    columns: &'a [C],
    /// Distance from one row to the next, in elements.
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

/// The smallest rank that a Poisson distributed number with the given mean reaches only rarely.
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
