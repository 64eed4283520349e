//! The border that is not linked against torch. It reads the DLPack struct that torch fills or exports for a tensor.

use std::ffi::{c_int, c_void, CStr};
use std::mem::MaybeUninit;
use std::slice;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::GILOnceCell;
use pyo3::types::PyCapsule;

use super::{Array, Border, Device, Dtype};
use crate::operands::Scalar;

/// The border that uses DLPack: its exchange functions where torch has them (2.10 and later), else
/// `torch.utils.dlpack.to_dlpack`, which makes a capsule for each tensor.
pub struct DlpackBorder;

impl Border for DlpackBorder {
    const NAME: &'static str = "dlpack";
    const TORCH_VERSION: Option<&'static str> = None;
    /// The tensor, or the capsule, whose destructor frees the struct with a reference to the tensor.
    type Owner = Py<PyAny>;

    fn array(object: &Bound<'_, PyAny>) -> PyResult<Array<Self::Owner>> {
        // Only the capsule's errors tell why torch does not export a tensor.
        let array = match borrowed(object) {
            Some(array) => array,
            None => exported(object)?,
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

/// The array of a tensor, by torch's exchange functions. None if torch has none, or refuses the object.
fn borrowed(object: &Bound<'_, PyAny>) -> Option<Array<Py<PyAny>>> {
    let fill = fill(object.py())?;
    let mut tensor = MaybeUninit::uninit();
    // SAFETY: torch's function takes any Python object, and fills the struct unless it fails.
    if unsafe { fill(object.as_ptr().cast(), tensor.as_mut_ptr()) } != 0 {
        drop(PyErr::take(object.py()));
        return None;
    }
    // SAFETY: torch has filled the struct. The shape and the strides that it points to live as long as the tensor.
    Some(unsafe { tensor.assume_init_ref().array(object.clone().unbind()) })
}

/// The array of a tensor, by a capsule.
fn exported(object: &Bound<'_, PyAny>) -> PyResult<Array<Py<PyAny>>> {
    let exported = to_dlpack(object.py())?.call1((object,)).map_err(|error| refusal(object, &error))?;
    let capsule = exported.downcast_into::<PyCapsule>()?;
    if capsule.name()? != Some(NAME) {
        return Err(PyTypeError::new_err("expected a DLPack capsule of torch's, but got another"));
    }
    // SAFETY: By DLPack's protocol, a capsule with this name holds a valid `DLManagedTensor`, and `DlTensor` is its
    // first part. The reference is used only while `capsule` is alive.
    let tensor = unsafe { &*capsule.pointer().cast::<DlTensor>() };
    // SAFETY: As above, for the shape and the strides.
    Ok(unsafe { tensor.array(capsule.unbind().into_any()) })
}

/// The name of a capsule that was not consumed yet.
const NAME: &CStr = c"dltensor";
/// The name of the capsule with the exchange functions.
const EXCHANGE: &CStr = c"dlpack_exchange_api";

fn to_dlpack(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static FUNCTION: GILOnceCell<Py<PyAny>> = GILOnceCell::new();
    let find = || Ok(py.import("torch.utils.dlpack")?.getattr(intern!(py, "to_dlpack"))?.unbind());
    FUNCTION.get_or_try_init(py, find).map(|function| function.bind(py))
}

/// Fills a struct for a Python tensor, without a reference to it. Returns 0, or -1 with an exception set.
type Fill = unsafe extern "C" fn(*mut c_void, *mut DlTensor) -> c_int;

/// torch's function that fills a struct, if torch has one.
fn fill(py: Python<'_>) -> Option<Fill> {
    static FUNCTION: GILOnceCell<Option<Fill>> = GILOnceCell::new();
    let find = || -> PyResult<Option<Fill>> {
        let api = py.import("torch")?.getattr("Tensor")?.getattr("__dlpack_c_exchange_api__")?;
        let capsule = api.downcast_into::<PyCapsule>()?;
        if capsule.name()? != Some(EXCHANGE) {
            return Ok(None);
        }
        // SAFETY: By DLPack's protocol, a capsule with this name holds the struct, which lives as long as the process.
        let api = unsafe { &*capsule.pointer().cast::<ExchangeApi>() };
        Ok(api.fill.filter(|_| api.major == 1))
    };
    *FUNCTION.get_or_init(py, || find().unwrap_or(None))
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

/// `DLPackExchangeAPI` of dlpack.h, version 1. The header's first part is the same in all versions.
#[repr(C)]
struct ExchangeApi {
    major: u32,
    minor: u32,
    previous: *const c_void,
    allocate: *const c_void,
    export: *const c_void,
    import: *const c_void,
    fill: Option<Fill>,
    stream: *const c_void,
}

impl DlTensor {
    /// The array that this struct describes.
    ///
    /// # Safety
    /// `shape` must point to `ndim` numbers, and `strides` too unless it is null. `owner` keeps the memory alive.
    unsafe fn array(&self, owner: Py<PyAny>) -> Array<Py<PyAny>> {
        let rank = usize::try_from(self.ndim).unwrap_or(0);
        Array {
            pointer: self.data.wrapping_byte_add(self.byte_offset as usize),
            // SAFETY: By the contract of this function.
            shape: unsafe { numbers(self.shape, rank) },
            // SAFETY: As above. torch always sets the strides.
            strides: unsafe { numbers(self.strides, rank) },
            dtype: self.dtype(),
            device: self.device(),
            _owner: owner,
        }
    }

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
