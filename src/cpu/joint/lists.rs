//! For each anchor, a list of the few negatives that are undecided after the pass over all similarities. They may be
//! the anchor's quantile, or may be above the threshold.

use crate::cpu::simd::{
    add, group, group_mut, lanes, Exponents, Float, Group, InstructionSet, Isa, Kernel, LANES, MAX_TILE, SUMS,
};
use crate::cpu::threads::{Shared, Spare};

/// The settings of all lists.
#[derive(Clone, Copy)]
pub struct Rule<C> {
    /// Capacity of a list.
    pub capacity: usize,
    /// The quantile of a row is its `rank`-th largest number.
    pub rank: usize,
    /// A lower bound of the threshold that almost always holds.
    pub floor: C,
    /// An upper bound of the threshold that almost always holds.
    pub ceiling: C,
    /// The exponentials.
    pub exponents: Exponents<C>,
    /// The instruction set.
    pub isa: Isa,
}

/// A list for each anchor, including the padding.
pub struct Lists<C: Float> {
    rule: Rule<C>,
    /// The lists, [rows][capacity].
    values: Spare<C>,
    counts: Vec<u32>,
    /// The cut of each row, [rows]. The sums contain the numbers up to the cut, as global negatives. Infinity if the
    /// list was too short.
    cuts: Vec<C>,
    /// The sums over the decided negatives, [rows].
    sums: Vec<[f64; SUMS]>,
}

/// [`Lists`] that several threads can use.
pub struct SharedLists<C> {
    rule: Rule<C>,
    values: Shared<C>,
    counts: Shared<u32>,
    cuts: Shared<C>,
    sums: Shared<[f64; SUMS]>,
}

/// The lists of some neighbouring rows.
pub struct Part<'a, C> {
    rule: Rule<C>,
    values: &'a mut [C],
    counts: &'a mut [u32],
    /// See [`Lists`].
    pub cuts: &'a mut [C],
    /// See [`Lists`].
    pub sums: &'a mut [[f64; SUMS]],
}

impl<C: Float> Lists<C> {
    /// Empty lists for rows with the given cuts.
    pub fn new(rule: Rule<C>, cuts: Vec<C>) -> Self {
        let rows = cuts.len();
        Self {
            rule,
            values: Spare::brief(rows * rule.capacity),
            counts: vec![0; rows],
            cuts,
            sums: vec![[0.0; SUMS]; rows],
        }
    }

    /// Shares the lists with several threads.
    pub fn share(&mut self) -> SharedLists<C> {
        SharedLists {
            rule: self.rule,
            values: Shared::new(&mut self.values),
            counts: Shared::new(&mut self.counts),
            cuts: Shared::new(&mut self.cuts),
            sums: Shared::new(&mut self.sums),
        }
    }

    /// The sums.
    pub fn into_sums(self) -> Vec<[f64; SUMS]> {
        self.sums
    }
}

impl<C: Float> SharedLists<C> {
    /// The lists of `count` rows from `start` on.
    ///
    /// # Safety
    /// As for [`Shared::slice`], for these rows of each array.
    #[allow(clippy::mut_from_ref)] // as in `Shared::slice`
    pub unsafe fn part(&self, start: usize, count: usize) -> Part<'_, C> {
        let capacity = self.rule.capacity;
        // SAFETY: By the contract of this function.
        unsafe {
            Part {
                rule: self.rule,
                values: self.values.slice(start * capacity, count * capacity),
                counts: self.counts.slice(start, count),
                cuts: self.cuts.slice(start, count),
                sums: self.sums.slice(start, count),
            }
        }
    }
}

