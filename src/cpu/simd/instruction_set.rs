//! Instruction sets: one source, compiled for AVX-512, AVX2 and whatever the target has anyway, chosen at run time.

use std::sync::OnceLock;

use super::block::{self, Block};
use super::float::{Float, Fused, MultiplyAdd, TwoSteps};
use super::lanes::LANES;

/// A piece of work that is compiled once for each instruction set. `run` must be `#[inline(always)]`.
pub trait Kernel {
    /// Does the work with the code of `S`.
    fn run<S: InstructionSet>(self);
}

/// What differs between instruction sets.
pub trait InstructionSet {
    /// How it multiplies and adds.
    type Arithmetic: MultiplyAdd;

    /// An 8 x 32 block of a product, in pieces whose sums fit the registers.
    ///
    /// # Safety
    /// As [`block::piece`], for 8 rows and 32 columns.
    unsafe fn block<C: Float>(block: &Block<C>);

    /// Writes those of 16 numbers that are above their bounds to the front of `values`, and where they stand to `places`;
    /// how many they are. What is behind them in the outputs afterwards has no meaning.
    #[inline(always)]
    fn above<C: Float>(
        numbers: &[C; LANES],
        bounds: &[C; LANES],
        values: &mut [C; LANES],
        places: &mut [u32; LANES],
    ) -> usize {
        let mut any = false;
        for l in 0..LANES {
            any |= numbers[l] > bounds[l];
        }
        let mut kept = 0;
        if any {
            for l in 0..LANES {
                // Written in any case and kept by the count: no branch to mispredict.
                values[kept] = numbers[l];
                places[kept] = l as u32;
                kept += usize::from(numbers[l] > bounds[l]);
            }
        }
        kept
    }
}

/// The instruction sets at hand, best last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// The target's own: SSE2 on x86-64, NEON on AArch64.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Isa {
    /// The best of this machine.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::all().into_iter().max().unwrap_or(Self::Portable))
    }

    /// All that this machine has.
    pub fn all() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Self::Avx2);
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                all.push(Self::Avx512);
            }
        }
        all
    }

    /// Runs `kernel` with this instruction set's code.
    #[inline]
    pub fn run(self, kernel: impl Kernel) {
        match self {
            Self::Portable => kernel.run::<Portable>(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` other than Portable comes from `all`, which detected the features.
            Self::Avx2 => unsafe { run_avx2(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Avx512 => unsafe { run_avx512(kernel) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => kernel.run::<Portable>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2(kernel: impl Kernel) {
    kernel.run::<Avx2>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
fn run_avx512(kernel: impl Kernel) {
    kernel.run::<Avx512>();
}

struct Portable;
struct Avx2;
struct Avx512;

impl InstructionSet for Portable {
    #[cfg(any(target_arch = "aarch64", target_feature = "fma"))]
    type Arithmetic = Fused;
    #[cfg(not(any(target_arch = "aarch64", target_feature = "fma")))]
    type Arithmetic = TwoSteps;

    #[inline(always)]
    unsafe fn block<C: Float>(block: &Block<C>) {
        // SAFETY: the caller promises the block that `pieces` asks for.
        unsafe { block::pieces::<C, Self::Arithmetic, 4, 8>(block) }
    }
}

impl InstructionSet for Avx2 {
    type Arithmetic = Fused;

    #[inline(always)]
    unsafe fn block<C: Float>(block: &Block<C>) {
        // 8 of the 16 registers hold sums.
        if size_of::<C>() == 4 {
            // SAFETY: the caller promises the block that `pieces` asks for.
            unsafe { block::pieces::<C, Self::Arithmetic, 4, 16>(block) }
        } else {
            // SAFETY: the caller promises the block that `pieces` asks for.
            unsafe { block::pieces::<C, Self::Arithmetic, 4, 8>(block) }
        }
    }
}

impl InstructionSet for Avx512 {
    type Arithmetic = Fused;

    #[inline(always)]
    unsafe fn block<C: Float>(block: &Block<C>) {
        // 16 of the 32 registers hold sums.
        if size_of::<C>() == 4 {
            // SAFETY: the caller promises the block that `pieces` asks for.
            unsafe { block::pieces::<C, Self::Arithmetic, 8, 32>(block) }
        } else {
            // SAFETY: the caller promises the block that `pieces` asks for.
            unsafe { block::pieces::<C, Self::Arithmetic, 8, 16>(block) }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn above<C: Float>(
        numbers: &[C; LANES],
        bounds: &[C; LANES],
        values: &mut [C; LANES],
        places: &mut [u32; LANES],
    ) -> usize {
        use std::arch::x86_64::*;
        if size_of::<C>() == 4 {
            // SAFETY: `C` is `f32`, every pointer is to 16 numbers of 4 bytes, and code of this set runs where `Isa` found it.
            unsafe {
                let numbers = _mm512_loadu_ps(numbers.as_ptr().cast());
                let mask = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(numbers, _mm512_loadu_ps(bounds.as_ptr().cast()));
                let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                // To a register first: compressed straight to memory is many times slower on some machines.
                _mm512_storeu_ps(values.as_mut_ptr().cast(), _mm512_maskz_compress_ps(mask, numbers));
                _mm512_storeu_si512(places.as_mut_ptr().cast(), _mm512_maskz_compress_epi32(mask, lanes));
                mask.count_ones() as usize
            }
        } else {
            Avx2::above(numbers, bounds, values, places)
        }
    }
}
