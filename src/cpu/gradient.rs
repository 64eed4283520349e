//! The gradient: products of each tile's derivatives with the keys (for the anchors) and with the anchors (for the
//! keys).

use super::bf16::{single, Bf16Derivatives};
use super::outputs::Gradients;
use super::passes::{exponents, AnchorShifts, Passes};
use super::prepared::Prepared;
use super::simd::{
    prefetch, Block, Coefficients, Derivatives, Float, InstructionSet, Isa, Kernel, Tile, BLOCK_COLUMNS, BLOCK_ROWS,
    LANES, MAX_TILE,
};
use super::threads::{for_each, Shared, Spare};
use super::unit_rows::UnitRows;
use crate::formula::Anchor;

/// Number of rows, or of positives, that a thread handles at least.
const CHUNK: usize = 64;
/// Number of numbers that a thread fills at a time.
const FILL: usize = 1 << 16;
/// Number of bytes in a cache line.
const LINE_BYTES: usize = 64;

/// Writes the wanted gradients. `positives` holds the derivatives with respect to the similarities of the positives.
/// Returns the sum of the inner products of the anchors' unit rows with their gradients.
pub(super) fn write<C: Float>(
    passes: &Passes<'_, C>,
    prepared: &Prepared<C>,
    shifts: &AnchorShifts<C>,
    anchors: &[Anchor],
    positives: &[f64],
    gradients: Gradients<'_, C>,
) -> f64 {
    let (isa, threads) = (passes.similarities.isa, prepared.threads);
    let mut of_anchors = gradients.anchors.map(|out| Accumulator::new(out, &prepared.anchors, threads));
    let mut of_keys = match (&prepared.keys, gradients.keys) {
        (Some(keys), Some(out)) => Some(Accumulator::new(out, keys, threads)),
        _ => None,
    };
    let mut of_apart = match (&prepared.apart, gradients.positives) {
        (Some(apart), Some(out)) => Some(Accumulator::new(out, &apart.rows, threads)),
        _ => None,
    };
    if of_anchors.is_some() || of_keys.is_some() {
        let coefficients = AnchorCoefficients::new(anchors, prepared.anchors.padded_rows);
        negatives(passes, shifts, &coefficients, of_anchors.as_mut(), of_keys.as_mut());
        let [of_anchors, of_apart] = [&mut of_anchors, &mut of_apart].map(|of| of.as_mut().map(Accumulator::share));
        passes.own.add_gradients(passes, prepared, shifts, &coefficients, of_anchors.as_ref(), of_apart.as_ref());
    }
    let mut ends = Ends { prepared, anchors: of_anchors, keys: of_keys, apart: of_apart };
    ends.add_positives(positives);
    let finish = |accumulator: Option<Accumulator<'_, C>>, rows: Option<&UnitRows<C>>| {
        accumulator.zip(rows).map_or(0.0, |(accumulator, rows)| accumulator.finish(rows, isa, threads))
    };
    finish(ends.keys, prepared.keys.as_ref());
    finish(ends.apart, prepared.apart.as_ref().map(|apart| &apart.rows));
    finish(ends.anchors, Some(&prepared.anchors))
}

/// The gradient with respect to unit rows, with padding. It is summed in the output itself if that needs no padding.
struct Accumulator<'a, C: Float> {
    out: &'a mut [C],
    padded: Option<Spare<C>>,
}

impl<'a, C: Float> Accumulator<'a, C> {
    fn new(out: &'a mut [C], rows: &UnitRows<C>, threads: usize) -> Self {
        let needed = rows.padded_rows * rows.padded_dims;
        let padded = (out.len() != needed).then(|| Spare::new(needed));
        let mut new = Self { out, padded };
        // In parallel, because the system maps the pages of a new output when they are written.
        let memory = new.share();
        for_each(
            threads,
            needed.div_ceil(FILL),
            || (),
            |(), part| {
                let start = part * FILL;
                // SAFETY: The parts do not overlap, and `new` is borrowed until the loop ends.
                unsafe { memory.slice(start, FILL.min(needed - start)) }.fill(C::ZERO);
            },
        );
        new
    }

