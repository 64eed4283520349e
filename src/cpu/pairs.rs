//! The keys that are an anchor's positives, and the keys that are not its negatives.

use std::ops::Range;

use super::rows::BorrowedOperands;
use crate::problem::{Pairing, Problem};

/// The pairs of a problem that are not pairs of an anchor and a negative. Keys are given by their row.
#[derive(Debug)]
pub struct Pairs {
    /// The positives of each anchor. Empty if they are not among the keys.
    positives: Vec<u32>,
    positives_each: usize,
    /// The positives of each anchor and, if it is among the keys, the anchor itself.
    sample: Vec<u32>,
    sample_each: usize,
    /// The keys that an anchor ignores.
    ignored: Ragged,
    /// Row of the keys at which the anchors start, if they are among the keys.
    offset: Option<usize>,
    /// Number of rows of a tower, if there are two towers.
    tower: Option<usize>,
}

impl Pairs {
    /// Lists the pairs of a problem. The operands must fit the problem.
    pub fn new<E>(problem: &Problem, operands: &BorrowedOperands<'_, E>) -> Self {
        let ignored = operands.ignored_index.map_or_else(Ragged::default, |index| Ragged::new(index, problem.anchors));
        match problem.pairing {
            Pairing::Views { views, offset } => Self::views(problem.anchors, views, offset),
            Pairing::Indexed { positives } => {
                let index = operands.positive_index.unwrap_or_default();
                Self { ignored, ..Self::indexed(positives, index) }
            }
            Pairing::Apart => Self { ignored, ..Self::indexed(0, &[]) },
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
            sample: list(0),
            sample_each: views,
            ignored: Ragged::default(),
            offset: Some(offset),
            tower: None,
        }
    }

    fn indexed(each: usize, positives: &[i64]) -> Self {
        let positives: Vec<u32> = positives.iter().map(|&index| index as u32).collect();
        Self {
            sample: positives.clone(),
            positives,
            positives_each: each,
            sample_each: each,
            ignored: Ragged::default(),
            offset: None,
            tower: None,
        }
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

    /// The keys that are not negatives of an anchor, each once, without the other rows of its tower.
    pub fn excluded(&self, anchor: usize) -> impl Iterator<Item = u32> + '_ {
        self.sample(anchor).iter().chain(self.ignored.of(anchor)).copied()
    }

    /// The positives of an anchor among the keys, and the anchor itself if it is among them.
    pub fn sample(&self, anchor: usize) -> &[u32] {
        &self.sample[anchor * self.sample_each..][..self.sample_each]
    }

    /// Whether an anchor ignores keys.
    pub fn ignores_keys(&self) -> bool {
        self.ignored.longest > 0
    }

    /// The keys in a range that an anchor ignores.
    pub fn ignored_within(&self, anchor: usize, keys: Range<usize>) -> &[u32] {
        let ignored = self.ignored.of(anchor);
        let place = |key: usize| ignored.partition_point(|&other| (other as usize) < key);
        &ignored[place(keys.start)..place(keys.end)]
    }

    /// The largest number of [`excluded`](Self::excluded) keys of an anchor.
    pub fn most_excluded(&self) -> usize {
        self.sample_each + self.ignored.longest
    }
}

/// Lists of keys of different lengths, in ascending order.
#[derive(Debug, Default)]
struct Ragged {
    keys: Vec<u32>,
    /// The end of each list. Empty if there are no lists.
    ends: Vec<usize>,
    longest: usize,
}

impl Ragged {
    /// The lists in `index`, [anchors, I], which is padded with -1.
    fn new(index: &[i64], anchors: usize) -> Self {
        let mut all = Self::default();
        let each = index.len() / anchors;
        for anchor in 0..anchors {
            let start = all.keys.len();
            let own = index[anchor * each..][..each].iter();
            all.keys.extend(own.filter(|&&key| key >= 0).map(|&key| key as u32));
            all.keys[start..].sort_unstable();
            all.ends.push(all.keys.len());
            all.longest = all.longest.max(all.keys.len() - start);
        }
        all
    }

    fn of(&self, anchor: usize) -> &[u32] {
        let Some(&end) = self.ends.get(anchor) else { return &[] };
        &self.keys[if anchor > 0 { self.ends[anchor - 1] } else { 0 }..end]
    }
}
