//! From a problem to launches.
//!
//! In the usual case (square, adaptive, beta 1) these are `rows`, `select`, `sums`, `anchors`, `gradient` and `finish`.
//! With more than 1,024 keys the quantiles take four kernels instead of one: `select` on a sample, `survivors`, `pick`,
//! and `select` on the rows that these failed on.

use std::f64::consts::LOG2_E;
use std::ffi::c_void;
use std::ptr::{from_mut, null, null_mut};

use super::memory::Scratch;
use super::parameters::{Launch, Parameters, Side};
use super::sizes::*;
use super::{Buffers, Chip, Executor, Matrix, Variant, MAX_DIMS};
use crate::error::Result;
use crate::operands::Operands;
use crate::problem::{quantile_rank, Formulation, Pairing, Problem, Reduction, Threshold, Wanted};

/// Up to this many keys quantiles are found without a sample.
const DIRECT: usize = 1024;
/// Largest sample.
const SAMPLE: usize = 1024;
/// The survivors of the rows of one launch take this many bytes at most, but for those of one tile.
const SURVIVORS: usize = 32 << 20;
/// Partial gradients take this many bytes at most, in the same memory: with the gradient itself, 65,536 rows of 128
/// dimensions take less than 100 MB.
const PARTIALS: usize = 32 << 20;
/// Exponents of e that single precision holds, with a margin.
const EXPONENTS: f64 = 0.95 * 87.3;

/// `SelectMode` of the sources.
pub(super) mod mode {
    pub(in crate::cuda) const ALL_ROWS: i32 = 0;
    pub(in crate::cuda) const SAMPLE_LOW: i32 = 1;
    pub(in crate::cuda) const SAMPLE_HIGH: i32 = 2;
    pub(in crate::cuda) const FAILED_ROWS: i32 = 3;
}

/// Whether the kernels compute a problem on a chip.
///
/// # Errors
/// Why not, in words.
pub fn supports(problem: &Problem, views: usize, chip: Chip, variant: Variant) -> std::result::Result<(), String> {
    let tiles = TileSizes::of(variant.row_bytes());
    let most = MAX_DIMS * 2 / variant.operand.bytes();
    if chip.capability < (8, 0) {
        let (major, minor) = chip.capability;
        return Err(format!("compute capability {major}.{minor}, less than 8.0"));
    }
    if variant.dims > most {
        return Err(format!("{} dimensions, more than {most}", problem.dims));
    }
    if views > MAX_VIEWS {
        return Err(format!("{views} views, more than {MAX_VIEWS}"));
    }
    if problem.anchors.max(problem.keys) > 1 << 29 {
        return Err("more than 2^29 rows".into());
    }
    if tiles.shared_bytes() > chip.shared_bytes {
        return Err(format!("{} bytes of shared memory, less than {}", chip.shared_bytes, tiles.shared_bytes()));
    }
    Ok(())
}

/// Bytes of device memory that [`evaluate`] needs besides inputs and outputs.
pub fn scratch_bytes(problem: &Problem, wanted: Wanted, chip: Chip, variant: Variant) -> usize {
    let buffers = Buffers::nowhere(problem);
    Plan::new(problem, &buffers, wanted, chip, variant).scratch_bytes
}

/// Launches the loss, its statistics and the gradients wanted.
///
/// # Errors
/// The executor's.
pub fn evaluate(
    problem: &Problem,
    buffers: &Buffers,
    wanted: Wanted,
    chip: Chip,
    variant: Variant,
    executor: &dyn Executor,
) -> Result<()> {
    let plan = Plan::new(problem, buffers, wanted, chip, variant);
    plan.split(executor)?;
    plan.sums(executor)?;
    plan.run(executor, "anchors", [blocks(problem.anchors, WARPS), 1, 1], ANCHORS_SHARED, Launch::default())?;
    if !wanted.anchors {
        return Ok(());
    }
    plan.gradient(executor, 0, &plan.parameters.anchors, buffers.anchors_gradient)?;
    if wanted.keys && !problem.square {
        plan.gradient(executor, 1, &plan.parameters.keys, buffers.keys_gradient)?;
    }
    if wanted.positives && problem.pairing == Pairing::Apart {
        let launch = Launch { gradient: buffers.positives_gradient, side: 2, splits: 0, ..Launch::default() };
        plan.run(executor, "finish", [blocks(problem.anchors, WARPS), 1, 1], 0, launch)?;
    }
    Ok(())
}

