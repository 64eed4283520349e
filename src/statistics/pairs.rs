//! Statistics that visit each pair of rows once: counts above a threshold, and histograms.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use super::groups::Groups;
use super::products::{lanes, similarities, Lanes, TILE};
use super::{ByGroup, GROUPS};
use crate::cpu::{for_each, Float, InstructionSet, Isa, Kernel, UnitRows, LANES};

/// Largest number of bins of a histogram.
pub const MAX_BINS: usize = 10_000;
/// Number of counters for each bin. Neighbours often fall into the same bin, and updates of one counter would have to
/// wait for each other.
const COPIES: usize = 4;

/// The counts.
pub struct Tally {
    /// The number of negatives above the threshold, [rows].
    pub above: Vec<ByGroup<u32>>,
    /// The number of pairs, [group][bin].
    pub histogram: ByGroup<Vec<u64>>,
}

/// Counts the similarities above `threshold` of each row, and sorts all similarities into `bins` bins. The counts are
/// integers, so the order of the threads does not matter.
pub fn tally<C: Float>(
    units: &UnitRows<C>,
    groups: &Groups,
    threshold: f64,
    bins: usize,
    isa: Isa,
    threads: usize,
) -> Tally {
    let (classes, superclasses) = groups.numbers(units.padded_rows);
    let above: Vec<ByGroup<AtomicU32>> = (0..units.rows).map(|_| ByGroup::default()).collect();
    let histogram = Mutex::new(vec![0u64; GROUPS * bins]);
    let blocks = units.padded_rows / TILE;
    let state = || (vec![C::ZERO; TILE * TILE], vec![0u32; COPIES * GROUPS * bins]);
    for_each(threads, blocks, state, |(scratch, counters), block| {
        let row = block * TILE;
        for column in (row..units.padded_rows).step_by(TILE) {
            similarities(units, isa, (row, TILE), (column, TILE), scratch, TILE);
            isa.run(TallyTile {
                similarities: scratch,
                row,
                column,
                rows: units.rows,
                classes: &classes,
                superclasses: &superclasses,
                threshold: C::from_f64(threshold),
                exact: threshold,
                bins,
                counters,
                above: &above,
            });
        }
        // The counters of a block hold at most 128 N pairs. They are emptied before they can overflow.
        let mut histogram = histogram.lock().unwrap_or_else(PoisonError::into_inner);
        for copy in counters.chunks_exact_mut(GROUPS * bins) {
            for (sum, counter) in histogram.iter_mut().zip(copy) {
                *sum += u64::from(std::mem::take(counter));
            }
        }
    });
    let histogram = histogram.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut by_group = histogram.chunks_exact(bins).map(<[u64]>::to_vec);
    Tally {
        above: above.into_iter().map(|row| row.map(AtomicU32::into_inner)).collect(),
        histogram: std::array::from_fn(|_| by_group.next().unwrap_or_default()),
    }
}

/// Counts the similarities of one tile.
struct TallyTile<'a, C> {
    /// The similarities, [TILE][TILE].
    similarities: &'a [C],
    /// First row.
    row: usize,
    /// First column, at least `row`. A tile on the diagonal counts only the pairs above the diagonal.
    column: usize,
    /// Number of rows without padding.
    rows: usize,
    classes: &'a [u32],
    superclasses: &'a [u32],
    /// The threshold, rounded to the type of the similarities.
    threshold: C,
    /// The exact threshold.
    exact: f64,
    bins: usize,
    counters: &'a mut [u32],
    above: &'a [ByGroup<AtomicU32>],
}

impl<C: Float> Kernel for TallyTile<'_, C> {
    #[inline(always)]
    fn run<S: InstructionSet>(self) {
        let columns = TILE.min(self.rows.saturating_sub(self.column));
        let classes = &self.classes[self.column..][..TILE];
        let superclasses = &self.superclasses[self.column..][..TILE];
        for (r, similarities) in self.similarities.chunks_exact(TILE).enumerate() {
            let row = self.row + r;
            if row >= self.rows {
                break;
            }
            let own = (self.classes[row], self.superclasses[row]);
            let first = if self.row == self.column { r + 1 } else { 0 };
            for Lanes { start, valid } in Lanes::between(first, columns) {
                let neighbours = Neighbours {
                    similarities: lanes(similarities, start),
                    kinds: kinds(own, lanes(classes, start), lanes(superclasses, start)),
                };
                neighbours.count(self.bins, self.counters, valid.clone());
                if neighbours.any_at_least(self.threshold) {
                    for l in valid.filter(|&l| neighbours.similarities[l].to_f64() > self.exact) {
                        let kind = neighbours.kinds[l] as usize;
                        self.above[row][kind].fetch_add(1, Ordering::Relaxed);
                        self.above[self.column + start + l][kind].fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }
}

/// Some neighbouring similarities of a row, and the groups of these negatives.
struct Neighbours<'a, C> {
    similarities: &'a [C; LANES],
    kinds: [u32; LANES],
}

impl<C: Float> Neighbours<'_, C> {
    /// Counts the similarities in `valid` in their bins.
    #[inline(always)]
    fn count(&self, bins: usize, counters: &mut [u32], valid: std::ops::Range<usize>) {
        let half = bins as f64 / 2.0;
        let last = bins as u32 - 1;
        let mut places = [0u32; LANES];
        for ((place, kind), c) in places.iter_mut().zip(&self.kinds).zip(self.similarities) {
            // Rounding may leave [-1, 1] slightly. The conversion saturates at 0, and `min` limits to the last bin.
            let bin = (c.to_f64() * half + half) as u32;
            *place = kind * bins as u32 + bin.min(last);
        }
        for l in valid {
            counters[(l % COPIES) * GROUPS * bins + places[l] as usize] += 1;
        }
    }

    #[inline(always)]
    fn any_at_least(&self, threshold: C) -> bool {
        let mut any = false;
        for l in 0..LANES {
            any |= self.similarities[l] >= threshold;
        }
        any
    }
}

/// The groups of negatives of a row with the labels `own`. The group is the number of labels that differ.
#[inline(always)]
fn kinds(own: (u32, u32), classes: &[u32; LANES], superclasses: &[u32; LANES]) -> [u32; LANES] {
    let mut kinds = [0; LANES];
    for l in 0..LANES {
        kinds[l] = u32::from(classes[l] != own.0) + u32::from(superclasses[l] != own.1);
    }
    kinds
}
