//! Turns a problem into launches.
//!
//! In the usual case (square, adaptive, beta 1) these are `rows`, `select`, `sums`, `anchors`, `gradient` and `finish`.
//! With more than 1,024 keys, four kernels find the quantiles: `sample`, `survivors`, `pick`, and `select_failed` for
//! the rows on which the others failed. Where the quantile is high, `sift`, `gather` and `settle` find quantiles and
//! sums in one pass (`joint.cu`), in place of `survivors`, `pick` and, unless that pass fails, `sums`. Where
//! anchors name keys, `index_*` sort the excluded pairs. Kernels for sm_90a may replace some of these (`hopper.rs`).

use std::ffi::c_void;
use std::ptr::{from_mut, from_ref, null, null_mut};

use super::hopper::{self, Hopper};
use super::memory::Scratch;
use super::parameters::{Inputs, Launch, Parameters, Side, Tiles};
use super::search::{Joint, SampledColumns, Search};
use super::sizes::*;
use super::{Buffers, Chip, Executor, Matrix, Part, Variant, MAX_DIMS};
use crate::error::Result;
use crate::operands::Operands;
use crate::problem::{Formulation, Pairing, Problem, Reduction, Threshold, Wanted};

/// The sums of all parts of the columns take at most this many bytes, unless those of a single part take more.
const SUM_PARTS: usize = 8 << 20;
/// Partial gradients take at most this many bytes. With the gradient itself, 65,536 rows of 128 dimensions then take
/// less than 100 MB.
const PARTIALS: usize = 32 << 20;
/// One pass for quantiles and sums adds up so many similarities on each multiprocessor in the time of the kernel
/// `total_similarity`: a twelfth of its instructions do, and an H200 took 0.8 us for a million pairs. The kernel is presumed
/// to take 5 us.
const TOTAL_PAIRS: usize = 1 << 19;
/// The largest exponent of e in single precision, with a margin.
const EXPONENTS: f64 = 0.95 * 87.3;

/// Checks that the kernels support a problem on a chip.
///
/// # Errors
/// The reason why they do not.
pub fn supports(problem: &Problem, views: usize, chip: Chip, variant: Variant) -> std::result::Result<(), String> {
    let tiles = TileSizes::of(variant);
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
    let rows_apart = problem.anchors.saturating_mul(problem.rows_apart());
    if problem.anchors.max(problem.keys).max(rows_apart) > 1 << 29 {
        return Err("more than 2^29 rows".into());
    }
    let pairs = problem.anchors.next_multiple_of(TILE_ROWS).saturating_mul(excluded(problem));
    if are_named(problem) && pairs >= 1 << 31 {
        return Err("2^31 pairs of anchors and keys that they name, or more".into());
    }
    let shared_bytes = tiles.shared_bytes().max(SELECT_SHARED);
    if shared_bytes > chip.shared_bytes {
        return Err(format!("{} bytes of shared memory, less than {shared_bytes}", chip.shared_bytes));
    }
    Ok(())
}

/// The parts of the kernels that [`evaluate`] launches, or [`row_quantiles`] if nothing is wanted.
pub fn parts(problem: &Problem, wanted: Option<Wanted>, variant: Variant) -> Vec<Part> {
    let general = is_general(problem);
    let either = |usual, other| if general { other } else { usual };
    let mut parts = vec![Part::Common];
    if let Threshold::Adaptive { quantile } = problem.threshold {
        parts.push(Part::Quantiles);
        if wanted.is_some() && joint(problem, quantile, variant).is_some() {
            parts.push(Part::Joint);
        }
    }
    if variant.hopper.is_some() {
        parts.push(Part::Hopper);
        return parts;
    }
    if wanted.is_some() || general {
        parts.push(either(Part::Sums, Part::GeneralSums));
    }
    if wanted.is_some_and(|wanted| wanted.anchors) {
        parts.push(either(Part::Gradient, Part::GeneralGradient));
    }
    parts
}

/// Bytes of device memory that [`evaluate`] needs besides inputs and outputs or, if nothing is wanted, that
/// [`row_quantiles`] needs.
pub fn scratch_bytes(problem: &Problem, wanted: Option<Wanted>, chip: Chip, variant: Variant) -> usize {
    let buffers = Buffers::nowhere(problem);
    let plan = match wanted {
        Some(wanted) => Plan::new(problem, &buffers, wanted, chip, variant),
        None => Plan::of_quantiles(problem, &buffers, chip, variant),
    };
    plan.scratch_bytes
}

