//! The quantile of each row of similarities.

use super::products::{lanes, similarities, Lanes, TILE};
use crate::cpu::{
    for_each, Float, InstructionSet, Isa, Kernel, Schedule, Selector, Shared, UnitRows, BLOCK_COLUMNS, LANES,
};

/// Number of whole rows that are computed at a time. It is large enough to pay for reading all columns from memory.
const ROWS: usize = 64;
/// Largest length of the list of a row, or twice the number of dimensions if that is more.
const MAX_LIST: usize = 1024;

/// The `rank`-th largest similarity of each row with all rows. The similarity of a row with itself is exactly 1.
pub fn row_quantiles<C: Float>(units: &UnitRows<C>, rank: usize, isa: Isa, threads: usize) -> Vec<f64> {
    let capacity = rank + (rank / 2).max(64);
    if capacity <= MAX_LIST.max(2 * units.dims) {
        by_pairs(units, rank, capacity, isa, threads)
    } else {
        by_rows(units, rank, isa, threads)
    }
}

/// Computes whole rows, so each pair is visited twice.
fn by_rows<C: Float>(units: &UnitRows<C>, rank: usize, isa: Isa, threads: usize) -> Vec<f64> {
    let mut quantiles = vec![0.0; units.rows];
    let shared = Shared::new(&mut quantiles);
    // Rows are longer than needed by a block, because rows that are a power of two apart would use few sets of the
    // cache.
    let stride = units.padded_rows + BLOCK_COLUMNS;
    let state = || (vec![C::ZERO; ROWS * stride], Selector::new(rank, isa));
    for_each(threads, units.rows.div_ceil(ROWS), state, |(scratch, selector), chunk| {
        let start = chunk * ROWS;
        similarities(units, isa, (start, ROWS), (0, units.padded_rows), scratch, stride);
        // SAFETY: The chunks do not overlap, and `quantiles` is borrowed until the loop ends.
        let quantiles = unsafe { shared.slice(start, ROWS.min(units.rows - start)) };
        for (i, quantile) in quantiles.iter_mut().enumerate() {
            let row = &mut scratch[i * stride..][..units.rows];
            row[start + i] = C::ONE;
            *quantile = selector.select(row).to_f64();
        }
    });
    quantiles
}

/// Visits each pair once, for both of its rows. Each row has a list of up to `capacity` candidates for its largest
/// numbers.
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
        // SAFETY: The vectors are borrowed until the loop ends. The schedule gives a block to only one call at a time,
        // and a call takes each of its blocks once.
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

/// Lists of the largest numbers of some neighbouring rows.
struct LargestLists<'a, C> {
    /// Number of largest numbers that are wanted for each row.
    rank: usize,
    /// Capacity of a list, more than `rank`.
    capacity: usize,
    /// The lists, [rows][capacity].
    values: &'a mut [C],
    /// The lengths of the lists, [rows].
    counts: &'a mut [u32],
    /// Lower bounds, [rows]. Numbers up to the bound are not needed.
    bounds: &'a mut [C],
}

impl<C: Float> LargestLists<'_, C> {
    /// Adds a number. A full list is first reduced to its `rank` largest numbers.
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

    /// The `rank`-th largest number of a list. Moves the larger numbers before it.
    #[inline(never)]
    fn smallest(&mut self, row: usize) -> C {
        let list = &mut self.values[row * self.capacity..][..self.counts[row] as usize];
        *list.select_nth_unstable_by(self.rank - 1, C::descending).1
    }
}

/// Adds the similarities of a tile to the lists of its rows and of its columns.
struct Collect<'a, C> {
    /// The similarities, [TILE][TILE].
    similarities: &'a [C],
    /// Number of rows without padding.
    rows: usize,
    /// Number of columns without padding.
    columns: usize,
    /// The lists of the rows.
    own: LargestLists<'a, C>,
    /// The lists of the columns. None on the diagonal, where the columns are the rows.
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

/// Whether any of the numbers is above the bound of the row or of its column.
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
