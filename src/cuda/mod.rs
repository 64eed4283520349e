//! The fused loss on the GPU: what is compiled, which launches compute it, and who launches.
//!
//! Nothing here knows Python or libtorch. The kernels in `kernels/` are CUDA sources without headers, compiled at
//! run time per [`Variant`]. [`evaluate`] turns a problem into launches over raw device pointers; an [`Executor`] carries
//! them out: the driver on a GPU, or the [`Emulator`], which hands them to an interpreter of the
//! kernels' PTX, for the tests.
//!
//! Nothing waits for the device, no launch depends on data, and all memory is the caller's, so that a whole evaluation
//! can be captured in a CUDA graph. Partial sums are added in a fixed order: the same bits run to run.

mod binary;
mod cache;
mod device;
mod driver;
mod emulator;
mod library;
mod memory;
mod nvrtc;
mod parameters;
mod plan;
mod torch;
mod variant;

use std::ffi::c_void;

pub use binary::{cubin, ptx};
pub use device::{Device, Launcher, Module};
pub use emulator::Emulator;
pub use plan::{evaluate, row_quantiles, scratch_bytes, supports};
pub use variant::{Operand, Variant, MAX_DIMS, MAX_VIEWS, SOURCES};

use crate::error::Result;

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

/// A floating-point type in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    /// bfloat16
    Bf16,
    /// float16
    F16,
    /// float32
    F32,
    /// float64; of a threshold on the device only.
    F64,
}

/// A strided matrix in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// Its first element.
    pub pointer: *const c_void,
    /// Elements from one row to the next.
    pub row_stride: i64,
    /// Elements from one column to the next.
    pub dim_stride: i64,
}

/// Device memory that an evaluation reads and writes. Null where the problem has no such array.
#[derive(Debug, Clone)]
pub struct Buffers {
    /// The anchors, one view below the other: matrices of as many rows each.
    pub views: Vec<Matrix>,
    /// The keys, [N, D]; none where the problem is square.
    pub keys: Option<Matrix>,
    /// Each anchor's positive, [M, D], for `Pairing::Apart`.
    pub positives: Option<Matrix>,
    /// The type of the three above.
    pub scalar: Scalar,
    /// int64 [M, P], contiguous, for `Pairing::Indexed`. Values outside [0, N) are no key's, and make the loss NaN.
    pub positive_index: *const i64,
    /// int64 [M], contiguous, for `Pairing::Indexed`. Values outside [0, N): none.
    pub ignored_index: *const i64,
    /// int64 [M], contiguous, for `Threshold::Labels`.
    pub anchor_labels: *const i64,
    /// int64 [N], contiguous, for `Threshold::Labels` where the problem is not square.
    pub key_labels: *const i64,
    /// One number that replaces the value of `Threshold::Cosine`.
    pub epsilon: *const c_void,
    /// The type of it.
    pub epsilon_scalar: Scalar,
    /// float32 [M], contiguous: the loss is the sum of weight times anchor's loss, whatever the reduction.
    pub weights: *const f32,
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
    /// [`scratch_bytes`] bytes, on a multiple of 16.
    pub scratch: *mut c_void,
}

// SAFETY: addresses, which nothing follows but the kernels; `Launcher` and `Emulator` say when.
unsafe impl Send for Buffers {}
// SAFETY: as above.
unsafe impl Sync for Buffers {}
