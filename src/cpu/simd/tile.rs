//! The kernels for one tile of similarities: maxima, sums over the negatives, derivatives.
//!
//! A tile holds anchors i by keys j. In a square problem it also stands for (j, i), and every kernel visits each
//! similarity once for row i and row j. Pairs that are not negatives hold minus infinity, whose exponential is 0, and
//! which is above no threshold.

use super::float::{Float, MultiplyAdd};
use super::instruction_set::{InstructionSet, Kernel};
use super::lanes::{add, group, group_mut, lanes, Group, LANES};

/// Largest number of rows and columns of a tile.
pub const MAX_TILE: usize = 128;

/// A tile, and the numbers that decide which of its negatives are hierarchical.
#[derive(Clone, Copy)]
pub struct Tile<'a, C> {
    /// The rows of similarities, `stride` apart.
    pub similarities: &'a [C],
    /// Distance from one row to the next, in elements.
    pub stride: usize,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns, a multiple of `LANES`. Columns after the last key hold minus infinity.
    pub columns: usize,
    /// Whether the tile also stands for its transpose.
    pub both_sides: bool,
    /// Whether the splits are labels. A negative is then hierarchical if its label is the anchor's. Otherwise the
    /// splits are thresholds, and a negative is hierarchical if its similarity is above.
    pub labels: bool,
    /// Whether all splits are the same threshold.
    pub one_split: bool,
    /// The split of each row.
    pub row_split: &'a [C],
    /// The split of each column.
    pub column_split: &'a [C],
}

impl<C: Float> Tile<'_, C> {
    #[inline(always)]
    fn group(&self, row: usize, column: usize) -> &Group<C> {
        group(self.similarities, row * self.stride + column)
    }
}

/// Whether a negative is hierarchical for the anchor with the split `own`.
#[inline(always)]
fn is_hierarchical<C: Float, const LABELS: bool>(similarity: C, own: C, other: C) -> bool {
    if LABELS {
        similarity > C::NEG_INFINITY && own == other
    } else {
        similarity > own
    }
}

/// 1 for the hierarchical negatives of a group, 0 for all others. It is used as a factor: the exponentials of both sets
/// are finite, and the compiler reliably turns products into vector code.
#[inline(always)]
fn hierarchical<C: Float, const LABELS: bool>(
    c: &Group<C>,
    own: impl Fn(usize) -> C,
    other: impl Fn(usize) -> C,
) -> Group<C> {
    lanes(|l| if is_hierarchical::<C, LABELS>(c[l], own(l), other(l)) { C::ONE } else { C::ZERO })
}

/// Whether a group has a hierarchical negative, for the row or (if `both`) for its columns.
#[inline(always)]
fn any_hierarchical<C: Float, const LABELS: bool>(c: &Group<C>, row: C, columns: &Group<C>, both: bool) -> bool {
    let mut any = false;
    for l in 0..LANES {
        any |= is_hierarchical::<C, LABELS>(c[l], row, columns[l]);
        if both {
            any |= is_hierarchical::<C, LABELS>(c[l], columns[l], row);
        }
    }
    any
}

/// The numbers that are subtracted from similarities before the exponential, one for each row or column.
#[derive(Clone, Copy)]
pub struct Shifts<'a, C> {
    /// For the global negatives.
    pub global: &'a [C],
    /// For the hierarchical negatives.
    pub hierarchical: &'a [C],
}

/// The exponentials of a problem.
#[derive(Clone, Copy)]
pub struct Exponents<C> {
    /// 1 / temperature
    pub inverse_temperature: C,
    /// beta / temperature
    pub concentration: C,
    /// Whether beta is 1. The weights are then the plain exponentials.
    pub beta_is_one: bool,
    /// Whether all shifts are 1. A row and a column then share one exponential.
    pub shared: bool,
}

impl<C: Float> Exponents<C> {
    /// exp((c - shift) / t). With separate shifts it is at most 1: a similarity above the shift belongs to the other
    /// set.
    #[inline(always)]
    pub fn plain<M: MultiplyAdd, const SHARED: bool>(&self, c: &Group<C>, shifts: impl Fn(usize) -> C) -> Group<C> {
        lanes(|l| (below::<C, SHARED>(c[l] - shifts(l)) * self.inverse_temperature).exponential::<M>())
    }
}