/// Launches each anchor's quantile of its row of similarities, float32 [M] in `out`. The problem's threshold must be
/// adaptive; the scratch is as for [`evaluate`] without gradients. Of the buffers' outputs none is written.
///
/// # Errors
/// The executor's.
pub fn row_quantiles(
    problem: &Problem,
    buffers: &Buffers,
    out: *mut f32,
    chip: Chip,
    variant: Variant,
    executor: &dyn Executor,
) -> Result<()> {
    let wanted = Wanted { anchors: false, keys: false, positives: false };
    let plan = Plan::new(problem, buffers, wanted, chip, variant);
    plan.split(executor)?;
    let launch = Launch { output: out, ..Launch::default() };
    plan.run(executor, "copy_quantiles", [blocks(problem.anchors, THREADS), 1, 1], 0, launch)
}

fn blocks(of: usize, each: usize) -> usize {
    of.div_ceil(each)
}

/// How the rows' quantiles are found.
#[derive(Debug, Clone, Copy)]
struct Search {
    rank: usize,
    /// None where all columns are looked at.
    sample: Option<SampledColumns>,
}

/// A sample of the columns, and the bracket that it gives: ranks in it, none where the bracket is open.
#[derive(Debug, Clone, Copy)]
struct SampledColumns {
    columns: usize,
    stride: usize,
    low: Option<usize>,
    high: Option<usize>,
    /// Survivors that are kept of a row.
    capacity: usize,
    /// Rows of a launch.
    rows: usize,
}

impl Search {
    fn new(problem: &Problem, quantile: f64) -> Self {
        let (keys, rank) = (problem.keys, quantile_rank(problem.row_length(), quantile));
        if keys <= DIRECT {
            return Self { rank, sample: None };
        }
        let columns = SAMPLE.min(keys / 4);
        let (sampled, all) = (columns as f64, keys as f64);
        let share = rank as f64 / all;
        // Four standard deviations of the rank in the sample to either side.
        let reach = 4.0 * (sampled * share * (1.0 - share)).max(1.0).sqrt() + 1.0;
        let low = Some((sampled * share + reach).ceil() as usize).filter(|&rank| rank <= columns);
        let high = Some((sampled * share - reach).floor()).filter(|&rank| rank >= 1.0).map(|rank| rank as usize);
        let inside = (low.unwrap_or(columns + 1) - high.unwrap_or(0)) as f64 * all / sampled;
        let capacity = ((2.0 * inside) as usize).next_multiple_of(32).min(keys.next_multiple_of(32));
        let rows = (SURVIVORS / (4 * capacity) / TILE_ROWS * TILE_ROWS)
            .clamp(TILE_ROWS, problem.anchors.next_multiple_of(TILE_ROWS));
        let stride = keys / columns;
        Self { rank, sample: Some(SampledColumns { columns, stride, low, high, capacity, rows }) }
    }
}

/// One evaluation, laid out.
struct Plan<'a> {
    problem: &'a Problem,
    chip: Chip,
    tiles: TileSizes,
    parameters: Parameters,
    search: Option<Search>,
    /// Thresholds, exponents or shifts are not those of the usual case.
    general: bool,
    /// Partial gradients, where there are several.
    partial: *mut c_void,
    scratch_bytes: usize,
}

