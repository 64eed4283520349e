//! Products of bfloat16 rows, with the instructions of machines that have AMX or AVX-512 BF16.

mod amx;
mod avx512;
mod derivatives;
mod multiplier;
mod product;
mod rows;

pub use derivatives::Bf16Derivatives;
pub use multiplier::Bf16Multiplier;
pub use rows::{single, Bf16Rows};
