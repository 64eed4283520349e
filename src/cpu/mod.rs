//! The fused loss on the CPU: threshold, loss and gradient in O((M + N) D) memory.
//!
//! Similarities are computed two or three times instead of being kept. The adaptive threshold of a square problem
//! comes with the sums over the negatives from one look at each pair (`joint`), for both of its anchors. Where that does
//! not apply or does not succeed, thresholds come first, by whole rows, and the sums after them, by tiles. The gradient
//! is the last, by tiles.

mod bf16;
mod element;
mod evaluate;
mod gradient;
mod joint;
mod outputs;
mod pairs;
mod passes;
mod prepared;
mod rows;
mod simd;
mod similarities;
mod split;
#[cfg(test)]
mod tests;
mod threads;
mod thresholds;
mod unit_rows;

pub use element::Element;
pub use evaluate::{evaluate, row_quantiles};
pub use outputs::{Evaluation, Gradients};
pub use rows::{BorrowedOperands, Rows};
pub use simd::{Float, Isa};

// What the statistics of whole sets are made of.
pub(crate) use simd::{InstructionSet, Kernel, Selector, BLOCK_COLUMNS, LANES};
pub(crate) use similarities::Products;
pub(crate) use threads::{for_each, Schedule, Shared};
pub(crate) use unit_rows::UnitRows;
