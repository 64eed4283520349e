//! The border that is not linked against torch. It reads the DLPack struct that torch exports for a tensor.

use std::ffi::{c_void, CStr};
use std::slice;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::GILOnceCell;
use pyo3::types::PyCapsule;

use super::{Array, Border, Device, Dtype};
use crate::operands::Scalar;

/// The border that uses `torch.utils.dlpack.to_dlpack`.
pub struct DlpackBorder;

impl Border for DlpackBorder {
    const NAME: &'static str = "dlpack";
    const TORCH_VERSION: Option<&'static str> = None;
    /// The capsule. Its destructor frees the struct, which holds a reference to the tensor.
    type Owner = Py<PyCapsule>;

    fn array(object: &Bound<'_, PyAny>) -> PyResult<Array<Self::Owner>> {
        let exported = to_dlpack(object.py())?.call1((object,)).map_err(|error| refusal(object, &error))?;
        let capsule = exported.downcast_into::<PyCapsule>()?;
        if capsule.name()? != Some(NAME) {
            return Err(PyTypeError::new_err("expected a DLPack capsule of torch's, but got another"));
        }
        // SAFETY: By DLPack's protocol, a capsule with this name holds a valid `DLManagedTensor`, and `DlTensor` is its
        // first part. The reference is used only while `capsule` is alive.
        let tensor = unsafe { &*capsule.pointer().cast::<DlTensor>() };
        let rank = usize::try_from(tensor.ndim).unwrap_or(0);
        let array = Array {
            pointer: tensor.data.wrapping_byte_add(tensor.byte_offset as usize),
            // SAFETY: By DLPack's protocol, `shape` points to `ndim` numbers.
            shape: unsafe { numbers(tensor.shape, rank) },
            // SAFETY: `strides` points to `ndim` numbers or is null. torch always sets it.
            strides: unsafe { numbers(tensor.strides, rank) },
            dtype: tensor.dtype(),
            device: tensor.device(),
            _owner: capsule.unbind(),
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

/// The name of a capsule that was not consumed yet.
const NAME: &CStr = c"dltensor";

fn to_dlpack(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static FUNCTION: GILOnceCell<Py<PyAny>> = GILOnceCell::new();
    let find = || Ok(py.import("torch.utils.dlpack")?.getattr(intern!(py, "to_dlpack"))?.unbind());
    FUNCTION.get_or_try_init(py, find).map(|function| function.bind(py))
}

/// An exception with the text of torch's own error, for objects that torch does not export: sparse, quantized, nested
/// or meta tensors, and functorch wrappers.
fn refusal(object: &Bound<'_, PyAny>, error: &PyErr) -> PyErr {
    let given = object.get_type().name().map_or_else(|_| "another object".into(), |name| name.to_string());
    let text = format!("expected a dense tensor in memory, but got a {given}: {}", error.value(object.py()));
    if error.is_instance_of::<PyTypeError>(object.py()) {
        PyTypeError::new_err(text)
    } else {
        PyValueError::new_err(text)
    }
}

/// `DLTensor` of dlpack.h, the first part of `DLManagedTensor`. DLPack has not changed this layout since version 0.2.
#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    ndim: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *const i64,
    strides: *const i64,
    byte_offset: u64,
}

impl DlTensor {
    /// The dtype, from the codes of `DLDataTypeCode`.
    fn dtype(&self) -> Dtype {
        match (self.code, self.bits, self.lanes) {
            (2, 64, 1) => Dtype::Float(Scalar::F64),
            (2, 32, 1) => Dtype::Float(Scalar::F32),
            (2, 16, 1) => Dtype::Float(Scalar::F16),
            (4, 16, 1) => Dtype::Float(Scalar::Bf16),
            (0, 64, 1) => Dtype::Int64,
            (1, 8, 1) => Dtype::Uint8,
            (code, bits, _) => {
                let kind = ["int", "uint", "float", "opaque", "bfloat", "complex", "bool"].get(usize::from(code));
                Dtype::Other(match kind {
                    Some(&"bool") => "bool".into(),
                    Some(kind) => format!("{kind}{bits}"),
                    None => format!("another dtype of {bits} bits"),
                })
            }
        }
    }

    /// The device, from the codes of `DLDeviceType`.
    fn device(&self) -> Device {
        match self.device_type {
            1 => Device::Cpu,
            2 => Device::Cuda(usize::try_from(self.device_id).unwrap_or(0)),
            _ => Device::Other,
        }
    }
}

/// Copies `length` numbers. Returns none if `first` is null.
///
/// # Safety
/// `first` must point to `length` numbers or be null.
unsafe fn numbers(first: *const i64, length: usize) -> Vec<i64> {
    if length == 0 || first.is_null() {
        return Vec::new();
    }
    // SAFETY: By the contract of this function.
    unsafe { slice::from_raw_parts(first, length) }.to_vec()
}
