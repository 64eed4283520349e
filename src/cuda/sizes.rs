//! The sizes that both host and kernels use. They are defined in `kernels/parameters.cu` and read from it when the
//! crate is compiled.

use super::{Operand, Variant};

const SOURCE: &[u8] = include_bytes!("kernels/parameters.cu");

/// Threads of a block.
pub const THREADS: usize = defined("THREADS");
/// Warps of a block.
pub const WARPS: usize = THREADS / defined("LANES");
/// Rows of a tile.
pub const TILE_ROWS: usize = WARPS * defined("WARP_ROWS");
/// Rows of a block of the kernel `select`.
pub const SELECT_ROWS: usize = defined("SELECT_ROWS");
/// Bytes of similarities that it keeps for each row.
pub const STRIP_BYTES: usize = defined("STRIP_BYTES");
/// Bytes of shared memory of the kernels without tiles.
pub const SELECT_SHARED: usize = defined("SELECT_SHARED");
/// As above.
pub const PICK_SHARED: usize = WARPS * defined("DIGITS") * 4;
/// As above.
pub const GATHER_SHARED: usize = defined("GATHER_SHARED");
/// As above.
pub const SELECT_FAILED_SHARED: usize = defined("SELECT_FAILED_SHARED");
/// As above.
pub const INDEX_SHARED: usize = defined("INDEX_SHARED");
/// As above.
pub const ANCHORS_SHARED: usize = defined("ANCHORS_SHARED");
/// As above.
pub const FINISH_SHARED: usize = defined("FINISH_SHARED");
/// Bytes of shared memory of `total_similarity`, for rows of `dims` dimensions in the scratch memory.
pub fn total_shared(dims: usize) -> usize {
    ((WARPS + 2) * dims + WARPS + 1) * 8
}

/// Bytes of a `Header`.
pub const HEADER_BYTES: usize = defined("HEADER_BYTES");
/// Bytes of a `Card`.
pub const CARD_BYTES: usize = defined("CARD_BYTES");
/// Bytes of a `Split`.
pub const SPLIT_BYTES: usize = defined("SPLIT_BYTES");
/// Sums over an anchor's negatives, floats.
pub const SUMS: usize = defined("SUMS");
/// Sums over all anchors, doubles.
pub const TOTALS: usize = defined("TOTALS");
/// The maximal number of views.
pub const MAX_VIEWS: usize = defined("MAX_VIEWS");

const SHORT_ROW: usize = defined("SHORT_ROW");
const SHORT_ROW_RESIDENT: usize = defined("SHORT_ROW_RESIDENT");
const LONG_ROW: usize = defined("LONG_ROW");
const LONG_ROW_CHUNK: usize = defined("LONG_ROW_CHUNK");
const MAX_CHUNK: usize = defined("MAX_CHUNK");
const COLUMNS: usize = defined("COLUMNS");
const FEW_COLUMNS: usize = defined("FEW_COLUMNS");

/// The sizes of a tile, which depend on the bytes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileSizes {
    /// Bytes of a row.
    pub row_bytes: usize,
    /// Columns of a tile in the gradient.
    pub columns: usize,
    /// Columns of a tile in the passes without a gradient.
    pub pass_columns: usize,
    /// Threads of a block of these passes.
    pub pass_threads: usize,
    /// Blocks of these passes that a multiprocessor holds.
    pub resident: usize,
    /// The maximal number of dimensions that a block adds in the gradient.
    pub chunk: usize,
}

impl TileSizes {
    /// The sizes for a variant. The conditions are those of `kernels/tile.cu` and `kernels/derivatives.cu`.
    pub fn of(variant: Variant) -> Self {
        let row_bytes = variant.row_bytes();
        let is_split = variant.operand == Operand::SplitTf32;
        let (is_short, is_long) = (row_bytes <= SHORT_ROW, row_bytes > LONG_ROW);
        // Whether a warp has two groups of rows in the passes.
        let has_two = is_short || !(is_split || is_long);
        Self {
            row_bytes,
            columns: if is_split || is_long { FEW_COLUMNS } else { COLUMNS },
            pass_columns: FEW_COLUMNS,
            pass_threads: if has_two { THREADS / 2 } else { THREADS },
            resident: match has_two {
                false => 1,
                true if is_split || !is_short => 2,
                true => SHORT_ROW_RESIDENT,
            },
            chunk: if is_long { LONG_ROW_CHUNK } else { MAX_CHUNK },
        }
    }

    /// Bytes of shared memory of the two stages of the gradient: the rows of the columns with 16 bytes of padding each,
    /// their cards and their splits.
    pub fn shared_bytes(&self) -> usize {
        self.stages(self.columns)
    }

    /// As [`Self::shared_bytes`], for the passes without a gradient.
    pub fn pass_shared_bytes(&self) -> usize {
        self.stages(self.pass_columns)
    }

    fn stages(&self, columns: usize) -> usize {
        2 * columns * (self.row_bytes + 16 + CARD_BYTES + SPLIT_BYTES)
    }
}

/// The value of the macro with this name. Only for constants: it reads the whole source, which takes microseconds.
const fn defined(name: &str) -> usize {
    let mut at = 0;
    while !(starts(at, b"#define ") && starts(at + 8, name.as_bytes()) && SOURCE[at + 8 + name.len()] == b' ') {
        at += 1;
        assert!(at < SOURCE.len(), "the kernels define no such size");
    }
    at += 8 + name.len() + 1;
    let mut number = 0;
    while SOURCE[at].is_ascii_digit() {
        number = 10 * number + (SOURCE[at] - b'0') as usize;
        at += 1;
    }
    assert!(number > 0 && (SOURCE[at] == b'\n' || starts(at, b"  //")), "expected a plain number");
    number
}

const fn starts(at: usize, with: &[u8]) -> bool {
    let mut i = 0;
    while i < with.len() && at + i < SOURCE.len() && SOURCE[at + i] == with[i] {
        i += 1;
    }
    i == with.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_sizes_are_read() {
        assert_eq!((THREADS, WARPS, TILE_ROWS, MAX_VIEWS), (256, 8, 128, 16));
        let tile = |dims, operand| TileSizes::of(Variant::new(dims, operand));
        let short =
            TileSizes { row_bytes: 256, columns: 64, pass_columns: 32, pass_threads: 128, resident: 3, chunk: 128 };
        assert_eq!(tile(128, Operand::Bf16), short);
        assert_eq!(tile(256, Operand::F16), TileSizes { row_bytes: 512, resident: 2, ..short });
        let long = TileSizes { row_bytes: 576, columns: 32, pass_threads: 256, resident: 1, chunk: 64, ..short };
        assert_eq!(tile(288, Operand::Bf16), long);
        assert_eq!(tile(64, Operand::SplitTf32), TileSizes { columns: 32, resident: 2, ..short });
        assert_eq!(tile(128, Operand::Tf32), TileSizes { row_bytes: 512, resident: 2, ..short });
        assert_eq!(tile(128, Operand::SplitTf32), TileSizes { row_bytes: 512, chunk: 128, ..long });
    }
}
