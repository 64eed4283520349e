//! The quantile of each row's similarities.

use super::products::{lanes, similarities, Lanes, TILE};
use crate::cpu::{
    for_each, Float, InstructionSet, Isa, Kernel, Schedule, Selector, Shared, UnitRows, BLOCK_COLUMNS, LANES,
};

/// Rows computed at a time where rows are looked at whole: as many as pay for fetching all columns from memory once.
const ROWS: usize = 64;
/// Numbers that each row may have a list of, or twice its dimensions where that is more.
const MAX_LIST: usize = 1024;

/// The `rank`-th largest of each row's similarities with all rows, its own counting as exactly 1.
pub fn row_quantiles<C: Float>(units: &UnitRows<C>, rank: usize, isa: Isa, threads: usize) -> Vec<f64> {
    let capacity = rank + (rank / 2).max(64);
    if capacity <= MAX_LIST.max(2 * units.dims) {
        by_pairs(units, rank, capacity, isa, threads)
    } else {
        by_rows(units, rank, isa, threads)
    }
}

/// With a look at each row as a whole: each pair is looked at twice.
fn by_rows<C: Float>(units: &UnitRows<C>, rank: usize, isa: Isa, threads: usize) -> Vec<f64> {
    let mut quantiles = vec![0.0; units.rows];
    let shared = Shared::new(&mut quantiles);
    // A block more than there are columns: rows a power of two apart would share few of the cache's sets.
    let stride = units.padded_rows + BLOCK_COLUMNS;
    let state = || (vec![C::ZERO; ROWS * stride], Selector::new(rank, isa));
    for_each(threads, units.rows.div_ceil(ROWS), state, |(scratch, selector), chunk| {
        let start = chunk * ROWS;
        similarities(units, isa, (start, ROWS), (0, units.padded_rows), scratch, stride);
        // SAFETY: chunks are disjoint, and `quantiles` outlives the loop.
        let quantiles = unsafe { shared.slice(start, ROWS.min(units.rows - start)) };
        for (i, quantile) in quantiles.iter_mut().enumerate() {
            let row = &mut scratch[i * stride..][..units.rows];
            row[start + i] = C::ONE;
            *quantile = selector.select(row).to_f64();
        }
    });
    quantiles
}

/// With one look at each pair, for both of its rows: each has a list of `capacity` numbers that may be its largest.
fn by_pairs<C: Float>(units: &UnitRows<C>, rank: usize, capacity: usize, isa: Isa, threads: usize) -> Vec<f64> {
    let rows = units.padded_rows;
    let mut lists = LargestLists {
        rank,
        capacity,
        values: &mut vec![C::ZERO; rows * capacity],
        counts: &mut vec![0; rows],
        bounds: &mut vec![C::NEG_INFINITY; rows],
    };
    for row in 0..units.rows {
        lists.push(row, C::ONE);
    }
    let (values, counts, bounds) = (Shared::new(lists.values), Shared::new(lists.counts), Shared::new(lists.bounds));
    let block = |block: usize| {
        let start = block * TILE;
        // SAFETY: the vectors outlive the loop, in which no other call has one of its blocks.
        let (values, counts, bounds) = unsafe {
            (values.slice(start * capacity, TILE * capacity), counts.slice(start, TILE), bounds.slice(start, TILE))
        };
        LargestLists { rank, capacity, values, counts, bounds }
    };
    Schedule::triangle(rows / TILE, threads).run(
        threads,
        || vec![C::ZERO; TILE * TILE],
        |scratch, a, b| {
            similarities(units, isa, (a * TILE, TILE), (b * TILE, TILE), scratch, TILE);
            isa.run(Collect {
                similarities: scratch,
                rows: TILE.min(units.rows - a * TILE),
                columns: TILE.min(units.rows.saturating_sub(b * TILE)),
                own: block(a),
                other: (a != b).then(|| block(b)),
            });
        },
    );
    (0..units.rows).map(|row| lists.smallest(row).to_f64()).collect()
}

/// The largest numbers of neighbouring rows, so far.
struct LargestLists<'a, C> {
    /// How many of each row are wanted.
    rank: usize,
    /// Length of a list, more than `rank`.
    capacity: usize,
    /// [rows][capacity]
    values: &'a mut [C],
    /// [rows] numbers in the lists.
    counts: &'a mut [u32],
    /// [rows] no number up to this one is among the largest.
    bounds: &'a mut [C],
}

impl<C: Float> LargestLists<'_, C> {
    /// Adds a number. A full list is cut to the largest first.
    #[inline(always)]
    fn push(&mut self, row: usize, value: C) {
        if value > self.bounds[row] {
            if self.counts[row] as usize == self.capacity {
                self.bounds[row] = self.smallest(row);
                self.counts[row] = self.rank as u32;
            }
            self.values[row * self.capacity + self.counts[row] as usize] = value;
            self.counts[row] += 1;
        }
    }

    /// The `rank`-th largest number of a list, with those larger brought before it.
    #[inline(never)]
    fn smallest(&mut self, row: usize) -> C {
        let list = &mut self.values[row * self.capacity..][..self.counts[row] as usize];
        *list.select_nth_unstable_by(self.rank - 1, C::descending).1
    }
}

/// Brings a tile's similarities to the lists of its rows and of its columns.
struct Collect<'a, C> {
    /// [TILE][TILE]
    similarities: &'a [C],
    /// Rows without the padding.
    rows: usize,
    /// Columns without the padding.
    columns: usize,
    /// LargestLists of the rows.
    own: LargestLists<'a, C>,
    /// LargestLists of the columns; none on the diagonal, where these are the rows.
    other: Option<LargestLists<'a, C>>,
}

impl<C: Float> Kernel for Collect<'_, C> {
    #[inline(always)]
    fn run<S: InstructionSet>(mut self) {
        for (row, similarities) in self.similarities.chunks_exact(TILE).enumerate().take(self.rows) {
            let first = if self.other.is_none() { row + 1 } else { 0 };
            for Lanes { start, valid } in Lanes::between(first, self.columns) {
                let group = lanes(similarities, start);
                let bounds = self.other.as_ref().map_or(&*self.own.bounds, |other| &*other.bounds);
                if any_above(group, self.own.bounds[row], lanes(bounds, start)) {
                    for l in valid {
                        self.own.push(row, group[l]);
                        self.other.as_mut().unwrap_or(&mut self.own).push(start + l, group[l]);
                    }
                }
            }
        }
    }
}

/// Is any of the numbers above the row's bound, or above its column's?
#[inline(always)]
fn any_above<C: Float>(numbers: &[C; LANES], row: C, columns: &[C; LANES]) -> bool {
    let mut any = false;
    for l in 0..LANES {
        any |= numbers[l] > row;
        any |= numbers[l] > columns[l];
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Rows;
    use crate::error::Input;

    #[test]
    fn both_ways_find_the_same() {
        let (rows, dims) = (700, 9);
        let data: Vec<f32> = (0..rows * dims).map(|i| ((i * i + 7 * i) % 1009) as f32 - 400.0).collect();
        for isa in Isa::all() {
            let units = UnitRows::new(Input::Anchors, &[Rows::from_slice(&data, dims)], TILE, isa, 2);
            let Ok(units) = units else { unreachable!("no row is zero") };
            for rank in [1, 2, 8, 70, 350, 700] {
                let expected = by_rows(&units, rank, isa, 2);
                for capacity in [rank + 1, rank + 64] {
                    assert_eq!(by_pairs(&units, rank, capacity, isa, 3), expected, "{isa:?}, rank {rank}");
                }
            }
        }
    }
}