impl<C: Float> Part<'_, C> {
    /// Adds a number to a row's list if it is above `cut`, which is the row's present cut or an earlier one.
    #[inline(always)]
    pub fn push(&mut self, row: usize, value: C, cut: C) {
        let count = self.counts[row] as usize;
        // Always write the number. The count decides whether it is kept, so there is no branch to mispredict.
        self.values[row * self.rule.capacity + count] = value;
        let count = count + usize::from(value > cut);
        self.counts[row] = count as u32;
        if count == self.rule.capacity {
            self.compact(row);
        }
    }

    /// Adds the numbers above `cut` among the first `count` numbers to a row's list. `values` must have room for
    /// another group after these numbers, which is overwritten.
    #[inline(always)]
    fn append<S: InstructionSet>(&mut self, row: usize, values: &mut [C], count: usize, cut: C) {
        let capacity = self.rule.capacity;
        let mut length = self.counts[row] as usize;
        if length + count + LANES > capacity {
            return values[..count].iter().for_each(|&value| self.push(row, value, cut));
        }
        *group_mut(values, count) = [C::NEG_INFINITY; LANES];
        let mut places = [0; LANES];
        for at in (0..count).step_by(LANES) {
            let list = group_mut(self.values, row * capacity + length);
            length += S::above(group(values, at), &[cut; LANES], list, &mut places);
        }
        self.counts[row] = length as u32;
    }

    /// The list of a row.
    pub fn list(&self, row: usize) -> &[C] {
        &self.values[row * self.rule.capacity..][..self.counts[row] as usize]
    }

    /// Makes room in a full list. Numbers that cannot be the row's quantile, and that are outside the range of the
    /// threshold, go into the sums.
    #[cold]
    #[inline(never)]
    fn compact(&mut self, row: usize) {
        let Rule { capacity, rank, floor, ceiling, .. } = self.rule;
        let list = &mut self.values[row * capacity..][..capacity];
        let (_, &mut found, rest) = list.select_nth_unstable_by(rank - 1, C::descending);
        self.rule.fold(rest, floor, ceiling, &mut self.sums[row]);
        let undecided = keep_undecided(rest, floor, ceiling);
        let count = rank + undecided;
        if count > capacity - capacity / 8 {
            // The list would soon be full again.
            self.counts[row] = 0;
            self.cuts[row] = C::INFINITY;
        } else {
            self.counts[row] = count as u32;
            self.cuts[row] = if found < floor { found } else { floor };
        }
    }

    /// Replaces a row's sums by those over all its numbers. Minus infinity marks a key that is not a negative.
    pub fn replace(&mut self, row: usize, values: &[C], threshold: C) {
        self.sums[row] = [0.0; SUMS];
        self.rule.fold(values, threshold, threshold, &mut self.sums[row]);
    }

    /// Adds all numbers of the list to the sums, split by the threshold.
    pub fn finish(&mut self, row: usize, threshold: C) {
        let list = &self.values[row * self.rule.capacity..][..self.counts[row] as usize];
        self.rule.fold(list, threshold, threshold, &mut self.sums[row]);
    }
}

impl<C: Float> Rule<C> {
    /// Adds numbers up to `floor` to a row's sums as global negatives, and numbers above `ceiling` as hierarchical
    /// ones.
    fn fold(&self, values: &[C], floor: C, ceiling: C, sums: &mut [f64; SUMS]) {
        self.isa.run(Fold { values, floor, ceiling, exponents: self.exponents, sums });
    }
}

/// Moves the numbers between `floor` and `ceiling` to the front. Returns their count.
fn keep_undecided<C: Float>(values: &mut [C], floor: C, ceiling: C) -> usize {
    let mut kept = 0;
    for i in 0..values.len() {
        let value = values[i];
        values[kept] = value;
        kept += usize::from(value > floor && value <= ceiling);
    }
    kept
}

/// See [`Rule::fold`].
struct Fold<'a, C> {
    values: &'a [C],
    floor: C,
    ceiling: C,
    exponents: Exponents<C>,
    sums: &'a mut [f64; SUMS],
}

impl<C: Float> Kernel for Fold<'_, C> {
    #[inline(always)]
    fn run<S: InstructionSet>(self) {
        let Self { values, floor, ceiling, exponents, sums } = self;
        let [mut global, mut weighted, mut weights, mut count] = [[C::ZERO; LANES]; SUMS];
        let mut last = [C::NEG_INFINITY; LANES];
        let (whole, rest) = values.as_chunks::<LANES>();
        last[..rest.len()].copy_from_slice(rest);
        for at in 0..=whole.len() {
            let c = whole.get(at).unwrap_or(&last);
            let plain = exponents.plain::<S::Arithmetic, true>(c, |_| C::ONE);
            let terms = exponents.weighted::<S::Arithmetic, true>(c, &plain, |_| C::ONE);
            add(&mut global, &lanes(|l| if c[l] <= floor { plain[l] } else { C::ZERO }));
            add(&mut weighted, &lanes(|l| if c[l] > ceiling { terms.weighted[l] } else { C::ZERO }));
            add(&mut weights, &lanes(|l| if c[l] > ceiling { terms.weights[l] } else { C::ZERO }));
            add(&mut count, &lanes(|l| if c[l] > ceiling { C::ONE } else { C::ZERO }));
        }
        for (sum, lanes) in sums.iter_mut().zip([global, weighted, weights, count]) {
            *sum += total(&lanes).to_f64();
        }
    }
}

