//! The choice of the backend for a device and a dtype, and its reason.

use std::sync::Arc;

use crate::cuda::Device;
use crate::error::{Error, Result};
use crate::operands::Scalar;

/// The backend that the caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The fused kernels if there are any for the call, else torch's operations.
    Auto,
    /// The kernel of this crate for CPU tensors.
    Cpu,
    /// The kernels of this crate for CUDA tensors.
    Cuda,
    /// torch's operations, on any device.
    Composite,
    /// An emulator that runs the CUDA kernels on CPU tensors, for tests.
    Emulated,
}

/// The chosen backend.
pub enum Choice {
    /// The kernel for CPU tensors.
    Cpu,
    /// The kernels for CUDA tensors.
    Cuda(Arc<Device>),
    /// The kernels for CUDA tensors in the emulator.
    Emulated,
    /// torch's operations, with the reason.
    Composite(String),
}

impl Backend {
    /// The backend that runs on tensors of a device and a dtype.
    ///
    /// # Errors
    /// [`Error::Value`] if the backend does not run on the device, [`Error::Runtime`] if CUDA is asked for but fails.
    pub fn choose(self, device: &str, scalar: Scalar) -> Result<Choice> {
        let on_cpu = device == "cpu";
        match (self, cuda_ordinal(device)) {
            (Self::Cpu, _) if !on_cpu => Err(wrong_device("CPU", "cpu", device)),
            (Self::Emulated, _) if !on_cpu => Err(wrong_device("CPU", "emulated", device)),
            (Self::Cuda, None) => Err(wrong_device("CUDA", "cuda", device)),
            (Self::Cuda, Some(ordinal)) => Ok(Choice::Cuda(Device::get(ordinal)?)),
            (Self::Emulated, _) => Ok(Choice::Emulated),
            (Self::Composite, _) => Ok(Choice::Composite("asked for".into())),
            (Self::Cpu, _) => Ok(Choice::Cpu),
            (Self::Auto, _) if on_cpu => Ok(Choice::Cpu),
            (Self::Auto, Some(_)) if scalar == Scalar::F64 => {
                Ok(Choice::Composite("float64 has no fused kernel on GPUs".into()))
            }
            (Self::Auto, Some(ordinal)) => Ok(match Device::get(ordinal) {
                Ok(found) => Choice::Cuda(found),
                Err(error) => Choice::Composite(format!("no fused kernel for {device}: {error}")),
            }),
            (Self::Auto, None) => Ok(Choice::Composite(format!("no fused kernel for {device}"))),
        }
    }
}

impl Choice {
    /// The name of the backend, and the reason for the choice.
    pub fn describe(&self, asked: Backend) -> (&'static str, String) {
        let (name, reason) = match self {
            Self::Cpu => ("cpu", "the fused kernel runs on CPU tensors".into()),
            Self::Cuda(device) => ("cuda", device.describe()),
            Self::Emulated => ("emulated", String::new()),
            Self::Composite(reason) => ("composite", format!("torch's operations, in chunks: {reason}")),
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