/// Launches the kernels for the loss, its statistics and the wanted gradients. If the temperature is an operand, that
/// of the problem is NaN.
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
    if problem.own_negatives > 0 {
        plan.run(executor, "own_sums", [blocks(problem.anchors, WARPS), 1, 1], 0, Launch::default())?;
    }
    let launch = Launch { rows: plan.anchors_rows as i32, ..Launch::default() };
    plan.run(executor, "anchors", [blocks(problem.anchors, plan.anchors_rows), 1, 1], ANCHORS_SHARED, launch)?;
    if !wanted.anchors {
        return Ok(());
    }
    if plan.hopper.is_some() {
        let rows = plan.parameters.anchors.padded + plan.parameters.keys.padded;
        plan.run(executor, "note_coefficients", [blocks(rows as usize, THREADS), 1, 1], 0, Launch::default())?;
    }
    plan.gradient(executor, 0, &plan.parameters.anchors, buffers.anchors_gradient)?;
    if wanted.keys && !problem.square {
        plan.gradient(executor, 1, &plan.parameters.keys, buffers.keys_gradient)?;
    }
    if wanted.positives && problem.rows_apart() > 0 {
        let launch = Launch { gradient: buffers.positives_gradient, side: 2, splits: 0, ..Launch::default() };
        let rows = plan.parameters.apart.count as usize;
        plan.run(executor, "finish", [blocks(rows, WARPS), 1, 1], FINISH_SHARED, launch)?;
    }
    Ok(())
}

/// Launches the kernels for the quantile of each anchor's row of similarities, float32 [M] in `out`. The threshold must
/// be adaptive. The scratch memory is that of [`evaluate`] without gradients. No output of the buffers is written.
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
    let plan = Plan::of_quantiles(problem, buffers, chip, variant);
    plan.split(executor)?;
    let launch = Launch { output: out, ..Launch::default() };
    plan.run(executor, "copy_quantiles", [blocks(problem.anchors, THREADS), 1, 1], 0, launch)
}

fn blocks(of: usize, each: usize) -> usize {
    of.div_ceil(each)
}

/// The plan of one evaluation.
struct Plan<'a> {
    problem: &'a Problem,
    chip: Chip,
    /// Of a row in the scratch memory.
    dims: usize,
    tiles: TileSizes,
    hopper: Option<Hopper>,
    inputs: Inputs,
    parameters: Parameters,
    search: Option<Search>,
    /// One pass for the quantiles and the sums, if it is used.
    joint: Option<Joint>,
    /// Whether the general kernels are used.
    general: bool,
    /// Rows of a block of `anchors`.
    anchors_rows: usize,
    /// Memory for partial gradients, if the columns are split.
    partial: *mut c_void,
    scratch_bytes: usize,
}

impl<'a> Plan<'a> {
    fn new(problem: &'a Problem, buffers: &Buffers, wanted: Wanted, chip: Chip, variant: Variant) -> Self {
        let joint = match problem.threshold {
            Threshold::Adaptive { quantile } => joint(problem, quantile, variant),
            _ => None,
        };
        Self::with(problem, buffers, wanted, chip, variant, joint)
    }

    /// For the quantiles alone, which have a pass of their own then.
    fn of_quantiles(problem: &'a Problem, buffers: &Buffers, chip: Chip, variant: Variant) -> Self {
        let nothing = Wanted { anchors: false, keys: false, positives: false };
        Self::with(problem, buffers, nothing, chip, variant, None)
    }

