//! Similarities of anchors and keys, computed when they are needed: as rows for the thresholds, as tiles for the rest.
//! Small problems keep their tiles in a cache of at most 16 MiB. The next evaluation reuses its memory.

use super::bf16::single;
use super::pairs::Pairs;
use super::simd::{Block, Float, InstructionSet, Isa, Kernel, BLOCK_COLUMNS, BLOCK_ROWS};
use super::threads::{Schedule, Shared, Spare};
use super::unit_rows::UnitRows;

/// Keeping the similarities saves a third of the work if they fit the last-level cache. Larger ones are slower to fetch
/// than to compute again.
const CACHE_BYTES: usize = 16 << 20;

/// Similarities of `anchors` and `keys`.
pub struct Similarities<'a, C: Float> {
    /// The unit rows of the anchors.
    pub anchors: &'a UnitRows<C>,
    /// The unit rows of the keys. If the problem is square, those of the anchors.
    pub keys: &'a UnitRows<C>,
    /// Whether the keys are the anchors.
    pub square: bool,
    /// The positives, and the keys that are not negatives.
    pub pairs: &'a Pairs,
    /// Number of rows and columns of a tile.
    pub tile: usize,
    /// The instruction set.
    pub isa: Isa,
    /// Number of threads.
    pub threads: usize,
    /// The order of the tiles.
    pub schedule: Schedule,
    /// The cached tiles, one after the other.
    kept: Option<Spare<C>>,
}

impl<'a, C: Float> Similarities<'a, C> {
    /// Prepares the similarities, without computing any.
    pub fn new(
        anchors: &'a UnitRows<C>,
        keys: Option<&'a UnitRows<C>>,
        pairs: &'a Pairs,
        tile: usize,
        isa: Isa,
        threads: usize,
    ) -> Self {
        let blocks = |rows: &UnitRows<C>| rows.padded_rows / tile;
        let schedule = match keys {
            None => match pairs.tower() {
                None => Schedule::triangle(blocks(anchors), threads),
                Some(rows) => Schedule::triangle(blocks(anchors), threads).between(rows.div_ceil(tile), rows / tile),
            },
            Some(keys) => Schedule::rectangle(blocks(anchors), blocks(keys), threads),
        };
        let square = keys.is_none();
        Self { anchors, keys: keys.unwrap_or(anchors), square, pairs, tile, isa, threads, schedule, kept: None }
    }

    /// Computes every tile, with an anchor's similarity with itself exactly 1, and calls `each(state, a, b, tile)`,
    /// which may change the tile. The changed tiles are kept if they fit the cache.
    pub fn visit<S>(
        &mut self,
        state: impl Fn() -> S + Sync,
        each: impl Fn(&Self, &mut S, usize, usize, &mut [C]) + Sync,
    ) {
        let size = self.tile * self.tile;
        let count = (0..self.row_blocks()).map(|a| self.row_blocks_of(a)).sum::<usize>();
        let fits = self.anchors.padded_rows * self.keys.padded_rows * size_of::<C>() <= CACHE_BYTES;
        let mut kept = fits.then(|| Spare::new(count * size));
        let shared = kept.as_mut().map(|kept| Shared::new(kept));
        let scratch = || (Spare::new(if fits { 0 } else { size }), state());
        self.schedule.run(self.threads, scratch, |(scratch, state), a, b| {
            let tile = match &shared {
                // SAFETY: The schedule visits each tile at most once, and `kept` is borrowed until the run ends.
                Some(kept) => unsafe { kept.slice(self.place(a, b) * size, size) },
                None => scratch,
            };
            self.compute(a * self.tile, self.tile, b * self.tile, self.tile, tile, self.tile);
            self.set_own(a * self.tile, b * self.tile, tile, self.tile);
            each(self, state, a, b, tile);
        });
        self.kept = kept;
    }

    /// Computes and keeps every tile, if they fit the cache.
    pub fn keep(&mut self) {
        if self.anchors.padded_rows * self.keys.padded_rows * size_of::<C>() <= CACHE_BYTES {
            self.visit(|| (), |_, (), _, _, _| ());
        }
    }