    fn memory(&mut self) -> &mut [C] {
        self.padded.as_deref_mut().unwrap_or(self.out)
    }

    fn share(&mut self) -> Shared<C> {
        Shared::new(self.memory())
    }

    /// Turns the gradients for unit rows into gradients for the input rows, and drops the padding. Returns the sum of
    /// the inner products of unit rows and gradients.
    fn finish(self, rows: &UnitRows<C>, isa: Isa, threads: usize) -> f64 {
        let mut radial = vec![0.0; rows.rows.div_ceil(CHUNK)];
        let (out, sums) = (Shared::new(self.out), Shared::new(&mut radial));
        for_each(
            threads,
            rows.rows.div_ceil(CHUNK),
            || (),
            |(), chunk| {
                // SAFETY: Only this call uses the sum of its chunk, and `radial` is borrowed until the loop ends.
                let sum = &mut unsafe { sums.slice(chunk, 1) }[0];
                for row in chunk * CHUNK..rows.rows.min((chunk + 1) * CHUNK) {
                    // SAFETY: The chunks do not overlap, and `out` is borrowed until the loop ends.
                    let out = unsafe { out.slice(row * rows.dims, rows.dims) };
                    if let Some(padded) = &self.padded {
                        out.copy_from_slice(&padded[row * rows.padded_dims..][..rows.dims]);
                    }
                    *sum += rows.project(isa, row, out);
                }
            },
        );
        radial.iter().sum()
    }
}

/// The coefficients of each anchor, padded with 0.
pub struct AnchorCoefficients<C> {
    global: Vec<C>,
    weighted: Vec<C>,
    weights: Vec<C>,
}

impl<C: Float> AnchorCoefficients<C> {
    fn new(anchors: &[Anchor], padded: usize) -> Self {
        let collect = |of: fn(&Anchor) -> f64| {
            let mut all: Vec<C> = anchors.iter().map(|anchor| C::from_f64(of(anchor))).collect();
            all.resize(padded, C::ZERO);
            all
        };
        Self {
            global: collect(|anchor| anchor.global),
            weighted: collect(|anchor| anchor.weighted),
            weights: collect(|anchor| anchor.weights),
        }
    }

    /// The coefficients of `count` anchors from `start` on.
    pub fn part(&self, start: usize, count: usize) -> Coefficients<'_, C> {
        Coefficients {
            global: &self.global[start..][..count],
            weighted: &self.weighted[start..][..count],
            weights: &self.weights[start..][..count],
        }
    }
}

