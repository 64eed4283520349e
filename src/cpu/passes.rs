//! The passes over the tiles that come before the gradient.

use super::joint::{self, Found};
use super::simd::{Exponents, Float, Maxima, Shifts, Sum, Tile, SUMS};
use super::similarities::Similarities;
use super::split::Split;
use super::threads::{Shared, Spare};
use crate::formula::Sums;
use crate::problem::{quantile_rank, Formulation, Pairing, Problem, Threshold};

/// Shifts of each anchor, padding included.
pub struct AnchorShifts<C> {
    /// All are 1.
    pub shared: bool,
    global: Vec<C>,
    hierarchical: Vec<C>,
}

impl<C: Float> AnchorShifts<C> {
    /// 1 for each.
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

fn beta(problem: &Problem) -> f64 {
    match problem.formulation {
        Formulation::Importance { beta, .. } => beta,
        // The weights play no part; with 1 they cost nothing.
        Formulation::Official | Formulation::Decoupled => 1.0,
        // All weights are 1.
        Formulation::Supervised => 0.0,
    }
}

/// Whether the type holds the smallest exponential there may be, exp(-2 exponent / t), so that all shifts can be 1.
fn one_shift_suffices<C: Float>(problem: &Problem, exponent: f64) -> bool {
    2.0 * exponent / problem.temperature < 0.95 * -C::EXP_MIN.to_f64()
}

/// Threshold and sums from a single pass, where the problem is one for it and it succeeds.
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
    /// What to compute.
    pub problem: &'a Problem,
    /// From what.
    pub similarities: &'a Similarities<'a, C>,
    /// Which negatives are hierarchical.
    pub split: &'a Split<C>,
}

impl<C: Float> Passes<'_, C> {
    /// The tile (a, b), computed or fetched.
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

    /// The part of an anchors' array that belongs to the columns of a tile, which has it only where it has both sides.
    pub fn column_block(&self, a: usize, b: usize) -> usize {
        if self.problem.square {
            b
        } else {
            a
        }
    }

    /// One shift for all where the type holds the smallest exponential there may be, exp(-2 (1 + beta) / t);
    /// else each anchor's largest similarities, by a pass of their own.
    pub fn shifts(&self) -> AnchorShifts<C> {
        let none_hierarchical = !self.split.labels && self.split.rows.iter().all(|&t| t >= C::INFINITY);
        let exponent = if none_hierarchical { 1.0 } else { 1.0 + beta(self.problem) };
        let rows = self.similarities.anchors.padded_rows;
        if one_shift_suffices::<C>(self.problem, exponent) {
            return AnchorShifts::ones(rows);
        }
        let mut maxima = vec![[C::NEG_INFINITY; 2]; rows];
        let all = Shared::new(&mut maxima);
        self.for_each_tile(|similarities, tile, a, b| {
            // SAFETY: the schedule gives both blocks to this call alone; they are one where b is not used.
            let (rows, columns) = unsafe { two_blocks(&all, a, b, &tile) };
            similarities.isa.run(Maxima { tile, rows, columns });
        });
        // An empty set has no terms, and any shift does.
        let finite =
            |set: usize| maxima.iter().map(|m| if m[set] > C::NEG_INFINITY { m[set] } else { C::ONE }).collect();
        AnchorShifts { shared: false, global: finite(0), hierarchical: finite(1) }
    }

    /// The sums over each anchor's negatives.
    pub fn sums(&self, shifts: &AnchorShifts<C>) -> Vec<Sums> {
        let exponents = exponents(self.problem, shifts.shared);
        let mut sums = vec![[0.0; SUMS]; self.similarities.anchors.padded_rows];
        let all = Shared::new(&mut sums);
        self.for_each_tile(|similarities, tile, a, b| {
            let size = similarities.tile;
            let row_shifts = shifts.part(a * size, size);
            let column_shifts = shifts.part(self.column_block(a, b) * size, size);
            // SAFETY: as in `shifts`.
            let (rows, columns) = unsafe { two_blocks(&all, a, b, &tile) };
            similarities.isa.run(Sum { tile, exponents, row_shifts, column_shifts, rows, columns });
        });
        self.name(&sums, shifts)
    }

    /// The sums with their names.
    pub fn name(&self, sums: &[[f64; SUMS]], shifts: &AnchorShifts<C>) -> Vec<Sums> {
        (0..self.problem.anchors)
            .map(|anchor| {
                let [global, weighted, weights, hierarchical] = sums[anchor];
                let excluded = match self.problem.pairing {
                    Pairing::Apart => 0,
                    Pairing::Views { views, .. } => views,
                    Pairing::Towers => self.problem.keys / 2 + 1,
                    Pairing::Indexed { .. } => self.similarities.pairs.excluded_once(anchor).count(),
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

/// The parts of an anchors' array that belong to the rows of a tile, and to its columns where it has both sides.
///
/// # Safety
/// No other thread has the blocks `a` and (where the tile has both sides) `b` at the same time.
#[allow(clippy::mut_from_ref)] // as `Shared::slice`
unsafe fn two_blocks<'a, T, C>(
    all: &'a Shared<T>,
    a: usize,
    b: usize,
    tile: &Tile<'_, C>,
) -> (&'a mut [T], &'a mut [T]) {
    let size = tile.columns;
    let columns = if tile.both_sides { size } else { 0 };
    // SAFETY: the caller has both blocks alone; they are two where the tile has both sides, else the second is empty.
    unsafe { (all.slice(a * size, size), all.slice(b * columns, columns)) }
}