impl<'a> Plan<'a> {
    fn new(problem: &'a Problem, buffers: &Buffers, wanted: Wanted, chip: Chip, variant: Variant) -> Self {
        let tiles = TileSizes::of(variant.row_bytes());
        let (beta, tau_plus) = match problem.formulation {
            Formulation::Importance { beta, tau_plus } => (beta, tau_plus),
            // The weights play no part; with 1 they cost nothing.
            Formulation::Official | Formulation::Decoupled => (1.0, 0.0),
        };
        let threshold = comparable(problem.threshold);
        let (threshold_number, threshold_value) = threshold_number(threshold);
        let precise_shifts = needs_precise_shifts(problem, threshold, beta);
        let general =
            precise_shifts || beta != 1.0 || matches!(threshold, Threshold::MinMax { .. } | Threshold::Labels);
        let search = match threshold {
            Threshold::Adaptive { quantile } => Some(Search::new(problem, quantile)),
            _ => None,
        };
        let sample = search.and_then(|search| search.sample);

        let operands = &buffers.operands;
        let key_labels = if problem.square { operands.anchor_labels } else { operands.key_labels };
        let mut scratch = Scratch::new(buffers.scratch);
        let header = scratch.take(HEADER_BYTES);
        let mut side = |count: usize| scratch.side(count, TILE_ROWS, tiles.row_bytes, general);
        let anchors = side(problem.anchors);
        let keys = if problem.square { anchors } else { side(problem.keys) };
        let apart = if problem.pairing == Pairing::Apart {
            side(problem.anchors)
        } else {
            Side { count: 0, padded: 0, ..anchors }
        };
        let rows = problem.anchors;
        let splits = splits(
            anchors.padded as usize / TILE_ROWS,
            blocks(problem.keys, tiles.columns),
            tiles.resident,
            chip,
            SPLITS,
        );
        let pairs = rows * problem.positives();
        let parts = [(true, &anchors), (wanted.keys && !problem.square, &keys)];
        let partials =
            parts.map(
                |(is_wanted, side)| {
                    if is_wanted && wanted.anchors {
                        partial_bytes(problem, side, &tiles, chip)
                    } else {
                        0
                    }
                },
            );
        let mut parameters = Parameters {
            views: [Matrix::NONE; MAX_VIEWS],
            keys_matrix: operands.keys.unwrap_or(Matrix::NONE),
            positives_matrix: operands.positives.unwrap_or(Matrix::NONE),
            positive_index: operands.positive_index.unwrap_or(null()),
            ignored_index: operands.ignored_index.unwrap_or(null()),
            anchor_labels: operands.anchor_labels.unwrap_or(null()),
            key_labels: key_labels.unwrap_or(null()),
            epsilon: operands.threshold.map_or(null(), |number| number.pointer),
            anchor_weights: operands.weights.unwrap_or(null()),
            loss: buffers.loss,
            statistics: buffers.statistics,
            header,
            anchors,
            keys,
            apart,
            quantiles: scratch.take_if(search.is_some(), rows * 4),
            lows: scratch.take_if(sample.is_some(), rows * 4),
            highs: scratch.take_if(sample.is_some(), rows * 4),
            above: scratch.take_if(sample.is_some(), rows * 4),
            inside: scratch.take_if(sample.is_some(), rows * 4),
            survivors: null_mut(),
            failed: scratch.take_if(sample.is_some(), rows * 4),
            ranges: scratch.take_if(general, rows * 8),
            sums: scratch.take(splits * anchors.padded as usize * SUMS * 4),
            positive_similarities: scratch.take(pairs * 4),
            positive_slopes: scratch.take(pairs * 4),
            totals: scratch.take(blocks(rows, WARPS) * TOTALS * 8),
            threshold_value,
            beta,
            tau_plus,
            temperature: problem.temperature,
            exponent: (LOG2_E / problem.temperature) as f32,
            concentration: (beta * LOG2_E / problem.temperature) as f32,
            dims: problem.dims as i32,
            square: i32::from(problem.square),
            view_rows: (rows / operands.views.len().max(1)) as i32,
            pairing: match problem.pairing {
                Pairing::Views { .. } => 0,
                Pairing::Indexed { .. } => 1,
                Pairing::Apart => 2,
            },
            positives: problem.positives() as i32,
            excluded: if problem.pairing == Pairing::Apart { 0 } else { problem.positives() as i32 + 1 },
            offset: match problem.pairing {
                Pairing::Views { offset, .. } => offset as i32,
                Pairing::Indexed { .. } | Pairing::Apart => 0,
            },
            threshold: threshold_number,
            formulation: match problem.formulation {
                Formulation::Importance { .. } => 0,
                Formulation::Official => 1,
                Formulation::Decoupled => 2,
            },
            mean: i32::from(problem.reduction == Reduction::Mean && operands.weights.is_none()),
            one_loss: i32::from(problem.reduction != Reduction::None || operands.weights.is_some()),
            epsilon_scalar: operands.threshold.map_or(0, |number| number.scalar as i32),
            precise_shifts: i32::from(precise_shifts),
            capacity: sample.map_or(0, |sample| sample.capacity) as i32,
            splits: splits as i32,
        };
        for (to, view) in parameters.views.iter_mut().zip(&operands.views) {
            *to = *view;
        }
        // Survivors are done with when the gradient begins.
        let survivors = sample.map_or(0, |sample| sample.rows * sample.capacity * 4);
        let partial = scratch.take(partials[0].max(partials[1]).max(survivors));
        parameters.survivors = partial;
        Self { problem, chip, tiles, parameters, search, general, partial, scratch_bytes: scratch.used() }
    }

