//! What one compilation of the kernels is for.

use super::hopper::Hopper;
use super::Scalar;

/// Largest padded dimension that the kernels take in 16-bit operands; half of it in 32-bit ones.
pub const MAX_DIMS: usize = 512;

/// The CUDA sources, one after the other: what a compilation reads.
pub const SOURCES: &str = concat!(
    include_str!("kernels/device.cu"),
    include_str!("kernels/parameters.cu"),
    include_str!("kernels/rows.cu"),
    include_str!("kernels/tile.cu"),
    include_str!("kernels/select.cu"),
    include_str!("kernels/sums.cu"),
    include_str!("kernels/anchors.cu"),
    include_str!("kernels/gradient.cu"),
    include_str!("kernels/hopper_device.cu"),
    include_str!("kernels/hopper.cu"),
    include_str!("kernels/hopper_sums.cu"),
    include_str!("kernels/hopper_select.cu"),
    include_str!("kernels/hopper_gradient.cu"),
);

/// What the tensor cores multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operand {
    /// bfloat16 rows as they come.
    Bf16,
    /// float16 rows as they come.
    F16,
    /// float32 rows, rounded to tf32.
    Tf32,
    /// float32 rows, split in two tf32 numbers: three products, and float32's accuracy.
    SplitTf32,
}

impl Operand {
    /// What multiplies rows of a type; none for float64.
    pub fn of(scalar: Scalar, allow_tf32: bool) -> Option<Self> {
        match scalar {
            Scalar::Bf16 => Some(Self::Bf16),
            Scalar::F16 => Some(Self::F16),
            Scalar::F32 if allow_tf32 => Some(Self::Tf32),
            Scalar::F32 => Some(Self::SplitTf32),
            Scalar::F64 => None,
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::Tf32 | Self::SplitTf32 => 4,
        }
    }

    /// The name that the sources know it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::Tf32 => "TF32",
            Self::SplitTf32 => "SPLIT_TF32",
        }
    }
}

/// One compilation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Dimensions, padded to a multiple of 32.
    pub dims: usize,
    /// The operand.
    pub operand: Operand,
    /// With the kernels for sm_90a, and for that architecture alone.
    pub hopper: Option<Hopper>,
}

impl Variant {
    /// For rows of `dims` numbers.
    pub fn new(dims: usize, operand: Operand) -> Self {
        Self { dims: Self::padded(dims), operand, hopper: None }
    }

    /// The dimensions of rows of `dims` numbers in the kernels' memory.
    pub fn padded(dims: usize) -> usize {
        dims.next_multiple_of(32)
    }

    /// What tells it from others of the same dimensions, such as "BF16" or "BF16_WGMMA".
    pub fn name(&self) -> String {
        format!("{}{}", self.operand.name(), if self.hopper.is_some() { "_WGMMA" } else { "" })
    }

    /// Bytes of a row in the kernels' memory.
    pub fn row_bytes(&self) -> usize {
        self.dims * self.operand.bytes()
    }

    /// The compiler's options, besides the architecture's.
    pub fn options(&self) -> Vec<String> {
        let mut options =
            vec![format!("-DDIMS={}", self.dims), format!("-DOPERAND={}", self.operand.name()), "-std=c++17".into()];
        options.extend(self.hopper.iter().flat_map(Hopper::options));
        options
    }
}
