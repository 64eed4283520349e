//! The border that is linked against libtorch, through tch.

use std::ffi::c_void;

pub use ::tch::kind::Element;
pub use ::tch::{get_num_threads, Device, Kind, NoGradGuard, Tensor};
use pyo3::marker::Ungil;
use pyo3::Python;
pub use pyo3_tch::PyTensor;

use crate::error::{Error, Result};

/// What the extension calls this border.
pub const BORDER: &str = "tch";

/// The torch release whose libtorch the extension is linked against.
pub const TORCH_VERSION: Option<&str> = Some("2.11.0");

/// Runs work on tensors. libtorch needs no GIL.
pub fn on_tensors<T: Ungil + Send>(py: Python<'_>, work: impl FnOnce() -> T + Ungil + Send) -> T {
    py.allow_threads(work)
}

/// Runs long work on memory alone, within work on tensors.
pub fn on_memory<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    work()
}

/// Records no gradients for as long as it lives.
///
/// # Errors
/// None: the other border's.
pub fn no_grad_guard() -> Result<NoGradGuard> {
    Ok(::tch::no_grad_guard())
}

/// Where a tensor's elements are.
///
/// # Errors
/// [`Error::Runtime`] where it has no memory.
pub fn address(tensor: &Tensor) -> Result<*mut c_void> {
    let address = tensor.data_ptr();
    if address.is_null() && tensor.numel() > 0 {
        return Err(Error::runtime("expected a tensor with memory, but got one without"));
    }
    Ok(address)
}

/// A device as torch writes it.
pub fn device_name(device: Device) -> String {
    match device {
        Device::Cpu => "cpu".into(),
        Device::Cuda(index) => format!("cuda:{index}"),
        // tch's answer for every other accelerator as well.
        Device::Mps => "an accelerator without CUDA".into(),
        Device::Vulkan => "vulkan".into(),
    }
}

impl From<::tch::TchError> for Error {
    fn from(error: ::tch::TchError) -> Self {
        Self::runtime(error.to_string())
    }
}
