//! The element types of the inputs, and the type each is computed in.

use half::{bf16, f16};

use super::simd::Float;

/// An element of the inputs.
pub trait Element: Copy + Send + Sync + 'static {
    /// The type of the arithmetic and of the gradients: `f64` for `f64`, `f32` for the others.
    type Compute: Float;

    /// The type is bfloat16, so that the instructions for bfloat16 multiply the rows as they came, without rounding them.
    const IS_BFLOAT16: bool = false;

    /// Exact.
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
