//! The operands of an evaluation, normalised and checked.

use std::collections::HashMap;
use std::ops::Range;

use super::apart::Apart;
use super::element::Element;
use super::pairs::Pairs;
use super::rows::{BorrowedOperands, Rows};
use super::simd::{Float, Isa, BLOCK_COLUMNS, MAX_TILE};
use super::similarities::{selected, Similarities};
use super::unit_rows::{dot, UnitRows};
use crate::error::{Input, Result};
use crate::problem::{Pairing, Problem};

/// If there are fewer blocks of rows than this for each thread, tiles are smaller.
const BLOCKS_EACH: usize = 4;
/// The size of the tile of a problem that fits it. With more padding, a few rows would take several times as long.
const MIN_TILE: usize = BLOCK_COLUMNS;

/// The normalised operands.
pub struct Prepared<C: Float> {
    /// The anchors.
    pub anchors: UnitRows<C>,
    /// The keys, if they are not the anchors.
    pub keys: Option<UnitRows<C>>,
    /// The rows that are compared with one anchor alone.
    pub apart: Option<Apart<C>>,
    /// The positives, and the keys that are not negatives.
    pub pairs: Pairs,
    tile: usize,
    /// The instruction set.
    pub isa: Isa,
    /// Number of threads.
    pub threads: usize,
}

impl<C: Float> Prepared<C> {
    /// Normalises the rows and lists the pairs.
    pub fn new<E: Element<Compute = C>>(
        problem: &Problem,
        operands: &BorrowedOperands<'_, E>,
        isa: Isa,
        threads: usize,
    ) -> Result<Self> {
        let tile = match problem.anchors.max(problem.keys) {
            rows if rows <= MIN_TILE => MIN_TILE,
            rows if rows < BLOCKS_EACH * threads * MAX_TILE => MAX_TILE / 2,
            _ => MAX_TILE,
        };
        let rows = |input, parts: &[Rows<'_, E>]| UnitRows::new(input, parts, tile, isa, threads);
        let anchors = rows(Input::Anchors, &operands.views)?;
        let keys = operands.keys.map(|keys| rows(Input::Keys, &[keys])).transpose()?;
        let apart = operands.positives.map(|positives| rows(Input::Positives, &[positives])).transpose()?;
        let apart = apart.map(|rows| Apart::new(problem, rows));
        Ok(Self { anchors, keys, apart, pairs: Pairs::new(problem, operands), tile, isa, threads })
    }

    /// The similarities of anchors and keys. `gradient`: whether a gradient is wanted.
    pub fn similarities(&self, gradient: bool) -> Similarities<'_, C> {
        let keys = self.keys.as_ref();
        Similarities::new(&self.anchors, keys, &self.pairs, self.tile, self.isa, self.threads, gradient)
    }

    /// The similarities of the anchors and their positives, [anchors, positives].
    pub fn positive_similarities(&self, problem: &Problem) -> Vec<f64> {
        let keys = self.keys.as_ref().unwrap_or(&self.anchors);
        let mut all = Vec::with_capacity(problem.anchors * problem.positives());
        for anchor in 0..problem.anchors {
            let row = self.anchors.row(anchor);
            all.extend(self.apart_positive(anchor).map(|positive| dot(row, positive)));
            all.extend(self.pairs.positives(anchor).iter().map(|&key| dot(row, keys.row(key as usize))));
        }
        all
    }

    /// An anchor's positive, if it is not among the keys.
    pub fn apart_positive(&self, anchor: usize) -> Option<&[C]> {
        self.apart.as_ref().and_then(|apart| apart.positive(anchor).map(|place| apart.rows.row(place)))
    }

