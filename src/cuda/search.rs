//! How the quantiles of the rows are found: directly for few keys, with a sample for many.

use super::sizes::STRIP_BYTES;
use crate::problem::{quantile_rank, Problem};

/// Up to this many keys, quantiles are found without a sample. Their similarities fit into shared memory as 32-bit
/// numbers.
pub(super) const DIRECT: usize = STRIP_BYTES / 4;
/// The largest sample, of 16-bit numbers. All sizes are powers of two.
const SAMPLE: usize = STRIP_BYTES / 2;
/// The survivors of one launch take at most this many bytes, unless those of a single block take more.
const SURVIVORS: usize = 32 << 20;

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
        let columns = SAMPLE.min(1 << (keys / 4).ilog2());
        let (sampled, all) = (columns as f64, keys as f64);
        let share = rank as f64 / all;
        // Four standard deviations of the rank in the sample, on either side.
        let reach = 4.0 * (sampled * share * (1.0 - share)).max(1.0).sqrt() + 1.0;
        let low = Some((sampled * share + reach).ceil() as usize).filter(|&rank| rank <= columns);
        let high = Some((sampled * share - reach).floor()).filter(|&rank| rank >= 1.0).map(|rank| rank as usize);
        let window = (low.unwrap_or(columns + 1) - high.unwrap_or(0)) as f64;
        // The expected number of similarities in the bracket, and five standard deviations more.
        let kept = (window + 5.0 * window.sqrt()) * all / sampled;
        let capacity = (kept as usize).min(keys).next_multiple_of(32);
        let rows = (SURVIVORS / (4 * capacity) / block_rows * block_rows)
            .clamp(block_rows, problem.anchors.next_multiple_of(block_rows));
        Self { columns, low, high, capacity, rows }
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
