//! One evaluation, pass by pass.

use super::element::Element;
use super::float::Float;
use super::gradient;
use super::inputs::{Evaluation, Gradients, Inputs, Rows};
use super::isa::Isa;
use super::pairs::{check_length, Pairs};
use super::similarities::Similarities;
use super::threads::Shared;
use super::thresholds::{row_quantiles as quantiles_of_rows, row_ranges};
use super::tile::{Exponents, Maxima, Shifts, Sum, Tile, MAX_TILE, SUMS};
use super::unit::UnitRows;
use crate::error::{Error, Input, Result};
use crate::formula::{self, Anchor, Sums};
use crate::problem::{Formulation, Pairing, Problem, Reduction, Statistics, Threshold};

/// Up to this many rows, smaller tiles: enough of them for every thread.
const SMALL: usize = 2048;

/// The loss, its statistics and the gradients asked for, on up to `threads` threads.
///
/// # Errors
/// [`Error::Value`] for numbers or lengths out of range, [`Error::Row`] for the first row without a direction.
pub fn evaluate<E: Element>(
    problem: &Problem,
    inputs: &Inputs<'_, E>,
    gradients: Gradients<'_, E::Compute>,
    threads: usize,
) -> Result<Evaluation> {
    evaluate_with(problem, inputs, gradients, threads, Isa::best())
}

/// Each anchor's quantile of its row of similarities; the adaptive threshold is their mean.
///
/// # Errors
/// As [`evaluate`].
pub fn row_quantiles<E: Element>(
    problem: &Problem,
    inputs: &Inputs<'_, E>,
    quantile: f64,
    threads: usize,
) -> Result<Vec<f64>> {
    Problem { threshold: Threshold::Adaptive { quantile }, ..*problem }.validate()?;
    let isa = Isa::best();
    let units = Units::new(problem, inputs, isa, threads)?;
    let similarities = units.similarities();
    Ok(quantiles_of_rows(problem, &similarities, &units.positive_similarities(problem), quantile))
}

/// [`evaluate`] with a given instruction set.
pub(super) fn evaluate_with<E: Element>(
    problem: &Problem,
    inputs: &Inputs<'_, E>,
    gradients: Gradients<'_, E::Compute>,
    threads: usize,
    isa: Isa,
) -> Result<Evaluation> {
    problem.validate()?;
    if let Some(weights) = inputs.weights {
        check_length("weights", weights.len(), problem.anchors)?;
    }
    let units = Units::new(problem, inputs, isa, threads)?;
    let positives = units.positive_similarities(problem);
    let mut similarities = units.similarities();
    let split = Split::new(problem, inputs, &similarities, &positives)?;
    similarities.keep_negatives();
    let passes = Passes { problem, similarities: &similarities, split: &split };
    let shifts = passes.shifts();
    let sums = passes.sums(&shifts);

    let mut derivatives = vec![0.0; positives.len()];
    let mut anchors: Vec<Anchor> = sums
        .iter()
        .zip(positives.chunks_exact(problem.positives()))
        .zip(derivatives.chunks_exact_mut(problem.positives()))
        .map(|((sums, positives), derivatives)| formula::anchor(problem, sums, positives, derivatives))
        .collect();
    let statistics = statistics(problem, &units, &split, &sums, &anchors, &positives);
    let losses: Vec<f64> = anchors.iter().map(|anchor| anchor.loss).collect();
    let weights = anchor_weights(problem, inputs.weights, &anchors);
    let loss = losses.iter().enumerate().map(|(i, loss)| weights(i) * loss).sum();
    for (i, (anchor, derivatives)) in anchors.iter_mut().zip(derivatives.chunks_exact_mut(problem.positives())).enumerate() {
        anchor.scale(weights(i));
        derivatives.iter_mut().for_each(|derivative| *derivative *= weights(i));
    }
    gradient::write(&passes, &units, &shifts, &anchors, &derivatives, gradients);
    Ok(Evaluation { loss, losses, statistics })
}

