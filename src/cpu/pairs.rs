//! Which keys are an anchor's positives, and which are none of its negatives.

use super::rows::BorrowedOperands;
use crate::problem::{Pairing, Problem};

/// The special pairs of a problem, as rows of the keys.
#[derive(Debug)]
pub struct Pairs {
    /// Positives of each anchor among the keys; none where they are given apart.
    positives: Vec<u32>,
    positives_each: usize,
    /// Keys that are no negatives of the anchor: its positives, itself, the ignored one.
    excluded: Vec<u32>,
    excluded_each: usize,
    /// Row of the keys at which the anchors stand, where they do.
    offset: Option<usize>,
    /// Rows of a tower, where there are two.
    tower: Option<usize>,
}

impl Pairs {
    /// The pairs of a problem.
    ///
    /// # Errors
    /// [`Error::Value`] for an index out of range, or lists of the wrong length.
    pub fn new<E>(problem: &Problem, operands: &BorrowedOperands<'_, E>) -> Self {
        match problem.pairing {
            Pairing::Views { views, offset } => Self::views(problem.anchors, views, offset),
            Pairing::Indexed { positives } => {
                let index = operands.positive_index.unwrap_or_default();
                Self::indexed(positives, index, operands.ignored_index.unwrap_or_default())
            }
            Pairing::Apart => Self {
                positives: vec![],
                positives_each: 0,
                excluded: vec![],
                excluded_each: 0,
                offset: None,
                tower: None,
            },
            Pairing::Towers => Self { tower: Some(problem.anchors / 2), ..Self::views(problem.anchors, 2, 0) },
        }
    }

    fn views(anchors: usize, views: usize, offset: usize) -> Self {
        let samples = anchors / views;
        let other = |anchor: usize, view: usize| (offset + (anchor + view * samples) % anchors) as u32;
        let list =
            |from: usize| (0..anchors).flat_map(move |i| (from..views).map(move |view| other(i, view))).collect();
        Self {
            positives: list(1),
            positives_each: views - 1,
            excluded: list(0),
            excluded_each: views,
            offset: Some(offset),
            tower: None,
        }
    }

    fn indexed(each: usize, positives: &[i64], ignored: &[i64]) -> Self {
        let positives: Vec<u32> = positives.iter().map(|&index| index as u32).collect();
        let mut excluded = Vec::with_capacity(positives.len() + positives.len() / each);
        for (anchor, own) in positives.chunks_exact(each).enumerate() {
            excluded.extend_from_slice(own);
            // Without an ignored key, a positive is listed a second time: the same pair.
            excluded.push(match ignored.get(anchor) {
                None | Some(-1) => own[0],
                Some(&index) => index as u32,
            });
        }
        Self { positives, positives_each: each, excluded, excluded_each: each + 1, offset: None, tower: None }
    }

    /// Positives of an anchor among the keys.
    pub fn positives(&self, anchor: usize) -> &[u32] {
        &self.positives[anchor * self.positives_each..][..self.positives_each]
    }

    /// The anchor among the keys, where it is one.
    pub fn own(&self, anchor: usize) -> Option<usize> {
        self.offset.map(|offset| offset + anchor)
    }

    /// Rows of a tower, where there are two: no pair within one is looked at.
    pub fn tower(&self) -> Option<usize> {
        self.tower
    }

    /// Keys that are no negatives of an anchor, besides its own tower; one may be listed twice.
    pub fn excluded(&self, anchor: usize) -> &[u32] {
        &self.excluded[anchor * self.excluded_each..][..self.excluded_each]
    }

    /// Number of [`excluded`](Self::excluded) keys of each anchor.
    pub fn excluded_each(&self) -> usize {
        self.excluded_each
    }

    /// The same, each once.
    pub fn excluded_once(&self, anchor: usize) -> impl Iterator<Item = u32> + '_ {
        let all = self.excluded(anchor);
        all.iter().enumerate().filter(|(i, key)| !all[..*i].contains(key)).map(|(_, &key)| key)
    }
}
