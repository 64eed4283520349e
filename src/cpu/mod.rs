//! The fused loss on the CPU: threshold, loss and gradient in O((M + N) D) memory.
//!
//! Similarities are computed two or three times instead of being kept. The adaptive threshold of a square problem
//! comes with the sums over the negatives from one look at each pair (`joint`), for both of its anchors. Where that does
//! not apply or does not succeed, thresholds come first, by whole rows, and the sums after them, by tiles. The gradient
//! is the last, by tiles.

mod amx;
mod element;
mod evaluate;
mod float;
mod gradient;
mod half_product;
mod half_rows;
mod inputs;
mod isa;
mod joint;
mod lists;
mod pairs;
mod passes;
mod product;
mod sample;
mod schedule;
mod select;
mod similarities;
mod spare;
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