    fn with(
        problem: &'a Problem,
        buffers: &Buffers,
        wanted: Wanted,
        chip: Chip,
        variant: Variant,
        joint: Option<Joint>,
    ) -> Self {
        let tiles = TileSizes::of(variant);
        let (beta, tau_plus) = weights(problem);
        let threshold = problem.threshold.simplified();
        let (threshold_number, threshold_value) = threshold_number(threshold);
        let (general, hopper) = (is_general(problem), variant.hopper);
        let block_rows = block_rows(hopper);
        let mut search = match threshold {
            Threshold::Adaptive { quantile } => Some(Search::new(problem, quantile, block_rows)),
            _ => None,
        };
        if let (Some(search), Some(joint)) = (&mut search, joint) {
            search.sample = Some(joint.sample);
        }
        if let Some(sample) = search.as_mut().and_then(|search| search.sample.as_mut()) {
            sample.rows = launch_rows(problem, sample.rows, &tiles, hopper, chip);
        }
        let sample = search.and_then(|search| search.sample);

        let operands = &buffers.operands;
        let key_labels = if problem.square { operands.anchor_labels } else { operands.key_labels };
        let mut scratch = Scratch::new(buffers.scratch);
        let header = scratch.take(HEADER_BYTES);
        let mut side = |count: usize, splits| scratch.side(count, block_rows, tiles.row_bytes, splits);
        let (rows, rows_apart) = (problem.anchors, problem.rows_apart());
        let anchors = side(rows, general);
        let keys = if problem.square { anchors } else { side(problem.keys, general) };
        let apart =
            if rows_apart > 0 { side(rows * rows_apart, false) } else { Side { count: 0, padded: 0, ..anchors } };
        let part_of_sums = anchors.padded as usize * SUMS * 4;
        let most = SPLITS.min(SUM_PARTS / part_of_sums);
        let compared = problem.compared_keys(0).len();
        let splits = pass_splits(anchors.padded as usize / block_rows, compared, &tiles, hopper, chip, most);
        let (excluded, are_named) = (excluded(problem), are_named(problem));
        // Only the gradient uses the lists of the keys.
        let key_wanted = are_named && wanted.anchors && (wanted.keys || problem.square);
        let pairs = rows * problem.positives();
        let parts = [(true, &anchors), (wanted.keys && !problem.square, &keys)];
        let partials =
            parts.map(
                |(is_wanted, side)| {
                    if is_wanted && wanted.anchors {
                        partial_bytes(problem, side, &tiles, hopper, chip)
                    } else {
                        0
                    }
                },
            );
        let mut inputs = Inputs {
            views: [Matrix::NONE; MAX_VIEWS],
            keys: operands.keys.unwrap_or(Matrix::NONE),
            positives: operands.positives.unwrap_or(Matrix::NONE),
        };
        for (to, view) in inputs.views.iter_mut().zip(&operands.views) {
            *to = *view;
        }
        let anchors_rows = spread(rows, THREADS, 4 * WARPS, chip);
        let summed = if joint.is_some() { summed_sides(problem, chip) } else { 0 };
        let mut parameters = Parameters {
            positive_index: operands.positive_index.unwrap_or(null()),
            ignored_index: operands.ignored_index.unwrap_or(null()),
            anchor_labels: operands.anchor_labels.unwrap_or(null()),
            key_labels: key_labels.unwrap_or(null()),
            epsilon: operands.threshold.map_or(null(), |number| number.pointer),
            given_temperature: operands.temperature.map_or(null(), |number| number.pointer),
            anchor_weights: operands.weights.unwrap_or(null()),
            loss: buffers.loss,
            statistics: buffers.statistics,
            temperature_gradient: buffers.temperature_gradient,
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
            excluded_keys: scratch.take_if(are_named, rows * excluded * 4),
            key_ends: scratch.take_if(key_wanted, problem.keys * 4),
            key_pairs: scratch.take_if(key_wanted, rows * excluded * 4),
            ranges: scratch.take_if(general, rows * 8),
            sums: null_mut(),
            parts: scratch
                .take_if(joint.is_some(), sample.map_or(0, |sample| part_bytes(problem, sample, &tiles, hopper, chip))),
            row_sums: scratch.take_if(summed > 0, summed * total_blocks(problem, chip) * variant.dims * 8),
            pending: null_mut(),
            pending_at: scratch.take_if(joint.is_some(), rows * 8),
            positive_similarities: scratch.take_if(pairs > 0, pairs * 4),
            positive_slopes: scratch.take_if(pairs > 0, pairs * 4),
            totals: scratch.take(blocks(rows, anchors_rows) * TOTALS * 8),
            radials: scratch.take_if(problem.temperature.is_nan(), blocks(rows, WARPS) * 8),
            threshold_value,
            beta,
            tau_plus,
            temperature: problem.temperature,
            least_temperature: least_temperature(threshold, beta),
            dims: problem.dims as i32,
            square: i32::from(problem.square),
            view_rows: (rows / operands.views.len().max(1)) as i32,
            tower: if problem.pairing == Pairing::Towers { compared as i32 } else { 0 },
            pairing: match problem.pairing {
                Pairing::Views { .. } | Pairing::Towers => 0,
                Pairing::Indexed { .. } => 1,
                Pairing::Apart => 2,
            },
            positives: problem.positives() as i32,
            excluded: excluded as i32,
            offset: match problem.pairing {
                Pairing::Views { offset, .. } => offset as i32,
                Pairing::Indexed { .. } | Pairing::Apart | Pairing::Towers => 0,
            },
            threshold: threshold_number,
            formulation: match problem.formulation {
                Formulation::Importance { .. } => 0,
                Formulation::Official => 1,
                Formulation::Decoupled => 2,
                Formulation::Supervised => 3,
                Formulation::Elimination => 4,
            },
            mean: i32::from(problem.reduction == Reduction::Mean && operands.weights.is_none()),
            one_loss: i32::from(problem.reduction != Reduction::None || operands.weights.is_some()),
            epsilon_scalar: operands.threshold.map_or(0, |number| number.scalar as i32),
            temperature_scalar: operands.temperature.map_or(0, |number| number.scalar as i32),
            capacity: sample.map_or(0, |sample| sample.capacity) as i32,
            splits: splits as i32,
            joint: i32::from(joint.is_some()),
            pending_capacity: joint.map_or(0, |joint| joint.pending) as i32,
            anchor_tiles: Tiles::NONE,
            key_tiles: Tiles::NONE,
            apart_similarities: scratch.take_if(reads_apart(problem), rows * rows_apart * 4),
            own_sums: scratch.take_if(problem.own_negatives > 0, rows * SUMS * 4),
            rows_apart: rows_apart as i32,
        };
        if hopper.is_some() {
            let mut tiles_of = |side: &Side| Tiles {
                rows: scratch.take(side.padded as usize * tiles.row_bytes),
                notes: scratch.take(Hopper::note_bytes(side.padded as usize)),
            };
            parameters.anchor_tiles = tiles_of(&anchors);
            parameters.key_tiles = if problem.square { parameters.anchor_tiles } else { tiles_of(&keys) };
        }
        // What finds the threshold is no longer used when the gradient starts. The similarities that wait for it use the
        // memory of the partial gradients. The survivors use that of the gradient if they fit, else the same.
        let pending = joint.map_or(0, |joint| (joint.pending * 4).next_multiple_of(16));
        let survivors = sample.map_or(0, |sample| sample.survivor_bytes());
        let in_output = wanted.anchors && survivors <= rows * problem.dims * 4;
        let before = pending + if in_output { 0 } else { survivors };
        // All sums are read before the gradient starts. `gather` writes those of the first part while it needs what finds
        // the threshold; the other parts come later, and use the memory of the partial gradients, which follows.
        parameters.sums = scratch.take(part_of_sums).cast();
        let partial = scratch.take(partials[0].max(partials[1]).max(before).max((splits - 1) * part_of_sums));
        parameters.pending = partial.cast();
        parameters.survivors =
            if in_output { buffers.anchors_gradient.cast() } else { partial.wrapping_byte_add(pending).cast() };
        Self {
            problem,
            chip,
            dims: variant.dims,
            tiles,
            hopper,
            inputs,
            parameters,
            search,
            joint,
            general,
            anchors_rows,
            partial,
            scratch_bytes: scratch.used(),
        }
    }