/// The weight of an anchor's loss in the loss.
fn anchor_weights<'a>(
    problem: &Problem,
    given: Option<&'a [f64]>,
    anchors: &[Anchor],
) -> impl Fn(usize) -> f64 + 'a {
    let defined = anchors.iter().filter(|anchor| anchor.defined).count().max(1);
    let equal = match problem.reduction {
        Reduction::Mean => 1.0 / defined as f64,
        Reduction::Sum | Reduction::None => 1.0,
    };
    move |anchor| given.map_or(equal, |weights| weights[anchor])
}

/// The normalised inputs.
pub(super) struct Units<C> {
    pub anchors: UnitRows<C>,
    pub keys: Option<UnitRows<C>>,
    pub apart: Option<UnitRows<C>>,
    pub pairs: Pairs,
    tile: usize,
    isa: Isa,
    pub threads: usize,
}

impl<C: Float> Units<C> {
    fn new<E: Element<Compute = C>>(problem: &Problem, inputs: &Inputs<'_, E>, isa: Isa, threads: usize) -> Result<Self> {
        let tile = if problem.anchors.max(problem.keys) <= SMALL { MAX_TILE / 2 } else { MAX_TILE };
        let unit = |input, parts: &[Rows<'_, E>], rows: usize| {
            check_shape(input, parts, rows, problem.dims)?;
            UnitRows::new(input, parts, tile, isa, threads)
        };
        let anchors = unit(Input::Anchors, inputs.anchors, problem.anchors)?;
        let keys = match (problem.square, inputs.keys) {
            (true, None) => None,
            (false, Some(keys)) => Some(unit(Input::Keys, &[keys], problem.keys)?),
            _ => return Err(Error::value("expected `keys` where the anchors are not the keys, and only there")),
        };
        let apart = match (problem.pairing, inputs.positives) {
            (Pairing::Apart, Some(rows)) => Some(unit(Input::Positives, &[rows], problem.anchors)?),
            (Pairing::Views { .. } | Pairing::Indexed { .. }, None) => None,
            _ => return Err(Error::value("expected `positives` where they are not among the keys, and only there")),
        };
        Ok(Self { anchors, keys, apart, pairs: Pairs::new(problem, inputs)?, tile, isa, threads })
    }

    fn similarities(&self) -> Similarities<'_, C> {
        Similarities::new(&self.anchors, self.keys.as_ref(), &self.pairs, self.tile, self.isa, self.threads)
    }

    /// [anchors, positives]
    fn positive_similarities(&self, problem: &Problem) -> Vec<f64> {
        let keys = self.keys.as_ref().unwrap_or(&self.anchors);
        let mut all = Vec::with_capacity(problem.anchors * problem.positives());
        for anchor in 0..problem.anchors {
            let row = self.anchors.row(anchor);
            match &self.apart {
                Some(apart) => all.push(dot(row, apart.row(anchor))),
                None => all.extend(self.pairs.positives(anchor).iter().map(|&key| dot(row, keys.row(key as usize)))),
            }
        }
        all
    }

    /// Mean similarity of anchors and their negatives, without looking at each pair:
    /// the sum over an anchor's row is its product with the sum of all keys.
    fn negative_similarity(&self, problem: &Problem, positives: &[f64], negatives: f64) -> f64 {
        let keys = self.keys.as_ref().unwrap_or(&self.anchors);
        let total = |rows: &UnitRows<C>| {
            let mut sum = vec![0.0; rows.padded_dims];
            for row in 0..rows.rows {
                sum.iter_mut().zip(rows.row(row)).for_each(|(sum, x)| *sum += x.to_f64());
            }
            sum
        };
        let all: f64 = total(&self.anchors).iter().zip(total(keys)).map(|(a, b)| a * b).sum();
        let excluded: f64 = match problem.pairing {
            Pairing::Apart => 0.0,
            // The positives, and the anchors themselves.
            Pairing::Views { .. } => positives.iter().sum::<f64>() + problem.anchors as f64,
            Pairing::Indexed { .. } => (0..problem.anchors)
                .map(|anchor| {
                    let row = self.anchors.row(anchor);
                    self.pairs.excluded_once(anchor).map(|key| dot(row, keys.row(key as usize))).sum::<f64>()
                })
                .sum(),
        };
        (all - excluded) / negatives
    }
}

