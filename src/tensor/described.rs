//! What the checks of the operands ask of a tensor.

use crate::error::Result;
use crate::operands::{Described, Scalar};
use crate::torch::{device_name, Device, Element, Kind, Tensor};

impl Described for Tensor {
    fn shape(&self) -> Vec<i64> {
        self.size()
    }

    fn scalar(&self) -> Option<Scalar> {
        match self.f_kind() {
            Ok(Kind::BFloat16) => Some(Scalar::Bf16),
            Ok(Kind::Half) => Some(Scalar::F16),
            Ok(Kind::Float) => Some(Scalar::F32),
            Ok(Kind::Double) => Some(Scalar::F64),
            _ => None,
        }
    }

    fn dtype_name(&self) -> String {
        match (self.scalar(), self.f_kind()) {
            (Some(scalar), _) => scalar.name().into(),
            (None, Ok(Kind::Int)) => "int32".into(),
            (None, Ok(other)) => format!("{other:?}").to_lowercase(),
            (None, Err(_)) => "another dtype".into(),
        }
    }

    fn device_name(&self) -> String {
        device_name(self.device())
    }

    fn is_beside(&self, other: &Self) -> bool {
        self.device() == other.device()
    }

    fn integers(&self) -> Result<Option<Vec<i64>>> {
        (self.device() == Device::Cpu).then(|| values(&self.f_resolve_neg()?.f_contiguous()?)).transpose()
    }
}

/// The elements of a contiguous CPU tensor.
pub(super) fn values<T: Element + Default>(tensor: &Tensor) -> Result<Vec<T>> {
    let mut values = vec![T::default(); tensor.numel()];
    tensor.f_copy_data(&mut values, tensor.numel())?;
    Ok(values)
}
