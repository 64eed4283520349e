//! The rows that are compared with one anchor alone: its positive, if that is not among the keys, and its own negatives.

use super::gradient::AnchorCoefficients;
use super::passes::{beta, AnchorShifts, Passes};
use super::prepared::Prepared;
use super::simd::{group, group_mut, lanes, Float, InstructionSet, Kernel, MultiplyAdd, LANES};
use super::similarities::selected;
use super::split::Split;
use super::threads::{for_each, Shared};
use super::unit_rows::UnitRows;
use crate::formula::Sums;
use crate::problem::{Pairing, Problem};

/// Number of anchors handled at a time.
const CHUNK: usize = 64;

/// The rows apart from the keys, [anchors, each].
pub struct Apart<C: Float> {
    /// The rows.
    pub rows: UnitRows<C>,
    each: usize,
    /// Number of positives among the rows of an anchor: 1, which comes first, or 0.
    positives: usize,
}

impl<C: Float> Apart<C> {
    /// The rows of a problem.
    pub fn new(problem: &Problem, rows: UnitRows<C>) -> Self {
        Self { rows, each: problem.rows_apart(), positives: usize::from(problem.pairing == Pairing::Apart) }
    }

    /// The place of an anchor's positive, if it is among the rows.
    pub fn positive(&self, anchor: usize) -> Option<usize> {
        (self.positives > 0).then_some(anchor * self.each)
    }

    /// The place of an anchor's first own negative.
    fn first_negative(&self, anchor: usize) -> usize {
        anchor * self.each + self.positives
    }
}

/// The similarities of the anchors and their own negatives.
pub struct OwnNegatives<'a, C: Float> {
    apart: Option<&'a Apart<C>>,
    each: usize,
    /// [anchors, each]
    similarities: Vec<C>,
}

impl<'a, C: Float> OwnNegatives<'a, C> {
    /// Computes the similarities.
    pub fn new(problem: &Problem, prepared: &'a Prepared<C>) -> Self {
        let each = problem.own_negatives;
        let apart = prepared.apart.as_ref().filter(|_| each > 0);
        let similarities = apart.map_or_else(Vec::new, |apart| {
            let place = |anchor: usize, i: usize| apart.first_negative(anchor) + i;
            selected(prepared.isa, prepared.threads, &prepared.anchors, &apart.rows, each, place)
        });
        Self { apart, each, similarities }
    }

    /// The similarities of an anchor.
    pub fn of(&self, anchor: usize) -> &[C] {
        &self.similarities[anchor * self.each..][..self.each]
    }

    /// The sum of all similarities.
    pub fn total(&self) -> f64 {
        self.similarities.iter().map(|c| c.to_f64()).sum()
    }

    /// Updates the largest global and the largest hierarchical similarity of each anchor.
    pub fn raise(&self, split: &Split<C>, maxima: &mut [[C; 2]]) {
        for (i, &c) in self.similarities.iter().enumerate() {
            let anchor = i / self.each;
            let best = &mut maxima[anchor][usize::from(split.is_above(anchor, c))];
            *best = best.larger(c);
        }
    }

    /// Adds the negatives to the sums of the anchors.
    pub fn add_to(&self, problem: &Problem, split: &Split<C>, threads: usize, sums: &mut [Sums]) {
        if self.each == 0 {
            return;
        }
        let (anchors, shared) = (sums.len(), Shared::new(sums));
        for_each(
            threads,
            anchors.div_ceil(CHUNK),
            || (),
            |(), chunk| {
                for anchor in chunk * CHUNK..anchors.min((chunk + 1) * CHUNK) {
                    // SAFETY: The chunks do not overlap, and `sums` is borrowed until the loop ends.
                    let sums = unsafe { &mut shared.slice(anchor, 1)[0] };
                    sums.negatives += self.each as f64;
                    for &c in self.of(anchor) {
                        let exponent = |shift: f64| (c.to_f64() - shift) / problem.temperature;
                        if split.is_above(anchor, c) {
                            let exponent = exponent(sums.hierarchical_shift);
                            sums.weighted += ((1.0 + beta(problem)) * exponent).exp();
                            sums.weights += (beta(problem) * exponent).exp();
                            sums.hierarchical += 1.0;
                        } else {
                            sums.global += exponent(sums.global_shift).exp();
                        }
                    }
                }
            },
        );
    }

    /// Adds the part of the gradients that comes from the own negatives, to those of the anchors and of the rows apart.
    pub fn add_gradients(
        &self,
        passes: &Passes<'_, C>,
        prepared: &Prepared<C>,
        shifts: &AnchorShifts<C>,
        coefficients: &AnchorCoefficients<C>,
        of_anchors: Option<&Shared<C>>,
        of_apart: Option<&Shared<C>>,
    ) {
        let Some(apart) = self.apart else { return };
        let (anchors, dims) = (passes.problem.anchors, prepared.anchors.padded_dims);
        let add = |sum: Option<&Shared<C>>, row: usize, factor: C, other: &[C]| {
            if let Some(sum) = sum {
                // SAFETY: Only the call for this anchor uses its row and those of its own negatives, one at a time.
                let out = unsafe { sum.slice(row * dims, dims) };
                prepared.isa.run(AddMultiple { out, factor, row: other });
            }
        };
        for_each(
            prepared.threads,
            anchors.div_ceil(CHUNK),
            || (),
            |(), chunk| {
                for anchor in chunk * CHUNK..anchors.min((chunk + 1) * CHUNK) {
                    for (i, &c) in self.of(anchor).iter().enumerate() {
                        let place = apart.first_negative(anchor) + i;
                        let slope = slope(passes, shifts, coefficients, anchor, c);
                        add(of_anchors, anchor, slope, apart.rows.row(place));
                        add(of_apart, place, slope, prepared.anchors.row(anchor));
                    }
                }
            },
        );
    }
}

/// The derivative of the loss by the similarity of an anchor and its own negative.
fn slope<C: Float>(
    passes: &Passes<'_, C>,
    shifts: &AnchorShifts<C>,
    coefficients: &AnchorCoefficients<C>,
    anchor: usize,
    similarity: C,
) -> C {
    let (problem, shifts, of) = (passes.problem, shifts.part(anchor, 1), coefficients.part(anchor, 1));
    let exponent = |shift: C| (similarity.to_f64() - shift.to_f64()) / problem.temperature;
    C::from_f64(if passes.split.is_above(anchor, similarity) {
        let exponent = exponent(shifts.hierarchical[0]);
        of.weighted[0].to_f64() * ((1.0 + beta(problem)) * exponent).exp()
            - of.weights[0].to_f64() * (beta(problem) * exponent).exp()
    } else {
        of.global[0].to_f64() * exponent(shifts.global[0]).exp()
    })
}

/// `out += factor * row`. The lengths are multiples of `LANES`.
struct AddMultiple<'a, C> {
    out: &'a mut [C],
    factor: C,
    row: &'a [C],
}

impl<C: Float> Kernel for AddMultiple<'_, C> {
    #[inline(always)]
    fn run<S: InstructionSet>(self) {
        let Self { out, factor, row } = self;
        assert!(out.len() == row.len() && row.len().is_multiple_of(LANES));
        for at in (0..row.len()).step_by(LANES) {
            let (sum, x) = (*group(out, at), group(row, at));
            *group_mut(out, at) = lanes(|l| S::Arithmetic::multiply_add(factor, x[l], sum[l]));
        }
    }
}