    /// Prepares the rows, and finds what the similarities of hierarchical negatives exceed.
    fn split(&self, executor: &dyn Executor) -> Result<()> {
        let (p, anchors) = (&self.parameters, self.problem.anchors);
        let others = if self.problem.square { 0 } else { p.keys.padded } + p.apart.padded;
        let rows = (p.anchors.padded + others) as usize;
        self.run(executor, "rows", [blocks(rows, WARPS), 1, 1], 0, Launch::default())?;
        let min_max = matches!(comparable(self.problem.threshold), Threshold::MinMax { .. });
        if self.problem.pairing == Pairing::Apart && (self.search.is_some() || min_max) {
            self.run(executor, "positives", [blocks(anchors, WARPS), 1, 1], 0, Launch::default())?;
        }
        if let Some(search) = self.search {
            self.quantiles(executor, search)?;
        }
        let each_anchor = [blocks(anchors, THREADS), 1, 1];
        if min_max {
            self.run_tiles(executor, "ranges", &p.anchors, p.splits as usize, 1, Launch::default())?;
        }
        if self.general {
            self.run(executor, "settle_thresholds", each_anchor, 0, Launch::default())?;
        }
        if p.precise_shifts != 0 {
            self.run_tiles(executor, "maxima", &p.anchors, p.splits as usize, 1, Launch::default())?;
            self.run(executor, "settle_shifts", each_anchor, 0, Launch::default())?;
        }
        Ok(())
    }

    fn quantiles(&self, executor: &dyn Executor, search: Search) -> Result<()> {
        let (anchors, keys) = (self.problem.anchors, self.problem.keys);
        let select = |mode: i32, grid: usize, columns: usize, stride: usize, rank: usize| {
            let (columns, stride, rank) = (columns as i32, stride as i32, rank as i32);
            let launch = Launch { mode, columns, stride, rank, ..Launch::default() };
            self.run(executor, "select", [grid, 1, 1], SELECT_SHARED, launch)
        };
        let all = blocks(anchors, SELECT_ROWS);
        let Some(sample) = search.sample else {
            return select(mode::ALL_ROWS, all, keys, 1, search.rank);
        };
        let mut brackets = 0;
        for (bit, mode, rank) in [(1, mode::SAMPLE_LOW, sample.low), (2, mode::SAMPLE_HIGH, sample.high)] {
            if let Some(rank) = rank {
                select(mode, all, sample.columns, sample.stride, rank)?;
                brackets |= bit;
            }
        }
        for first in (0..anchors).step_by(sample.rows) {
            let rows = sample.rows.min(anchors - first);
            let tiles = blocks(rows, TILE_ROWS);
            let splits = splits(tiles, blocks(keys, self.tiles.columns), self.tiles.resident, self.chip, SPLITS);
            let launch = Launch {
                first_row: first as i32,
                rows: rows as i32,
                mode: brackets,
                rank: search.rank as i32,
                ..Launch::default()
            };
            self.run(executor, "survivors", [tiles, splits, 1], self.tiles.shared_bytes(), launch)?;
            self.run(executor, "pick", [blocks(rows, WARPS), 1, 1], PICK_SHARED, launch)?;
        }
        // Always launched; where no row failed, all that it does is the mean.
        let blocks = all.min(2 * self.chip.multiprocessors as usize);
        select(mode::FAILED_ROWS, blocks, keys, 1, search.rank)
    }

    fn sums(&self, executor: &dyn Executor) -> Result<()> {
        let kernel = if self.general { "sums_general" } else { "sums" };
        let p = &self.parameters;
        self.run_tiles(executor, kernel, &p.anchors, p.splits as usize, 1, Launch::default())
    }

    /// Of the anchors (0) or of the keys (1).
    fn gradient(&self, executor: &dyn Executor, number: i32, side: &Side, out: *mut f32) -> Result<()> {
        let kernel = if self.general { "gradient_general" } else { "gradient" };
        let splits = gradient_splits(self.problem, side, &self.tiles, self.chip);
        // Without other parts the sums stand where the gradient will.
        let partial = if splits == 1 { out.cast() } else { self.partial };
        let launch = Launch {
            partial,
            partial_rows: i64::from(side.count),
            partial_dims: self.problem.dims as i64,
            gradient: out,
            side: number,
            splits: splits as i32,
            ..Launch::default()
        };
        self.run_tiles(executor, kernel, side, splits, chunks(self.problem, &self.tiles), launch)?;
        self.run(executor, "finish", [blocks(side.count as usize, WARPS), 1, 1], 0, launch)
    }

