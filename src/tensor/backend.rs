//! Which backend runs on which tensors, and why.

use std::sync::Arc;

use crate::cuda::{Device, Scalar};
use crate::error::{Error, Result};

/// Who computes, as the caller asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The fused kernels where they can, libtorch's operations elsewhere.
    Auto,
    /// The kernel of this crate for CPU tensors.
    Cpu,
    /// The kernels of this crate for CUDA tensors.
    Cuda,
    /// libtorch's operations, on any device.
    Composite,
    /// The kernels for CUDA tensors on CPU tensors, for tests.
    Emulated,
}

/// Who computes on a device.
pub enum Choice {
    /// The kernel for CPU tensors.
    Cpu,
    /// The kernels for CUDA tensors.
    Cuda(Arc<Device>),
    /// The same, emulated.
    Emulated,
    /// libtorch's operations.
    Composite(Reason),
}

/// Why libtorch's operations compute.
pub enum Reason {
    /// The caller asked for them.
    Asked,
    /// float64 has no kernel on GPUs. This is documented, and gives no warning.
    Float64,
    /// There is no kernel: why, in words.
    Lacking(String),
}

impl Backend {
    /// The backend that runs on tensors of a device and a dtype.
    ///
    /// # Errors
    /// [`Error::Value`] where a kernel is asked for and does not run there, [`Error::Runtime`] where it cannot.
    pub fn choose(self, device: &str, scalar: Scalar) -> Result<Choice> {
        let on_cpu = device == "cpu";
        match (self, cuda_ordinal(device)) {
            (Self::Cpu, _) if !on_cpu => Err(wrong_device("CPU", "cpu", device)),
            (Self::Emulated, _) if !on_cpu => Err(wrong_device("CPU", "emulated", device)),
            (Self::Cuda, None) => Err(wrong_device("CUDA", "cuda", device)),
            (Self::Cuda, Some(ordinal)) => Ok(Choice::Cuda(Device::get(ordinal)?)),
            (Self::Emulated, _) => Ok(Choice::Emulated),
            (Self::Composite, _) => Ok(Choice::Composite(Reason::Asked)),
            (Self::Cpu, _) => Ok(Choice::Cpu),
            (Self::Auto, _) if on_cpu => Ok(Choice::Cpu),
            (Self::Auto, Some(_)) if scalar == Scalar::F64 => Ok(Choice::Composite(Reason::Float64)),
            (Self::Auto, Some(ordinal)) => Ok(match Device::get(ordinal) {
                Ok(found) => Choice::Cuda(found),
                Err(error) => Choice::Composite(Reason::Lacking(format!("no fused kernel for {device}: {error}"))),
            }),
            (Self::Auto, None) => Ok(Choice::Composite(Reason::Lacking(format!("no fused kernel for {device}")))),
        }
    }
}

impl Choice {
    /// The backend's name, and why it runs, in words.
    pub fn describe(&self, asked: Backend) -> (&'static str, String) {
        let composite = |reason: &str| format!("libtorch's operations, in chunks: {reason}");
        let (name, reason) = match self {
            Self::Cpu => ("cpu", "the fused kernel runs on CPU tensors".into()),
            Self::Cuda(device) => ("cuda", device.describe()),
            Self::Emulated => ("emulated", String::new()),
            Self::Composite(Reason::Lacking(reason)) => ("composite", composite(reason)),
            Self::Composite(_) => ("composite", composite("float64 has no fused kernel on GPUs")),
        };
        (name, if asked == Backend::Auto { reason } else { "asked for".into() })
    }
}

/// The number in "cuda:1"; 0 for "cuda".
fn cuda_ordinal(device: &str) -> Option<usize> {
    match device.strip_prefix("cuda")? {
        "" => Some(0),
        number => number.strip_prefix(':')?.parse().ok(),
    }
}

fn wrong_device(expected: &str, backend: &str, device: &str) -> Error {
    Error::value(format!("expected {expected} tensors for `backend` {backend:?}, but got tensors on {device}"))
}
