//! The fused loss on a GPU: its kernels, the plan of their launches, and the driver.
//!
//! This module does not use Python or tensors. From torch it uses the library `libtorch_cuda` for the current stream,
//! and the NVRTC that is installed with it. The kernels in `kernels/` are CUDA sources without headers. They are
//! compiled at run time for each [`Variant`] and [`Part`]. [`evaluate`] turns a problem into launches on raw device
//! pointers. An [`Executor`] performs them: the driver on a GPU or, in the tests, the [`Emulator`], which passes them
//! to an interpreter of PTX.
//!
//! Nothing waits for the device, no launch depends on data, and the caller allocates all memory. So a whole evaluation
//! can be captured in a CUDA graph. Partial sums are added in a fixed order, so that the results have the same bits in
//! every run.

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
mod switch;
mod torch;
mod variant;

use std::ffi::c_void;

pub use binary::{cubin, ptx, remarks};
pub use device::{Device, Kernels, Launcher};
pub use emulator::Emulator;
pub use hopper::Hopper;
pub use parameters::{FAILED_AT, RERUN_AT};
pub use plan::{evaluate, parts, row_quantiles, scratch_bytes, supports};
pub use switch::WGMMA;
pub use variant::{Operand, Part, Variant, MAX_DIMS, SOURCES};

use crate::error::Result;
use crate::operands::Operands;
pub use crate::operands::Scalar;

/// The properties of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chip {
    /// The compute capability, major and minor.
    pub capability: (u32, u32),
    /// The number of multiprocessors.
    pub multiprocessors: u32,
    /// The maximal shared memory of a block in bytes, if requested.
    pub shared_bytes: usize,
}

/// Performs launches in order on one stream.
pub trait Executor {
    /// Launches a kernel by name. `arguments` are pointers to its arguments, like `kernelParams` of `cuLaunchKernel`.
    /// They are read before this returns.
    ///
    /// # Errors
    /// [`Error::Runtime`](crate::error::Error::Runtime) if the launch fails.
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
    /// Its address.
    pub pointer: *const c_void,
    /// Its type.
    pub scalar: Scalar,
}

/// A strided matrix in device memory. The kernels have the same structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Matrix {
    /// The address of the first element.
    pub pointer: *const c_void,
    /// Row stride in elements.
    pub row_stride: i64,
    /// Column stride in elements.
    pub dim_stride: i64,
}

/// Device memory that an evaluation reads and writes.
#[derive(Debug, Clone)]
pub struct Buffers {
    /// The operands. All but the matrices are contiguous, and the weights are float32. If a value of `positive_index`
    /// is not in [0, N), the loss is NaN. If one of `ignored_index` is not, no key is ignored. If the temperature is an
    /// operand, that of the problem is NaN.
    pub operands: Operands<Matrix, *const i64, DeviceNumber, *const f32>,
    /// float32, [M] for `Reduction::None` without weights, else one number. Like all outputs, it is overwritten.
    pub loss: *mut f32,
    /// float32 [6], in the order of [`Statistics`](crate::problem::Statistics).
    pub statistics: *mut f32,
    /// float32 [M, D], contiguous. Not used if the gradient is not wanted, like the next two.
    pub anchors_gradient: *mut f32,
    /// float32 [N, D], contiguous.
    pub keys_gradient: *mut f32,
    /// float32 [M, D], contiguous.
    pub positives_gradient: *mut f32,
    /// float32, one number. Null if it is not wanted. It needs the gradient for the anchors.
    pub temperature_gradient: *mut f32,
    /// [`scratch_bytes`] bytes, aligned to 16 bytes.
    pub scratch: *mut c_void,
}

// SAFETY: Only the kernels use the addresses, when `Launcher` or `Emulator` runs them.
unsafe impl Send for Buffers {}
// SAFETY: As above.
unsafe impl Sync for Buffers {}
