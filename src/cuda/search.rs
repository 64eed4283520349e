//! How the rows' quantiles are found: few keys at once, many by a sample of them.

use super::sizes::STRIP_BYTES;
use crate::problem::{quantile_rank, Problem};

/// Up to this many keys quantiles are found without a sample: so many numbers of 32 bits stay in shared memory.
pub(super) const DIRECT: usize = STRIP_BYTES / 4;
/// Largest sample, of numbers of 16 bits; all are powers of two.
const SAMPLE: usize = STRIP_BYTES / 2;
/// The survivors of the rows of one launch take this many bytes at most, but for those of one block.
const SURVIVORS: usize = 32 << 20;

/// `Bracket` of the sources.
pub(super) mod bracket {
    pub(in crate::cuda) const LOW: i32 = 1;
    pub(in crate::cuda) const HIGH: i32 = 2;
}

/// How the rows' quantiles are found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Search {
    pub(super) rank: usize,
    /// None where all columns are looked at.
    pub(super) sample: Option<SampledColumns>,
}

/// A sample of the columns, and the bracket that it gives: ranks in it, none where the bracket is open.
#[derive(Debug, Clone, Copy)]
pub(super) struct SampledColumns {
    pub(super) columns: usize,
    pub(super) low: Option<usize>,
    pub(super) high: Option<usize>,
    /// Survivors that are kept of a row.
    pub(super) capacity: usize,
    /// Rows of a launch.
    pub(super) rows: usize,
}

impl Search {
    /// `block_rows`: rows of a block of `survivors`.
    pub(super) fn new(problem: &Problem, quantile: f64, block_rows: usize) -> Self {
        let rank = quantile_rank(problem.row_length(), quantile);
        let sample = (problem.keys > DIRECT).then(|| SampledColumns::new(problem, rank, block_rows));
        Self { rank, sample }
    }
}

impl SampledColumns {
    fn new(problem: &Problem, rank: usize, block_rows: usize) -> Self {
        let keys = problem.keys;
        let columns = SAMPLE.min(1 << (keys / 4).ilog2());
        let (sampled, all) = (columns as f64, keys as f64);
        let share = rank as f64 / all;
        // Four standard deviations of the rank in the sample to either side.
        let reach = 4.0 * (sampled * share * (1.0 - share)).max(1.0).sqrt() + 1.0;
        let low = Some((sampled * share + reach).ceil() as usize).filter(|&rank| rank <= columns);
        let high = Some((sampled * share - reach).floor()).filter(|&rank| rank >= 1.0).map(|rank| rank as usize);
        let window = (low.unwrap_or(columns + 1) - high.unwrap_or(0)) as f64;
        // As many as there are between two of the sample that are so far apart, and five standard deviations more.
        let kept = (window + 5.0 * window.sqrt()) * all / sampled;
        let capacity = (kept as usize).min(keys).next_multiple_of(32);
        let rows = (SURVIVORS / (4 * capacity) / block_rows * block_rows)
            .clamp(block_rows, problem.anchors.next_multiple_of(block_rows));
        Self { columns, low, high, capacity, rows }
    }

    /// Bytes of the survivors of a launch.
    pub(super) fn survivor_bytes(&self) -> usize {
        self.rows * self.capacity * 4
    }

    /// `LOW` and `HIGH` of the sources.
    pub(super) fn ends(&self) -> i32 {
        let end = |rank: Option<usize>, bit| if rank.is_some() { bit } else { 0 };
        end(self.low, bracket::LOW) | end(self.high, bracket::HIGH)
    }
}
