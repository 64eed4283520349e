//! The fused loss on the CPU: threshold, loss and gradient in O((M + N) D) memory.
//!
//! Similarities are computed up to three times instead of being kept: once by rows for the
//! threshold, once by tiles for the sums over the negatives, once by tiles for the gradient.
//! In a square problem the latter two look at each pair once, for both of its anchors.

mod element;
mod evaluate;
mod float;
mod gradient;
mod half_rows;
mod inputs;
mod isa;
mod pairs;
mod passes;
mod product;
mod schedule;
mod select;
mod similarities;
mod split;
#[cfg(test)]
mod tests;
mod threads;
mod thresholds;
mod tile;
mod unit;
mod units;

pub use element::Element;
pub use evaluate::{evaluate, row_quantiles};
pub use float::Float;
pub use inputs::{Evaluation, Gradients, Inputs, Rows};
pub use isa::Isa;

// What the statistics of whole sets are made of.
pub(crate) use isa::{InstructionSet, Kernel};
pub(crate) use product::{Block, BLOCK_COLUMNS, BLOCK_ROWS};
pub(crate) use schedule::Schedule;
pub(crate) use select::Selector;
pub(crate) use threads::{for_each, Shared};
pub(crate) use unit::UnitRows;