/// Limits a difference to at most 0, unless the shifts are shared. A shared shift of 1 is exceeded only by rounding.
#[inline(always)]
fn below<C: Float, const SHARED: bool>(difference: C) -> C {
    if SHARED || difference < C::ZERO {
        difference
    } else {
        C::ZERO
    }
}

/// The exponentials of a group of hierarchical negatives, for the row or for the columns.
pub struct Weighted<C> {
    /// exp(beta (c - shift) / t)
    pub weights: Group<C>,
    /// exp((1 + beta) (c - shift) / t)
    pub weighted: Group<C>,
}

impl<C: Float> Exponents<C> {
    /// The exponentials of a group. If the shifts are shared, `plain` must be exp((c - 1) / t).
    #[inline(always)]
    pub fn weighted<M: MultiplyAdd, const SHARED: bool>(
        &self,
        c: &Group<C>,
        plain: &Group<C>,
        shifts: impl Fn(usize) -> C,
    ) -> Weighted<C> {
        let plain = if SHARED { *plain } else { self.plain::<M, SHARED>(c, &shifts) };
        let weights = if self.beta_is_one {
            plain
        } else {
            lanes(|l| (below::<C, SHARED>(c[l] - shifts(l)) * self.concentration).exponential::<M>())
        };
        Weighted { weights, weighted: lanes(|l| plain[l] * weights[l]) }
    }
}

/// Runs `$sweep` with the flags of the tile as constants: labels, both sides, shared shifts.
macro_rules! with_constants {
    ($tile:expr, $shared:expr, $self:ident.$sweep:ident::<$set:ident>()) => {
        match ($tile.labels, $tile.both_sides, $shared) {
            (false, false, false) => $self.$sweep::<$set, false, false, false>(),
            (false, false, true) => $self.$sweep::<$set, false, false, true>(),
            (false, true, false) => $self.$sweep::<$set, false, true, false>(),
            (false, true, true) => $self.$sweep::<$set, false, true, true>(),
            (true, false, false) => $self.$sweep::<$set, true, false, false>(),
            (true, false, true) => $self.$sweep::<$set, true, false, true>(),
            (true, true, false) => $self.$sweep::<$set, true, true, false>(),
            (true, true, true) => $self.$sweep::<$set, true, true, true>(),
        }
    };
}

/// Updates the largest global and the largest hierarchical similarity of each row and of each column.
pub struct Maxima<'a, C> {
    /// The tile.
    pub tile: Tile<'a, C>,
    /// The maxima of the rows so far: global, hierarchical.
    pub rows: &'a mut [[C; 2]],
    /// The maxima of the columns so far, if the tile has both sides.
    pub columns: &'a mut [[C; 2]],
}

impl<C: Float> Kernel for Maxima<'_, C> {
    #[inline(always)]
    fn run<S: InstructionSet>(self) {
        if self.tile.labels {
            self.sweep::<true>();
        } else {
            self.sweep::<false>();
        }
    }
}

impl<C: Float> Maxima<'_, C> {
    #[inline(always)]
    fn sweep<const LABELS: bool>(self) {
        let Self { tile, rows, columns } = self;
        for row in 0..tile.rows {
            for column in 0..tile.columns {
                let c = tile.similarities[row * tile.stride + column];
                let (own, other) = (tile.row_split[row], tile.column_split[column]);
                let best = &mut rows[row][usize::from(is_hierarchical::<C, LABELS>(c, own, other))];
                *best = best.larger(c);
                if tile.both_sides {
                    let best = &mut columns[column][usize::from(is_hierarchical::<C, LABELS>(c, other, own))];
                    *best = best.larger(c);
                }
            }
        }
    }
}

/// Number of sums over the negatives: global, weighted, weights, count, as in `formula::Sums`.
pub const SUMS: usize = 4;

/// Adds a tile to the sums of its rows and of its columns.
pub struct Sum<'a, C> {
    /// The tile.
    pub tile: Tile<'a, C>,
    /// Its exponentials.
    pub exponents: Exponents<C>,
    /// Shifts of the rows.
    pub row_shifts: Shifts<'a, C>,
    /// Shifts of the columns.
    pub column_shifts: Shifts<'a, C>,
    /// The sums of the rows so far.
    pub rows: &'a mut [[f64; SUMS]],
    /// The sums of the columns so far, if the tile has both sides.
    pub columns: &'a mut [[f64; SUMS]],
}

impl<C: Float> Kernel for Sum<'_, C> {
    #[inline(always)]
    fn run<S: InstructionSet>(self) {
        with_constants!(self.tile, self.exponents.shared, self.sweep::<S>())
    }
}