/// Adds the part of the gradients that comes from the negatives.
fn negatives<C: Float>(
    passes: &Passes<'_, C>,
    shifts: &AnchorShifts<C>,
    coefficients: &AnchorCoefficients<C>,
    of_anchors: Option<&mut Accumulator<'_, C>>,
    of_keys: Option<&mut Accumulator<'_, C>>,
) {
    let similarities = passes.similarities;
    let (size, isa) = (similarities.tile, similarities.isa);
    let dims = similarities.anchors.padded_dims;
    let exponents = exponents(passes.problem, shifts.shared);
    let of_anchors = of_anchors.map(Accumulator::share);
    let of_keys = of_keys.map(Accumulator::share);
    let bf16 = similarities.anchors.bf16.as_ref().zip(similarities.keys.bf16.as_ref());
    // Rows of a tile are longer than needed by a group, because rows that are a power of two apart would use few sets
    // of the cache.
    let stride = size + LANES;
    let scratch = || (Spare::new(size * size), Spare::new(size * stride), bf16.map(|_| Bf16Derivatives::new(size)));
    similarities.schedule.run(similarities.threads, scratch, |(scratch, derivatives, rounded), a, b| {
        // In a square problem, tiles on the diagonal also sum the derivatives of both anchors of a pair.
        let tile = Tile { both_sides: similarities.square, ..passes.tile(a, b, scratch) };
        // Without the padding, whose derivatives are 0.
        let (rows, columns) = (tile.rows, size.min(similarities.keys.rows - b * size));
        let other = passes.column_block(a, b) * size;
        isa.run(Derivatives {
            tile,
            exponents,
            row_shifts: shifts.part(a * size, size),
            column_shifts: shifts.part(other, size),
            row_coefficients: coefficients.part(a * size, size),
            column_coefficients: coefficients.part(other, size),
            out: derivatives,
            out_stride: stride,
        });
        derivatives[rows * stride..].fill(C::ZERO);
        if let (Some(rounded), Some((anchors, keys))) = (rounded.as_mut(), bf16) {
            anchors.round(a * size, keys, b * size, single(derivatives), stride, rounded);
        }
        let add = |sum: &Shared<C>, block: usize, transposed: bool| {
            // SAFETY: The schedule gives the blocks a and b to this call alone, which uses one after the other here.
            let out = unsafe { sum.slice(block * size * dims, size * dims) };
            // The derivatives are multiplied by the rows of the other side.
            let (others, start) =
                if transposed { (similarities.anchors, a * size) } else { (similarities.keys, b * size) };
            match (rounded.as_ref(), &others.bf16) {
                (Some(derivatives), Some(others)) => {
                    others.accumulate(derivatives, transposed, start, single(out));
                }
                _ => {
                    let (count, depth) = if transposed { (columns, rows) } else { (rows, columns) };
                    let others = others.from(start);
                    isa.run(Accumulate { derivatives, stride, count, depth, transposed, others, dims, out });
                }
            }
        };
        if let Some(sum) = &of_anchors {
            add(sum, a, false);
            if similarities.square && a != b {
                add(sum, b, true);
            }
        }
        if let Some(sum) = &of_keys {
            add(sum, b, true);
        }
    });
}

/// `out += derivatives @ others`, or `derivatives^T @ others`.
struct Accumulate<'a, C> {
    derivatives: &'a [C],
    stride: usize,
    /// Number of rows of the result. The rest of the last block is computed too.
    count: usize,
    /// Length of the inner dimension.
    depth: usize,
    transposed: bool,
    others: &'a [C],
    dims: usize,
    out: &'a mut [C],
}

impl<C: Float> Kernel for Accumulate<'_, C> {
    #[inline(always)]
    fn run<S: InstructionSet>(self) {
        let Self { derivatives, stride, count, depth, transposed, others, dims, out } = self;
        let padded = count.next_multiple_of(BLOCK_ROWS);
        let (rows, columns) = if transposed { (depth, padded) } else { (padded, depth) };
        assert!(derivatives.len() >= rows * stride && stride >= columns);
        assert!(others.len() >= depth * dims && out.len() >= padded * dims);
        assert!(depth <= MAX_TILE && dims.is_multiple_of(BLOCK_COLUMNS));
        let (left_row, left_depth) = if transposed { (1, stride) } else { (stride, 1) };
        // Copy 32 dimensions of all rows next to each other. At their own distance, the rows would use few sets of the
        // cache.
        // The processor does not foresee lines that are a row apart, so each block asks for its share of the next stripe
        // and for the rows that the next block adds to.
        let line = LINE_BYTES / size_of::<C>();
        let share = depth.div_ceil(padded / BLOCK_ROWS);
        let mut stripe = Stripe([[C::ZERO; BLOCK_COLUMNS]; MAX_TILE]);
        for column in (0..dims).step_by(BLOCK_COLUMNS) {
            for (narrow, row) in stripe.0.iter_mut().zip(others.chunks_exact(dims)).take(depth) {
                narrow.copy_from_slice(&row[column..column + BLOCK_COLUMNS]);
            }
            let next = column + BLOCK_COLUMNS;
            for (row, first) in (0..padded).step_by(BLOCK_ROWS).zip((0..).step_by(share)) {
                for line in (0..BLOCK_COLUMNS).step_by(line) {
                    if next < dims {
                        (first..depth.min(first + share)).for_each(|row| prefetch(others, row * dims + next + line));
                    }
                    (row + BLOCK_ROWS..row + 2 * BLOCK_ROWS).for_each(|row| prefetch(out, row * dims + column + line));
                }
                // SAFETY: By the assertions, the left factor has `padded` rows and `depth` columns, the stripe has
                // `depth` rows, and the result has `padded` rows.
                unsafe {
                    S::block(&Block {
                        left: derivatives.as_ptr().add(row * left_row),
                        left_row,
                        left_depth,
                        right: stripe.0.as_ptr().cast(),
                        right_depth: BLOCK_COLUMNS,
                        out: out.as_mut_ptr().add(row * dims + column),
                        out_row: dims,
                        depth,
                        add: true,
                    });
                }
            }
        }
    }
}