/// The inner product, in double precision.
fn dot<C: Float>(a: &[C], b: &[C]) -> f64 {
    let mut sums = [0.0; 8];
    for (a, b) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
        for l in 0..8 {
            sums[l] += a[l].to_f64() * b[l].to_f64();
        }
    }
    sums.iter().sum()
}

fn check_shape<E: Element>(input: Input, parts: &[Rows<'_, E>], rows: usize, dims: usize) -> Result<()> {
    let got: usize = parts.iter().map(Rows::rows).sum();
    match parts.iter().find(|part| part.dims() != dims) {
        None if got == rows => Ok(()),
        part => Err(Error::value(format!(
            "expected `{input}` to have shape [{rows}, {dims}], but got [{got}, {}]",
            part.map_or(dims, Rows::dims)
        ))),
    }
}

/// What decides which negatives are hierarchical, one number for each anchor and each key, padding included.
pub(super) struct Split<C> {
    /// The numbers are labels, not thresholds.
    pub labels: bool,
    /// For the anchors.
    pub rows: Vec<C>,
    /// For the keys; empty where these are the anchors.
    pub columns: Vec<C>,
    /// The threshold, NaN where labels decide.
    threshold: f64,
}

impl<C: Float> Split<C> {
    fn new<E>(
        problem: &Problem,
        inputs: &Inputs<'_, E>,
        similarities: &Similarities<'_, C>,
        positives: &[f64],
    ) -> Result<Self> {
        let (rows, columns) = (similarities.anchors.padded_rows, similarities.keys.padded_rows);
        let thresholds = |threshold: f64, rows: Vec<C>| Self {
            labels: false,
            rows,
            // Only rows decide where the keys are not anchors.
            columns: if problem.square { vec![] } else { vec![C::INFINITY; columns] },
            threshold,
        };
        // Nothing is above 1, whatever rounding says.
        let limit = |threshold: f64| if threshold >= 1.0 { C::INFINITY } else { C::from_f64(threshold) };
        Ok(match problem.threshold {
            Threshold::Adaptive { quantile } => {
                let quantiles = quantiles_of_rows(problem, similarities, positives, quantile);
                let threshold = quantiles.iter().sum::<f64>() / problem.anchors as f64;
                thresholds(threshold, vec![limit(threshold); rows])
            }
            Threshold::Cosine { value } => thresholds(value, vec![limit(value); rows]),
            Threshold::MinMax { value } if value >= 1.0 => thresholds(value, vec![C::INFINITY; rows]),
            Threshold::MinMax { value } => {
                let mut own = vec![C::INFINITY; rows];
                for (own, (low, high)) in own.iter_mut().zip(row_ranges(problem, similarities, positives)) {
                    *own = C::from_f64(low + value * (high - low));
                }
                thresholds(value, own)
            }
            Threshold::Labels => {
                check_length("anchor_labels", inputs.anchor_labels.len(), problem.anchors)?;
                if !problem.square {
                    check_length("key_labels", inputs.key_labels.len(), problem.keys)?;
                }
                let mut numbers = Numbers::default();
                let mut numbered = |labels: &[i64], length: usize| {
                    let mut out: Vec<C> = labels.iter().map(|&label| C::from_f64(numbers.of(label))).collect();
                    out.resize(length, C::NEG_INFINITY);
                    out
                };
                let rows = numbered(inputs.anchor_labels, rows);
                let columns = if problem.square { vec![] } else { numbered(inputs.key_labels, columns) };
                Self { labels: true, rows, columns, threshold: f64::NAN }
            }
        })
    }

    /// The keys' numbers.
    pub fn columns(&self) -> &[C] {
        if self.columns.is_empty() {
            &self.rows
        } else {
            &self.columns
        }
    }
}

/// Numbers labels 0, 1, 2 in the order in which they come: a float holds these exactly, and not every label.
#[derive(Default)]
struct Numbers(std::collections::HashMap<i64, usize>);

impl Numbers {
    fn of(&mut self, label: i64) -> f64 {
        let next = self.0.len();
        *self.0.entry(label).or_insert(next) as f64
    }
}

/// Shifts of each anchor, padding included.
pub(super) struct AnchorShifts<C> {
    pub shared: bool,
    pub global: Vec<C>,
    pub hierarchical: Vec<C>,
}

impl<C: Float> AnchorShifts<C> {
    /// The shifts of `count` anchors from `start` on.
    pub fn part(&self, start: usize, count: usize) -> Shifts<'_, C> {
        Shifts { global: &self.global[start..][..count], hierarchical: &self.hierarchical[start..][..count] }
    }
}

