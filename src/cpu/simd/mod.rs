//! Vector arithmetic, with one source for every instruction set, and the kernels for a tile of similarities.

mod block;
mod float;
mod instruction_set;
mod lanes;
mod select;
mod tile;

pub use block::{prefetch, Block, BLOCK_COLUMNS, BLOCK_ROWS};
pub use float::{Float, MultiplyAdd};
pub use instruction_set::{InstructionSet, Isa, Kernel};
pub use lanes::{add, group, group_mut, lanes, Group, LANES};
pub use select::Selector;
pub use tile::{Coefficients, Derivatives, Exponents, Maxima, Shifts, Sum, Tile, MAX_TILE, SUMS};
