//! Similarities of anchors and keys, computed where they are needed: by rows for the
//! thresholds, by tiles for the rest. Small problems keep theirs in a cache of at most 16 MiB.

use super::float::Float;
use super::half_rows;
use super::isa::{InstructionSet, Isa, Kernel};
use super::pairs::Pairs;
use super::product::{Block, BLOCK_COLUMNS, BLOCK_ROWS};
use super::schedule::Schedule;
use super::threads::Shared;
use super::unit::UnitRows;

/// Keeping similarities saves a third of the work while they fit the last-level cache; beyond, fetching them
/// costs more than computing them again.
const CACHE_BYTES: usize = 16 << 20;

/// Similarities of `anchors` and `keys`.
pub struct Similarities<'a, C> {
    /// Unit rows.
    pub anchors: &'a UnitRows<C>,
    /// Unit rows; the anchors' own where the problem is square.
    pub keys: &'a UnitRows<C>,
    /// The keys are the anchors.
    pub square: bool,
    /// Pairs that are no negatives.
    pub pairs: &'a Pairs,
    /// Rows and columns of a tile.
    pub tile: usize,
    /// Instruction set.
    pub isa: Isa,
    /// Threads.
    pub threads: usize,
    /// The order of the tiles.
    pub schedule: Schedule,
    cache: Option<Vec<C>>,
}

impl<'a, C: Float> Similarities<'a, C> {
    /// Prepares the similarities, and computes them if they are to be kept. With `whole_rows`, so that
    /// [`rows`](Self::rows) can be asked for.
    pub fn new(
        anchors: &'a UnitRows<C>,
        keys: Option<&'a UnitRows<C>>,
        pairs: &'a Pairs,
        tile: usize,
        isa: Isa,
        threads: usize,
        whole_rows: bool,
    ) -> Self {
        let blocks = |rows: &UnitRows<C>| rows.padded_rows / tile;
        let schedule = match keys {
            None => Schedule::triangle(blocks(anchors), threads),
            Some(keys) => Schedule::rectangle(blocks(anchors), blocks(keys), threads),
        };
        let square = keys.is_none();
        let keys = keys.unwrap_or(anchors);
        let mut new = Self { anchors, keys, square, pairs, tile, isa, threads, schedule, cache: None };
        if anchors.padded_rows * keys.padded_rows * size_of::<C>() <= CACHE_BYTES {
            new.cache = Some(new.all(whole_rows));
        }
        new
    }

    /// All similarities, [anchors, keys] with padding; of a square problem the upper tiles, unless `whole_rows`.
    fn all(&self, whole_rows: bool) -> Vec<C> {
        let (tile, stride) = (self.tile, self.keys.padded_rows);
        let mut all = vec![C::ZERO; self.anchors.padded_rows * stride];
        let shared = Shared::new(&mut all);
        let scratch = || vec![C::ZERO; tile * tile];
        self.schedule.run(self.threads, scratch, |scratch, a, b| {
            self.compute(a * tile, tile, b * tile, tile, scratch, tile);
            // SAFETY: the tile (a, b), and its mirror image, are this call's alone: every tile is run once.
            let row_of = |row: usize, column: usize| unsafe { shared.slice(row * stride + column, tile) };
            for (r, row) in scratch.chunks_exact(tile).enumerate() {
                row_of(a * tile + r, b * tile).copy_from_slice(row);
            }
            if whole_rows && self.square && a != b {
                for c in 0..tile {
                    for (r, out) in row_of(b * tile + c, a * tile).iter_mut().enumerate() {
                        *out = scratch[r * tile + c];
                    }
                }
            }
        });
        self.set_own(0, &mut all, stride);
        all
    }

    /// Elements of scratch memory that [`rows`](Self::rows) needs for each row. A block more than there are keys:
    /// rows a power of two apart would share few of the cache's sets.
    pub fn row_scratch(&self) -> usize {
        self.keys.padded_rows + BLOCK_COLUMNS
    }