impl<C: Float> Sum<'_, C> {
    #[inline(always)]
    fn sweep<S: InstructionSet, const LABELS: bool, const BOTH: bool, const SHARED: bool>(self) {
        let Self { tile, exponents, row_shifts, column_shifts, rows, columns } = self;
        let mut column_sums = [[C::ZERO; MAX_TILE]; SUMS];
        for row in 0..tile.rows {
            let own = tile.row_split[row];
            let (global_shift, shift) = (row_shifts.global[row], row_shifts.hierarchical[row]);
            let mut row_sums = [[C::ZERO; LANES]; SUMS];
            for column in (0..tile.columns).step_by(LANES) {
                let c = tile.group(row, column);
                let others = group(tile.column_split, column);
                let any = any_hierarchical::<C, LABELS>(c, own, others, BOTH);
                let plain = exponents.plain::<S::Arithmetic, SHARED>(c, |_| global_shift);
                if any {
                    let terms = exponents.weighted::<S::Arithmetic, SHARED>(c, &plain, |_| shift);
                    let split = hierarchical::<C, LABELS>(c, |_| own, |l| others[l]);
                    add_terms(&mut row_sums, 0, &split, &plain, &terms);
                } else {
                    add(&mut row_sums[0], &plain);
                }
                if BOTH {
                    let plain = if SHARED {
                        plain
                    } else {
                        let shifts = group(column_shifts.global, column);
                        exponents.plain::<S::Arithmetic, SHARED>(c, |l| shifts[l])
                    };
                    if any {
                        let shifts = group(column_shifts.hierarchical, column);
                        let terms = exponents.weighted::<S::Arithmetic, SHARED>(c, &plain, |l| shifts[l]);
                        let split = hierarchical::<C, LABELS>(c, |l| others[l], |_| own);
                        add_terms(&mut column_sums, column, &split, &plain, &terms);
                    } else {
                        add(group_mut(&mut column_sums[0], column), &plain);
                    }
                }
            }
            for (out, lanes) in rows[row].iter_mut().zip(&row_sums) {
                *out += lanes.iter().fold(C::ZERO, |a, &b| a + b).to_f64();
            }
        }
        if BOTH {
            for (column, out) in columns.iter_mut().enumerate() {
                for (out, sums) in out.iter_mut().zip(&column_sums) {
                    *out += sums[column].to_f64();
                }
            }
        }
    }
}

/// Adds a group to the sums at `at`. Each negative is added to the sums of its set.
#[inline(always)]
fn add_terms<C: Float, const N: usize>(
    sums: &mut [[C; N]; SUMS],
    at: usize,
    split: &Group<C>,
    plain: &Group<C>,
    terms: &Weighted<C>,
) {
    add(group_mut(&mut sums[0], at), &lanes(|l| plain[l] * (C::ONE - split[l])));
    add(group_mut(&mut sums[1], at), &lanes(|l| terms.weighted[l] * split[l]));
    add(group_mut(&mut sums[2], at), &lanes(|l| terms.weights[l] * split[l]));
    add(group_mut(&mut sums[3], at), split);
}

/// The coefficients of `formula::Anchor`, for each row or column.
#[derive(Clone, Copy)]
pub struct Coefficients<'a, C> {
    /// The coefficients of exp((c - global shift) / t).
    pub global: &'a [C],
    /// The coefficients of exp((1 + beta) (c - hierarchical shift) / t).
    pub weighted: &'a [C],
    /// The coefficients of -exp(beta (c - hierarchical shift) / t).
    pub weights: &'a [C],
}

/// Computes the derivative with respect to each similarity of a tile, of the row's loss and, if the tile has both
/// sides, of the column's loss.
pub struct Derivatives<'a, C> {
    /// The tile.
    pub tile: Tile<'a, C>,
    /// Its exponentials.
    pub exponents: Exponents<C>,
    /// Shifts of the rows.
    pub row_shifts: Shifts<'a, C>,
    /// Shifts of the columns.
    pub column_shifts: Shifts<'a, C>,
    /// Coefficients of the rows.
    pub row_coefficients: Coefficients<'a, C>,
    /// Coefficients of the columns.
    pub column_coefficients: Coefficients<'a, C>,
    /// The rows of derivatives, `out_stride` apart.
    pub out: &'a mut [C],
    /// Distance of the rows of derivatives, at least `columns`.
    pub out_stride: usize,
}