    fn run_tiles(
        &self,
        executor: &dyn Executor,
        kernel: &str,
        rows: &Side,
        splits: usize,
        chunks: usize,
        launch: Launch,
    ) -> Result<()> {
        self.run(
            executor,
            kernel,
            [rows.padded as usize / TILE_ROWS, splits, chunks],
            self.tiles.shared_bytes(),
            launch,
        )
    }

    fn run(
        &self,
        executor: &dyn Executor,
        kernel: &str,
        grid: [usize; 3],
        shared_bytes: usize,
        mut launch: Launch,
    ) -> Result<()> {
        let mut parameters = self.parameters;
        let mut arguments = [from_mut(&mut parameters).cast(), from_mut(&mut launch).cast()];
        executor.launch(kernel, grid.map(|n| n as u32), THREADS as u32, shared_bytes as u32, &mut arguments)
    }
}

/// The threshold as the kernels compare with it. Nothing exceeds 1 and everything exceeds minus infinity, on any scale.
fn comparable(threshold: Threshold) -> Threshold {
    match threshold {
        Threshold::MinMax { value } if value >= 1.0 || value.is_infinite() => Threshold::Cosine { value },
        other => other,
    }
}

/// `Threshold` of the sources, and its value.
fn threshold_number(threshold: Threshold) -> (i32, f64) {
    match threshold {
        Threshold::Adaptive { quantile } => (0, quantile),
        Threshold::Cosine { value } => (1, value),
        // Read from the device.
        Threshold::Given => (1, f64::NAN),
        Threshold::MinMax { value } => (2, value),
        Threshold::Labels => (3, f64::NAN),
    }
}

/// Whether single precision may not hold the smallest exponential there may be, exp(-2 (1 + beta) / t), so that each
/// anchor's largest similarities are to be the shifts. `Passes::shifts` of the CPU kernel decides alike.
fn needs_precise_shifts(problem: &Problem, threshold: Threshold, beta: f64) -> bool {
    let none_hierarchical = matches!(threshold, Threshold::Cosine { value } if value >= 1.0);
    let exponent = if none_hierarchical { 1.0 } else { 1.0 + beta };
    2.0 * exponent / problem.temperature >= EXPONENTS
}

/// Most parts that the columns go to blocks in.
const SPLITS: usize = 32;

/// In how many parts the columns go to blocks, `most` at most: as many as end first, where a block also takes as long as
/// two tiles to begin and end.
fn splits(row_tiles: usize, column_tiles: usize, resident: usize, chip: Chip, most: usize) -> usize {
    let slots = resident * chip.multiprocessors as usize;
    let time = |splits: usize| blocks(row_tiles * splits, slots) * (blocks(column_tiles, splits) + 2);
    (1..=most.min(column_tiles)).min_by_key(|&splits| (time(splits), splits)).unwrap_or(1)
}

/// Blocks that share a row's dimensions in the gradient.
fn chunks(problem: &Problem, tiles: &TileSizes) -> usize {
    blocks(Variant::padded(problem.dims), tiles.chunk)
}

fn gradient_splits(problem: &Problem, side: &Side, tiles: &TileSizes, chip: Chip) -> usize {
    let other = problem.anchors + problem.keys - side.count as usize;
    let most = SPLITS.min(PARTIALS / (side.count as usize * problem.dims * 4));
    splits(side.padded as usize / TILE_ROWS * chunks(problem, tiles), blocks(other, tiles.columns), 1, chip, most)
}

/// Bytes of partial gradients of a side.
fn partial_bytes(problem: &Problem, side: &Side, tiles: &TileSizes, chip: Chip) -> usize {
    match gradient_splits(problem, side, tiles, chip) {
        1 => 0,
        splits => splits * side.count as usize * problem.dims * 4,
    }
}

impl Matrix {
    /// No matrix.
    const NONE: Self = Self { pointer: null(), row_stride: 0, dim_stride: 0 };
}

impl Buffers {
    /// No memory at all, to lay out a problem.
    fn nowhere(problem: &Problem) -> Self {
        let views = match problem.pairing {
            Pairing::Views { views, .. } => views,
            Pairing::Indexed { .. } | Pairing::Apart => 1,
        };
        Self {
            operands: Operands::of_views(vec![Matrix::NONE; views]),
            loss: null_mut(),
            statistics: null_mut(),
            anchors_gradient: null_mut(),
            keys_gradient: null_mut(),
            positives_gradient: null_mut(),
            scratch: null_mut(),
        }
    }
}

#[cfg(test)]
mod tests;
