//! Threshold and sums over the negatives of a square problem from one look at each pair.

mod find;
mod lists;
mod sample;

pub use find::{find, Found};