impl<C: Float> Kernel for Derivatives<'_, C> {
    #[inline(always)]
    fn run<S: InstructionSet>(self) {
        let Self { tile, exponents, .. } = &self;
        if tile.both_sides && tile.one_split && exponents.shared && exponents.beta_is_one {
            return self.sweep_one_split::<S>();
        }
        with_constants!(self.tile, self.exponents.shared, self.sweep::<S>())
    }
}

impl<C: Float> Derivatives<'_, C> {
    /// The usual case: a pair is on the same side of the threshold for both of its anchors, beta is 1, and all shifts
    /// are 1. The derivative is then a polynomial in one exponential, without a branch.
    #[inline(always)]
    fn sweep_one_split<S: InstructionSet>(self) {
        let Self { tile, exponents, row_coefficients: of_row, column_coefficients: of_column, out, out_stride, .. } =
            self;
        for row in 0..tile.rows {
            let threshold = tile.row_split[row];
            let (global_row, weighted_row, weights_row) =
                (of_row.global[row], of_row.weighted[row], of_row.weights[row]);
            for column in (0..tile.columns).step_by(LANES) {
                let c = tile.group(row, column);
                let plain = exponents.plain::<S::Arithmetic, true>(c, |_| C::ONE);
                let (global, weighted) = (group(of_column.global, column), group(of_column.weighted, column));
                let weights = group(of_column.weights, column);
                *group_mut(out, row * out_stride + column) = lanes(|l| {
                    let local = c[l] > threshold;
                    let square = if local { weighted_row + weighted[l] } else { C::ZERO };
                    let linear = if local { C::ZERO - (weights_row + weights[l]) } else { global_row + global[l] };
                    plain[l] * S::Arithmetic::multiply_add(plain[l], square, linear)
                });
            }
        }
    }

    #[inline(always)]
    fn sweep<S: InstructionSet, const LABELS: bool, const BOTH: bool, const SHARED: bool>(self) {
        let Self { tile, exponents, row_shifts, column_shifts, row_coefficients, column_coefficients, out, out_stride } =
            self;
        for row in 0..tile.rows {
            let own = tile.row_split[row];
            let (global_shift, shift) = (row_shifts.global[row], row_shifts.hierarchical[row]);
            let global_row = row_coefficients.global[row];
            let (weighted_row, weights_row) = (row_coefficients.weighted[row], row_coefficients.weights[row]);
            for column in (0..tile.columns).step_by(LANES) {
                let c = tile.group(row, column);
                let others = group(tile.column_split, column);
                let any = any_hierarchical::<C, LABELS>(c, own, others, BOTH);
                let plain_row = exponents.plain::<S::Arithmetic, SHARED>(c, |_| global_shift);
                let global_column = group(column_coefficients.global, column);
                let plain_column = if BOTH && !SHARED {
                    let shifts = group(column_shifts.global, column);
                    exponents.plain::<S::Arithmetic, SHARED>(c, |l| shifts[l])
                } else {
                    plain_row
                };
                let mut sum = if !BOTH {
                    lanes(|l| plain_row[l] * global_row)
                } else if SHARED {
                    lanes(|l| plain_row[l] * (global_row + global_column[l]))
                } else {
                    lanes(|l| plain_row[l] * global_row + plain_column[l] * global_column[l])
                };
                if any {
                    let split = hierarchical::<C, LABELS>(c, |_| own, |l| others[l]);
                    let terms = exponents.weighted::<S::Arithmetic, SHARED>(c, &plain_row, |_| shift);
                    sum = lanes(|l| {
                        let local = terms.weighted[l] * weighted_row - terms.weights[l] * weights_row;
                        local * split[l] + plain_row[l] * global_row * (C::ONE - split[l])
                    });
                    if BOTH {
                        let split = hierarchical::<C, LABELS>(c, |l| others[l], |_| own);
                        let shifts = group(column_shifts.hierarchical, column);
                        let terms = exponents.weighted::<S::Arithmetic, SHARED>(c, &plain_column, |l| shifts[l]);
                        let weighted = group(column_coefficients.weighted, column);
                        let weights = group(column_coefficients.weights, column);
                        let global = global_column;
                        sum = lanes(|l| {
                            let local = terms.weighted[l] * weighted[l] - terms.weights[l] * weights[l];
                            sum[l] + local * split[l] + plain_column[l] * global[l] * (C::ONE - split[l])
                        });
                    }
                }
                *group_mut(out, row * out_stride + column) = sum;
            }
        }
    }
}
