//! The keys that are an anchor's positives, and the keys that are not its negatives.

use super::rows::BorrowedOperands;
use crate::problem::{Pairing, Problem};

/// The pairs of a problem that are not pairs of an anchor and a negative. Keys are given by their row.
#[derive(Debug)]
pub struct Pairs {
    /// The positives of each anchor. Empty if they are not among the keys.
    positives: Vec<u32>,
    positives_each: usize,
    /// The keys that are not negatives of the anchor: its positives, the anchor itself, and the ignored key.
    excluded: Vec<u32>,
    excluded_each: usize,
    /// Row of the keys at which the anchors start, if they are among the keys.
    offset: Option<usize>,
    /// Number of rows of a tower, if there are two towers.
    tower: Option<usize>,
}

impl Pairs {
    /// Lists the pairs of a problem. The operands must fit the problem.
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
            // Without an ignored key, list a positive twice, so that all lists have the same length.
            excluded.push(match ignored.get(anchor) {
                None | Some(-1) => own[0],
                Some(&index) => index as u32,
            });
        }
        Self { positives, positives_each: each, excluded, excluded_each: each + 1, offset: None, tower: None }
    }

    /// The positives of an anchor among the keys.
    pub fn positives(&self, anchor: usize) -> &[u32] {
        &self.positives[anchor * self.positives_each..][..self.positives_each]
    }

    /// The key that is the anchor itself, if it is among the keys.
    pub fn own(&self, anchor: usize) -> Option<usize> {
        self.offset.map(|offset| offset + anchor)
    }

    /// Number of rows of a tower, if there are two towers. Pairs within a tower are not used.
    pub fn tower(&self) -> Option<usize> {
        self.tower
    }

    /// The keys that are not negatives of an anchor, without the other rows of its tower. A key may be listed twice.
    pub fn excluded(&self, anchor: usize) -> &[u32] {
        &self.excluded[anchor * self.excluded_each..][..self.excluded_each]
    }

    /// Number of [`excluded`](Self::excluded) keys of each anchor.
    pub fn excluded_each(&self) -> usize {
        self.excluded_each
    }

    /// The [`excluded`](Self::excluded) keys, each once.
    pub fn excluded_once(&self, anchor: usize) -> impl Iterator<Item = u32> + '_ {
        let all = self.excluded(anchor);
        all.iter().enumerate().filter(|(i, key)| !all[..*i].contains(key)).map(|(_, &key)| key)
    }
}
