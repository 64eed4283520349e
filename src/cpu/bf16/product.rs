//! A product of bfloat16 factors, with sums in single precision.
//!
//! The instructions take two numbers along the inner dimension at a time, so the elements of a factor are pairs.

/// Number of pairs that one AMX instruction takes along the inner dimension. The depth of every product is a multiple
/// of it.
pub const DEPTH: usize = 16;

/// Two neighbours along the inner dimension. The first one is in the low half.
pub type Pair = u32;

/// The product `out[r][c] (+)= sum_k left[r][k] . right[k][c]`, where each element of a factor is a pair of numbers.
pub struct Bf16Product<'a> {
    /// The rows of the left factor, `left_row` apart.
    pub left: &'a [Pair],
    /// Distance of the rows of the left factor, at least `depth`.
    pub left_row: usize,
    /// The right factor in panels of 32 columns, `right_panel` apart. The rows of a panel are `right_depth` apart.
    pub right: &'a [Pair],
    /// Distance from one panel to the next.
    pub right_panel: usize,
    /// Distance from one row of a panel to the next, at least 32.
    pub right_depth: usize,
    /// The rows of the result, `out_row` apart.
    pub out: &'a mut [f32],
    /// Distance of the rows of the result, at least `columns`.
    pub out_row: usize,
    /// Number of rows, a multiple of 8.
    pub rows: usize,
    /// Number of columns, a multiple of 32.
    pub columns: usize,
    /// Length of the inner dimension in pairs, a multiple of 16.
    pub depth: usize,
    /// Whether to add to the result instead of overwriting it.
    pub add: bool,
}
