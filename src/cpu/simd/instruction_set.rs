//! Instruction sets. One source is compiled for AVX-512, for AVX2 and for the target's baseline. The choice is made at
//! run time.

use std::sync::OnceLock;

use super::block::{self, Block};
use super::float::{Float, Fused, MultiplyAdd, TwoSteps};
use super::lanes::LANES;

/// Work that is compiled once for each instruction set. `run` must be `#[inline(always)]`.
pub trait Kernel {
    /// Does the work with the instructions of `S`.
    fn run<S: InstructionSet>(self);
}

/// The operations that differ between instruction sets.
pub trait InstructionSet {
    /// How to multiply and add.
    type Arithmetic: MultiplyAdd;

    /// Computes an 8 x 32 block of a product, in pieces whose sums fit the registers.
    ///
    /// # Safety
    /// As for [`block::pieces`]. The machine must support the instruction set.
    unsafe fn block<C: Float>(block: &Block<C>);

    /// Writes the numbers that are above their bounds to the front of `values`, and their positions to `places`.
    /// Returns their count. The rest of both outputs is undefined.
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
                // Always write the number. The count decides whether it is kept, so there is no branch to mispredict.
                values[kept] = numbers[l];
                places[kept] = l as u32;
                kept += usize::from(numbers[l] > bounds[l]);
            }
        }
        kept
    }
}

/// The instruction sets, in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// The target's baseline, such as SSE2 on x86-64 and NEON on AArch64.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Isa {
    /// The best instruction set of this machine.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::all().into_iter().max().unwrap_or(Self::Portable))
    }

    /// All instruction sets of this machine.
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

    /// Runs `kernel` with this instruction set, which must be one of [`all`](Self::all).
    #[inline]
    pub fn run(self, kernel: impl Kernel) {
        match self {
            Self::Portable => kernel.run::<Portable>(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: This crate gets every `Isa` other than `Portable` from `all` or `best`, which detect the
            // features.
            Self::Avx2 => unsafe { run_avx2(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: As above.
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
        // SAFETY: By the contract of this function.
        unsafe { block::pieces::<C, Self::Arithmetic, 4, 8>(block) }
    }
}

impl InstructionSet for Avx2 {
    type Arithmetic = Fused;

    #[inline(always)]
    unsafe fn block<C: Float>(block: &Block<C>) {
        // 8 of the 16 registers hold sums.
        if size_of::<C>() == 4 {
            // SAFETY: By the contract of this function.
            unsafe { block::pieces::<C, Self::Arithmetic, 4, 16>(block) }
        } else {
            // SAFETY: By the contract of this function.
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
            // SAFETY: By the contract of this function.
            unsafe { block::pieces::<C, Self::Arithmetic, 8, 32>(block) }
        } else {
            // SAFETY: By the contract of this function.
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
            // SAFETY: `C` is `f32`, and every pointer is to 16 elements of 4 bytes. This code runs only inside
            // `run_avx512`, so the machine has AVX-512.
            unsafe {
                let numbers = _mm512_loadu_ps(numbers.as_ptr().cast());
                let mask = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(numbers, _mm512_loadu_ps(bounds.as_ptr().cast()));
                let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                // Compress into a register first, because compressing into memory is many times slower on some
                // machines.
                _mm512_storeu_ps(values.as_mut_ptr().cast(), _mm512_maskz_compress_ps(mask, numbers));
                _mm512_storeu_si512(places.as_mut_ptr().cast(), _mm512_maskz_compress_epi32(mask, lanes));
                mask.count_ones() as usize
            }
        } else {
            Avx2::above(numbers, bounds, values, places)
        }
    }
}
