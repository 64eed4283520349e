//! Similarities of some rows with some others.

use std::ops::Range;

use crate::cpu::{Block, Float, InstructionSet, Isa, Kernel, UnitRows, BLOCK_COLUMNS, BLOCK_ROWS};

/// Rows and columns of a tile.
pub const TILE: usize = 128;
/// Similarities handled together.
pub const LANES: usize = 16;

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
    assert!(rows.is_multiple_of(BLOCK_ROWS) && columns.is_multiple_of(BLOCK_COLUMNS));
    assert!(row + rows <= units.padded_rows && column + columns <= units.padded_rows);
    assert!(out.len() >= (rows - 1) * stride + columns);
    isa.run(Products { units, row, rows, column, columns, out, stride });
}

struct Products<'a, C: Float> {
    units: &'a UnitRows<C>,
    row: usize,
    rows: usize,
    column: usize,
    columns: usize,
    out: &'a mut [C],
    stride: usize,
}

impl<C: Float> Kernel for Products<'_, C> {
    #[inline(always)]
    fn run<S: InstructionSet>(self) {
        let left = self.units.from(self.row);
        for column in (0..self.columns).step_by(BLOCK_COLUMNS) {
            let panel = self.units.panels_from(self.column + column);
            for row in (0..self.rows).step_by(BLOCK_ROWS) {
                // SAFETY: `similarities` checked that all rows and columns stand in the units and in `out`; a panel has
                // `dims` rows of 32.
                unsafe {
                    S::block(&Block {
                        left: left.as_ptr().add(row * self.units.padded_dims),
                        left_row: self.units.padded_dims,
                        left_depth: 1,
                        right: panel.as_ptr(),
                        right_depth: BLOCK_COLUMNS,
                        out: self.out.as_mut_ptr().add(row * self.stride + column),
                        out_row: self.stride,
                        depth: self.units.dims,
                        add: false,
                    });
                }
            }
        }
    }
}
