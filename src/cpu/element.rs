//! The element types of the inputs, and the type of the arithmetic for each.

use half::{bf16, f16};

use super::simd::Float;

/// An element of the inputs.
pub trait Element: Copy + Send + Sync + 'static {
    /// The type of the arithmetic and of the gradients: `f64` for `f64`, `f32` for the others.
    type Compute: Float;

    /// Whether the type is bfloat16. The instructions for bfloat16 can then multiply the rows without rounding them.
    const IS_BFLOAT16: bool = false;

    /// Converts to the type of the arithmetic, exactly.
    fn widen(self) -> Self::Compute;
}

impl Element for f32 {
    type Compute = f32;

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Element for f64 {
    type Compute = f64;

    #[inline(always)]
    fn widen(self) -> f64 {
        self
    }
}

impl Element for f16 {
    type Compute = f32;

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Element for bf16 {
    type Compute = f32;
    const IS_BFLOAT16: bool = true;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}