/// A stripe of 32 dimensions, aligned to a cache line.
#[repr(align(64))]
struct Stripe<C>([[C; BLOCK_COLUMNS]; MAX_TILE]);

/// The accumulators of all inputs.
struct Ends<'a, C: Float> {
    prepared: &'a Prepared<C>,
    anchors: Option<Accumulator<'a, C>>,
    keys: Option<Accumulator<'a, C>>,
    apart: Option<Accumulator<'a, C>>,
}

impl<C: Float> Ends<'_, C> {
    /// Adds the part of the gradients that comes from the positives, for both ends of each pair. Each thread computes
    /// some of the dimensions, so the order of every sum is fixed.
    fn add_positives(&mut self, derivatives: &[f64]) {
        let prepared = self.prepared;
        let dims = prepared.anchors.padded_dims;
        let keys = prepared.keys.as_ref().unwrap_or(&prepared.anchors);
        let each = (derivatives.len() / prepared.anchors.rows).max(1);
        let square = prepared.keys.is_none();
        let of_anchors = self.anchors.as_mut().map(Accumulator::share);
        let of_keys = self.keys.as_mut().map(Accumulator::share);
        let of_apart = self.apart.as_mut().map(Accumulator::share);
        let of_keys = if square { of_anchors.as_ref() } else { of_keys.as_ref() };
        // A team takes longer to start than a few positives take.
        let threads = prepared.threads.min(derivatives.len().div_ceil(CHUNK));
        // Wide parts of a row, which are fetched faster than many narrow ones.
        let width = (dims / BLOCK_COLUMNS).div_ceil(threads.max(1)) * BLOCK_COLUMNS;
        for_each(
            threads,
            dims.div_ceil(width),
            || (),
            |(), part| {
                let at = part * width;
                let width = width.min(dims - at);
                let add = |sum: Option<&Shared<C>>, row: usize, factor: C, other: &[C]| {
                    if let Some(sum) = sum {
                        // SAFETY: Only this call uses these dimensions, and it uses one part of a row at a time.
                        let out = unsafe { sum.slice(row * dims + at, width) };
                        for (out, &x) in out.iter_mut().zip(&other[at..at + width]) {
                            *out += factor * x;
                        }
                    }
                };
                for (anchor, derivatives) in derivatives.chunks_exact(each).enumerate() {
                    let row = prepared.anchors.row(anchor);
                    let positive = prepared.apart.as_ref().and_then(|apart| apart.positive(anchor));
                    if let (Some(apart), Some(place)) = (&prepared.apart, positive) {
                        let factor = C::from_f64(derivatives[0]);
                        add(of_anchors.as_ref(), anchor, factor, apart.rows.row(place));
                        add(of_apart.as_ref(), place, factor, row);
                    } else {
                        for (&key, &derivative) in prepared.pairs.positives(anchor).iter().zip(derivatives) {
                            let factor = C::from_f64(derivative);
                            add(of_anchors.as_ref(), anchor, factor, keys.row(key as usize));
                            add(of_keys, key as usize, factor, row);
                        }
                    }
                }
            },
        );
    }
}