    fn row_blocks(&self) -> usize {
        self.anchors.padded_rows / self.tile
    }

    /// Number of tiles in a row of blocks.
    fn row_blocks_of(&self, a: usize) -> usize {
        self.keys.padded_rows / self.tile - if self.square { a } else { 0 }
    }

    /// Number of tiles before the tile (a, b).
    fn place(&self, a: usize, b: usize) -> usize {
        let columns = self.keys.padded_rows / self.tile;
        if self.square {
            // Each row of blocks is shorter by one than the row before: columns + (columns - 1) + ... tiles.
            a * columns - a * a.saturating_sub(1) / 2 + b - a
        } else {
            a * columns + b
        }
    }

    /// Number of elements of scratch memory for each row of [`rows`](Self::rows). It is larger by a block than the
    /// number of keys, because rows that are a power of two apart would use few sets of the cache.
    pub fn row_scratch(&self) -> usize {
        self.keys.padded_rows + BLOCK_COLUMNS
    }

    /// Writes the similarities of the rows `start` to `start + count` (multiples of 8, of one block of tiles) with all
    /// keys, including padding and keys that are not negatives. An anchor's similarity with itself is exactly 1. For
    /// towers, only the similarities with the other tower are valid. The rows are [`row_scratch`](Self::row_scratch)
    /// apart. Call this before [`keep_negatives`](Self::keep_negatives).
    pub fn rows(&self, start: usize, count: usize, out: &mut [C]) {
        match &self.kept {
            Some(kept) => self.gather(kept, start, count, out),
            None => self.compute_rows(start, count, out),
        }
    }

    /// Like [`rows`](Self::rows), but always computed, so it can be called at any time.
    pub fn compute_rows(&self, start: usize, count: usize, out: &mut [C]) {
        let stride = self.row_scratch();
        self.compute(start, count, 0, self.keys.padded_rows, out, stride);
        self.set_own(start, 0, out, stride);
    }

    /// Copies rows from the cached tiles. The tiles below the diagonal are the transposes of those above.
    fn gather(&self, kept: &[C], start: usize, count: usize, out: &mut [C]) {
        let (tile, stride) = (self.tile, self.row_scratch());
        let (a, first) = (start / tile, start % tile);
        for b in 0..self.keys.padded_rows / tile {
            let of = |a, b| &kept[self.place(a, b) * tile * tile..][..tile * tile];
            let out = &mut out[b * tile..];
            if self.square && b < a {
                for (c, row) in of(b, a).chunks_exact(tile).enumerate() {
                    for (r, &x) in row[first..first + count].iter().enumerate() {
                        out[r * stride + c] = x;
                    }
                }
            } else {
                for (out, row) in out.chunks_mut(stride).zip(of(a, b).chunks_exact(tile).skip(first).take(count)) {
                    out[..tile].copy_from_slice(row);
                }
            }
        }
    }

    /// Writes 1 for the similarity of an anchor with itself, in rows from `start` and columns from `column` on.
    /// Otherwise rounding could decide whether another key is above it.
    fn set_own(&self, start: usize, column: usize, rows: &mut [C], stride: usize) {
        for (anchor, row) in (start..self.anchors.rows).zip(rows.chunks_mut(stride)) {
            let own = self.pairs.own(anchor).and_then(|own| own.checked_sub(column));
            if let Some(own) = own.and_then(|own| row.get_mut(own)) {
                *own = C::ONE;
            }
        }
    }

    /// Prepares the cached tiles for [`tile`](Self::tile): writes minus infinity for pairs that are not negatives.
    pub fn keep_negatives(&mut self) {
        if let Some(mut kept) = self.kept.take() {
            let tiles = (0..self.row_blocks()).flat_map(|a| {
                (if self.square { a } else { 0 }..self.keys.padded_rows / self.tile).map(move |b| (a, b))
            });
            for ((a, b), tile) in tiles.zip(kept.chunks_exact_mut(self.tile * self.tile)) {
                self.blank(a, b, tile);
            }
            self.kept = Some(kept);
        }
    }

