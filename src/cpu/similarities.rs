//! Similarities of anchors and keys, computed when they are needed: as rows for the thresholds, as tiles for the rest.
//! Tiles that are needed again are kept where they are few.

use std::ops::Range;
use std::sync::OnceLock;

use super::bf16::single;
use super::pairs::Pairs;
use super::simd::{Block, Float, InstructionSet, Isa, Kernel, BLOCK_COLUMNS, BLOCK_ROWS};
use super::threads::{for_each, Schedule, Shared, Spare};
use super::unit_rows::UnitRows;

/// Tiles of up to this many bytes are kept. They fit the last-level cache, and the next evaluation reuses their memory.
const CACHE_BYTES: usize = 16 << 20;
/// For a gradient, the tiles of up to this many rows for each dimension are kept, which stays O((M + N) D): for two towers
/// of N rows, at most four times the bytes of the rows. To compute a similarity again takes 2 D operations, but to keep it
/// one number, so this pays for many dimensions: with 512, where three matrix products of four are left, it takes a fifth
/// off the time. With 128 it gains nothing beyond the cache.
const KEPT_ROWS: usize = 8;

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
    /// Whether a gradient is wanted, which needs all tiles again.
    pub gradient: bool,
    /// The kept tiles.
    kept: Option<Kept<C>>,
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
        gradient: bool,
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
        Self {
            anchors,
            keys: keys.unwrap_or(anchors),
            square,
            pairs,
            tile,
            isa,
            threads,
            schedule,
            gradient,
            kept: None,
        }
    }

    /// Computes every tile, with an anchor's similarity with itself exactly 1, and calls `each(state, a, b, tile)`,
    /// which may change the tile. The changed tiles are kept if a gradient is wanted and there is room.
    pub fn visit<S>(
        &mut self,
        state: impl Fn() -> S + Sync,
        each: impl Fn(&Self, &mut S, usize, usize, &mut [C]) + Sync,
    ) {
        let kept = if self.gradient { self.room() } else { None };
        self.kept = self.compute_all(kept, state, each);
    }

    /// Computes and keeps every tile, if there is room.
    pub fn keep(&mut self) {
        if let Some(kept) = self.room() {
            self.kept = self.compute_all(Some(kept), || (), |_, (), _, _, _| ());
        }
    }

    /// Lets the next pass keep the tiles for those after it, if there is room and they are not kept yet.
    pub fn keep_next(&mut self) {
        self.kept = self.kept.take().or_else(|| self.room());
    }

    /// See [`visit`](Self::visit).
    fn compute_all<S>(
        &self,
        kept: Option<Kept<C>>,
        state: impl Fn() -> S + Sync,
        each: impl Fn(&Self, &mut S, usize, usize, &mut [C]) + Sync,
    ) -> Option<Kept<C>> {
        let size = if kept.is_some() { 0 } else { self.tile * self.tile };
        let state = || (Spare::new(size), state());
        self.schedule.run(self.threads, state, |(scratch, state), a, b| {
            let mut compute = |tile: &mut [C]| {
                self.compute(a * self.tile, self.tile, b * self.tile, self.tile, tile, self.tile);
                self.set_own(a * self.tile, b * self.tile, tile, self.tile);
                each(self, state, a, b, tile);
            };
            match &kept {
                Some(kept) => _ = kept.tile(self.schedule.place(a, b), compute),
                None => compute(scratch),
            }
        });
        kept
    }

    /// Memory for the tiles, if they may be kept.
    fn room(&self) -> Option<Kept<C>> {
        let (count, size) = (self.schedule.tiles(), self.tile * self.tile);
        (count * size * size_of::<C>() <= CACHE_BYTES || self.few_rows()).then(|| Kept::new(count, size))
    }

    /// Whether the rows are so few, beside the dimensions, that their similarities are kept for the gradient.
    fn few_rows(&self) -> bool {
        let rows = self.pairs.tower().unwrap_or(self.anchors.rows.max(self.keys.rows));
        // bfloat16 products take a fraction of the time.
        self.gradient && self.anchors.bf16.is_none() && rows <= KEPT_ROWS * self.anchors.dims
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

    /// Copies rows from the kept tiles. The tiles below the diagonal are the transposes of those above.
    fn gather(&self, kept: &Kept<C>, start: usize, count: usize, out: &mut [C]) {
        let (tile, stride) = (self.tile, self.row_scratch());
        let (a, first) = (start / tile, start % tile);
        for b in 0..self.keys.padded_rows / tile {
            let out = &mut out[b * tile..];
            if let Some(place) = self.schedule.find(a, b) {
                let rows = kept.ready(place).chunks_exact(tile).skip(first).take(count);
                for (out, row) in out.chunks_mut(stride).zip(rows) {
                    out[..tile].copy_from_slice(row);
                }
            } else if let Some(place) = self.schedule.find(b, a) {
                for (c, row) in kept.ready(place).chunks_exact(tile).enumerate() {
                    for (r, &x) in row[first..first + count].iter().enumerate() {
                        out[r * stride + c] = x;
                    }
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

    /// Prepares the kept tiles for [`tile`](Self::tile): writes minus infinity for pairs that are not negatives.
    pub fn keep_negatives(&mut self) {
        if let Some(mut kept) = self.kept.take() {
            kept.change(&self.schedule, self.threads, |a, b, tile| self.blank(a, b, tile));
            self.kept = Some(kept);
        }
    }

    /// The tile (a, b), with minus infinity for pairs that are not negatives.
    pub fn tile<'s>(&'s self, a: usize, b: usize, scratch: &'s mut [C]) -> &'s [C] {
        let compute = |tile: &mut [C]| {
            self.compute(a * self.tile, self.tile, b * self.tile, self.tile, tile, self.tile);
            self.blank(a, b, tile);
        };
        match &self.kept {
            Some(kept) => kept.tile(self.schedule.place(a, b), compute),
            None => {
                compute(scratch);
                scratch
            }
        }
    }

    /// Computes `rows` x `columns` similarities into `out`, whose rows are `stride` apart.
    fn compute(&self, row: usize, rows: usize, column: usize, columns: usize, out: &mut [C], stride: usize) {
        products(self.isa, self.anchors, row..row + rows, self.keys, column..column + columns, out, stride);
    }

    /// Writes minus infinity into the tile (a, b) for pairs that are not negatives.
    pub fn blank(&self, a: usize, b: usize, out: &mut [C]) {
        let (row, column, size) = (a * self.tile, b * self.tile, self.tile);
        let end = self.anchors.rows.min(row + size);
        let padding = self.keys.rows.clamp(column, column + size) - column;
        for (anchor, out) in (row..end).zip(out.chunks_exact_mut(size)) {
            for &key in self.pairs.sample(anchor) {
                if let Some(out) = (key as usize).checked_sub(column).and_then(|key| out.get_mut(key)) {
                    *out = C::NEG_INFINITY;
                }
            }
            if self.pairs.ignores_keys() {
                for &key in self.pairs.ignored_within(anchor, column..column + size) {
                    out[key as usize - column] = C::NEG_INFINITY;
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

/// Tiles, each computed by the first pass that needs it.
struct Kept<C: Float> {
    tiles: Shared<C>,
    size: usize,
    ready: Vec<OnceLock<()>>,
    /// The memory of the tiles, used only through `tiles`.
    _memory: Spare<C>,
}

impl<C: Float> Kept<C> {
    /// Room for `count` tiles of `size` numbers.
    fn new(count: usize, size: usize) -> Self {
        let mut memory = Spare::new(count * size);
        Self {
            tiles: Shared::new(&mut memory),
            size,
            ready: (0..count).map(|_| OnceLock::new()).collect(),
            _memory: memory,
        }
    }

    /// The tile at a place. `compute` writes it if nobody has before.
    fn tile(&self, place: usize, compute: impl FnOnce(&mut [C])) -> &[C] {
        // SAFETY: Only one call gets here for a place, and nobody reads the tile before it returns.
        self.ready[place].get_or_init(|| compute(unsafe { self.tiles.slice(place * self.size, self.size) }));
        self.ready(place)
    }

    /// The tile at a place, which must have been computed.
    fn ready(&self, place: usize) -> &[C] {
        assert!(self.ready[place].get().is_some());
        // SAFETY: Nobody writes a tile that has been computed, except `change`, which borrows all tiles.
        unsafe { self.tiles.read(place * self.size, self.size) }
    }

    /// Calls `each(a, b, tile)` for every tile of the schedule that has been computed.
    fn change(&mut self, schedule: &Schedule, threads: usize, each: impl Fn(usize, usize, &mut [C]) + Sync) {
        let kept = &*self;
        schedule.run(
            threads,
            || (),
            |(), a, b| {
                let place = schedule.place(a, b);
                if kept.ready[place].get().is_some() {
                    // SAFETY: The schedule visits each tile once, and no other borrow of the tiles lives.
                    each(a, b, unsafe { kept.tiles.slice(place * kept.size, kept.size) });
                }
            },
        );
    }
}

/// Computes the similarities of `rows` of `left` with `columns` of `right`, in whole blocks, into `out`, whose rows are
/// `stride` apart.
fn products<C: Float>(
    isa: Isa,
    left: &UnitRows<C>,
    rows: Range<usize>,
    right: &UnitRows<C>,
    columns: Range<usize>,
    out: &mut [C],
    stride: usize,
) {
    assert!(rows.len().is_multiple_of(BLOCK_ROWS) && columns.len().is_multiple_of(BLOCK_COLUMNS));
    assert!(out.len() >= (rows.len() - 1) * stride + columns.len());
    if let (Some(left), Some(right)) = (&left.bf16, &right.bf16) {
        return left.products(rows, right, columns, single(out), stride);
    }
    isa.run(Products {
        left: left.from(rows.start),
        rows: rows.len(),
        left_row: left.padded_dims,
        panels: right.panels_from(columns.start),
        dims: right.dims,
        columns: columns.len(),
        out,
        stride,
    });
}

/// The similarities of each row of `left` with `each` rows of `right`, [left rows, each], with the bits that a tile has
/// for the same two rows. `place(row, i)` is the i-th of these rows.
pub fn selected<C: Float>(
    isa: Isa,
    threads: usize,
    left: &UnitRows<C>,
    right: &UnitRows<C>,
    each: usize,
    place: impl Fn(usize, usize) -> usize + Sync,
) -> Vec<C> {
    const BLOCK: usize = BLOCK_ROWS * BLOCK_COLUMNS;
    let mut found = vec![C::ZERO; left.rows * each];
    let shared = Shared::new(&mut found);
    let state = || (Vec::new(), Vec::new());
    for_each(threads, left.rows.div_ceil(BLOCK_ROWS), state, |(columns, blocks), chunk| {
        let start = chunk * BLOCK_ROWS;
        let count = BLOCK_ROWS.min(left.rows - start);
        columns.clear();
        blocks.clear();
        // SAFETY: The chunks do not overlap, and `found` is borrowed until the loop ends.
        let out = unsafe { shared.slice(start * each, count * each) };
        for (i, out) in out.iter_mut().enumerate() {
            let (row, other) = (i / each, place(start + i / each, i % each));
            let column = other / BLOCK_COLUMNS * BLOCK_COLUMNS;
            let block = columns.iter().rposition(|&computed| computed == column).unwrap_or_else(|| {
                columns.push(column);
                blocks.resize(columns.len() * BLOCK, C::ZERO);
                let block = &mut blocks[(columns.len() - 1) * BLOCK..];
                let rows = start..start + BLOCK_ROWS;
                products(isa, left, rows, right, column..column + BLOCK_COLUMNS, block, BLOCK_COLUMNS);
                columns.len() - 1
            });
            *out = blocks[block * BLOCK + row * BLOCK_COLUMNS + other - column];
        }
    });
    found
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
