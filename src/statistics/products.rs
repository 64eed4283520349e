//! Similarities of a block of rows with another block of rows.

use std::ops::Range;

use crate::cpu::{Float, Isa, Products, UnitRows, LANES};

/// Number of rows and columns of a tile.
pub const TILE: usize = 128;
/// A group of `LANES` neighbouring columns.
pub struct Lanes {
    /// The first column, a multiple of `LANES`.
    pub start: usize,
    /// The columns to use, relative to `start`.
    pub valid: Range<usize>,
}

impl Lanes {
    /// The groups that contain the columns from `first` up to `end`.
    #[inline(always)]
    pub fn between(first: usize, end: usize) -> impl Iterator<Item = Self> {
        (first / LANES * LANES..end)
            .step_by(LANES)
            .map(move |start| Self { start, valid: first.saturating_sub(start)..LANES.min(end - start) })
    }
}

/// The `LANES` numbers from `start` on, which is a multiple of `LANES`.
#[inline(always)]
pub fn lanes<T>(slice: &[T], start: usize) -> &[T; LANES] {
    let (groups, _) = slice.as_chunks::<LANES>();
    &groups[start / LANES]
}

/// Writes the similarities of the rows `row` to `row + rows` (multiples of 8) with the rows `column` to `column +
/// columns` (multiples of 32) to `out`, whose rows are `stride` apart. A similarity has the same bits in every call.
pub fn similarities<C: Float>(
    units: &UnitRows<C>,
    isa: Isa,
    (row, rows): (usize, usize),
    (column, columns): (usize, usize),
    out: &mut [C],
    stride: usize,
) {
    assert!(row + rows <= units.padded_rows && column + columns <= units.padded_rows);
    isa.run(Products {
        left: units.from(row),
        left_row: units.padded_dims,
        rows,
        panels: units.panels_from(column),
        dims: units.dims,
        columns,
        out,
        stride,
    });
}