    /// The tile (a, b), with minus infinity for pairs that are not negatives.
    pub fn tile<'s>(&'s self, a: usize, b: usize, scratch: &'s mut [C]) -> &'s [C] {
        let tile = self.tile;
        match &self.kept {
            Some(kept) => &kept[self.place(a, b) * tile * tile..][..tile * tile],
            None => {
                self.compute(a * tile, tile, b * tile, tile, scratch, tile);
                self.blank(a, b, scratch);
                scratch
            }
        }
    }

    /// Computes `rows` x `columns` similarities into `out`, whose rows are `stride` apart.
    fn compute(&self, row: usize, rows: usize, column: usize, columns: usize, out: &mut [C], stride: usize) {
        assert!(rows.is_multiple_of(BLOCK_ROWS) && columns.is_multiple_of(BLOCK_COLUMNS));
        assert!(out.len() >= (rows - 1) * stride + columns);
        if let (Some(anchors), Some(keys)) = (&self.anchors.bf16, &self.keys.bf16) {
            return anchors.products(row..row + rows, keys, column..column + columns, single(out), stride);
        }
        self.isa.run(Products {
            left: self.anchors.from(row),
            rows,
            left_row: self.anchors.padded_dims,
            panels: self.keys.panels_from(column),
            dims: self.keys.dims,
            columns,
            out,
            stride,
        });
    }

    /// Writes minus infinity into the tile (a, b) for pairs that are not negatives.
    pub fn blank(&self, a: usize, b: usize, out: &mut [C]) {
        let (row, column, size) = (a * self.tile, b * self.tile, self.tile);
        let end = self.anchors.rows.min(row + size);
        let padding = self.keys.rows.clamp(column, column + size) - column;
        for (anchor, out) in (row..end).zip(out.chunks_exact_mut(size)) {
            for &key in self.pairs.excluded(anchor) {
                if let Some(out) = (key as usize).checked_sub(column).and_then(|key| out.get_mut(key)) {
                    *out = C::NEG_INFINITY;
                }
            }
            out[padding..].fill(C::NEG_INFINITY);
            if let Some(tower) = self.pairs.tower() {
                let first = tower.clamp(column, column + size) - column;
                let own = if anchor < tower { 0..first } else { first..size };
                out[own].fill(C::NEG_INFINITY);
            }
        }
    }
}

/// The products of rows with panels of 32 keys.
pub struct Products<'a, C> {
    /// The rows, `left_row` apart.
    pub left: &'a [C],
    /// Distance of the rows, at least `dims`.
    pub left_row: usize,
    /// Number of rows, a multiple of 8.
    pub rows: usize,
    /// The keys as panels, as in [`UnitRows`].
    pub panels: &'a [C],
    /// Number of dimensions of rows and keys.
    pub dims: usize,
    /// Number of keys, a multiple of 32.
    pub columns: usize,
    /// The rows of products, `stride` apart.
    pub out: &'a mut [C],
    /// Distance of the rows of products, at least `columns`.
    pub stride: usize,
}

impl<C: Float> Kernel for Products<'_, C> {
    #[inline(always)]
    fn run<S: InstructionSet>(self) {
        let Self { left, left_row, rows, panels, dims, columns, out, stride } = self;
        assert!(rows.is_multiple_of(BLOCK_ROWS) && columns.is_multiple_of(BLOCK_COLUMNS));
        assert!(left.len() >= (rows - 1) * left_row + dims && out.len() >= (rows - 1) * stride + columns);
        for (panel, column) in panels.chunks_exact(BLOCK_COLUMNS * dims).zip((0..columns).step_by(BLOCK_COLUMNS)) {
            for row in (0..rows).step_by(BLOCK_ROWS) {
                // SAFETY: By the assertions, `left` and `out` contain all rows and columns. A panel has `dims` rows of
                // 32.
                unsafe {
                    S::block(&Block {
                        left: left.as_ptr().add(row * left_row),
                        left_row,
                        left_depth: 1,
                        right: panel.as_ptr(),
                        right_depth: BLOCK_COLUMNS,
                        out: out.as_mut_ptr().add(row * stride + column),
                        out_row: stride,
                        depth: dims,
                        add: false,
                    });
                }
            }
        }
    }
}
