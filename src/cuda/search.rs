//! How the quantiles of the rows are found: directly for few keys, with a sample for many.

use super::sizes::{STRIP_BYTES, WARPS};
use crate::problem::{quantile_rank, Problem};

/// Up to this many keys, quantiles are found without a sample. Their similarities fit into shared memory as 32-bit
/// numbers.
pub(super) const DIRECT: usize = STRIP_BYTES / 4;
/// The largest sample, of 16-bit numbers. All sizes are powers of two, and multiples of the threads of a block.
const SAMPLE: usize = STRIP_BYTES / 2;
/// For N keys, a sample has about this many times N^(1/2) of them. Each takes time, and so do the survivors beyond the
/// rank, which are proportional to N divided by the root of their number, and more where a sample has few above the rank.
const SAMPLE_SHARE: f64 = 12.0;
/// The rank of a quantile in the sample is in its bracket up to so many standard deviations. With the skewness, less than
/// two rows in a million are missed, for which all keys are searched.
const DEVIATIONS: f64 = 4.5;
/// The survivors of one launch take at most this many bytes, unless those of a single block take more. Each launch takes
/// time to start and to end.
const SURVIVORS: usize = 64 << 20;
/// The similarities that wait for the threshold take at most this many bytes.
const PENDING: usize = 24 << 20;
/// The lists of one pass for quantiles and sums have room for a tenth of the keys, but at most this many, beside the part
/// that grows with the rank. So many leave room for 1,792 rows in a launch at 65,536 rows, which fill a chip.
const LIST: usize = 3072;
/// One pass for quantiles and sums lists more than one similarity in this many. It pays only if these are few.
const LEAST_SHARE: usize = 16;
/// The similarities of a list for which a warp more is worth it.
const LISTED_BY_WARP: f64 = 400.0;

/// `Bracket` of the kernels.
pub(super) mod bracket {
    pub(in crate::cuda) const LOW: i32 = 1;
    pub(in crate::cuda) const HIGH: i32 = 2;
}

/// How the quantiles of the rows are found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Search {
    pub(super) rank: usize,
    /// None if all columns are searched.
    pub(super) sample: Option<SampledColumns>,
}

/// A sample of the columns, and the ranks in it of the ends of the bracket. None for an open end.
#[derive(Debug, Clone, Copy)]
pub(super) struct SampledColumns {
    pub(super) columns: usize,
    pub(super) low: Option<usize>,
    pub(super) high: Option<usize>,
    /// The number of survivors that are kept for each row.
    pub(super) capacity: usize,
    /// The number of rows of a launch.
    pub(super) rows: usize,
}

impl Search {
    /// `block_rows`: the rows of a block of the kernel `survivors`.
    pub(super) fn new(problem: &Problem, quantile: f64, block_rows: usize) -> Self {
        let rank = quantile_rank(problem.row_length(), quantile);
        let sample = (problem.compared_keys(0).len() > DIRECT).then(|| SampledColumns::new(problem, rank, block_rows));
        Self { rank, sample }
    }
}

impl SampledColumns {
    fn new(problem: &Problem, rank: usize, block_rows: usize) -> Self {
        let keys = problem.compared_keys(0).len();
        let all = keys as f64;
        let columns = SAMPLE.min(1 << ((SAMPLE_SHARE * all.sqrt()) as usize).ilog2());
        let sampled = columns as f64;
        let share = |rank: usize| rank.min(keys) as f64 / all;
        // Of a binomial distribution with this share, by the expansion of Cornish and Fisher.
        let reach = |share: f64| DEVIATIONS * (sampled * share * (1.0 - share)).max(1.0).sqrt() + 1.0;
        let skew = |share: f64| (DEVIATIONS.powi(2) - 1.0) / 6.0 * (1.0 - 2.0 * share);
        // All own negatives may be less similar than the quantile, or all more similar.
        let (below, above) = (share(rank), share(rank.saturating_sub(problem.own_negatives)));
        let low = Some((sampled * below + skew(below) + reach(below)).ceil() as usize).filter(|&rank| rank <= columns);
        let high = Some((sampled * above + skew(above) - reach(above)).floor())
            .filter(|&rank| rank >= 1.0)
            .map(|rank| rank as usize);
        let window = (low.unwrap_or(columns + 1) - high.unwrap_or(0)) as f64;
        // The expected number of similarities in the bracket, and five standard deviations more.
        let kept = (window + 5.0 * window.sqrt()) * all / sampled;
        Self { columns, low, high, capacity: 0, rows: 0 }.keeping(kept as usize, problem, block_rows)
    }

    /// With room for `kept` survivors of each row.
    fn keeping(self, kept: usize, problem: &Problem, block_rows: usize) -> Self {
        let capacity = kept.min(problem.compared_keys(0).len()).next_multiple_of(32);
        let rows = (survivors(problem) / (4 * capacity) / block_rows * block_rows)
            .clamp(block_rows, problem.anchors.next_multiple_of(block_rows));
        Self { capacity, rows, ..self }
    }