    /// The similarity of each anchor and its most similar positive, with the bits that a tile has for the same two
    /// rows: a key that repeats the positive is as similar as the positive.
    pub fn closest_positives(&self, problem: &Problem) -> Vec<C> {
        let of = |rows: &UnitRows<C>, place: &(dyn Fn(usize, usize) -> usize + Sync)| {
            selected(self.isa, self.threads, &self.anchors, rows, problem.positives(), place)
        };
        let all = match &self.apart {
            Some(apart) if problem.pairing == Pairing::Apart => {
                of(&apart.rows, &|anchor, _| apart.positive(anchor).unwrap_or_default())
            }
            _ => of(self.keys.as_ref().unwrap_or(&self.anchors), &|anchor, i| self.pairs.positives(anchor)[i] as usize),
        };
        all.chunks_exact(problem.positives())
            .map(|own| own.iter().fold(C::NEG_INFINITY, |closest, &c| closest.larger(c)))
            .collect()
    }

    /// For each anchor, the sum of its similarities with the negatives of its label. This needs no loop over pairs: it
    /// uses the product of the anchor with the sum of all keys of the label.
    pub fn label_similarities<E>(&self, problem: &Problem, operands: &BorrowedOperands<'_, E>) -> Vec<f64> {
        let keys = self.keys.as_ref().unwrap_or(&self.anchors);
        let own = operands.anchor_labels.unwrap_or_default();
        let labels = if problem.square { own } else { operands.key_labels.unwrap_or_default() };
        let mut totals: HashMap<i64, Vec<f64>> = HashMap::new();
        for (key, &label) in labels.iter().enumerate() {
            let total = totals.entry(label).or_insert_with(|| vec![0.0; keys.padded_dims]);
            total.iter_mut().zip(keys.row(key)).for_each(|(sum, x)| *sum += x.to_f64());
        }
        let similarity = |(anchor, label): (usize, &i64)| {
            let row = self.anchors.row(anchor);
            let all = totals.get(label).map_or(0.0, |sum| row.iter().zip(sum).map(|(x, sum)| x.to_f64() * sum).sum());
            let excluded = self.pairs.excluded(anchor).map(|key| key as usize);
            all - excluded.filter(|&key| labels[key] == *label).map(|key| dot(row, keys.row(key))).sum::<f64>()
        };
        own.iter().enumerate().map(similarity).collect()
    }

    /// The mean similarity of anchors and their negatives, NaN if there are no negatives. This needs no loop over
    /// pairs: the sum over an anchor's row is the product of the anchor with the sum of all keys. `own` is the sum over
    /// all own negatives.
    pub fn negative_similarity(&self, problem: &Problem, positives: &[f64], own: f64, negatives: f64) -> f64 {
        if negatives == 0.0 {
            return f64::NAN;
        }
        let keys = self.keys.as_ref().unwrap_or(&self.anchors);
        let total = |rows: &UnitRows<C>, range: Range<usize>| {
            let mut sum = vec![0.0; rows.padded_dims];
            for row in range {
                sum.iter_mut().zip(rows.row(row)).for_each(|(sum, x)| *sum += x.to_f64());
            }
            sum
        };
        let product = |anchors: Range<usize>, range: Range<usize>| -> f64 {
            total(&self.anchors, anchors).iter().zip(total(keys, range)).map(|(a, b)| a * b).sum()
        };
        let all = match problem.pairing {
            Pairing::Towers => 2.0 * product(problem.compared_keys(problem.anchors), problem.compared_keys(0)),
            _ => product(0..problem.anchors, 0..problem.keys),
        };
        let excluded: f64 = match problem.pairing {
            Pairing::Towers => positives.iter().sum(),
            // The positives, and the anchors themselves, whose similarity is 1.
            Pairing::Views { .. } => positives.iter().sum::<f64>() + problem.anchors as f64,
            Pairing::Indexed { .. } | Pairing::Apart => (0..problem.anchors)
                .map(|anchor| {
                    let row = self.anchors.row(anchor);
                    self.pairs.excluded(anchor).map(|key| dot(row, keys.row(key as usize))).sum::<f64>()
                })
                .sum(),
        };
        (all - excluded + own) / negatives
    }
}