/// The passes over the tiles.
pub(super) struct Passes<'a, C> {
    pub problem: &'a Problem,
    pub similarities: &'a Similarities<'a, C>,
    pub split: &'a Split<C>,
}

impl<C: Float> Passes<'_, C> {
    /// The tile (a, b), computed or fetched.
    pub fn tile<'s>(&'s self, a: usize, b: usize, scratch: &'s mut [C]) -> Tile<'s, C> {
        let size = self.similarities.tile;
        let (similarities, stride) = self.similarities.tile(a, b, scratch);
        Tile {
            similarities,
            stride,
            rows: size.min(self.problem.anchors - a * size),
            columns: size,
            both_sides: self.problem.square && a != b,
            labels: self.split.labels,
            row_split: &self.split.rows[a * size..][..size],
            column_split: &self.split.columns()[b * size..][..size],
        }
    }

    /// The part of an anchors' array that belongs to the columns of a tile, which has it only where it has both sides.
    pub fn column_block(&self, a: usize, b: usize) -> usize {
        if self.problem.square {
            b
        } else {
            a
        }
    }

    /// The exponentials of the problem.
    pub fn exponents(&self, shared: bool) -> Exponents<C> {
        let beta = self.beta();
        Exponents {
            inverse_temperature: C::from_f64(1.0 / self.problem.temperature),
            concentration: C::from_f64(beta / self.problem.temperature),
            beta_is_one: beta == 1.0,
            shared,
        }
    }

    fn beta(&self) -> f64 {
        match self.problem.formulation {
            Formulation::Importance { beta, .. } => beta,
            // The weights play no part; with 1 they cost nothing.
            Formulation::Official | Formulation::Decoupled => 1.0,
        }
    }

    /// One shift for all where the type holds the smallest exponential there may be, exp(-2 (1 + beta) / t);
    /// else each anchor's largest similarities, by a pass of their own.
    fn shifts(&self) -> AnchorShifts<C> {
        let none_hierarchical = !self.split.labels && self.split.rows.iter().all(|&t| t >= C::INFINITY);
        let exponent = if none_hierarchical { 1.0 } else { 1.0 + self.beta() };
        let rows = self.similarities.anchors.padded_rows;
        let shared = 2.0 * exponent / self.problem.temperature < 0.95 * -C::EXP_MIN.to_f64();
        if shared {
            return AnchorShifts { shared, global: vec![C::ONE; rows], hierarchical: vec![C::ONE; rows] };
        }
        let mut maxima = vec![[C::NEG_INFINITY; 2]; rows];
        let all = Shared::new(&mut maxima);
        self.for_each_tile(|similarities, tile, a, b| {
            // SAFETY: the schedule gives both blocks to this call alone; they are one where b is not used.
            let (rows, columns) = unsafe { two_blocks(&all, a, b, &tile) };
            similarities.isa.run(Maxima { tile, rows, columns });
        });
        // An empty set has no terms, and any shift does.
        let finite = |set: usize| maxima.iter().map(|m| if m[set] > C::NEG_INFINITY { m[set] } else { C::ONE }).collect();
        AnchorShifts { shared, global: finite(0), hierarchical: finite(1) }
    }

    /// The sums over each anchor's negatives.
    fn sums(&self, shifts: &AnchorShifts<C>) -> Vec<Sums> {
        let exponents = self.exponents(shifts.shared);
        let mut sums = vec![[0.0; SUMS]; self.similarities.anchors.padded_rows];
        let all = Shared::new(&mut sums);
        self.for_each_tile(|similarities, tile, a, b| {
            let size = similarities.tile;
            let row_shifts = shifts.part(a * size, size);
            let column_shifts = shifts.part(self.column_block(a, b) * size, size);
            // SAFETY: as in `shifts`.
            let (rows, columns) = unsafe { two_blocks(&all, a, b, &tile) };
            similarities.isa.run(Sum { tile, exponents, row_shifts, column_shifts, rows, columns });
        });
        (0..self.problem.anchors)
            .map(|anchor| {
                let [global, weighted, weights, hierarchical] = sums[anchor];
                let excluded = match self.problem.pairing {
                    Pairing::Apart => 0,
                    Pairing::Views { views, .. } => views,
                    Pairing::Indexed { .. } => self.similarities.pairs.excluded_once(anchor).count(),
                };
                Sums {
                    global_shift: shifts.global[anchor].to_f64(),
                    hierarchical_shift: shifts.hierarchical[anchor].to_f64(),
                    global,
                    weighted,
                    weights,
                    hierarchical,
                    negatives: (self.problem.keys - excluded) as f64,
                }
            })
            .collect()
    }

    fn for_each_tile(&self, each: impl Fn(&Similarities<'_, C>, Tile<'_, C>, usize, usize) + Sync) {
        let similarities = self.similarities;
        let scratch = || vec![C::ZERO; similarities.tile * similarities.tile];
        similarities.schedule.run(similarities.threads, scratch, |scratch, a, b| {
            each(similarities, self.tile(a, b, scratch), a, b);
        });
    }
}

