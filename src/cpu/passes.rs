//! The passes over the tiles before the gradient: shifts and sums.

use super::apart::OwnNegatives;
use super::joint::{self, Found};
use super::simd::{Exponents, Float, Maxima, Shifts, Sum, Tile, SUMS};
use super::similarities::Similarities;
use super::split::Split;
use super::threads::{Shared, Spare};
use crate::formula::Sums;
use crate::problem::{quantile_rank, Formulation, Pairing, Problem, Threshold};

/// The shifts of each anchor, including the padding.
pub struct AnchorShifts<C> {
    /// Whether all shifts are 1.
    pub shared: bool,
    global: Vec<C>,
    hierarchical: Vec<C>,
}

impl<C: Float> AnchorShifts<C> {
    /// Shifts that are all 1.
    pub fn ones(rows: usize) -> Self {
        Self { shared: true, global: vec![C::ONE; rows], hierarchical: vec![C::ONE; rows] }
    }

    /// The shifts of `count` anchors from `start` on.
    pub fn part(&self, start: usize, count: usize) -> Shifts<'_, C> {
        Shifts { global: &self.global[start..][..count], hierarchical: &self.hierarchical[start..][..count] }
    }
}

/// The exponentials of a problem.
pub fn exponents<C: Float>(problem: &Problem, shared: bool) -> Exponents<C> {
    let beta = beta(problem);
    Exponents {
        inverse_temperature: C::from_f64(1.0 / problem.temperature),
        concentration: C::from_f64(beta / problem.temperature),
        beta_is_one: beta == 1.0,
        shared,
    }
}

/// The concentration of the weights.
pub fn beta(problem: &Problem) -> f64 {
    match problem.formulation {
        Formulation::Importance { beta, .. } => beta,
        // The weights are not used. With beta 1 they cost nothing.
        Formulation::Official | Formulation::Decoupled | Formulation::Elimination => 1.0,
        // With beta 0 all weights are 1.
        Formulation::Supervised => 0.0,
    }
}

/// Whether the type can represent the smallest possible exponential, exp(-2 exponent / t). All shifts can then be 1.
fn one_shift_suffices<C: Float>(problem: &Problem, exponent: f64) -> bool {
    2.0 * exponent / problem.temperature < 0.95 * -C::EXP_MIN.to_f64()
}

/// Whether all shifts can be 1, with the exponentials that a split needs.
pub fn one_shift<C: Float>(problem: &Problem, split: &Split<C>) -> bool {
    let none_hierarchical = !split.labels && split.rows.iter().all(|&t| t >= C::INFINITY);
    one_shift_suffices::<C>(problem, if none_hierarchical { 1.0 } else { 1.0 + beta(problem) })
}

/// Threshold and sums from a single pass. None if the pass does not apply to the problem, or does not succeed.
pub fn joint<C: Float>(problem: &Problem, similarities: &mut Similarities<'_, C>) -> Option<Found> {
    match problem.threshold {
        Threshold::Adaptive { quantile }
            if problem.square
                && problem.pairing != Pairing::Towers
                && one_shift_suffices::<C>(problem, 1.0 + beta(problem)) =>
        {
            joint::find(similarities, quantile_rank(problem.row_length(), quantile), exponents(problem, true))
        }
        _ => None,
    }
}

/// The passes over the tiles.
pub struct Passes<'a, C: Float> {
    /// The problem.
    pub problem: &'a Problem,
    /// The similarities.
    pub similarities: &'a Similarities<'a, C>,
    /// Which negatives are hierarchical.
    pub split: &'a Split<C>,
    /// The negatives that are not among the keys.
    pub own: &'a OwnNegatives<'a, C>,
}