    /// Prepares the rows, and finds the thresholds and the shifts.
    fn split(&self, executor: &dyn Executor) -> Result<()> {
        let (p, anchors) = (&self.parameters, self.problem.anchors);
        let others = if self.problem.square { 0 } else { p.keys.padded } + p.apart.padded;
        let rows = (p.anchors.padded + others) as usize;
        let mut inputs = self.inputs;
        self.launch_with(executor, "rows", [blocks(rows, WARPS), 1, 1], THREADS, 0, from_mut(&mut inputs).cast())?;
        self.index(executor)?;
        let min_max = matches!(self.problem.threshold.simplified(), Threshold::MinMax { .. });
        // 8 anchors for each warp.
        let each_eight = blocks(anchors, 8 * WARPS);
        if reads_apart(self.problem) {
            let parts = blocks(self.problem.rows_apart(), 4).min(64);
            self.run(executor, "apart_similarities", [each_eight, parts, 1], 0, Launch::default())?;
        }
        if let Some(search) = self.search {
            self.quantiles(executor, search)?;
        }
        let each_anchor = [blocks(anchors, THREADS), 1, 1];
        if min_max {
            self.run_anchors_pass(executor, "ranges")?;
        }
        if matches!(self.problem.threshold, Threshold::Margin { .. }) && self.problem.pairing != Pairing::Apart {
            self.run(executor, "closest_positives", [each_eight, 1, 1], 0, Launch::default())?;
        }
        if self.general {
            self.run(executor, "settle_thresholds", each_anchor, 0, Launch::default())?;
        }
        if needs_precise_shifts(self.problem) {
            self.run_anchors_pass(executor, "maxima")?;
            self.run(executor, "settle_shifts", each_anchor, 0, Launch::default())?;
        }
        Ok(())
    }