/// The parts of an anchors' array that belong to the rows of a tile, and to its columns where it has both sides.
///
/// # Safety
/// No other thread has the blocks `a` and (where the tile has both sides) `b` at the same time.
unsafe fn two_blocks<'a, T, C>(all: &'a Shared<T>, a: usize, b: usize, tile: &Tile<'_, C>) -> (&'a mut [T], &'a mut [T]) {
    let size = tile.columns;
    // SAFETY: the caller's; the two blocks differ where the second is not empty.
    unsafe { (all.slice(a * size, size), all.slice(b * size * usize::from(tile.both_sides), size * usize::from(tile.both_sides))) }
}

fn statistics<C: Float>(
    problem: &Problem,
    units: &Units<C>,
    split: &Split<C>,
    sums: &[Sums],
    anchors: &[Anchor],
    positives: &[f64],
) -> Statistics {
    let count = problem.anchors as f64;
    let negatives = sums.iter().map(|sums| sums.negatives).sum();
    Statistics {
        threshold: split.threshold,
        hierarchical: sums.iter().map(|sums| sums.hierarchical).sum::<f64>() / count,
        positive_similarity: positives.iter().sum::<f64>() / positives.len() as f64,
        negative_similarity: units.negative_similarity(problem, positives, negatives),
        floor_fraction: anchors.iter().map(|anchor| anchor.at_floor).sum::<usize>() as f64 / positives.len() as f64,
        undefined: anchors.iter().filter(|anchor| !anchor.defined).count() as f64,
    }
}
