//! The border that is linked against libtorch. It uses tch and pyo3-tch.

use ::tch::{Device as TchDevice, Kind, Tensor};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3_tch::PyTensor;

use super::{Array, Border, Device, Dtype};
use crate::operands::Scalar;

/// The border that uses tch's `Tensor`.
pub struct TchBorder;

impl Border for TchBorder {
    const NAME: &'static str = "tch";
    const TORCH_VERSION: Option<&'static str> = Some("2.11.0");
    /// A reference to the tensor.
    type Owner = Tensor;

    fn array(object: &Bound<'_, PyAny>) -> PyResult<Array<Self::Owner>> {
        let PyTensor(tensor) = object.extract()?;
        if tensor.is_sparse() || tensor.is_mkldnn() {
            return Err(PyValueError::new_err("expected a dense tensor in memory, but got a sparse one"));
        }
        let array = Array {
            pointer: tensor.data_ptr(),
            shape: tensor.size(),
            strides: tensor.stride(),
            dtype: dtype(tensor.f_kind()),
            device: device(tensor.device()),
            _owner: tensor,
        };
        if array.pointer.is_null() && array.len() > 0 {
            return Err(PyValueError::new_err(format!(
                "expected a tensor with memory of its own, but got a {} without",
                object.get_type().name()?
            )));
        }
        Ok(array)
    }
}

fn dtype(kind: Result<Kind, ::tch::TchError>) -> Dtype {
    match kind {
        Ok(Kind::Double) => Dtype::Float(Scalar::F64),
        Ok(Kind::Float) => Dtype::Float(Scalar::F32),
        Ok(Kind::BFloat16) => Dtype::Float(Scalar::Bf16),
        Ok(Kind::Half) => Dtype::Float(Scalar::F16),
        Ok(Kind::Int64) => Dtype::Int64,
        Ok(Kind::Uint8) => Dtype::Uint8,
        Ok(Kind::Int) => Dtype::Other("int32".into()),
        Ok(other) => Dtype::Other(format!("{other:?}").to_lowercase()),
        Err(_) => Dtype::Other("another dtype".into()),
    }
}

fn device(device: TchDevice) -> Device {
    match device {
        TchDevice::Cpu => Device::Cpu,
        TchDevice::Cuda(index) => Device::Cuda(index),
        _ => Device::Other,
    }
}