    fn quantiles(&self, executor: &dyn Executor, search: Search) -> Result<()> {
        let (anchors, keys) = (self.problem.anchors, self.problem.compared_keys(0).len());
        let block_rows = spread(anchors, SELECT_ROWS, WARPS, self.chip);
        let all = match self.problem.pairing {
            // No block has rows of both towers.
            Pairing::Towers => 2 * blocks(anchors / 2, block_rows),
            _ => blocks(anchors, block_rows),
        };
        let launch = Launch { rows: block_rows as i32, ..Launch::default() };
        let Some(sample) = search.sample else {
            let launch = Launch { columns: keys as i32, rank: search.rank as i32, ..launch };
            return self.run(executor, "select", [all, 1, 1], SELECT_SHARED, launch);
        };
        if !self.parameters.row_sums.is_null() {
            let blocks = total_blocks(self.problem, self.chip);
            let launch = Launch { splits: blocks as i32, ..Launch::default() };
            self.run(executor, "total_similarity", [blocks, 1, 1], total_shared(self.dims), launch)?;
        }
        let rank = |rank: Option<usize>| rank.unwrap_or(0) as i32;
        let launch = Launch {
            columns: sample.columns as i32,
            rank: rank(sample.low),
            high_rank: rank(sample.high),
            floor_rank: rank(self.joint.map(|joint| joint.floor)),
            ceiling_rank: rank(self.joint.map(|joint| joint.ceiling)),
            ..launch
        };
        self.run(executor, "sample", [all, 1, 1], SELECT_SHARED, launch)?;
        for first in (0..anchors).step_by(sample.rows) {
            let rows = sample.rows.min(anchors - first);
            let launch = Launch {
                first_row: first as i32,
                rows: rows as i32,
                mode: sample.ends(),
                rank: search.rank as i32,
                ..Launch::default()
            };
            let launch = self.survivors(executor, rows, launch)?;
            match self.joint {
                Some(joint) => {
                    let threads = joint.warps * (THREADS / WARPS);
                    self.launch(executor, "gather", [rows, 1, 1], threads, GATHER_SHARED, launch)?;
                }
                None => self.run(executor, "pick", [blocks(rows, WARPS), 1, 1], PICK_SHARED, launch)?,
            }
        }
        // It is always launched. If no row failed, it only computes the mean. If no more failed than a block has rows, all
        // blocks search them together, in the memory of the survivors.
        let fitting = sample.survivor_bytes() / (4 * self.problem.row_length().next_multiple_of(4));
        let launch =
            |most: usize| Launch { rank: search.rank as i32, rows: fitting.min(most) as i32, ..Launch::default() };
        let multiprocessors = self.chip.multiprocessors as usize;
        if let Some(hopper) = self.hopper {
            let (launch, shared_bytes) = (launch(hopper::SELECT_ROWS), hopper.select_shared_bytes());
            return self.run(executor, "select_wgmma", [multiprocessors, 1, 1], shared_bytes, launch);
        }
        let blocks = blocks(anchors, SELECT_ROWS).clamp(multiprocessors, 2 * multiprocessors);
        self.run(executor, "select_failed", [blocks, 1, 1], SELECT_FAILED_SHARED, launch(SELECT_ROWS))
    }

    /// Sorts the excluded pairs, if the anchors name keys.
    fn index(&self, executor: &dyn Executor) -> Result<()> {
        let p = &self.parameters;
        if p.excluded_keys.is_null() {
            return Ok(());
        }
        let none = Launch::default();
        self.run(executor, "index_anchors", [blocks(self.problem.anchors, WARPS), 1, 1], 0, none)?;
        if p.key_ends.is_null() {
            return Ok(());
        }
        let pairs = self.problem.anchors * p.excluded as usize;
        self.run(executor, "index_starts", [1, 1, 1], INDEX_SHARED, none)?;
        self.run(executor, "index_pairs", [blocks(pairs, THREADS), 1, 1], 0, none)?;
        self.run(executor, "index_keys", [blocks(self.problem.keys, WARPS), 1, 1], 0, none)
    }

    /// Returns the arguments, with the number of parts of the columns.
    fn survivors(&self, executor: &dyn Executor, rows: usize, launch: Launch) -> Result<Launch> {
        let blocks = blocks(rows, block_rows(self.hopper));
        let keys = self.problem.compared_keys(0).len();
        let splits = pass_splits(blocks, keys, &self.tiles, self.hopper, self.chip, SPLITS);
        let kernel = match (self.hopper, self.joint) {
            (None, None) => "survivors",
            (None, Some(_)) => "sift",
            (Some(_), None) => "survivors_wgmma",
            (Some(_), Some(_)) => "sift_wgmma",
        };
        let launch = Launch { splits: splits as i32, ..launch };
        self.run_pass(executor, kernel, [blocks, splits, 1], launch)?;
        Ok(launch)
    }

