//! The split of the negatives into hierarchical and global ones.

use std::collections::HashMap;

use super::apart::OwnNegatives;
use super::prepared::Prepared;
use super::rows::BorrowedOperands;
use super::simd::Float;
use super::similarities::Similarities;
use super::thresholds::{row_quantiles, row_ranges};
use crate::problem::{Problem, Threshold};

/// The numbers that decide which negatives are hierarchical, one for each anchor and each key, including the padding.
pub struct Split<C> {
    /// Whether the numbers are labels instead of thresholds.
    pub labels: bool,
    /// Whether all numbers are the same threshold.
    pub one: bool,
    /// The numbers of the anchors.
    pub rows: Vec<C>,
    /// The numbers of the keys. Empty if the anchors are the keys.
    pub columns: Vec<C>,
    /// The threshold, NaN if labels decide. For `Threshold::MinMax` and `Threshold::Margin`, their number.
    pub threshold: f64,
}

/// Converts a threshold to the type of the similarities. From 1 on it becomes infinity: a cosine never exceeds 1, but a
/// rounded one may.
pub fn comparable<C: Float>(threshold: f64) -> C {
    if threshold >= 1.0 {
        C::INFINITY
    } else {
        C::from_f64(threshold)
    }
}

impl<C: Float> Split<C> {
    /// One threshold for all anchors of a square problem.
    pub fn at(threshold: f64, rows: usize) -> Self {
        Self { labels: false, one: true, rows: vec![comparable(threshold); rows], columns: vec![], threshold }
    }

    /// Finds the thresholds, or numbers the labels.
    pub fn new<E>(
        problem: &Problem,
        operands: &BorrowedOperands<'_, E>,
        prepared: &Prepared<C>,
        similarities: &Similarities<'_, C>,
        positives: &[f64],
        own: &OwnNegatives<'_, C>,
    ) -> Self {
        let (rows, columns) = (similarities.anchors.padded_rows, similarities.keys.padded_rows);
        let thresholds = |threshold: f64, rows: Vec<C>| Self {
            labels: false,
            one: problem.square && !matches!(problem.threshold, Threshold::MinMax { .. } | Threshold::Margin { .. }),
            rows,
            // If the keys are not the anchors, only the rows decide.
            columns: if problem.square { vec![] } else { vec![C::INFINITY; columns] },
            threshold,
        };
        match problem.threshold {
            Threshold::Adaptive { quantile } => {
                let quantiles = row_quantiles(problem, similarities, positives, own, quantile);
                let threshold = quantiles.iter().sum::<f64>() / problem.anchors as f64;
                thresholds(threshold, vec![comparable(threshold); rows])
            }
            Threshold::Cosine { value } => thresholds(value, vec![comparable(value); rows]),
            Threshold::Given => {
                let value = operands.threshold.unwrap_or(f64::NAN);
                thresholds(value, vec![comparable(value); rows])
            }
            Threshold::MinMax { value } => {
                let mut bounds = vec![C::INFINITY; rows];
                for (bound, (low, high)) in bounds.iter_mut().zip(row_ranges(problem, similarities, positives, own)) {
                    *bound = C::from_f64(low + value * (high - low));
                }
                thresholds(value, bounds)
            }
            Threshold::Margin { margin, relative } => {
                let mut bounds = vec![C::INFINITY; rows];
                for (bound, closest) in bounds.iter_mut().zip(prepared.closest_positives(problem)) {
                    let closest = closest.to_f64();
                    *bound = comparable(closest + if relative { margin * closest.abs() } else { margin });
                }
                thresholds(margin, bounds)
            }
            Threshold::Labels => {
                let mut numbers = Numbers::default();
                let mut numbered = |labels: Option<&[i64]>, length: usize| {
                    let labels = labels.unwrap_or_default().iter();
                    let mut out: Vec<C> = labels.map(|&label| C::from_f64(numbers.of(label))).collect();
                    out.resize(length, C::NEG_INFINITY);
                    out
                };
                let rows = numbered(operands.anchor_labels, rows);
                let columns = if problem.square { vec![] } else { numbered(operands.key_labels, columns) };
                Self { labels: true, one: false, rows, columns, threshold: f64::NAN }
            }
        }
    }

    /// Whether a similarity is above an anchor's threshold. With labels none is.
    pub fn is_above(&self, anchor: usize, similarity: C) -> bool {
        !self.labels && similarity > self.rows[anchor]
    }

    /// The numbers of the keys.
    pub fn columns(&self) -> &[C] {
        if self.columns.is_empty() {
            &self.rows
        } else {
            &self.columns
        }
    }
}

/// Numbers the labels 0, 1, 2 in the order of their first use. A float cannot hold every label exactly, but it holds
/// small numbers exactly.
#[derive(Default)]
struct Numbers(HashMap<i64, usize>);

impl Numbers {
    fn of(&mut self, label: i64) -> f64 {
        let next = self.0.len();
        *self.0.entry(label).or_insert(next) as f64
    }
}
