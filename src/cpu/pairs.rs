//! Which keys are an anchor's positives, and which are none of its negatives.

use super::rows::Inputs;
use crate::error::{Error, Result};
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
}

impl Pairs {
    /// The pairs of a problem.
    ///
    /// # Errors
    /// [`Error::Value`] for an index out of range, or lists of the wrong length.
    pub fn new<E>(problem: &Problem, inputs: &Inputs<'_, E>) -> Result<Self> {
        match problem.pairing {
            Pairing::Views { views, offset } => Ok(Self::views(problem.anchors, views, offset)),
            Pairing::Indexed { positives } => {
                Self::indexed(problem, positives, inputs.positive_index, inputs.ignored_index)
            }
            Pairing::Apart => {
                Ok(Self { positives: vec![], positives_each: 0, excluded: vec![], excluded_each: 0, offset: None })
            }
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
        }
    }

    fn indexed(problem: &Problem, each: usize, positives: &[i64], ignored: &[i64]) -> Result<Self> {
        let anchors = problem.anchors;
        check_length("positive_index", positives.len(), anchors * each)?;
        if !ignored.is_empty() {
            check_length("ignored_index", ignored.len(), anchors)?;
        }
        let row = |name: &str, index: i64| match u32::try_from(index) {
            Ok(row) if (row as usize) < problem.keys => Ok(row),
            _ => Err(Error::value(format!(
                "expected `{name}` to hold rows of the {} keys, but got {index}",
                problem.keys
            ))),
        };
        let positives = positives.iter().map(|&i| row("positive_index", i)).collect::<Result<Vec<_>>>()?;
        let mut excluded = Vec::with_capacity(anchors * (each + 1));
        for (anchor, own) in positives.chunks_exact(each).enumerate() {
            excluded.extend_from_slice(own);
            // Where there is none, a positive once more: the same pair.
            excluded.push(match ignored.get(anchor) {
                None | Some(-1) => own[0],
                Some(&index) => row("ignored_index", index)?,
            });
        }
        Ok(Self { positives, positives_each: each, excluded, excluded_each: each + 1, offset: None })
    }

    /// Positives of an anchor among the keys.
    pub fn positives(&self, anchor: usize) -> &[u32] {
        &self.positives[anchor * self.positives_each..][..self.positives_each]
    }

    /// The anchor among the keys, where it is one.
    pub fn own(&self, anchor: usize) -> Option<usize> {
        self.offset.map(|offset| offset + anchor)
    }

    /// Keys that are no negatives of an anchor; one may stand twice.
    pub fn excluded(&self, anchor: usize) -> &[u32] {
        &self.excluded[anchor * self.excluded_each..][..self.excluded_each]
    }

    /// Number of [`excluded`](Self::excluded) keys of each anchor.
    pub fn excluded_each(&self) -> usize {
        self.excluded_each
    }

    /// Keys that are no negatives of an anchor, each once.
    pub fn excluded_once(&self, anchor: usize) -> impl Iterator<Item = u32> + '_ {
        let all = self.excluded(anchor);
        all.iter().enumerate().filter(|(i, key)| !all[..*i].contains(key)).map(|(_, &key)| key)
    }
}

/// A list must have one entry for each of what it lists.
pub fn check_length(name: &str, got: usize, expected: usize) -> Result<()> {
    if got == expected {
        Ok(())
    } else {
        Err(Error::value(format!("expected `{name}` to have {expected} elements, but got {got}")))
    }
}