    fn sums(&self, executor: &dyn Executor) -> Result<()> {
        if self.joint.is_some() {
            let rows = self.problem.anchors;
            self.run(executor, "settle", [blocks(rows, WARPS), 1, 1], 0, Launch::default())?;
        }
        let kernel = match self.hopper {
            Some(_) => "sums_wgmma",
            None if self.general => "sums_general",
            None => "sums",
        };
        self.run_anchors_pass(executor, kernel)
    }

    /// A pass over the similarities of all anchors with all keys.
    fn run_anchors_pass(&self, executor: &dyn Executor, kernel: &str) -> Result<()> {
        let p = &self.parameters;
        self.run_pass(
            executor,
            kernel,
            [p.anchors.padded as usize / block_rows(self.hopper), p.splits as usize, 1],
            Launch::default(),
        )
    }

    fn run_pass(&self, executor: &dyn Executor, kernel: &str, grid: [usize; 3], launch: Launch) -> Result<()> {
        let (threads, shared_bytes) = match self.hopper {
            Some(hopper) if kernel == "sift_wgmma" => (hopper::STRIP_THREADS, hopper.sift_shared_bytes()),
            Some(hopper) => (hopper::STRIP_THREADS, hopper.strip_shared_bytes()),
            None => (self.tiles.pass_threads, self.tiles.pass_shared_bytes()),
        };
        self.launch(executor, kernel, grid, threads, shared_bytes, launch)
    }

    /// The gradient for the anchors (0) or for the keys (1).
    fn gradient(&self, executor: &dyn Executor, number: i32, side: &Side, out: *mut f32) -> Result<()> {
        let kernel = if self.general { "gradient_general" } else { "gradient" };
        let splits = gradient_splits(self.problem, side, &self.tiles, self.hopper, self.chip);
        // A single part writes its sums to the memory of the gradient.
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
        if let Some(hopper) = self.hopper {
            let grid = [blocks(side.count as usize, hopper::GRADIENT_ROWS), splits, 1];
            let shared_bytes = hopper.gradient_shared_bytes();
            self.launch(executor, "gradient_wgmma", grid, hopper::GRADIENT_THREADS, shared_bytes, launch)?;
        } else {
            let grid = [side.padded as usize / TILE_ROWS, splits, chunks(self.problem, &self.tiles)];
            self.run(executor, kernel, grid, self.tiles.shared_bytes(), launch)?;
        }
        self.run(executor, "finish", [blocks(side.count as usize, WARPS), 1, 1], FINISH_SHARED, launch)
    }

    fn run(
        &self,
        executor: &dyn Executor,
        kernel: &str,
        grid: [usize; 3],
        shared_bytes: usize,
        launch: Launch,
    ) -> Result<()> {
        self.launch(executor, kernel, grid, THREADS, shared_bytes, launch)
    }

    fn launch(
        &self,
        executor: &dyn Executor,
        kernel: &str,
        grid: [usize; 3],
        threads: usize,
        shared_bytes: usize,
        mut launch: Launch,
    ) -> Result<()> {
        self.launch_with(executor, kernel, grid, threads, shared_bytes, from_mut(&mut launch).cast())
    }

    /// Launches a kernel with the parameters and what else it takes, by value.
    fn launch_with(
        &self,
        executor: &dyn Executor,
        kernel: &str,
        grid: [usize; 3],
        threads: usize,
        shared_bytes: usize,
        other: *mut c_void,
    ) -> Result<()> {
        let mut arguments = [from_ref(&self.parameters).cast_mut().cast(), other];
        executor.launch(kernel, grid.map(|n| n as u32), threads as u32, shared_bytes as u32, &mut arguments)
    }
}

/// The exponent of the weights, and the class prior.
fn weights(problem: &Problem) -> (f64, f64) {
    match problem.formulation {
        Formulation::Importance { beta, tau_plus } => (beta, tau_plus),
        // The weights are not used. With 1 they cost nothing.
        Formulation::Official | Formulation::Decoupled | Formulation::Elimination => (1.0, 0.0),
        // All weights are 1.
        Formulation::Supervised => (0.0, 0.0),
    }
}

/// Number of keys that are not negatives of an anchor, at most.
fn excluded(problem: &Problem) -> usize {
    match problem.pairing {
        // An anchor is not compared with its own tower, which contains it.
        Pairing::Towers => problem.positives(),
        Pairing::Views { .. } => problem.positives() + 1,
        Pairing::Indexed { positives } => positives + problem.ignored,
        Pairing::Apart => problem.ignored,
    }
}

/// Whether the anchors name keys that are not their negatives.
fn are_named(problem: &Problem) -> bool {
    matches!(problem.pairing, Pairing::Indexed { .. } | Pairing::Apart) && excluded(problem) > 0
}

