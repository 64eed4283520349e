//! The fused loss on the GPU: what is compiled, which launches compute it, and who launches.
//!
//! Nothing here knows Python or tensors. Of torch, it knows the library `libtorch_cuda`: it gives the current stream,
//! and NVRTC is installed beside it. The kernels in `kernels/` are CUDA sources without headers, compiled at run time
//! per [`Variant`] and [`Part`]. [`evaluate`] turns a problem into launches over raw device pointers; an [`Executor`]
//! carries them out: the driver on a GPU, or the [`Emulator`], which hands them to an interpreter of the kernels' PTX,
//! for the tests.
//!
//! Nothing waits for the device, no launch depends on data, and all memory is the caller's, so that a whole evaluation
//! can be captured in a CUDA graph. Partial sums are added in a fixed order: the same bits run to run.

mod binary;
mod cache;
mod device;
mod driver;
mod emulator;
mod hopper;
mod library;
mod memo;
mod memory;
mod nvrtc;
mod parameters;
mod plan;
mod search;
mod sizes;
mod torch;
mod variant;

use std::ffi::c_void;

pub use binary::{cubin, ptx, remarks};
pub use device::{Device, Kernels, Launcher};
pub use emulator::Emulator;
pub use hopper::{is_asked_for as hopper_is_asked_for, Hopper};
pub use plan::{evaluate, parts, row_quantiles, scratch_bytes, supports};
pub use sizes::FAILED_AT;
pub use variant::{Operand, Part, Variant, MAX_DIMS, SOURCES};

use crate::error::Result;
use crate::operands::Operands;
pub use crate::operands::Scalar;

/// What a GPU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chip {
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Number of multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory a block may have, opted in, in bytes.
    pub shared_bytes: usize,
}

/// Carries out launches, one after the other, on one stream.
pub trait Executor {
    /// Launches a kernel by name. `arguments` are pointers to its arguments, as `cuLaunchKernel`'s `kernelParams`; they
    /// are read before this returns.
    ///
    /// # Errors
    /// [`Error::Runtime`](crate::error::Error::Runtime) where the launch is refused.
    fn launch(
        &self,
        kernel: &str,
        grid: [u32; 3],
        block: u32,
        shared_bytes: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<()>;
}

/// A number in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceNumber {
    /// Where it is.
    pub pointer: *const c_void,
    /// Its type.
    pub scalar: Scalar,
}

/// A strided matrix in device memory, as the kernels are told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Matrix {
    /// Its first element.
    pub pointer: *const c_void,
    /// Elements from one row to the next.
    pub row_stride: i64,
    /// Elements from one column to the next.
    pub dim_stride: i64,
}

/// Device memory that an evaluation reads and writes.
#[derive(Debug, Clone)]
pub struct Buffers {
    /// All contiguous but the matrices; the weights are float32. Values of `positive_index` outside [0, N) are no key's, and
    /// make the loss NaN; such values of `ignored_index` mean none.
    pub operands: Operands<Matrix, *const i64, DeviceNumber, *const f32>,
    /// float32: [M] for `Reduction::None` without weights, else one number. Overwritten, as all outputs.
    pub loss: *mut f32,
    /// float32 [6], in the order of [`Statistics`](crate::problem::Statistics).
    pub statistics: *mut f32,
    /// float32 [M, D], contiguous; not read where not wanted, as the next two.
    pub anchors_gradient: *mut f32,
    /// float32 [N, D], contiguous.
    pub keys_gradient: *mut f32,
    /// float32 [M, D], contiguous.
    pub positives_gradient: *mut f32,
    /// float32, one number; null where it is not wanted. It needs the gradient of the anchors.
    pub temperature_gradient: *mut f32,
    /// [`scratch_bytes`] bytes, on a multiple of 16.
    pub scratch: *mut c_void,
}

// SAFETY: addresses that only the kernels follow, when `Launcher` or `Emulator` runs them.
unsafe impl Send for Buffers {}
// SAFETY: as above.
unsafe impl Sync for Buffers {}