    /// The similarities of the rows `start` to `start + count` (multiples of 8) with all keys, padding included, pairs
    /// that are no negatives too, an anchor's with itself exactly 1; and the distance of the rows. Only before
    /// [`keep_negatives`](Self::keep_negatives).
    pub fn rows<'s>(&'s self, start: usize, count: usize, scratch: &'s mut [C]) -> (&'s [C], usize) {
        let columns = self.keys.padded_rows;
        match &self.cache {
            Some(all) => (&all[start * columns..], columns),
            None => {
                let stride = self.row_scratch();
                self.compute(start, count, 0, columns, scratch, stride);
                self.set_own(start, scratch, stride);
                (scratch, stride)
            }
        }
    }

    /// Writes 1 for the similarity of an anchor with itself, in rows from `start` on: rounding shall not decide whether
    /// another key is above it.
    fn set_own(&self, start: usize, rows: &mut [C], stride: usize) {
        for (anchor, row) in (start..self.anchors.rows).zip(rows.chunks_mut(stride)) {
            if let Some(own) = self.pairs.own(anchor).and_then(|own| row.get_mut(own)) {
                *own = C::ONE;
            }
        }
    }

    /// From here on tiles are wanted: pairs that are no negatives get minus infinity in the cache, once.
    pub fn keep_negatives(&mut self) {
        if let Some(mut all) = self.cache.take() {
            self.blank(0, self.anchors.padded_rows, 0, self.keys.padded_rows, &mut all);
            self.cache = Some(all);
        }
    }

    /// The tile (a, b) with minus infinity for pairs that are no negatives, and the stride of its rows.
    pub fn tile<'s>(&'s self, a: usize, b: usize, scratch: &'s mut [C]) -> (&'s [C], usize) {
        let (tile, stride) = (self.tile, self.keys.padded_rows);
        match &self.cache {
            Some(all) => (&all[a * tile * stride + b * tile..], stride),
            None => {
                self.compute(a * tile, tile, b * tile, tile, scratch, tile);
                self.blank(a * tile, tile, b * tile, tile, scratch);
                (scratch, tile)
            }
        }
    }

    /// Computes `rows` x `columns` similarities into `out`, rows `stride` apart.
    fn compute(&self, row: usize, rows: usize, column: usize, columns: usize, out: &mut [C], stride: usize) {
        assert!(rows.is_multiple_of(BLOCK_ROWS) && columns.is_multiple_of(BLOCK_COLUMNS));
        assert!(out.len() >= (rows - 1) * stride + columns);
        if let (Some(anchors), Some(keys)) = (&self.anchors.half, &self.keys.half) {
            return anchors.products(row..row + rows, keys, column..column + columns, half_rows::single(out), stride);
        }
        let left = self.anchors.from(row);
        assert!(left.len() >= rows * self.anchors.padded_dims);
        self.isa.run(Products {
            left,
            rows,
            keys: self.keys,
            left_row: self.anchors.padded_dims,
            column,
            columns,
            out,
            stride,
        });
    }

    /// Writes minus infinity where a pair is no negative.
    fn blank(&self, row: usize, rows: usize, column: usize, columns: usize, out: &mut [C]) {
        let end = self.anchors.rows.min(row + rows);
        let padding = self.keys.rows.clamp(column, column + columns) - column;
        for (anchor, out) in (row..end).zip(out.chunks_mut(columns)) {
            for &key in self.pairs.excluded(anchor) {
                if let Some(out) = (key as usize).checked_sub(column).and_then(|key| out.get_mut(key)) {
                    *out = C::NEG_INFINITY;
                }
            }
            out[padding..].fill(C::NEG_INFINITY);
        }
    }
}

struct Products<'a, C> {
    left: &'a [C],
    left_row: usize,
    rows: usize,
    keys: &'a UnitRows<C>,
    column: usize,
    columns: usize,
    out: &'a mut [C],
    stride: usize,
}

impl<C: Float> Kernel for Products<'_, C> {
    #[inline(always)]
    fn run<S: InstructionSet>(self) {
        for column in (0..self.columns).step_by(BLOCK_COLUMNS) {
            let panel = self.keys.panel(self.column + column);
            for row in (0..self.rows).step_by(BLOCK_ROWS) {
                // SAFETY: `compute` checked that `left` and `out` have all rows and columns, and a panel has `dims` rows.
                unsafe {
                    S::block(&Block {
                        left: self.left.as_ptr().add(row * self.left_row),
                        left_row: self.left_row,
                        left_depth: 1,
                        right: panel.as_ptr(),
                        right_depth: BLOCK_COLUMNS,
                        out: self.out.as_mut_ptr().add(row * self.stride + column),
                        out_row: self.stride,
                        depth: self.keys.dims,
                        add: false,
                    });
                }
            }
        }
    }
}