impl<C: Float> Passes<'_, C> {
    /// The tile (a, b), either computed into `scratch` or from the cache.
    pub fn tile<'s>(&'s self, a: usize, b: usize, scratch: &'s mut [C]) -> Tile<'s, C> {
        let size = self.similarities.tile;
        Tile {
            similarities: self.similarities.tile(a, b, scratch),
            stride: size,
            rows: size.min(self.problem.anchors - a * size),
            columns: size,
            both_sides: self.problem.square && a != b,
            labels: self.split.labels,
            one_split: self.split.one,
            row_split: &self.split.rows[a * size..][..size],
            column_split: &self.split.columns()[b * size..][..size],
        }
    }

    /// The block of the anchors' arrays that belongs to the columns of a tile. If the problem is not square, columns
    /// are not anchors, and the result is some valid block that is not used.
    pub fn column_block(&self, a: usize, b: usize) -> usize {
        if self.problem.square {
            b
        } else {
            a
        }
    }

    /// The shifts: 1 if the type can represent the smallest possible exponential, exp(-2 (1 + beta) / t). Otherwise the
    /// largest similarities of each anchor, which need a pass of their own.
    pub fn shifts(&self) -> AnchorShifts<C> {
        let rows = self.similarities.anchors.padded_rows;
        if one_shift(self.problem, self.split) {
            return AnchorShifts::ones(rows);
        }
        let mut maxima = vec![[C::NEG_INFINITY; 2]; rows];
        let all = Shared::new(&mut maxima);
        self.for_each_tile(|similarities, tile, a, b| {
            // SAFETY: The schedule gives the blocks a and b to this call alone, and `maxima` is borrowed until the pass
            // ends.
            let (rows, columns) = unsafe { two_blocks(&all, a, b, &tile) };
            similarities.isa.run(Maxima { tile, rows, columns });
        });
        self.own.raise(self.split, &mut maxima);
        // An empty set has no terms, so any shift works.
        let finite =
            |set: usize| maxima.iter().map(|m| if m[set] > C::NEG_INFINITY { m[set] } else { C::ONE }).collect();
        AnchorShifts { shared: false, global: finite(0), hierarchical: finite(1) }
    }

    /// The sums over the negatives of each anchor.
    pub fn sums(&self, shifts: &AnchorShifts<C>) -> Vec<Sums> {
        let exponents = exponents(self.problem, shifts.shared);
        let mut sums = vec![[0.0; SUMS]; self.similarities.anchors.padded_rows];
        let all = Shared::new(&mut sums);
        self.for_each_tile(|similarities, tile, a, b| {
            let size = similarities.tile;
            let row_shifts = shifts.part(a * size, size);
            let column_shifts = shifts.part(self.column_block(a, b) * size, size);
            // SAFETY: As in `shifts`, with `sums`.
            let (rows, columns) = unsafe { two_blocks(&all, a, b, &tile) };
            similarities.isa.run(Sum { tile, exponents, row_shifts, column_shifts, rows, columns });
        });
        let mut sums = self.name(&sums, shifts);
        self.own.add_to(self.problem, self.split, self.similarities.threads, &mut sums);
        sums
    }

    /// Converts the arrays of sums over the keys to [`Sums`].
    pub fn name(&self, sums: &[[f64; SUMS]], shifts: &AnchorShifts<C>) -> Vec<Sums> {
        (0..self.problem.anchors)
            .map(|anchor| {
                let [global, weighted, weights, hierarchical] = sums[anchor];
                let excluded = match self.problem.pairing {
                    Pairing::Views { views, .. } => views,
                    Pairing::Towers => self.problem.keys / 2 + 1,
                    Pairing::Indexed { .. } | Pairing::Apart => self.similarities.pairs.excluded(anchor).count(),
                };
                Sums {
                    global_shift: shifts.global[anchor].to_f64(),
                    hierarchical_shift: shifts.hierarchical[anchor].to_f64(),
                    global,
                    weighted,
                    weights,
                    hierarchical,
                    similarity: 0.0,
                    negatives: (self.problem.keys - excluded) as f64,
                }
            })
            .collect()
    }

    fn for_each_tile(&self, each: impl Fn(&Similarities<'_, C>, Tile<'_, C>, usize, usize) + Sync) {
        let similarities = self.similarities;
        let scratch = || Spare::new(similarities.tile * similarities.tile);
        similarities.schedule.run(similarities.threads, scratch, |scratch, a, b| {
            each(similarities, self.tile(a, b, scratch), a, b);
        });
    }
}

/// The parts of an anchors' array that belong to the rows of a tile and to its columns. The second part is empty unless
/// the tile has both sides.
///
/// # Safety
/// The memory is still borrowed. Nothing else uses the block `a` or, if the tile has both sides, the block `b` while
/// the parts are in use. A tile with both sides has two different blocks.
#[allow(clippy::mut_from_ref)] // as in `Shared::slice`
unsafe fn two_blocks<'a, T, C>(
    all: &'a Shared<T>,
    a: usize,
    b: usize,
    tile: &Tile<'_, C>,
) -> (&'a mut [T], &'a mut [T]) {
    let size = tile.columns;
    let columns = if tile.both_sides { size } else { 0 };
    // SAFETY: By the contract of this function. Without both sides, the second part is empty.
    unsafe { (all.slice(a * size, size), all.slice(b * columns, columns)) }
}
