//! The HEX contrastive loss and related losses: forward, backward and adaptive threshold in fused kernels.
//!
//! `problem` describes a computation as plain data, and `operands` lists its inputs. `cpu` computes over borrowed
//! memory, `cuda` over device memory. With the feature `python`, `border` reads the memory of torch's tensors,
//! `dispatch` passes it to a backend, and `python` has the functions that Python calls.

#[cfg(feature = "python")]
mod border;
pub mod cpu;
pub mod cuda;
#[cfg(feature = "python")]
mod dispatch;
pub mod error;
pub mod formula;
pub mod operands;
pub mod problem;
#[cfg(feature = "python")]
mod python;
pub mod statistics;

/// `hex_ssl._core`.
#[cfg(feature = "python")]
#[pyo3::pymodule]
mod _core {
    use pyo3::prelude::*;

    use super::border::{Border, Torch};

    #[pymodule_export]
    use super::python::{
        anchor_formula, backend_for, check, check_settings, cuda_cubin, cuda_failed_rows_at, cuda_ptx, cuda_remarks,
        cuda_rerun_at, cuda_sources, evaluate, requested_backend, row_quantiles, similarity_statistics, usual_views,
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("BORDER", Torch::NAME)?;
        module.add("TORCH_VERSION", Torch::TORCH_VERSION)
    }
}
