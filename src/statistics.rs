//! Similarity statistics of a whole set of embeddings, never as a matrix.
//!
//! Means over groups of negatives look at no pair: a row's sum over a group is its product with the sum of the group's
//! rows. Quantiles look at whole rows, a few at a time; counts and histograms at each pair once, for both of its rows.

mod groups;
mod pairs;
mod products;
mod quantiles;

use crate::cpu::{Element, Isa, Rows, UnitRows};
use crate::error::{Error, Input, Result};
use crate::problem::quantile_rank;
use groups::Groups;
use products::TILE;

/// Groups of negatives of a row: of its class; of its superclass alone; others.
pub const GROUPS: usize = 3;

/// One number for each group of negatives.
pub type ByGroup<T> = [T; GROUPS];

/// What to find out about a set of embeddings.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// [rows] class of each row, at least 0. None: each row is its own class.
    pub classes: Option<&'a [i64]>,
    /// [rows] superclass of each row, at least 0, one for each class. None: each class is its own superclass.
    pub superclasses: Option<&'a [i64]>,
    /// Quantile of each row's similarities, own included ('nearest' interpolation).
    pub quantile: f64,
    /// Similarities are counted above it. None: above the mean of the rows' quantiles, the adaptive threshold.
    pub threshold: Option<f64>,
    /// Bins of the histograms, of equal width from -1 to 1.
    pub bins: i64,
}

/// Statistics of the cosine similarities of all pairs of rows.
#[derive(Debug, Clone)]
pub struct SimilarityStatistics {
    /// [rows] quantile of each row's similarities.
    pub quantiles: Vec<f64>,
    /// What `above` counts above.
    pub threshold: f64,
    /// [rows] number of negatives.
    pub negatives: Vec<ByGroup<u64>>,
    /// [rows] mean similarity with the negatives; NaN where there are none.
    pub means: Vec<ByGroup<f64>>,
    /// [rows] number of negatives above the threshold.
    pub above: Vec<ByGroup<u32>>,
    /// [group][bin] number of pairs, each once.
    pub histogram: ByGroup<Vec<u64>>,
}

/// The statistics of a set of embeddings (S7.4.1 and S7.4.6, Figures 8, 9, 12 and 13), in O(N D) memory on up to
/// `threads` threads.
///
/// # Errors
/// [`Error::Value`] for numbers, lengths or labels out of range, [`Error::Row`] for the first row without a direction.
pub fn similarity_statistics<E: Element>(
    embeddings: Rows<'_, E>,
    request: &Request<'_>,
    threads: usize,
) -> Result<SimilarityStatistics> {
    check(embeddings.rows(), embeddings.dims(), request)?;
    let groups = Groups::new(embeddings.rows(), request)?;
    let isa = Isa::best();
    let units = UnitRows::new(Input::Anchors, &[embeddings], TILE, isa, threads)?;
    let means = groups.means(&units);
    let rank = quantile_rank(units.rows, request.quantile);
    let quantiles = quantiles::row_quantiles(&units, rank, isa, threads);
    let threshold = request.threshold.unwrap_or_else(|| quantiles.iter().sum::<f64>() / quantiles.len() as f64);
    let found = pairs::tally(&units, &groups, threshold, request.bins as usize, isa, threads);
    Ok(SimilarityStatistics {
        quantiles,
        threshold,
        negatives: groups.negatives(),
        means,
        above: found.above,
        histogram: found.histogram,
    })
}

fn check(rows: usize, dims: usize, request: &Request<'_>) -> Result<()> {
    if rows < 2 || dims == 0 {
        return Err(Error::value(format!(
            "expected `embeddings` to have shape [N, D] with N at least 2 and D at least 1, but got [{rows}, {dims}]"
        )));
    }
    if !(0.0..=1.0).contains(&request.quantile) {
        return Err(Error::value(format!("expected `quantile` to be in [0, 1], but got {}", request.quantile)));
    }
    if request.threshold.is_some_and(f64::is_nan) {
        return Err(Error::value("expected `threshold` to be a number, but got NaN"));
    }
    if !(1..=pairs::MAX_BINS as i64).contains(&request.bins) {
        let most = pairs::MAX_BINS;
        return Err(Error::value(format!("expected `bins` to be in [1, {most}], but got {}", request.bins)));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