/// Whether a kernel reads the similarities of the anchors with their rows apart.
fn reads_apart(problem: &Problem) -> bool {
    let of_positives = matches!(
        problem.threshold.simplified(),
        Threshold::Adaptive { .. } | Threshold::MinMax { .. } | Threshold::Margin { .. }
    );
    problem.own_negatives > 0 || problem.pairing == Pairing::Apart && of_positives
}

/// Whether the problem needs the general kernels: thresholds, exponents or shifts are not those of the usual case.
pub(super) fn is_general(problem: &Problem) -> bool {
    needs_precise_shifts(problem)
        || weights(problem).0 != 1.0
        || matches!(
            problem.threshold.simplified(),
            Threshold::MinMax { .. } | Threshold::Labels | Threshold::Margin { .. }
        )
}

/// One pass for the quantiles and the sums. None if it is not used.
fn joint(problem: &Problem, quantile: f64, variant: Variant) -> Option<Joint> {
    let usual = !is_general(problem) && problem.pairing != Pairing::Towers;
    let block_rows = block_rows(variant.hopper);
    usual.then(|| Joint::new(problem, &Search::new(problem, quantile, block_rows), block_rows)).flatten()
}

/// Rows of a block of the passes without a gradient.
fn block_rows(hopper: Option<Hopper>) -> usize {
    if hopper.is_some() {
        hopper::STRIP_ROWS
    } else {
        TILE_ROWS
    }
}

/// Bytes of the sums of the parts of the columns, in one launch of the pass for the quantiles and the sums.
fn part_bytes(
    problem: &Problem,
    sample: SampledColumns,
    tiles: &TileSizes,
    hopper: Option<Hopper>,
    chip: Chip,
) -> usize {
    let keys = problem.compared_keys(0).len();
    let bytes =
        |rows: usize| rows * pass_splits(blocks(rows, block_rows(hopper)), keys, tiles, hopper, chip, SPLITS) * 8;
    // The last launch may have fewer rows, and then more parts.
    bytes(sample.rows.min(problem.anchors)).max(bytes(problem.anchors % sample.rows))
}

/// The number of the threshold in the kernels, and its value.
fn threshold_number(threshold: Threshold) -> (i32, f64) {
    match threshold {
        Threshold::Adaptive { quantile } => (0, quantile),
        Threshold::Cosine { value } => (1, value),
        // The kernels read the value from the device.
        Threshold::Given => (1, f64::NAN),
        Threshold::MinMax { value } => (2, value),
        Threshold::Labels => (3, f64::NAN),
        Threshold::Margin { margin, relative: false } => (4, margin),
        Threshold::Margin { margin, relative: true } => (5, margin),
    }
}

/// Single precision holds the smallest possible exponential, exp(-2 (1 + beta) / t), at any temperature above this. All
/// shifts can then be 1. `Passes::shifts` of the CPU kernel has the same rule.
fn least_temperature(threshold: Threshold, beta: f64) -> f64 {
    let none_hierarchical = matches!(threshold, Threshold::Cosine { value } if value >= 1.0);
    let exponent = if none_hierarchical { 1.0 } else { 1.0 + beta };
    2.0 * exponent / EXPONENTS
}

/// Whether each anchor may need shifts of its own, its largest similarities. If the host does not know the temperature,
/// the kernels that find the shifts decide.
fn needs_precise_shifts(problem: &Problem) -> bool {
    let least = least_temperature(problem.threshold.simplified(), weights(problem).0);
    problem.temperature.is_nan() || problem.temperature <= least
}

/// The maximal number of parts of the columns.
const SPLITS: usize = 32;

/// The number of parts of the columns, at most `most`, for which the blocks end earliest.
fn splits(row_tiles: usize, column_tiles: usize, resident: usize, chip: Chip, most: usize) -> usize {
    let time = |splits| time_of(row_tiles, column_tiles, splits, resident, chip);
    (1..=most.min(column_tiles)).min_by_key(|&splits| (time(splits), splits)).unwrap_or(1)
}

/// How long blocks with so many parts of the columns take, in tiles. Starting and ending a block is assumed to take as
/// long as two tiles.
fn time_of(row_tiles: usize, column_tiles: usize, splits: usize, resident: usize, chip: Chip) -> usize {
    let slots = resident * chip.multiprocessors as usize;
    blocks(row_tiles * splits, slots) * (blocks(column_tiles, splits) + 2)
}

/// The rows of a block: `most`, or half of that down to `least` while each multiprocessor has at most one block.
fn spread(rows: usize, most: usize, least: usize, chip: Chip) -> usize {
    let mut each = most;
    while each > least && blocks(rows, each / 2) <= chip.multiprocessors as usize {
        each /= 2;
    }
    each
}

