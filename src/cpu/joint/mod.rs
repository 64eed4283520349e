//! Threshold and sums over the negatives of a square problem, from a single pass over the pairs.

mod find;
mod lists;
mod sample;

pub use find::{find, Found};
