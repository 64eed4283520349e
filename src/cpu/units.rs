//! The inputs of an evaluation, normalised and checked.

use super::element::Element;
use super::float::Float;
use super::inputs::{Inputs, Rows};
use super::isa::Isa;
use super::pairs::Pairs;
use super::similarities::Similarities;
use super::tile::MAX_TILE;
use super::unit::{dot, UnitRows};
use crate::error::{Error, Input, Result};
use crate::problem::{Pairing, Problem};

/// Blocks of rows for each thread, at least, or tiles are smaller.
const BLOCKS_EACH: usize = 4;

/// The normalised inputs.
pub struct Units<C: Float> {
    /// The anchors.
    pub anchors: UnitRows<C>,
    /// The keys, where these are others.
    pub keys: Option<UnitRows<C>>,
    /// The positives, where these are given apart.
    pub apart: Option<UnitRows<C>>,
    /// Positives and pairs that are no negatives.
    pub pairs: Pairs,
    tile: usize,
    isa: Isa,
    /// Threads.
    pub threads: usize,
}

impl<C: Float> Units<C> {
    /// Checks shapes, normalises, and finds the pairs.
    pub fn new<E: Element<Compute = C>>(
        problem: &Problem,
        inputs: &Inputs<'_, E>,
        isa: Isa,
        threads: usize,
    ) -> Result<Self> {
        let enough = BLOCKS_EACH * threads * MAX_TILE;
        let tile = if problem.anchors.max(problem.keys) < enough { MAX_TILE / 2 } else { MAX_TILE };
        let unit = |input, parts: &[Rows<'_, E>], rows: usize| {
            check_shape(input, parts, rows, problem.dims)?;
            UnitRows::new(input, parts, tile, isa, threads)
        };
        let anchors = unit(Input::Anchors, inputs.anchors, problem.anchors)?;
        let keys = match (problem.square, inputs.keys) {
            (true, None) => None,
            (false, Some(keys)) => Some(unit(Input::Keys, &[keys], problem.keys)?),
            _ => return Err(Error::value("expected `keys` where the anchors are not the keys, and only there")),
        };
        let apart = match (problem.pairing, inputs.positives) {
            (Pairing::Apart, Some(rows)) => Some(unit(Input::Positives, &[rows], problem.anchors)?),
            (Pairing::Views { .. } | Pairing::Indexed { .. }, None) => None,
            _ => return Err(Error::value("expected `positives` where they are not among the keys, and only there")),
        };
        Ok(Self { anchors, keys, apart, pairs: Pairs::new(problem, inputs)?, tile, isa, threads })
    }

    /// The similarities of anchors and keys.
    pub fn similarities(&self) -> Similarities<'_, C> {
        let keys = self.keys.as_ref();
        Similarities::new(&self.anchors, keys, &self.pairs, self.tile, self.isa, self.threads)
    }

    /// Similarities of the anchors and their positives, [anchors, positives].
    pub fn positive_similarities(&self, problem: &Problem) -> Vec<f64> {
        let keys = self.keys.as_ref().unwrap_or(&self.anchors);
        let mut all = Vec::with_capacity(problem.anchors * problem.positives());
        for anchor in 0..problem.anchors {
            let row = self.anchors.row(anchor);
            match &self.apart {
                Some(apart) => all.push(dot(row, apart.row(anchor))),
                None => all.extend(self.pairs.positives(anchor).iter().map(|&key| dot(row, keys.row(key as usize)))),
            }
        }
        all
    }

    /// Mean similarity of anchors and their negatives, without looking at each pair:
    /// the sum over an anchor's row is its product with the sum of all keys. NaN where there is no negative.
    pub fn negative_similarity(&self, problem: &Problem, positives: &[f64], negatives: f64) -> f64 {
        if negatives == 0.0 {
            return f64::NAN;
        }
        let keys = self.keys.as_ref().unwrap_or(&self.anchors);
        let total = |rows: &UnitRows<C>| {
            let mut sum = vec![0.0; rows.padded_dims];
            for row in 0..rows.rows {
                sum.iter_mut().zip(rows.row(row)).for_each(|(sum, x)| *sum += x.to_f64());
            }
            sum
        };
        let all: f64 = total(&self.anchors).iter().zip(total(keys)).map(|(a, b)| a * b).sum();
        let excluded: f64 = match problem.pairing {
            Pairing::Apart => 0.0,
            // The positives, and the anchors themselves.
            Pairing::Views { .. } => positives.iter().sum::<f64>() + problem.anchors as f64,
            Pairing::Indexed { .. } => (0..problem.anchors)
                .map(|anchor| {
                    let row = self.anchors.row(anchor);
                    self.pairs.excluded_once(anchor).map(|key| dot(row, keys.row(key as usize))).sum::<f64>()
                })
                .sum(),
        };
        (all - excluded) / negatives
    }
}

fn check_shape<E: Element>(input: Input, parts: &[Rows<'_, E>], rows: usize, dims: usize) -> Result<()> {
    let got: usize = parts.iter().map(Rows::rows).sum();
    match parts.iter().find(|part| part.dims() != dims) {
        None if got == rows => Ok(()),
        part => Err(Error::value(format!(
            "expected `{input}` to have shape [{rows}, {dims}], but got [{got}, {}]",
            part.map_or(dims, Rows::dims)
        ))),
    }
}
