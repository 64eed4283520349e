//! Similarity statistics of a whole set of embeddings, without storing the similarity matrix.
//!
//! The means over groups of negatives need no loop over pairs: a row's sum over a group is the product of the row with
//! the sum of the group. Quantiles visit each pair once or twice. Counts and histograms visit each pair once.

mod groups;
mod pairs;
mod products;
mod quantiles;

use crate::cpu::{Element, Isa, Rows, UnitRows};
use crate::error::{Error, Input, Result};
use crate::problem::quantile_rank;
use groups::Groups;
use products::TILE;

/// Number of groups of negatives of a row: the same class, the same superclass but another class, and all others.
pub const GROUPS: usize = 3;

/// One number for each group of negatives.
pub type ByGroup<T> = [T; GROUPS];

/// The settings of the statistics.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The class of each row, [rows], at least 0. None: each row is its own class.
    pub classes: Option<&'a [i64]>,
    /// The superclass of each row, [rows], at least 0. All rows of a class must have the same. None: each class is its
    /// own superclass.
    pub superclasses: Option<&'a [i64]>,
    /// The quantile of each row of similarities, which includes the row itself, with 'nearest' interpolation.
    pub quantile: f64,
    /// The threshold for the counts. None: the mean of the quantiles, which is the adaptive threshold.
    pub threshold: Option<f64>,
    /// The number of bins of the histograms. The bins have equal width and cover [-1, 1].
    pub bins: i64,
}

/// Statistics of the cosine similarities of all pairs of rows.
#[derive(Debug, Clone)]
pub struct SimilarityStatistics {
    /// The quantile of each row of similarities, [rows].
    pub quantiles: Vec<f64>,
    /// The threshold for `above`.
    pub threshold: f64,
    /// The number of negatives, [rows].
    pub negatives: Vec<ByGroup<u64>>,
    /// The mean similarity with the negatives, [rows]. NaN for an empty group.
    pub means: Vec<ByGroup<f64>>,
    /// The number of negatives above the threshold, [rows].
    pub above: Vec<ByGroup<u32>>,
    /// The number of pairs, [group][bin]. Each pair counts once.
    pub histogram: ByGroup<Vec<u64>>,
}

/// Computes the statistics of a set of embeddings (S7.4.1 and S7.4.6, Figures 8, 9, 12 and 13), in O(N D) memory, with
/// up to `threads` threads.
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
