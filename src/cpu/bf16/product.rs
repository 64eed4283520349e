//! A product of bfloat16 factors, with sums in single precision.
//!
//! The instructions take the inner dimension two by two, so a factor's elements are pairs of neighbours along it.

/// Pairs that one instruction of AMX takes along the inner dimension; the depth of every product is a multiple of it.
pub const DEPTH: usize = 16;

/// Two neighbours along the inner dimension, the earlier one in the low half.
pub type Pair = u32;

/// `out[r][c] (+)= sum_k left[r][k] . right[k][c]`, every element of a factor two numbers.
pub struct Bf16Product<'a> {
    /// Rows, `left_row` apart.
    pub left: &'a [Pair],
    /// At least `depth`.
    pub left_row: usize,
    /// Panels of 32 columns, `right_panel` apart, their rows `right_depth` apart.
    pub right: &'a [Pair],
    /// From one panel to the next.
    pub right_panel: usize,
    /// From one row of a panel to the next, at least 32.
    pub right_depth: usize,
    /// Rows, `out_row` apart.
    pub out: &'a mut [f32],
    /// At least `columns`.
    pub out_row: usize,
    /// A multiple of 8.
    pub rows: usize,
    /// A multiple of 32.
    pub columns: usize,
    /// Length of the inner dimension in pairs, a multiple of 16.
    pub depth: usize,
    /// Add to the result instead of overwriting it.
    pub add: bool,
}
