//! The HEX contrastive loss and its relatives: forward, backward and adaptive threshold in one.
//!
//! `problem` says in plain data what to compute, `operands` lists from what, `cpu` computes it over borrowed memory, `cuda`
//! over device memory.
//! With the feature `python`, `composite` computes the same from torch's operations, `tensor` lends tensors to the
//! backends, `torch` is the border to torch and `python` that to Python.

#[cfg(feature = "python")]
mod composite;
pub mod cpu;
pub mod cuda;
pub mod error;
pub mod formula;
pub mod operands;
pub mod problem;
#[cfg(feature = "python")]
mod python;
pub mod statistics;
#[cfg(feature = "python")]
mod tensor;
#[cfg(feature = "python")]
mod torch;

/// `hex_ssl._core`.
#[cfg(feature = "python")]
#[pyo3::pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::python::{
        backend_for, cuda_cubin, cuda_ptx, cuda_sources, evaluate, fallbacks, row_quantiles, similarity_statistics,
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("BORDER", super::torch::BORDER)?;
        module.add("TORCH_VERSION", super::torch::TORCH_VERSION)
    }
}