/// The number of parts in the passes without a gradient.
fn pass_splits(
    row_blocks: usize,
    keys: usize,
    tiles: &TileSizes,
    hopper: Option<Hopper>,
    chip: Chip,
    most: usize,
) -> usize {
    let (columns, resident) = pass_sizes(tiles, hopper);
    splits(row_blocks, blocks(keys, columns), resident, chip, most)
}

/// The columns of a tile in the passes without a gradient, and how many of their blocks a multiprocessor holds.
fn pass_sizes(tiles: &TileSizes, hopper: Option<Hopper>) -> (usize, usize) {
    hopper.map_or((tiles.pass_columns, tiles.resident), |hopper| (hopper.columns, 1))
}

/// The rows of a launch that looks for quantiles, at most `most`, for which all launches end earliest.
fn launch_rows(problem: &Problem, most: usize, tiles: &TileSizes, hopper: Option<Hopper>, chip: Chip) -> usize {
    let (anchors, keys, each) = (problem.anchors, problem.compared_keys(0).len(), block_rows(hopper));
    if most >= anchors {
        return most;
    }
    let (columns, resident) = pass_sizes(tiles, hopper);
    let time = |rows: usize| {
        let splits = pass_splits(blocks(rows, each), keys, tiles, hopper, chip, SPLITS);
        time_of(blocks(rows, each), blocks(keys, columns), splits, resident, chip)
    };
    let all = |rows: usize| anchors / rows * time(rows) + if anchors % rows > 0 { time(anchors % rows) } else { 0 };
    // Fewer rows would be more launches.
    let candidates = (blocks(most / 2, each)..=most / each).rev().map(|blocks| blocks * each);
    candidates.min_by_key(|&rows| all(rows)).unwrap_or(most)
}

/// The sides whose rows `total_similarity` adds up. None for few pairs.
fn summed_sides(problem: &Problem, chip: Chip) -> usize {
    let each = problem.anchors.saturating_mul(problem.keys) / chip.multiprocessors as usize;
    match each >= TOTAL_PAIRS {
        true if problem.square => 1,
        true => 2,
        false => 0,
    }
}

/// Blocks of the kernel `total_similarity`.
fn total_blocks(problem: &Problem, chip: Chip) -> usize {
    blocks(problem.anchors.max(problem.keys), WARPS).min(chip.multiprocessors as usize)
}

/// The number of blocks that share the dimensions of a row in the gradient.
fn chunks(problem: &Problem, tiles: &TileSizes) -> usize {
    blocks(Variant::padded(problem.dims), tiles.chunk)
}

fn gradient_splits(problem: &Problem, side: &Side, tiles: &TileSizes, hopper: Option<Hopper>, chip: Chip) -> usize {
    let other = match problem.pairing {
        Pairing::Towers => problem.anchors / 2,
        _ => problem.anchors + problem.keys - side.count as usize,
    };
    let most = SPLITS.min(PARTIALS / (side.count as usize * problem.dims * 4));
    match hopper {
        Some(hopper) => {
            splits(blocks(side.count as usize, hopper::GRADIENT_ROWS), blocks(other, hopper.columns), 1, chip, most)
        }
        None => splits(
            side.padded as usize / TILE_ROWS * chunks(problem, tiles),
            blocks(other, tiles.columns),
            1,
            chip,
            most,
        ),
    }
}

/// Bytes of the partial gradients of a side.
fn partial_bytes(problem: &Problem, side: &Side, tiles: &TileSizes, hopper: Option<Hopper>, chip: Chip) -> usize {
    match gradient_splits(problem, side, tiles, hopper, chip) {
        1 => 0,
        splits => splits * side.count as usize * problem.dims * 4,
    }
}

impl Tiles {
    /// No tiles.
    const NONE: Self = Self { rows: null_mut(), notes: null_mut() };
}

impl Matrix {
    /// No matrix.
    const NONE: Self = Self { pointer: null(), row_stride: 0, dim_stride: 0 };
}

impl Buffers {
    /// Null pointers, for a plan that is not launched.
    pub(super) fn nowhere(problem: &Problem) -> Self {
        let views = match problem.pairing {
            Pairing::Views { views, .. } => views,
            Pairing::Indexed { .. } | Pairing::Apart => 1,
            Pairing::Towers => 2,
        };
        Self {
            operands: Operands::of_views(vec![Matrix::NONE; views]),
            loss: null_mut(),
            statistics: null_mut(),
            anchors_gradient: null_mut(),
            keys_gradient: null_mut(),
            positives_gradient: null_mut(),
            temperature_gradient: null_mut(),
            scratch: null_mut(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
