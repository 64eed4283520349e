//! Rows scaled to length 1, in the layouts that the products need.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::bf16::{single, Bf16Multiplier, Bf16Rows};
use super::element::Element;
use super::rows::Rows;
use super::simd::{Float, InstructionSet, Isa, Kernel, BLOCK_COLUMNS};
use super::threads::{for_each, Shared, Spare};
use crate::error::{Error, Input, Result, RowFault};

/// Number of rows handled at a time.
const CHUNK: usize = 64;

/// The unit rows of one input, padded to whole blocks with rows and dimensions of zeros.
pub struct UnitRows<C: Float> {
    /// Number of rows without padding.
    pub rows: usize,
    /// Number of rows with padding.
    pub padded_rows: usize,
    /// Number of dimensions without padding.
    pub dims: usize,
    /// Number of dimensions with padding.
    pub padded_dims: usize,
    /// The rows, [padded_rows, padded_dims].
    data: Spare<C>,
    /// The rows in panels of 32, [padded_rows / 32][dims][32], as the right factor of similarities. Empty if `bf16` is
    /// used.
    panels: Spare<C>,
    /// The rows in bfloat16, if the input is bfloat16 and the machine has suitable instructions.
    pub bf16: Option<Bf16Rows>,
    /// The largest absolute element of each row, and the length of the row divided by it. The length itself may
    /// overflow or underflow.
    lengths: Vec<(C, C)>,
}

impl<C: Float> UnitRows<C> {
    /// Normalises the rows of all `parts`, and pads them to whole tiles of `tile` rows.
    pub fn new<E: Element<Compute = C>>(
        input: Input,
        parts: &[Rows<'_, E>],
        tile: usize,
        isa: Isa,
        threads: usize,
    ) -> Result<Self> {
        let rows: usize = parts.iter().map(Rows::rows).sum();
        let dims = parts.first().map_or(0, Rows::dims);
        let padded_rows = rows.next_multiple_of(tile);
        let padded_dims = dims.next_multiple_of(BLOCK_COLUMNS);
        let mut data = Spare::new(padded_rows * padded_dims);
        // Ask only if it is needed, because AMX needs a permission from the system.
        let bf16 = if E::IS_BFLOAT16 && isa == Isa::Avx512 { Bf16Multiplier::best() } else { None };
        let mut panels = Spare::new(if bf16.is_some() { 0 } else { padded_rows * dims });
        let mut lengths = vec![(C::ONE, C::ONE); rows];
        let first_bad = AtomicUsize::new(usize::MAX);
        {
            let (data, panels, lengths) = (Shared::new(&mut data), Shared::new(&mut panels), Shared::new(&mut lengths));
            for_each(
                threads,
                padded_rows.div_ceil(CHUNK),
                || (),
                |(), chunk| {
                    let start = chunk * CHUNK;
                    let count = CHUNK.min(rows.saturating_sub(start));
                    let padded = CHUNK.min(padded_rows - start);
                    // SAFETY: The chunks do not overlap, and the vectors are borrowed until the loop ends.
                    let (data, panels, lengths) = unsafe {
                        (
                            data.slice(start * padded_dims, padded * padded_dims),
                            if bf16.is_some() { &mut [] } else { panels.slice(start * dims, padded * dims) },
                            lengths.slice(start.min(rows), count),
                        )
                    };
                    if (count, dims) != (padded, padded_dims) {
                        data.fill(C::ZERO);
                    }
                    isa.run(Normalise {
                        parts,
                        start,
                        dims,
                        padded_dims,
                        data: &mut *data,
                        lengths,
                        first_bad: &first_bad,
                    });
                    for (first, (panel, rows)) in (0..padded).step_by(BLOCK_COLUMNS).zip(
                        panels
                            .chunks_exact_mut(BLOCK_COLUMNS * dims)
                            .zip(data.chunks_exact(BLOCK_COLUMNS * padded_dims)),
                    ) {
                        transpose(rows, padded_dims, count.saturating_sub(first), panel);
                    }
                },
            );
        }
        let row = first_bad.into_inner();
        if row != usize::MAX {
            return Err(Error::Row { input, row, fault: fault(parts, row) });
        }
        let bf16 = bf16.map(|multiplier| {
            let mut bf16_lengths: Vec<f32> = lengths.iter().map(|&length| length_without_exponent(length)).collect();
            bf16_lengths.resize(padded_rows, 1.0);
            Bf16Rows::new(multiplier, single(&mut data), &bf16_lengths, padded_dims, threads)
        });
        Ok(Self { rows, padded_rows, dims, padded_dims, data, panels, bf16, lengths })
    }

    /// A unit row with padding.
    pub fn row(&self, row: usize) -> &[C] {
        &self.data[row * self.padded_dims..][..self.padded_dims]
    }

    /// The rows from `start` on, one after the other.
    pub fn from(&self, start: usize) -> &[C] {
        &self.data[start * self.padded_dims..]
    }

    /// The panels from row `start` on, which is a multiple of 32.
    pub fn panels_from(&self, start: usize) -> &[C] {
        &self.panels[start * self.dims..]
    }

    /// Turns the gradient g for a unit row u into the gradient for the input row z: (g - (g.u) u) / |z|. The result
    /// saturates at the largest finite number, which the gradient of a very short row can exceed. Returns g.u.
    pub fn project(&self, isa: Isa, row: usize, gradient: &mut [C]) -> f64 {
        let (unit, length, mut radial) = (&self.row(row)[..self.dims], self.lengths[row], 0.0);
        isa.run(Project { unit, length, gradient, radial: &mut radial });
        radial
    }
}

/// See [`UnitRows::project`].
struct Project<'a, C> {
    unit: &'a [C],
    length: (C, C),
    gradient: &'a mut [C],
    radial: &'a mut f64,
}