/// The sum of a group, by repeated halving.
#[inline(always)]
fn total<C: Float>(group: &Group<C>) -> C {
    let mut sums = *group;
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            sums[l] += sums[l + half];
        }
    }
    sums[0]
}

/// Visits a tile once for its rows and, if it also stands for its transpose, for its columns. Adds the numbers up to
/// the cuts to the sums, and appends the others to the lists.
pub struct Sift<'a, 'l, C> {
    /// The rows of numbers, `column_count` apart.
    pub similarities: &'a [C],
    /// Number of rows.
    pub row_count: usize,
    /// Number of columns, a multiple of `LANES`.
    pub column_count: usize,
    /// The lists of the rows.
    pub rows: Part<'l, C>,
    /// The lists of the columns, if the tile stands for its transpose too.
    pub columns: Option<Part<'l, C>>,
}

impl<C: Float> Kernel for Sift<'_, '_, C> {
    #[inline(always)]
    fn run<S: InstructionSet>(self) {
        let Self { similarities, row_count, column_count, rows, columns } = self;
        match columns {
            Some(columns) => sift::<C, S, true>(similarities, row_count, column_count, rows, columns),
            None => {
                let none = Part { rule: rows.rule, values: &mut [], counts: &mut [], cuts: &mut [], sums: &mut [] };
                sift::<C, S, false>(similarities, row_count, column_count, rows, none);
            }
        }
    }
}

#[inline(always)]
fn sift<C: Float, S: InstructionSet, const BOTH: bool>(
    similarities: &[C],
    row_count: usize,
    column_count: usize,
    mut rows: Part<'_, C>,
    mut columns: Part<'_, C>,
) {
    let exponents = rows.rule.exponents;
    assert!(column_count <= MAX_TILE && (!BOTH || columns.cuts.len() >= column_count));
    let mut column_sums = [C::ZERO; MAX_TILE];
    // The numbers of a row that are above its cut or above the cut of their column, and their columns.
    let mut values = [C::ZERO; MAX_TILE + LANES];
    let mut places = [0u32; MAX_TILE + LANES];
    for row in 0..row_count {
        let cut = rows.cuts[row];
        let mut sums = [C::ZERO; LANES];
        let mut kept = 0;
        for column in (0..column_count).step_by(LANES) {
            let c = group(similarities, row * column_count + column);
            let plain = exponents.plain::<S::Arithmetic, true>(c, |_| C::ONE);
            add(&mut sums, &lanes(|l| if c[l] <= cut { plain[l] } else { C::ZERO }));
            let mut bounds = [cut; LANES];
            if BOTH {
                let cuts = group(columns.cuts, column);
                let sums = group_mut(&mut column_sums, column);
                add(sums, &lanes(|l| if c[l] <= cuts[l] { plain[l] } else { C::ZERO }));
                bounds = lanes(|l| if cuts[l] < cut { cuts[l] } else { cut });
            }
            let places = group_mut(&mut places, kept);
            let found = S::above(c, &bounds, group_mut(&mut values, kept), places);
            for place in places {
                *place += column as u32;
            }
            kept += found;
        }
        if BOTH {
            for (&value, &column) in values[..kept].iter().zip(&places[..kept]) {
                let column = column as usize;
                columns.push(column, value, columns.cuts[column]);
            }
        }
        rows.append::<S>(row, &mut values, kept, cut);
        rows.sums[row][0] += total(&sums).to_f64();
    }
    if BOTH {
        for (out, &sum) in columns.sums.iter_mut().zip(&column_sums) {
            out[0] += sum.to_f64();
        }
    }
}