    /// The bytes of the survivors of a launch.
    pub(super) fn survivor_bytes(&self) -> usize {
        self.rows * self.capacity * 4
    }

    /// The ends that the bracket has, as `LOW` and `HIGH` of the kernels.
    pub(super) fn ends(&self) -> i32 {
        let end = |rank: Option<usize>, bit| if rank.is_some() { bit } else { 0 };
        end(self.low, bracket::LOW) | end(self.high, bracket::HIGH)
    }
}

/// The bytes of the survivors of one launch, at most. They use the memory of the gradient, which then needs no other, if
/// it has at least half of what they may take.
fn survivors(problem: &Problem) -> usize {
    let gradient = problem.anchors.saturating_mul(problem.dims * 4);
    if gradient < SURVIVORS / 2 {
        SURVIVORS
    } else {
        SURVIVORS.min(gradient)
    }
}

/// How one pass finds the quantiles and the sums (`kernels/joint.cu`).
#[derive(Debug, Clone, Copy)]
pub(super) struct Joint {
    /// The sample, with a bracket that has no upper end.
    pub(super) sample: SampledColumns,
    /// The rank in the sample of the lower end of the threshold's bracket.
    pub(super) floor: usize,
    /// The same for the upper end. 0 if there is none.
    pub(super) ceiling: usize,
    /// The number of similarities in this bracket that are kept for all rows together. Even.
    pub(super) pending: usize,
    /// Warps of the block that searches the list of a row.
    pub(super) warps: usize,
}

impl Joint {
    /// None if the lists would be long, or if the bracket would be too narrow.
    pub(super) fn new(problem: &Problem, search: &Search, block_rows: usize) -> Option<Self> {
        let (sample, rank) = (search.sample?, search.rank);
        let (low, length) = (sample.low?, problem.row_length());
        if rank * LEAST_SHARE > length {
            return None;
        }
        let (sampled, keys) = (sample.columns as f64, problem.compared_keys(0).len() as f64);
        let place = |rank: usize| rank as f64 * (sampled + 1.0) / (length as f64 + 1.0);
        let center = place(rank);
        // All own negatives may be more similar than the threshold.
        let own = place(problem.own_negatives).ceil();
        // The similarities of all rows for each rank of the sample.
        let each = problem.anchors as f64 * keys / sampled;
        let most = (PENDING / 4) as f64;
        let window = (most / (1.5 * each) - own).min(2.0 * center.sqrt() + 2.0).floor();
        // The mean over the rows deviates less than one row, by the square root of `center`. How much less depends on
        // the data.
        if window < (0.4 * center.sqrt()).max(2.0) {
            return None;
        }
        let floor = (center + window / 2.0).round().min(sampled);
        let ceiling = (floor - window - own).max(0.0);
        let low = low as f64;
        let listed = low * keys / sampled;
        let kept = listed + 5.0 * low.sqrt() * keys / sampled;
        // Rows whose quantile is far above the threshold have long lists. docs/kernels.md tells how long.
        let list = (kept as usize).max(LIST.min(keys as usize / 10) + 9 * rank / 4);
        Some(Self {
            sample: SampledColumns { high: None, ..sample }.keeping(list, problem, block_rows),
            floor: floor as usize,
            ceiling: ceiling as usize,
            pending: ((4.0 * (floor - ceiling) * each).min(most) as usize).next_multiple_of(2),
            warps: ((listed / LISTED_BY_WARP).round() as usize).clamp(1, WARPS),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::plan::tests::views;
    use super::*;

    #[test]
    fn samples_grow_with_the_keys() {
        let columns = |rows: usize| {
            let problem = views(rows, 0.99);
            Search::new(&problem, 0.99, 128).sample.unwrap().columns
        };
        assert_eq!([1026, 2048, 4096, 8192, 16384, 32768, 65536].map(columns), [256, 512, 512, 1024, 1024, 2048, 2048]);
    }

    #[test]
    fn lists_have_room_for_rows_with_quantiles_far_above_the_mean() {
        let capacity = |rows: usize, quantile: f64| {
            let problem = views(rows, quantile);
            let sample = Joint::new(&problem, &Search::new(&problem, quantile, 128), 128).unwrap().sample;
            assert!(sample.rows >= rows.min(1024) && sample.survivor_bytes() <= survivors(&problem));
            sample.capacity
        };
        // At quantile 0.99 an eighth of the keys, and all rows of 8,192 in one launch.
        assert_eq!([8192, 16384, 65536].map(|rows| capacity(rows, 0.99)), [1024, 2016, 4576]);
        for rows in [8192, 32768] {
            assert!(capacity(rows, 0.95) >= 4 * quantile_rank(rows, 0.95));
        }
    }
}
