//! The two types of the arithmetic, `f32` and `f64`, and their exponential.

use std::ops::{Add, AddAssign, Div, Mul, Sub};
use std::sync::Mutex;

/// `f32` or `f64`. The arithmetic is `inline(always)`, so that loops over arrays become vector code for the instruction
/// set of the calling function.
pub trait Float:
    Copy
    + Send
    + Sync
    + PartialOrd
    + 'static
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + AddAssign
{
    /// 0
    const ZERO: Self;
    /// 1
    const ONE: Self;
    /// Minus infinity
    const NEG_INFINITY: Self;
    /// Infinity
    const INFINITY: Self;
    /// Largest finite number
    const MAX: Self;
    /// The `exponential` of this number and of any smaller number is 0.
    const EXP_MIN: Self;

    /// Rounds a number to this type.
    fn from_f64(x: f64) -> Self;
    /// Converts to `f64`, exactly.
    fn to_f64(self) -> f64;
    /// `self * a + b`, rounded once.
    fn fused(self, a: Self, b: Self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// The larger of two numbers. If one is NaN, `other`.
    fn larger(self, other: Self) -> Self;
    /// e to the x, for x up to 88 (`f32`) or 709 (`f64`). For larger x the result is undefined. The relative error is
    /// below 2e-7 (`f32`) or 1e-15 (`f64`).
    fn exponential<M: MultiplyAdd>(self) -> Self;
    /// Descending order, for numbers that are not NaN.
    fn descending(a: &Self, b: &Self) -> std::cmp::Ordering;
    /// The memory that [`Spare`](crate::cpu::threads::Spare) keeps between calls.
    fn spare() -> &'static Mutex<Vec<Vec<Self>>>;
}

/// How to multiply and add.
pub trait MultiplyAdd {
    /// `a * b + c`
    fn multiply_add<C: Float>(a: C, b: C, c: C) -> C;
}

/// One instruction, rounded once.
pub struct Fused;

/// Two instructions. Without a fused instruction, `mul_add` is a slow library call.
pub struct TwoSteps;

impl MultiplyAdd for Fused {
    #[inline(always)]
    fn multiply_add<C: Float>(a: C, b: C, c: C) -> C {
        a.fused(b, c)
    }
}

impl MultiplyAdd for TwoSteps {
    #[inline(always)]
    fn multiply_add<C: Float>(a: C, b: C, c: C) -> C {
        a * b + c
    }
}

/// Horner's scheme, highest coefficient first.
#[inline(always)]
fn polynomial<C: Float, M: MultiplyAdd>(x: C, coefficients: &[C]) -> C {
    let mut sum = C::ZERO;
    for &coefficient in coefficients {
        sum = M::multiply_add(sum, x, coefficient);
    }
    sum
}

macro_rules! float {
    ($type:ident, $mantissa:literal, $bias:literal, $exp_min:literal, $ln2_high:literal, $ln2_low:literal, $taylor:expr) => {
        impl Float for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NEG_INFINITY: Self = $type::NEG_INFINITY;
            const INFINITY: Self = $type::INFINITY;
            const MAX: Self = $type::MAX;
            const EXP_MIN: Self = $exp_min;

            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                x as $type
            }

            #[inline(always)]
            fn to_f64(self) -> f64 {
                self.into()
            }

            #[inline(always)]
            fn fused(self, a: Self, b: Self) -> Self {
                self.mul_add(a, b)
            }

            #[inline(always)]
            fn abs(self) -> Self {
                $type::abs(self)
            }

            #[inline(always)]
            fn sqrt(self) -> Self {
                $type::sqrt(self)
            }

            #[inline(always)]
            fn larger(self, other: Self) -> Self {
                if self > other {
                    self
                } else {
                    other
                }
            }

            // exp(x) = 2^n exp(r), with n = round(x / ln 2) and |r| <= ln 2 / 2. exp(r) is a polynomial: the Taylor
            // series for f64, a fitted polynomial of degree 7 for f32. Adding 1.5 * 2^mantissa rounds to an integer,
            // and leaves n in the low bits.
            #[inline(always)]
            fn exponential<M: MultiplyAdd>(self) -> Self {
                const ROUND: $type = 1.5 * (1u64 << $mantissa) as $type;
                let x = if self > Self::EXP_MIN { self } else { Self::EXP_MIN };
                let shifted = M::multiply_add(x, std::$type::consts::LOG2_E, ROUND);
                let n = shifted - ROUND;
                // ln 2 is split in two parts, so that r is accurate.
                let r = M::multiply_add(n, -$ln2_high, x);
                let r = M::multiply_add(n, -$ln2_low, r);
                let power = $type::from_bits((shifted.to_bits() << $mantissa).wrapping_add($bias << $mantissa));
                let value = polynomial::<$type, M>(r, &$taylor) * power;
                if self > Self::EXP_MIN {
                    value
                } else {
                    0.0
                }
            }

            #[inline(always)]
            fn descending(a: &Self, b: &Self) -> std::cmp::Ordering {
                b.total_cmp(a)
            }

            fn spare() -> &'static Mutex<Vec<Vec<Self>>> {
                static SPARE: Mutex<Vec<Vec<$type>>> = Mutex::new(Vec::new());
                &SPARE
            }
        }
    };
}

float!(
    f32,
    23,
    127,
    -87.0,
    0.693_145_75,
    1.428_606_8e-6,
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5, 1.0, 1.0]
);
float!(
    f64,
    52,
    1023,
    -708.0,
    0.693_147_180_369_123_8,
    1.908_214_929_270_587_7e-10,
    [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0
    ]
);

#[cfg(test)]
mod tests {
    use super::*;

    fn worst<C: Float, M: MultiplyAdd>(low: f64, high: f64) -> f64 {
        (0..=200_000)
            .map(|i| {
                let x = C::from_f64(low + (high - low) * f64::from(i) / 200_000.0);
                (x.exponential::<M>().to_f64() / x.to_f64().exp() - 1.0).abs()
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn exponential_is_exact_to_rounding() {
        assert!(worst::<f32, Fused>(-86.9, 20.0) < 1.2e-7);
        assert!(worst::<f32, TwoSteps>(-86.9, 20.0) < 2.0e-7);
        assert!(worst::<f64, Fused>(-707.0, 100.0) < 1e-15);
        assert!(worst::<f64, TwoSteps>(-707.0, 100.0) < 1e-15);
    }

    #[test]
    fn exponential_of_very_little_is_zero() {
        assert_eq!(f32::NEG_INFINITY.exponential::<Fused>(), 0.0);
        assert_eq!((-200.0f32).exponential::<TwoSteps>(), 0.0);
        assert_eq!(f64::NEG_INFINITY.exponential::<Fused>(), 0.0);
        assert_eq!(0.0f32.exponential::<Fused>(), 1.0);
        assert_eq!(0.0f64.exponential::<Fused>(), 1.0);
    }
}
