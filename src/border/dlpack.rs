//! The border that is linked against no torch: a tensor as the DLPack struct that torch makes of it.

use std::ffi::{c_void, CStr};
use std::slice;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::GILOnceCell;
use pyo3::types::PyCapsule;

use super::{Array, Border, Device, Dtype};
use crate::operands::Scalar;

/// By `torch.utils.dlpack.to_dlpack`.
pub struct DlpackBorder;

impl Border for DlpackBorder {
    const NAME: &'static str = "dlpack";
    const TORCH_VERSION: Option<&'static str> = None;
    /// The capsule: its destructor gives the struct back, and with it the reference to the tensor.
    type Owner = Py<PyCapsule>;

    fn array(object: &Bound<'_, PyAny>) -> PyResult<Array<Self::Owner>> {
        let exported = to_dlpack(object.py())?.call1((object,)).map_err(|error| refusal(object, &error))?;
        let capsule = exported.downcast_into::<PyCapsule>()?;
        if capsule.name()? != Some(NAME) {
            return Err(PyTypeError::new_err("expected a DLPack capsule of torch's, but got another"));
        }
        // SAFETY: by DLPack's protocol a capsule of this name holds a valid `DLManagedTensor`, of which this is the first
        // part. It is read while `capsule` lives.
        let tensor = unsafe { &*capsule.pointer().cast::<DlTensor>() };
        let rank = usize::try_from(tensor.ndim).unwrap_or(0);
        let array = Array {
            pointer: tensor.data.wrapping_byte_add(tensor.byte_offset as usize),
            // SAFETY: DLPack's lists have `ndim` numbers each; torch always gives strides.
            shape: unsafe { numbers(tensor.shape, rank) },
            // SAFETY: as above.
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

/// The name of a capsule that nobody has consumed.
const NAME: &CStr = c"dltensor";

fn to_dlpack(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static FUNCTION: GILOnceCell<Py<PyAny>> = GILOnceCell::new();
    let find = || Ok(py.import("torch.utils.dlpack")?.getattr(intern!(py, "to_dlpack"))?.unbind());
    FUNCTION.get_or_try_init(py, find).map(|function| function.bind(py))
}

/// torch's own words, behind what was expected: a sparse, quantized or nested tensor, a meta tensor, a functorch wrapper.
fn refusal(object: &Bound<'_, PyAny>, error: &PyErr) -> PyErr {
    let given = object.get_type().name().map_or_else(|_| "another object".into(), |name| name.to_string());
    let text = format!("expected a dense tensor in memory, but got a {given}: {}", error.value(object.py()));
    if error.is_instance_of::<PyTypeError>(object.py()) {
        PyTypeError::new_err(text)
    } else {
        PyValueError::new_err(text)
    }
}

/// `DLTensor` of dlpack.h, the first part of `DLManagedTensor`, in the layout that DLPack has had since version 0.2.
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
    /// By `DLDataTypeCode`.
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

    /// By `DLDeviceType`.
    fn device(&self) -> Device {
        match self.device_type {
            1 => Device::Cpu,
            2 => Device::Cuda(usize::try_from(self.device_id).unwrap_or(0)),
            _ => Device::Other,
        }
    }
}

/// A copy of `length` numbers.
///
/// # Safety
/// `first` must point to as many, or be null where there are none.
unsafe fn numbers(first: *const i64, length: usize) -> Vec<i64> {
    if length == 0 || first.is_null() {
        return Vec::new();
    }
    // SAFETY: by the caller.
    unsafe { slice::from_raw_parts(first, length) }.to_vec()
}