impl<C: Float> Kernel for Project<'_, C> {
    #[inline(always)]
    fn run<S: InstructionSet>(self) {
        let Self { unit, length: (scale, rest), gradient, radial } = self;
        *radial = dot(gradient, unit);
        let along = C::from_f64(*radial);
        for (g, &u) in gradient.iter_mut().zip(unit) {
            let across = (*g - along * u) / rest / scale;
            *g = if across > C::MAX {
                C::MAX
            } else if across < C::ZERO - C::MAX {
                C::ZERO - C::MAX
            } else {
                across
            };
        }
    }
}

/// The inner product, in double precision.
#[inline(always)]
pub fn dot<C: Float>(a: &[C], b: &[C]) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for l in 0..8 {
            sums[l] += a[l].to_f64() * b[l].to_f64();
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a.to_f64() * b.to_f64()).sum();
    sums.iter().sum::<f64>() + rest
}

/// The length of a row, divided by the power of two that brings its largest element into [1, 2).
fn length_without_exponent<C: Float>((largest, rest): (C, C)) -> f32 {
    let largest = largest.to_f64();
    (largest / largest.log2().floor().exp2() * rest.to_f64()) as f32
}

/// Transposes 32 rows into a panel [dims][32]. Rows from `count` on are zeros.
fn transpose<C: Float>(rows: &[C], padded_dims: usize, count: usize, panel: &mut [C]) {
    if count < BLOCK_COLUMNS {
        panel.fill(C::ZERO);
    }
    for (dim, column) in panel.chunks_exact_mut(BLOCK_COLUMNS).enumerate() {
        for (row, element) in column.iter_mut().enumerate().take(count) {
            *element = rows[row * padded_dims + dim];
        }
    }
}

/// The reason why a row has no direction.
fn fault<E: Element>(parts: &[Rows<'_, E>], row: usize) -> RowFault {
    let (part, row) = locate(parts, row);
    let finite = (0..part.dims()).all(|dim| part.get(row, dim).widen().abs() <= E::Compute::MAX);
    if finite {
        RowFault::Zero
    } else {
        RowFault::NonFinite
    }
}

/// The part that contains a row, and the index of the row in this part.
fn locate<'a, 'b, E: Copy>(parts: &'b [Rows<'a, E>], mut row: usize) -> (&'b Rows<'a, E>, usize) {
    let mut part = 0;
    while row >= parts[part].rows() {
        row -= parts[part].rows();
        part += 1;
    }
    (&parts[part], row)
}

struct Normalise<'a, E: Element> {
    parts: &'a [Rows<'a, E>],
    start: usize,
    dims: usize,
    padded_dims: usize,
    data: &'a mut [E::Compute],
    lengths: &'a mut [(E::Compute, E::Compute)],
    first_bad: &'a AtomicUsize,
}

impl<E: Element> Kernel for Normalise<'_, E> {
    #[inline(always)]
    fn run<S: InstructionSet>(self) {
        for (i, length) in self.lengths.iter_mut().enumerate() {
            let unit = &mut self.data[i * self.padded_dims..][..self.padded_dims];
            let (part, row) = locate(self.parts, self.start + i);
            match part.contiguous(row) {
                Some(row) => unit.iter_mut().zip(row).for_each(|(element, &given)| *element = given.widen()),
                None => {
                    for (dim, element) in unit[..self.dims].iter_mut().enumerate() {
                        *element = part.get(row, dim).widen();
                    }
                }
            }
            match normalise(unit) {
                Some(found) => *length = found,
                None => {
                    self.first_bad.fetch_min(self.start + i, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Scales a row to length 1. Returns its largest absolute element, and its length divided by that. None if the row has
/// no direction.
#[inline(always)]
fn normalise<C: Float>(row: &mut [C]) -> Option<(C, C)> {
    let (lanes, _) = row.as_chunks_mut::<16>();
    let mut largest = [C::ZERO; 16];
    let mut finite = [true; 16];
    for lane in &*lanes {
        for l in 0..16 {
            largest[l] = largest[l].larger(lane[l].abs());
            finite[l] &= lane[l].abs() <= C::MAX;
        }
    }
    let scale = largest.iter().fold(C::ZERO, |a, &b| a.larger(b));
    if finite.contains(&false) || scale <= C::ZERO {
        return None;
    }
    let mut squares = [C::ZERO; 16];
    for lane in &mut *lanes {
        for l in 0..16 {
            lane[l] = lane[l] / scale;
            squares[l] += lane[l] * lane[l];
        }
    }
    let length = squares.iter().fold(C::ZERO, |a, &b| a + b).sqrt();
    for lane in lanes {
        for element in lane {
            *element = *element / length;
        }
    }
    Some((scale, length))
}
