//! Similarities of some rows with some others.

use std::ops::Range;

use crate::cpu::{Float, Isa, Products, UnitRows, LANES};

/// Rows and columns of a tile.
pub const TILE: usize = 128;
/// Some neighbouring columns, `LANES` of them.
pub struct Lanes {
    /// The first, a multiple of `LANES`.
    pub start: usize,
    /// Those to look at.
    pub valid: Range<usize>,
}

impl Lanes {
    /// The columns from `first` up to `end`.
    #[inline(always)]
    pub fn between(first: usize, end: usize) -> impl Iterator<Item = Self> {
        (first / LANES * LANES..end)
            .step_by(LANES)
            .map(move |start| Self { start, valid: first.saturating_sub(start)..LANES.min(end - start) })
    }
}

/// The numbers from `start`, a multiple of `LANES`, on.
#[inline(always)]
pub fn lanes<T>(slice: &[T], start: usize) -> &[T; LANES] {
    let (groups, _) = slice.as_chunks::<LANES>();
    &groups[start / LANES]
}

/// Writes the similarities of the rows `row` to `row + rows` (multiples of 8) with the rows `column` to
/// `column + columns` (multiples of 32) to `out`, rows `stride` apart. Each has the same bits wherever it is computed.
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
