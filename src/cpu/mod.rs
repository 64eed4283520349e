//! The fused loss on the CPU: threshold, loss and gradient in O((M + N) D) memory.
//!
//! Similarities are computed two or three times instead of being stored, unless they fit a small cache or the rows are
//! few beside their dimensions (`similarities`). For the adaptive threshold of a square problem, one pass over the pairs
//! (`joint`) finds the threshold and the sums over the negatives. If this pass does not apply or does not succeed, the
//! thresholds are computed first, from whole rows, and then the sums, from tiles. The gradient is computed last, from
//! tiles.

// Parts of this module are for the instruction sets of x86-64.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_imports))]

mod apart;
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

// The statistics of whole sets of embeddings use these.
pub(crate) use simd::{InstructionSet, Kernel, Selector, BLOCK_COLUMNS, LANES};
pub(crate) use similarities::Products;
pub(crate) use threads::{for_each, Schedule, Shared};
pub(crate) use unit_rows::UnitRows;
